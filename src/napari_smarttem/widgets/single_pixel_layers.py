"""The picture, its uncertainty and the dose of a single-pixel run as layers on the specimen, in nm and where they were measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..schema import image_frame
from .layers import show_image
from .single_pixel_record import Imaging
from .turns import Turns

NAMES = {"picture": "1-pixel picture", "uncertainty": "1-pixel sigma", "dose": "1-pixel dose"}
"""Short: napari's list of layers has room for some twenty letters, and *SIMULATED* may follow."""
BETWEEN_S = 0.5
"""At least, between two drawings of the canvas within a batch; without a graphics card each takes tens of milliseconds."""
_COLORMAPS = {"picture": "gray", "uncertainty": "viridis", "dose": "magma"}
_QUANTITIES = {"picture": "transmission", "uncertainty": "transmission", "dose": "e/Å²"}


class PictureLayers:
    """Keeps the three layers of one viewer up to date; a layer that the person deletes comes back with the next run.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._run: Imaging | None = None
        self._layers: dict[str, Any] = {}
        self._drawn: dict[str, np.ndarray] = {}
        self._at = 0.0
        self._simulated = False
        self._turns = Turns(getattr(getattr(viewer, "window", None), "_qt_window", None))

    @property
    def layers(self) -> dict[str, Any]:
        """By ``"picture"``, ``"uncertainty"`` and ``"dose"``; those that are there."""
        return {name: layer for name, layer in self._layers.items() if layer in self._viewer.layers}

    def show_run(self, run: Imaging | None, *, simulated: bool) -> None:
        """Draw what is new of a run, a layer in each turn of the event loop; nothing before its first batch, when the place on
        the specimen is not known yet.
        """
        if run is None or not run.pixel_nm:
            return
        now = time.monotonic()
        if run is self._run and run.picture is not run.settled and now - self._at < BETWEEN_S:
            return
        self._at, self._simulated = now, simulated
        if run is not self._run:
            self._run = run
            self._layers = self.layers
            self._drawn.clear()
        if not self._turns.going:
            self._turns.start(self._parts())

    def _parts(self) -> Iterator[None]:
        """Draws until everything is as new as it can be: what arrives meanwhile is not left out."""
        while self._run is not None and (name := self._waiting()) is not None:
            self._draw(name, getattr(self._run, name), self._run, self._simulated)
            yield

    def _waiting(self) -> str | None:
        for name in NAMES:
            data = getattr(self._run, name)
            gone = name in self._layers and self._layers[name] not in self._viewer.layers
            if data is not None and data is not self._drawn.get(name) and not gone:
                return name
        return None

    def _draw(self, name: str, data: np.ndarray, run: Imaging, simulated: bool) -> None:
        fresh = name not in self._layers
        frame = image_frame(
            np.asarray(data, dtype=np.float32),
            pixel_nm=run.pixel_nm,
            origin_nm=(run.origin_nm[0] + run.pixel_nm / 2, run.origin_nm[1] + run.pixel_nm / 2),
            signal=NAMES[name],
            quantity=_QUANTITIES[name],
            metadata={"simulated": simulated},
        )
        self._layers[name] = show_image(
            self._viewer,
            frame,
            self._layers.get(name),
            colormap=_COLORMAPS[name],
            metadata={"path": str(run.folder), "kind": f"single-pixel {name}"},
        )
        self._drawn[name] = data
        if fresh:
            self._layers[name].visible = name == "picture"
            if name == "picture" and len(self._viewer.layers) == 1:
                self._viewer.reset_view()
