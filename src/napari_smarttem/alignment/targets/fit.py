"""Misalignments and their error bars from one picture: Fisher scoring on the Poisson likelihood of a target's forward model.

The electrons and an even background are fitted along. Where the first start does not explain the picture, more are tried: draws
from what the first guess leaves open, mirrored signs, and the best of many pictures simulated over the range.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from .base import AlignmentTarget, Guess

EXPLAINED = 0.95
"""Share of a picture's structure, noise taken off, that a fit must explain to be believed. Fits in a side minimum explain less."""

RIVAL_DEVIANCE = 25.0
"""Two fits of one picture whose deviances differ by less than this cannot be told apart by that picture (5 sigma)."""

SYSTEMATIC = 0.02
"""Relative error of the model per pixel that is allowed for in weights and error bars."""


@dataclass(frozen=True)
class Fit:
    """What a picture says.

    Parameters
    ----------
    values : ndarray, shape (p,)
    covariance : ndarray, shape (p, p)
    electrons : float
        That entered, fitted.
    deviance : float
        Poisson deviance; what two fits of the same picture are compared by.
    explained : float
        Share of the picture's structure, noise taken off, that the model explains; 1 is all.
    iterations : int
    rival : float
        Deviance of the next best, different, minimum found, less this one's; infinite where none was looked for or found.
    rival_values : ndarray or None
    """

    values: np.ndarray
    covariance: np.ndarray
    electrons: float
    deviance: float
    explained: float
    iterations: int
    rival: float = np.inf
    rival_values: np.ndarray | None = None

    @property
    def sigma(self) -> np.ndarray:
        """Standard deviations, shape (p,)."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def trusted(self) -> bool:
        """True where the picture is explained."""
        return self.explained >= EXPLAINED


def refine(
    target: AlignmentTarget, counts: np.ndarray, start: np.ndarray, *, iterations: int = 12, limit: float = 3.0
) -> Fit:
    """Fit from one start.

    Parameters
    ----------
    counts : ndarray, shape (y, x)
    start : ndarray, shape (p,)
    iterations : int
        At most; it ends as soon as a step is small against its error bar.
    limit : float
        Nothing is believed farther out than this many half-ranges.
    """
    scale = target.half_ranges
    pixels = counts.size
    at = np.clip(start / scale, -limit, limit)
    picture, slopes = target.picture_and_slopes(at * scale)
    total = float(counts.sum())
    background = 0.01 * total / pixels
    electrons = max(total - background * pixels, 1.0) / max(float(picture.sum()), 1e-6)
    mean = electrons * picture + background
    best = _deviance(counts, mean)
    damping, used = 1e-3, 0
    # a parameter that the picture does not show (at a turning point, say) is neither moved far nor thought to be known
    floor = np.append(np.ones(len(scale)), (0.0, 0.0))
    for iteration in range(1, iterations + 1):
        used = iteration
        design = np.concatenate(
            (
                (electrons * slopes * scale[:, None, None]).reshape(len(scale), -1),
                picture.reshape(1, -1),
                np.ones((1, pixels)),
            )
        )
        weights = 1.0 / np.maximum(mean + (SYSTEMATIC * mean) ** 2, 1e-4 * total / pixels + 1e-6).ravel()
        fisher = (design * weights) @ design.T
        slope = (design * weights) @ (counts - mean).ravel()
        moved = False
        if slope @ np.linalg.solve(fisher + np.diag(1e-9 * np.diag(fisher) + 1e-12), slope) < 0.02:
            break  # what is left to gain is a seventh of an error bar
        for _ in range(6):
            step = np.linalg.solve(fisher + np.diag(damping * (np.diag(fisher) + floor) + 1e-12), slope)
            step[:-2] *= min(1.0, 0.5 / max(np.abs(step[:-2]).max(), 1e-12))
            new = np.clip(at + step[:-2], -limit, limit)
            new_picture, new_slopes = target.picture_and_slopes(new * scale)
            new_electrons = max(electrons + step[-2], 0.1 * electrons)
            new_background = max(background + step[-1], 0.0)
            new_mean = new_electrons * new_picture + new_background
            deviance = _deviance(counts, new_mean)
            if deviance <= best + 1e-6 * abs(best):
                moved = True
                break
            damping = max(damping * 10, 1e-2)
        if not moved:
            break
        gained = best - deviance
        at, picture, slopes, mean = new, new_picture, new_slopes, new_mean
        electrons, background, best = new_electrons, new_background, deviance
        damping = max(damping * 0.2, 1e-6)
        if gained < 0.02:
            break
    structure = float(np.sum((counts - counts.mean()) ** 2) - mean.sum())
    unexplained = float(np.sum((counts - mean) ** 2) - mean.sum())
    noise = float(np.sqrt(np.sum(mean + 2 * mean**2)))  # of either sum
    # a picture without structure is explained by anything, and says nothing
    explained = 1.0 - max(unexplained, 0.0) / structure if structure > 6 * noise else 0.0
    inverse = np.linalg.pinv(fisher + np.diag(floor) / limit**2)
    variance = np.maximum(mean, 1e-6).ravel() + (SYSTEMATIC * mean.ravel()) ** 2
    spread = (
        inverse @ (design * (weights**2 * variance)) @ design.T @ inverse
    )  # true also where the weights are bounded
    spread += inverse @ np.diag(floor) @ inverse / limit**2
    covariance = spread[: len(scale), : len(scale)] * np.outer(scale, scale)
    return Fit(at * scale, covariance, float(electrons), best, float(min(explained, 1.0)), used)


def search(
    target: AlignmentTarget,
    counts: np.ndarray,
    guesses: list[Guess],
    rng: np.random.Generator,
    *,
    draws: int = 200,
    starts: int = 6,
    reach: float = 1.3,
    iterations: int = 20,
    always: bool = False,
) -> Fit:
    """Fit from the guesses and, where none of them explains the picture (or `always`), from more starts.

    Parameters
    ----------
    guesses : list of Guess
        The most trusted first.
    draws, starts : int
        Pictures simulated over `reach` half-ranges and around the guesses, and how many of the best are refined.
    iterations : int
        At most, of the fits from those.
    always : bool
        Look for rival minima even where the first fit is good; the result's ``rival`` says how far off they are.
    """
    with one_thread():
        return _search(
            target, counts, guesses, rng, draws=draws, starts=starts, reach=reach, iterations=iterations, always=always
        )


@functools.cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> Any:
    """Context in which matrix products use one thread: a picture's are too small for more, and on a busy machine more is less."""
    return _threads().limit(limits=1)


