"""Where a run stands, as one immutable value that any thread may look at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class RunState(StrEnum):
    """States of the runner.

    ``idle`` -> ``running`` <-> ``paused``; ``running`` <-> ``awaiting_review``; any of these -> ``stopping`` -> ``finished``, or ->
    ``failed``. From ``finished`` and ``failed`` a new run may start.
    """

    IDLE = "idle"
    RUNNING = "running"
    PAUSED = "paused"
    AWAITING_REVIEW = "awaiting_review"
    STOPPING = "stopping"
    FINISHED = "finished"
    FAILED = "failed"


ACTIVE = frozenset({RunState.RUNNING, RunState.PAUSED, RunState.AWAITING_REVIEW, RunState.STOPPING})

ALLOWED = {
    RunState.IDLE: {RunState.RUNNING},
    RunState.RUNNING: {
        RunState.PAUSED,
        RunState.AWAITING_REVIEW,
        RunState.STOPPING,
        RunState.FINISHED,
        RunState.FAILED,
    },
    RunState.PAUSED: {RunState.RUNNING, RunState.AWAITING_REVIEW, RunState.STOPPING, RunState.FAILED},
    RunState.AWAITING_REVIEW: {RunState.RUNNING, RunState.PAUSED, RunState.STOPPING, RunState.FAILED},
    RunState.STOPPING: {RunState.FINISHED, RunState.FAILED},
    RunState.FINISHED: {RunState.RUNNING},
    RunState.FAILED: {RunState.RUNNING},
}


@dataclass(frozen=True)
class RunStatus:
    """A run at one moment.

    Attributes
    ----------
    state : RunState
    outcome : str
        ``""`` while it goes on, then ``"finished"``, ``"stopped"`` or ``"failed"``.
    reason : str
        Why it ended, or why it waits; one sentence.
    run_id : str
    step : Step or None
        What is being done.
    steps_done : int
        Acknowledged steps, notes apart, those of an earlier session included.
    steps_total : int or None
        Known once the plan has said what follows.
    elapsed_s, remaining_s : float
        Wall-clock time since the start, and what is left; None where that is not known.
    dose_e_per_a2, dose_budget_e_per_a2 : float
        Delivered so far and allowed, averaged over the field; a budget of None is no limit.
    """

    state: RunState = RunState.IDLE
    outcome: str = ""
    reason: str = ""
    run_id: str = ""
    step: Any = None
    steps_done: int = 0
    steps_total: int | None = None
    elapsed_s: float = 0.0
    remaining_s: float | None = None
    dose_e_per_a2: float = 0.0
    dose_budget_e_per_a2: float | None = None

    @property
    def active(self) -> bool:
        """True while a run goes on, in whatever state."""
        return self.state in ACTIVE
