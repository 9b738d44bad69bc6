"""Known spectra to fit: the components on show, or a file of spectra, brought to the energies of the data. Qt-free."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schema import Axis, BadInput
from ..unmixing.prepare_paint import Paint

if TYPE_CHECKING:
    from .unmixing_bench import Unmixed

MOST = 64
Spectrum = tuple[str, np.ndarray, np.ndarray]
"""Name, energies in eV, counts."""
PAINTED = "painted"
"""The library that is the mean spectra of painted pixels."""


@dataclass(frozen=True)
class Known:
    """Where the labels or the library of an unmixing came from.

    Parameters
    ----------
    paint : sequence of runs
        Of the labels, or of the pixels whose mean spectra were fitted.
    file : Path, optional
        Of the library.
    earlier : (Unmixed, mapping), optional
        The result whose components were fitted: what it was made from, and its provenance.
    names : tuple of str
        Of the library's spectra.
    """

    paint: Paint = ()
    file: Path | None = None
    earlier: tuple[Unmixed, Mapping[str, Any]] | None = None
    names: tuple[str, ...] = ()


def read_library(path: str | Path) -> list[Spectrum]:
    """Spectra of a file: single ones, the rows of a line scan, or the table of endmembers that *Save* writes.

    Raises
    ------
    BadInput
        No spectra in it, or too many to be a library.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        found = _read_table(path)
    else:
        from ..io import read

        found = []
        for frame in read(path):
            if len(frame.axes) not in {1, 2} or frame.axes[-1].units != "eV":
                continue
            rows = np.atleast_2d(np.asarray(frame.data, dtype=float))
            title = str(frame.metadata.get("title") or path.stem)
            names = [title] if len(rows) == 1 else [f"{title} {i + 1}" for i in range(len(rows))]
            energy = frame.axes[-1].coordinates(rows.shape[1])
            found += [(name, energy, row) for name, row in zip(names, rows, strict=True)]
    if not found or len(found) > MOST:
        raise BadInput(f"A library holds 1 to {MOST} spectra with their energies in eV, and {path.name} {len(found)}.")
    return found


def _read_table(path: Path) -> list[Spectrum]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            heading, *rows = list(csv.reader(line for line in file if not line.startswith("#")))
        values = np.array([[float(cell) for cell in row] for row in rows])
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path.name} is no table of spectra ({error}); a heading, then energy in eV and counts are expected."
        ) from error
    if values.ndim != 2 or values.shape[1] != len(heading):
        raise BadInput(f"{path.name} is no table of spectra: its rows are not as long as its heading.")
    columns = [i for i in range(1, len(heading)) if not heading[i].endswith(" error")]
    return [(heading[i], values[:, 0], values[:, i]) for i in columns]


def on_axis(library: list[Spectrum], axis: Axis, channels: int) -> np.ndarray:
    """The library on the energies of the data, ``(k, channels)``; counts a channel follow the width of the channels.

    Raises
    ------
    BadInput
        A spectrum that does not reach as far as the data.
    """
    wanted = axis.coordinates(channels)
    rows = []
    for name, energy, counts in library:
        order = np.argsort(energy)
        energy, counts = energy[order], counts[order]  # noqa: PLW2901
        slack = 1.5 * abs(axis.scale)
        if energy[0] > wanted.min() + slack or energy[-1] < wanted.max() - slack:
            raise BadInput(
                f"{name} of the library goes from {energy[0]:.5g} to {energy[-1]:.5g} eV and the data from"
                f" {wanted.min():.5g} to {wanted.max():.5g} eV; crop the data to what the library covers."
            )
        step = float(np.median(np.diff(energy)))
        rows.append(np.interp(wanted, energy, counts) * abs(axis.scale) / step)
    return np.stack(rows)
