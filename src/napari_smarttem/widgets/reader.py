"""napari's way in for files: images as layers in nm, spectrum images as their overview, run folders with their targets.

napari calls readers in the window's thread. What is small is read there and then; what is not is read on a thread of its own and
its layers appear when they are ready, so that the window never waits. Without a window everything is read at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..schema import Frame

LayerData = tuple[Any, ...]
Reader = Callable[[Any], list[LayerData]]

FOLDERS = (".zspy", ".smarttem")
FILES = (
    ".hspy", ".zspy", ".dm3", ".dm4", ".emd", ".bcf", ".spx", ".mrc", ".ser", ".emi", ".blo", ".msa", ".emsa", ".rpl", ".pts",
    ".asw", ".spd", ".spc", ".unf", ".mib", ".elid",
)  # fmt: skip
"""What the manifest claims. ``.npy`` and ``.tif`` are napari's own, although `io.read` takes them."""

DIRECT_FILE_BYTES = 4 * 2**20
"""A larger file is not opened in the window's thread at all."""

DIRECT_ARRAY_BYTES = 24 * 2**20
"""Larger arrays (uncompressed) are not loaded in the window's thread: about 60 ms of reading and summing. Below that a script that
calls ``viewer.open`` finds its layer when the call returns."""


def prefer_for_our_folders() -> None:
    """Let napari give our folders to this reader without asking, for as long as it runs.

    napari's own reader claims every folder, so that napari asks in a modal dialog which of the two is meant, for each folder anew,
    and opens the files dropped beside it twice. What a person has chosen in the preferences stays; nothing is written to disk here.
    """
    from napari.settings import get_settings

    chosen = get_settings().plugins.extension2reader
    for kind in FOLDERS:  # which napari matches by their paths with a separator behind
        chosen.setdefault(f"*{kind}{os.sep}", "napari-smarttem")


def get_reader(path: str | Sequence[str]) -> Reader | None:
    """npe2's entry point: the function that reads `path`, or None, at once, where it is not ours.

    Parameters
    ----------
    path : str or sequence of str
        Several are taken only where every one of them is ours.
    """
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if paths and all(_is_ours(str(one)) for one in paths):
        return read_layers
    return None


def _is_ours(path: str) -> bool:
    suffix = os.path.splitext(path.rstrip("/\\"))[1].lower()
    if suffix not in FILES and suffix not in FOLDERS:
        return False
    return suffix in FOLDERS if os.path.isdir(path) else suffix in FILES


def read_layers(path: str | Sequence[str]) -> list[LayerData]:
    """Layers of one file, or of several.

    Returns
    -------
    list of layer data
        ``[(None,)]`` where no layer comes now: the file is still being read, cannot be read, or holds only spectra, which the
        Spectrum dock shows.

    Raises
    ------
    BadInput
        The file cannot be read; one sentence with its name and the reason. In a window it is shown instead of raised.
    """
    prefer_for_our_folders()
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    layers: list[LayerData] = []
    for one in paths:
        layers += _read_one(Path(one))
    return layers or [(None,)]


def _read_one(path: Path) -> list[LayerData]:
    viewer = _viewer_of_this_thread()
    if viewer is None:
        contents = contents_of(path)
        return contents.layers + [_on_specimen(layer) for layer, _ in contents.patterns]
    if not _is_quick(path):
        _read_in_background(viewer, path)
        return []
    try:
        contents = contents_of(path)
    except Exception as error:
        # Raised, it would reach the person as napari's paragraph about plugins and file extensions, with the reason at its end.
        _complain(viewer, path, error)
        return []
    if contents.spectral or contents.patterns:
        _once_added(viewer, path, contents)
    return contents.layers


def _complain(viewer: Any, path: Path, error: BaseException) -> None:
    """One sentence with the name of the file and the reason."""
    from .base import show_message

    show_message(viewer, "error", str(error) or f"{path.name} cannot be read: {type(error).__name__}.")


@dataclass(frozen=True)
class Contents:
    """What a file or run folder holds, for a window.

    Attributes
    ----------
    layers : list of layer data
        Images on the specimen plane, and targets.
    patterns : list of (layer data, Frame)
        Images in mrad or 1/nm, which belong on the angle plane.
    spectral : bool
        True where there are spectra for the Spectrum dock.
    unmixable : bool
        True where there is a map or line scan of spectra for the Unmixing dock.
    """

    layers: list[LayerData] = field(default_factory=list)
    patterns: list[tuple[LayerData, Frame]] = field(default_factory=list)
    spectral: bool = False
    unmixable: bool = False


