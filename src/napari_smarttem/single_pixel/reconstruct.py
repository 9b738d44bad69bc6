"""From bucket signals to a picture: correlation imaging, ridge, and the weighted total-variation estimate.

``y_j ~ Poisson(d p_j . x) / d`` with x the transmission of each pixel (0 to 1), p_j a pattern (fractions of the beam) and d the
electrons of a pattern. Nothing here ever sees the true picture: where a strength is to be chosen, patterns are held out.
"""

from __future__ import annotations

import numpy as np

from ..schema import BadInput
from .posterior import Posterior

RIDGES = np.logspace(-5, 2, 15)


def checked(patterns: np.ndarray, signals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Patterns (n, pixels²) and signals (n,) that fit each other and are finite, or `BadInput`."""
    patterns = np.asarray(patterns, dtype=np.float32).reshape(len(patterns), -1)
    signals = np.asarray(signals, dtype=float)
    if signals.shape != (len(patterns),):
        raise BadInput(
            f"there must be one signal to a pattern; got {len(patterns)} patterns and signals {signals.shape}."
        )
    if not np.isfinite(signals).all():
        where = int(np.flatnonzero(~np.isfinite(signals))[0])
        raise BadInput(f"signal {where} is not finite ({signals[where]}); leave it out, with its pattern.")
    if not np.isfinite(patterns).all():
        raise BadInput("a pattern holds values that are not finite; predict or measure it anew.")
    return patterns, signals


def correlation(patterns: np.ndarray, signals: np.ndarray) -> np.ndarray:
    """Correlation (ghost) imaging: ``<(y - <y>)(p - <p>)> / var p`` by pixel, scaled by the signals themselves; (side, side).

    The slope and the level of the picture are those for which its predicted signals fit the measured ones best.
    """
    patterns, signals = checked(patterns, signals)
    away = patterns - patterns.mean(axis=0)
    spread = np.maximum((away**2).mean(axis=0), 1e-3 * (away**2).mean())
    picture = ((signals - signals.mean()) @ away) / len(signals) / spread
    columns = np.stack((patterns @ picture, patterns.sum(axis=1)), axis=1)
    slope, level = np.linalg.lstsq(columns, signals, rcond=None)[0]
    return _square(slope * picture + level)


def ridge(patterns: np.ndarray, signals: np.ndarray, electrons: float, *, strength: float | None = None) -> np.ndarray:
    """Weighted ridge towards the mean transmission; `strength` (relative) is chosen from held-out patterns where it is None."""
    return ridges(patterns, signals, electrons, np.array([strength]) if strength is not None else RIDGES)


def ridges(
    patterns: np.ndarray, signals: np.ndarray, electrons: float, strengths: np.ndarray, *, every: bool = False
) -> np.ndarray:
    """The ridge of the strength that predicts held-out patterns best, (side, side); all of them with `every`, (n, side, side)."""
    patterns, signals = checked(patterns, signals)
    weights = 1.0 / variances(signals, electrons)
    mean = float((weights * signals) @ patterns.sum(1) / ((weights * patterns.sum(1)) @ patterns.sum(1)))
    rest = signals - mean * patterns.sum(axis=1)
    aside = np.arange(len(signals)) % 8 == 7 if len(strengths) > 1 and not every else np.zeros(len(signals), dtype=bool)

    def solve(use: np.ndarray) -> np.ndarray:
        root = np.sqrt(weights[use])
        u, s, vt = np.linalg.svd(patterns[use] * root[:, None], full_matrices=False)
        seen = u.T @ (root * rest[use])
        return np.stack([mean + (s * seen / (s**2 + k * s[0] ** 2)) @ vt for k in strengths * 1e-3])

    if not aside.any():
        found = solve(~aside)
        return found.reshape(-1, *_square(found[0]).shape) if every else _square(found[0])
    trial = solve(~aside)
    misfit = ((trial @ patterns[aside].T - signals[aside]) ** 2 * weights[aside]).mean(axis=1)
    strengths = strengths[[int(np.argmin(misfit))]]
    return _square(solve(np.ones(len(signals), dtype=bool))[0])


def variances(signals: np.ndarray, electrons: float) -> np.ndarray:
    """Of the signals, as fractions of the beam: counting, never less than one electron."""
    return np.asarray(np.maximum(signals, 1.0 / electrons) / electrons)


def total_variation(
    patterns: np.ndarray,
    signals: np.ndarray,
    electrons: float,
    *,
    model_error: float = 0.0,
    strength: float | None = None,
) -> np.ndarray:
    """The weighted total-variation estimate of all patterns at once, (side, side); see `posterior.Posterior`."""
    patterns, signals = checked(patterns, signals)
    posterior = Posterior(round(patterns.shape[1] ** 0.5), electrons, model_error=model_error)
    posterior.add(patterns, signals)
    if strength is None:
        posterior.choose_strength()
    else:
        posterior.strength = strength
    posterior.settle(rounds=8)
    return posterior.picture


def _square(picture: np.ndarray) -> np.ndarray:
    side = round(picture.size**0.5)
    return np.asarray(picture.reshape(side, side))
