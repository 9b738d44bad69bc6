"""A run as files that others open: overview, masked spectrum image, every single spectrum with its place, table of targets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..io.write import kind_of, write, write_table
from ..schema import Acquire, Axis, BadInput, Frame, StepDone
from .history import (
    TARGET_COLUMNS,
    image_steps,
    judged_targets,
    measured_steps,
    overview_steps,
    target_rows,
    verdict_history,
)
from .journal import Journal

LARGEST_MAP_BYTES = 512 * 2**20
"""A masked spectrum image is first cropped to what was measured, then binned, until it is no larger than this."""

_EXACT_IN_FLOAT32 = 2.0**24


def assemble(journal: Journal) -> tuple[Frame, ...]:
    """Everything a run measured, as frames.

    Parameters
    ----------
    journal : Journal
        Open, read-only will do; the run may be unfinished.

    Returns
    -------
    tuple of Frame
        For each kind of spectrum: a spectrum image ``(y, x, energy)`` on the grid of the last overview, NaN where nothing was
        measured; and all spectra in the order they were measured, ``(point, energy)``, with their places in
        ``metadata["points"]``, so that nothing is averaged away. Then the images of every overview, and those of single
        points. Places are those in the overview: the drift correction is taken off. ``metadata["map"]`` of a spectrum image
        says how it was cropped and binned, and how many pixels hold the mean of several points.
    """
    steps = measured_steps(journal)
    overviews = overview_steps(journal)
    provenance = _provenance(journal)
    frames: list[Frame] = []
    for kind, entries in _by_kind(steps).items():
        signal, axis, _size = kind
        spectra = np.stack([np.asarray(journal.load(done.frames[index]).data) for done, index in entries])
        first = entries[0][0].frames[entries[0][1]]
        points = _points([done for done, _ in entries])
        facts = _common([done.frames[index].metadata for done, index in entries]) | provenance
        table = Frame(
            data=spectra,
            axes=(Axis(name="point"), axis),
            signal=signal,
            quantity=first.quantity,
            metadata={**facts, "title": f"{signal} spectra, one a point", "points": points},
        )
        if overviews:
            grid = overviews[-1].frames[0].axes
            shape = overviews[-1].frames[0].shape
            frames.append(_masked_map(table, grid, shape))
        frames.append(table)
    for done in (*overviews, *image_steps(journal)):
        for record in done.frames:
            image = journal.load(record)
            title = f"{image.signal} {done.step.step_id}"
            frames.append(image.model_copy(update={"metadata": {**image.metadata, **provenance, "title": title}}))
    if not frames:
        return ()
    frames[0] = frames[0].model_copy(
        update={"metadata": {**frames[0].metadata, "targets": _target_columns(journal), "run": _run(journal)}}
    )
    return tuple(frames)


def export_run(
    path: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    windows_ev: Sequence[tuple[float, float]] = (),
    overwrite: bool = False,
) -> Path:
    """Write a run folder to a file of another kind; the run itself is only read.

    Parameters
    ----------
    path : path
        A folder ``NAME.smarttem``, finished or not.
    to : path
        Ends in ``.hspy``, ``.zspy``, ``.ome.zarr`` (what `assemble` gives) or ``.csv`` (one row a target).
    windows_ev : sequence of (low, high)
        For ``.csv``: energy windows in eV, a column of summed counts for each.
    overwrite : bool
        Replace a file that is there.

    Raises
    ------
    BadInput
        Not a run folder, nothing measured yet, an unknown kind, or a file that is there already.
    JournalError
        The run's record is damaged.
    """
    source, target = Path(path), Path(to)
    kind = kind_of(target)
    if target.exists() and not overwrite:  # known before minutes of work, and again when the file is placed
        raise BadInput(f"{target} exists already and was left as it is; choose another name, or ask to overwrite it.")
    journal = Journal.open(source, read_only=True)
    try:
        if kind == ".csv":
            rows = target_rows(journal, windows_ev)
            return write_table(rows, target, columns=TARGET_COLUMNS, overwrite=overwrite)
        frames = assemble(journal)
    finally:
        journal.close()
    if not frames:
        raise BadInput(f"{source.name} has no overview and no spectrum yet, so there is nothing to export to {kind}.")
    return write(frames, target, overwrite=overwrite)


def _by_kind(steps: Sequence[StepDone]) -> dict[tuple[str, Axis, int], list[tuple[StepDone, int]]]:
    """Spectra that belong together: one signal, one energy axis."""
    kinds: dict[tuple[str, Axis, int], list[tuple[StepDone, int]]] = {}
    for done in steps:
        for index, record in enumerate(done.frames):
            if len(record.axes) == 1:
                kinds.setdefault((record.signal, record.axes[0], record.shape[0]), []).append((done, index))
    return kinds


def _common(metadata: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was the same for every spectrum; what differed (time, place) is in the table of points."""
    first, *others = metadata
    return {key: value for key, value in first.items() if all(key in m and m[key] == value for m in others)}


