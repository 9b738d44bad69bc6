"""From the instrument's thread to the window: newest value in a slot, one timer that empties the slots.

Signals of the engine are emitted on the instrument thread, up to thousands a second. A Qt event for each would fill
the event queue; so a listener's slot keeps the newest arguments (or, where every result counts, all of them), and a
timer of the window hands them over at most 15 times a second.
"""

from __future__ import annotations

import inspect
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, QTimer

PERIOD_MS = 66


class _Slot:
    """What one listener has not heard yet. Written on any thread, emptied on the window's."""

    def __init__(self, callback: Callable[..., Any], every: bool) -> None:
        self._callback = weakref.WeakMethod(callback) if inspect.ismethod(callback) else (lambda: callback)
        self._every = every
        self._waiting: list[tuple[Any, ...]] = []
        self._lock = threading.Lock()

    def receive(self, *args: Any) -> None:
        with self._lock:
            if self._every:
                self._waiting.append(args)
            else:
                self._waiting = [args]

    def deliver(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        callback = self._callback()
        if not waiting or callback is None:
            return
        if self._every:
            callback([args[0] if len(args) == 1 else args for args in waiting])
        else:
            callback(*waiting[0])


class Relay(QObject):
    """Hands signals of the engine to the window, in the window's thread and at the window's pace.

    It lives as long as its parent; a listener that has been deleted is forgotten. `stop` ends it earlier.
    """

    def __init__(self, parent: QObject | None = None, period_ms: int = PERIOD_MS) -> None:
        super().__init__(parent)
        self._slots: list[tuple[Any, _Slot]] = []
        self._timer = QTimer(self)
        self._timer.setInterval(period_ms)
        self._timer.timeout.connect(self.flush)

    def listen(self, signal: Any, callback: Callable[..., Any], *, every: bool = False) -> None:
        """Call `callback` in the window's thread after `signal` (psygnal's) was emitted on any.

        Parameters
        ----------
        signal : psygnal.SignalInstance
        callback : callable
            A bound method is held weakly. Called with the newest arguments; with `every`, with a list of all arguments
            that came since the last call, oldest first.
        every : bool
            True where no emission may be skipped, such as a spectrum that goes into a map.
        """
        slot = _Slot(callback, every)
        self._slots.append((signal, slot))
        signal.connect(slot.receive)
        if not self._timer.isActive():
            self._timer.start()

    def flush(self) -> None:
        """Hand over now what is waiting; after a person's own action nobody should wait for the timer."""
        for _, slot in tuple(self._slots):
            try:
                slot.deliver()
            except Exception:
                # One listener's error must not keep the others from hearing: it goes where napari shows errors.
                sys.excepthook(*sys.exc_info())

    def stop(self) -> None:
        """Stop listening; may be called twice."""
        self._timer.stop()
        slots, self._slots = self._slots, []
        for signal, slot in slots:
            signal.disconnect(slot.receive, missing_ok=True)
