"""The optics kept good on the way: before an image at high magnification, a check; then the plan goes on as if nothing had been.

The composition of two plans: steps of the check get ids of their own and are journaled like any others, what they cost counts as
the cost of the step they precede, and a run that is resumed replays them too.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

from ..backends.base import require
from ..schema import (
    Acquire,
    AwaitReview,
    KeepGood,
    Note,
    Plan,
    PlanContext,
    PlanEstimate,
    PlanSpec,
    Scan,
    StepResult,
    TakeImage,
    Target,
    controls_of,
    estimate_dose,
    estimate_duration,
)

PREFIX = "keep-good-"
"""Of the ids of all steps that a check takes."""
STEPS_OF_A_CHECK = 5  # to the defocus in two steps, the picture, and back

Build = Callable[[PlanSpec, PlanContext], Plan]
Steps = Generator[Any, StepResult, Any]


def with_controls(keep: KeepGood, instrument: Any) -> KeepGood:
    """The same with the present values, limits and units of the instrument's controls, where they are not given.

    Raises
    ------
    MissingCapability
        The instrument has no camera, or no optics that can be set.
    """
    require(instrument, "camera", "optics")
    if "controls" in keep.settings:
        return keep
    optics = instrument.optics
    controls = controls_of(optics)
    units = {name: info.units for name, info in optics.controls.items()}
    tension = instrument.info.high_tension_v
    known = {"controls": controls, "units": units} | ({"high_tension_v": tension} if tension else {})
    return keep.model_copy(update={"settings": {**known, **keep.settings}})


def kept_good(plan: Plan, keep: KeepGood, context: PlanContext, build: Build) -> Plan:
    """`plan` with a check before its images (or spectra); its value at the end is that of `plan`.

    Parameters
    ----------
    plan : Plan
    keep : KeepGood
    context : PlanContext
    build : callable
        Makes the plan of a check from its `PlanSpec`.

    Raises
    ------
    BadInput
        At once, where the check's settings cannot be used.
    """
    settings = {**keep.settings, "exposure_s": keep.exposure_s}
    build(PlanSpec(kind=keep.kind, settings=settings), context).close()
    return _KeptGood(plan, keep, context, build, settings).steps()


class _KeptGood:
    def __init__(
        self, plan: Plan, keep: KeepGood, context: PlanContext, build: Build, settings: dict[str, Any]
    ) -> None:
        self.plan = plan
        self.keep = keep
        self.context = context
        self.build = build
        self.settings = settings
        self.seen = 0  # steps before which one could have looked
        self.checks = 0
        self.judged: dict[str, Target] = {}
        self.dose = 0.0
        self.interrupted = False

    def steps(self) -> Plan:
        """All of it."""
        try:
            step = next(self.plan)
            while True:
                if self._is_due(step):
                    yield from self._check()
                result = yield self._with_checks(step)
                self._remember(step, result)
                step = self.plan.send(self._with_the_check(result))
        except StopIteration as end:
            return end.value
        finally:
            self.plan.close()

    def _is_due(self, step: Any) -> bool:
        wanted = (
            isinstance(step, Acquire)
            if self.keep.before == "point"
            else isinstance(step, Scan) and step.purpose == "image"
        )
        if not wanted:
            return False
        self.seen += 1
        return (self.seen - 1) % self.keep.every == 0

    def _check(self) -> Steps:
        """One run of the check, to its end."""
        prefix = f"{PREFIX}{self.checks:04d}-"
        self.checks += 1
        check = self.build(PlanSpec(kind=self.keep.kind, settings=self.settings), self.context)
        try:
            step = next(check)
            while True:
                changes: dict[str, Any] = {"step_id": f"{prefix}{step.step_id}"}
                if isinstance(step, AwaitReview) and not step.targets:
                    # the points that are still to be measured stay before the person, who may also reject some of them
                    changes["targets"] = tuple(self.judged.values())
                result = yield step.model_copy(update=changes)
                self.dose += max(result.dose_e_per_a2, 0.0)
                self.interrupted = self.interrupted or result.interrupted
                step = check.send(result)
        except StopIteration as end:
            if isinstance(end.value, Mapping):
                self.settings |= end.value
        finally:
            check.close()

    def _remember(self, step: Any, result: StepResult) -> None:
        """Which points a person has judged and are not measured yet."""
        if isinstance(step, AwaitReview) and result.review is not None:
            outcome = result.review
            verdicts = {one.target_id: one for one in (*step.targets, *outcome.approved, *outcome.rejected)}
            self.judged = {**self.judged, **verdicts}

    def _with_the_check(self, result: StepResult) -> StepResult:
        """The result as the plan is told it: what the checks before it delivered counts in its budget, and their breaks are its."""
        dose, self.dose = self.dose, 0.0
        interrupted, self.interrupted = self.interrupted or result.interrupted, False
        if not dose and not interrupted:
            return result
        changes = {"dose_e_per_a2": result.dose_e_per_a2 + dose, "interrupted": interrupted}
        return result.model_copy(update=changes)

    # -- what it will cost

    def _with_checks(self, step: Any) -> Any:
        """The step, its estimate with the checks in it."""
        if not isinstance(step, (AwaitReview, Note)) or step.estimate is None:
            return step
        points = len(step.targets) if isinstance(step, AwaitReview) else step.data.get("points", 0)
        checks = self._due_among(int(points)) if isinstance(points, (int, float)) else 0
        look = TakeImage(step_id="estimate", exposure_s=self.keep.exposure_s)
        before = step.estimate
        cost = PlanEstimate(
            steps=before.steps + STEPS_OF_A_CHECK * checks,
            duration_s=before.duration_s + checks * estimate_duration(look, self.context),
            dose_e_per_a2=before.dose_e_per_a2 + checks * estimate_dose(look, self.context),
        )
        return step.model_copy(update={"estimate": cost})

    def _due_among(self, points: int) -> int:
        """How many of the next so many points have a check before them."""
        every = self.keep.every
        return -(-(self.seen + points) // every) - -(-self.seen // every)
