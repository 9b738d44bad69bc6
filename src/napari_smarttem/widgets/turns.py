"""Work that only the window's thread may do, such as making layers: a part in each turn of Qt's event loop.

napari takes longer over one new layer than a person should wait for a click, and nothing can be done about that from outside; but
between two layers the window can move, draw and answer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, QTimer

from .base import window_goes


class Turns(QObject):
    """Does the parts of one piece of work in successive turns of the event loop; a newer piece of work takes the place of it.

    napari lets Qt handle events in the middle of making a layer, so that `start` and `finish` may be called while a part is
    being done: the part is completed, and then what was asked for happens.

    Parameters
    ----------
    parent : QObject, optional
        A main window; nothing more is done once it goes.
    """

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._parts: Iterator[Any] | None = None
        self._done: Callable[[], Any] | None = None
        self._inside = False
        self._closed = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._turn)
        if parent is not None:
            parent.installEventFilter(self)

    @property
    def going(self) -> bool:
        """True until the last part is done."""
        return self._parts is not None

    def start(self, parts: Iterator[Any], done: Callable[[], Any] | None = None) -> None:
        """Begin in the next turn; what has not been done of an earlier piece of work is not done any more.

        Parameters
        ----------
        parts : iterator
            Each ``next`` does one part. An error ends it and goes where napari shows errors.
        done : callable, optional
            Called after the last part.
        """
        if self._closed or not isalive(self):
            return
        self._parts, self._done = parts, done
        if not self._inside:
            self._timer.start()

    def finish(self) -> None:
        """Do all that is left at once."""
        while self._parts is not None and not self._inside:
            self._turn()

    def stop(self) -> None:
        """Leave the rest undone."""
        self._timer.stop()
        self._parts = self._done = None

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """The window goes: layers would be made for nobody."""
        if window_goes(event):
            self.stop()
            self._closed = True
        return super().eventFilter(watched, event)

    def _turn(self) -> None:
        parts, done = self._parts, self._done
        if parts is None or self._inside:
            return
        self._inside = True
        over = False
        try:
            next(parts)
        except StopIteration:
            over = True
        except Exception:
            over, done = True, None
            sys.excepthook(*sys.exc_info())
        finally:
            self._inside = False
        if over and self._parts is parts:
            self.stop()
            if done is not None:
                done()
        elif self._parts is not None:
            self._timer.start()


def by_turns(window: QObject, parts: Iterator[Any]) -> None:
    """Do the parts of a piece of work in successive turns of the event loop, as long as the main window is there."""
    turns = Turns(window)
    turns.start(parts, turns.deleteLater)
