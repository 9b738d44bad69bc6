"""Maps with less noise: scores smoothed along the specimen by as much as halves of the counts agree on structure there.

Every count goes to one of two halves by the toss of a coin; halves of Poisson counts are independent. What they share, spatial
frequency by spatial frequency, is structure, and what they differ by is noise, so that the filter of least error (Wiener, 1949)
needs no constant and no model of the specimen. It works on combinations of components in which the noise is even and
uncorrelated, sorted by how much structure they hold (minimum noise fraction: Green et al., IEEE TGRS 26, 1988, 65). What it makes
is where `similar_places` begins. Which of the two is used, with which settings, and whether at all, the counts decide: filters are
made from quarters, one half is filtered by them, and the other half, which they have not seen, must be nearer to the filtered half
than to the plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from . import similar_places as places
from .smoothing import denoise
from .spectra import SpectrumImage
from .subspace import Subspace

BINS = 24
"""Rings of spatial frequency, as wide as the logarithm of the number of waves in them."""
FEWEST_PIXELS = 32
"""In fewer pixels there are no rings to speak of."""
TRIED_ON = 128
"""Pixels along each side of the part in the middle on which settings are compared."""
SHARE = 0.125
"""Of the noise of plain maps: what "repeatable" maps may be farther from held-out counts than those of least error."""
WAVES = "waves"
"""Name of the linear filter among the candidates."""

Goal = Literal["least error", "repeatable"]
Setting = tuple[int, float] | str
"""Width of the patches and strength, or `WAVES`."""


@dataclass(frozen=True)
class Smoothed:
    """Smoothed scores and what speaks for them.

    Parameters
    ----------
    scores : ndarray
        ``(pixels, r)`` in units of `Subspace.scores` times `Subspace.pixel_scale`; the plain ones where they predict held-out
        counts better.
    noise_left : ndarray
        ``(r, r)`` covariance of what is wrong with a pixel's scores after smoothing over that before, times the root of it:
        ``covariance_after = noise_left @ covariance_before @ noise_left.T`` for the mean pixel.
    held_out : float
        Squared error of predicting one half of the counts from the other, its own noise taken off, over the same without
        smoothing.
    used : bool
        False where smoothing does not help.
    by : str
        Filter and settings in words.
    """

    scores: np.ndarray
    noise_left: np.ndarray
    held_out: float
    used: bool
    by: str = ""

    def error_ratio(self, corners: np.ndarray) -> np.ndarray:
        """Errors of the amounts of endmembers `corners` ``(k, r)`` over those without smoothing, ``(k,)``, on average."""
        before = np.linalg.pinv(corners)
        after = self.noise_left.T @ before
        return np.asarray(np.linalg.norm(after, axis=0) / np.linalg.norm(before, axis=0))


def smoothed_scores(
    image: SpectrumImage,
    subspace: Subspace,
    corners: np.ndarray,
    rng: np.random.Generator,
    *,
    goal: Goal = "least error",
    report: Callable[[float], None] = lambda _fraction: None,
) -> Smoothed:
    """Smooth the scores in which endmembers were found; the data are read once more.

    Parameters
    ----------
    image : SpectrumImage
    subspace : Subspace
    corners : ndarray
        ``(k, r)`` endmembers as scores: the first `r` are smoothed.
    rng : numpy Generator
        For the toss of coins.
    goal : {"least error", "repeatable"}
        Nearest to counts held out; or, of what is farther from them by no more than `SHARE` of the noise of plain maps, what
        both halves agree on best, and another measurement of the same specimen repeats.
    report : callable
        Told the fraction done; raises to stop.
    """
    r = corners.shape[1]
    plain = subspace.scores[:, :r].astype(np.float64) * subspace.pixel_scale[:, None]
    if image.pixels < FEWEST_PIXELS:
        return Smoothed(plain, np.eye(r), 1.0, False)
    quarters = _quarters(image, subspace, r, rng, lambda part: report(0.1 * part)).reshape(4, *image.shape, r)
    part = np.s_[:, *(_middle(count) for count in image.shape)]
    setting, held_out, left = _tried(quarters[part], corners, rng, goal, lambda part: report(0.1 + 0.5 * part))
    one, other = quarters[0] + quarters[1], quarters[2] + quarters[3]
    whole = one + other
    if not held_out < 1.0:
        return Smoothed(plain, np.eye(r), held_out, False)
    if isinstance(setting, str):
        linear, waves_left = filtered(whole, one, other)
        return Smoothed(linear.reshape(-1, r), waves_left, held_out, True, "waves that both halves share")
    width, strength = setting
    (similar,) = places.similar_places(
        whole, one, other, _waves, rng, width=width, strengths=(strength,), report=lambda part: report(0.6 + 0.4 * part)
    )
    by = f"places that look alike, {width} pixels wide, strength {strength:g}"
    return Smoothed(similar.reshape(-1, r), left, held_out, True, by)


def _middle(count: int) -> slice:
    first = max(0, (count - TRIED_ON) // 2)
    return slice(first, first + min(count, TRIED_ON))


def _tried(
    quarters: np.ndarray, corners: np.ndarray, rng: np.random.Generator, goal: Goal, report: Callable[[float], None]
) -> tuple[Setting, float, np.ndarray]:
    """The setting for `goal`, its held-out error and its `Smoothed.noise_left`, from ``(4, y, x, r)``."""
    one, other = quarters[0] + quarters[1], quarters[2] + quarters[3]
    noise = _products(one - other) / 2.0  # of one half: what they differ by is the noise of both
    unit = np.linalg.pinv(noise) / len(noise)  # every direction counts by its own noise, whatever the vectors are
    repeat = goal == "repeatable"
    strengths = places.STRENGTHS if repeat else places.STRENGTHS[:1]
    made = _made(quarters[:2], rng, strengths, lambda part: report(part / (1 + repeat)))
    wrong = {setting: _products(image - other) - noise for setting, image in made.items()}
    errors = {setting: max(float(np.trace(unit @ products)), 0.0) for setting, products in wrong.items()}
    chosen = min(errors, key=lambda setting: errors[setting])
    if repeat:
        again = _made(quarters[2:], rng, strengths, lambda part: report(0.5 + part / 2))
        allowed = [setting for setting in errors if errors[setting] <= errors[chosen] + SHARE]
        chosen = max(allowed, key=lambda setting: _agreement(made[setting], again[setting], corners))
    # the whole has half the relative noise of a half, of which a larger part is left: by as much as the linear filter says
    half, whole = (filtered(*parts)[1] for parts in ((one, *quarters[:2]), (one + other, one, other)))
    more = max(1.0, float(np.linalg.norm(whole)) / max(float(np.linalg.norm(half)), 1e-300))
    return chosen, errors[chosen], _root_ratio(wrong[chosen], noise) * more


def _made(
    parts: np.ndarray, rng: np.random.Generator, strengths: Sequence[float], report: Callable[[float], None]
) -> dict[Setting, np.ndarray]:
    """The sum of two independent `parts` ``(2, y, x, r)`` filtered with every setting."""
    one, other = parts
    made: dict[Setting, np.ndarray] = {WAVES: _waves(one + other, one, other)}
    rows, columns, r = one.shape
    widths = [width for width in places.WIDTHS if 2 * width <= min(rows, columns) and r * width**2 <= places.LARGEST]
    for number, width in enumerate(widths):

        def share(part: float, number: int = number) -> None:
            report((number + part) / len(widths))

        images = places.similar_places(
            one + other, one, other, _waves, rng, width=width, strengths=strengths, report=share
        )
        made.update({(width, strength): image for strength, image in zip(strengths, images, strict=True)})
    return made


def _agreement(one: np.ndarray, other: np.ndarray, corners: np.ndarray) -> float:
    """Mean correlation of the maps of `corners` ``(k, r)`` in two images of scores ``(y, x, r)``."""
    amounts = np.linalg.pinv(corners)
    first, second = ((image.reshape(-1, image.shape[2]) @ amounts).T for image in (one, other))
    first, second = (maps - maps.mean(axis=1, keepdims=True) for maps in (first, second))
    spread = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(axis=1) / np.maximum(spread, 1e-300)).mean())


def _products(image: np.ndarray) -> np.ndarray:
    """Mean products of the numbers in a pixel, ``(r, r)``."""
    flat = image.reshape(-1, image.shape[2])
    return np.asarray(flat.T @ flat / len(flat))


def _root_ratio(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """`L` with ``L @ before @ L.T = after``, its negative part left out."""
    values, vectors = np.linalg.eigh((after + after.T) / 2.0)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return np.asarray(
        root @ vectors.T @ np.linalg.inv(np.linalg.cholesky(before + 1e-12 * np.eye(len(before)) * np.trace(before)))
    )


def _waves(whole: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return filtered(whole, one, other)[0]


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
    sigma = np.sqrt(subspace.noise) / np.maximum(subspace.values[:r], 1e-30)
    vectors = denoise(subspace.vectors[:, :r], sigma)  # noise in them would let scores take part in that of the data
    vectors = vectors @ np.linalg.inv(vectors.T @ vectors)
    weight = vectors * np.where(h > 0, 1.0 / np.where(h > 0, h, 1.0), 0.0)[:, None]
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
