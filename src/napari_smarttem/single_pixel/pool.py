"""The patterns a run can choose from: biases from none to the limit, the gentler ones (small spots) moved about the field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..physics.caustics import BIAS_LIMIT_V
from ..schema import BadInput
from .patterns import coarser
from .predict import Decoder

CHUNK = 250


@dataclass(frozen=True)
class Pool:
    """Biases (n, needles) in V, beam shifts (n, 2) in pixels of the decoder, and predicted patterns (n, pixels²)."""

    biases_v: np.ndarray
    shift_px: np.ndarray
    patterns: np.ndarray

    def __len__(self) -> int:
        return len(self.biases_v)


def settings_of_pool(count: int, decoder: Decoder, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Biases and shifts of a pool: the more a pattern is spread by its biases, the less it is moved, to stay in the field."""
    reach = rng.uniform(0.0, 1.0, (count, 1))
    biases = reach * rng.uniform(-BIAS_LIMIT_V, BIAS_LIMIT_V, (count, decoder.needles))
    shift = (1 - 0.6 * reach) * rng.uniform(-0.5, 0.5, (count, 2)) * decoder.pixels
    return biases, shift


def predict_pool(decoder: Decoder, biases_v: np.ndarray, shift_px: np.ndarray, pixels: int) -> Pool:
    """The pool as the decoder predicts it."""
    parts = list(_predicted(decoder, biases_v, shift_px, pixels))
    return Pool(biases_v, shift_px, np.concatenate(parts))


def measured_pool(biases_v: np.ndarray, patterns: np.ndarray, pixels: int) -> Pool:
    """Patterns as they were recorded (n, y, x), fractions of the beam: no predictor is needed, their counting noise is in them."""
    if not len(patterns):
        raise BadInput("no measured pattern is there to illuminate with; record some first.")
    flat = coarser(np.asarray(patterns), pixels).reshape(len(patterns), -1).astype(np.float32)
    return Pool(np.asarray(biases_v, dtype=float), np.zeros((len(biases_v), 2)), flat)


def counting_error(patterns: np.ndarray, electrons: float) -> float:
    """Relative error of recorded patterns (n, pixels²) from counting alone, in the measure of `Decoder.error`."""
    squares = np.maximum((patterns.astype(float) ** 2).sum(axis=1) - patterns.sum(axis=1) / electrons, 1e-12)
    return float(np.sqrt(np.mean(patterns.sum(axis=1) / electrons / squares)))


def sharpest_biases(decoder: Decoder) -> np.ndarray:
    """Biases, shape (needles,), whose pattern holds its electrons in the fewest pixels: the largest sum of squares."""
    from scipy.optimize import minimize

    def spread(volts: np.ndarray) -> float:
        inside = np.clip(volts, -BIAS_LIMIT_V, BIAS_LIMIT_V)
        return -float((decoder.predict(inside[None])[0].astype(float) ** 2).sum())

    offset = np.zeros(decoder.needles) if decoder.bias_offset_v is None else decoder.bias_offset_v
    starts = [np.zeros(decoder.needles), -offset]
    found = [minimize(spread, start, method="Powell", options={"maxfev": 400}) for start in starts]
    best = min(found, key=lambda one: float(one.fun))
    return np.asarray(np.clip(best.x, -BIAS_LIMIT_V, BIAS_LIMIT_V))


def spot_raster(decoder: Decoder, most: int, pixels: int) -> Pool:
    """The plate's smallest spot, moved over a square grid of at most `most` places that fills the field, line by line."""
    side = max(2, int(most**0.5))
    biases = sharpest_biases(decoder)
    spot = decoder.predict(biases[None])[0].astype(float)
    along = np.arange(decoder.pixels) + 0.5
    middle = np.array([spot.sum(axis=1) @ along, spot.sum(axis=0) @ along]) / spot.sum()
    places = (np.arange(side) + 0.5) * decoder.pixels / side
    y, x = (axis.ravel() for axis in np.meshgrid(places, places, indexing="ij"))
    half = decoder.pixels / 2
    shift = np.clip(np.stack((y, x), axis=1) - middle, -half, half)
    return predict_pool(decoder, np.repeat(biases[None], side**2, axis=0), shift, pixels)


def _predicted(decoder: Decoder, biases_v: np.ndarray, shift_px: np.ndarray, pixels: int) -> Iterator[np.ndarray]:
    for start in range(0, len(biases_v), CHUNK):
        part = slice(start, start + CHUNK)
        yield coarser(decoder.predict(biases_v[part], shift_px[part]), pixels).reshape(-1, pixels**2).astype(np.float32)


def draw_pool(decoder: Decoder, count: int, pixels: int, rng: np.random.Generator) -> Pool:
    """A pool of `count` patterns of ``pixels x pixels``."""
    return predict_pool(decoder, *settings_of_pool(count, decoder, rng), pixels)
