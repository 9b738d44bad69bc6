"""A single-pixel run as a plan: calibrate the plate, then choose, measure and reconstruct, batch after batch.

Every pattern is two steps: the biases are set, the bucket is read. After each batch a note holds the picture and its uncertainty,
so that whoever watches (a dock, a replay) need compute nothing. All that is left to chance comes from the settings' seed and all
else from the results that are sent in: a run that was killed is rebuilt from its journal, posterior included.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import (
    AwaitReview,
    BadInput,
    InstrumentFault,
    Note,
    Plan,
    PlanContext,
    SetOptics,
    StepResult,
    TakeImage,
    Target,
    exposure_dose_e_per_a2,
)
from .adaptive import Choice, by_chance, most_contrast, most_informative, naive_divergence, stop_reason
from .calibrate import calibrate, calibration_biases
from .pool import Pool, predict_pool, settings_of_pool
from .posterior import Posterior
from .predict import Decoder
from .settings import SinglePixelSettings, parse
from .watch import bucket_signal, check_predictor

Steps = Generator[Any, StepResult, Any]
ELECTRON_C = 1.602176634e-19
LARGEST_FAILURES = 10


def build(settings: Mapping[str, Any], context: PlanContext) -> Plan:
    """The single-pixel plan for an instrument.

    Parameters
    ----------
    settings : mapping
        As `SinglePixelSettings`.
    context : PlanContext

    Raises
    ------
    BadInput
        At once, where the settings cannot be used, or the beam current is not known (signals are fractions of the beam).
    """
    checked = parse(settings)
    if not context.beam_current_pa:
        raise BadInput(
            "Single-pixel imaging needs the beam current; give the instrument its beam current and start again."
        )
    decoder = Decoder.load(Path(checked.calibration_file)) if checked.calibration_file else None
    return _Run(checked, context, decoder).steps()


class _Run:
    """State of one run."""

    def __init__(self, settings: SinglePixelSettings, context: PlanContext, decoder: Decoder | None) -> None:
        self.settings, self.context, self.decoder = settings, context, decoder
        assert context.beam_current_pa
        self.electrons_per_s = context.beam_current_pa * 1e-12 / ELECTRON_C
        self.exposure_s = settings.exposure_s
        self.posterior = Posterior(settings.pixels, self.electrons_per_s * self.exposure_s)
        self.pixel_nm = 0.0
        self.origin_nm = (0.0, 0.0)
        self.dose = np.zeros(settings.pixels**2)
        self.spent = 0.0
        self.measured = 0
        self.failures = 0
        self.checks = 0
        self.predicted_before = np.zeros(0)

    def steps(self) -> Plan:
        """All of it."""
        settings = self.settings
        if self.decoder is None:
            yield from self._calibrate()
        assert self.decoder is not None
        yield from self._check()
        rng = np.random.default_rng([settings.seed, 1])
        biases, shift = settings_of_pool(settings.pool, self.decoder, rng)
        pool = predict_pool(self.decoder, biases, shift, settings.pixels)
        taken = np.zeros(len(pool), dtype=bool)
        number, reason = 0, ""
        while self.measured < settings.patterns and not reason:
            if taken.all():
                reason = "no pattern is left in the pool"
                break
            choice = self._choose(pool, taken, rng, number)
            reason = stop_reason(
                choice,
                least_gain_nats=settings.least_gain_nats,
                dose_e_per_a2=self.spent,
                next_dose_e_per_a2=len(choice.index) * self._dose_of(self.exposure_s),
                budget_e_per_a2=settings.dose_budget_e_per_a2,
            )
            if reason:
                break
            taken[choice.index] = True
            index = yield from self._vetted(choice.index, pool, number)
            yield from self._measure(index, pool, number)
            yield from self._settle(choice, number)
            if self.failures >= LARGEST_FAILURES:
                reason = f"{self.failures} patterns failed one after the other"
                break
            number += 1
            if settings.check_every and number % settings.check_every == 0 and self.measured < settings.patterns:
                changed = yield from self._check()
                if changed:
                    pool = predict_pool(self.decoder, biases, shift, settings.pixels)
        reason = reason or f"{self.measured} patterns are measured"
        yield from self._note("end", f"Done: {reason}.", data={"patterns": self.measured, "reason": reason})

    # -- the plate

    def _calibrate(self) -> Steps:
        settings = self.settings
        biases = calibration_biases(settings.calibration_patterns, np.random.default_rng([settings.seed, 2]))
        yield from self._note("calibrate", f"Calibrating the phase plate with {len(biases)} patterns.")
        used, patterns = [], []
        for number, volts in enumerate(biases):
            frame = yield from self._image(f"cal-{number:04d}", volts, np.zeros(2))
            if frame is not None:
                used.append(volts)
                patterns.append(frame)
        if len(patterns) < 20:
            raise InstrumentFault(f"Only {len(patterns)} of {len(biases)} calibration patterns could be recorded.")
        electrons = self.electrons_per_s * settings.pattern_exposure_s
        result = calibrate(np.array(used), np.array(patterns) / electrons, electrons)
        self.decoder = result.decoder
        good = result.decoder.error < 0.2
        yield from self._note(
            "calibrated",
            f"The plate is calibrated with {len(patterns)} patterns: error {result.decoder.error:.1%}, correlation with "
            f"patterns not fitted {result.pearson:.3f} (their counting noise included)."
            + ("" if good else " That is poor: measure more patterns."),
            level="info" if good else "warning",
            data={
                "error": result.decoder.error,
                "pearson": result.pearson,
                "nrmse": result.nrmse,
                "misfit": result.misfit,
            },
        )

    def _image(self, step_id: str, volts: np.ndarray, shift: np.ndarray) -> Steps:
        """Counts of the pattern camera for some biases, or None where it failed."""
        settings = self.settings
        if not (yield from self._set(f"{step_id}-set", volts, shift)):
            return None
        result = yield from self._do(
            TakeImage(step_id=step_id, exposure_s=settings.pattern_exposure_s, camera=settings.pattern_camera)
        )
        if not result.ok:
            return None
        frame = result.frames[0]
        if not self.pixel_nm and frame.axes[0].units == "nm":
            ratio = frame.shape[0] / settings.pixels
            y, x = frame.axes
            self.pixel_nm = y.scale * ratio
            self.origin_nm = (y.offset - y.scale / 2, x.offset - x.scale / 2)
        return np.asarray(frame.data, dtype=np.float32)

    def _check(self) -> Steps:
        """Compare fresh patterns with the decoder; True where it had to be changed."""
        settings = self.settings
        assert self.decoder is not None
        name = f"check-{self.checks}"
        rng = np.random.default_rng([settings.seed, 3, self.checks])
        self.checks += 1
        volts, frames = [], []
        for number, bias in enumerate(
            0.5 * calibration_biases(2 * settings.check_patterns, rng)[-settings.check_patterns :]
        ):
            counts = yield from self._image(f"{name}-{number}", bias, np.zeros(2))
            if counts is not None:
                volts.append(bias)
                frames.append(counts)
        if not frames:
            yield from self._note(
                f"{name}-note", "The predictor could not be checked: no pattern came.", level="warning"
            )
            return False
        electrons = self.electrons_per_s * settings.pattern_exposure_s
        check = check_predictor(self.decoder, np.array(volts), np.array(frames) / electrons, electrons)
        self.decoder = check.decoder
        self.posterior.model_error = max(check.decoder.error, min(check.after, 1.0))
        yield from self._note(
            f"{name}-note",
            check.remark,
            level="warning" if check.changed else "info",
            data={"before": check.before, "after": check.after, "dead": sorted(self.decoder.dead)},
        )
        return check.changed

    # -- one batch

    def _choose(self, pool: Pool, taken: np.ndarray, rng: np.random.Generator, number: int) -> Choice:
        settings = self.settings
        count = min(settings.batch, settings.patterns - self.measured)
        if settings.rule == "random" or (number == 0 and settings.rule != "contrast"):
            return by_chance(pool.patterns, count, rng, taken=taken)
        if settings.rule == "contrast":
            return most_contrast(pool.patterns, count, rng, taken=taken)
        if settings.rule == "divergence":
            return naive_divergence(
                self.posterior, pool.patterns, count, rng, predicted_before=self.predicted_before, taken=taken
            )
        return most_informative(
            self.posterior, pool.patterns, count, rng, exploration=settings.exploration, taken=taken
        )

    def _vetted(self, index: np.ndarray, pool: Pool, number: int) -> Steps:
        """The patterns a person lets through where one would burn a pixel beyond the limit; all of them otherwise."""
        limit = self.settings.pixel_dose_limit_e_per_a2
        if limit is None or not self.pixel_nm:
            return index
        per_pattern = self._pixel_dose(pool.patterns[index])
        peak = (self.dose + per_pattern).max(axis=1)
        above = np.flatnonzero(peak > limit)
        if not len(above):
            return index
        targets = []
        for k in above:
            row, column = divmod(int((self.dose + per_pattern[k]).argmax()), self.settings.pixels)
            targets.append(
                Target(
                    target_id=f"p{number}-{int(index[k])}",
                    y_nm=self.origin_nm[0] + (row + 0.5) * self.pixel_nm,
                    x_nm=self.origin_nm[1] + (column + 0.5) * self.pixel_nm,
                    score=float(min(1.0, limit / peak[k])),
                    label="pattern above the dose limit",
                    reason=f"brings a pixel to {peak[k]:.3g} e/Å², the limit is {limit:g}",
                )
            )
        result = yield from self._do(
            AwaitReview(
                step_id=f"dose-{number}",
                targets=tuple(targets),
                prompt=f"{len(targets)} patterns bring a pixel above {limit:g} e/Å²: approve or reject them.",
            )
        )
        approved = set() if result.review is None else {t.target_id for t in result.review.approved}
        refused = {int(index[k]) for k, t in zip(above, targets, strict=True) if t.target_id not in approved}
        return np.array([k for k in index if int(k) not in refused], dtype=int)

    def _measure(self, index: np.ndarray, pool: Pool, number: int) -> Steps:
        for k in index:
            step_id = f"b{number:04d}-{int(k)}"
            pattern = pool.patterns[k]
            if not (yield from self._set(f"{step_id}-set", pool.biases_v[k], pool.shift_px[k])):
                continue
            result = yield from self._do(
                TakeImage(step_id=step_id, exposure_s=self.exposure_s, camera=self.settings.bucket)
            )
            if not result.ok:
                self.failures += 1
                continue
            self.spent += self._dose_of(self.exposure_s)
            self.dose += self._pixel_dose(pattern)
            self.measured += 1
            signal, wrong = bucket_signal(result.frames[0], self.electrons_per_s * self.exposure_s)
            if wrong:
                self.failures += 1
                shorter = "saturates" in wrong
                if shorter:
                    self.exposure_s /= 2
                    self.posterior.electrons = self.electrons_per_s * self.exposure_s
                text = f"Pattern {step_id} is left out: {wrong}"
                text += f"; the exposure is now {self.exposure_s:.3g} s." if shorter else "."
                yield from self._note(f"{step_id}-note", text, level="warning")
                continue
            self.failures = 0
            self.predicted_before = np.append(self.predicted_before, self.posterior.predicted(pattern[None]))
            self.posterior.add(pattern[None], np.array([signal]))

    def _settle(self, choice: Choice, number: int) -> Steps:
        posterior = self.posterior
        if not posterior.count:
            return
        if number + 1 in (2, 4, 8) or (number + 1) % 16 == 0:
            posterior.retune()
        posterior.settle()
        gain = choice.gain_nats[np.isfinite(choice.gain_nats)]
        remark = posterior.remark()
        yield from self._note(
            f"picture-{number:04d}",
            f"{posterior.count} patterns, {self.spent:.3g} e/Å². {remark}".strip(),
            level="warning" if remark else "info",
            data={
                "picture": np.round(posterior.picture, 4).tolist(),
                "uncertainty": np.round(posterior.uncertainty(), 4).tolist(),
                "dose_e_per_a2": np.round(self.dose.reshape(posterior.picture.shape), 3).tolist(),
                "patterns": posterior.count,
                "spent_e_per_a2": self.spent,
                "gain_nats": float(gain.mean()) if len(gain) else None,
                "strength": posterior.strength,
                "inflation": posterior.inflation,
                "pixel_nm": self.pixel_nm,
                "origin_nm": list(self.origin_nm),
            },
        )

    # -- one step

    def _set(self, step_id: str, volts: np.ndarray, shift: np.ndarray) -> Steps:
        values = {f"needle.{k + 1}": round(float(v), 6) for k, v in enumerate(volts)}
        values |= {"pattern_shift.y": round(float(shift[0]), 6), "pattern_shift.x": round(float(shift[1]), 6)}
        result = yield from self._do(SetOptics(step_id=step_id, values=values))
        if not result.ok:
            self.failures += 1
        return result.ok

    def _pixel_dose(self, patterns: np.ndarray) -> np.ndarray:
        """Dose of one exposure of patterns in e/Å² by pixel; 0 where the size of a pixel is not known."""
        area = (self.pixel_nm * 10.0) ** 2
        return np.asarray(patterns * (self.electrons_per_s * self.exposure_s / area) if area else patterns * 0.0)

    def _dose_of(self, exposure_s: float) -> float:
        return exposure_dose_e_per_a2(self.context.beam_current_pa, exposure_s, self.context.field.area_nm2)

    def _note(self, step_id: str, text: str, *, level: str = "info", data: Mapping[str, Any] | None = None) -> Steps:
        return (
            yield from self._do(
                Note.model_validate({"step_id": step_id, "text": text, "level": level, "data": dict(data or {})})
            )
        )

    def _do(self, step: Any) -> Steps:
        result: StepResult = yield step
        return result