def _points(steps: Sequence[StepDone]) -> dict[str, Any]:
    """Columns, one value a spectrum: where and how it was measured."""
    acquired = [done.step for done in steps if isinstance(done.step, Acquire)]
    return {
        "target_id": [step.target_id or step.step_id for step in acquired],
        "y_nm": [step.y_nm - step.drift_nm[0] for step in acquired],
        "x_nm": [step.x_nm - step.drift_nm[1] for step in acquired],
        "drift_y_nm": [step.drift_nm[0] for step in acquired],
        "drift_x_nm": [step.drift_nm[1] for step in acquired],
        "exposure_s": [step.exposure_s for step in acquired],
        "dose_e_per_a2": [done.dose_e_per_a2 for done in steps],
        "finished_s": [done.finished_s for done in steps],
    }


def _masked_map(table: Frame, grid: Sequence[Axis], shape: Sequence[int]) -> Frame:
    """The spectra on the overview's pixels; NaN where there is none."""
    spectra = table.data
    points = table.metadata["points"]
    assert isinstance(points, dict)
    channels = spectra.shape[1]
    small = spectra.dtype.kind == "f" and spectra.dtype.itemsize <= 4
    dtype = np.dtype(np.float32 if small or np.abs(spectra).max() < _EXACT_IN_FLOAT32 else np.float64)
    rows = np.floor(grid[0].index(np.asarray(points["y_nm"], dtype=float)) + 0.5).astype(int)  # type: ignore[arg-type]
    columns = np.floor(grid[1].index(np.asarray(points["x_nm"], dtype=float)) + 0.5).astype(int)  # type: ignore[arg-type]
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    first, size = np.zeros(2, dtype=int), np.array(shape[:2], dtype=int)
    pixel_bytes = channels * dtype.itemsize
    cropped = bool(inside.any() and size.prod() * pixel_bytes > LARGEST_MAP_BYTES)
    if cropped:
        first = np.array([rows[inside].min(), columns[inside].min()])
        size = np.array([rows[inside].max(), columns[inside].max()]) - first + 1
    binning = 1
    while np.prod(-(-size // binning)) * pixel_bytes > LARGEST_MAP_BYTES:
        binning += 1
    height, width = (int(n) for n in -(-size // binning))
    total = np.zeros((height, width, channels), dtype=dtype)
    count = np.zeros((height, width), dtype=np.int64)
    for row, column, spectrum in zip(rows[inside], columns[inside], spectra[inside], strict=True):
        place = (row - first[0]) // binning, (column - first[1]) // binning
        total[place] += spectrum
        count[place] += 1
    several = count > 1
    total[several] /= count[several][:, None]
    total[count == 0] = np.nan
    axes = tuple(
        Axis(
            name=name,
            units=axis.units,
            scale=axis.scale * binning,
            offset=axis.offset + (int(start) + (binning - 1) / 2) * axis.scale,
        )
        for name, axis, start in zip(("y", "x"), grid, first, strict=False)
    )
    facts: dict[str, Any] = {
        "measured_pixels": int((count > 0).sum()),
        "pixels_with_several_points": int(several.sum()),
        "points_outside": int((~inside).sum()),
        "binning": binning,
        "cropped": cropped,
    }
    metadata: dict[str, Any] = {k: v for k, v in table.metadata.items() if k != "points"}
    metadata |= {"title": f"{table.signal} where it was measured", "map": facts}
    return Frame(
        data=total, axes=(*axes, table.axes[1]), signal=table.signal, quantity=table.quantity, metadata=metadata
    )


def _provenance(journal: Journal) -> dict[str, Any]:
    start = journal.start
    facts: dict[str, Any] = {
        "run_id": start.run_id,
        "instrument": start.instrument.name,
        "backend": start.instrument.backend,
        "simulated": start.instrument.simulated,
    }
    if start.instrument.high_tension_v is not None:
        facts["high_tension_v"] = start.instrument.high_tension_v
    if start.context.beam_current_pa is not None:
        facts["beam_current_pa"] = start.context.beam_current_pa
    return facts


def _run(journal: Journal) -> dict[str, Any]:
    start = journal.start
    return {
        "plan": start.plan.model_dump(mode="json"),
        "policy": start.policy,
        "started": start.at,
        "software": dict(start.software),
        "outcome": journal.stop.outcome if journal.stop else "unfinished",
        "outcome_reason": journal.stop.reason if journal.stop else "",
        "steps": len(journal.steps),
    }


def _target_columns(journal: Journal) -> dict[str, Any]:
    """All targets, the rejected ones too, as columns."""
    history = verdict_history(journal)
    items = judged_targets(journal)
    columns: dict[str, Any] = {
        name: [getattr(item.target, name) for item in items]
        for name in ("target_id", "y_nm", "x_nm", "score", "label", "reason")
    }
    columns["state"] = [str(item.state) for item in items]
    columns["verdicts"] = [history.get(item.target.target_id, "") for item in items]
    return columns
