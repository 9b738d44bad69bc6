"""What a run does with the phase plate: set it, record its patterns, calibrate it, check that it does what is predicted."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import numpy as np

from ..schema import InstrumentFault, Note, PlanContext, PlanEstimate, SetOptics, StepResult, TakeImage
from .calibrate import Calibration, calibrating, calibration_biases
from .pool import PlateSettings, Pool, counting_error, measured_pool
from .predict import Decoder, nrmse
from .settings import SinglePixelSettings
from .watch import LEAST_ERROR, check_predictor

Steps = Generator[Any, StepResult, Any]
ELECTRON_C = 1.602176634e-19
POOR_ERROR = 0.2
LEAST_PATTERNS = 20


class PlateSteps:
    """The plate's part of a run.

    Parameters
    ----------
    settings : SinglePixelSettings
    context : PlanContext
        With a beam current.
    decoder : Decoder or None
        A plate that is calibrated already.
    """

    def __init__(self, settings: SinglePixelSettings, context: PlanContext, decoder: Decoder | None) -> None:
        self.settings, self.context, self.decoder = settings, context, decoder
        assert context.beam_current_pa
        self.electrons_per_s = context.beam_current_pa * 1e-12 / ELECTRON_C
        self.pixel_nm = 0.0
        self.origin_nm = (0.0, 0.0)
        self.failures = 0
        self.failure = ""
        self.checks = 0
        self.model_error = decoder.error if decoder is not None else 0.0
        self.recorded: Pool | None = None
        self.replayed = False
        """Whether the last result came from the record of an earlier attempt at this run."""

    # -- calibration

    def calibrate_plate(self, estimate: PlanEstimate) -> Steps:
        """Record patterns; fit a decoder to them unless they are to be used as they are."""
        settings = self.settings
        biases = calibration_biases(settings.calibration_patterns, np.random.default_rng([settings.seed, 2]))
        yield from self.note("calibrate", f"Recording {len(biases)} patterns of the phase plate.", estimate=estimate)
        used, patterns = [], []
        for number, volts in enumerate(biases):
            frame = yield from self.image(f"cal-{number:04d}", volts)
            if frame is not None and np.isfinite(frame).all():
                used.append(volts)
                patterns.append(frame)
        if len(patterns) < LEAST_PATTERNS:
            raise InstrumentFault(
                f"Only {len(patterns)} of {len(biases)} calibration patterns could be recorded; look at the pattern camera "
                f"and the plate{f' (the last fault: {self.failure})' if self.failure else ''}."
            )
        electrons = self.electrons_per_s * settings.pattern_exposure_s
        recorded = np.array(patterns) / electrons
        if settings.generator == "measured":
            self.recorded = measured_pool(np.array(used), recorded, settings.pixels)
            self.model_error = counting_error(self.recorded.patterns, electrons)
            yield from self.note(
                "calibrated",
                f"{len(patterns)} patterns are recorded and will be used as they are ({self.model_error:.1%} of counting noise).",
                data={"error": self.model_error, "patterns": len(patterns)},
            )
            return
        quality = yield from self._fitted(np.array(used), recorded, electrons)
        assert self.decoder is not None
        self.model_error = self.decoder.error
        good = self.decoder.error < POOR_ERROR
        yield from self.note(
            "calibrated",
            f"The plate is calibrated with {len(patterns)} patterns: error {self.decoder.error:.1%}, correlation with "
            f"patterns not fitted {quality['pearson']:.3f} (their counting noise included)."
            + ("" if good else " That is poor: measure more patterns."),
            level="info" if good else "warning",
            data=quality,
        )

    def _fitted(self, biases_v: np.ndarray, patterns: np.ndarray, electrons: float) -> Steps:
        """Fit in stages, so that Stop is heard; what was fitted before a stop is taken from the record. Returns the quality."""
        again = 0
        while self.replayed:
            result = yield from self.note(f"fitted-{again}", "The fit was interrupted; it is made again.")
            again += 1
            stored = result.step.data.get("decoder")
            if stored is not None:
                self.decoder = Decoder.from_mapping(stored)
                return {name: value for name, value in result.step.data.items() if name != "decoder"}
        stages = calibrating(biases_v, patterns, electrons)
        number = 0
        while True:
            try:
                done, words = next(stages)
            except StopIteration as end:
                result_: Calibration = end.value
                break
            yield from self.note(
                f"fit-{again}-{number:03d}", f"Fitting the plate, {done:.0%}: {words}.", data={"fitted": done}
            )
            number += 1
        self.decoder = result_.decoder
        quality = {
            "error": result_.decoder.error,
            "pearson": result_.pearson,
            "nrmse": result_.nrmse,
            "misfit": result_.misfit,
            "patterns": result_.patterns,
        }
        yield from self.note(
            f"fitted-{again}", "The fit is done.", data={**quality, "decoder": self.decoder.as_mapping()}
        )
        return quality

    def check(self) -> Steps:
        """Compare fresh patterns with what they should be; True where the decoder had to be changed."""
        settings = self.settings
        name = f"check-{self.checks}"
        rng = np.random.default_rng([settings.seed, 3, self.checks])
        self.checks += 1
        if self.recorded is not None:
            chosen = rng.choice(len(self.recorded), min(settings.check_patterns, len(self.recorded)), replace=False)
            biases = self.recorded.settings.biases_v[chosen]
        else:
            biases = 0.5 * calibration_biases(2 * settings.check_patterns, rng)[-settings.check_patterns :]
        volts, frames, kept = [], [], []
        for number, bias in enumerate(biases):
            counts = yield from self.image(f"{name}-{number}", bias)
            if counts is not None and np.isfinite(counts).all():
                volts.append(bias)
                frames.append(counts)
                kept.append(number)
        if not frames:
            yield from self.note(
                f"{name}-note", "The predictor could not be checked: no usable pattern came.", level="warning"
            )
            return False
        electrons = self.electrons_per_s * settings.pattern_exposure_s
        if self.recorded is not None:
            yield from self._compare(name, chosen[kept], np.array(frames) / electrons, electrons)
            return False
        assert self.decoder is not None
        check = check_predictor(self.decoder, np.array(volts), np.array(frames) / electrons, electrons)
        self.decoder = check.decoder
        self.model_error = max(check.decoder.error, min(check.after, 1.0))
        offset = check.decoder.bias_offset_v
        yield from self.note(
            f"{name}-note",
            check.remark,
            level="warning" if check.changed else "info",
            data={
                "before": check.before,
                "after": check.after,
                "dead": sorted(self.decoder.dead),
                "bias_offset_v": [] if offset is None else [float(v) for v in offset],
            },
        )
        return check.changed

    def _compare(self, name: str, chosen: np.ndarray, frames: np.ndarray, electrons: float) -> Steps:
        """Patterns that were recorded at the start against the same ones now: both have counting noise."""
        assert self.recorded is not None
        now = measured_pool(self.recorded.settings.biases_v[chosen], frames, self.settings.pixels).patterns
        before = self.recorded.patterns[chosen]
        noise = counting_error(before, electrons)
        apart = float(np.sqrt(max(float(np.mean(nrmse(now, before) ** 2)) - 2 * noise**2, 1e-6)))
        changed = apart > max(LEAST_ERROR, noise)
        if changed:
            self.model_error = max(self.model_error, min(apart, 1.0))
        yield from self.note(
            f"{name}-note",
            f"The recorded patterns have changed (by {apart:.0%}): the plate has charged; record them anew."
            if changed
            else f"The patterns are as recorded (within {max(apart, noise):.1%}).",
            level="warning" if changed else "info",
            data={"before": apart, "after": apart, "dead": []},
        )

    # -- single steps

    def image(self, step_id: str, volts: np.ndarray) -> Steps:
        """Counts of the pattern camera for some biases, neither moved nor defocused, or None where it failed."""
        settings = self.settings
        still = PlateSettings(volts[None], np.zeros((1, 2)), np.zeros(1))
        if not (yield from self.set_plate(f"{step_id}-set", still, 0)):
            return None
        result = yield from self.do(
            TakeImage(step_id=step_id, exposure_s=settings.pattern_exposure_s, camera=settings.pattern_camera)
        )
        if not result.ok:
            self.failure = result.reason
            return None
        frame = result.frames[0]
        if not self.pixel_nm and frame.axes[0].units == "nm":
            ratio = frame.shape[0] / settings.pixels
            y, x = frame.axes
            self.pixel_nm = y.scale * ratio
            self.origin_nm = (y.offset - y.scale / 2, x.offset - x.scale / 2)
        return np.asarray(frame.data, dtype=np.float32)

    def set_plate(self, step_id: str, plate: PlateSettings, number: int) -> Steps:
        """Set all needles, the shift and, where it may be used, the defocus; False where that failed."""
        values = {f"needle.{k + 1}": round(float(v), 6) for k, v in enumerate(plate.biases_v[number])}
        y, x = plate.shift_px[number]
        values |= {"pattern_shift.y": round(float(y), 6), "pattern_shift.x": round(float(x), 6)}
        if self.settings.defocus_rad:
            values["pattern_defocus"] = round(float(plate.defocus_rad[number]), 6)
        result = yield from self.do(SetOptics(step_id=step_id, values=values))
        if not result.ok:
            self.failures += 1
            self.failure = result.reason
        return result.ok

    def note(
        self,
        step_id: str,
        text: str,
        *,
        level: str = "info",
        data: Mapping[str, Any] | None = None,
        estimate: PlanEstimate | None = None,
    ) -> Steps:
        """A line for the record."""
        return (
            yield from self.do(
                Note.model_validate(
                    {"step_id": step_id, "text": text, "level": level, "data": dict(data or {}), "estimate": estimate}
                )
            )
        )

    def do(self, step: Any) -> Steps:
        """One step; its result."""
        result: StepResult = yield step
        self.replayed = result.replayed
        return result
