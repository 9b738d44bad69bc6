"""The patterns a run can choose from: from the plate's smallest spot to its widest caustics, moved about and defocused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..physics.caustics import BIAS_LIMIT_V, DEFOCUS_LIMIT_RAD
from ..schema import BadInput
from .patterns import coarser
from .predict import Decoder

CHUNK = 250


@dataclass(frozen=True)
class PlateSettings:
    """What makes a pattern, one line each.

    Attributes
    ----------
    biases_v : ndarray, shape (n, needles)
    shift_px : ndarray, shape (n, 2)
        Beam shift (y, x) in pixels of the decoder.
    defocus_rad : ndarray, shape (n,)
        Added defocus, phase at the rim of the aperture.
    """

    biases_v: np.ndarray
    shift_px: np.ndarray
    defocus_rad: np.ndarray

    def __len__(self) -> int:
        return len(self.biases_v)

    def part(self, index: np.ndarray) -> PlateSettings:
        """Some of them, in the order of `index`."""
        return PlateSettings(self.biases_v[index], self.shift_px[index], self.defocus_rad[index])


@dataclass(frozen=True)
class Pool:
    """Settings of n patterns, and the patterns as predicted (or recorded), (n, pixels²)."""

    settings: PlateSettings
    patterns: np.ndarray

    def __len__(self) -> int:
        return len(self.settings)


def settings_of_pool(
    count: int,
    decoder: Decoder,
    rng: np.random.Generator,
    *,
    spot: tuple[np.ndarray, float] | None = None,
    defocus_rad: float = DEFOCUS_LIMIT_RAD,
) -> PlateSettings:
    """Settings of a pool, spread around those of the plate's smallest spot: many small spots, fewer wide caustics.

    The more a pattern is spread by its biases, the less it is moved, to stay in the field. `spot` is what `sharpest` found, where
    it was asked already; `defocus_rad` is the largest added defocus (rad at the rim), with 0 focus is left alone.
    """
    biases, defocus = sharpest(decoder, defocus_rad=defocus_rad) if spot is None else spot
    reach = rng.uniform(0.0, 1.0, (count, 1))
    away = rng.uniform(-BIAS_LIMIT_V, BIAS_LIMIT_V, (count, decoder.needles))
    shift = (1 - 0.6 * reach**2) * rng.uniform(-0.5, 0.5, (count, 2)) * decoder.pixels
    focus = rng.uniform(0.0, 1.0, count) * rng.uniform(-defocus_rad, defocus_rad, count)
    return PlateSettings(
        np.clip(biases + reach**2 * away, -BIAS_LIMIT_V, BIAS_LIMIT_V),
        shift,
        np.clip(defocus + focus, -defocus_rad, defocus_rad),
    )


def predict_pool(decoder: Decoder, settings: PlateSettings, pixels: int) -> Pool:
    """The pool as the decoder predicts it."""
    return Pool(settings, np.concatenate(list(_predicted(decoder, settings, pixels))))


def measured_pool(biases_v: np.ndarray, patterns: np.ndarray, pixels: int) -> Pool:
    """Patterns as they were recorded (n, y, x), fractions of the beam: no predictor is needed, their counting noise is in them."""
    if not len(patterns):
        raise BadInput("no measured pattern is there to illuminate with; record some first.")
    flat = coarser(np.asarray(patterns), pixels).reshape(len(patterns), -1).astype(np.float32)
    return Pool(PlateSettings(np.asarray(biases_v, dtype=float), np.zeros((len(flat), 2)), np.zeros(len(flat))), flat)


def counting_error(patterns: np.ndarray, electrons: float) -> float:
    """Relative error of recorded patterns (n, pixels²) from counting alone, in the measure of `Decoder.error`."""
    squares = np.maximum((patterns.astype(float) ** 2).sum(axis=1) - patterns.sum(axis=1) / electrons, 1e-12)
    return float(np.sqrt(np.mean(patterns.sum(axis=1) / electrons / squares)))


def sharpest(decoder: Decoder, *, defocus_rad: float = DEFOCUS_LIMIT_RAD) -> tuple[np.ndarray, float]:
    """Biases, shape (needles,), and added defocus (rad) whose pattern holds its electrons in the fewest pixels.

    That is the largest sum of squares. `defocus_rad` is how far the focus may be changed; 0: not at all.
    """
    from scipy.optimize import minimize

    limits = np.append(np.full(decoder.needles, BIAS_LIMIT_V), defocus_rad)

    def spread(values: np.ndarray) -> float:
        inside = np.clip(values, -limits, limits)
        return -float((decoder.predict(inside[None, :-1], None, inside[-1:])[0].astype(float) ** 2).sum())

    offset = np.zeros(decoder.needles) if decoder.bias_offset_v is None else decoder.bias_offset_v
    start = np.append(-offset, np.clip(-decoder.defocus_rad, -defocus_rad, defocus_rad))
    found = minimize(spread, start, method="Powell", options={"maxfev": 250})
    best = np.clip(found.x, -limits, limits)
    return best[:-1], float(best[-1])


def spot_raster(decoder: Decoder, most: int, pixels: int, *, spot: tuple[np.ndarray, float] | None = None) -> Pool:
    """The plate's smallest spot, moved over a square grid of at most `most` places that fills the field, line by line.

    `spot` is what `sharpest` found, where it was asked already.
    """
    side = max(2, int(most**0.5))
    biases, defocus = sharpest(decoder) if spot is None else spot
    lit = decoder.predict(biases[None], None, np.array([defocus]))[0].astype(float)
    along = np.arange(decoder.pixels) + 0.5
    middle = np.array([lit.sum(axis=1) @ along, lit.sum(axis=0) @ along]) / lit.sum()
    places = (np.arange(side) + 0.5) * decoder.pixels / side
    y, x = (axis.ravel() for axis in np.meshgrid(places, places, indexing="ij"))
    half = decoder.pixels / 2
    shift = np.clip(np.stack((y, x), axis=1) - middle, -half, half)
    return predict_pool(
        decoder, PlateSettings(np.repeat(biases[None], side**2, axis=0), shift, np.full(side**2, defocus)), pixels
    )


def _predicted(decoder: Decoder, settings: PlateSettings, pixels: int) -> Iterator[np.ndarray]:
    for start in range(0, len(settings), CHUNK):
        part = slice(start, start + CHUNK)
        fine = decoder.predict(settings.biases_v[part], settings.shift_px[part], settings.defocus_rad[part])
        yield coarser(fine, pixels).reshape(-1, pixels**2).astype(np.float32)


def draw_pool(decoder: Decoder, count: int, pixels: int, rng: np.random.Generator) -> Pool:
    """A pool of `count` patterns of ``pixels x pixels``."""
    return predict_pool(decoder, settings_of_pool(count, decoder, rng), pixels)
