"""The Unmixing dock in a real window: drop a file, unmix, click a pixel, drag a window, edit, compare, save."""

# ruff: noqa: F811 (fixtures are imported and then arguments)
from __future__ import annotations

import time

import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QApplication

from napari_smarttem.io import write
from napari_smarttem.schema import Acquire, Frame, StepResult
from napari_smarttem.widgets import base
from napari_smarttem.widgets.unmixing import COMPONENTS, PIXEL, UNMIX, UnmixingDock
from napari_smarttem.widgets.unmixing_bench import bench_for

from .conftest import Hand
from .unmixing_sets import PIXEL_NM, mixed
from .unmixing_window import (  # noqa: F401
    angle_deg,
    drop,
    found,
    opened,
    rested,
    session,
    set_file,
    shared,
    truth,
    unmixed,
    window,
)

pytestmark = pytest.mark.gui


# ------------------------------------------------------------------------------------------------- the whole story


def test_drop_unmix_click_and_see(window, qtbot, set_file, truth, tmp_path):
    from imageio.v3 import imread

    drop(window, set_file)
    qtbot.waitUntil(lambda: bool(window.window._qt_window.findChildren(UnmixingDock)), timeout=20_000)
    dock = window.window._qt_window.findChildren(UnmixingDock)[0]
    qtbot.waitUntil(lambda: dock.bench.spectra is not None, timeout=20_000)
    assert "20 × 24 pixels, 128 channels, EELS" in dock.facts.text()
    base.open_dock(window, "Unmixing")
    dock.show_page(UNMIX)
    dock.unmixing.elements.setChecked(False)
    qtbot.mouseClick(dock.unmixing.run, Qt.MouseButton.LeftButton)
    rested(dock, qtbot)

    result = dock.bench.result
    assert result.components == 3
    for spectrum in truth.endmembers:
        assert min(angle_deg(spectrum, found) for found in result.endmembers) < 1.5
    assert result.assumption in dock.unmixing.verdict.text()
    assert dock.unmixing.reason.text() == result.scree.reason
    maps = dock.bench.layers.maps
    assert len(maps) == 3
    for number, layer in enumerate(maps):
        assert layer.blending == "additive"
        assert tuple(layer.scale) == (PIXEL_NM, PIXEL_NM)
        assert tuple(layer.translate) == (1.0, -7.0)
        assert {str(unit) for unit in layer.units} == {"nanometer"}
        assert np.array_equal(layer.data, result.maps[number])
    overview = next(layer for layer in window.layers if layer.metadata["smarttem"]["kind"] == "spectrum_image")
    assert not overview.visible, "the grey sum would wash the added colours out"

    window.reset_view()
    qtbot.wait(80)
    y, x = 1.0 + PIXEL_NM * 4, -7.0 + PIXEL_NM * 17
    Hand(window, qtbot).click(y, x)
    assert dock.pixel.held.isChecked()
    assert dock.pages.currentIndex() == PIXEL
    assert "y 4, x 17" in dock.pixel.title.text()
    assert np.array_equal(dock.pixel.plot._data.yData, np.asarray(truth.frame.data)[4, 17])
    assert np.allclose(dock.pixel.plot._model.yData, result.reconstruct(4, 17))
    left = dock.pixel.plot._left.yData
    assert 0.7 < left.std() < 1.4, "what is left over is counting noise"
    marker = dock.bench.layers.marker
    assert np.allclose(marker.data, [[y, x]])

    dock.show_page(COMPONENTS)
    qtbot.wait(100)
    picture = tmp_path / "window.png"
    window.screenshot(str(picture), canvas_only=False, flash=False)
    image = imread(picture)[..., :3].astype(int)
    for color in dock.bench.shown.colors:
        wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
        assert (np.abs(image - wanted).max(axis=-1) < 60).sum() > 500, f"{color} is on the canvas"


