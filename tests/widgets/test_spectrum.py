"""Spectra on show: calibrated, windowed, under the cursor, of the run, and out again as a file."""

from __future__ import annotations

import csv
import threading

import numpy as np
import pytest
from qtpy.QtCore import QPointF

from napari_smarttem.schema import Acquire, Axis, BadInput, Frame, StepResult, image_frame, spectrum_frame
from napari_smarttem.widgets import base, layers
from napari_smarttem.widgets.energy_windows import windows_of
from napari_smarttem.widgets.spectrum import CURSOR, NEWEST, SELECTED, SpectrumPlot
from napari_smarttem.widgets.spectrum_sources import SingleSpectra, SpectrumImage, open_spectra

from .conftest import propose

pytestmark = pytest.mark.gui

ROWS, COLUMNS, CHANNELS = 10, 12, 64


def spectrum(peak=20, scale=1.0):
    counts = np.zeros(CHANNELS)
    counts[peak] = 100 * scale
    return spectrum_frame(counts, dispersion_ev=2.0, offset_ev=500.0, signal="EELS")


def spectrum_image():
    """Pixel (i, j) has all its counts, i + 1 of them, in channel j."""
    data = np.zeros((ROWS, COLUMNS, CHANNELS))
    for i in range(ROWS):
        for j in range(COLUMNS):
            data[i, j, j] = i + 1
    axes = (
        Axis(name="y", units="nm", scale=5.0, offset=2.5),
        Axis(name="x", units="nm", scale=5.0, offset=2.5),
        Axis(name="energy_loss", units="eV", scale=2.0, offset=500.0),
    )
    return Frame(data=data, axes=axes, signal="EELS", metadata={"title": "known", "original": {"much": "more"}})


@pytest.fixture
def plot(qtbot):
    plot = SpectrumPlot()
    qtbot.addWidget(plot)
    plot.resize(500, 400)
    plot.show()
    return plot


# ------------------------------------------------------------------------------------------------------- the plot


def test_channels_lie_at_their_energies(plot):
    plot.set_spectrum(spectrum(peak=20), "a peak")
    energies, counts = plot.curve.getOriginalDataset()
    assert energies[0] == 500.0
    assert energies[np.argmax(counts)] == 540.0
    assert plot.title.text() == "a peak"
    assert "eV" in plot.plot.getAxis("bottom").labelString()


def test_logarithmic_counts_are_decades_and_zeros_lie_on_the_floor(plot):
    plot.set_spectrum(spectrum(scale=10.0))
    plot.set_logarithmic(True)
    _, counts = plot.curve.getOriginalDataset()
    assert counts.max() == pytest.approx(3.0)
    assert np.isfinite(counts).all()
    plot.set_logarithmic(False)
    assert plot.curve.getOriginalDataset()[1].max() == 1000


def test_windows_count_what_lies_inside(plot):
    plot.set_spectrum(spectrum(peak=20))
    told = []
    plot.windows_changed.connect(lambda: told.append([w.name for w in plot.windows()]))
    inside = plot.add_window("peak", 535.0, 545.0)
    outside = plot.add_window("beside", 560.0, 580.0)
    beyond = plot.add_window("beyond", 5000.0, 5010.0)
    assert plot.counts_in(inside) == 100
    assert plot.counts_in(outside) == 0
    assert plot.counts_in(beyond) is None
    assert told[-1] == ["peak", "beside", "beyond"]
    rows = {row.name.text(): row.counts.text() for row in plot.window_list._rows}
    assert rows == {"peak": "100", "beside": "0", "beyond": "–"}


