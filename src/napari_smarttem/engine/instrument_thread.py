"""The one thread that talks to an instrument."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class InstrumentThread:
    """Runs functions one after another on a daemon thread of its own.

    Vendors' libraries often insist on one thread; and a call that never returns must not keep the program from ending, which the
    threads of `concurrent.futures` would.
    """

    def __init__(self, name: str = "smarttem-instrument") -> None:
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Queue `function`; its result or error arrives in the future."""
        future: Future[T] = Future()
        self._queue.put((future, function))
        return future

    def stop(self) -> None:
        """End the thread once what is queued is done; does not wait."""
        self._queue.put(None)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            future, function = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
            # a finished job must not keep a closed viewer or instrument alive until the next one
            del job, future, function
