"""Training of the OAM sorter's estimator: pictures simulated on the way, so that no picture is ever seen twice."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from ..physics.oam import PARAMETERS, UNITS, Sorter, SorterOptics, frames
from ..physics.oam_range import HALF_RANGES, RANGES, draw

REACH = 1.2
"""Trained a little beyond the range, since estimates at its edge would else be drawn inwards."""

ELECTRONS = (3e3, 3e5)
BACKGROUND = 0.03
VALIDATION_FRAMES = 2000
TYPICAL_ELECTRONS = 1e4
SIGMA_FACTOR = "sigma_factor_"
"""Figures of the card by which the network's error bars are multiplied, one a parameter; measured on the validation pictures."""


class SorterTask:
    """What `nn.training.train` needs to know."""

    name = "oam_sorter"
    steps = 5000
    batch = 64
    rate = 1.5e-3

    def __init__(self) -> None:
        self.sorter = Sorter()

    def architecture(self) -> dict[str, Any]:
        """See `nn.networks.StridedNet`."""
        return {"kind": "strided", "outputs": len(PARAMETERS), "pixels": self.sorter.optics.pixels, "extras": 1}

    def prepare(self, network: Any) -> None:
        """Chance will do."""

    def data(self, step: int, steps: int, seed: int, batch: int, device: str) -> Any:
        """Reduced pictures, logarithms of the electrons, and true parameters in units of their half-ranges."""
        return _batch(self.sorter, batch, np.random.default_rng([seed, 41, step]), device)

    def loss(self, network: Any, data: Any) -> Any:
        """Gaussian negative log-likelihood."""
        from ..nn.networks import gaussian_loss

        pictures, extras, truth = data
        mean, log_variance = network(pictures, extras)
        return gaussian_loss(mean, log_variance, truth)

    @functools.cached_property
    def _validation(self) -> Any:
        return _batch(self.sorter, VALIDATION_FRAMES, np.random.default_rng([2026, 42]), "cpu", reach=1.0)

    def validate(self, network: Any, device: str) -> dict[str, float]:
        """R² of each parameter on 2000 pictures that are never trained on; the score is the mean relative squared error."""
        import torch

        pictures, extras, truth = (part.to(device) for part in self._validation)
        with torch.no_grad():
            parts = [network(p, e) for p, e in zip(pictures.split(250), extras.split(250), strict=True)]
        mean, log_variance = (torch.cat(part) for part in zip(*parts, strict=True))
        residual = (mean - truth).cpu().numpy()
        r2 = 1.0 - np.mean(residual**2, axis=0) / np.var(truth.cpu().numpy(), axis=0)
        figures = {f"r2_{name}": float(value) for name, value in zip(PARAMETERS, r2, strict=True)}
        figures |= {
            f"mae_percent_of_half_range_{name}": float(100 * value)
            for name, value in zip(PARAMETERS, np.abs(residual).mean(axis=0), strict=True)
        }
        # the kept weights are a running mean, better than those whose errors taught the variances: their size is set here
        pull = np.sqrt(np.mean(residual**2 * np.exp(-log_variance.cpu().numpy()), axis=0))
        figures |= {f"{SIGMA_FACTOR}{name}": float(value) for name, value in zip(PARAMETERS, pull, strict=True)}
        return {"score": float(np.mean(1.0 - r2)), **figures}

    def card(self) -> dict[str, Any]:
        """Data and ranges."""
        optics = self.sorter.optics
        return {
            "purpose": "five misalignments of an orbital-angular-momentum sorter, with variances, from one picture",
            "licence": "GPL-3.0-or-later",
            "data": {
                "source": "simulated on the way by napari_smarttem.physics.oam; no picture is seen twice",
                "input": "plane wave, 64 x 64 pixels of half an hbar, square root of the counts over their mean",
                "electrons": f"{ELECTRONS[0]:g} to {ELECTRONS[1]:g} a picture, evenly in the logarithm",
                "background": f"0 to {BACKGROUND:.0%} of the electrons, even",
                "validation": f"{VALIDATION_FRAMES} pictures within the ranges",
            },
            "ranges": {
                name: f"+-{RANGES[name]:g} {UNITS[name]}, trained to {REACH:g} times that" for name in PARAMETERS
            },
            "optics": {name: getattr(optics, name) for name in SorterOptics.__dataclass_fields__},
        }


def task() -> SorterTask:
    """Entry point of ``smarttem train oam-sorter``."""
    return SorterTask()


def reduced(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the network sees of counted pictures, shape (n, y, x): a picture and a number each.

    Counts are divided by their mean, never by their largest, which would lose how sure the picture is; their square root makes the
    noise even.
    """
    total = np.maximum(counts.sum(axis=(-2, -1), keepdims=True), 1.0)
    mean = total / (counts.shape[-1] * counts.shape[-2])
    pictures = np.sqrt(np.maximum(counts, 0.0) / mean).astype(np.float32)
    return pictures[:, None], np.log10(total[..., 0] / TYPICAL_ELECTRONS).astype(np.float32)


def _batch(sorter: Sorter, count: int, rng: np.random.Generator, device: str, reach: float = REACH) -> Any:
    import torch

    parameters = draw(count, rng, reach)
    low, high = (math.log(number) for number in ELECTRONS)
    electrons = np.exp(rng.uniform(low, high, count))
    background = rng.uniform(0.0, BACKGROUND, (count, 1, 1)) / sorter.optics.pixels**2
    counts = frames(sorter.images(parameters) + background, electrons, rng)
    pictures, extras = reduced(counts)
    truth = (parameters / HALF_RANGES).astype(np.float32)
    return tuple(torch.from_numpy(part).to(device) for part in (pictures, extras, truth))