def test_dragging_a_window_and_typing_its_edges_are_the_same(plot):
    plot.set_spectrum(spectrum())
    plot.add_window("O K", 530.0, 550.0)
    region = plot._regions["O K"]
    region.setRegion((532.0, 556.0))
    region.sigRegionChangeFinished.emit(region)
    assert (plot.windows()[0].low_ev, plot.windows()[0].high_ev) == (532.0, 556.0)
    row = plot.window_list._rows[0]
    assert row.high.value() == 556.0
    row.low.setValue(520.0)
    assert region.getRegion() == (520.0, 556.0)
    row.name.setText("oxygen")
    row.name.editingFinished.emit()
    assert [w.name for w in plot.windows()] == ["oxygen"]
    row.low.setValue(9999.0)  # above the upper edge: refused, the editor shows what holds
    assert plot.windows()[0].low_ev == 520.0
    assert row.low.value() == 520.0
    row.remove.click()
    assert plot.windows() == []
    assert plot._regions == {}


def test_a_new_window_lies_where_one_looks(plot, qtbot):
    plot.set_spectrum(spectrum())
    qtbot.wait(50)
    window = plot.add_window()
    assert 500.0 < window.low_ev < window.high_ev < 500.0 + 2 * CHANNELS


def test_two_plots_share_their_windows(qtbot, plot):
    other = SpectrumPlot(windows=plot.energy_windows, compact=True)
    qtbot.addWidget(other)
    told = []
    other.windows_changed.connect(lambda: told.append(1))
    plot.add_window("O K", 530.0, 550.0)
    assert [w.name for w in other.windows()] == ["O K"]
    assert told == [1]


def test_the_crosshair_reads_the_channel_below_it(plot, qtbot):
    plot.set_spectrum(spectrum(peak=20))
    qtbot.wait(100)
    box = plot.plot.getViewBox()
    plot._cursor_moved(box.mapViewToScene(QPointF(540.4, 50.0)))
    assert plot.readout.text() == "540.0 eV: 100 counts"
    plot._cursor_moved(QPointF(-500.0, -500.0))
    assert plot.readout.text() == ""


def test_saved_csv_reads_back(plot, tmp_path):
    with pytest.raises(BadInput, match="no spectrum"):
        plot.save_csv(tmp_path / "none.csv")
    frame = spectrum().with_data(np.arange(CHANNELS) ** 2, metadata={"simulated": True})
    plot.set_spectrum(frame, "squares")
    lines = plot.save_csv(tmp_path / "s.csv").read_text(encoding="utf-8").splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert "squares" in comments[0]
    assert "# SIMULATED" in comments
    rows = list(csv.reader(line for line in lines if not line.startswith("#")))
    assert rows[0] == ["energy_loss_eV", "counts"]
    assert np.allclose(np.array(rows[1:], dtype=float)[:, 0], 500 + 2 * np.arange(CHANNELS))
    assert np.allclose(np.array(rows[1:], dtype=float)[:, 1], np.arange(CHANNELS) ** 2)


def test_an_image_is_not_a_spectrum(plot):
    with pytest.raises(BadInput, match="one axis"):
        plot.set_spectrum(image_frame(np.zeros((3, 3)), pixel_nm=1.0, signal="HAADF"))


def test_nothing_finite_is_no_disaster(plot):
    plot.set_spectrum(spectrum().with_data(np.full(CHANNELS, np.nan)))
    plot.set_logarithmic(True)
    plot.set_spectrum(None)
    assert plot.frame is None


# ---------------------------------------------------------------------------------------------------- the sources


def test_a_spectrum_image_is_addressed_by_pixel(tmp_path):
    source = SpectrumImage(tmp_path / "a.hspy", spectrum_image(), 0)
    number = source.number_at((3.2, 6.8), (0, 0))
    frame, label = source.spectrum(number)
    assert np.argmax(frame.data) == 7
    assert np.max(frame.data) == 4
    assert "y 17.5 nm" in label
    assert "original" not in frame.metadata
    for outside in ((-0.6, 3), (3, COLUMNS), (ROWS - 0.4, 2)):
        assert source.number_at(outside, (0, 0)) is None


