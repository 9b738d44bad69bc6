"""Long work in the Unmixing dock: it can be stopped for good, follows a run with the notebook's unmixer, and bad data."""

# ruff: noqa: F811 (fixtures are imported and then arguments)
from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from napari_smarttem.io import write
from napari_smarttem.schema import Axis, Frame, image_frame
from napari_smarttem.unmixing.live import FEWEST, LiveUnmixer
from napari_smarttem.widgets import base
from napari_smarttem.widgets.unmixing_input import Spectra, gathered
from napari_smarttem.widgets.unmixing_live import LiveSpectra
from napari_smarttem.widgets.unmixing_steps import Preparation, Step

from .unmixing_sets import mixed
from .unmixing_window import (  # noqa: F401
    found,
    opened,
    rested,
    session,
    set_file,
    shared,
    truth,
    unmixed,
    unmixed_by_click,
    window,
)

pytestmark = pytest.mark.gui


# ---------------------------------------------------------------------------------------------------------- stopping


def low_losses(pixels, channels):
    """A zero-loss peak, and loss that grows with thickness from 3 eV on."""
    energy = -2.0 + 0.02 * np.arange(channels)
    peak = 1e5 / (1 + (energy / 0.15) ** 2) ** 1.5
    loss = 300 * np.sqrt(np.maximum(energy - 3.0, 0))
    thick = np.linspace(0.5, 1.5, pixels[0] * pixels[1]).reshape(*pixels, 1)
    data = np.random.default_rng(0).poisson(peak + thick * loss).astype(np.float32)
    axes = (Axis(name="y", units="nm"), Axis(name="x", units="nm"))
    axis = Axis(name="energy_loss", units="eV", scale=0.02, offset=-2.0)
    return Frame(data=data, axes=(*axes, axis), signal="EELS", metadata={"title": "low loss"})


def stopped_at(dock, qtbot, step, word):
    """Do a step until its progress says `word`, and cancel it: nothing changes, and its thread ends at the next word."""
    before = dock.bench.preparation.frame
    dock.do_step(step)
    future = dock._job.future
    qtbot.waitUntil(lambda: dock._told[1] == word or not dock.busy, timeout=60_000)
    assert dock.busy, dock.message.text()
    assert 0 <= dock.progress.value() < 100
    began = time.perf_counter()
    dock.stop.click()
    assert time.perf_counter() - began < 1.0
    assert not dock.busy
    assert dock.message.text() == "Stopped; nothing was changed."
    told = dock._told
    qtbot.waitUntil(future.done, timeout=20_000)
    assert "stopped" in str(future.exception())
    assert dock._told == told, "no word more after the cancel"
    qtbot.wait(50)
    assert dock.bench.preparation.frame is before
    assert dock.bench.preparation.steps == []
    assert dock.prepare.steps.count() == 0


def test_learning_the_zero_loss_peak_tells_how_far_it_is_and_stops(window, qtbot):
    pytest.importorskip("torch")
    frame = low_losses((16, 16), 1024)
    dock = base.open_dock(window, "Unmixing")
    dock.bench.take(Spectra("low loss", frame))
    dock._show_prepared()
    stopped_at(dock, qtbot, Step("zero_loss"), "zero-loss networks")


def test_deconvolution_stops_between_spectra(window, qtbot, tmp_path, monkeypatch):
    from napari_smarttem.unmixing import prepare

    energy = 300.0 + np.arange(256)
    data = np.tile(1e4 * (energy / 300) ** -3.0, (40, 40, 1)).astype(np.float32)
    axes = (Axis(name="y", units="nm"), Axis(name="x", units="nm"))
    core = Frame(data=data, axes=(*axes, Axis(name="energy_loss", units="eV", offset=300.0)), signal="EELS")
    loss = -20.0 + np.arange(320)
    low = (1e5 * np.exp(-0.5 * (loss / 1.2) ** 2) + 2e4 / np.maximum(loss, 20.0)).astype(np.float32)
    axis = Axis(name="energy_loss", units="eV", offset=-20.0)
    path = write(Frame(data=np.tile(low, (4, 1)), axes=(axes[1], axis), signal="EELS"), tmp_path / "low.hspy")
    done = []
    once = prepare._eels
    monkeypatch.setattr(prepare, "_eels", lambda *args: (done.append(len(args[0])), once(*args))[1])
    dock = base.open_dock(window, "Unmixing")
    dock.bench.take(Spectra("core", core))
    dock._show_prepared()
    stopped_at(dock, qtbot, Step("deconvolve", {"low_loss": str(path)}), "plural scattering")
    assert sum(done) < 0.7 * 2 * 1600, "most spectra were never begun"