def test_the_cursor_shows_its_pixel(unmixed, window, qtbot):
    unmixed.show_page(PIXEL)
    window.reset_view()
    qtbot.wait(80)
    hand = Hand(window, qtbot)
    for row, column in ((2, 3), (15, 20)):
        hand.point_at(1.0 + PIXEL_NM * (row + 0.2), -7.0 + PIXEL_NM * column)
        hand.point_at(1.0 + PIXEL_NM * row, -7.0 + PIXEL_NM * column)
        qtbot.waitUntil(lambda at=(row, column): unmixed._pixel == at, timeout=2000)
    assert np.allclose(unmixed.pixel.plot._model.yData, unmixed.bench.result.reconstruct(15, 20))


# ---------------------------------------------------------------------------------------------------- preparation


def test_steps_are_done_shown_and_undone(window, qtbot, set_file):
    dock = opened(window, qtbot, set_file)
    qtbot.waitUntil(lambda: dock.prepare.curve.xData is not None, timeout=5000)
    dock.prepare.region.setRegion((230.0, 400.0))
    dock.prepare.crop_energy.click()
    rested(dock, qtbot)
    dock.prepare.pixels.setValue(2)
    dock.prepare.bin.click()
    rested(dock, qtbot)
    assert dock.bench.preparation.frame.shape == (10, 12, 86)
    assert [dock.prepare.steps.item(i).text()[:4] for i in range(dock.prepare.steps.count())] == ["kept", "summ"]
    dock.prepare.undo.click()
    assert dock.bench.preparation.frame.shape == (20, 24, 86)
    dock.prepare.undo.click()
    assert dock.bench.preparation.frame.shape == (20, 24, 128)
    assert not dock.prepare.undo.isEnabled()


def test_an_area_is_drawn_on_the_canvas(window, qtbot, set_file):
    dock = opened(window, qtbot, set_file)
    dock.crop_area()
    assert "Draw a rectangle" in dock.message.text()
    low, high = (1.0 + PIXEL_NM * 5, -7.0 + PIXEL_NM * 2), (1.0 + PIXEL_NM * 14, -7.0 + PIXEL_NM * 13)
    corners = [low, (low[0], high[1]), high, (high[0], low[1])]
    window.add_shapes([np.array(corners)], shape_type="rectangle", units=("nm", "nm"))
    dock.crop_area()
    rested(dock, qtbot)
    frame = dock.bench.preparation.frame
    assert frame.shape[:2] == (10, 12)
    assert (frame.axes[0].offset, frame.axes[1].offset) == pytest.approx(low)
    dock.unmixing.components.setValue(3)
    dock.unmix()
    rested(dock, qtbot)
    assert tuple(dock.bench.layers.maps[0].translate) == pytest.approx(low), "the maps of a part lie on that part"


# ------------------------------------------------------------------------------------------------------ components


def test_components_are_renamed_merged_dropped_and_restored(unmixed, qtbot):
    table, bench = unmixed.components.table, unmixed.bench
    table.item(1, 2).setText("rim")
    assert bench.result.names[1] == "rim"
    assert bench.layers.maps[1].name == "rim"
    table.item(1, 3).setText("fe, O")
    assert bench.result.elements[1] == ("Fe", "O")
    table.item(1, 3).setText("Quux")
    assert "'Quux' is no element" in unmixed.message.text()
    assert table.item(1, 3).text() == "Fe, O"
    before = bench.result.maps.copy()
    table.selectRow(0)
    table.selectionModel().select(
        table.model().index(2, 0),
        table.selectionModel().SelectionFlag.Select | table.selectionModel().SelectionFlag.Rows,
    )
    unmixed.components.merge.click()
    assert bench.result.components == 2
    assert len(bench.layers.maps) == 2
    assert np.allclose(bench.layers.maps[0].data, before[0] + before[2])
    table.clearSelection()
    table.selectRow(0)
    unmixed.components.drop.click()
    assert bench.result.names == ("rim",)
    unmixed.components.drop.click()
    assert "last component" in unmixed.message.text()
    for _ in range(4):
        unmixed.components.undo.click()
    assert bench.result.components == 3
    assert bench.result.names[1] != "rim"
    assert not unmixed.components.undo.isEnabled()
    assert len(bench.layers.maps) == 3


