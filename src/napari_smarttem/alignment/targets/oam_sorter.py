"""The OAM sorter as an alignment target."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import numpy as np
from pydantic import JsonValue

from ...physics.oam import PARAMETERS, UNITS, Sorter, SorterOptics, power_in_bin, resolution_hbar
from ...physics.oam_range import RANGES
from ...physics.oam_states import InputState
from .base import AlignmentTarget, Guess, Parameter

MODEL = "oam_sorter"


class OamSorterTarget(AlignmentTarget):
    """Five misalignments of the sorter.

    Parameters
    ----------
    network : bool or None
        Whether a trained network gives the first guess; without it the search starts from nothing, which takes a second and
        comes to the same in the end. None: where torch is installed.
    optics : SorterOptics, optional
    state : InputState, optional
        What enters; the network knows the plane wave only, and is not asked about others.
    """

    name = "OAM sorter"
    camera = "sorter"
    parameters = tuple(Parameter(name, UNITS[name], RANGES[name]) for name in PARAMETERS)
    controls = ("sorter focus", "sorter size", "sorter shift x", "sorter shift y", "sorter rotation")

    def __init__(
        self, *, network: bool | None = None, optics: SorterOptics | None = None, state: InputState | None = None
    ) -> None:
        self.sorter = Sorter(optics, state)
        if network is None:
            network = all(importlib.util.find_spec(name) is not None for name in ("torch", "safetensors"))
        self.uses_network = network and state is None
        self.fine_hbar = np.linspace(-30.0, 30.0, 1201)

    def picture(self, parameters: np.ndarray) -> np.ndarray:
        """See `physics.oam.Sorter.images`."""
        return np.asarray(self.sorter.images(parameters)[0])

    def pictures(self, parameters: np.ndarray) -> np.ndarray:
        """See `physics.oam.Sorter.images`."""
        return self.sorter.images(parameters)

    def picture_and_slopes(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Analytic."""
        return self.sorter.image_and_slopes(parameters)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the model's picture."""
        return self.sorter.optics.pixels, self.sorter.optics.pixels

    @functools.cached_property
    def aligned(self) -> tuple[float, float]:
        """Resolution in hbar and share in the own 1-hbar bin of the aligned sorter."""
        return self.quality(np.zeros(len(PARAMETERS)))

    def quality(self, parameters: np.ndarray) -> tuple[float, float]:
        """Resolution in hbar, and the share of the electrons in the right 1-hbar bin."""
        spectrum = self.sorter.spectrum(parameters, self.fine_hbar)
        return resolution_hbar(self.fine_hbar, spectrum), power_in_bin(self.fine_hbar, spectrum)

    def merit(self, parameters: np.ndarray) -> float:
        """Power in the right bin over that of the aligned sorter."""
        return self.quality(parameters)[1] / self.aligned[1]

    def guess(self, counts: np.ndarray) -> Guess | None:
        """What the network says, with its variances."""
        if not self.uses_network:
            return None
        values, variances = self.read(counts[None])
        return Guess(values[0], np.diag(variances[0]))

    def read(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances by the network alone, shape (n, 5) each, of counted pictures (n, y, x)."""
        import torch

        from ..oam_training import SIGMA_FACTOR, reduced

        pictures, extras = reduced(counts)
        scale = self.half_ranges
        with torch.inference_mode():
            mean, log_variance = self._model.network(torch.from_numpy(pictures), torch.from_numpy(extras))
        metrics = self._model.card["metrics"]
        factor = np.array([float(metrics.get(f"{SIGMA_FACTOR}{name}", 1.0)) for name in PARAMETERS])
        return mean.numpy() * scale, np.exp(log_variance.numpy()) * (factor * scale) ** 2

    @property
    def provenance(self) -> dict[str, JsonValue]:
        """Name and sha256 of the network, where one is used."""
        return dict(self._model.provenance) if self.uses_network else {}

    @functools.cached_property
    def _model(self) -> Any:
        from ...nn.registry import load

        return load(MODEL)


def target(**settings: Any) -> OamSorterTarget:
    """Entry point."""
    return OamSorterTarget(**settings)
