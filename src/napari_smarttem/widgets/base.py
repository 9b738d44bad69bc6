"""What every dock stands on: the one session of its viewer, the engine's signals at the window's pace, messages, docks.

The session belongs to the viewer, not to a dock: docks are views that come and go, and closing one stops nothing. When
the viewer's window is closed, the session is closed with it, in bounded time: the run stops, the beam is blanked, all
that was measured is saved.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtCore import QCoreApplication, QEvent, QObject, QTimer
from qtpy.QtWidgets import QDockWidget, QWidget

from .background import BackgroundJob, run_in_background, when_done
from .job_bar import JobBar, duration_text
from .layers import unwrapped
from .relay import Relay
from .remembered import remember, remembered

if TYPE_CHECKING:
    from napari import Viewer

    from ..engine.session import Session

__all__ = [
    "BackgroundJob",
    "JobBar",
    "Relay",
    "SessionWidget",
    "dataset_dropped",
    "duration_text",
    "open_dock",
    "remember",
    "remembered",
    "run_in_background",
    "session_for",
    "show_message",
    "when_done",
]

PLUGIN = "napari-smarttem"
CLOSE_TIMEOUT_S = 10.0


class _Binding(QObject):
    """Ties a session to a viewer's window: shows its messages, and closes it when the window goes.

    Holds the viewer weakly: it is a value of the dictionary whose key the viewer is.
    """

    def __init__(self, viewer: Any, session: Any) -> None:
        super().__init__()
        self.session = session
        self._viewer = weakref.ref(viewer)
        self._relay = Relay(self)
        self._relay.listen(session.message, self._show_messages, every=True)
        window = _main_window(viewer)
        if window is not None:
            from .reader import prefer_for_our_folders

            prefer_for_our_folders()
            window.installEventFilter(self)
        application = QCoreApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.close)
        # For a viewer that is collected, or a program that ends, without its window ever having been destroyed.
        weakref.finalize(viewer, session.close, CLOSE_TIMEOUT_S)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """The window goes, and the session with it."""
        if window_goes(event):
            self.close()
        return super().eventFilter(watched, event)

    def _show_messages(self, messages: list[tuple[str, str]]) -> None:
        viewer = self._viewer()
        for level, sentence in messages:
            show_message(viewer, level, sentence)

    def close(self) -> None:
        """Stop, blank, save, disconnect: in bounded time, whatever the instrument does."""
        self._relay.stop()
        self.session.close(CLOSE_TIMEOUT_S)


_bindings: weakref.WeakKeyDictionary[Any, _Binding] = weakref.WeakKeyDictionary()


def window_goes(event: QEvent) -> bool:
    """True for the event of a main window after which it will not come back.

    A person's click on the cross may still be taken back in napari's question, so that only the deletion counts; a program
    that closes the window (``viewer.close()``) is not asked, and may not run an event loop that would delete anything.
    """
    return event.type() == QEvent.Type.DeferredDelete or (event.type() == QEvent.Type.Close and not event.spontaneous())


def _main_window(viewer: Any) -> Any:
    """The viewer's main window, None for a model without one."""
    window = getattr(unwrapped(viewer), "window", None)
    return getattr(window, "_qt_window", None) if window is not None else None


def session_for(viewer: Viewer) -> Session:
    """The session of a viewer, made at the first call.

    Parameters
    ----------
    viewer : napari.Viewer or ViewerModel
        napari's proxies are unwrapped: whoever asks gets the same session.
    """
    viewer = unwrapped(viewer)
    binding = _bindings.get(viewer)
    if binding is None:
        from ..engine.session import Session

        binding = bind_session(viewer, Session())
    return binding.session


def bind_session(viewer: Any, session: Session) -> _Binding:
    """Give a viewer the session made elsewhere (by the launcher, or by a test); an error where it has one already."""
    viewer = unwrapped(viewer)
    if viewer in _bindings:
        raise ValueError("this viewer has a session already")
    binding = _bindings[viewer] = _Binding(viewer, session)
    return binding


def show_message(viewer: Any, level: str, sentence: str) -> None:
    """Say one sentence to the person: ``"info"`` in the status bar, ``"warning"`` and ``"error"`` as a notification."""
    if level in {"warning", "error"}:
        from napari.utils import notifications

        {"warning": notifications.show_warning, "error": notifications.show_error}[level](sentence)
    elif viewer is not None:
        unwrapped(viewer).status = sentence


