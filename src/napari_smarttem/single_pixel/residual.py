"""The small learned part of the decoder: what camera and source do to a pattern that the fitted physics has no number for.

A pattern p becomes ``p + a p + b . grad p + c lap p + t (blurred p - p) + u``, where a (gain), b (a displacement) and c (more or
less blur) are polynomials of second order over the field, t is a share that strays, and u a uniform background: 26 weights,
linear, so that a weighted ridge finds them in one go. They are learned from what the fitted physics left of the measured patterns
and kept only where patterns that were not learned from get nearer.
"""

from __future__ import annotations

import functools

import numpy as np

FIELDS = 6
"""1, y, x, y², y x, x²."""
MAPS = 4
TERMS = FIELDS * MAPS + 2
STRAY_PX = 4.0
STIFFNESS = 1e-4
"""Of the ridge, over the mean information of a weight."""


@functools.lru_cache(maxsize=4)
def _fields(pixels: int) -> np.ndarray:
    along = ((np.arange(pixels) + 0.5) / pixels * 2 - 1).astype(np.float32)
    y, x = np.meshgrid(along, along, indexing="ij")
    return np.stack([np.ones_like(y), y, x, y * y, y * x, x * x])


def _maps(patterns: np.ndarray) -> tuple[np.ndarray, ...]:
    """Pattern, its slopes down and to the right, its curvature, and what strays: (n, pixels, pixels) each."""
    from scipy.ndimage import gaussian_filter

    down, right = np.zeros_like(patterns), np.zeros_like(patterns)
    down[:, 1:-1] = (patterns[:, 2:] - patterns[:, :-2]) / 2
    right[:, :, 1:-1] = (patterns[:, :, 2:] - patterns[:, :, :-2]) / 2
    curved = np.zeros_like(patterns)
    middle = patterns[:, 1:-1, 1:-1]
    curved[:, 1:-1, 1:-1] = (
        patterns[:, 2:, 1:-1] + patterns[:, :-2, 1:-1] + patterns[:, 1:-1, 2:] + patterns[:, 1:-1, :-2] - 4 * middle
    )
    stray = gaussian_filter(patterns, (0, STRAY_PX, STRAY_PX)) - patterns
    return patterns, down, right, curved, stray


def corrected(patterns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Patterns (n, pixels, pixels) with the learned part, never below 0; `weights` are those of `learned`, (TERMS,)."""
    pixels = patterns.shape[1]
    *maps, stray = _maps(patterns)
    fields = np.tensordot(np.asarray(weights[:-2], dtype=np.float32).reshape(MAPS, FIELDS), _fields(pixels), axes=1)
    total = patterns + np.float32(weights[-2]) * stray + np.float32(weights[-1] / pixels**2)
    for one, share in zip(maps, fields, strict=True):
        total = total + one * share
    return np.asarray(np.maximum(total, 0.0))


def learned(predicted: np.ndarray, measured: np.ndarray, electrons: float, looseness: float) -> np.ndarray:
    """Weights (TERMS,) that bring predicted patterns (n, pixels, pixels) nearest to measured ones.

    Parameters
    ----------
    electrons : float
        Of the beam, in a measured pattern.
    looseness : float
        Relative error of the prediction: bright places count no more than it lets them.
    """
    pixels = predicted.shape[1]
    fields = _fields(pixels).reshape(FIELDS, -1)
    information, towards = np.zeros((TERMS, TERMS)), np.zeros(TERMS)
    for number in range(len(predicted)):
        *maps, stray = (one[0].ravel() for one in _maps(predicted[number : number + 1]))
        columns = np.concatenate(
            (*(one * fields for one in maps), stray[None], np.full((1, pixels**2), 1.0 / pixels**2))
        ).astype(float)
        p = predicted[number].ravel().astype(float)
        variance = (p + 0.3 / electrons) / electrons + (looseness * (p + p.mean())) ** 2
        weighted = columns / variance
        information += weighted @ columns.T
        towards += weighted @ (measured[number].ravel() - p)
    scale = np.sqrt(np.maximum(np.diag(information), 1e-30))
    normal = information / np.outer(scale, scale) + STIFFNESS * np.eye(TERMS)
    return np.asarray(np.linalg.solve(normal, towards / scale) / scale)
