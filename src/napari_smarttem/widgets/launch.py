"""``smarttem gui``: napari with the docks laid out and an instrument connected."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari import Viewer

LARGEST_WINDOW = (1600, 1000)
DOCK_WIDTH = 370


def parser() -> argparse.ArgumentParser:
    """Options of ``smarttem gui``."""
    made = argparse.ArgumentParser(
        prog="smarttem gui", description="Open napari with the Instrument and Acquisition docks."
    )
    made.add_argument("--backend", default=None, metavar="NAME", help="instrument to connect to; default the simulator")
    made.add_argument("--file", default=None, metavar="FILE", help="recorded spectrum image, for the replay backend")
    made.add_argument("--specimen", default=None, metavar="NAME", help="specimen of the simulator")
    made.add_argument("--seed", type=int, default=None, help="seed of the simulator")
    made.add_argument("--fast", action="store_true", help="simulate as fast as possible instead of in real time")
    made.add_argument("--no-connect", action="store_true", help="open the window and connect to nothing")
    made.add_argument("--out", default=None, metavar="DIR", help="where run folders go; default smarttem-runs at home")
    return made


def connection(options: argparse.Namespace) -> tuple[str, dict[str, Any]] | None:
    """Backend and settings that the options ask for; None for no connection."""
    if options.no_connect:
        return None
    backend = options.backend or ("replay" if options.file else "simulator")
    settings: dict[str, Any] = {}
    if options.file:
        settings["file"] = options.file
    if backend == "simulator":
        settings["speed"] = None if options.fast else 1.0
    if options.specimen:
        settings["specimen"] = options.specimen
    if options.seed is not None:
        settings["seed"] = options.seed
    return backend, settings


def arrange(viewer: Viewer, connect: tuple[str, dict[str, Any]] | None = None) -> tuple[Any, Any]:
    """Open the docks of a viewer, as tabs on the right, and begin to connect.

    Parameters
    ----------
    viewer : napari.Viewer
    connect : (str, dict) or None
        Backend and its settings. The window is usable while the instrument is being connected.

    Returns
    -------
    (InstrumentDock, AcquisitionDock)
    """
    from qtpy.QtCore import Qt

    from .base import open_dock

    instrument = open_dock(viewer, "Instrument")
    acquisition = open_dock(viewer, "Acquisition")
    main = viewer.window._qt_window
    docks = [dock_of(one) for one in (instrument, acquisition, open_dock(viewer, "Alignment"))]
    for dock in docks[1:]:
        main.tabifyDockWidget(docks[0], dock)
    for dock, title in zip(docks, ("Instrument", "Acquisition", "Alignment"), strict=True):
        dock.setWindowTitle(title)  # the tab: with the plugin's name behind it nobody could read it
    docks[0].raise_()
    main.resizeDocks([docks[1]], [DOCK_WIDTH], Qt.Orientation.Horizontal)
    if connect is not None:
        backend, settings = connect
        instrument.choose(backend, **settings)
        instrument.connected.connect(docks[1].raise_)
        instrument.connect_instrument(settings)
    return instrument, acquisition


def main(argv: Sequence[str] | None = None) -> int:
    """Open the application; returns when its window is closed."""
    options = parser().parse_args(argv)
    from pathlib import Path

    import napari

    from ..engine.session import Session
    from .base import bind_session

    viewer = napari.Viewer(show=False)
    if options.out:
        bind_session(viewer, Session(folder=Path(options.out).expanduser()))
    arrange(viewer, connection(options))
    viewer.window.show()
    fit_to_screen(viewer)
    napari.run()
    return 0


def fit_to_screen(viewer: Any) -> None:
    """Make the window as large as is useful and the screen allows."""
    from qtpy.QtGui import QGuiApplication

    screen = QGuiApplication.primaryScreen().availableGeometry()
    width, height = (min(a, b) for a, b in zip(LARGEST_WINDOW, (screen.width(), screen.height()), strict=True))
    viewer.window.resize(width, height)


def dock_of(widget: Any) -> Any:
    """The dock widget that holds one of our widgets."""
    from qtpy.QtWidgets import QDockWidget

    parent = widget.parentWidget()
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parentWidget()
    return parent
