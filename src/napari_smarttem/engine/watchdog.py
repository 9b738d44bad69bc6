"""Notices an instrument that does not come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Watchdog:
    """A thread that calls `on_stuck(what, waited_s)` once when something watched takes longer than allowed.

    Parameters
    ----------
    on_stuck : callable
        Called on the watchdog's own thread, since the watched one is the one that is stuck.
    """

    def __init__(self, on_stuck: Callable[[str, float], None]) -> None:
        self._on_stuck = on_stuck
        self._condition = threading.Condition()
        self._watched: tuple[str, float, float] | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._watch, name="smarttem-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching. May be called twice, and before `start`."""
        with self._condition:
            self._stopped = True
            self._condition.notify()

    @contextmanager
    def watching(self, what: str, allowed_s: float) -> Iterator[None]:
        """Watch the body; it may take `allowed_s` seconds of wall-clock time."""
        began = time.monotonic()
        self._watched = (what, began, began + allowed_s)
        try:
            yield
        finally:
            self._watched = None

    def _watch(self) -> None:
        # Looking a few times a second costs nothing and spares the instrument thread a notification with every step.
        while True:
            with self._condition:
                if self._stopped or self._condition.wait(0.1):
                    return
            watched = self._watched
            if watched is not None and time.monotonic() > watched[2]:
                self._on_stuck(watched[0], time.monotonic() - watched[1])
                return
