"""A lasso: drag a closed line around points to select them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from .layers import live_layer, unwrapped

_REDRAW_S = 0.03


def inside_polygon(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Which points lie inside a closed polygon, by the even-odd rule.

    Parameters
    ----------
    points : array, (n, 2)
    polygon : array, (m, 2)
        Corners in order; the last is joined to the first. Fewer than three enclose nothing.

    Returns
    -------
    array of bool, (n,)
    """
    points = np.asarray(points, dtype=float).reshape(-1, 2)
    corners = np.asarray(polygon, dtype=float).reshape(-1, 2)
    inside = np.zeros(len(points), dtype=bool)
    if len(corners) < 3:
        return inside
    box = np.all((points >= corners.min(axis=0)) & (points <= corners.max(axis=0)), axis=1)
    y, x = points[box].T
    hits = np.zeros(len(y), dtype=bool)
    for (y0, x0), (y1, x1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue  # a horizontal side is never crossed by a horizontal ray
        hits ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    inside[box] = hits
    return inside


class LassoLine:
    """The line on the canvas while a lasso is drawn: a Shapes layer that exists only while the tool is on."""

    def __init__(self, viewer: Any, active: Any) -> None:
        self._viewer = unwrapped(viewer)
        self._layer = self._viewer.add_shapes(
            ndim=2,
            name="Lasso",
            units=("nm", "nm"),
            axis_labels=("y", "x"),
            edge_color="#ffffff",
            face_color="transparent",
            metadata={"smarttem": {"kind": "lasso"}},
        )
        self._viewer.layers.selection.active = active
        self._drawn_at = 0.0

    def show(self, corners: list[tuple[float, float]], width_nm: float) -> None:
        """Draw the line so far; at most 30 times a second."""
        now = time.monotonic()
        layer = live_layer(self._viewer, self._layer)
        if layer is None or len(corners) < 2 or now - self._drawn_at < _REDRAW_S:
            return
        self._drawn_at = now
        layer.data = []
        layer.add_paths(np.asarray(corners), edge_width=width_nm, edge_color="#ffffff")

    def clear(self) -> None:
        """Take the line off the canvas."""
        layer = live_layer(self._viewer, self._layer)
        if layer is not None:
            layer.data = []

    def remove(self) -> None:
        """Take the layer out of the viewer."""
        layer = live_layer(self._viewer, self._layer)
        if layer is not None:
            self._viewer.layers.remove(layer)


def follow_drag(event: Any, line: LassoLine | None, width_nm: float) -> Iterator[list[tuple[float, float]]]:
    """Corners of the line drawn by a mouse drag, growing from event to event; the last one yielded is complete.

    Yields
    ------
    list of (y, x)
        In nm, the same list every time.
    """
    corners = [(float(event.position[-2]), float(event.position[-1]))]
    yield corners
    while event.type == "mouse_move":
        place = (float(event.position[-2]), float(event.position[-1]))
        if np.hypot(place[0] - corners[-1][0], place[1] - corners[-1][1]) > width_nm:
            corners.append(place)
            if line is not None:
                line.show(corners, width_nm)
        yield corners
