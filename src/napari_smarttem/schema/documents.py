"""The lines of a run's journal. Each carries the version of its shape; a reader refuses a version it does not know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from .frame import Axis
from .plan import PlanContext, PlanSpec, ReviewOutcome, Step, Target, TargetState


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    at: str = Field(default="", description="wall-clock time, ISO 8601 in UTC")


class InstrumentInfo(BaseModel):
    """Who measured: written into every run, every file and every export."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str
    name: str
    simulated: bool
    high_tension_v: float | None = None
    capabilities: tuple[str, ...] = ()
    settings: Mapping[str, JsonValue] = Field(
        default_factory=dict, description="what `registry.connect` needs to connect again"
    )
    details: Mapping[str, JsonValue] = Field(default_factory=dict)


class RunStart(_Document):
    """First line of a journal: everything needed to build the same plan on the same instrument again."""

    kind: Literal["run_start"] = "run_start"
    run_id: str
    plan: PlanSpec
    context: PlanContext
    instrument: InstrumentInfo
    policy: str = "ask"
    software: Mapping[str, str] = Field(default_factory=dict)
    dose_budget_e_per_a2: float | None = None


class FrameRecord(BaseModel):
    """Where a frame lies in ``data.zarr`` and what it is; `crc32` is over its bytes in C order, little-endian."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    array: str
    index: int
    shape: tuple[int, ...]
    dtype: str
    crc32: int
    axes: tuple[Axis, ...]
    signal: str
    quantity: str
    metadata: Mapping[str, JsonValue] = Field(default_factory=dict)


class StepDone(_Document):
    """A step and what became of it. Written after its frames are on disk: a step with such a line is acknowledged."""

    kind: Literal["step"] = "step"
    step: Step
    status: Literal["done", "failed", "skipped"]
    reason: str = ""
    frames: tuple[FrameRecord, ...] = ()
    started_s: float = 0.0
    finished_s: float = 0.0
    dose_e_per_a2: float = 0.0
    review: ReviewOutcome | None = None


class Proposal(_Document):
    """Targets put before a person, as the chooser made them."""

    kind: Literal["proposal"] = "proposal"
    step_id: str
    targets: tuple[Target, ...]


class Decision(_Document):
    """One action of a person or a policy: a verdict on some targets, a move, an addition, an undo or a redo.

    ``before`` and ``after`` are parallel to ``target_ids`` and hold state and place; ``before`` is None for an added target,
    ``after`` for one whose addition was undone.
    """

    kind: Literal["decision"] = "decision"
    step_id: str
    action: Literal["verdict", "move", "add", "undo", "redo"]
    target_ids: tuple[str, ...]
    before: tuple[JudgedTarget | None, ...]
    after: tuple[JudgedTarget | None, ...]
    who: str = "person"


class JudgedTarget(BaseModel):
    """A target with its verdict."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Target
    state: TargetState


class Resumed(_Document):
    """The run was taken up again, by this instrument.

    Where `told` is true, the plan hears of the break with the result of the step before it (`StepResult.interrupted`), each time
    the record is replayed; it is false in records of versions that did not say so, whose plans went on as if nothing had been.
    """

    kind: Literal["resumed"] = "resumed"
    instrument: InstrumentInfo
    steps_done: int
    told: bool = False


class RunStop(_Document):
    """The run ended: finished, stopped by a person, or failed, and why."""

    kind: Literal["run_stop"] = "run_stop"
    outcome: Literal["finished", "stopped", "failed"]
    reason: str = ""
    steps_done: int = 0


Decision.model_rebuild()

Document = Annotated[RunStart | StepDone | Proposal | Decision | Resumed | RunStop, Field(discriminator="kind")]