def test_a_lazy_spectrum_image_sums_to_the_same(tmp_path):
    import dask.array

    frame = spectrum_image()
    lazy = frame.with_data(dask.array.from_array(np.asarray(frame.data), chunks=(3, 5, 64)))
    eager = SpectrumImage(tmp_path / "a", frame, 0).summed()[0]
    source = SpectrumImage(tmp_path / "a", lazy, 0)
    assert not source.is_quick
    assert np.allclose(source.summed()[0].data, eager.data)
    assert np.allclose(eager.data[:COLUMNS], ROWS * (ROWS + 1) / 2)


def test_single_spectra_are_taken_by_number(tmp_path):
    source = SingleSpectra(tmp_path / "x.msa", [spectrum(5), spectrum(6)])
    assert source.count == 2
    assert np.argmax(source.spectrum(1)[0].data) == 6
    assert source.number_at((0, 0), (0, 0)) is None


def test_a_file_without_spectra_is_refused(shared_data):
    with pytest.raises(BadInput, match="holds no spectra"):
        open_spectra(shared_data / "SiO2_HAADF.hspy")


# ------------------------------------------------------------------------------------------------------- the dock


@pytest.fixture
def dock(shown_viewer, qtbot):
    return base.open_dock(shown_viewer, "Spectrum")


@pytest.fixture
def known_file(dock, shown_viewer, tmp_path, monkeypatch, qtbot):
    """A spectrum image as the reader shows it: its sum as a layer, the file opened by the dock on another thread."""
    from napari_smarttem.widgets import spectrum as module

    path, frame, threads = tmp_path / "known.hspy", spectrum_image(), []

    def read(wanted):
        threads.append(threading.current_thread())
        assert wanted == path
        return SpectrumImage(path, frame, 0)

    monkeypatch.setattr(module, "open_spectra", read)
    shown_viewer.layers.clear()
    summed = Frame(data=np.asarray(frame.data).sum(axis=2), axes=frame.axes[:2], signal="EELS sum")
    layers.show_image(shown_viewer, summed, metadata={"path": str(path), "kind": "spectrum_image", "dataset": 0})
    shown_viewer.reset_view()
    base.dataset_dropped(shown_viewer, path)
    qtbot.waitUntil(lambda: dock.plot.frame is not None, timeout=3000)
    assert threading.main_thread() not in threads
    return path


def test_a_dropped_file_shows_its_sum_and_then_follows_the_cursor(known_file, dock, shown_viewer, hand, qtbot):
    assert base.open_dock(shown_viewer, "Spectrum") is dock
    assert "sum of 10 × 12" in dock.plot.title.text()
    for row, column in ((2, 3), (7, 10), (0, 0)):
        hand.point_at(5.0 * row + 2.5, 5.0 * column + 2.5)
        qtbot.waitUntil(lambda r=row, c=column: f"pixel {r}, {c})" in dock.plot.title.text(), timeout=2000)
        assert np.argmax(dock.plot.frame.data) == column
        assert np.max(dock.plot.frame.data) == row + 1


def test_one_click_makes_the_file_the_instrument(known_file, dock, session, monkeypatch, qtbot):
    from concurrent.futures import Future

    asked = []

    def connect(backend, **settings):
        asked.append((backend, settings))
        future = Future()
        future.set_exception(BadInput("known.hspy was moved; open it again."))
        return future

    complaints = []
    monkeypatch.setattr(session, "connect", connect)
    monkeypatch.setattr(dock, "say", lambda level, text: complaints.append((level, text)))
    assert dock.instrument_button.isEnabled()
    dock.instrument_button.click()
    assert asked == [("replay", {"file": str(known_file), "dataset": 0})]
    qtbot.waitUntil(lambda: ("error", "known.hspy was moved; open it again.") in complaints, timeout=2000)


def test_a_file_that_cannot_be_read_is_said_once(dock, shown_viewer, tmp_path, monkeypatch, qtbot):
    said = []
    monkeypatch.setattr(dock, "say", lambda level, text: said.append((level, text)))
    dock.show_file(tmp_path / "missing.hspy")
    qtbot.waitUntil(lambda: bool(said), timeout=3000)
    assert said[0][0] == "error"
    assert "missing.hspy" in said[0][1]
    assert dock.file is None
    assert not dock.instrument_button.isEnabled()


