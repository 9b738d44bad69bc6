"""HyperSpy's own hierarchical layout, written to HDF5 (``.hspy``) and to zarr (``.zspy``) by the same few lines.

The layout is the one RosettaSciIO documents as version 3.3 (``Experiments/TITLE/{data, axis-N, metadata, ...}``). It is
written here because RosettaSciIO writes ``.zspy`` with zarr 2 only, and one signal a file; it reads both, and HyperSpy
with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Axis, Frame
from .provenance import look_up

FORMAT_VERSION = "3.3"
_LONGEST_TEXT = 60_000  # an HDF5 attribute holds 64 kB
_SPECTRAL = frozenset({"energy", "energy_loss", "wavelength", "channel"})


def write_hspy(path: Path, frames: Sequence[Frame]) -> None:
    """Write frames into a new HDF5 file at `path`, one experiment each."""
    import h5py

    with h5py.File(path, "w", track_order=True) as file:
        file.attrs.update({"file_format": "HyperSpy", "file_format_version": FORMAT_VERSION})
        experiments = file.create_group("Experiments", track_order=True)
        for title, frame in _titled(frames):
            group = experiments.create_group(title)
            data = np.asarray(frame.data)
            group.create_dataset("data", data=data, chunks=_chunks(frame), compression="gzip", compression_opts=4)
            _write_description(group, frame, _h5_list)


def write_zspy(path: Path, frames: Sequence[Frame]) -> None:
    """Write frames into a new zarr folder at `path` (zarr format 2, which every HyperSpy with ``.zspy`` reads)."""
    import zarr

    root = zarr.open_group(path, mode="w", zarr_format=2)
    root.attrs.update({"file_format": "ZSpy", "file_format_version": FORMAT_VERSION})
    experiments = root.create_group("Experiments")
    for title, frame in _titled(frames):
        group = experiments.create_group(title)
        data = np.asarray(frame.data)
        group.create_array("data", data=data, chunks=_chunks(frame) or data.shape)
        _write_description(group, frame, _zarr_list)


def _titled(frames: Sequence[Frame]) -> list[tuple[str, Frame]]:
    """Each frame with a group name of its own."""
    result: list[tuple[str, Frame]] = []
    taken: set[str] = set()
    for frame in frames:
        wanted = title_of(frame).replace("/", "-") or "__unnamed__"
        title, count = wanted, 1
        while title in taken:
            count += 1
            title = f"{wanted} ({count})"
        taken.add(title)
        result.append((title, frame))
    return result


def title_of(frame: Frame) -> str:
    """The frame's title, or its signal; a simulated one says SIMULATED."""
    title = str(frame.metadata.get("title") or frame.signal)
    return f"{title} (SIMULATED)" if frame.metadata.get("simulated") and "SIMULATED" not in title else title


def _chunks(frame: Frame) -> tuple[int, ...] | None:
    """About a megabyte, whole spectra; None for what is small."""
    shape = frame.shape
    if int(np.prod(shape)) < 2**16 or len(shape) < 3:
        return None
    side = max(1, int((2**20 / (shape[-1] * np.dtype(frame.data.dtype).itemsize)) ** 0.5))
    return (*(1 for _ in shape[:-3]), min(side, shape[-3]), min(side, shape[-2]), shape[-1])


def _write_description(group: Any, frame: Frame, write_list: Any) -> None:
    # Who provides the class that HyperSpy should make of it.
    provider = "exspy" if frame.signal in {"EELS", "EDS"} else "hyperspy"
    group.attrs.update({"package": provider, "package_version": ""})
    spectral = frame.axes[-1].name in _SPECTRAL
    signal_dimensions = 1 if spectral else min(2, len(frame.axes))
    for index, (axis, size) in enumerate(zip(frame.axes, frame.shape, strict=True)):
        navigate = index < len(frame.axes) - signal_dimensions
        in_kev = frame.signal == "EDS" and axis.units == "eV"  # eXSpy expects X-ray energies in keV
        described = _axis(axis, size, navigate, binned=spectral and not navigate, in_kev=in_kev)
        group.create_group(f"axis-{index}").attrs.update(described)
    _write_tree(group.create_group("metadata"), hyperspy_metadata(frame), write_list)
    _write_tree(
        group.create_group("original_metadata"),
        look_up(frame.metadata, "original.original_metadata") or {},
        write_list,
    )
    group.create_group("learning_results")
    group.create_group("attributes").attrs["_lazy"] = False