def test_eyes_and_colours(unmixed):
    table, layers = unmixed.components.table, unmixed.bench.layers
    table.item(2, 0).setCheckState(Qt.CheckState.Unchecked)
    assert not layers.maps[2].visible
    assert unmixed.bench.shown.visible == (True, True, False)
    table.colored.emit(0, "#123456")
    assert np.allclose(layers.maps[0].colormap.colors[-1][:3], np.array([0x12, 0x34, 0x56]) / 255, atol=1e-3)
    assert unmixed.bench.shown.colors[0] == "#123456"


def test_a_click_on_an_edge_names_the_element(unmixed, qtbot):
    from napari_smarttem.widgets.unmixing_lines import Line

    unmixed.components.table.setCurrentCell(1, 2)
    menu = unmixed.element_menu(284.0, [Line("C", "C K", 284.0, 1.0), Line("K", "K L3", 294.0, 1.0)])
    assert [action.text() for action in menu.actions()] == ["C K at 284 eV", "K L3 at 294 eV"]
    menu.actions()[0].trigger()
    assert unmixed.bench.result.elements[1] == ("C",)
    qtbot.waitUntil(lambda: "C K" in unmixed.components.plot.marked, timeout=30_000)
    again = unmixed.element_menu(284.0, [Line("C", "C K", 284.0, 1.0)])
    assert again.actions()[0].isChecked()
    again.actions()[0].trigger()
    assert unmixed.bench.result.elements[1] == ()
    assert unmixed.element_menu(5.0, []) is None


# ---------------------------------------------------------------------------------------------------------- window


def test_dragging_a_window_shows_its_map(unmixed, window, qtbot, truth):
    unmixed.show_page(PIXEL)
    unmixed.pixel.window.setChecked(True)
    data, energy = np.asarray(truth.frame.data), truth.frame.coordinates("energy_loss")
    for low, high in ((250.0, 300.0), (333.0, 401.0)):
        unmixed.pixel.plot.region.setRegion((low, high))  # what a drag does, at each move of the mouse
        qtbot.wait(20)
        expected = data[:, :, (energy >= low) & (energy <= high)].sum(axis=-1)
        assert np.allclose(unmixed.bench.layers.window.data, expected)
    unmixed.pixel.of.setCurrentText("data − model")
    assert unmixed.bench.layers.window.name == "window, data − model"
    assert abs(float(np.mean(unmixed.bench.layers.window.data))) < 0.05 * float(expected.mean())
    layers = len(window.layers)
    unmixed.pixel.window.setChecked(False)
    assert len(window.layers) == layers - 1


def test_a_window_follows_the_hand_on_a_large_set(window, qtbot):
    """128 x 128 pixels of 2048 channels: within 50 ms of our own time, the drawing by the graphics card not counted."""
    from napari_smarttem.unmixing import unmix
    from napari_smarttem.widgets.unmixing_bench import Unmixed
    from napari_smarttem.widgets.unmixing_input import Spectra
    from napari_smarttem.widgets.unmixing_sums import WindowSums

    small = mixed(shape=(16, 16), channels=2048, counts=3.0)
    large = small.frame.with_data(np.tile(small.frame.data, (8, 8, 1)))
    dock = base.open_dock(window, "Unmixing")
    result = unmix(large, method="spa", components=3)
    dock.bench.found(result, Unmixed(Spectra("large", large), (), {}, WindowSums(large.data)))
    dock._show_result(fresh=True)
    rested(dock, qtbot)
    dock.show_page(PIXEL)
    dock.pixel.window.setChecked(True)
    qtbot.wait(100)
    took = []
    for number in range(15):
        low = 300.0 + 200 * number
        dock._window = (low, low + 411.0)
        began = time.perf_counter()
        dock._draw_window()
        took.append(time.perf_counter() - began)
        qtbot.wait(5)
    assert np.median(took) < 0.050, f"median {1e3 * np.median(took):.0f} ms"


# ------------------------------------------------------------------------------------------- comparing and keeping


