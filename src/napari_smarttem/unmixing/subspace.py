"""Poisson scaling and a randomized SVD, in two passes over the data, each of which reads every spectrum once.

Keenan and Kotula (Surf. Interface Anal. 36, 2004, 203): dividing counts ``X`` by the square roots of row and column
means, ``D = G^-1/2 X H^-1/2``, makes Poisson noise nearly uniform, here of variance one. Halko, Martinsson and Tropp
(SIAM Rev. 53, 2011, 217): a random sketch and power iterations find the leading singular vectors. While a block of
spectra is in the cache it is multiplied from both sides, so that one reading gives a whole power iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..schema import BadInput, Cancelled
from . import noise as noise_law
from . import passes
from .spectra import SpectrumImage

OVERSAMPLE = 3
LANES = 8
"""Columns are filled up to a multiple of this: a product with 21 takes longer than one with 24."""
DOUBTED = 1.15
"""Whole numbers whose noise is by this factor more than that of counting are taken for something else than counts."""
SMALLEST_COUNTS = 10.0
"""A channel (pixel) is never taken to hold fewer counts than this in all when its noise is judged."""


@dataclass(frozen=True)
class Subspace:
    """The leading singular vectors of the scaled data.

    Parameters
    ----------
    scores : ndarray
        ``(pixels, r)``: ``U s``; noise of variance `noise` in every direction, to good approximation.
    vectors : ndarray
        ``(channels, r)``: right singular vectors, orthonormal but for noise.
    values : ndarray
        ``(r,)`` singular values, falling.
    pixel_scale, channel_scale : ndarray
        Square roots of g and h; ``X ~ pixel_scale * (scores @ vectors.T) * channel_scale``. Zero where nothing was
        measured.
    norms : ndarray
        ``(pixels,)`` squared norm of each scaled spectrum.
    noise : float
        Variance of the scaled noise, one for pure counting noise: the gain in counts per electron.
    poisson : bool
        False where the noise was taken as the same everywhere.
    passes : int
        How often the data were read.
    total : float
        Sum of all counts, the offset in each value included.
    counts : bool
        True where the values looked at are whole numbers with the noise of counting.
    offset : float
        What is added to every mean where noise is meant, in units of the data: the variance of the read-out over the gain.
    signed : bool
        True where the mean spectrum is below zero somewhere, by more than the noise: something was subtracted.
    """

    scores: np.ndarray
    vectors: np.ndarray
    values: np.ndarray
    pixel_scale: np.ndarray
    channel_scale: np.ndarray
    norms: np.ndarray
    noise: float
    poisson: bool
    passes: int
    total: float
    counts: bool = True
    offset: float = 0.0
    signed: bool = False

    @property
    def mean(self) -> np.ndarray:
        """Mean spectrum of all pixels ``(channels,)``, in units of the data; only where `poisson`."""
        h = self.channel_scale**2
        return np.asarray(np.where(h > 0, h * np.sqrt(self.total) / len(self.pixel_scale) - self.offset, 0.0))

    @property
    def read_out(self) -> float:
        """Standard deviation of a value without signal, in units of the data; zero for counts."""
        return float(np.sqrt(self.noise * self.offset)) if self.poisson else 0.0

    @property
    def size(self) -> tuple[int, int]:
        """Pixels and channels that hold anything."""
        return int(np.count_nonzero(self.pixel_scale)), int(np.count_nonzero(self.channel_scale))

    def spectra(self, directions: np.ndarray) -> np.ndarray:
        """Spectra in data units of rows in the subspace ``(m, r)``: ``(m, channels)``."""
        r = directions.shape[1]
        return np.asarray((directions @ self.vectors[:, :r].T) * self.channel_scale)


def decompose(
    image: SpectrumImage,
    rank: int,
    *,
    seed: int = 0,
    poisson: bool | None = None,
    iterations: int = 1,
    start: Subspace | None = None,
    client: Any = None,
    progress: Callable[[float, str], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Subspace:
    """Leading `rank` singular vectors of the scaled data.

    Parameters
    ----------
    image : SpectrumImage
    rank : int
        Number of singular vectors wanted; fewer where the data is smaller.
    seed : int
        Of the random sketch.
    poisson : bool, optional
        True: counts. False: the same noise everywhere. None: counts where the values are whole numbers, none is negative, and
        their noise is that of counting; else what `noise.estimate` finds.
    iterations : int
        Readings of the data after the first one, at least one; each is a power iteration.
    start : Subspace, optional
        Go on from these vectors instead of a random sketch.
    client : dask.distributed.Client, optional
        Whose workers read and multiply data that are not in memory.
    progress, cancel : callable, optional
        Told the fraction done and a word; asked between blocks whether to stop.

    Raises
    ------
    BadInput
        NaN or infinite values, or nothing but zeros.
    Cancelled
        A person asked to stop.
    """
    rng = np.random.default_rng(seed)
    n, m = image.pixels, image.channels
    width = min(-(-(rank + OVERSAMPLE + 1) // LANES) * LANES - 1, n, m)
    asked = poisson is True and start is None
    sample = image.sample(256)
    finite = bool(np.isfinite(sample).all())
    whole = finite and bool((sample == np.rint(sample)).all())
    if start is not None:
        offset, poisson = start.offset, start.poisson
    elif poisson is None and finite and (not whole or sample.min() < 0):
        offset, poisson = _offset(sample)
    else:
        offset = 0.0
    guess = _guess(sample)
    sketch = rng.standard_normal((m, width), dtype=np.float32)
    sketch /= np.sqrt(guess)[:, None].astype(np.float32)
    if start is not None:
        old = start.vectors.shape[1]
        sketch[:, :old] = start.vectors * _inverse_root(start.channel_scale**2)[:, None]
        sketch[:, old:] *= (
            float(np.abs(sketch[:, :old]).mean() / np.abs(sketch[:, old:]).mean()) if old < width else 1.0
        )

    def report(fraction: float, word: str) -> None:
        if cancel is not None and cancel():
            raise Cancelled("The unmixing was stopped.")
        if progress is not None:
            progress(fraction, word)

    total_passes = iterations + 1

    def told(turn: int, word: str) -> Callable[[float], None]:
        return lambda fraction: report((turn + fraction) / total_passes, word)

    first = passes.sums(image, sketch, poisson is not False, offset * m, told(0, "sums"), client=client)
    row_sums, column_sums = first.rows, first.columns
    if not np.isfinite(column_sums).all():
        bad = int(np.count_nonzero(~np.isfinite(row_sums)))
        raise BadInput(
            f"{bad} of {n} spectra hold NaN or infinite values; crop them away, or mask or interpolate them first."
        )
    if not np.any(column_sums != 0) and first.lowest == 0:
        raise BadInput("Every channel of every spectrum is zero: there is nothing to unmix.")
    free = poisson is None
    if poisson is None:
        poisson = True
        if first.lowest < 0:  # not in the sample, so there are few of them
            offset, poisson = _offset(sample)
        if not poisson:  # the first pass took them for counts
            first = passes.sums(image, sketch, False, 0.0, told(0, "sums"), client=client)
    elif asked and first.lowest < 0:
        raise BadInput(
            f"Counts cannot be negative and the lowest value is {first.lowest:.4g}; unmix with noise='uniform'."
        )
    if poisson:
        rows, columns = (
            np.where(sums != 0, sums + offset * others, 0.0) for sums, others in ((row_sums, m), (column_sums, n))
        )
        total = float(columns.sum())
        g, h = rows / np.sqrt(total), columns / np.sqrt(total)
        floor = SMALLEST_COUNTS / np.sqrt(total)
        g, h = np.where(g > 0, np.maximum(g, floor), 0.0), np.where(h > 0, np.maximum(h, floor), 0.0)
    else:
        total = float(n * m)
        g, h = np.ones(n), np.ones(m)
    left, right = _inverse_root(g), _inverse_root(h)
    scale = max(float(row_sums.mean()), 1e-30) if poisson else 1.0
    basis = _orthonormal(first.products * scale * right[:, None])
    found: passes.Projection | None = None
    for turn in range(1, total_passes):
        if found is not None:
            basis = _orthonormal(found.products * right[:, None])
        weight = (basis * right[:, None]).astype(np.float32)
        found = passes.project(
            image,
            weight,
            left.astype(np.float32),
            (right**2).astype(np.float32),
            told(turn, "singular vectors"),
            client=client,
        )
    assert found is not None
    norms, products = found.norms, found.products
    norms *= left**2
    values, scores, rotation = _ritz(found.scores, basis)
    # While the scores were made the data were multiplied by them too: least squares of the data on the scores are better
    # vectors than those the scores were made with, by one more power iteration.
    keep = min(rank, width)
    vectors = (products * right[:, None]) @ rotation / np.maximum(values**2, 1e-30)
    noise = _noise_level(norms, values, g, h)
    subspace = Subspace(
        np.ascontiguousarray(scores[:, :keep]),
        np.ascontiguousarray(vectors[:, :keep]),
        values[:keep],
        np.sqrt(g),
        np.sqrt(h),
        norms,
        noise if not poisson else max(noise, 1e-12),
        poisson,
        total_passes,
        total,
        poisson and whole and offset == 0.0 and noise < DOUBTED,
        offset,
        bool((column_sums < -5.0 * np.sqrt(noise * h * float(g.sum()))).any()),
    )
    if free and whole and poisson and offset == 0.0 and noise > DOUBTED:
        offset, poisson = _offset(sample)
        if offset > 0.0 or not poisson:  # whole numbers, but no counts: once more from here with the right noise
            better = decompose(
                image,
                rank,
                seed=seed,
                iterations=iterations,
                start=replace(subspace, offset=offset, poisson=poisson),
                client=client,
                progress=progress,
                cancel=cancel,
            )
            return replace(better, passes=better.passes + subspace.passes)
    return subspace


def _offset(sample: np.ndarray) -> tuple[float, bool]:
    """What is added to means where noise is meant, and whether the noise grows with the mean at all."""
    law = noise_law.estimate(sample)
    return (0.0, False) if law is None else (law.offset, True)


def _guess(sample: np.ndarray) -> np.ndarray:
    """Rough column means, for the sketch only: any positive numbers would do."""
    mean = np.abs(np.where(np.isfinite(sample), sample, 0)).mean(axis=0, dtype=np.float64)
    return np.asarray(np.maximum(mean, mean.mean() * 0.01 + 1e-30))


def _inverse_root(values: np.ndarray) -> np.ndarray:
    safe = np.where(values > 0, values, 1.0)
    return np.where(values > 0, 1.0 / np.sqrt(safe), 0.0)


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    scale = float(np.abs(columns).max()) or 1.0
    return np.asarray(np.linalg.qr(columns / scale)[0])


def _ritz(scores: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Singular values, scores and the rotation of the basis from ``D basis``, by the Gram matrix of its few columns."""
    gram = np.asarray(scores.T @ scores, dtype=np.float64)
    squares, rotation = np.linalg.eigh(gram)
    order = np.argsort(squares)[::-1]
    rotation = rotation[:, order]
    vectors = basis @ rotation
    # One sign for all runs: the largest entry of every vector is positive.
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    signs[signs == 0] = 1
    rotation = rotation * signs
    return np.sqrt(np.maximum(squares[order], 0.0)), scores @ rotation.astype(np.float32), rotation


def _noise_level(norms: np.ndarray, values: np.ndarray, g: np.ndarray, h: np.ndarray) -> float:
    """Variance of the scaled data outside of the leading singular vectors."""
    n, m, r = int(np.count_nonzero(g)), int(np.count_nonzero(h)), len(values)
    freedom = (n - r) * (m - r)
    if freedom <= 0:
        return 1.0
    return float(max(norms.sum() - (values**2).sum(), 0.0) / freedom)
