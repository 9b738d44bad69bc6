"""Kinds of pixels from a code of a few numbers: a one-dimensional convolutional autoencoder, then a Gaussian mixture.

The network sees spectra in the noise-scaled form (every channel has even noise), without their brightness, and with
neighbouring channels added up where there are more than it needs. It is trained to give back one half of the counts of a
spectrum from the other: the noise of the halves is independent, so that it learns spectra and not noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..nn.registry import require_torch
from ..schema import BadInput
from .classify import from_probabilities
from .methods_base import Found

if TYPE_CHECKING:
    from .engine import Problem

WIDTH = 256
"""Most numbers of a spectrum that go in."""
SAMPLE = 8192
"""Pixels that are learnt from."""


def find_autoencoder(problem: Problem) -> Found:
    """Autoencoder and Gaussian mixture.

    Options: ``latent`` numbers in the code (one less than components, 2 to 4), ``steps`` of training (350).

    Raises
    ------
    BadInput
        PyTorch is missing, or a setting below one.
    """
    require_torch()
    import torch
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    k, rng = problem.k, problem.rng
    latent = int(problem.options.get("latent", min(max(k - 1, 2), 4)))
    steps = int(problem.options.get("steps", 350))
    if latent < 1 or steps < 1:
        raise BadInput("The code needs at least one number, and the network at least one step of training.")
    torch.manual_seed(int(rng.integers(2**31 - 1)))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        code = _codes(problem, torch, latent, steps)
    finally:
        torch.set_num_threads(before)
    code = (code - code.mean(axis=0)) / np.maximum(code.std(axis=0), 1e-9)
    problem.report(0.86, "Gaussian mixture of the code")
    lit = problem.subspace.pixel_scale > 0
    with threadpool_limits(limits=1):
        # one covariance for all kinds: with one of its own a wide kind takes in the mixtures that lie between the others
        model = GaussianMixture(
            k, covariance_type="tied", reg_covar=1e-3, n_init=4, random_state=int(rng.integers(2**31 - 1))
        )
        learnt = np.flatnonzero(lit)
        model.fit(code[learnt if len(learnt) <= 50_000 else rng.choice(learnt, 50_000, replace=False)])
        probabilities = np.asarray(model.predict_proba(code))
    probabilities[~lit] = 1.0 / k
    return from_probabilities(
        problem,
        probabilities,
        f"Every pixel belongs to one of a few kinds, which lie apart in a code of {latent} numbers that a network learnt.",
    )


class _Pixels:
    """Scaled spectra, some pixels at a time: ``(pixels, width)``, noise of about one before the brightness is divided out."""

    def __init__(self, problem: Problem) -> None:
        subspace, self._image = problem.subspace, problem.image
        held = np.flatnonzero(subspace.channel_scale > 0)
        self._held, self._step = held, int(np.ceil(len(held) / WIDTH))
        self._starts = np.arange(0, len(held), self._step)
        scale = subspace.channel_scale[held].astype(np.float64)
        # optimal sum of scaled channels: counts are added, and divided by the root of what is expected of their sum
        self._channel = np.sqrt(np.add.reduceat(scale**2, self._starts))
        self._bright = subspace.pixel_scale.astype(np.float64)
        self.typical = float(np.median(self._bright[self._bright > 0]))
        self.counts = subspace.counts

    @property
    def width(self) -> int:
        """Numbers in a spectrum."""
        return len(self._starts)

    def scaled(self, counts: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Binned counts of some pixels in the noise-scaled form, as bright as the median pixel."""
        bright = self._bright[pixels]
        shape = counts / self._channel / np.where(bright > 0, bright**2, np.inf)[:, None]
        return np.asarray(shape * self.typical, dtype=np.float32)

    def binned(self, pixels: np.ndarray) -> np.ndarray:
        """Counts with channels added up, ``(pixels, width)``."""
        return np.asarray(
            np.add.reduceat(self._image.rows(pixels)[:, self._held].astype(np.float64), self._starts, axis=1)
        )

    def weight(self, pixels: np.ndarray) -> np.ndarray:
        """How sure a pixel's shape is compared to the median pixel's, at most one."""
        return np.asarray(np.minimum((self._bright[pixels] / self.typical) ** 2, 1.0), dtype=np.float32)


def _halves(counts: np.ndarray, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Counts given to one of two halves by the toss of a coin, three times; doubled."""
    whole = np.maximum(np.rint(counts), 0).astype(np.int64)
    tossed = [rng.binomial(whole, 0.5) for _ in range(3)]
    return [
        (np.float32(2) * one.astype(np.float32), np.float32(2) * (whole - one).astype(np.float32)) for one in tossed
    ]


def _codes(problem: Problem, torch: Any, latent: int, steps: int) -> np.ndarray:
    """Codes of all pixels, ``(pixels, latent)``."""
    nn, rng, seen = torch.nn, problem.rng, _Pixels(problem)
    lit = np.flatnonzero(problem.subspace.pixel_scale > 0)
    sample = np.sort(rng.choice(lit, min(SAMPLE, len(lit)), replace=False))
    counts, weight = seen.binned(sample), seen.weight(sample)
    whole = seen.scaled(counts, sample)
    middle = whole.mean(axis=0)
    pairs = _halves(counts, rng) if seen.counts and counts.min() >= 0 else [(counts, counts)]
    spread = float(np.sqrt(np.mean((whole - middle) ** 2))) or 1.0
    encoder = nn.Sequential(
        nn.Unflatten(1, (1, seen.width)),
        nn.Conv1d(1, 8, 9, stride=4, padding=4),
        nn.Tanh(),
        nn.Conv1d(8, 16, 9, stride=4, padding=4),
        nn.Tanh(),
        nn.Flatten(),
        nn.LazyLinear(latent),
    )
    decoder = nn.Sequential(nn.Linear(latent, 32), nn.Tanh(), nn.Linear(32, seen.width))
    encoder(torch.zeros(1, seen.width))  # sizes of the lazy layer
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=4e-3)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        if step % 20 == 0:
            problem.report(0.65 + 0.2 * step / steps, "autoencoder")
        rows = rng.choice(len(sample), min(256, len(sample)), replace=False)
        first, second = pairs[step // 2 % len(pairs)][:: 1 if step % 2 else -1]
        given, wanted = (
            torch.from_numpy((seen.scaled(half[rows], sample[rows]) - middle) / spread) for half in (first, second)
        )
        optimiser.zero_grad()
        error = ((decoder(encoder(given)) - wanted) ** 2).mean(dim=1)
        (error * torch.from_numpy(weight[rows])).mean().backward()
        optimiser.step()
        plan.step()
    out = np.empty((problem.image.pixels, latent))
    with torch.no_grad():
        for start in range(0, len(out), 2048):
            pixels = np.arange(start, min(start + 2048, len(out)))
            part = (seen.scaled(seen.binned(pixels), pixels) - middle) / spread
            out[pixels] = encoder(torch.from_numpy(part)).numpy()
    return out
