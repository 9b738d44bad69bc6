"""OME-Zarr: images with their nm in the layout of NGFF 0.5 (zarr format 3).

Follows the specification at https://ngff.openmicroscopy.org/0.5/: space axes come last, so that a spectrum image is
written ``(energy, y, x)``; several images share a folder by the ``bioformats2raw.layout``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import BadInput, Frame
from .hyperspy_layout import title_of

NGFF_VERSION = "0.5"
_UNITS = {"nm": "nanometer", "s": "second"}


def write_ome_zarr(path: Path, frames: Sequence[Frame]) -> None:
    """Write every frame that has a y and an x axis in nm or pixel; BadInput where there is none."""
    import zarr

    images = [frame for frame in frames if _is_spatial(frame)]
    if not images:
        raise BadInput(
            f"Nothing to write to {path.name}: OME-Zarr holds images with y and x on the specimen,"
            " and there is none; use .hspy."
        )
    root = zarr.open_group(path, mode="w", zarr_format=3)
    if len(images) == 1:
        _write_image(root, images[0])
        return
    root.attrs["ome"] = {"version": NGFF_VERSION, "bioformats2raw.layout": 3}
    names = [str(index) for index in range(len(images))]
    root.create_group("OME").attrs["ome"] = {"version": NGFF_VERSION, "series": names}
    for name, frame in zip(names, images, strict=True):
        _write_image(root.create_group(name), frame)


def _is_spatial(frame: Frame) -> bool:
    names = [axis.name for axis in frame.axes]
    return len(names) in {2, 3} and names.count("y") == 1 and names.count("x") == 1


def _write_image(group: Any, frame: Frame) -> None:
    names = [axis.name for axis in frame.axes]
    order = [i for i, name in enumerate(names) if name not in {"y", "x"}] + [names.index("y"), names.index("x")]
    axes = [frame.axes[i] for i in order]
    data = np.ascontiguousarray(np.transpose(np.asarray(frame.data), order))
    kinds = {"y": "space", "x": "space", "frame": "time"}
    described: list[dict[str, str]] = []
    for axis in axes:
        kind = kinds.get(axis.name, axis.name)
        entry = {"name": axis.name, "type": "channel" if kind == "time" and axis.units != "s" else kind}
        if axis.units in _UNITS:
            entry["unit"] = _UNITS[axis.units]
        elif axis.units == "eV":
            entry["unit"] = "electronvolt"
        described.append(entry)
    group.attrs["ome"] = {
        "version": NGFF_VERSION,
        "multiscales": [
            {
                "name": title_of(frame),
                "axes": described,
                "datasets": [
                    {
                        "path": "0",
                        "coordinateTransformations": [
                            {"type": "scale", "scale": [float(axis.scale) for axis in axes]},
                            {"type": "translation", "translation": [float(axis.offset) for axis in axes]},
                        ],
                    }
                ],
            }
        ],
    }
    facts = {key: value for key, value in frame.metadata.items() if key not in {"original", "axes_in_file"}}
    group.attrs["napari_smarttem"] = {**facts, "signal": frame.signal, "quantity": frame.quantity}
    chunks = tuple(min(size, 64 if len(data.shape) == 3 else 1024) for size in data.shape)
    array = group.create_array(
        "0", shape=data.shape, dtype=data.dtype, chunks=chunks, dimension_names=[a.name for a in axes]
    )
    array[...] = data
