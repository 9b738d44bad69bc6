"""What is to be done: targets, steps, and plans that yield steps and receive results.

A *plan* is a generator. It yields a `Step`, the runner carries it out (or finds it already done in the journal), and sends the
`StepResult` back, so that a later measurement can depend on an earlier one. A plan is deterministic given its settings and the
results it was sent, and gives every step an id that does not depend on time: that is what makes a run resumable.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from .frame import Frame


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Field2D(_Frozen):
    """A rectangle on the specimen, in nm; `y_nm`, `x_nm` is its upper left *edge* (not the centre of a pixel)."""

    y_nm: float
    x_nm: float
    height_nm: float = Field(gt=0)
    width_nm: float = Field(gt=0)

    @property
    def area_nm2(self) -> float:
        """Area in nm²."""
        return self.height_nm * self.width_nm

    def contains(self, y_nm: float, x_nm: float) -> bool:
        """True where the point lies inside or on the edge."""
        return self.y_nm <= y_nm <= self.y_nm + self.height_nm and self.x_nm <= x_nm <= self.x_nm + self.width_nm


class TargetState(StrEnum):
    """Where a target stands; the first three are a person's (or a policy's) verdicts, the others the run's."""

    PROPOSED = "proposed"
    APPROVED = "approved"
    REJECTED = "rejected"
    ACQUIRING = "acquiring"
    DONE = "done"
    FAILED = "failed"


class Target(_Frozen):
    """A place worth measuring, and why.

    Parameters
    ----------
    target_id : str
        Stable within the run, such as ``"r0-0042"``.
    y_nm, x_nm : float
        Position on the specimen, in the coordinates of the overview.
    score : float
        How much the chooser wants it, 0 to 1.
    label : str
        Class: ``"edge"``, ``"cluster 2"``, ``"anomaly"``, ``"manual"`` ...
    reason : str
        In words, for the person who decides.
    """

    target_id: str = Field(min_length=1)
    y_nm: float
    x_nm: float
    score: float = Field(default=1.0, ge=0.0, le=1.0)
    label: str = "point"
    reason: str = ""


class _Step(_Frozen):
    step_id: str = Field(min_length=1, description="stable across a resume; unique within the run")


class Scan(_Step):
    """Scan a rectangle with one or more detectors in one pass."""

    kind: Literal["scan"] = "scan"
    field: Field2D | None = Field(default=None, description="None: the whole field of view")
    shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    dwell_s: float = Field(gt=0)
    signals: tuple[str, ...] = ()
    purpose: Literal["overview", "drift", "image"] = "overview"


class Acquire(_Step):
    """Move the probe to a place, expose, record a spectrum, park the probe."""

    kind: Literal["acquire"] = "acquire"
    y_nm: float
    x_nm: float
    exposure_s: float = Field(gt=0)
    target_id: str | None = None
    drift_nm: tuple[float, float] = Field(default=(0.0, 0.0), description="(dy, dx) already added to y_nm, x_nm")


class TakeImage(_Step):
    """Expose the camera (Ronchigram, diffraction pattern, sorter) once."""

    kind: Literal["take_image"] = "take_image"
    exposure_s: float = Field(gt=0)
    camera: str | None = None
    y_nm: float | None = None
    x_nm: float | None = None
    target_id: str | None = None


class MoveProbe(_Step):
    """Put the probe at a place and leave it there, or park it (`y_nm` and `x_nm` None)."""

    kind: Literal["move_probe"] = "move_probe"
    y_nm: float | None = None
    x_nm: float | None = None


class SetOptics(_Step):
    """Set optics controls to absolute values, by name, in each control's own units."""

    kind: Literal["set_optics"] = "set_optics"
    values: Mapping[str, float]


class SetSpectrometer(_Step):
    """Set the spectrometer; None leaves a setting as it is."""

    kind: Literal["set_spectrometer"] = "set_spectrometer"
    energy_offset_ev: float | None = None
    dispersion_ev: float | None = Field(default=None, gt=0)


class AwaitReview(_Step):
    """Wait for a person (or a policy) to judge `targets`, with the beam blanked or parked.

    The result's ``review`` says what was decided. A plan may also be asked to propose anew, with other settings.
    """

    kind: Literal["await_review"] = "await_review"
    targets: tuple[Target, ...]
    prompt: str = ""
    estimate: PlanEstimate | None = None


class Note(_Step):
    """A line for the record: a drift correction, a decision of the plan, a warning to the person."""

    kind: Literal["note"] = "note"
    text: str
    level: Literal["info", "warning"] = "info"
    data: Mapping[str, JsonValue] = Field(default_factory=dict)
    estimate: PlanEstimate | None = Field(default=None, description="what the steps that follow will cost")


class PlanEstimate(_Frozen):
    """What a plan will cost, known before anything moves."""

    steps: int = Field(ge=0)
    duration_s: float = Field(ge=0)
    dose_e_per_a2: float = Field(ge=0, description="electrons delivered, averaged over the field of view")


Step = Annotated[
    Scan | Acquire | TakeImage | MoveProbe | SetOptics | SetSpectrometer | AwaitReview | Note,
    Field(discriminator="kind"),
]