class SessionWidget(QWidget):
    """Base of the docks: knows its viewer and session, and hears the engine in the window's thread.

    A subclass builds itself from the session's present state in ``__init__`` and keeps up through `listen`. It owns no
    hardware and no run: it may be hidden, closed and made anew at any time.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        viewer = unwrapped(napari_viewer)
        self._viewer_reference = weakref.ref(viewer)
        self.session: Session = session_for(viewer)
        self.relay = Relay(self)

    @property
    def viewer(self) -> Any:
        """The napari viewer, unwrapped; None once it has been closed and collected."""
        return self._viewer_reference()

    def listen(self, signal: Any, callback: Callable[..., Any], *, every: bool = False) -> None:
        """Hear a signal of the session at most 15 times a second; see `Relay.listen`."""
        self.relay.listen(signal, callback, every=every)

    def say(self, level: str, sentence: str) -> None:
        """Say one sentence to the person; see `show_message`."""
        show_message(self.viewer, level, sentence)

    def complain(self, error: BaseException) -> None:
        """Show an error as one sentence. Fits as ``on_error`` of a background job."""
        self.say("error", str(error) or type(error).__name__)

    def in_background(
        self,
        work: Callable[..., Any],
        on_done: Callable[[Any], Any] | None = None,
        on_error: Callable[[BaseException], Any] | None = None,
    ) -> BackgroundJob:
        """`run_in_background`, its outcome dropped when this widget is gone and its error shown unless handled."""
        return run_in_background(work, on_done, on_error or self.complain, owner=self)


def open_dock(viewer: Any, title: str) -> Any:
    """Open or raise one of our docks by its title, such as ``"Spectrum"``, and return its widget.

    There is never a second one: napari's menu and this function find the same dock.
    """
    classes = {
        "Instrument": ("instrument", "InstrumentDock"),
        "Acquisition": ("acquisition", "AcquisitionDock"),
        "Spectrum": ("spectrum", "SpectrumDock"),
        "Angle plane": ("angle_plane", "AnglePlaneDock"),
        "Unmixing": ("unmixing", "UnmixingDock"),
        "Alignment": ("alignment", "AlignmentDock"),
        "Single-pixel": ("single_pixel", "SinglePixelDock"),
    }
    if title not in classes:
        raise ValueError(f"there is no dock {title!r}; there are {', '.join(classes)}")
    from importlib import import_module

    module, name = classes[title]
    kind = getattr(import_module(f"{__package__}.{module}"), name)
    viewer = unwrapped(viewer)
    main = _main_window(viewer)
    for widget in main.findChildren(kind):
        dock = _dock_of(widget)
        if dock is not None:
            break
    else:
        dock, widget = _add_dock(viewer, title, kind)
    dock.show()
    dock.raise_()
    stay_on_screen(main)
    return widget


def stay_on_screen(main: Any) -> None:
    """Make the main window no larger than the screen, in the next turn of the event loop.

    Qt lets a window grow with what its docks ask for, one above the other as napari puts new ones, and never shrinks it again.
    """

    def shrink() -> None:
        if not isalive(main) or main.isMaximized() or main.isFullScreen() or main.screen() is None:
            return
        room = main.screen().availableGeometry()
        if main.height() > room.height() or main.width() > room.width():
            main.resize(min(main.width(), room.width()), min(main.height(), room.height()))

    QTimer.singleShot(0, shrink)


def _add_dock(viewer: Any, title: str, kind: Callable[[Any], QWidget]) -> tuple[Any, QWidget]:
    from napari.plugins import _npe2

    if any(plugin == PLUGIN and title in titles for _, (plugin, titles) in _npe2.widget_iterator()):
        # one above the other, the docks together would ask for more height than a laptop has; the angle plane is looked at beside
        # the others
        return viewer.window.add_plugin_dock_widget(PLUGIN, title, tabify=title != "Angle plane")
    widget = kind(viewer)
    return viewer.window.add_dock_widget(widget, name=f"{title} ({PLUGIN})", area="right", tabify=True), widget


def _dock_of(widget: QWidget) -> QDockWidget | None:
    parent = widget.parentWidget()
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parentWidget()
    return parent


def dataset_dropped(viewer: Any, path: str | Path) -> None:
    """Show a file that was dropped on the viewer: the Spectrum dock opens (or comes to the front) with it.

    Safe to call for a viewer whose window has been closed meanwhile; then nothing happens.
    """
    main = _main_window(viewer)
    if main is None or not isalive(main):
        return
    open_dock(viewer, "Spectrum").show_file(Path(path))