def test_spikes_are_the_same_when_told_about_and_can_be_stopped():
    from napari_smarttem.schema import Cancelled
    from napari_smarttem.unmixing import prepare

    frame = mixed(shape=(30, 20), channels=128).frame
    data = np.array(frame.data)
    data[4, 5, 60] = 9000
    heard = []
    together = prepare.remove_spikes(frame.with_data(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "SPIKE_VALUES", 7 * 20 * 128)
        parts = prepare.remove_spikes(frame.with_data(data), report=lambda part, _: heard.append(part))
        np.testing.assert_array_equal(parts.data, together.data)
        assert heard == sorted(heard)
        assert len(heard) == 10

        def stop(_part, _word):
            raise Cancelled("enough")

        preparation = Preparation(frame)
        with pytest.raises(Cancelled):
            preparation.apply(Step("spikes"), stop)
        assert preparation.frame is frame


# -------------------------------------------------------------------------------------------------------------- live


def pieces(truth, order, count):
    """The first spectra of a run over a known image."""
    data = np.asarray(truth.frame.data)
    places = [divmod(int(pixel), data.shape[1]) for pixel in order[:count]]
    axis = truth.frame.axes[-1:]
    frames = [Frame(data=data[place], axes=axis, signal="EELS") for place in places]
    return gathered("run", frames, np.array(places, dtype=float))


class Never:
    """Nobody asks to stop."""

    @staticmethod
    def is_set():
        return False


def test_the_dock_follows_a_run_with_the_unmixer_of_a_notebook(truth):
    """The same spectra, one by one: the dock's numbers are those of `LiveUnmixer`, its components keep their places."""
    order = np.random.default_rng(1).permutation(20 * 24)
    settings = {"method": "nmf", "components": 3, "seed": 0}
    live, preparation, before = LiveSpectra(), None, None
    notebook = LiveUnmixer(truth.frame.axes[-1], 128, "EELS", **settings)
    for count in (FEWEST - 2, 120, 480):
        read = pieces(truth, order, count)
        preparation = preparation or Preparation(read.frame)
        grown, preparation, result = live.update(
            read, preparation, dict(settings), report=lambda *_: None, cancel=Never
        )
        for number in range(len(notebook), count):
            notebook.add(*read.places_nm[number], read.frame.data[0, number])
        expected = notebook.update()
        if count < FEWEST:
            assert result is None
            assert expected is None
            continue
        assert isinstance(live.unmixer, LiveUnmixer)
        assert grown.frame.shape == (1, count, 128)
        np.testing.assert_array_equal(result.maps, expected.maps)
        if before is not None:
            for one, earlier in zip(result.maps, before.maps, strict=True):
                assert np.corrcoef(one[0, : earlier.shape[1]], earlier[0])[0, 1] > 0.9
        before = result


def test_steps_are_done_again_on_what_has_grown_and_bad_spectra_are_left_out(truth):
    order = np.arange(60)
    live, settings = LiveSpectra(), {"method": "vca", "components": 2}
    first = pieces(truth, order, 30)
    preparation = Preparation(first.frame)
    step = Step("crop_energy", {"first_ev": 230.0, "last_ev": 400.0})
    preparation.accept(step, preparation.apply(step))
    live.update(first, preparation, settings, report=lambda *_: None, cancel=Never)
    second = pieces(truth, order, 60)
    data = np.array(second.frame.data)
    data[0, 40, 3] = np.nan
    second = replace(second, frame=second.frame.with_data(data))
    grown, again, result = live.update(second, preparation, settings, report=lambda *_: None, cancel=Never)
    assert again.steps == [step]
    assert result.endmembers.shape[1] == again.frame.shape[-1] == 86
    assert result.shape == (1, 59)
    assert grown.places_nm.tolist() == [list(map(float, divmod(n, 24))) for n in range(60) if n != 40]


def test_a_name_a_person_gave_stays_while_the_run_grows(unmixed):
    from napari_smarttem.unmixing import unmix

    bench = unmixed.bench
    unmixed.rename(2, "rim")
    spectra = bench.result.endmembers.copy()
    again = unmix(bench.unmixed.spectra.frame, method="vca", components=3, seed=5)
    bench.follow(again.reordered([1, 2, 0]), bench.unmixed)
    assert bench.result.names[2] == "rim"
    assert np.corrcoef(bench.result.endmembers[2], spectra[2])[0, 1] > 0.999


# ---------------------------------------------------------------------------------------------------------- bad data


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: np.where(np.arange(128) // 10 == 3, 0, d), "10 of 128 channels hold no counts"),
        (lambda d: d - d.mean(axis=(0, 1)), "There are negative values"),
    ],
)
def test_odd_data_are_unmixed_with_a_warning(window, qtbot, truth, change, words):
    dock = base.open_dock(window, "Unmixing")
    dock.bench.take(Spectra("odd", truth.frame.with_data(change(np.asarray(truth.frame.data)))))
    dock._show_input()
    dock.unmixing.elements.setChecked(False)
    unmixed_by_click(dock, qtbot)
    assert words in dock.unmixing.warnings.text()
    assert not dock.unmixing.warnings.isHidden()


