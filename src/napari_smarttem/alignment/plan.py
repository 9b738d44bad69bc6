"""The alignment as a plan: measure at a large known defocus, correct, measure at smaller ones, stop when the probe is good.

The error bars fall steeply with the defocus, and what an error of the controls can spoil falls with the size of the move back to
focus; but a small defocus can only be read once the other aberrations are small. So from coarse to fine.

Every decision depends on the settings and on the results alone, so that a run resumes from its journal.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from ..physics.aberrations import ESTIMATED, units_of
from ..schema import AwaitReview, BadInput, Frame, Note, Plan, PlanContext, SetOptics, StepResult, TakeImage
from .belief import Belief
from .estimator import Estimator, Measurement
from .settings import AlignmentSettings, parse

TRIES = 3
"""Exposures before a frame is given up as older than the last change, or failed."""

UNSEEN = 1.2
"""The estimated aberrations must be good for an angle this much larger than wanted: the others take their share unseen."""

Steps = Generator[Any, StepResult, Any]
Verdict = Literal["aligned", "out of frames", "cannot", "ended by a person"]


class Outcome(BaseModel):
    """How an alignment ended: what is believed of the column as it is left.

    ``quarter_pi_mrad`` is the median over the error bars, ``quarter_pi_range_mrad`` their 16 and 84 %: the most likely values alone
    are those that were aimed at, and would promise too much.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Verdict
    frames: int
    aberrations: dict[str, float]
    sigma: dict[str, float]
    quarter_pi_mrad: float
    quarter_pi_range_mrad: tuple[float, float]
    controls: dict[str, float]
    response: list[list[float]]
    response_covariance: list[list[list[float]]]


def build(settings: Mapping[str, Any], context: PlanContext) -> Plan:
    """The alignment plan; `BadInput` at once where the settings cannot be used.

    The generator's value at the end is an `Outcome`; the last note of the run carries the same.
    """
    checked = parse(settings)
    if checked.method == "image-quality":
        from .image_search import search

        return search(checked, context)
    return Alignment(checked, first_belief(checked), Estimator(checked.model)).steps()


def first_belief(settings: AlignmentSettings) -> Belief:
    """What is known before the first frame: the controls, and what an earlier run learned of them."""
    response, covariance = (
        None if given is None else np.asarray(given, dtype=float)
        for given in (settings.response, settings.response_covariance)
    )
    return Belief(
        settings.controls,
        settings.control_names,
        response=response,
        response_covariance=covariance,
        known=settings.units_known or covariance is not None,
    )


