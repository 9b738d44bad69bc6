"""napari's way in for files: images as layers in nm, spectrum images as their overview, run folders with their targets.

napari calls readers in the window's thread. What is small is read there and then; what is not is read on a thread of its own and
its layers appear when they are ready, so that the window never waits. Without a window everything is read at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..schema import Frame

LayerData = tuple[Any, ...]
Reader = Callable[[Any], list[LayerData]]

FOLDERS = (".zspy", ".smarttem")
FILES = (
    ".hspy", ".zspy", ".dm3", ".dm4", ".emd", ".bcf", ".spx", ".mrc", ".ser", ".emi", ".blo", ".msa", ".emsa", ".rpl", ".pts",
    ".asw", ".spd", ".spc", ".prz", ".unf", ".mib", ".elid",
)  # fmt: skip
"""What the manifest claims. ``.npy`` and ``.tif`` are napari's own, although `io.read` takes them."""

DIRECT_FILE_BYTES = 4 * 2**20
"""A larger file is not opened in the window's thread at all."""

DIRECT_ARRAY_BYTES = 12 * 2**20
"""Larger arrays (uncompressed) are not loaded in the window's thread: about 30 ms of reading and summing."""


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
        ``[(None,)]`` where no layer comes now: the file is still being read, or holds only spectra, which the Spectrum dock
        shows.

    Raises
    ------
    BadInput
        The file cannot be read; one sentence with its name and the reason, which napari shows.
    """
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    layers: list[LayerData] = []
    for one in paths:
        layers += _read_one(Path(one))
    return layers or [(None,)]


def _read_one(path: Path) -> list[LayerData]:
    viewer = _viewer_of_this_thread()
    if viewer is None:
        layers, _spectral = layers_of(path)
        return layers
    if not _is_quick(path):
        _read_in_background(viewer, path)
        return []
    layers, spectral = layers_of(path)
    if spectral:
        _once_added(viewer, path, len(layers))
    return layers


def layers_of(path: Path) -> tuple[list[LayerData], bool]:
    """All layers of a file or run folder, and whether it holds spectra. Needs neither a window nor a viewer."""
    if path.suffix.lower() == ".smarttem":
        return _run_layers(path)
    from ..io import is_line_scan, is_spectrum_image, read

    frames = read(path)
    layers: list[LayerData] = []
    spectral = False
    for index, frame in enumerate(frames):
        is_map = is_spectrum_image(frame)
        spectral = spectral or is_map or is_line_scan(frame) or len(frame.axes) == 1
        layers += _frame_layers(path, index, frame)
    return layers, spectral


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
        return [_on_specimen(image_layer_data(frame, name=title, metadata=about | {"kind": "image"}))]
    return [_stack_layer(frame, title, about)]


def _on_specimen(layer: LayerData) -> LayerData:
    """The layer, its reciprocal or missing units given as pixels.

    napari drops the units of all layers as soon as one has units of another kind, so that a diffraction pattern opened beside
    an image in nm must not bring its 1/nm along. The calibration stays in the layer's metadata.
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
    return _on_specimen((frame.data, arguments, "image"))


def _run_layers(path: Path) -> tuple[list[LayerData], bool]:
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
    return layers, spectral


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

    from .background import run_in_background
    from .base import show_message

    reference = weakref.ref(getattr(viewer, "__wrapped__", viewer))

    def add(result: tuple[list[LayerData], bool]) -> None:
        from napari.layers import Layer

        viewer = reference()
        if viewer is None or not _is_open(viewer):
            return
        layers, spectral = result
        for layer in layers:
            viewer.add_layer(Layer.create(*layer))
        viewer.status = f"{path.name} is open."
        if spectral:
            _show_spectra(viewer, path)

    def complain(error: BaseException) -> None:
        show_message(reference(), "error", str(error) or f"{path.name} cannot be read: {type(error).__name__}.")

    viewer.status = f"Reading {path.name} …"
    run_in_background(lambda _cancel: layers_of(path), add, complain)


def _is_open(viewer: Any) -> bool:
    from qtpy.compat import isalive

    window = getattr(getattr(viewer, "window", None), "_qt_window", None)
    return window is not None and isalive(window)


def _once_added(viewer: Any, path: Path, expected: int, tries: int = 100) -> None:
    """Open the Spectrum dock once napari has added the layers; it lets Qt work while it is still at it."""
    from qtpy.QtCore import QTimer

    def look() -> None:
        there = sum(layer.metadata.get("smarttem", {}).get("path") == str(path) for layer in viewer.layers)
        if there >= expected or tries == 0:
            _show_spectra(viewer, path)
        else:
            _once_added(viewer, path, expected, tries - 1)

    QTimer.singleShot(20, look)


def _show_spectra(viewer: Any, path: Path) -> None:
    """Open the Spectrum dock on the file."""
    from .base import dataset_dropped

    dataset_dropped(viewer, path)
