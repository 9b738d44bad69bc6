"""The plain decoder network: biases -> pattern, learned from measured pairs alone. The baseline of the fitted physics.

``smarttem train caustics`` trains it for one simulated plate: what it learns holds for that plate only, which is why no weights are
shipped and why the fitted decoder (`single_pixel.predict`) is what the product uses.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..physics.caustics import BIAS_LIMIT_V, NEEDLES, Caustics, built_optics, built_plate, record
from .predict import nrmse, pearson

PAIRS = 10_000
ELECTRONS = 1e5
SCALE = 1e3
"""Patterns are learned as fractions of the beam times this, about one on average where they are bright."""


class DecoderTask:
    """What `nn.training.train` needs to know.

    Parameters
    ----------
    pairs : int
        Measured biases and patterns; every batch is drawn from them.
    plate_seed : int
        Of the simulated plate.
    """

    name = "caustics"
    steps = 4000
    batch = 64
    rate = 2e-3

    def __init__(
        self, pairs: int = PAIRS, plate_seed: int = 0, measured: tuple[np.ndarray, np.ndarray] | None = None
    ) -> None:
        self.pairs, self.plate_seed, self._given = pairs, plate_seed, measured

    @functools.cached_property
    def caustics(self) -> Caustics:
        """The plate."""
        rng = np.random.default_rng(self.plate_seed)
        return Caustics(built_plate(rng), built_optics(rng), samples=64, oversampling=1)

    @functools.cached_property
    def _measured(self) -> tuple[np.ndarray, np.ndarray]:
        if self._given is not None:
            return self._given
        rng = np.random.default_rng([self.plate_seed, 51])
        biases = rng.uniform(-BIAS_LIMIT_V, BIAS_LIMIT_V, (self.pairs, NEEDLES))
        return biases, record(self.caustics.patterns(biases), ELECTRONS, rng)

    def architecture(self) -> dict[str, Any]:
        """See `nn.networks.PatternDecoder`."""
        return {"kind": "pattern-decoder", "inputs": NEEDLES, "pixels": 64}

    def prepare(self, network: Any) -> None:
        """Chance will do."""

    def data(self, step: int, steps: int, seed: int, batch: int, device: str) -> Any:
        """Biases over their limit, and patterns times `SCALE`."""
        import torch

        biases, patterns = self._measured
        chosen = np.random.default_rng([seed, 52, step]).integers(0, len(biases), batch)
        inputs = torch.tensor(biases[chosen] / BIAS_LIMIT_V, dtype=torch.float32, device=device)
        return inputs, torch.tensor(patterns[chosen] * SCALE, dtype=torch.float32, device=device)

    def loss(self, network: Any, data: Any) -> Any:
        """Mean squared difference of the patterns."""
        inputs, patterns = data
        return ((network(inputs) - patterns) ** 2).mean()

    @functools.cached_property
    def _validation(self) -> tuple[np.ndarray, np.ndarray]:
        biases = np.random.default_rng([self.plate_seed, 53]).uniform(-BIAS_LIMIT_V, BIAS_LIMIT_V, (300, NEEDLES))
        return biases, self.caustics.patterns(biases)

    def validate(self, network: Any, device: str) -> dict[str, float]:
        """Pearson and NRMSE on 300 noise-free patterns never trained on; the score is the NRMSE."""
        biases, truth = self._validation
        found = decoded(network, biases, device)
        error = float(nrmse(found, truth).mean())
        return {"score": error, "nrmse": error, "pearson": float(pearson(found, truth).mean())}

    def card(self) -> dict[str, Any]:
        """Data and ranges."""
        return {
            "purpose": "biases of one simulated phase plate -> its pattern; a baseline, good for that plate only",
            "licence": "GPL-3.0-or-later",
            "data": {
                "source": f"{self.pairs} pairs simulated by napari_smarttem.physics.caustics, plate seed {self.plate_seed}",
                "biases_v": [-BIAS_LIMIT_V, BIAS_LIMIT_V],
                "electrons": ELECTRONS,
            },
        }


def decoded(network: Any, biases_v: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Patterns a trained network makes of biases, (n, 64, 64), fractions of the beam."""
    import torch

    with torch.no_grad():
        inputs = torch.tensor(np.asarray(biases_v) / BIAS_LIMIT_V, dtype=torch.float32, device=device)
        return np.asarray(torch.cat([network(part) for part in inputs.split(64)]).cpu().numpy() / SCALE)


def task() -> DecoderTask:
    """The trainer of ``smarttem train caustics``."""
    return DecoderTask()
