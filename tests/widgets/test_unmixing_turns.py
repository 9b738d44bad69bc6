"""The layers of a result are made one in each turn of the event loop, and nothing that happens in between loses one."""

# ruff: noqa: F811 (fixtures are imported and then arguments)
from __future__ import annotations

from itertools import pairwise

import pytest
from qtpy.QtCore import QEvent, QTimer
from qtpy.QtWidgets import QApplication, QWidget

from napari_smarttem.widgets import base
from napari_smarttem.widgets.turns import Turns
from napari_smarttem.widgets.unmixing_bench import bench_for

from .unmixing_window import found, rested, session, shared, truth, window  # noqa: F401

pytestmark = pytest.mark.gui


def test_a_part_each_turn_and_the_newest_work_wins(qtbot):
    turns, told = Turns(), []

    def parts(name, count):
        for number in range(count):
            told.append(f"{name}{number}")
            if name == "b" and number == 0:  # Qt handled a click while this part was being done
                turns.start(parts("c", 2), lambda: told.append("done c"))
                assert told[-1] == "b0", "nothing is begun inside a part"
            yield

    turns.start(parts("a", 10_000), lambda: told.append("done a"))
    assert told == [] and turns.going  # noqa: PT018
    qtbot.waitUntil(lambda: "a0" in told)
    turns.start(parts("b", 2), lambda: told.append("done b"))
    qtbot.waitUntil(lambda: not turns.going)
    assert [one for one in told if one[0] != "a"] == ["b0", "c0", "c1", "done c"]
    assert "done a" not in told
    turns.start(parts("d", 2), lambda: told.append("done d"))
    turns.finish()
    assert told[-3:] == ["d0", "d1", "done d"]


def test_an_error_ends_the_work_and_is_shown(qtbot):
    turns, told = Turns(), []

    def parts():
        yield
        raise ValueError("no such layer")

    with qtbot.captureExceptions() as errors:
        turns.start(parts(), lambda: told.append("done"))
        qtbot.waitUntil(lambda: not turns.going)
    assert [str(error) for _, error, _ in errors] == ["no such layer"]
    assert told == []


def test_nothing_is_made_for_a_window_that_closes(qtbot):
    main, told = QWidget(), []
    qtbot.addWidget(main)
    turns = Turns(main)
    turns.start(_counted(told))
    qtbot.waitUntil(lambda: bool(told))
    QApplication.sendEvent(main, QEvent(QEvent.Type.DeferredDelete))
    assert not turns.going
    count = len(told)
    turns.start(_counted(told))  # a word of the session that comes after the end
    assert not turns.going
    assert len(told) == count


def _counted(told):
    for number in range(10_000):
        told.append(number)
        yield


def test_the_window_lives_between_two_layers(window, qtbot, found):
    dock, layers = _shown(window, found)
    beats, between = [0], []
    beat = QTimer()
    beat.timeout.connect(lambda: beats.__setitem__(0, beats[0] + 1))
    beat.start(0)

    def inserted(_event):
        between.append(beats[0])
        assert not window.layers[-1].visible, "new layers stay hidden until all are there"

    window.layers.events.inserted.connect(inserted)
    rested(dock, qtbot)
    window.layers.events.inserted.disconnect(inserted)
    assert len(between) == 4, "three maps and what is left over"
    assert all(later > earlier for earlier, later in pairwise(between)), between
    assert [layer.visible for layer in layers.maps] == [True, True, True]
    assert not layers.residual.visible
    assert window.layers.selection.active is layers.maps[0]


def test_what_a_person_does_meanwhile_counts(window, qtbot, found):
    dock, layers = _shown(window, found)

    def busy_hands():
        dock.rename(1, "rim")
        dock._set_visible(0, False)
        dock._set_color(2, "#123456")

    after_the_first_layer(window, busy_hands)
    dock.pixel.window.setChecked(True)
    rested(dock, qtbot)
    assert [layer.visible for layer in layers.maps] == [False, True, True]
    assert layers.maps[1].name == "rim"
    assert layers.maps[2].colormap.colors[-1][0] == pytest.approx(0x12 / 255, abs=1e-3)
    assert window.layers[-1] is layers.window, "the map of the energy window lies over the others"
    assert len(window.layers) == 5, "no layer twice"


def test_a_closed_dock_leaves_the_layers_to_the_viewer(window, qtbot, found):
    dock, layers = _shown(window, found)
    closed = []

    def close():
        closed.append(len(layers.maps))
        window.window.remove_dock_widget(dock)
        dock.deleteLater()

    after_the_first_layer(window, close)
    qtbot.waitUntil(lambda: not layers.drawing, timeout=20_000)
    assert [layer.visible for layer in layers.maps] == [True, True, True]
    assert layers.residual in window.layers
    assert closed == [1]


def after_the_first_layer(viewer, do):
    def inserted(_event):
        viewer.layers.events.inserted.disconnect(inserted)
        QTimer.singleShot(0, do)

    viewer.layers.events.inserted.connect(inserted)


def _shown(viewer, found):
    spectra, result, unmixed = found
    bench = bench_for(viewer)
    bench.take(spectra)
    dock = base.open_dock(viewer, "Unmixing")
    bench.found(result, unmixed)
    dock._show_result(fresh=True)
    assert bench.layers.drawing
    assert dock.busy
    return dock, bench.layers