class Alignment:
    """One run of the closed loop on Ronchigrams."""

    def __init__(self, settings: AlignmentSettings, belief: Belief, estimator: Estimator) -> None:
        self.settings = settings
        self.belief = belief
        self.estimator = estimator
        self.frames = 0
        self.sets = 0
        self.changed_s = -math.inf
        self.resumed = False  # the last change is read from a journal: the clock may be another one
        self.seen_s: float | None = None
        self.first = True
        self.ask = settings.ask
        self.high_tension_v = 0.0
        self.why = ""

    def steps(self) -> Generator[Any, StepResult, Outcome]:
        """All of it."""
        settings, belief = self.settings, self.belief
        if settings.units_known:
            away = belief.controls.copy()
            away[0] += settings.offsets_nm[0] / float(belief.response[0, 0])
            if not (yield from self._set(self._inside(away))):
                return (yield from self._cannot())
        if not (yield from self._measure(settings.offsets_nm[0])):
            return (yield from self._cannot())
        if not settings.units_known and not (yield from self._try_controls()):
            return (yield from self._cannot())
        stage = 0
        while True:
            stage = min(stage + 1, len(settings.offsets_nm) - 1)
            home = self._focused(belief.worth_moving(belief.controls_for(np.zeros(8), gain=settings.fixed_gain or 1.0)))
            angle = UNSEEN * settings.wanted_mrad
            good = belief.chance_of(home, angle, self.high_tension_v) >= settings.confidence
            last = good or self.frames >= settings.frames
            offset = settings.offsets_nm[stage]
            away = belief.controls_for(np.array([offset, *[0.0] * 7]), gain=settings.fixed_gain or 1.0)
            # the others corrected for what the defocus control does to them there: the rings then are read under wider windows
            wanted = home if last else self._focused(away, offset)
            if self.ask:
                action, wanted = yield from self._review(wanted, last)
                if action == "undo":
                    yield from self._set(belief.start)
                    return (yield from self._end("ended by a person"))
                if action == "finish":
                    return (yield from self._end("ended by a person"))
            if not (yield from self._set(wanted)):
                return (yield from self._cannot())
            if last:
                return (yield from self._end("aligned" if good else "out of frames"))
            if not (yield from self._measure(offset)):
                return (yield from self._cannot())

    # -- frames

    def _measure(self, offset_nm: float) -> Generator[Any, StepResult, bool]:
        """A frame that was begun after the last change, measured and believed; False after two that could not be used."""
        for _ in range(2):
            frame = yield from self._fresh_frame()
            number = self.frames
            self.frames += 1
            if frame is None:
                self.why = "no frame came that was begun after the optics had settled"
                yield Note(
                    step_id=f"estimate-{number:03d}", level="warning", text=f"{self.why[:1].upper()}{self.why[1:]}."
                )
                continue
            found = self._read(frame, offset_nm)
            yield self._report(found, number)
            if found.good:
                self.belief.seen(found.coefficients, found.covariance)
                self.first = False
                return True
            self.why = found.verdict
        return False

    def _fresh_frame(self) -> Generator[Any, StepResult, Frame | None]:
        for attempt in range(TRIES):
            name = f"frame-{self.frames:03d}" + (f"-again-{attempt}" if attempt else "")
            result = yield TakeImage(step_id=name, exposure_s=self.settings.exposure_s, camera=self.settings.camera)
            if not result.ok or not result.frames:
                continue
            frame = result.frames[0]
            began = float(frame.metadata.get("exposure_started_s", result.started_s))  # type: ignore[arg-type]
            if began >= self.changed_s or (self.resumed and not result.replayed):
                self.seen_s = began
                return frame
        return None

    def _read(self, frame: Frame, offset_nm: float) -> Measurement:
        half_angle, high_tension = calibration(frame, self.settings)
        self.high_tension_v = high_tension
        believed = None if self.first else self.belief.aberrations
        return self.estimator.measure(
            np.asarray(frame.data),
            high_tension_v=high_tension,
            half_angle_mrad=half_angle,
            expected_c1_nm=offset_nm if believed is None else min(float(believed[0]), 0.3 * offset_nm),
            start=believed,
            refined=self.settings.refine,
        )

    def _report(self, found: Measurement, number: int) -> Note:
        if not found.good:
            return Note(
                step_id=f"estimate-{number:03d}",
                level="warning",
                text=f"Not used: {found.verdict}.",
                data=found.as_dict(),
            )
        said = ", ".join(
            f"{name} {value:.3g} ± {sigma:.2g} {units_of(name)}"
            for name, value, sigma in zip(found.names, found.coefficients, found.sigma, strict=True)
        )
        return Note(step_id=f"estimate-{number:03d}", text=f"{said}.", data=found.as_dict())

    # -- controls

    def _focused(self, values: np.ndarray, offset_nm: float = 0.0) -> np.ndarray:
        """The same, with the defocus control where C1 should become `offset_nm`."""
        belief = self.belief
        c1 = float(belief.aberrations[0] + (belief.response @ (values - belief.controls))[0])
        focused = values.copy()
        focused[0] += (offset_nm - c1) / float(belief.response[0, 0])
        return self._inside(focused)

    def _inside(self, values: np.ndarray) -> np.ndarray:
        limits = self.belief.limits
        return np.asarray(np.clip(values, [one.minimum for one in limits], [one.maximum for one in limits]))

    def _set(self, values: np.ndarray) -> Generator[Any, StepResult, bool]:
        """Set the controls in steps that none exceeds; False where the instrument refused."""
        number = self.sets
        self.sets += 1
        path = self.belief.steps_to(self.belief.approach_to(values))
        path = [values] if np.array_equal(path[-1], self.belief.controls) else [*path, values]
        for part, on_the_way in enumerate(path):
            wanted = dict(zip(self.belief.names, map(float, on_the_way), strict=True))
            result = yield SetOptics(step_id=f"set-{number:03d}-{part}", values=wanted)
            if not result.ok:
                self.why = f"the controls were not set: {result.reason}"
                yield Note(
                    step_id=f"set-{number:03d}-refused", level="warning", text=f"{self.why[:1].upper()}{self.why[1:]}"
                )
                return False
            self.changed_s, self.resumed = result.finished_s, result.replayed
            since = result.finished_s - (self.seen_s if self.seen_s is not None else result.started_s)
            self.belief.moved(on_the_way, since / (part + 1), passing=part + 1 < len(path))
        return True

    def _try_controls(self) -> Generator[Any, StepResult, bool]:
        """A small known change of each control, smaller where too much was seen and larger where nothing was."""
        belief = self.belief
        for index, name in enumerate(belief.names):
            limit = belief.limits[index]
            size = 0.03 * (limit.maximum - limit.minimum)
            for _ in range(4):
                before = belief.controls.copy()
                tried = before.copy()
                tried[index] += min(size, limit.largest_step) * (1 if tried[index] + size <= limit.maximum else -1)
                kept = belief.mean.copy(), belief.covariance.copy()
                if not (yield from self._set(tried)):
                    return False
                frame = yield from self._fresh_frame()
                number, self.frames = self.frames, self.frames + 1
                found = self._read(frame, self.settings.offsets_nm[0]) if frame is not None else None
                if found is not None:
                    yield self._report(found, number)
                if found is None or not found.good:  # too far: go back and try less
                    yield from self._set(before)
                    belief.mean, belief.covariance = kept
                    size *= 0.25
                    continue
                seen = float(np.max(np.abs(found.coefficients - kept[0][:, 0]) / TYPICAL_SEEN))
                belief.seen(found.coefficients, found.covariance)
                if seen > 1.0:
                    break
                size *= 4.0
            else:
                self.why = f"{name} could not be understood from its Ronchigrams"
                return False
        yield Note(
            step_id="response",
            text="What the controls do is known now.",
            data={"controls": list(belief.names), "response": belief.response.tolist()},
        )
        return True

    def _review(self, wanted: np.ndarray, last: bool) -> Generator[Any, StepResult, tuple[str, np.ndarray]]:
        """Show the change of each control; the answer may edit, reject, undo, or let the loop go on alone."""
        belief = self.belief
        change = {
            name: {"from": float(now), "to": float(then)}
            for name, now, then in zip(belief.names, belief.controls, wanted, strict=True)
        }
        expected = belief.aberrations + belief.response @ (wanted - belief.controls)
        yield Note(
            step_id=f"proposal-{self.sets:03d}",
            text="Proposed: " + ", ".join(f"{n} {c['from']:.4g} -> {c['to']:.4g}" for n, c in change.items()) + ".",
            data={
                "controls": change,
                "believed": dict(zip(ESTIMATED, map(float, belief.aberrations), strict=True)),
                "sigma": dict(zip(ESTIMATED, map(float, belief.sigma), strict=True)),
                "expected": dict(zip(ESTIMATED, map(float, expected), strict=True)),
                "last": last,
            },
        )
        prompt = "Correct and finish?" if last else "Correct and measure again?"
        result = yield AwaitReview(step_id=f"review-{self.sets:03d}", targets=(), prompt=prompt)
        outcome = result.review
        if outcome is None or outcome.action == "finish":
            return "finish", wanted
        if outcome.settings.get("undo"):
            return "undo", wanted
        if outcome.settings.get("auto"):
            self.ask = False
        values = wanted.copy()
        rejected, edited = outcome.settings.get("reject", []), outcome.settings.get("edit", {})
        for index, name in enumerate(belief.names):
            if isinstance(rejected, (list, tuple)) and name in rejected:
                values[index] = belief.controls[index]
            if isinstance(edited, Mapping) and name in edited:
                values[index] = float(edited[name])  # type: ignore[arg-type]
        return "go", self._inside(values)

    # -- ends

    def _cannot(self) -> Generator[Any, StepResult, Outcome]:
        """Put every control back and say why."""
        yield from self._set(self.belief.start)
        yield Note(
            step_id="cannot",
            level="warning",
            text=f"The alignment was given up: {self.why}. Every control is back where it was.",
        )
        return self._outcome("cannot")

    def _end(self, verdict: Verdict) -> Generator[Any, StepResult, Outcome]:
        outcome = self._outcome(verdict)
        yield Note(
            step_id="end",
            text=f"{verdict[:1].upper()}{verdict[1:]} after {self.frames} Ronchigrams; the phase should stay under pi/4 to "
            f"{outcome.quarter_pi_mrad:.0f} mrad ({outcome.quarter_pi_range_mrad[0]:.0f} to "
            f"{outcome.quarter_pi_range_mrad[1]:.0f} within the error bars).",
            data=outcome.model_dump(mode="json"),
        )
        return outcome

    def _outcome(self, verdict: Verdict) -> Outcome:
        belief = self.belief
        low, middle, high = belief.angles_mrad(self.high_tension_v or 300e3)
        return Outcome(
            verdict=verdict,
            frames=self.frames,
            aberrations=dict(zip(ESTIMATED, map(float, belief.aberrations), strict=True)),
            sigma=dict(zip(ESTIMATED, map(float, belief.sigma), strict=True)),
            quarter_pi_mrad=middle,
            quarter_pi_range_mrad=(low, high),
            controls=dict(zip(belief.names, map(float, belief.controls), strict=True)),
            response=belief.response.tolist(),
            response_covariance=belief.response_covariance.tolist(),
        )


TYPICAL_SEEN = np.array([15.0, 8.0, 8.0, 80.0, 80.0, 120.0, 120.0, 8.0])
"""Change of an aberration that stands out of the noise of a Ronchigram at the first offset, by several standard errors."""


def calibration(frame: Frame, settings: AlignmentSettings) -> tuple[float, float]:
    """Half-angle in mrad and high tension in V of a frame: as set, or as the frame says.

    Raises
    ------
    BadInput
        Where neither does.
    """
    half = settings.half_angle_mrad
    if half is None:
        axes = frame.axes[-2:]
        if any(axis.units != "mrad" for axis in axes):
            raise BadInput(
                f"the {frame.signal} frame is not calibrated (units {', '.join(a.units for a in axes)}, not mrad); "
                "give half_angle_mrad, the angle from the middle of the frame to the middle of its edge."
            )
        half = min(abs(axis.scale) * size / 2 for axis, size in zip(axes, frame.shape[-2:], strict=True))
    tension = settings.high_tension_v or frame.metadata.get("high_tension_v")
    if not isinstance(tension, (int, float)):
        raise BadInput("the frame does not say the high tension; give high_tension_v.")
    return float(half), float(tension)