def test_files_that_cannot_be_unmixed_are_one_sentence(window, qtbot, truth, tmp_path):
    whole = write(truth.frame, tmp_path / "whole.hspy")
    (tmp_path / "torn.hspy").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    write(image_frame(np.ones((5, 5)), pixel_nm=1.0, signal="HAADF"), tmp_path / "image.hspy")
    dock = base.open_dock(window, "Unmixing")
    for name, words in (("torn.hspy", "torn.hspy"), ("image.hspy", "holds no spectrum image")):
        dock.choose_file(tmp_path / name)
        rested(dock, qtbot)
        assert words in dock.message.text()
        assert "\n" not in dock.message.text()
        assert dock.bench.spectra is None
        assert not dock.unmixing.run.isEnabled()


def test_sums_of_paint_are_shown_recorded_undone_and_not_unmixed(window, qtbot, set_file, truth):
    dock = opened(window, qtbot, set_file)
    more = dock.prepare.more
    more.setCurrentIndex(more.findData("sum_painted"))
    dock.prepare.apply_more.click()
    assert "Press New beside Labels" in dock.message.text()
    dock.unmixing.new_labels.click()
    layer = window.layers[dock.unmixing.labels.currentText()]
    paint = np.zeros(layer.data.shape, dtype=layer.data.dtype)
    paint[2:4, 3:6], paint[15, 10:12] = 1, 4
    layer.data = paint
    dock.prepare.apply_more.click()
    rested(dock, qtbot)
    frame, data = dock.bench.preparation.frame, np.asarray(truth.frame.data)
    np.testing.assert_allclose(frame.data[0], [data[paint == 1].sum(axis=0), data[paint == 4].sum(axis=0)])
    assert dock.prepare.steps.item(0).text() == "summed the painted pixels of each of 2 colours"
    qtbot.waitUntil(lambda: len(dock.prepare._parts) == 2, timeout=5000)
    dock.unmix()
    assert "no places to map" in dock.message.text()
    dock.prepare.undo.click()
    assert dock.bench.preparation.frame.shape == (20, 24, 128)
    qtbot.waitUntil(lambda: not dock.prepare._parts, timeout=5000)


# ------------------------------------------------------------------------------------------------------- what is seen


def test_a_click_beside_the_maps_lets_the_pixel_go(unmixed, window):
    layers = unmixed.bench.layers
    unmixed._clicked((1.0 + 2.0 * 4, -7.0 + 2.0 * 17))
    assert unmixed.pixel.held.isChecked()
    assert layers.marker in window.layers
    unmixed._clicked((-500.0, -500.0))
    assert not unmixed.pixel.held.isChecked()
    assert [layer for layer in window.layers if layer.name == "chosen pixel"] == []


