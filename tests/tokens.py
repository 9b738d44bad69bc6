"""A cancel token for tests of stopping that do not depend on how busy the machine is."""

from __future__ import annotations

import threading


class AfterLooks(threading.Event):
    """Sets itself once a detector has looked at it so many times: whoever looks has begun, and is not at its end.

    Parameters
    ----------
    looks : int
        How often it is seen unset.

    Attributes
    ----------
    waits : list of float
        How long it was waited for, in s, each time.
    """

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._left = looks
        self.waits: list[float] = []

    def is_set(self) -> bool:
        if self._left <= 0:
            self.set()
        self._left -= 1
        return super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(float("inf") if timeout is None else timeout)
        return super().wait(timeout)
