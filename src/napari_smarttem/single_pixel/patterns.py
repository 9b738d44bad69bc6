"""Sets of illumination patterns. Each holds, for each pixel, the fraction of the beam that arrives there: nothing is negative.

Orthogonal sets need negative values, which a beam does not have: they are shifted and scaled, and the reconstruction works on what
is left, so that all sets are compared by the electrons they take.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..schema import BadInput


def hadamard(pixels: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Walsh-Hadamard patterns with the coarsest first, ones where the function is positive; shape (count, pixels, pixels)."""
    from scipy.linalg import hadamard as matrix

    if pixels & (pixels - 1):
        raise BadInput(f"Hadamard patterns need a side that is a power of two, got {pixels}.")
    one = matrix(pixels)
    changes = (np.diff(one, axis=1) != 0).sum(axis=1)
    one = one[np.argsort(changes)]
    coarse = np.add.outer(np.arange(pixels), np.arange(pixels)).ravel()
    order = np.argsort(coarse, kind="stable")[: min(count, pixels**2)]
    order = np.resize(order, count)
    found = np.stack([np.outer(one[k // pixels], one[k % pixels]) for k in order])
    return _as_beam(np.maximum(found, 0.0))


def fourier(pixels: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Raised sinusoids of rising frequency, four phases each; shape (count, pixels, pixels)."""
    y, x = np.meshgrid(np.arange(pixels), np.arange(pixels), indexing="ij")
    waves = [(u, v) for u in range(pixels // 2 + 1) for v in range(-pixels // 2, pixels // 2) if u > 0 or v > 0]
    waves.sort(key=lambda w: w[0] ** 2 + w[1] ** 2)
    found = np.ones((count, pixels, pixels))  # the first one is the mean of all
    for number in range(1, count):
        u, v = waves[((number - 1) // 4) % len(waves)]
        found[number] += np.cos(2 * np.pi * (u * y + v * x) / pixels - 0.5 * np.pi * ((number - 1) % 4))
    return _as_beam(found)


def binary(pixels: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Half of the pixels lit, by chance."""
    return _as_beam((rng.random((count, pixels, pixels)) < 0.5).astype(float))


def raster(pixels: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """One pixel after the other."""
    found = np.zeros((count, pixels * pixels))
    found[np.arange(count), np.arange(count) % pixels**2] = 1.0
    return found.reshape(count, pixels, pixels).astype(np.float32)


SETS: dict[str, Callable[[int, int, np.random.Generator], np.ndarray]] = {
    "hadamard": hadamard,
    "fourier": fourier,
    "binary": binary,
    "raster": raster,
}
"""Patterns that need no phase plate; caustics come from `predict.Decoder` or from the pattern camera."""


def coarser(patterns: np.ndarray, pixels: int) -> np.ndarray:
    """Patterns on fewer pixels, electrons kept; shape (n, pixels, pixels)."""
    ratio, rest = divmod(patterns.shape[1], pixels)
    if rest or ratio < 1:
        raise BadInput(
            f"patterns of {patterns.shape[1]} pixels cannot be put on {pixels}; ask for a divisor of {patterns.shape[1]}."
        )
    return np.asarray(patterns.reshape(len(patterns), pixels, ratio, pixels, ratio).sum(axis=(2, 4)))


def _as_beam(patterns: np.ndarray) -> np.ndarray:
    total = patterns.sum(axis=(1, 2), keepdims=True)
    return np.asarray(patterns / np.where(total > 0, total, 1.0), dtype=np.float32)