def test_of_a_run_the_newest_and_the_selected(dock, session, shown_viewer, tmp_path, qtbot):
    found = propose(session, [(40.0, 40.0), (80.0, 80.0), (120.0, 120.0)])
    session.run_started.emit(tmp_path / "x.smarttem")
    qtbot.waitUntil(lambda: dock.mode.currentText() == NEWEST, timeout=2000)
    for i, target in enumerate(found[:2]):
        step = Acquire(step_id=target.target_id, y_nm=1, x_nm=1, exposure_s=0.1, target_id=target.target_id)
        session.step_finished.emit(StepResult(step=step, frames=(spectrum(peak=10 + i),)))
    qtbot.waitUntil(lambda: dock.plot.frame is not None, timeout=2000)
    assert np.argmax(dock.plot.frame.data) == 11
    dock.mode.setCurrentText(SELECTED)
    dock._targets.refresh()
    dock._targets.select([found[0].target_id])
    assert np.argmax(dock.plot.frame.data) == 10
    dock._targets.select([found[2].target_id])
    assert dock.plot.frame is None
    assert "has not been measured" in dock.plot.title.text()


def test_real_spectrum_image_under_the_cursor(shared_data, dock, qtbot):
    dock.show_file(shared_data / "core_shell.hspy")
    qtbot.waitUntil(lambda: dock.plot.frame is not None, timeout=20000)
    assert dock.mode.currentText() == CURSOR
    frame = dock.plot.frame
    assert frame.axes[0].units == "eV"
    energies = frame.coordinates(frame.axes[0].name)
    # Fe K-alpha at 6404 eV is the strongest line between 6 and 7 keV of FePt particles
    window = (energies > 6000) & (energies < 7000)
    assert energies[window][np.argmax(np.asarray(frame.data)[window])] == pytest.approx(6404, abs=40)


def test_windows_and_axis_are_remembered(dock, shown_viewer, qtbot):
    dock.plot.add_window("Fe Ka", 6300.0, 6500.0)
    dock.plot.set_logarithmic(True)
    assert base.remembered("spectrum.windows")[0]["name"] == "Fe Ka"
    assert base.remembered("spectrum.logarithmic") is True
    assert [w.name for w in windows_of(shown_viewer)] == ["Fe Ka"]


def test_windows_of_other_spectra_stay_out_of_sight(qtbot, plot):
    lines = Frame(
        data=np.ones(2048), axes=(Axis(name="energy", units="eV", scale=10.0),), signal="EDS", quantity="counts"
    )
    losses = Frame(
        data=np.ones(1000), axes=(Axis(name="energy_loss", units="eV", offset=200.0),), signal="EELS", quantity="counts"
    )
    low_losses = Frame(
        data=np.ones(100), axes=(Axis(name="energy_loss", units="eV", offset=-20.0),), signal="EELS", quantity="counts"
    )
    plot.set_spectrum(lines)
    plot.add_window("Fe Ka", 6300.0, 6500.0)
    plot.add_window("O Ka", 500.0, 550.0)
    assert [row.name.text() for row in plot.window_list._rows] == ["Fe Ka", "O Ka"]
    plot.set_spectrum(losses)
    assert plot.shown_windows() == [], "an X-ray line is no energy loss, and 6 keV is beside this spectrum"
    assert plot.window_list._rows == []
    assert plot._regions == {}
    plot.add_window("O K", 532.0, 560.0)
    assert [w.name for w in plot.shown_windows()] == ["O K"]
    plot.set_spectrum(low_losses)
    assert plot.shown_windows() == []
    plot.set_spectrum(lines)
    assert [w.name for w in plot.shown_windows()] == ["Fe Ka", "O Ka"], "nothing was forgotten"
    assert [w.name for w in plot.windows()] == ["Fe Ka", "O Ka", "O K"]
    assert [w["signal"] for w in plot.energy_windows.as_json()] == ["EDS", "EDS", "EELS"]
