"""Where a dock goes when it is first shown: napari puts every new one below the others, where there is no room for it."""

from __future__ import annotations

from typing import Any

from qtpy.compat import isalive
from qtpy.QtCore import Qt

from .base import SessionWidget, stay_on_screen
from .launch import dock_of


def join_tabs(widget: SessionWidget, width: int, apart: tuple[type, ...] = ()) -> bool:
    """Make a widget's dock a tab beside another of our docks on the same side of the window.

    Parameters
    ----------
    widget : SessionWidget
    width : int
        What the side should be at least, in pixels.
    apart : tuple of type
        Kinds of widgets that it does not share a place with.

    Returns
    -------
    bool
        False where there was no dock to join.
    """
    mine = dock_of(widget) if isalive(widget) else None
    if mine is None or mine.isFloating() or widget.viewer is None:
        return False
    main = widget.viewer.window._qt_window
    side = main.dockWidgetArea(mine)
    if mine.width() < width:
        main.resizeDocks([mine], [width], Qt.Orientation.Horizontal)
    others = [one for one in main.findChildren(SessionWidget) if one is not widget and not isinstance(one, apart)]
    docks = [dock for dock in map(dock_of, others) if dock is not None and dock.isVisible() and not dock.isFloating()]
    beside = [dock for dock in docks if main.dockWidgetArea(dock) == side]
    if not beside:
        return False
    if beside[0] not in main.tabifiedDockWidgets(mine):
        main.tabifyDockWidget(beside[0], mine)
        mine.raise_()
    stay_on_screen(main)
    mine.setWindowTitle(mine.windowTitle().split(" (")[0])  # with the plugin's name behind it nobody could read the tab
    return True


def place_below_canvas(widget: Any, height: int) -> None:
    """Move a widget's dock under the canvas, as high as `height` where the window allows."""
    dock = dock_of(widget)
    if dock is None or dock.isFloating():
        return
    main = widget.viewer.window._qt_window
    # the docks on the right keep their full height
    main.setCorner(Qt.Corner.BottomRightCorner, Qt.DockWidgetArea.RightDockWidgetArea)
    main.setCorner(Qt.Corner.BottomLeftCorner, Qt.DockWidgetArea.LeftDockWidgetArea)
    main.addDockWidget(Qt.DockWidgetArea.BottomDockWidgetArea, dock)
    main.resizeDocks([dock], [height], Qt.Orientation.Vertical)