def contents_of(path: Path) -> Contents:
    """Read a file or run folder. Needs neither a window nor a viewer; BadInput where it cannot be read."""
    if path.suffix.lower() == ".smarttem":
        return _run_contents(path)
    from ..io import is_line_scan, is_spectrum_image, read

    layers: list[LayerData] = []
    patterns: list[tuple[LayerData, Frame]] = []
    spectral = unmixable = False
    for index, frame in enumerate(read(path)):
        unmixable = unmixable or is_spectrum_image(frame) or is_line_scan(frame)
        spectral = spectral or unmixable or len(frame.axes) == 1
        made = _frame_layers(path, index, frame)
        if (
            len(frame.axes) == 2
            and frame.axes[0].units in {"mrad", "1/nm"}
            and frame.axes[1].units == frame.axes[0].units
        ):
            patterns += [(layer, frame) for layer in made]
        else:
            layers += [_on_specimen(layer) for layer in made]
    return Contents(layers, patterns, spectral, unmixable)


def _frame_layers(path: Path, index: int, frame: Frame) -> list[LayerData]:
    from ..io import is_line_scan, is_spectrum_image, summed_counts
    from .layers import image_layer_data

    names = [axis.name for axis in frame.axes]
    title = str(frame.metadata.get("title") or path.stem)
    about: dict[str, Any] = {"path": str(path), "dataset": index, "title": title}
    if is_spectrum_image(frame):
        name = f"{title} ({frame.signal} sum)"
        return [image_layer_data(summed_counts(frame), name=name, metadata=about | {"kind": "spectrum_image"})]
    if is_line_scan(frame) or len(names) == 1:
        return []
    if len(names) == 2:
        return [image_layer_data(frame, name=title, metadata=about | {"kind": "image"})]
    return [_stack_layer(frame, title, about)]


def _on_specimen(layer: LayerData) -> LayerData:
    """The layer, its units of another kind than nm given as pixels; the calibration stays in the layer's metadata.

    Without a window there is no angle plane, and 1/nm beside nm would be drawn as if they were the same.
    """
    data, arguments, kind = layer
    if all(units in {"nm", "pixel"} for units in arguments["units"]):
        return layer
    about = arguments["metadata"]["smarttem"]
    about["calibration"] = {
        key: [float(v) if not isinstance(v, str) else v for v in arguments[key]]
        for key in ("scale", "translate", "units")
    }
    size = len(arguments["units"])
    return data, arguments | {"units": ("pixel",) * size, "scale": (1.0,) * size, "translate": (0.0,) * size}, kind


def _stack_layer(frame: Frame, title: str, about: dict[str, Any]) -> LayerData:
    """Three and more dimensions as napari takes them: the last two are the image, the others sliders; lazy stays lazy."""
    from .layers import layer_name

    units = tuple(axis.units for axis in frame.axes)
    arguments = {
        "name": layer_name(title, simulated=bool(frame.metadata.get("simulated"))),
        "scale": tuple(axis.scale for axis in frame.axes),
        "translate": tuple(axis.offset for axis in frame.axes),
        "units": units,
        "axis_labels": tuple(axis.name for axis in frame.axes),
        "metadata": {"smarttem": about | {"kind": "stack", "signal": frame.signal, "quantity": frame.quantity}},
        "colormap": "gray",
    }
    return frame.data, arguments, "image"


def _run_contents(path: Path) -> Contents:
    """A run's last overview and its targets, coloured and shaped by what became of them."""
    from ..engine.history import judged_targets, measured_steps, overview_frames
    from ..engine.journal import Journal
    from .layers import image_layer_data, target_layer_data

    journal = Journal.open(path, read_only=True)
    try:
        frames = overview_frames(journal)
        items = judged_targets(journal)
        spectral = bool(measured_steps(journal))
        start = journal.start
    finally:
        journal.close()
    simulated = start.instrument.simulated
    about = {"path": str(path), "run_id": start.run_id, "simulated": simulated}
    layers: list[LayerData] = [
        image_layer_data(
            frame.model_copy(update={"metadata": {**frame.metadata, "simulated": simulated}}),
            name=f"{path.stem} {frame.signal}",
            metadata=about | {"kind": "run_overview", "dataset": index},
        )
        for index, frame in enumerate(frames)
    ]
    if items:
        field_nm = max(start.context.field.height_nm, start.context.field.width_nm)
        layers.append(
            target_layer_data(
                items,
                name=f"{path.stem} targets",
                simulated=simulated,
                field_nm=field_nm,
                metadata=about | {"kind": "run_targets"},
            )
        )
    return Contents(layers, [], spectral)


