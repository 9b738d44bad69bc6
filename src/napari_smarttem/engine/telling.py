"""Tells listeners what happened; what goes wrong in a listener is logged and never reaches whoever works."""

from __future__ import annotations

import logging

from psygnal import SignalInstance

log = logging.getLogger(__name__)


def tell(signal: SignalInstance, *values: object) -> None:
    """Emit `signal`. Never call this with a lock held: a listener may want that lock on another thread.

    A listener's error ends the round (those connected after it do not hear of this one) and is logged with its traceback.
    """
    try:
        signal.emit(*values)
    except Exception as error:  # not psygnal's own class alone: it raises RecursionError as it is
        log.exception("a listener failed: %s", error)
