"""How maps of an unmixing result lie on the specimen plane: an image, a band for a line scan, patches for the spectra of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..schema import Axis, Field2D, Frame
from .live_maps import PatchGrid

BAND = 8
"""A line scan is drawn as a band, so many times longer than high: one pixel would hardly be seen."""


class Canvas:
    """How maps of a result become images on the specimen plane.

    Parameters
    ----------
    axes : tuple of Axis
        y and x of the maps.
    shape : (int, int)
    places_nm : ndarray, optional
        ``(n, 2)`` for the spectra of a run: each map value colours the surroundings of its place.
    """

    def __init__(self, axes: Sequence[Axis], shape: tuple[int, int], places_nm: np.ndarray | None = None) -> None:
        self.shape = shape
        self.places_nm = places_nm
        self._grid: PatchGrid | None = None
        if places_nm is not None:
            self._grid = _grid(places_nm)
            half = self._grid.pixel_nm / 2
            self.axes = tuple(
                Axis(name=name, units="nm", scale=self._grid.pixel_nm, offset=start + half)
                for name, start in (("y", self._grid.field.y_nm), ("x", self._grid.field.x_nm))
            )
        elif shape[0] == 1:
            height = abs(axes[1].scale) * shape[1] / BAND
            self.axes = (Axis(name="y", units=axes[1].units, scale=height, offset=0.0), axes[1])
        else:
            self.axes = (axes[0], axes[1])

    @property
    def drawn_shape(self) -> tuple[int, int]:
        """Rows and columns of the image that is drawn."""
        return self.shape if self._grid is None else (self._grid.owner.shape[0], self._grid.owner.shape[1])

    def image(self, values: np.ndarray, name: str, metadata: dict[str, Any]) -> Frame:
        """Values ``(y, x)`` of a map as a frame to draw; NaN where a run has measured nothing."""
        if self._grid is not None:
            values = self._grid.image(values.ravel())
        return Frame(
            data=np.asarray(values, dtype=np.float32), axes=self.axes, signal=name, quantity="amount", metadata=metadata
        )

    def pixel(self, row: float, column: float) -> tuple[int, int] | None:
        """Pixel of the map under a pixel of the drawn image; None beside it."""
        if self._grid is not None:
            owner = self._grid.owner
            i, j = round(row), round(column)
            if not (0 <= i < owner.shape[0] and 0 <= j < owner.shape[1]) or owner[i, j] < 0:
                return None
            return 0, int(owner[i, j])
        i, j = round(row), round(column)
        return (i, j) if 0 <= i < self.shape[0] and 0 <= j < self.shape[1] else None

    def place(self, row: int, column: int) -> tuple[float, float]:
        """Where the centre of a map's pixel lies, y and x in the units of the axes."""
        if self.places_nm is not None:
            return float(self.places_nm[column, 0]), float(self.places_nm[column, 1])
        y, x = self.axes
        return y.offset + y.scale * row, x.offset + x.scale * column


def _grid(places_nm: np.ndarray) -> PatchGrid:
    """Patches as large as the places are apart."""
    low, high = places_nm.min(axis=0), places_nm.max(axis=0)
    extent = max(float((high - low).max()), 1.0)
    spacing = extent / 10
    if len(places_nm) > 2:
        from scipy.spatial import cKDTree

        nearest = cKDTree(places_nm).query(places_nm[:5000], k=2)[0][:, 1]
        spacing = min(spacing, max(float(np.median(nearest)), extent / 100))
    low, high = low - spacing, high + spacing
    grid = PatchGrid(
        Field2D(
            y_nm=float(low[0]), x_nm=float(low[1]), height_nm=float(high[0] - low[0]), width_nm=float(high[1] - low[1])
        ),
        spacing,
    )
    for number, place in enumerate(places_nm):
        grid.add(number, float(place[0]), float(place[1]))
    return grid