def _search(
    target: AlignmentTarget,
    counts: np.ndarray,
    guesses: list[Guess],
    rng: np.random.Generator,
    *,
    draws: int,
    starts: int,
    reach: float,
    iterations: int,
    always: bool,
) -> Fit:
    fits: list[Fit] = []
    for guess in guesses:
        fits.append(refine(target, counts, guess.values))
        if fits[-1].trusted and not always:
            return fits[-1]
    for start in _candidates(target, counts, guesses, rng, draws=draws, starts=starts, reach=reach):
        fits.append(refine(target, counts, start, iterations=iterations))
        if fits[-1].trusted and not always:
            break
    fits.sort(key=lambda fit: fit.deviance)
    return with_rival(fits, target)


def with_rival(fits: list[Fit], target: AlignmentTarget) -> Fit:
    """The best of `fits` (best first), knowing the best one that is somewhere else."""
    best = fits[0]
    for other in fits[1:]:
        if np.abs((other.values - best.values) / target.half_ranges).max() > 0.1:
            return Fit(
                best.values, best.covariance, best.electrons, best.deviance, best.explained, best.iterations,
                other.deviance - best.deviance, other.values,
            )  # fmt: skip
    return best


def _candidates(
    target: AlignmentTarget,
    counts: np.ndarray,
    guesses: list[Guess],
    rng: np.random.Generator,
    *,
    draws: int,
    starts: int,
    reach: float,
) -> list[np.ndarray]:
    """Starts, most promising first, none close to another."""
    scale = target.half_ranges
    p = len(scale)
    # half of them where it is expected, half over all that is allowed
    tried = [rng.uniform(-1, 1, (draws, p)) * np.where(np.arange(draws)[:, None] % 2, 1.0, reach) * scale]
    for guess in guesses:
        spread = np.sqrt(np.maximum(np.diag(guess.covariance), (0.05 * scale) ** 2))
        tried.append(guess.values + rng.normal(0.0, 1.5, (draws // 2, p)) * spread)
        signs = np.array([[1 - 2 * (k >> j & 1) for j in range(p)] for k in range(2**p)]) if p <= 6 else np.ones((1, p))
        tried.append(guess.values * signs)
    points = np.concatenate(tried)
    pictures = target.pictures(np.clip(points, -3 * scale, 3 * scale))
    share = np.sqrt(pictures / np.maximum(pictures.sum(axis=(1, 2), keepdims=True), 1e-9))
    seen = np.sqrt(np.maximum(counts, 0.0) / max(float(counts.sum()), 1.0))
    likeness = np.tensordot(_smooth(share), _smooth(seen[None])[0], axes=2)
    chosen: list[np.ndarray] = []
    for k in np.argsort(-likeness):
        if all(np.abs((points[k] - other) / scale).max() > 0.15 for other in chosen):
            chosen.append(points[k])
        if len(chosen) == starts:
            break
    return chosen


def _smooth(pictures: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(pictures, (0, 1.0, 1.0)))


def _deviance(counts: np.ndarray, mean: np.ndarray) -> float:
    """Twice the log-likelihood ratio to a perfect model."""
    mean = np.maximum(mean, 1e-6)
    some = counts > 0
    return float(2 * (mean.sum() - counts.sum() + np.sum(counts[some] * np.log(counts[some] / mean[some]))))
