"""Read anything RosettaSciIO reads into `Frame`s, without HyperSpy and lazily above a size.

Shapes and axis names that come out:

=================  ==========================  ==================================================
what               shape                       axes
=================  ==========================  ==================================================
image              ``(y, x)``                  ``y``, ``x`` in nm
spectrum           ``(energy,)``               ``energy_loss`` (EELS) or ``energy`` in eV
line scan          ``(x, energy)``             ``x`` in nm, then energy
spectrum image     ``(y, x, energy)``          ``y``, ``x`` in nm, then energy
diffraction        ``(k_y, k_x)``              1/nm, or ``theta_y``, ``theta_x`` in mrad
stack of images    ``(frame, y, x)``           ``frame`` in s or pixel
scan of patterns   ``(y, x, k_y, k_x)``        nm, then 1/nm (or mrad)
=================  ==========================  ==================================================

What has no unit in the file is in ``"pixel"``, scale 1; the file's own numbers stay in ``metadata["axes_in_file"]``.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import BadInput, Frame
from .calibration import calibrate, recognise_signal
from .provenance import apply_mapping, json_safe, look_up, summarise

_log = logging.getLogger(__name__)

LAZY_ABOVE_BYTES = 256 * 2**20
"""Arrays larger than this stay on disk (dask) unless asked for otherwise."""

_MODULES: dict[str, str] = {
    ".hspy": "hspy",
    ".zspy": "zspy",
    ".dm3": "digitalmicrograph",
    ".dm4": "digitalmicrograph",
    ".emd": "emd",
    ".bcf": "bruker",
    ".spx": "bruker",
    ".mrc": "mrc",
    ".ser": "tia",
    ".emi": "tia",
    ".blo": "blockfile",
    ".msa": "msa",
    ".emsa": "msa",
    ".rpl": "ripple",
    ".pts": "jeol",
    ".asw": "jeol",
    ".spd": "edax",
    ".spc": "edax",
    ".unf": "semper",
    ".mib": "quantumdetector",
    ".elid": "phenom",
    ".nxs": "nexus",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".npy": "numpy",
}

EXTENSIONS: tuple[str, ...] = tuple(_MODULES)
"""What `read` takes by name, lower case, with the dot."""

# Panta Rhei (.prz) is left out on purpose: its header is a pickle.
_DIRECTORIES = frozenset({".zspy"})
_ZARR_ROOTS = (".zgroup", "zarr.json")  # one of them stands at the root of every zarr group, format 2 and format 3
_HDF5 = frozenset({".hspy", ".emd", ".nxs"})
_EAGER_ONLY = frozenset({"msa", "semper", "edax"})
# Spectra in these are stored compressed or as event lists, so that the file is several times smaller than the array.
_EXPANDS = {"emd": 8, "bruker": 16, "jeol": 16}


def read(path: str | os.PathLike[str], *, lazy: bool | None = None) -> tuple[Frame, ...]:
    """All images, spectra and spectrum images in a file.

    Parameters
    ----------
    path : path
        A file with one of `EXTENSIONS`; ``.zspy`` may be a folder.
    lazy : bool or None
        True leaves the values on disk as dask arrays, False loads them, None (the default) loads what is below
        `LAZY_ABOVE_BYTES`.

    Returns
    -------
    tuple of Frame
        At least one. ``metadata`` has ``title``, ``file``, ``dataset`` (index in the file), what `provenance.summarise`
        finds, ``non_finite_values`` where the array holds NaN or infinities, ``axes_in_file`` and ``original`` (cut
        to a size).

    Raises
    ------
    BadInput
        One sentence that names the file, what is wrong with it and what to do; the first error is its cause.
    """
    path = Path(path)
    module_name = _module_for(path)
    try:
        module = importlib.import_module(f"rsciio.{module_name}")
    except ImportError as error:
        raise BadInput(
            f"{path.name} cannot be read: the reader for {path.suffix} files needs a package that is not installed"
            f" ({error}); install rosettasciio with the extra for this format."
        ) from error
    try:
        stay_lazy = module_name not in _EAGER_ONLY and (
            uncompressed_bytes(path) > LAZY_ABOVE_BYTES if lazy is None else lazy
        )
        arguments: dict[str, Any] = {"lazy": stay_lazy}
        if module_name == "zspy":
            arguments["mode"] = "r"
        elif module_name == "numpy" and not stay_lazy:
            arguments["allow_pickle"] = False
        datasets = module.file_reader(str(path), **arguments)
    except BadInput:
        raise
    # The readers parse foreign bytes: a damaged file can end in any exception there is, and each means the same.
    except Exception as error:
        raise _unreadable(path, error) from error
    return _frames(path, datasets)


def is_spectrum_image(frame: Frame) -> bool:
    """True for a map of spectra, ``(y, x, energy)``."""
    return len(frame.axes) == 3 and frame.axes[-1].name in {"energy", "energy_loss", "wavelength", "channel"}


def is_line_scan(frame: Frame) -> bool:
    """True for a line of spectra, ``(x, energy)``."""
    return len(frame.axes) == 2 and frame.axes[-1].name in {"energy", "energy_loss", "wavelength", "channel"}


def summed_counts(frame: Frame) -> Frame:
    """The spectrum image `frame` summed over its spectra: an image ``(y, x)``, in memory.

    Lazy data are summed block by block, so that memory holds a few blocks, not the file. A pixel of nothing but NaN
    (one that was not measured) stays NaN. Raises BadInput for anything but a spectrum image.
    """
    if not is_spectrum_image(frame):
        title, axes = frame.metadata.get("title") or frame.signal, ", ".join(axis.name for axis in frame.axes)
        raise BadInput(
            f"{title} has axes {axes}: not a spectrum image (y, x, energy), so there are no counts to sum;"
            " choose a file with a map of spectra."
        )
    data = frame.data
    kind = data.dtype.kind
    if kind == "f":
        total = _sum_finite(data)
    else:
        total = np.asarray(data.sum(axis=-1, dtype={"c": np.complex128, "i": np.int64}.get(kind, np.uint64)))
        total = np.abs(total) if kind == "c" else total
    metadata = {**frame.metadata, "made_from": "sum over the spectrum"}
    return Frame(
        data=total, axes=frame.axes[:2], signal=f"{frame.signal} sum", quantity=frame.quantity, metadata=metadata
    )


def _sum_finite(data: Any) -> np.ndarray:
    if isinstance(data, np.ndarray):
        finite = np.isfinite(data)
        if finite.all():
            return np.asarray(data.sum(axis=-1, dtype=np.float64))
        total = np.where(finite, data, 0).sum(axis=-1, dtype=np.float64)
        return np.where(finite.any(axis=-1), total, np.nan)
    last = data.ndim - 1
    whole = data if data.numblocks[last] == 1 else data.rechunk({last: -1})
    return np.asarray(whole.map_blocks(_sum_finite, drop_axis=last, dtype=np.float64))


def _module_for(path: Path) -> str:
    suffix = path.suffix.lower()
    try:
        if not path.exists():
            raise BadInput(f"{path} does not exist; check the name and whether the drive is connected.")
        is_folder = path.is_dir()
        if is_folder and suffix not in _DIRECTORIES:
            raise BadInput(f"{path.name} is a folder, not a recorded file; open a file inside it, or a .zspy folder.")
        module = _MODULES.get(suffix)
        if module is None:
            raise BadInput(
                f"{path.name} has the extension {suffix or '(none)'}, which is not one this program reads; it reads"
                f" {', '.join(EXTENSIONS)}."
            )
        if is_folder:
            if not any((path / name).is_file() for name in _ZARR_ROOTS):
                raise BadInput(
                    f"{path.name} is {_without_root(path)}; copy the whole folder again from where it was recorded."
                )
            return module
        with path.open("rb") as file:
            start = file.read(8)
        if not start:
            raise BadInput(f"{path.name} is empty (0 bytes); copy it again from where it was recorded.")
        if suffix in _HDF5 and not start.startswith(b"\x89HDF"):
            raise BadInput(
                f"{path.name} is not an HDF5 file although it is called {suffix}; check that it was copied whole"
                " and has its own extension."
            )
    except PermissionError as error:
        raise BadInput(f"{path.name} may not be read by this user; change its permissions, or copy it.") from error
    except OSError as error:
        raise BadInput(f"{path.name} cannot be opened ({_first_line(error)}); check the drive and the name.") from error
    return module


def _without_root(folder: Path) -> str:
    """What a folder is that should have been a zarr group, for a sentence."""
    if next(folder.iterdir(), None) is None:
        return "an empty folder, without a dataset"
    return f"a folder without a dataset (no {' and no '.join(_ZARR_ROOTS)} in it)"


def uncompressed_bytes(path: str | os.PathLike[str]) -> int:
    """About how large the arrays in a file are in memory; exact for ``.hspy`` and ``.zspy``, whose headers say so.

    Takes milliseconds, whatever the size of the file. Zero for a HyperSpy file that cannot be opened: `read` says why.
    """
    path = Path(path)
    module = _MODULES.get(path.suffix.lower(), "")
    try:
        if module == "hspy":
            import h5py

            with h5py.File(path, "r") as file:
                return _experiments_size(file)
        if module == "zspy" and path.is_dir():
            import zarr

            return _experiments_size(zarr.open_group(path, mode="r"))
    # A damaged HDF5 file can end in any exception; reading it, which follows, tells the person.
    except Exception as error:
        _log.debug("%s: size not known (%s)", path, error)
        return 0
    return path.stat().st_size * _EXPANDS.get(module, 1)


def _experiments_size(root: Any) -> int:
    """Bytes, uncompressed, of all the arrays of a HyperSpy file (HDF5 or zarr)."""
    arrays = [root[f"Experiments/{name}"].get("data") for name in root.get("Experiments", ())]
    return sum(int(np.prod(a.shape, dtype=float)) * int(a.dtype.itemsize) for a in arrays if a is not None)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0].rstrip(".") if lines else ""
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _unreadable(path: Path, error: Exception) -> BadInput:
    if isinstance(error, PermissionError):
        return BadInput(f"{path.name} may not be read by this user; change its permissions, or copy it.")
    if isinstance(error, MemoryError):
        return BadInput(f"{path.name} does not fit into memory, or is damaged; open it lazily or copy it again.")
    return BadInput(
        f"{path.name} cannot be read as {path.suffix.lower()}: it is damaged, cut short or of another kind"
        f" ({_first_line(error)}); copy it again from where it was recorded, or save it anew there."
    )


def _frames(path: Path, datasets: Sequence[Mapping[str, Any]]) -> tuple[Frame, ...]:
    frames: list[Frame] = []
    problems: list[BadInput] = []
    for index, dataset in enumerate(datasets):
        try:
            frames.append(_frame(path, index, dataset))
        except BadInput as problem:
            problems.append(problem)
        # Same as in `read`: what a damaged file makes of the metadata can go wrong anywhere.
        except Exception as error:
            wrapped = _unreadable(path, error)
            wrapped.__cause__ = error
            problems.append(wrapped)
    if not frames:
        if problems:
            raise problems[0]
        raise BadInput(f"{path.name} holds no image and no spectrum; open another file.")
    if problems:  # the rest of the file is still worth having, and the person is told what is missing
        skipped = [str(problem) for problem in problems]
        frames[0] = frames[0].model_copy(update={"metadata": {**frames[0].metadata, "skipped": skipped}})
    return tuple(frames)


def _frame(path: Path, index: int, dataset: Mapping[str, Any]) -> Frame:
    what = path.name if index == 0 else f"{path.name}, dataset {index}"
    if "data" not in dataset:
        raise BadInput(f"{what} holds a model without data; open the file with the measurement.")
    data = dataset["data"]
    if data.dtype.names:  # colour pixels: grey is the mean of what has a value
        colours = [name for name in data.dtype.names if name.upper() != "A"]
        data = sum(data[name].astype(np.float32) for name in colours) / np.float32(len(colours))
    if data.dtype.kind not in "biufc":
        raise BadInput(
            f"{what} holds {data.dtype} values (a ragged or text array), not numbers on a grid; open another file."
        )
    if 0 in data.shape or data.ndim == 0:
        raise BadInput(f"{what} holds an array of shape {tuple(data.shape)}, which is empty; record it again.")
    axes = _ordered_axes(dataset.get("axes") or [], data.ndim)
    to_spectrum = len(dataset.get("post_process") or ()) > 1
    if dataset.get("post_process") and data.ndim > 1 and 1 in data.shape:
        keep = [i for i, size in enumerate(data.shape) if size > 1] or [0]
        data = data.reshape([data.shape[i] for i in keep])
        axes = [axes[i] for i in keep]
    if path.suffix.lower() == ".npy" and data.ndim == 3:
        axes[-1] = {**axes[-1], "name": "channel"}
    metadata = dict(dataset.get("metadata") or {})
    original = dataset.get("original_metadata") or {}
    apply_mapping(metadata, original, dataset.get("mapping") or {})
    title = str(look_up(metadata, "General.title") or path.stem)
    signal_type = str(look_up(metadata, "Signal.signal_type") or "")
    signal = recognise_signal(signal_type, f"{title} {path.stem}", axes, to_spectrum)
    data, our_axes = calibrate(data, axes, signal=signal, to_spectrum=to_spectrum, what=what)
    facts: dict[str, Any] = {
        "title": title,
        "file": path.name,
        "dataset": index,
        "signal_type": signal_type,
        **summarise(metadata),
        "axes_in_file": json_safe([{k: v for k, v in axis.items() if k != "axis"} for axis in axes]),
        "original": {"metadata": json_safe(metadata), "original_metadata": json_safe(original)},
    }
    if isinstance(data, np.ndarray):
        data = np.ascontiguousarray(data)
        if data.dtype.byteorder == ">" or not data.dtype.isnative:
            data = data.astype(data.dtype.newbyteorder("="))
        bad = data.size - int(np.count_nonzero(np.isfinite(data))) if data.dtype.kind in "fc" else 0
        if bad == data.size:
            raise BadInput(f"{what} holds no finite value (all NaN or infinite); record or export it again.")
        if bad:
            facts["non_finite_values"] = bad
    return Frame(data=data, axes=our_axes, signal=signal, quantity=_quantity(metadata), metadata=facts)


def _ordered_axes(axes: Sequence[Mapping[str, Any]], ndim: int) -> list[Mapping[str, Any]]:
    """One axis per dimension, in the order of the array, whatever the reader left out."""
    axes = list(axes)
    if len(axes) == ndim and all(isinstance(axis.get("index_in_array"), (int, np.integer)) for axis in axes):
        axes.sort(key=lambda axis: int(axis["index_in_array"]))
    return axes if len(axes) == ndim else [{} for _ in range(ndim)]


def _quantity(metadata: Mapping[str, Any]) -> str:
    """Units of the values: what stands in brackets in ``Signal.quantity``, else counts."""
    text = str(look_up(metadata, "Signal.quantity") or "")
    inside = text.partition("(")[2].partition(")")[0].strip()
    return inside.lower() if inside.lower() == "counts" else inside or "counts"
