"""The acquisition as a plan: overview, proposal, review, spectra where they were approved, drift followed on the way.

One run from the first overview on. Every decision depends only on the settings and on the results that were sent in, and every
step has an id that does not depend on time, so that replaying the results of a journal leads to the same place.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np

from ..schema import (
    Acquire,
    AwaitReview,
    BadInput,
    Frame,
    InstrumentFault,
    Note,
    Plan,
    PlanContext,
    ReviewOutcome,
    Scan,
    StepResult,
    Target,
    estimate_dose,
    estimate_duration,
)
from .choosers import Proposals, propose_with_remarks
from .estimate import EARLY_SCANS, corrects_drift, early_after, estimate, image_scan, within_budget
from .route import shortest_path
from .settings import AcquisitionSettings, merged, parse
from .tracking import DriftCorrection, exposure_times

Steps = Generator[Any, StepResult, Any]

UNCERTAIN_PX = 0.2


def build(settings: Mapping[str, Any], context: PlanContext) -> Plan:
    """The acquisition plan for an instrument.

    Parameters
    ----------
    settings : mapping
        As `AcquisitionSettings`; what is not given has its default.
    context : PlanContext
        What is known of the instrument.

    Raises
    ------
    BadInput
        At once, where the settings cannot be used.
    """
    checked = parse(settings)
    _check_reach(checked, context)
    return _Acquisition(checked, context).steps()


def _check_reach(settings: AcquisitionSettings, context: PlanContext) -> None:
    field, bounds = settings.scan_field(context), context.field
    slack = 1e-6 * max(bounds.height_nm, bounds.width_nm)
    inside = (
        field.y_nm >= bounds.y_nm - slack
        and field.x_nm >= bounds.x_nm - slack
        and field.y_nm + field.height_nm <= bounds.y_nm + bounds.height_nm + slack
        and field.x_nm + field.width_nm <= bounds.x_nm + bounds.width_nm + slack
    )
    if not inside:
        raise BadInput(
            f"The overview of {field.height_nm:g} x {field.width_nm:g} nm from ({field.y_nm:g}, {field.x_nm:g}) nm reaches "
            f"beyond the scan field of {bounds.height_nm:g} x {bounds.width_nm:g} nm from ({bounds.y_nm:g}, "
            f"{bounds.x_nm:g}) nm; make it smaller."
        )
    unknown = set(settings.overview_signals) - set(context.signals)
    if context.signals and unknown:
        raise BadInput(
            f"The instrument does not record {', '.join(sorted(unknown))}, only {', '.join(context.signals)}."
        )


class _Acquisition:
    """State of one run: what was seen, what was measured, what it cost."""

    def __init__(self, settings: AcquisitionSettings, context: PlanContext) -> None:
        self.settings = settings
        self.context = context
        self.overview: StepResult | None = None
        self.overviews = 0
        self.proposals = 0
        self.reviews = 0
        self.drift: DriftCorrection | None = None
        self.drift_scans = 0
        self.measured: dict[str, tuple[float, float]] = {}
        self.spent_s = 0.0
        self.spent_dose = 0.0
        self.failures = 0
        self.last_end_s: float | None = None
        self.clock_shift_s = 0.0
        self.clock_broke = False
        self.interrupted = False

    # -- the way of a run

    def steps(self) -> Plan:
        """All of it."""
        yield from self._take_overview()
        targets: tuple[Target, ...] = ()
        if self.settings.propose_first:
            targets = yield from self._propose(())
        rounds = 0
        while True:
            outcome = yield from self._review(targets)
            if outcome.action == "finish":
                return
            if outcome.action == "repropose":
                targets = yield from self._again(outcome, targets)
                continue
            yield from self._adjust(outcome)
            going_on = yield from self._measure(outcome.approved)
            rounds += 1
            if not going_on or rounds >= self.settings.rounds:
                return
            targets = yield from self._propose(())

    def _take_overview(self) -> Steps:
        settings = self.settings
        scan = Scan(
            step_id=f"overview-{self.overviews}",
            field=settings.overview_field,
            shape=settings.scan_shape(self.context),
            dwell_s=settings.overview_dwell_s,
            signals=settings.overview_signals or self.context.signals[:1],
        )
        self.overviews += 1
        result = yield from self._do(scan)
        if result.ok and result.frames:
            self.overview, self.drift = result, None
        elif self.overview is None:
            raise InstrumentFault(f"The overview could not be recorded: {result.reason or 'no image came'}.")
        else:
            text = f"The new overview could not be recorded, the old one is kept: {result.reason or 'no image came'}"
            yield from self._note(f"{scan.step_id}-failed", text, level="warning")

    def _propose(self, kept: tuple[Target, ...]) -> Steps:
        """Targets of the chooser, trimmed to the budgets, and those kept from before."""
        prefix = f"r{self.proposals}"
        self.proposals += 1
        proposals = self._chosen(prefix, kept)
        targets, remark = within_budget(
            (*kept, *proposals.targets),
            self.settings,
            self.context,
            spent_s=self.spent_s,
            spent_dose_e_per_a2=self.spent_dose,
        )
        for number, text in enumerate((*proposals.remarks, *([remark] if remark else []), *self._blind_budget())):
            yield from self._note(f"{prefix}-note-{number}", text, level="warning")
        return targets

    def _chosen(self, prefix: str, kept: tuple[Target, ...]) -> Proposals:
        assert self.overview is not None
        taken = [*self.measured.values(), *((t.y_nm, t.x_nm) for t in kept)]
        rng = np.random.default_rng([self.settings.seed, self.proposals])
        return propose_with_remarks(self._image(), self.settings, exclude=taken, rng=rng, prefix=prefix)

    def _image(self) -> Frame:
        assert self.overview is not None
        return self.overview.frames[0]

    def _blind_budget(self) -> tuple[str, ...]:
        if self.settings.dose_budget_e_per_a2 is not None and not self.context.beam_current_pa:
            return ("The beam current is not known, so the dose budget cannot be kept.",)
        return ()

    def _review(self, targets: tuple[Target, ...]) -> Steps:
        step_id = f"review-{self.reviews}"
        self.reviews += 1
        prompt = (
            f"{len(targets)} points proposed by {self.settings.chooser!r}: approve or reject them, then start."
            if targets
            else "The overview is there. Ask for a proposal, or add points by hand."
        )
        cost = estimate(targets, self.settings, self.context)
        result = yield from self._do(AwaitReview(step_id=step_id, targets=targets, prompt=prompt, estimate=cost))
        return result.review if result.review is not None else ReviewOutcome(action="finish")

    def _again(self, outcome: ReviewOutcome, targets: tuple[Target, ...]) -> Steps:
        """Another proposal with other settings; where they cannot be used, the old targets stay and a note says why."""
        before = self.settings
        try:
            self.settings = merged(before, outcome.settings)
            _check_reach(self.settings, self.context)
            rescan = self.settings.rescan
            # Points chosen on an old overview have no place on a new one.
            kept = outcome.approved if self.settings.keep_approved and not rescan else ()
            kept = tuple(t for t in kept if t.target_id not in self.measured)
            if rescan:
                yield from self._take_overview()
            return (yield from self._propose(kept))
        except BadInput as error:
            self.settings = before
            yield from self._note(f"review-{self.reviews - 1}-refused", f"No new proposal: {error}", level="warning")
            return targets

    def _adjust(self, outcome: ReviewOutcome) -> Steps:
        """Exposure, drift and budgets as they were set at the moment of the start; a note where they cannot be used."""
        if not outcome.settings:
            return
        try:
            self.settings = merged(self.settings, outcome.settings)
        except BadInput as error:
            text = f"The settings given with the start were not taken: {error}"
            yield from self._note(f"review-{self.reviews - 1}-refused", text, level="warning")

    # -- measuring

    def _measure(self, approved: tuple[Target, ...]) -> Steps:
        """Acquire the approved targets; False where the run must not go on."""
        settings, context = self.settings, self.context
        name = f"go-{self.reviews - 1}"
        waiting = tuple(t for t in approved if t.target_id not in self.measured)
        waiting, remark = within_budget(
            waiting, settings, context, spent_s=self.spent_s, spent_dose_e_per_a2=self.spent_dose
        )
        cost = estimate(waiting, settings, context)
        text = f"{len(waiting)} points to measure."
        yield from self._do(Note(step_id=name, text=text, estimate=cost, data={"points": len(waiting)}))
        if remark:
            yield from self._note(f"{name}-budget", remark, level="warning")
        since_drift: int | None = None
        early_left = EARLY_SCANS
        for target in self._ordered(waiting):
            early = early_left > 0 and self._drift_is_uncertain(since_drift)
            due = since_drift is None or since_drift >= settings.drift_every or self.clock_broke or self.interrupted
            if corrects_drift(settings, context) and (due or early):
                yield from self._follow_drift()
                since_drift = 0
                early_left -= early
            yield from self._catch_up()
            step = self._acquire_step(target)
            if step is None:
                text = f"Target {target.target_id} has drifted out of the field of view and was left out."
                yield from self._note(f"{target.target_id}-outside", text, level="warning")
                continue
            short = self._too_dear(step)
            if short:
                yield from self._note(f"{name}-spent", short, level="warning")
                return False
            if settings.image_nm is not None:
                yield from self._image_point(target, step)
                yield from self._catch_up()
                step = self._acquire_step(target) or step
            result = yield from self._do(step)
            since_drift = (since_drift or 0) + 1
            if result.ok:
                self.measured[target.target_id] = (target.y_nm, target.x_nm)
                self.failures = 0
            elif result.status == "failed":
                self.failures += 1
                if self.failures >= settings.largest_failures:
                    text = f"{self.failures} points failed one after the other, the last one because: {result.reason}"
                    yield from self._note(f"{name}-failures", text, level="warning")
                    return False
        return True

    def _ordered(self, targets: tuple[Target, ...]) -> list[Target]:
        places = np.array([(t.y_nm, t.x_nm) for t in targets]).reshape(-1, 2)
        if self.settings.order == "path":
            order = shortest_path(places, settle_nm=self.settings.settle_distance_nm)
        elif self.settings.order == "score":
            order = np.array(sorted(range(len(targets)), key=lambda i: -targets[i].score), dtype=int)
        elif self.settings.order == "raster":
            order = np.lexsort((places[:, 1], places[:, 0]))
        else:
            order = np.arange(len(targets))
        return [targets[int(index)] for index in order]

    def _acquire_step(self, target: Target) -> Acquire | None:
        """The exposure of a target where it is now; None where that is out of reach."""
        dy = dx = 0.0
        if self.drift is not None:
            middle = self._now_s() + self.context.settle_s + 0.5 * self.settings.exposure_s
            dy, dx = self.drift.displacement(target.y_nm, middle)
        place = (target.y_nm + dy, target.x_nm + dx)
        if not self.context.field.contains(*place):
            return None
        return Acquire(
            step_id=target.target_id,
            target_id=target.target_id,
            y_nm=place[0],
            x_nm=place[1],
            exposure_s=self.settings.exposure_s,
            drift_nm=(dy, dx),
        )

    def _image_point(self, target: Target, point: Acquire) -> Steps:
        """An image of the point at high magnification; a note where it failed, and the spectrum is recorded all the same."""
        signals = self.settings.overview_signals or self.context.signals[:1]
        name = f"{target.target_id}-image"
        scan = image_scan(name, (point.y_nm, point.x_nm), self.settings, self.context, signals)
        result = yield from self._do(scan)
        if not result.ok:
            text = f"The image of {target.target_id} could not be recorded: {result.reason}"
            yield from self._note(f"{name}-failed", text, level="warning")

    def _catch_up(self) -> Steps:
        """Where the run was interrupted a moment ago: see where the specimen is before anything of it is measured."""
        while self.interrupted and corrects_drift(self.settings, self.context):
            yield from self._follow_drift()

    def _follow_drift(self) -> Steps:
        assert self.overview is not None
        if self.drift is None:
            self.drift = DriftCorrection(self.overview, self.settings, self.context)
        told, self.interrupted = self.interrupted, False
        if self.clock_broke or told:
            self.drift.lost()
            self.clock_broke = False
        name = f"drift-{self.drift_scans}"
        self.drift_scans += 1
        scan = self.drift.scan(name, self._now_s())
        result = yield from self._do(scan)
        correction = self.drift.take(result, f"{name}-note", self.clock_shift_s)
        if told and correction.used:
            self.clock_broke = False  # this very image showed where the specimen is after the break
        yield from self._do(correction.note)

    def _drift_is_uncertain(self, since_drift: int | None) -> bool:
        """True where the rate is known too little to wait for the next drift image: two images close in time give a poor one."""
        if self.drift is None or since_drift is None or since_drift < early_after(self.settings):
            return False
        return self.drift.uncertainty_px(self._now_s() + self.settings.exposure_s) > UNCERTAIN_PX

    def _too_dear(self, step: Acquire) -> str:
        """Why the next exposure would break a budget, or nothing."""
        settings = self.settings
        signals = self.settings.overview_signals
        image = image_scan("estimate", (step.y_nm, step.x_nm), self.settings, self.context, signals)
        exposures = [step] if image is None else [image, step]
        after_s = self.spent_s + sum(estimate_duration(one, self.context) for one in exposures)
        if settings.time_budget_s is not None and after_s > settings.time_budget_s * (1 + 1e-9):
            return f"The time budget of {settings.time_budget_s:g} s is used up; the remaining points were left out."
        after = self.spent_dose + sum(estimate_dose(one, self.context) for one in exposures)
        if settings.dose_budget_e_per_a2 is not None and after > settings.dose_budget_e_per_a2 * (1 + 1e-9):
            return f"The dose budget of {settings.dose_budget_e_per_a2:g} e/Å² is used up; the remaining points were left out."
        return ""

    # -- one step

    def _note(self, step_id: str, text: str, *, level: str = "info") -> Steps:
        return (yield from self._do(Note.model_validate({"step_id": step_id, "text": text, "level": level})))

    def _now_s(self) -> float:
        return self.last_end_s if self.last_end_s is not None else 0.0

    def _do(self, step: Any) -> Steps:
        """Yield a step and keep the books: time, dose, and a clock that was started anew by a new program."""
        result: StepResult = yield step
        self.spent_dose += max(result.dose_e_per_a2, 0.0)
        self.interrupted = self.interrupted or result.interrupted
        if isinstance(step, (Scan, Acquire)) and result.status != "skipped":
            began, ended = exposure_times(result)
            ended = max(ended, result.finished_s)
            if isinstance(step, Acquire) or step.purpose != "overview":
                self.spent_s += max(0.0, result.finished_s - result.started_s)
            began, ended = began + self.clock_shift_s, ended + self.clock_shift_s
            last = self.last_end_s
            if last is not None and began < last - 1e-3:
                # The clock went back: another program took the run up. Where the specimen is by now nobody has seen.
                self.clock_shift_s += last - began
                ended += last - began
                self.clock_broke = True
            elif last is not None and isinstance(step, Acquire) and began - last > self._long_pause_s():
                self.clock_broke = self.clock_broke or corrects_drift(self.settings, self.context)
            self.last_end_s = ended if math.isfinite(ended) else last
        return result

    def _long_pause_s(self) -> float:
        """A wait between two points after which the drift is measured again before anything else."""
        return max(5.0, 10.0 * (self.settings.exposure_s + self.context.settle_s + self.context.spectrum_readout_s))
