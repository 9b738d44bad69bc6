"""Work that would hold up the window: done on a thread of a pool, its result handed back in the window's thread."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

from qtpy.compat import isalive
from qtpy.QtCore import QCoreApplication, QObject, Qt, Signal

_pool: ThreadPoolExecutor | None = None
_running: weakref.WeakSet[BackgroundJob] = weakref.WeakSet()


class _Courier(QObject):
    """Carries finished jobs into the window's thread; one a program, so that no job outlives its messenger."""

    finished = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.finished.connect(self._hand_over, Qt.ConnectionType.QueuedConnection)

    def _hand_over(self, job: BackgroundJob) -> None:
        job._hand_over()


_courier: _Courier | None = None


def _messenger() -> _Courier:
    global _courier  # noqa: PLW0603  (made late: it needs a QApplication, and must be born in its thread)
    if _courier is None or not isalive(_courier):
        _courier = _Courier()
        application = QCoreApplication.instance()
        if application is not None:
            _courier.moveToThread(application.thread())
            application.aboutToQuit.connect(cancel_all)
    return _courier


class BackgroundJob:
    """A future whose outcome is told to the window's thread.

    Attributes
    ----------
    cancel : threading.Event
        Set it to ask the work to stop; neither callback is called any more.
    future : concurrent.futures.Future
    """

    def __init__(
        self,
        future: Future[Any],
        cancel: threading.Event,
        on_done: Callable[[Any], Any] | None,
        on_error: Callable[[BaseException], Any] | None,
        owner: QObject | None,
    ) -> None:
        self.future = future
        self.cancel = cancel
        self._on_done = on_done
        self._on_error = on_error
        self._owner = weakref.ref(owner) if owner is not None else None
        _running.add(self)
        messenger = _messenger()
        future.add_done_callback(lambda _: messenger.finished.emit(self) if isalive(messenger) else None)

    @property
    def running(self) -> bool:
        """True until the work is done."""
        return not self.future.done()

    def _hand_over(self) -> None:
        _running.discard(self)
        if self.cancel.is_set():
            return
        if self._owner is not None:
            owner = self._owner()
            if owner is None or not isalive(owner):
                return
        try:
            result = self.future.result()
        except CancelledError:
            return
        except Exception as error:
            if self._on_error is None:
                sys.excepthook(type(error), error, error.__traceback__)
            else:
                self._on_error(error)
            return
        if self._on_done is not None:
            self._on_done(result)


def run_in_background(
    work: Callable[[threading.Event], Any],
    on_done: Callable[[Any], Any] | None = None,
    on_error: Callable[[BaseException], Any] | None = None,
    *,
    owner: QObject | None = None,
) -> BackgroundJob:
    """Run ``work(cancel)`` on a thread of the pool; call `on_done` or `on_error` in the window's thread.

    Parameters
    ----------
    work : callable
        Gets a `threading.Event` and should look at it now and then. Must not touch Qt or layers.
    on_done : callable, optional
        Gets what `work` returned.
    on_error : callable, optional
        Gets the exception; without it the error goes where napari shows errors.
    owner : QObject, optional
        Neither callback is called once this object has been deleted.
    """
    global _pool  # noqa: PLW0603  (made at the first job)
    if _pool is None:
        _pool = ThreadPoolExecutor(max_workers=3, thread_name_prefix="smarttem-window")
    cancel = threading.Event()
    _messenger()
    return BackgroundJob(_pool.submit(work, cancel), cancel, on_done, on_error, owner)


def when_done(
    future: Future[Any],
    on_done: Callable[[Any], Any] | None = None,
    on_error: Callable[[BaseException], Any] | None = None,
    *,
    owner: QObject | None = None,
) -> BackgroundJob:
    """Call `on_done` or `on_error` in the window's thread when somebody else's future ends (``session.connect``)."""
    return BackgroundJob(future, threading.Event(), on_done, on_error, owner)


def cancel_all() -> None:
    """Ask every running job to stop; called when the application quits."""
    for job in tuple(_running):
        job.cancel.set()
