"""Maps with less noise: scores smoothed along the specimen by as much as two halves of the counts agree on structure there.

Every count goes to one of two halves by the toss of a coin; halves of Poisson counts are independent. What they share, spatial
frequency by spatial frequency, is structure, and what they differ by is noise, so that the filter of least error (Wiener, 1949)
needs no constant and no model of the specimen. It works on combinations of components in which the noise is even and
uncorrelated, sorted by how much structure they hold (minimum noise fraction: Green et al., IEEE TGRS 26, 1988, 65). Whether it is
used at all the counts decide too: the filter is made from quarters, one half is filtered by it, and the other half, which it has
not seen, must be nearer to the filtered half than to the plain one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .spectra import SpectrumImage
from .subspace import Subspace

BINS = 24
"""Rings of spatial frequency, as wide as the logarithm of the number of waves in them."""
FEWEST_PIXELS = 32
"""In fewer pixels there are no rings to speak of."""


@dataclass(frozen=True)
class Smoothed:
    """Smoothed scores and what speaks for them.

    Parameters
    ----------
    scores : ndarray
        ``(pixels, r)`` in units of `Subspace.scores`; the plain ones where they predict held-out counts better.
    noise_left : ndarray
        ``(r, r)`` covariance of what is wrong with a pixel's scores after smoothing over that before, times the root of it:
        ``covariance_after = noise_left @ covariance_before @ noise_left.T`` for the mean pixel.
    held_out : float
        Squared error of predicting one half of the counts from the other, its own noise taken off, over the same without
        smoothing.
    used : bool
        False where smoothing does not help.
    """

    scores: np.ndarray
    noise_left: np.ndarray
    held_out: float
    used: bool

    def error_ratio(self, corners: np.ndarray) -> np.ndarray:
        """Errors of the amounts of endmembers `corners` ``(k, r)`` over those without smoothing, ``(k,)``, on average."""
        before = np.linalg.pinv(corners)
        after = self.noise_left.T @ before
        return np.asarray(np.linalg.norm(after, axis=0) / np.linalg.norm(before, axis=0))


def smoothed_scores(
    image: SpectrumImage,
    subspace: Subspace,
    r: int,
    rng: np.random.Generator,
    *,
    report: Callable[[float], None] = lambda _fraction: None,
) -> Smoothed:
    """Smooth the first `r` scores of every pixel; the data are read once more.

    Parameters
    ----------
    image : SpectrumImage
    subspace : Subspace
    r : int
        Number of vectors looked at.
    rng : numpy Generator
        For the toss of coins.
    report : callable
        Told the fraction done; raises to stop.
    """
    root_g = subspace.pixel_scale[:, None]
    plain = subspace.scores[:, :r].astype(np.float64)
    if image.pixels < FEWEST_PIXELS:
        return Smoothed(plain, np.eye(r), 1.0, False)
    quarters = _quarters(image, subspace, r, rng, report)
    shape = (*image.shape, r)
    one, other = (quarters[a] + quarters[a + 1] for a in (0, 2))
    half, _ = filtered(*(part.reshape(shape) for part in (one, quarters[0], quarters[1])))
    wrong = [float(((part.reshape(-1, r) - other) ** 2).sum()) for part in (half, one)]
    noise = float(((one - other) ** 2).sum()) / 2.0  # of one half: what they differ by is the noise of both
    held_out = max(wrong[0] - noise, 0.0) / max(wrong[1] - noise, 1e-300)
    if not held_out < 1.0:
        return Smoothed(plain, np.eye(r), held_out, False)
    whole, left = filtered(*(part.reshape(shape) for part in (one + other, one, other)))
    inverse = np.where(root_g > 0, 1.0 / np.where(root_g > 0, root_g, 1.0), 0.0)
    return Smoothed(whole.reshape(-1, r) * inverse, left, held_out, True)


def filtered(whole: np.ndarray, one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`whole` ``(y, x, r)``, the sum of two independent halves, filtered; and `Smoothed.noise_left`."""
    from scipy.fft import dctn, idctn

    rows, columns, r = whole.shape
    difference = (one - other).reshape(-1, r)
    covariance = difference.T @ difference / len(difference) + 1e-12 * np.eye(r) * float(
        (difference**2).mean() + 1e-300
    )
    root = np.linalg.cholesky(covariance)
    mean = whole.reshape(-1, r).mean(axis=0)
    white = np.linalg.solve(root, (whole.reshape(-1, r) - mean).T)
    turn = np.linalg.eigh(white @ white.T)[1]
    into, back = np.linalg.solve(root, np.eye(r)).T @ turn, turn.T @ root.T
    waves = dctn((whole - mean) @ into, axes=(0, 1), norm="ortho")
    first, second = (dctn((2.0 * part - mean) @ into, axes=(0, 1), norm="ortho") for part in (one, other))
    ring, middles, wave = _rings(rows, columns)
    gains = np.empty_like(waves)
    count = np.bincount(ring)
    for c in range(r):
        # halves, doubled, share the structure: their noise is independent, and that of the whole is one here
        structure = np.bincount(ring, (first[..., c] * second[..., c]).ravel()) / count
        gain = np.maximum(structure, 0.0) / (np.maximum(structure, 0.0) + 1.0)
        gain[0] = 1.0 if len(gain) == 1 else gain[1]  # the mean was taken off: its ring is empty
        gains[..., c] = np.interp(wave, middles, gain).reshape(rows, columns)
    gains[0, 0] = 1.0
    smooth = idctn(gains * waves, axes=(0, 1), norm="ortho") @ back + mean
    # what is left of the noise, and structure that was lost: together one part `gain` of the noise before
    left = back.T @ np.diag(np.sqrt(gains.mean(axis=(0, 1)))) @ into.T
    return smooth, left


