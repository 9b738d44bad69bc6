"""What a run shows whoever watches, value by value: too much for the record, which keeps the signals it can be computed from.

The run's own thread tells; a listener takes what it is told and returns at once. What is told holds the step it belongs to, the
very object that the session's signals carry, so that a listener can tell its run from another one of the same program.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """One bucket value that was taken in.

    Attributes
    ----------
    step : TakeImage
        Which recorded it.
    pattern : ndarray, shape (pixels, pixels)
        Fraction of the beam in each pixel, as predicted.
    picture : ndarray, shape (pixels, pixels)
        With this value in it.
    dose_e_per_a2 : ndarray, shape (pixels, pixels)
        Of the run so far.
    signal, expected : float
        Fraction of the beam that came through, and what the picture before let expect.
    patterns : int
        Values taken in so far.
    """

    step: Any
    pattern: np.ndarray
    picture: np.ndarray
    dose_e_per_a2: np.ndarray
    signal: float
    expected: float
    patterns: int


@dataclass(frozen=True)
class Vetting:
    """Patterns that are about to be put before a person: target id -> (pixels, pixels); `dose_e_per_a2` is the dose they add."""

    step: Any
    patterns: Mapping[str, np.ndarray]
    dose_e_per_a2: Mapping[str, np.ndarray]


Listener = Callable[[Seen | Vetting], None]
_listeners: list[Listener] = []
_lock = threading.Lock()


def listen(listener: Listener) -> Callable[[], None]:
    """Call `listener` on the run's thread from now on; call what is returned to end that."""
    with _lock:
        _listeners.append(listener)

    def leave() -> None:
        with _lock:
            if listener in _listeners:
                _listeners.remove(listener)

    return leave


def watched() -> bool:
    """True where anybody listens: what nobody sees need not be computed."""
    return bool(_listeners)


def tell(what: Seen | Vetting) -> None:
    """Tell all listeners; the error of one is logged and stops nothing."""
    with _lock:
        listeners = tuple(_listeners)
    for listener in listeners:
        try:
            listener(what)
        except Exception:
            log.exception("a listener of the single-pixel run failed")