def _axis(axis: Axis, size: int, navigate: bool, *, binned: bool, in_kev: bool) -> dict[str, Any]:
    factor = 1e-3 if in_kev else 1.0
    names = {"energy_loss": "Energy loss", "energy": "Energy", "wavelength": "Wavelength"}
    return {
        "_type": "UniformDataAxis",
        "name": names.get(axis.name, axis.name),
        "units": "keV" if in_kev else {"pixel": "px"}.get(axis.units, axis.units),
        "scale": float(axis.scale) * factor,
        "offset": float(axis.offset) * factor,
        "size": int(size),
        "navigate": bool(navigate),
        "is_binned": bool(binned),
    }


def hyperspy_metadata(frame: Frame) -> dict[str, Any]:
    """The frame's metadata in HyperSpy's places and units (keV, nA), ours whole under ``napari_smarttem``.

    What the file a frame came from said (its ``original``) is kept where we do not say otherwise.
    """
    facts = frame.metadata
    base = look_up(facts, "original.metadata")
    tree: dict[str, Any] = _copy(base) if isinstance(base, Mapping) else {}
    for name in ("_HyperSpy", "napari_smarttem", "Noise_properties"):
        tree.pop(name, None)
    tree.setdefault("General", {}).pop("FileIO", None)
    tree["General"]["title"] = title_of(frame)
    signal = {"EDS": "EDS_TEM"}.get(frame.signal, frame.signal)
    known = facts.get("signal_type") or (signal if signal in {"EELS", "EDS_TEM", "CL"} else "")
    tree["Signal"] = {"signal_type": known, "quantity": f"{frame.signal} ({frame.quantity})"}
    column = tree.setdefault("Acquisition_instrument", {})
    column = column.setdefault("SEM" if "SEM" in column else "TEM", {})
    for name, key, factor in (
        ("high_tension_v", "beam_energy", 1e-3),
        ("beam_current_pa", "beam_current", 1e-3),
        ("convergence_mrad", "convergence_angle", 1.0),
    ):
        value = facts.get(name)
        if isinstance(value, (int, float)):
            column[key] = float(value) * factor
    if frame.signal == "EELS":
        detector = column.setdefault("Detector", {}).setdefault("EELS", {})
        for name, key in (("collection_mrad", "collection_angle"), ("exposure_s", "exposure")):
            value = facts.get(name)
            if isinstance(value, (int, float)):
                detector[key] = float(value)
    own = {key: value for key, value in facts.items() if key not in {"original", "axes_in_file"}}
    tree["napari_smarttem"] = {**own, "simulated": bool(facts.get("simulated"))}
    return tree


def _copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _write_tree(group: Any, tree: Mapping[str, Any], write_list: Any) -> None:
    for key, value in tree.items():
        name = str(key).replace("/", "_") or "_"
        if isinstance(value, Mapping):
            _write_tree(group.require_group(name), value, write_list)
        elif isinstance(value, (list, tuple)):
            _write_sequence(group, name, list(value), write_list)
        elif value is None:
            group.attrs[name] = "_None_"
        elif isinstance(value, (bool, int, float)):
            group.attrs[name] = value
        else:
            group.attrs[name] = str(value)[:_LONGEST_TEXT].replace("\x00", "")


def _write_sequence(group: Any, name: str, values: list[Any], write_list: Any) -> None:
    if not values:
        group.attrs[f"_list_empty_{name}"] = "_None_"
    elif all(isinstance(v, str) for v in values) or all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in values
    ):
        write_list(group, f"_list_{name}", values)
    else:
        # Read back in the order of their names, hence the zeros in front.
        width = len(str(len(values)))
        members = {f"{index:0{width}d}": value for index, value in enumerate(values)}
        _write_tree(group.require_group(f"_list_{len(values)}_{name}"), members, write_list)


def _h5_list(group: Any, name: str, values: list[Any]) -> None:
    import h5py

    if isinstance(values[0], str):
        group.create_dataset(name, data=[v.replace("\x00", "") for v in values], dtype=h5py.string_dtype())
    else:
        group.create_dataset(name, data=np.asarray(values))


def _zarr_list(group: Any, name: str, values: list[Any]) -> None:
    group.create_array(name, data=np.asarray(values))
