"""What became of a run's targets, read back from its journal: verdicts, measurements, and how each came about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..schema import Acquire, AwaitReview, Decision, Frame, JudgedTarget, Proposal, Scan, StepDone, TargetState
from .journal import Journal
from .review import Review

_STATE_AFTER = {"done": TargetState.DONE, "failed": TargetState.FAILED, "skipped": TargetState.REJECTED}

TARGET_COLUMNS = (
    "target_id",
    "y_nm",
    "x_nm",
    "drift_y_nm",
    "drift_x_nm",
    "score",
    "label",
    "reason",
    "state",
    "verdicts",
    "exposure_s",
    "dose_e_per_a2",
    "simulated",
)
"""Columns of the table of targets; ``total_*`` and ``sum_*`` follow where spectra were measured."""


def judged_targets(journal: Journal) -> tuple[JudgedTarget, ...]:
    """The targets as the run left them, in the order they were proposed: the last proposal, and all that were measured."""
    review = Review()
    for document in journal.documents():
        if isinstance(document, Proposal):
            step = AwaitReview(step_id=document.step_id, targets=document.targets)
            review.open(step, journal.decisions(document.step_id))
        elif isinstance(document, StepDone):
            target_id = getattr(document.step, "target_id", None)
            if target_id is not None:
                review.mark(target_id, _STATE_AFTER[document.status])
    return review.items()


def verdict_history(journal: Journal) -> dict[str, str]:
    """For each target the decisions made about it, oldest first, such as ``"approved (person); moved (person)"``."""
    history: dict[str, list[str]] = {}
    words = {"move": "moved", "add": "added", "undo": "undone", "redo": "redone"}
    for document in journal.documents():
        if isinstance(document, Decision):
            for target_id, after in zip(document.target_ids, document.after, strict=True):
                word = words.get(document.action) or (str(after.state) if after is not None else "withdrawn")
                history.setdefault(target_id, []).append(f"{word} ({document.who})")
    return {target_id: "; ".join(entries) for target_id, entries in history.items()}


def measured_steps(journal: Journal) -> tuple[StepDone, ...]:
    """The acknowledged `Acquire` steps that recorded something, in the order they were measured."""
    return tuple(
        done
        for done in journal.steps.values()
        if isinstance(done.step, Acquire) and done.status == "done" and done.frames
    )


def overview_steps(journal: Journal) -> tuple[StepDone, ...]:
    """The acknowledged overview scans, oldest first; the last one is the map that targets were chosen on."""
    return tuple(
        done
        for done in journal.steps.values()
        if isinstance(done.step, Scan) and done.step.purpose == "overview" and done.status == "done" and done.frames
    )


def image_steps(journal: Journal) -> tuple[StepDone, ...]:
    """The acknowledged scans of single points at high magnification, in the order they were made."""
    return tuple(
        done
        for done in journal.steps.values()
        if isinstance(done.step, Scan) and done.step.purpose == "image" and done.status == "done" and done.frames
    )


def overview_frames(journal: Journal) -> tuple[Frame, ...]:
    """The images of the last overview; empty where none was taken."""
    steps = overview_steps(journal)
    return tuple(journal.load(record) for record in steps[-1].frames) if steps else ()


def target_rows(journal: Journal, windows_ev: Sequence[tuple[float, float]] = ()) -> list[dict[str, Any]]:
    """One row a target, with `TARGET_COLUMNS`, its total counts, and its counts in each energy window.

    Parameters
    ----------
    journal : Journal
    windows_ev : sequence of (low, high)
        Energies in eV; a channel counts where its centre lies in the window.

    Returns
    -------
    list of dict
        Points that were measured without a proposal follow at the end, by the id of their step.
    """
    history = verdict_history(journal)
    simulated = journal.start.instrument.simulated
    rows: dict[str, dict[str, Any]] = {}
    for judged in judged_targets(journal):
        target = judged.target
        row = dict.fromkeys(TARGET_COLUMNS, "") | target.model_dump() | {"state": str(judged.state)}
        row |= {"verdicts": history.get(target.target_id, ""), "simulated": simulated}
        rows[target.target_id] = row
    for done in measured_steps(journal):
        step = done.step
        assert isinstance(step, Acquire)
        key = step.target_id or step.step_id
        row = rows.setdefault(
            key,
            dict.fromkeys(TARGET_COLUMNS, "")
            | {"target_id": key, "y_nm": step.y_nm - step.drift_nm[0], "x_nm": step.x_nm - step.drift_nm[1]}
            | {"state": str(TargetState.DONE), "simulated": simulated},
        )
        row |= {"drift_y_nm": step.drift_nm[0], "drift_x_nm": step.drift_nm[1]}
        row["exposure_s"] = step.exposure_s
        if journal.start.context.beam_current_pa:  # without a current the dose is not zero but unknown
            row["dose_e_per_a2"] = done.dose_e_per_a2
        for record in done.frames:
            row |= _window_sums(journal.load(record), windows_ev)
    return list(rows.values())


def _window_sums(frame: Frame, windows_ev: Sequence[tuple[float, float]]) -> dict[str, float]:
    if len(frame.axes) != 1:
        return {}
    counts = np.asarray(frame.data, dtype=float)
    energies = frame.coordinates(frame.axes[0].name)
    sums = {f"total_{frame.signal}": float(counts.sum())}
    for low, high in windows_ev:
        inside = (energies >= low) & (energies <= high)
        sums[f"sum_{frame.signal}_{low:g}_{high:g}_eV"] = float(counts[inside].sum())
    return sums