class ReviewOutcome(_Frozen):
    """How a review ended.

    ``action`` is ``"go"`` (measure the approved), ``"repropose"`` (call the chooser again with ``settings``) or ``"finish"``
    (no more). ``approved`` holds the targets as they were approved: moved ones at their new place, added ones included.
    """

    action: Literal["go", "repropose", "finish"] = "go"
    approved: tuple[Target, ...] = ()
    rejected: tuple[Target, ...] = ()
    settings: Mapping[str, JsonValue] = Field(default_factory=dict)


class StepResult(BaseModel):
    """What became of a step; sent back into the plan.

    Parameters
    ----------
    step : Step
    status : {"done", "failed", "skipped"}
    frames : tuple of Frame
        What was recorded; empty for a step that records nothing.
    reason : str
        Why it failed or was skipped, one sentence.
    started_s, finished_s : float
        The instrument's clock.
    dose_e_per_a2 : float
        Field-averaged dose this step delivered.
    review : ReviewOutcome or None
        For `AwaitReview` only.
    replayed : bool
        True where the result comes from the journal and nothing was measured now.
    interrupted : bool
        True where the run stood still after this step, for as long as nobody knows, and was taken up again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    step: Step
    status: Literal["done", "failed", "skipped"] = "done"
    frames: tuple[Frame, ...] = ()
    reason: str = ""
    started_s: float = 0.0
    finished_s: float = 0.0
    dose_e_per_a2: float = 0.0
    review: ReviewOutcome | None = None
    replayed: bool = False
    interrupted: bool = False

    @model_validator(mode="after")
    def _reason_where_needed(self) -> Self:
        if self.status != "done" and not self.reason:
            raise ValueError(f"a step that {self.status} needs a reason")
        return self

    @property
    def ok(self) -> bool:
        """True where the step was carried out."""
        return self.status == "done"

    def frame(self, signal: str | None = None) -> Frame:
        """The first frame, or the one of `signal`; KeyError where there is none."""
        for frame in self.frames:
            if signal is None or frame.signal == signal:
                return frame
        raise KeyError(f"step {self.step.step_id} recorded {[f.signal for f in self.frames]}, not {signal!r}")


Plan = Generator[Any, StepResult, Any]
"""A generator that yields `Step`s and receives `StepResult`s."""


class KeepGood(_Frozen):
    """A check of the optics before the steps of another plan that need them good, such as images at high magnification.

    The check is a plan of its own: what it returns replaces the settings of the next one.

    Parameters
    ----------
    before : {"image", "point"}
        Before each scan whose purpose is an image, or before each spectrum.
    every : int
        Only before each so many-th of them, the first one included.
    exposure_s : float
        Of the picture that a check takes.
    kind : str
        Plan of one check.
    settings : mapping
        Of that plan; the controls' present values and limits are filled in at the start of a run.
    """

    before: Literal["image", "point"] = "image"
    every: int = Field(default=1, ge=1)
    exposure_s: float = Field(default=0.5, gt=0, le=60)
    kind: str = "alignment-check"
    settings: Mapping[str, JsonValue] = Field(default_factory=dict)


class PlanSpec(_Frozen):
    """A plan by name and settings: what is written down so that the same plan can be built again after a crash.

    ``kind`` is looked up in the entry-point group ``napari_smarttem.plans``; the builder is called as
    ``builder(settings: dict, context: PlanContext) -> Plan``. With ``keep_good`` the optics are checked on the way.
    """

    kind: str
    settings: Mapping[str, JsonValue] = Field(default_factory=dict)
    keep_good: KeepGood | None = None


class PlanContext(_Frozen):
    """What a plan may know of the instrument before it starts; frozen into the run-start document."""

    field: Field2D
    signals: tuple[str, ...] = ()
    beam_current_pa: float | None = None
    settle_s: float = 0.0
    flyback_s: float = 0.0
    spectrum_readout_s: float = 0.0
    native_shape: tuple[int, int] | None = Field(default=None, description="pixels of a recorded overview, for replay")


AwaitReview.model_rebuild()
Note.model_rebuild()
StepResult.model_rebuild()


def exposure_dose_e_per_a2(beam_current_pa: float | None, exposure_s: float, area_nm2: float) -> float:
    """Electrons of `exposure_s` seconds of beam, averaged over `area_nm2`, in e/Å²; 0 where the current is not known."""
    if not beam_current_pa:
        return 0.0
    electrons = beam_current_pa * 1e-12 * exposure_s / 1.602176634e-19
    return electrons / (area_nm2 * 100.0)


def estimate_duration(step: Any, context: PlanContext) -> float:
    """Seconds a step takes on the instrument's clock; people are not in it."""
    if isinstance(step, Scan):
        rows, columns = step.shape
        return rows * (columns * step.dwell_s + context.flyback_s)
    if isinstance(step, Acquire):
        return context.settle_s + step.exposure_s + context.spectrum_readout_s
    if isinstance(step, TakeImage):
        return context.settle_s + step.exposure_s
    return 0.0


def estimate_dose(step: Any, context: PlanContext) -> float:
    """Field-averaged dose of a step in e/Å²; 0 where the beam current is not known.

    A resting probe exposes the specimen while the spectrum is read out, too.
    """
    exposed_s = 0.0
    if isinstance(step, Scan):
        exposed_s = step.shape[0] * step.shape[1] * step.dwell_s
    elif isinstance(step, Acquire):
        exposed_s = step.exposure_s + context.spectrum_readout_s
    elif isinstance(step, TakeImage):
        exposed_s = step.exposure_s
    return exposure_dose_e_per_a2(context.beam_current_pa, exposed_s, context.field.area_nm2)