# ------------------------------------------------------------------------------------------------- inside a window


def _viewer_of_this_thread() -> Any:
    """The viewer whose window is waiting for us; None without a window, or on another thread."""
    import napari

    viewer = napari.current_viewer()
    if viewer is None or getattr(viewer, "window", None) is None:
        return None
    from qtpy.QtCore import QCoreApplication, QThread

    application = QCoreApplication.instance()
    if application is None or QThread.currentThread() is not application.thread():
        return None
    return viewer


def _is_quick(path: Path) -> bool:
    """True where the file can be read in some tens of milliseconds. Errors come with the reading itself."""
    suffix = path.suffix.lower()
    if suffix == ".smarttem":
        lines = path / "run.jsonl"
        return not lines.exists() or lines.stat().st_size <= DIRECT_FILE_BYTES
    if path.is_dir():
        return False
    if not path.exists() or path.stat().st_size > DIRECT_FILE_BYTES:
        return not path.exists()
    if suffix != ".hspy":
        return suffix in {
            ".dm3",
            ".dm4",
            ".mrc",
            ".msa",
            ".emsa",
            ".ser",
        }  # not compressed: the file is as large as its arrays
    from ..io.read import uncompressed_bytes

    return uncompressed_bytes(path) <= DIRECT_ARRAY_BYTES


def _read_in_background(viewer: Any, path: Path) -> None:
    import weakref

    from napari.layers import Layer

    from .background import run_in_background
    from .turns import by_turns

    reference = weakref.ref(getattr(viewer, "__wrapped__", viewer))

    def parts(viewer: Any, contents: Contents) -> Iterator[None]:
        for layer in contents.layers:
            viewer.add_layer(Layer.create(*layer))
            yield
        viewer.status = f"{path.name} is open."
        _open_docks(viewer, path, contents)

    def add(contents: Contents) -> None:
        viewer = reference()
        if viewer is None or not _is_open(viewer):
            return
        by_turns(viewer.window._qt_window, parts(viewer, contents))

    def complain(error: BaseException) -> None:
        _complain(reference(), path, error)

    viewer.status = f"Reading {path.name} …"
    run_in_background(lambda _cancel: contents_of(path), add, complain)


def _is_open(viewer: Any) -> bool:
    from qtpy.compat import isalive

    window = getattr(getattr(viewer, "window", None), "_qt_window", None)
    return window is not None and isalive(window)


def _once_added(viewer: Any, path: Path, contents: Contents, tries: int = 100) -> None:
    """Open the docks once napari has added the layers; it lets Qt work while it is still at it."""
    from qtpy.QtCore import QTimer

    def look() -> None:
        there = sum(layer.metadata.get("smarttem", {}).get("path") == str(path) for layer in viewer.layers)
        if there >= len(contents.layers) or tries == 0:
            _open_docks(viewer, path, contents)
        else:
            _once_added(viewer, path, contents, tries - 1)

    QTimer.singleShot(20, look)


def _open_docks(viewer: Any, path: Path, contents: Contents) -> None:
    """Spectra go to the Spectrum dock, patterns to the angle plane; one dock in each turn of the event loop."""
    if not _is_open(viewer):
        return
    from .turns import by_turns

    by_turns(viewer.window._qt_window, _docks(viewer, path, contents))


def _docks(viewer: Any, path: Path, contents: Contents) -> Iterator[None]:
    from .base import dataset_dropped, open_dock

    if contents.patterns:
        dock = open_dock(viewer, "Angle plane")
        yield
        for _, frame in contents.patterns:
            dock.show_frame(frame)
            yield
    in_front = False
    if contents.unmixable:
        from . import unmixing

        in_front = unmixing.is_in_front(viewer)
        yield
    if contents.spectral:
        dataset_dropped(viewer, path)
        yield
    if contents.unmixable:
        unmixing.offer_file(viewer, path, in_front=in_front)