def test_two_methods_are_compared_and_one_is_taken(unmixed, qtbot):
    first = unmixed.bench.result
    box = unmixed.compare.method
    box.setCurrentIndex(box.findData("nmf"))
    unmixed.compare_methods()
    rested(unmixed, qtbot)
    second = unmixed.bench.second
    assert second.components == first.components
    assert "Mean correlation of the maps" in unmixed.compare.verdict.text()
    assert len(unmixed.compare.view.ci.items) == 9, "three pairs: map, map, spectra"
    unmixed.compare.take.click()
    rested(unmixed, qtbot)
    assert unmixed.bench.result is second
    assert unmixed.pages.currentIndex() == COMPONENTS
    assert np.array_equal(unmixed.bench.layers.maps[0].data, second.maps[0])


def test_results_are_saved_and_copied(unmixed, qtbot, tmp_path):
    import hyperspy.api as hs

    for name in ("found.hspy", "found.csv"):
        unmixed.save_result(tmp_path / name)
        rested(unmixed, qtbot)
        assert unmixed.message.text() == f"Written: {tmp_path / name}"
    signal = hs.load(tmp_path / "found.hspy")
    factors = signal.get_decomposition_factors()
    assert np.allclose(factors.data, unmixed.bench.result.endmembers, rtol=1e-5)
    unmixed.save_picture(tmp_path / "found.png")
    rested(unmixed, qtbot)
    assert (tmp_path / "found.png").stat().st_size > 10_000
    text = unmixed.copy_as_python()
    assert QApplication.clipboard().text() == text
    assert "method='vca', components=3" in text


def test_a_place_that_cannot_be_written_is_one_sentence(unmixed, qtbot, tmp_path):
    (tmp_path / "file").write_text("in the way")
    unmixed.save_result(tmp_path / "file" / "found.hspy")
    rested(unmixed, qtbot)
    assert "cannot be written" in unmixed.message.text()


# ------------------------------------------------------------------------------------------------------ few labels


