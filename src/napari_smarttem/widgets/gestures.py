"""What a hand does on the canvas: clicks, keys and the lasso, as intents of the review layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schema import TargetState
from .lasso import follow_drag, inside_polygon

if TYPE_CHECKING:
    from .review_layer import ReviewLayer

KEYS_HELP = (
    "Click selects, a click on the selected one changes its verdict. A approve, R reject, U undecided, L lasso, "
    "Ctrl+Z undo, Ctrl+Shift+Z redo."
)
_PAN_PIXELS = 4.0
_LINE_PIXELS = 1.5


def bind_gestures(review_layer: ReviewLayer, layer: Any) -> None:
    """Give a Points layer the keys and clicks of the review. They act while the layer is the active one."""
    actions: dict[str, Callable[[], Any]] = {
        "A": review_layer.approve,
        "R": review_layer.reject,
        "U": review_layer.reset,
        "Control-Z": review_layer.undo,
        "Control-Shift-Z": review_layer.redo,
        "Control-Y": review_layer.redo,
        "L": lambda: review_layer.set_lasso(not review_layer.lasso),
        "Escape": lambda: review_layer.set_lasso(False),
    }
    for key, action in actions.items():
        layer.bind_key(key, _without_layer(action), overwrite=True)

    def dragged(_layer: Any, event: Any) -> Iterator[None]:
        if str(layer.mode) != "pan_zoom" or event.button != 1:
            return
        yield from (_lassoed if review_layer.lasso else _clicked)(review_layer, layer, event)

    layer.mouse_drag_callbacks.append(dragged)


def _without_layer(action: Callable[[], Any]) -> Callable[[Any], None]:
    """A key binding that calls `action` without napari's layer argument."""

    def binding(_layer: Any) -> None:
        action()

    return binding


def _clicked(review_layer: ReviewLayer, layer: Any, event: Any) -> Iterator[None]:
    """Select; with Shift or Ctrl add or take away; on the only selected target: its next verdict."""
    row = review_layer.row_at(float(event.position[-2]), float(event.position[-1]))
    start = np.asarray(event.pos, dtype=float)
    extend = "Shift" in event.modifiers or "Control" in event.modifiers
    yield
    while event.type == "mouse_move":
        if np.hypot(*(np.asarray(event.pos, dtype=float) - start)) > _PAN_PIXELS:
            return  # the person pans
        yield
    selected = {int(i) for i in layer.selected_data}
    if row is None:
        if not extend:
            layer.selected_data = set()
    elif extend:
        layer.selected_data = selected ^ {row}
    elif selected == {row}:
        _next_verdict(review_layer, row)
    else:
        layer.selected_data = {row}
    review_layer.report_selection()


def _next_verdict(review_layer: ReviewLayer, row: int) -> None:
    item = review_layer.items[row]
    verdicts = {
        TargetState.PROPOSED: review_layer.approve,
        TargetState.APPROVED: review_layer.reject,
        TargetState.REJECTED: review_layer.reset,
    }
    if item.state in verdicts:
        verdicts[item.state]((item.target.target_id,))


def _lassoed(review_layer: ReviewLayer, layer: Any, event: Any) -> Iterator[None]:
    """Select what the dragged line encircles; with Shift, besides what is selected."""
    extend = "Shift" in event.modifiers
    corners: list[tuple[float, float]] = []
    for drawn in follow_drag(event, review_layer.lasso_line, _LINE_PIXELS / review_layer.pixels_per_nm()):
        corners = drawn
        yield
    if review_layer.lasso_line is not None:
        review_layer.lasso_line.clear()
    if layer is not review_layer.layer:
        return  # deleted meanwhile
    inside = {int(i) for i in np.nonzero(inside_polygon(review_layer.places_nm, np.asarray(corners)))[0]}
    layer.selected_data = ({int(i) for i in layer.selected_data} if extend else set()) | inside
    review_layer.report_selection()
