"""The patterns a run can choose from: biases from none to the limit, the gentler ones (small spots) moved about the field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..physics.caustics import BIAS_LIMIT_V
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


def _predicted(decoder: Decoder, biases_v: np.ndarray, shift_px: np.ndarray, pixels: int) -> Iterator[np.ndarray]:
    for start in range(0, len(biases_v), CHUNK):
        part = slice(start, start + CHUNK)
        yield coarser(decoder.predict(biases_v[part], shift_px[part]), pixels).reshape(-1, pixels**2).astype(np.float32)


def draw_pool(decoder: Decoder, count: int, pixels: int, rng: np.random.Generator) -> Pool:
    """A pool of `count` patterns of ``pixels x pixels``."""
    return predict_pool(decoder, *settings_of_pool(count, decoder, rng), pixels)
