"""Save a result: ``.hspy`` that opens in HyperSpy as learning results, or ``.csv``."""

from __future__ import annotations

import csv
import json
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import BadInput
from .result import UnmixingResult


def save(result: UnmixingResult, path: str | os.PathLike[str], *, data: Any = None, overwrite: bool = False) -> Path:
    """Write a result.

    Parameters
    ----------
    result : UnmixingResult
    path : path
        ``.hspy``: a signal (the data where given, else the model) whose ``learning_results`` hold factors and loadings, so
        that ``get_decomposition_factors()`` and ``get_decomposition_loadings()`` work; error bars and the rest under
        ``original_metadata.unmixing``. ``.csv``: the endmembers as columns, and beside it ``NAME-maps.csv`` with a row a
        pixel. Where a simulation made the data, all of them say SIMULATED.
    data : ndarray, optional
        ``(y, x, energy)``, to be stored in the ``.hspy``.
    overwrite : bool
        Replace what is there.

    Raises
    ------
    BadInput
        Another ending, something there already, or a place that cannot be written.
    """
    target = Path(path)
    kind = target.suffix.lower()
    if kind not in (".hspy", ".csv"):
        raise BadInput(f"{target.name} cannot be written: a result is saved as .hspy or .csv.")
    if target.exists() and not overwrite:
        raise BadInput(f"{target} exists already and was left as it is; choose another name, or ask to overwrite it.")
    part = target.with_name(f".{uuid.uuid4().hex[:8]}.part-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if kind == ".hspy":
            _write_hspy(result, part, data)
        else:
            _write_spectra(result, part)
            _write_maps(result, target.with_name(f"{target.stem}-maps.csv"))
        part.replace(target)
    except OSError as error:
        raise BadInput(f"{target} cannot be written: {error.strerror or error}; choose another place.") from error
    finally:
        part.unlink(missing_ok=True)
    return target


def _write_hspy(result: UnmixingResult, path: Path, data: Any) -> None:
    import hyperspy.api as hs

    rows, columns = result.shape
    if data is None:
        data = np.tensordot(result.maps.astype(np.float32), result.endmembers.astype(np.float32), axes=(0, 0))
    axes = [
        {"name": a.name, "units": a.units, "scale": a.scale, "offset": a.offset, "size": size, "navigate": i < 2}
        for i, (a, size) in enumerate(zip(result.axes, (rows, columns, result.endmembers.shape[1]), strict=True))
    ]
    signal = hs.signals.Signal1D(np.asarray(data), axes=axes)
    facts = _source(result)
    mark = " (SIMULATED)" if facts.get("simulated") else ""
    signal.metadata.General.title = f"{facts.get('title') or result.signal}, unmixed{mark}"
    kind = facts.get("signal_type") or {"EELS": "EELS", "EDS": "EDS_TEM", "CL": "CL"}.get(result.signal, "")
    if kind:
        signal.metadata.set_item("Signal.signal_type", str(kind))
    learning = signal.learning_results
    learning.factors = result.endmembers.T.copy()
    learning.loadings = result.maps.reshape(result.components, -1).T.astype(np.float64)
    learning.decomposition_algorithm = f"napari-smarttem {result.method}"
    learning.output_dimension = result.components
    learning.centre = None
    learning.poissonian_noise_normalized = False
    learning.unfolded = False
    learning.explained_variance = np.asarray(result.scree.values, dtype=np.float64) ** 2
    signal.original_metadata.add_dictionary({"unmixing": _plain(result)})
    signal.save(str(path), overwrite=True, file_format="HSPY")


def _plain(result: UnmixingResult) -> dict[str, Any]:
    return {
        "method": result.method,
        "assumption": result.assumption,
        "warnings": list(result.warnings),
        "names": list(result.names),
        "elements": [" ".join(symbols) for symbols in result.elements],
        "chi2": result.chi2,
        "map_errors": np.asarray(result.map_errors),
        "endmember_errors": np.asarray(result.endmember_errors),
        "residual_map": np.asarray(result.residual_map),
        "provenance": json.dumps(dict(result.provenance), default=str),
        "simulated": bool(_source(result).get("simulated", False)),
    }


def _source(result: UnmixingResult) -> dict[str, Any]:
    """Metadata of the data."""
    return dict(result.provenance.get("source") or {})


def _mark(result: UnmixingResult, file: Any) -> None:
    if _source(result).get("simulated"):
        file.write("# SIMULATED: not measured on a microscope\n")


def _write_spectra(result: UnmixingResult, path: Path) -> None:
    axis = result.axes[2]
    with path.open("w", newline="", encoding="utf-8") as file:
        _mark(result, file)
        writer = csv.writer(file)
        names = [column for name in result.names for column in (name, f"{name} error")]
        writer.writerow([f"{axis.name} ({axis.units})", *names])
        pairs = [
            column for c in range(result.components) for column in (result.endmembers[c], result.endmember_errors[c])
        ]
        writer.writerows(zip(result.energy_ev.tolist(), *(p.tolist() for p in pairs), strict=True))


def _write_maps(result: UnmixingResult, path: Path) -> None:
    rows, columns = result.shape
    y = np.repeat(result.axes[0].coordinates(rows), columns)
    x = np.tile(result.axes[1].coordinates(columns), rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        _mark(result, file)
        writer = csv.writer(file)
        names = [column for name in result.names for column in (name, f"{name} error")]
        writer.writerow([f"y ({result.axes[0].units})", f"x ({result.axes[1].units})", *names, "residual"])
        flat = [c.ravel() for pair in zip(result.maps, result.map_errors, strict=True) for c in pair]
        writer.writerows(zip(*(c.tolist() for c in (y, x, *flat, result.residual_map.ravel())), strict=True))
