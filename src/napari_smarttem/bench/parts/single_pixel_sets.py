"""Specimens of known transmission for the single-pixel bench: particles, lattice, fibres, core and shell, letters, grains."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

OVERSAMPLING = 4


def specimens(pixels: int, seed: int) -> dict[str, np.ndarray]:
    """Name -> transmission (0 to 1), shape (pixels, pixels), anti-aliased; another `seed` draws others of the same kind."""
    found = {}
    for number, (name, draw) in enumerate(_DRAWERS.items()):
        fine = pixels * OVERSAMPLING
        along = (np.arange(fine) + 0.5) / fine * 2 - 1
        y, x = np.meshgrid(along, along, indexing="ij")
        picture = draw(y, x, np.random.default_rng([seed, 71, number]))
        found[name] = picture.reshape(pixels, OVERSAMPLING, pixels, OVERSAMPLING).mean(axis=(1, 3))
    return found


def _particles(y: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    picture = np.full(y.shape, 0.95)
    for _ in range(7):
        cy, cx, radius = *rng.uniform(-0.7, 0.7, 2), rng.uniform(0.08, 0.25)
        picture[np.hypot(y - cy, x - cx) < radius] = rng.uniform(0.15, 0.6)
    return picture


def _lattice(y: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    turn, period = rng.uniform(0, np.pi), rng.uniform(0.3, 0.4)
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    near = np.hypot((u / period + 0.5) % 1 - 0.5, (v / period + 0.5) % 1 - 0.5) * period
    return np.asarray(0.9 - 0.7 * (near < 0.085) * (np.hypot(y, x) < 0.8))


def _fibres(y: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    picture = np.full(y.shape, 0.9)
    for _ in range(5):
        turn, offset, bend = rng.uniform(0, np.pi), rng.uniform(-0.6, 0.6), rng.uniform(-0.3, 0.3)
        u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
        picture[np.abs(v - offset - bend * u**2) < rng.uniform(0.04, 0.07)] = rng.uniform(0.2, 0.5)
    return picture


def _core_shell(y: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    cy, cx, radius = *rng.uniform(-0.15, 0.15, 2), rng.uniform(0.5, 0.65)
    away = np.hypot(y - cy, x - cx)
    angle = np.arctan2(y - cy, x - cx)
    edge = radius * (1 + 0.12 * np.cos(rng.integers(3, 6) * angle + rng.uniform(0, 6)))
    return np.asarray(np.select([away < 0.55 * edge, away < edge], [0.25, 0.55], 0.95))


def _letters(y: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    dy, dx = rng.uniform(-0.1, 0.1, 2)
    y, x = y - dy, x - dx
    upright = (np.abs(x + 0.45) < 0.09) & (np.abs(y) < 0.55)
    bars = (np.abs(y - np.rint(y / 0.46) * 0.46) < 0.09) & (np.abs(y) < 0.55) & (x > -0.54) & (x < 0.0)
    ring = np.abs(np.hypot(y, x - 0.42) - 0.28) < 0.08
    return np.asarray(0.95 - 0.75 * (upright | bars | ring))


def _grains(y: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    seeds, values = rng.uniform(-1, 1, (9, 2)), rng.uniform(0.2, 0.95, 9)
    distance = (y[..., None] - seeds[:, 0]) ** 2 + (x[..., None] - seeds[:, 1]) ** 2
    return np.asarray(values[distance.argmin(axis=-1)])


_DRAWERS: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]] = {
    "particles": _particles,
    "lattice": _lattice,
    "fibres": _fibres,
    "core-shell": _core_shell,
    "letters": _letters,
    "grains": _grains,
}