def test_names_of_lines_do_not_lie_over_each_other(qtbot):
    from napari_smarttem.widgets.unmixing_lines import Line
    from napari_smarttem.widgets.unmixing_plots import EndmemberPlot

    plot = EndmemberPlot()
    qtbot.addWidget(plot)
    plot.resize(400, 300)
    plot.show()
    energy = np.arange(200.0, 456.0)
    plot.show_spectra(energy, np.exp(-energy / 100)[None], ["#ff0000"], [True], 0)
    plot.show_lines([Line("Fe", f"Fe L{n}", 300.0 + n, 1.0) for n in range(6)], "#ff0000")

    def clashes():
        labels = [marker.label for marker in plot._markers]
        boxes = [
            label.mapRectToScene(label.boundingRect().adjusted(4, 4, -4, -4)) for label in labels
        ]  # the margin of a text is 4
        return [(i, j) for i in range(6) for j in range(i) if boxes[i].intersects(boxes[j])]

    qtbot.waitUntil(lambda: not clashes(), timeout=10_000)  # once it has been painted


def test_residuals_follow_the_noise_that_was_found(truth):
    from napari_smarttem.widgets.unmixing_plots import residual_sigma

    rng = np.random.default_rng(0)
    model = np.full(20_000, 900.0)
    gained = 4.0 * rng.poisson(model / 4.0)
    assert residual_sigma(gained, model, 4.0).std() == pytest.approx(1.0, abs=0.03)
    counts = rng.poisson(model).astype(float)
    assert residual_sigma(counts, model, 0.8).std() == pytest.approx(1.0, abs=0.03), (
        "counts are not quieter than counts"
    )


def test_curves_follow_the_theme(unmixed, window, qtbot):
    def colours():
        unmixed.show_page(3)
        qtbot.wait(50)
        above = unmixed.pixel.plot.above
        return above.plain[0].opts["pen"].color().name(), above.text_color.name()

    assert unmixed.pixel.plot._data.xData is not None
    try:
        for theme in ("dark", "light"):
            window.theme = theme
            qtbot.waitUntil(lambda: len(set(colours())) == 1, timeout=5000)
        assert colours()[0] < "#888888", "dark text in a light window"
    finally:
        window.theme = "dark"


def test_paint_stays_above_the_maps(window, qtbot, set_file, truth):
    dock = opened(window, qtbot, set_file, method="vca", components=3)
    dock.unmixing.new_labels.click()
    unmixed_by_click(dock, qtbot)
    assert window.layers[-1].name == dock.unmixing.labels.currentText()
    dock.unmixing.smooth.setCurrentIndex(dock.unmixing.smooth.findData("least error"))
    unmixed_by_click(dock, qtbot)
    assert dock.bench.unmixed.settings["smooth_maps"] == "least error"
    assert "held-out counts" in dock.unmixing.verdict.text()


def test_long_warnings_are_not_cut(unmixed, window, qtbot):
    page = unmixed.unmixing
    unmixed.show_page(1)
    page.warnings.setVisible(True)
    for sentences in (9, 2):
        page.warnings.setText(
            "\n".join(["The noise is 4.3 times that of counting, as after a gain or resampling."] * sentences)
        )
        qtbot.waitUntil(
            lambda: page.warnings.height() >= page.warnings.heightForWidth(page.warnings.width()), timeout=5000
        )
    few = page.warnings.minimumHeight()
    assert 0 < few < 8 * page.warnings.fontMetrics().height(), "the room is given back"


def test_an_array_of_a_layer_is_taken_from_the_window(window, qtbot, truth, tmp_path, monkeypatch):
    data = np.asarray(truth.frame.data)
    window.add_image(data, name="cube", scale=(2.0, 2.0, 2.0), translate=(0, 0, 200.0))
    dock = base.open_dock(window, "Unmixing")
    qtbot.waitUntil(lambda: dock.bench.spectra is not None and not dock.busy, timeout=20_000)
    dock.unmixing.components.setValue(3)
    unmixed_by_click(dock, qtbot)
    monkeypatch.chdir(tmp_path)
    room: dict[str, object] = {}
    exec(compile(dock.copy_as_python(), "copy.py", "exec"), room)
    assert room["result"].axes == dock.bench.result.axes
    np.testing.assert_allclose(room["result"].maps, dock.bench.result.maps, atol=1e-6)
