"""A person's paint: a Labels layer over the data, read at the pixels of the spectrum image, whatever its own grid."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..schema import BadInput
from .layers import METADATA_KEY
from .unmixing_canvas import Canvas
from .unmixing_input import Spectra
from .unmixing_layers import PAINT


def labels_layers(viewer: Any) -> list[str]:
    """Names of the Labels layers, the topmost first."""
    return [layer.name for layer in reversed(viewer.layers) if type(layer).__name__ == "Labels"]


def canvas_of(spectra: Spectra) -> Canvas:
    """How maps of these spectra will be drawn."""
    return Canvas(spectra.frame.axes[:2], spectra.frame.shape[:2], spectra.places_nm)


def new_labels_layer(viewer: Any, spectra: Spectra) -> str:
    """Add an empty Labels layer over the data, ready to paint in, and return its name."""
    canvas = canvas_of(spectra)
    y, x = canvas.axes
    layer = viewer.add_labels(
        np.zeros(canvas.drawn_shape, dtype=np.uint8),
        name="kinds of pixels",
        scale=(y.scale, x.scale),
        translate=(y.offset, x.offset),
        units=(y.units, x.units),
        axis_labels=("y", "x"),
        metadata={METADATA_KEY: {"kind": PAINT}},
    )
    layer.mode = "paint"
    layer.brush_size = 2
    layer.selected_label = 1
    return str(layer.name)


def labels_for(viewer: Any, name: str, spectra: Spectra) -> np.ndarray:
    """The paint at each pixel of the spectra, ``(y, x)``, 0 where there is none.

    Raises
    ------
    BadInput
        No such layer, or nothing painted on the data.
    """
    if name not in viewer.layers or type(viewer.layers[name]).__name__ != "Labels":
        raise BadInput("Press New beside Labels, paint a few pixels of each kind on the data, and unmix again.")
    layer = viewer.layers[name]
    canvas = canvas_of(spectra)
    rows, columns = canvas.shape
    places = np.array([canvas.place(row, column) for row in range(rows) for column in range(columns)])
    # An affine transformation is known from three points; asking the layer for each pixel would take a second.
    origin, down, right = (np.asarray(layer.world_to_data(p))[-2:] for p in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)))
    at = np.rint(origin + places[:, :1] * (down - origin) + places[:, 1:] * (right - origin)).astype(int)
    data = np.asarray(layer.data)
    inside = ((at >= 0) & (at < data.shape[-2:])).all(axis=1)
    found = np.zeros(len(places), dtype=np.int64)
    found[inside] = data[at[inside, 0], at[inside, 1]]
    if not found.any():
        raise BadInput(f"Nothing is painted on the data in {name}; paint a few pixels of each kind.")
    return found.reshape(rows, columns)