def _rings(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ring of every cosine wave ``(rows * columns,)``, the rings' mean frequencies, and every wave's own."""
    wave = np.hypot(np.arange(rows)[:, None] / rows, np.arange(columns)[None, :] / columns).ravel()
    order = np.argsort(wave, kind="stable")
    edges = np.unique(np.concatenate([[1, 4, 9], np.geomspace(16, len(wave), BINS)]).astype(int))
    edges = edges[edges < len(wave)]
    ring = np.empty(len(wave), dtype=np.int64)
    ring[order] = np.searchsorted(edges, np.arange(len(wave)), side="right")
    return ring, np.bincount(ring, wave) / np.bincount(ring), wave


def _quarters(
    image: SpectrumImage, subspace: Subspace, r: int, rng: np.random.Generator, report: Callable[[float], None]
) -> np.ndarray:
    """Scores of four independent quarters of the counts, ``(4, pixels, r)``, not divided by a pixel's brightness."""
    h = subspace.channel_scale
    weight = subspace.vectors[:, :r] * np.where(h > 0, 1.0 / np.where(h > 0, h, 1.0), 0.0)[:, None]
    out = np.empty((4, image.pixels, r))
    if not subspace.counts:  # noise of known size instead of coins: what is added to one is taken from the others
        whole = subspace.scores[:, :r] * subspace.pixel_scale[:, None]
        spread = np.sqrt(subspace.noise) * subspace.pixel_scale[:, None]
        drawn = rng.standard_normal(out.shape)
        out[:] = whole / 4.0 + 0.5 * spread * (drawn - drawn.mean(axis=0))
        return out
    for first, last, block in image.blocks():
        report(first / image.pixels)
        left = np.maximum(np.rint(block), 0).astype(np.int64)
        for number, part in enumerate((4, 3, 2)):
            taken = rng.binomial(left, 1.0 / part)
            out[number, first:last] = taken @ weight
            left -= taken
        out[3, first:last] = left @ weight
    return out
