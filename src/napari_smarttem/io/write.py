"""Write frames to files that other programs open: HyperSpy's ``.hspy`` and ``.zspy``, ``.ome.zarr``, and ``.csv``.

A file appears whole or not at all: it is written beside its place and renamed. What a simulation made says SIMULATED in
its title and its metadata.
"""

from __future__ import annotations

import csv
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import BadInput, Frame
from .hyperspy_layout import title_of, write_hspy, write_zspy
from .ome_zarr import write_ome_zarr

WRITES: tuple[str, ...] = (".hspy", ".zspy", ".ome.zarr", ".csv")
"""What `write` can make, by the end of the name."""


def write(frames: Frame | Sequence[Frame], path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write frames to a file whose kind is the end of its name.

    Parameters
    ----------
    frames : Frame or sequence of Frame
        ``.hspy`` and ``.zspy`` take all; ``.ome.zarr`` those with y and x on the specimen; ``.csv`` spectra
        ``(energy,)`` that share one energy axis, as columns.
    path : path
        Ends in one of `WRITES`.
    overwrite : bool
        Replace what is there. Without it, something there is an error and stays as it is.

    Returns
    -------
    Path
        Where it was written.

    Raises
    ------
    BadInput
        Unknown kind, nothing that this kind can hold, something there already, or a place that cannot be written.
    """
    frames = [frames] if isinstance(frames, Frame) else list(frames)
    target = Path(path)
    kind = kind_of(target)
    if not frames:
        raise BadInput(f"Nothing to write to {target.name}: there is no image and no spectrum yet.")
    writers: dict[str, Callable[[Path, Sequence[Frame]], None]] = {
        ".hspy": write_hspy,
        ".zspy": write_zspy,
        ".ome.zarr": write_ome_zarr,
        ".csv": _write_spectra_csv,
    }
    with placed(target, overwrite=overwrite) as part:
        writers[kind](part, frames)
    return target


def kind_of(path: Path) -> str:
    """Which of `WRITES` the name ends in; BadInput names them all where it is none."""
    for kind in WRITES:
        if path.name.lower().endswith(kind):
            return kind
    raise BadInput(f"{path.name} cannot be written: its name must end in {', '.join(WRITES[:-1])} or {WRITES[-1]}.")


def write_table(
    rows: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write rows as ``.csv`` (UTF-8); `columns` come first, then further keys in order; what is absent is empty."""
    target = Path(path)
    columns = list(dict.fromkeys([*columns, *(key for row in rows for key in row)]))
    with placed(target, overwrite=overwrite) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return target


@contextmanager
def placed(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A name beside `target` to write to; renamed to `target` at the end, removed after an error."""
    if target.exists() and not overwrite:
        raise BadInput(f"{target} exists already and was left as it is; choose another name, or ask to overwrite it.")
    token = uuid.uuid4().hex[:8]
    part = target.with_name(f".{token}.part-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if target.is_dir():  # a folder cannot be replaced in one go: the old one steps aside first
            old = target.with_name(f".{token}.old-{target.name}")
            target.rename(old)
            part.rename(target)
            shutil.rmtree(old)
        else:
            part.replace(target)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise BadInput(f"{target} cannot be written: {reason}; choose another place, or make room.") from error
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        elif part.exists():
            part.unlink()


def _write_spectra_csv(path: Path, frames: Sequence[Frame]) -> None:
    first = frames[0]
    if any(len(frame.axes) != 1 or frame.axes != first.axes or frame.shape != first.shape for frame in frames):
        raise BadInput(
            "A .csv file holds spectra that share one energy axis, and these frames are something else;"
            " use .hspy instead."
        )
    axis = first.axes[0]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([f"{axis.name} ({axis.units})", *(f"{title_of(f)} ({f.quantity})" for f in frames)])
        columns = [first.coordinates(axis.name), *(np.asarray(f.data) for f in frames)]
        writer.writerows(zip(*(column.tolist() for column in columns), strict=True))
