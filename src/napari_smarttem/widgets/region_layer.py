"""Regions of the overview as a Labels layer that a person edits; what they painted is what the chooser gets."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from ..schema import Frame
from .layers import image_geometry, is_simulated, layer_name, live_layer, unwrapped


class RegionLayer:
    """The Labels layer of a viewer's regions, at most one.

    Parameters
    ----------
    viewer : napari.Viewer or ViewerModel
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer_reference = weakref.ref(unwrapped(viewer))
        self._layer: Any = None

    @property
    def _viewer(self) -> Any:
        """The viewer, None once it has gone; held weakly, as this object is kept for as long as the viewer lives."""
        return self._viewer_reference()

    @property
    def layer(self) -> Any:
        """The layer, None where there is none or the person deleted it."""
        return live_layer(self._viewer, self._layer) if self._viewer is not None else None

    def show(self, labels: np.ndarray, overview: Frame) -> Any:
        """Put ``(y, x)`` labels over the overview they belong to, replacing the regions shown before."""
        self.forget()
        geometry = image_geometry(overview)
        self._layer = self._viewer.add_labels(
            np.array(labels, dtype=np.int32),
            name=layer_name("Regions", simulated=is_simulated(overview)),
            opacity=0.35,
            **geometry,
        )
        return self._layer

    def labels(self, overview: Frame | None) -> np.ndarray | None:
        """The labels as they are painted now; None where there are none for this overview."""
        layer = self.layer
        if layer is None or overview is None or layer.data.shape != overview.shape:
            return None
        return np.asarray(layer.data)

    def forget(self) -> None:
        """Take the layer away."""
        layer = self.layer
        self._layer = None
        if layer is not None:
            self._viewer.layers.remove(layer)
