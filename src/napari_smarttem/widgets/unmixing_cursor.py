"""The mouse on the canvas, told to the *Unmixing* dock without keeping the dock alive."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any


def follow_mouse(dock: Any, viewer: Any) -> None:
    """Tell moves to ``dock._mouse_moved`` and clicks to ``dock._clicked`` until the dock is destroyed."""
    moved, pressed = _moved(dock), _pressed(dock)
    viewer.mouse_move_callbacks.append(moved)
    viewer.mouse_drag_callbacks.append(pressed)
    dock.destroyed.connect(partial(_forget, weakref.ref(viewer), moved, pressed))


def _moved(dock: Any) -> Any:
    """A callback for the viewer's list that does not keep the dock alive."""
    reference = weakref.ref(dock)

    def moved(_viewer: Any, event: Any) -> None:
        dock = _alive(reference)
        if dock is not None:
            dock._mouse_moved(event)

    return moved


def _pressed(dock: Any) -> Any:
    """The same for clicks: pressed and let go without a move between."""
    reference = weakref.ref(dock)

    def pressed(viewer: Any, event: Any) -> Any:
        active = viewer.layers.selection.active
        if event.button != 1 or (active is not None and active.mode != "pan_zoom"):
            return  # a hand that paints, draws or selects means something else
        position, moved = tuple(event.position), False
        yield
        while event.type == "mouse_move":
            moved = True
            yield
        dock = _alive(reference)
        if dock is not None and not moved:
            dock._clicked(position)

    return pressed


def _forget(viewer: Any, moved: Any, pressed: Any, *_: Any) -> None:
    """Take the callbacks of a dock that has gone out of the viewer's lists."""
    viewer = viewer()
    if viewer is not None:
        viewer.mouse_move_callbacks.remove(moved)
        viewer.mouse_drag_callbacks.remove(pressed)


def _alive(reference: Any) -> Any:
    from qtpy.compat import isalive

    dock = reference()
    return dock if dock is not None and isalive(dock) else None
