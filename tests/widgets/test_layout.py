"""All docks open: tabs of one place, in a window that stays on the screen."""

from __future__ import annotations

import pytest
from qtpy.QtCore import Qt

from napari_smarttem.widgets import base
from napari_smarttem.widgets.launch import dock_of

pytestmark = pytest.mark.gui

TITLES = ("Instrument", "Acquisition", "Spectrum", "Unmixing", "Alignment", "Single-pixel")


def test_a_laptops_window_does_not_grow_with_the_docks(shown_viewer, qtbot):
    main = shown_viewer.window._qt_window
    shown_viewer.window.resize(1280, 800)
    qtbot.wait(100)
    docks = [dock_of(base.open_dock(shown_viewer, title)) for title in TITLES]
    qtbot.wait(200)
    assert {main.dockWidgetArea(dock) for dock in docks} == {Qt.DockWidgetArea.RightDockWidgetArea}
    assert set(main.tabifiedDockWidgets(docks[0])) >= set(docks[1:])
    assert main.height() == 800
    room = main.screen().availableGeometry()
    main.resize(room.width(), room.height() + 400)
    base.stay_on_screen(main)
    qtbot.waitUntil(lambda: main.height() <= room.height())