def test_a_few_painted_pixels_are_enough(window, qtbot, set_file, truth):
    dock = opened(window, qtbot, set_file, method="labels")
    assert not dock.unmixing.labels_row.isHidden()
    dock.unmix()
    assert "Press New beside Labels" in dock.message.text()
    dock.unmixing.new_labels.click()
    layer = window.layers[dock.unmixing.labels.currentText()]
    dock.unmix()
    assert "Nothing is painted" in dock.message.text()
    painted = np.zeros(layer.data.shape, dtype=layer.data.dtype)
    kinds = truth.maps.argmax(axis=0)
    purest = truth.maps.max(axis=0) > 0.95
    for kind in range(3):
        rows, columns = np.nonzero((kinds == kind) & purest)
        painted[rows[:: len(rows) // 4], columns[:: len(rows) // 4]] = kind + 1
    layer.data = painted
    dock.unmix()
    rested(dock, qtbot)
    assert dock.bench.result is not None, dock.message.text()
    found = dock.bench.result.extra["labels"]
    assert (found == kinds + 1)[purest].mean() > 0.97
    classes = dock.bench.layers.classes
    assert np.array_equal(classes.data, found)
    assert tuple(classes.scale) == (PIXEL_NM, PIXEL_NM)


def test_known_spectra_are_fitted_and_keep_their_names(window, qtbot, set_file, truth, tmp_path):
    dock = opened(window, qtbot, set_file, method="reference")
    dock.unmix()
    assert "no components on show" in dock.message.text()
    energy = truth.frame.coordinates("energy_loss")
    rows = [",".join(map(str, row)) for row in zip(energy, *truth.endmembers, energy, strict=True)]
    (tmp_path / "known.csv").write_text("energy_loss (eV),left,right,below,below error\n" + "\n".join(rows))
    dock.open_library(tmp_path / "known.csv")
    qtbot.waitUntil(lambda: dock.unmixing.library.count() == 3, timeout=5000)
    dock.unmix()
    rested(dock, qtbot)
    result = dock.bench.result
    assert result is not None, dock.message.text()
    assert result.names == ("left", "right", "below")
    for one, known in zip(result.maps, truth.maps, strict=True):
        assert np.corrcoef(one.ravel(), known.ravel())[0, 1] > 0.99


# ---------------------------------------------------------------------------------------------- cancel, bad input


def test_cancel_leaves_what_was_there(unmixed, qtbot):
    before = unmixed.bench.result
    unmixed.unmix()
    assert unmixed.busy
    assert unmixed.stop.isEnabled()
    unmixed.stop.click()
    assert not unmixed.busy
    assert "Stopped" in unmixed.message.text()
    qtbot.wait(500)
    assert unmixed.bench.result is before
    unmixed.unmix()
    rested(unmixed, qtbot)
    assert unmixed.bench.result is not before, "after a cancel it can be done again"


def bad_frames(truth):
    data = np.asarray(truth.frame.data)
    nan = data.copy()
    nan[3, 4] = np.nan
    return {
        "NaN or infinite": truth.frame.with_data(nan),
        "nothing to unmix": truth.frame.with_data(np.zeros_like(data)),
        "one single spectrum": truth.frame.with_data(data[:1, :1]),
    }


@pytest.mark.parametrize("words", ["NaN or infinite", "nothing to unmix", "one single spectrum"])
def test_bad_data_are_one_sentence(window, qtbot, tmp_path, truth, words):
    from napari_smarttem.widgets.unmixing_input import Spectra

    dock = base.open_dock(window, "Unmixing")
    dock.bench.take(Spectra("bad", bad_frames(truth)[words]))
    dock.unmixing.elements.setChecked(False)
    dock.unmix()
    rested(dock, qtbot)
    assert words in dock.message.text()
    assert "\n" not in dock.message.text()
    assert dock.bench.result is None
    assert not dock.stop.isEnabled()


def test_too_many_components_are_one_sentence(window, qtbot, tmp_path):
    path = write(mixed(shape=(3, 4), channels=64).frame, tmp_path / "tiny.hspy")
    dock = opened(window, qtbot, path, components=40)
    dock.unmix()
    rested(dock, qtbot)
    assert "40 components are more than" in dock.message.text()


def test_nothing_open_is_one_sentence(window, qtbot):
    dock = base.open_dock(window, "Unmixing")
    assert not dock.unmixing.run.isEnabled()
    dock.unmix()
    assert dock.message.text().startswith("Drop a spectrum image")


def test_a_file_that_cannot_be_read_is_one_sentence(window, qtbot, tmp_path):
    (tmp_path / "no.hspy").write_bytes(b"not a file of any kind")
    dock = base.open_dock(window, "Unmixing")
    dock.choose_file(tmp_path / "no.hspy")
    rested(dock, qtbot)
    assert "no.hspy" in dock.message.text()
    assert dock.bench.spectra is None


# ------------------------------------------------------------------------------------------------- live, lifetime


def test_maps_grow_with_a_run(window, session, qtbot, tmp_path):
    """A run on the simulated microscope: unmixed while it goes, again when there is more."""
    from napari_smarttem.schema import PlanSpec

    dock = base.open_dock(window, "Unmixing")
    dock.unmixing.elements.setChecked(False)
    dock.unmixing.components.setValue(2)
    session.connect("simulator", specimen="two-phase", seed=4, speed=None, field_nm=100.0).result(20)
    settings = {"chooser": "random", "points": 24, "spacing_nm": 4.0, "exposure_s": 0.05, "drift_every": 0}
    folder = session.start(PlanSpec(kind="acquisition", settings=settings), policy="approve_all")
    qtbot.waitUntil(lambda: not session.status.active, timeout=60_000)
    qtbot.wait(100)
    dock.choose_file(folder)
    rested(dock, qtbot)
    assert dock.bench.spectra.places_nm.shape == (24, 2)
    assert not dock.unmixing.live.isHidden()
    dock._live_tick()
    rested(dock, qtbot)
    assert dock.bench.result is not None, dock.message.text()
    assert dock.bench.result.shape == (1, 24)
    assert "SIMULATED" in dock.bench.layers.maps[0].name
    assert "(SIMULATED)" in dock.facts.text()
    layer = dock.bench.layers.maps[0]
    assert np.isnan(layer.data).any()
    assert np.isfinite(layer.data).any()
    before = dock.bench.result
    dock._live_tick()
    assert not dock.busy, "nothing new, nothing to do"
    step = Acquire(step_id="more", y_nm=0.0, x_nm=0.0, exposure_s=0.05)
    frame = dock.bench.spectra.frame
    more = frame.with_data(frame.data[0, 0], axes=frame.axes[2:])
    dock._steps_finished([StepResult(step=step, status="done", frames=(more,))])
    dock._live_tick()
    rested(dock, qtbot)
    assert dock.bench.result is not before
    assert dock.bench.layers.maps[0] is layer, "the layers are drawn again in place"


def test_maps_grow_while_the_run_goes_on(window, session, qtbot):
    """Spectra arrive in real time; the dock unmixes them again and again without a click, before the run ends."""
    from napari_smarttem.schema import PlanSpec

    dock = base.open_dock(window, "Unmixing")
    dock.unmixing.elements.setChecked(False)
    dock.unmixing.components.setValue(2)
    session.connect("simulator", specimen="two-phase", seed=5, speed=1.0, field_nm=100.0).result(20)
    settings = {"chooser": "random", "points": 400, "spacing_nm": 2.0, "exposure_s": 0.1, "drift_every": 0}
    folder = session.start(PlanSpec(kind="acquisition", settings=settings), policy="approve_all")
    try:
        qtbot.waitUntil(lambda: dock.live._new >= 8, timeout=60_000)
        dock.choose_file(folder)
        rested(dock, qtbot)
        dock.unmixing.live.setChecked(True)
        qtbot.waitUntil(lambda: dock.bench.result is not None, timeout=60_000)
        first = dock.bench.result.shape[1]
        qtbot.waitUntil(lambda: dock.bench.result.shape[1] > first, timeout=60_000)
        assert session.status.active, "the maps grew before the run ended"
        assert np.isfinite(dock.bench.layers.maps[0].data).any()
    finally:
        dock.unmixing.live.setChecked(False)
        session.stop()
        qtbot.waitUntil(lambda: not session.status.active and not dock.busy, timeout=60_000)


def test_closing_the_dock_loses_nothing(unmixed, window, qtbot):
    result = unmixed.bench.result
    window.window.remove_dock_widget(unmixed)
    again = UnmixingDock(window)
    qtbot.addWidget(again)
    assert again.bench is bench_for(window)
    assert again.bench.result is result
    assert again.components.table.rowCount() == 3
    assert again.bench.layers.maps[0] in window.layers


def test_deleted_maps_come_back_with_the_next_result(unmixed, window, qtbot):
    window.layers.remove(unmixed.bench.layers.maps[1])
    unmixed.components.table.item(1, 0).setCheckState(Qt.CheckState.Unchecked)  # nothing to hide: no error
    unmixed.unmix()
    rested(unmixed, qtbot)
    assert all(layer in window.layers for layer in unmixed.bench.layers.maps)


def test_light_has_no_elements(window, qtbot, truth):
    from napari_smarttem.widgets.unmixing_input import Spectra

    dock = base.open_dock(window, "Unmixing")
    frame: Frame = truth.frame.with_data(truth.frame.data, signal="CL")
    dock.bench.take(Spectra("light", frame))
    dock._show_input()
    assert not dock.unmixing.elements.isEnabled()
    dock.unmixing.components.setValue(3)
    dock.unmix()
    rested(dock, qtbot)
    assert dock.bench.result is not None, dock.message.text()


def test_a_file_dropped_on_the_dock_is_taken(window, qtbot, set_file):
    dock = base.open_dock(window, "Unmixing")
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(set_file))])
    event = QDropEvent(
        QPointF(QPoint(20, 20)),
        Qt.DropAction.CopyAction,
        data,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    dock.dropEvent(event)
    rested(dock, qtbot)
    assert dock.bench.spectra.path == set_file
