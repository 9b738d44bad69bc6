"""How a recording is played back: by a virtual clock, and thinned to the exposure asked for."""

from __future__ import annotations

import math
import threading
import time

import numpy as np

from ..schema import BadInput
from .base import CancelToken


class PlaybackClock:
    """Virtual time.

    Parameters
    ----------
    speed : float or None
        1.0 is real time, 10 ten times as fast; None lets time pass without waiting.
    """

    def __init__(self, speed: float | None = None) -> None:
        if speed is not None and not (isinstance(speed, (int, float)) and speed > 0 and math.isfinite(speed)):
            raise BadInput(f"speed must be above 0 (1 is real time), or None for as fast as possible; got {speed!r}.")
        self.speed = None if speed is None else float(speed)
        self._now = 0.0
        self._lock = threading.Lock()

    def now_s(self) -> float:
        """Seconds since the clock was made."""
        return self._now

    def run(self, seconds: float, cancel: CancelToken) -> float:
        """Let `seconds` pass, or fewer once `cancel` is set; gives the seconds that passed."""
        if cancel.is_set():
            return 0.0
        if self.speed is None:
            self._advance(seconds)
            return seconds
        began = time.monotonic()
        passed = 0.0
        while passed < seconds and not cancel.wait(min(0.02, (seconds - passed) / self.speed)):
            before, passed = passed, min((time.monotonic() - began) * self.speed, seconds)
            self._advance(passed - before)
        return passed

    def _advance(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds


def thin(values: np.ndarray, fraction: float, rng: np.random.Generator, *, counts_per_unit: float = 1.0) -> np.ndarray:
    """Counts as a shorter exposure would have recorded them.

    Each count is kept with probability `fraction`, independently: a binomial split, which turns Poisson counts of mean
    m into Poisson counts of mean ``fraction * m`` (the thinning theorem). Values that are no whole counts are first
    rounded up or down at random, which keeps their mean; values below zero (a background subtracted) are scaled.

    Parameters
    ----------
    values : array, shape (n,)
        Recorded values.
    fraction : float
        0 to 1 of the recorded exposure; 1 gives the values as they are.
    rng : numpy.random.Generator
    counts_per_unit : float
        Counts one unit of `values` stands for.

    Returns
    -------
    array, shape (n,)
        Integers stay integers (of the same type), other types stay as they are.
    """
    if fraction >= 1.0:
        return values.copy()
    counts = np.clip(values.astype(np.float64), 0, None) * counts_per_unit
    whole = np.floor(counts + rng.random(counts.shape)).astype(np.int64)
    kept = rng.binomial(whole, fraction)
    if values.dtype.kind in "bui" and counts_per_unit == 1.0:
        return kept.astype(values.dtype)
    below_zero = np.minimum(values, 0) * fraction
    result: np.ndarray = (kept / counts_per_unit + below_zero).astype(
        values.dtype if values.dtype.kind == "f" else np.float64
    )
    return result
