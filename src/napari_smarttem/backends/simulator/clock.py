"""Virtual time: what dwell, exposure, flyback and settling cost, at any speed."""

from __future__ import annotations

import math
import threading
import time
from types import NoneType

from ...schema import BadInput
from ..base import CancelToken

SLICE_S = 0.02
"""Longest real wait before a cancel token is looked at again, for tokens whose ``wait`` does not wake early."""


class Clock:
    """A clock whose seconds pass `speed` times as fast as real ones, or only when told to.

    Parameters
    ----------
    speed : float or None
        Virtual seconds per real second. None or infinity: time stands still except in `wait_until`, which returns at once; such
        a clock is deterministic.

    Notes
    -----
    At a finite speed, computing takes virtual time too, as on a real instrument: `wait_until` waits for a deadline, so an
    exposure is not lengthened by the time it takes to simulate it.
    """

    def __init__(self, speed: float | None = 1.0) -> None:
        if isinstance(speed, bool) or not isinstance(speed, (int, float, NoneType)) or not (speed is None or speed > 0):
            raise BadInput(f"the speed of the clock must be positive, or None for as fast as possible, got {speed!r}.")
        self.speed = None if speed is None or math.isinf(speed) else float(speed)
        self._lock = threading.Lock()
        self._virtual_s = 0.0
        self._started = time.monotonic()

    def now_s(self) -> float:
        """Virtual seconds since the clock was made; never runs backwards."""
        with self._lock:
            if self.speed is not None:
                self._virtual_s = max(self._virtual_s, (time.monotonic() - self._started) * self.speed)
            return self._virtual_s

    def wait_until(self, deadline_s: float, cancel: CancelToken | None = None) -> bool:
        """Wait until the clock shows `deadline_s`; True where it was reached, False where `cancel` was set before."""
        if self.speed is None:
            if cancel is not None and cancel.is_set():
                return False
            with self._lock:
                self._virtual_s = max(self._virtual_s, deadline_s)
            return True
        while True:
            if cancel is not None and cancel.is_set():
                return False
            left_s = (deadline_s - self.now_s()) / self.speed
            if left_s <= 0:
                return True
            if cancel is None:
                time.sleep(left_s)
            else:
                cancel.wait(min(left_s, SLICE_S))

    def sleep(self, seconds: float, cancel: CancelToken | None = None) -> bool:
        """Wait for `seconds` of virtual time; True unless cancelled."""
        return self.wait_until(self.now_s() + seconds, cancel)
