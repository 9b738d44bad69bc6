"""Aligning a target, as a plan: picture, fit, proposal, review, correction, and again until it holds.

Kind ``target-alignment``. No control is moved on a picture that the model does not explain; where none is explained the plan says
that it cannot, and puts every control back.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError

from ...schema import AwaitReview, BadInput, Note, Plan, PlanContext, SetOptics, StepResult, TakeImage, controls_of
from . import target as target_called
from .base import AlignmentTarget, Guess
from .fit import RIVAL_DEVIANCE, Fit, one_thread, refine, search
from .settings import LoopSettings, Outcome, Verdict
from .steering import Steering

__all__ = ["LoopSettings", "Outcome", "align", "build", "controls_of"]

ALIGNED_MERIT = 0.985
TRIES = 3


def build(settings: Mapping[str, Any], context: PlanContext) -> Plan:
    """The plan; `BadInput` at once where the settings cannot be used."""
    try:
        checked = LoopSettings.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"the alignment's setting {place}: {first['msg']}.") from error
    made = target_called(checked.target, **checked.target_settings)
    return align(made, checked, settle_s=context.settle_s)


def align(target: AlignmentTarget, settings: LoopSettings, *, settle_s: float = 0.0) -> Plan:
    """The plan for a target at hand; its value at the end is an `Outcome`."""
    response = None if settings.response is None else np.asarray(settings.response, dtype=float)
    steering = Steering(target, dict(settings.controls), response)
    return _Loop(target, settings, steering, settle_s).steps()


class _Loop:
    def __init__(self, target: AlignmentTarget, settings: LoopSettings, steering: Steering, settle_s: float) -> None:
        self.target = target
        self.settings = settings
        self.steering = steering
        self.settle_s = settle_s
        self.frames = 0
        self.uncounted = 0
        self.sets = 0
        self.lessons = 0
        self.best = (np.inf, steering.values.copy())
        self.start = steering.values.copy()
        self.changed_s = -np.inf
        self.seen_s: float | None = None
        self.ask = settings.ask
        self.rival: Steering | None = None
        self.rival_cost = 0.0

    def steps(self) -> Generator[Any, StepResult, Outcome]:
        fit = yield from self._look()
        if fit is None:
            return (yield from self._cannot())
        if not self.steering.learned.all():
            understood = yield from self._try_controls()
            if not understood:
                return (yield from self._cannot())
        held = lost = 0
        while True:
            if lost == 0 and self._is_worse():
                understood = yield from self._learn_anew()
                if not understood:
                    return (yield from self._cannot())
            aligned = lost == 0 and self._is_aligned()
            held = held + 1 if aligned else 0
            if held > self.settings.hold and not self.ask:
                return (yield from self._end("aligned"))
            if self.frames - self.uncounted >= self.settings.frames + self.settings.hold:
                return (yield from self._end("aligned" if aligned else "out of frames"))
            wanted = self.steering.correction(self.settings.fixed_gain)
            if self.ask:
                action = yield from self._review(wanted, aligned)
                if action == "finish":
                    return (yield from self._end("aligned" if aligned else "ended by a person"))
                if action == "undo":
                    yield from self._set(self.start, "undo")
                    return (yield from self._end("ended by a person"))
                if action == "repropose":
                    wanted = self.steering.values
            if np.any(wanted != self.steering.values):
                self.sets += 1
                yield from self._set(wanted, f"set-{self.sets:03d}")
            fit = yield from self._look()
            lost = lost + 1 if fit is None else 0
            if lost >= 2:
                return (yield from self._cannot())

    def _is_worse(self) -> bool:
        """Whether the target is much farther out than it was at best: then what is believed of the controls is wrong."""
        size = float(np.abs(self.steering.parameters / self.steering.scale).max())
        if size < self.best[0]:
            self.best = (size, self.steering.values.copy())
        return self.settings.refine and size > 1.25 * self.best[0] + 0.15

    def _learn_anew(self) -> Generator[Any, StepResult, bool]:
        """Back to the best place so far, and try every control; False where that was done before and did not help."""
        if self.lessons >= 2:
            return False
        yield Note(
            step_id=f"worse-{self.frames:03d}",
            level="warning",
            text=f"The correction made {self.target.name} worse: its controls do not do what was believed. They go back to where "
            "it was best, and are tried one by one.",
        )
        yield from self._set(self.best[1], f"back-{self.frames:03d}")
        self.steering.forget()
        self.rival = None
        fit = yield from self._look()
        if fit is None:
            return False
        understood = yield from self._try_controls()
        self.best = (float(np.abs(self.steering.parameters / self.steering.scale).max()), self.steering.values.copy())
        return understood

    # -- pictures

    def _look(self) -> Generator[Any, StepResult, Fit | None]:
        """A picture taken wholly after the last change, fitted and taken in; None where it is not explained."""
        counts = None
        for attempt in range(TRIES):
            name = f"picture-{self.frames:03d}" + (f"-again-{attempt}" if attempt else "")
            result = yield TakeImage(step_id=name, exposure_s=self.settings.exposure_s, camera=self.target.camera)
            if not result.ok or not result.frames:
                continue
            frame = result.frames[0]
            began = float(frame.metadata.get("exposure_started_s", result.started_s))  # type: ignore[arg-type]
            if began >= self.changed_s and np.isfinite(np.asarray(frame.data)).all():
                self.seen_s = began
                counts = self.target.counts(frame)
                break
        number, self.frames = self.frames, self.frames + 1
        if counts is None or counts.sum() <= 0:
            yield Note(
                step_id=f"estimate-{number:03d}",
                level="warning",
                text=f"No usable picture of {self.target.name} in {TRIES} exposures: no electrons, or older than the last change.",
            )
            return None
        fit = self._between_rivals(counts) or self._fit(counts, number)
        trusted = fit.trusted or not self.settings.refine
        if trusted:
            first = self.steering.state is None
            self.steering.observe(fit)
            if first and fit.rival_values is not None and fit.rival < RIVAL_DEVIANCE:
                self.rival, self.rival_cost = self.steering.branch(fit.rival_values), fit.rival
        yield self._report(fit, number, trusted)
        return fit if trusted else None

    def _fit(self, counts: np.ndarray, number: int) -> Fit:
        target, predicted, guess = self.target, self.steering.predicted(), self.target.guess(counts)
        if not self.settings.refine:
            assert guess is not None
            return Fit(guess.values, guess.covariance, float(counts.sum()), 0.0, 1.0, 0)
        guesses: list[Guess] = [one for one in (predicted, guess) if one is not None]
        if predicted is None and guess is not None and np.abs(guess.values / target.half_ranges).max() > 1.3:
            guesses.append(Guess(guess.values * 1.5, guess.covariance * 9))
        rng = np.random.default_rng([self.settings.seed, 23, number])
        reach = self.settings.reach if predicted is None else 1.3
        draws, starts = (300, 10) if guesses else (800, 16)
        fit = search(target, counts, guesses, rng, draws=draws, starts=starts, reach=reach)
        if predicted is not None or not fit.trusted:
            return fit
        # the first picture alone may have two readings; from the second on, the known step before it tells
        wide = Guess(fit.values, np.diag((0.5 * target.half_ranges) ** 2))
        return search(target, counts, [wide], rng, draws=40, starts=3, iterations=8, always=True)

    def _between_rivals(self, counts: np.ndarray) -> Fit | None:
        """Where an earlier picture had two readings: which of them the picture after a known step bears out."""
        if self.rival is None:
            return None
        readings = []
        with one_thread():
            for steering, cost in ((self.steering, 0.0), (self.rival, self.rival_cost)):
                fit = refine(self.target, counts, steering.parameters)
                readings.append((cost + fit.deviance + steering.surprise(fit), steering, fit))
        (cost, better, fit), (other_cost, other, _) = sorted(readings, key=lambda one: one[0])
        if better is not self.steering:
            self.best = (
                np.inf,
                better.values.copy(),
            )  # the step was made on the wrong reading; that is not the controls' fault
        self.steering = better
        self.rival_cost = other_cost - cost
        self.rival = other if self.rival_cost < RIVAL_DEVIANCE else None
        return fit if fit.trusted else None

    def _report(self, fit: Fit, number: int, trusted: bool) -> Note:
        names = [one.name for one in self.target.parameters]
        said = ", ".join(
            f"{one.name} {value:.3g} ± {sigma:.2g} {one.units}"
            for one, value, sigma in zip(self.target.parameters, fit.values, fit.sigma, strict=True)
        )
        merit = self.target.merit(fit.values)
        words = f"{said}; merit {merit:.3f}" if trusted else f"not explained by the model ({fit.explained:.0%}); {said}"
        return Note(
            step_id=f"estimate-{number:03d}",
            level="info" if trusted else "warning",
            text=f"{self.target.name}: {words}.",
            data={
                "parameters": dict(zip(names, map(float, fit.values), strict=True)),
                "sigma": dict(zip(names, map(float, fit.sigma), strict=True)),
                "believed": dict(zip(names, map(float, self.steering.parameters), strict=True)),
                "merit": float(merit),
                "explained": fit.explained,
                "electrons": fit.electrons,
                "trusted": trusted,
                "rival_deviance": fit.rival if np.isfinite(fit.rival) else None,
                "ambiguous": self.rival is not None,
                "made_with": self.target.provenance,
            },
        )

    def _is_aligned(self) -> bool:
        return self.target.merit(self.steering.parameters) >= ALIGNED_MERIT

    # -- controls

    def _set(self, values: np.ndarray, name: str) -> Generator[Any, StepResult, bool]:
        """Set the controls; what the instrument refused is not taken for done."""
        wanted = dict(zip(self.target.controls, map(float, values), strict=True))
        result = yield SetOptics(step_id=name, values=wanted)
        if not result.ok:
            yield Note(step_id=f"{name}-refused", level="warning", text=f"The controls were not set: {result.reason}")
            return False
        self.changed_s = result.finished_s
        since = 1.0 if self.seen_s is None else max(result.finished_s - self.seen_s, 0.0)
        self.steering.moved(values, since)
        if self.rival is not None:
            self.rival.moved(values, since)
        return True

    def _try_controls(self) -> Generator[Any, StepResult, bool]:
        """Move each control alone by a little, more where nothing is seen, less where too much is."""
        self.lessons += 1
        before_all = self.frames
        for k, name in enumerate(self.target.controls):
            size = 0.3
            for attempt in range(4):
                before = self.steering.parameters / self.steering.scale
                values = self.steering.values.copy()
                limit = self.steering.limits[k]
                step = size * self.steering.unit[k] * (1 if values[k] + self.steering.unit[k] <= limit.maximum else -1)
                values[k] += float(np.clip(step, -limit.largest_step, limit.largest_step))
                self.steering.learned[k] = False
                yield from self._set(values, f"try-{self.lessons}-{k}-{attempt}")
                fit = yield from self._look()
                if fit is None:
                    size *= 0.25
                    continue
                change = np.abs(fit.values / self.steering.scale - before).max()
                if change > 0.12:  # much more than drift and the model's own errors
                    break
                size *= 3.0 if change < 0.04 else 1.5
            if not self.steering.learned[k]:
                yield Note(
                    step_id=f"try-{self.lessons}-{k}-failed",
                    level="warning",
                    text=f"{name} could not be understood from its pictures.",
                )
                return False
        self.uncounted += self.frames - before_all
        yield Note(
            step_id="response" if self.lessons == 1 else f"response-{self.lessons}",
            text=f"The controls of {self.target.name} are understood.",
            data={"controls": list(self.target.controls), "response": self.steering.learned_response().tolist()},
        )
        return True

    def _review(self, wanted: np.ndarray, aligned: bool) -> Generator[Any, StepResult, str]:
        changes = ", ".join(
            f"{name} {now:.4g} -> {then:.4g}"
            for name, now, then in zip(self.target.controls, self.steering.values, wanted, strict=True)
            if now != then
        )
        prompt = f"{self.target.name}: " + (f"set {changes}?" if changes else "nothing to correct.")
        if aligned:
            prompt += " It is aligned."
        result = yield AwaitReview(step_id=f"review-{self.frames:03d}", targets=(), prompt=prompt)
        outcome = result.review
        if outcome is None:
            return "finish"
        if outcome.settings.get("auto"):
            self.ask = False
        if outcome.settings.get("undo"):
            return "undo"
        return str(outcome.action)

    # -- ends

    def _cannot(self) -> Generator[Any, StepResult, Outcome]:
        if np.any(self.steering.values != self.start):
            yield from self._set(self.start, "restore")
        yield Note(
            step_id="cannot",
            level="warning",
            text=f"{self.target.name} cannot be aligned from here: its pictures are not explained by the model, it is too far "
            "out or something else is wrong. Every control is back where it was; bring it closer by hand and try again.",
        )
        return self._outcome("cannot")

    def _end(self, verdict: Verdict) -> Generator[Any, StepResult, Outcome]:
        outcome = self._outcome(verdict)
        yield Note(
            step_id="end",
            text=f"{self.target.name}: {verdict} after {self.frames} pictures, merit {outcome.merit:.3f}.",
            data=outcome.model_dump(),
        )
        return outcome

    def _outcome(self, verdict: Verdict) -> Outcome:
        names = [one.name for one in self.target.parameters]
        return Outcome(
            verdict=verdict,
            frames=self.frames,
            parameters=dict(zip(names, map(float, self.steering.parameters), strict=True)),
            sigma=dict(zip(names, map(float, self.steering.sigma), strict=True)),
            merit=float(self.target.merit(self.steering.parameters)),
            response=self.steering.learned_response().tolist(),
        )
