"""A single-pixel run as a plan: calibrate the plate, then choose, measure and reconstruct, batch after batch.

Every pattern is two steps: the biases are set, the bucket is read. After each batch a note holds the picture and its uncertainty,
so that whoever watches (a dock, a replay) need compute nothing. All that is left to chance comes from the settings' seed and all
else from the results that are sent in: a run that was killed is rebuilt from its journal, posterior included.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import AwaitReview, BadInput, Plan, PlanContext, PlanEstimate, TakeImage, Target, exposure_dose_e_per_a2
from . import live
from .adaptive import Choice, by_chance, most_contrast, most_informative, naive_divergence, stop_reason
from .charging import ChargingWatch, bias_slopes, remark_on
from .compare import expected_error
from .fading import as_seen
from .plate_steps import PlateSteps, Steps
from .pool import Pool, predict_pool, settings_of_pool, sharpest, spot_raster
from .posterior import FEW, LARGEST_MISFIT, Posterior, retune_is_due
from .predict import Decoder
from .settings import SinglePixelSettings, parse
from .watch import bucket_signal

LARGEST_FAILURES = 10
NEGLIGIBLE = 0.25
"""Share of the dose limit that all patterns of a run together may add to a pixel that a person let go above it."""
BATCHES_BETWEEN_CHECKS = 4
"""At least, where signals that scatter too much ask for a check."""


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
    afresh = checked.calibrate_only or checked.generator == "measured"
    stored = None if afresh else checked.calibration_file
    decoder = Decoder.load(Path(stored)) if stored else None
    return _Run(checked, context, decoder).steps()


class _Run(PlateSteps):
    """State of one run."""

    def __init__(self, settings: SinglePixelSettings, context: PlanContext, decoder: Decoder | None) -> None:
        super().__init__(settings, context, decoder)
        self.exposure_s = settings.exposure_s
        self.posterior = Posterior(
            settings.pixels, self.electrons_per_s * self.exposure_s, read_noise_e=settings.bucket_noise_e
        )
        self.dose = np.zeros(settings.pixels**2)
        self.spent = 0.0
        self.electrons = 0.0
        self.measured = 0
        self.wanted = settings.patterns
        self.checked_at = 0
        self.suspicious = False
        self.predicted_before = np.zeros(0)
        self.charging = ChargingWatch()
        self.excess: float | None = None

    def steps(self) -> Plan:
        """All of it."""
        settings = self.settings
        if self.decoder is None:
            yield from self.calibrate_plate(self._estimate(calibrating=True))
        if settings.calibrate_only:
            yield from self.note("end", "Done: the plate is calibrated.", data={"patterns": 0, "reason": "calibrated"})
            return
        yield from self._checked()
        yield from self.note(
            "begin", f"Up to {self.wanted} patterns follow.", estimate=self._estimate(calibrating=False)
        )
        rng = np.random.default_rng([settings.seed, 1])
        pool = yield from self._pool(rng)
        taken = np.zeros(len(pool), dtype=bool)
        number, reason, level = 0, "", "info"
        while self.measured < self.wanted and not reason:
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
                reason = f"{self.failures} patterns failed one after the other (the last: {self.failure})"
                level = "warning"
                break
            number += 1
            if self._check_is_due(number):
                self.checked_at = number
                if (yield from self._checked()):
                    assert self.decoder is not None
                    pool = predict_pool(self.decoder, pool.settings, settings.pixels)
                left = self._estimate(calibrating=False, batches=number)
                yield from self.note(f"ahead-{number}", f"{self.wanted - self.measured} patterns to go.", estimate=left)
        reason = reason or f"{self.measured} patterns are measured"
        done = {"patterns": self.measured, "reason": reason}
        yield from self.note("end", f"Done: {reason.rstrip('.')}.", level=level, data=done)

    def _estimate(self, *, calibrating: bool, batches: int = 0) -> PlanEstimate:
        """What follows after so many batches; setting and exposing are a step each, a vetoed or failed pattern is not foreseen."""
        settings = self.settings
        ahead = 0 if calibrating and settings.calibrate_only else self.wanted - self.measured
        last = batches - (-ahead // settings.batch)  # after the last batch nothing is checked
        checks = settings.check_every and max(0, (last - 1) // settings.check_every - batches // settings.check_every)
        images = settings.calibration_patterns if calibrating else 0
        images += (checks + int(calibrating and ahead > 0)) * settings.check_patterns
        settle = self.context.settle_s
        return PlanEstimate(
            steps=2 * (images + ahead),
            duration_s=images * (settle + settings.pattern_exposure_s) + ahead * (settle + self.exposure_s),
            dose_e_per_a2=ahead * self._dose_of(self.exposure_s),
        )

    def _pool(self, rng: np.random.Generator) -> Steps:
        """What can be chosen from. A raster gets the electrons of the patterns it is to be compared with."""
        settings = self.settings
        if self.recorded is not None:
            return self.recorded
        assert self.decoder is not None
        biases, defocus = sharpest(self.decoder, defocus_rad=settings.defocus_rad)
        # written down, and read again on a resume: a search may end elsewhere with other libraries
        told = yield from self.note(
            "spot",
            "The plate's smallest spot is found.",
            data={"biases_v": [float(v) for v in biases], "defocus_rad": defocus},
        )
        found: Mapping[str, Any] = told.step.data if self.replayed else {"biases_v": biases, "defocus_rad": defocus}
        spot = np.array(found["biases_v"], dtype=float), float(found["defocus_rad"])
        if settings.generator == "spot":
            pool = spot_raster(self.decoder, settings.patterns, settings.pixels, spot=spot)
            self.exposure_s *= settings.patterns / len(pool)
            self.posterior.electrons = self.electrons_per_s * self.exposure_s
            self.wanted = len(pool)
            return pool
        drawn = settings_of_pool(settings.pool, self.decoder, rng, spot=spot, defocus_rad=settings.defocus_rad)
        return predict_pool(self.decoder, drawn, settings.pixels)

    def _checked(self) -> Steps:
        changed = yield from self.check()
        self.posterior.model_error = self.model_error
        self.charging.forget()
        self.excess = None
        return changed

    def _check_is_due(self, number: int) -> bool:
        every = self.settings.check_every
        if not every or self.measured >= self.wanted:
            return False
        return number % every == 0 or (self.suspicious and number - self.checked_at >= BATCHES_BETWEEN_CHECKS)

    # -- one batch

    def _choose(self, pool: Pool, taken: np.ndarray, rng: np.random.Generator, number: int) -> Choice:
        settings = self.settings
        count = min(settings.batch, self.wanted - self.measured)
        if settings.generator == "spot":
            index = np.flatnonzero(~taken)[:count]
            return Choice(index, np.full(len(index), np.nan))
        if settings.rule == "random" or (number == 0 and settings.rule != "contrast"):
            return by_chance(pool.patterns, count, rng, taken=taken)
        if settings.rule == "contrast":
            return most_contrast(pool.patterns, count, rng, taken=taken)
        if settings.rule == "divergence":
            return naive_divergence(
                self.posterior, pool.patterns, count, rng, predicted_before=self.predicted_before, taken=taken
            )
        acting, background = as_seen(pool.patterns, self.dose, self._critical)
        return most_informative(
            self.posterior, acting, count, rng, exploration=settings.exploration, taken=taken, background=background
        )

    def _vetted(self, index: np.ndarray, pool: Pool, number: int) -> Steps:
        """The patterns a person lets through where one would burn a pixel beyond the limit; all of them otherwise."""
        limit = self.settings.pixel_dose_limit_e_per_a2
        if limit is None or not self.pixel_nm:
            return index
        per_pattern = self._pixel_dose(pool.patterns[index])
        after = self.dose + np.cumsum(per_pattern, axis=0)  # as if all of the batch were let through
        # where a person let a pixel go above the limit before, what hardly adds to it need not be asked for again
        adds = (after - per_pattern <= limit) | (per_pattern > NEGLIGIBLE * limit / self.wanted)
        over = np.where((after > limit) & adds, after, 0.0)
        peak = over.max(axis=1)
        above = np.flatnonzero(peak > 0)
        if not len(above):
            return index
        targets = []
        for k in above:
            row, column = divmod(int(over[k].argmax()), self.settings.pixels)
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
        step = AwaitReview(
            step_id=f"dose-{number}",
            targets=tuple(targets),
            prompt=f"{len(targets)} patterns bring a pixel above {limit:g} e/Å²: approve or reject them.",
        )
        if live.watched():
            shape = self.posterior.picture.shape
            ids = [t.target_id for t in targets]
            shown = {i: pool.patterns[index[k]].reshape(shape) for i, k in zip(ids, above, strict=True)}
            doses = {i: per_pattern[k].reshape(shape) for i, k in zip(ids, above, strict=True)}
            live.tell(live.Vetting(step, shown, doses))
        result = yield from self.do(step)
        approved = set() if result.review is None else {t.target_id for t in result.review.approved}
        refused = {int(index[k]) for k, t in zip(above, targets, strict=True) if t.target_id not in approved}
        return np.array([k for k in index if int(k) not in refused], dtype=int)

    def _measure(self, index: np.ndarray, pool: Pool, number: int) -> Steps:
        slopes = self._slopes(index, pool)
        for place, k in enumerate(index):
            step_id = f"b{number:04d}-{int(k)}"
            pattern = pool.patterns[k]
            if not (yield from self.set_plate(f"{step_id}-set", pool.settings, int(k))):
                continue
            result = yield from self.do(
                TakeImage(step_id=step_id, exposure_s=self.exposure_s, camera=self.settings.bucket)
            )
            # a value that could not be used was exposed all the same, as far as anybody knows
            self.spent += self._dose_of(self.exposure_s)
            self.electrons += self.electrons_per_s * self.exposure_s
            each = self._pixel_dose(pattern)
            # on the way through the exposure half of it has arrived
            halfway = self.dose + each / 2
            acting, background = as_seen(pattern[None], halfway, self._critical)
            self.dose += each
            if not result.ok:
                self.failures += 1
                self.failure = result.reason
                continue
            self.measured += 1
            signal, wrong = bucket_signal(result.frames[0], self.electrons_per_s * self.exposure_s)
            if wrong:
                self.failures += 1
                self.failure = wrong
                shorter = "saturates" in wrong
                if shorter:
                    self.exposure_s /= 2
                    self.posterior.electrons = self.electrons_per_s * self.exposure_s
                text = f"Pattern {step_id} is left out: {wrong}"
                text += f"; the exposure is now {self.exposure_s:.3g} s." if shorter else "."
                yield from self.note(f"{step_id}-note", text, level="warning")
                continue
            self.failures = 0
            expected = self.posterior.predicted(acting) + background
            self.predicted_before = np.append(self.predicted_before, expected)
            if live.watched() and not self.replayed:
                shape = self.posterior.picture.shape
                picture = self.posterior.glimpse(acting[0], signal, float(background[0]))
                live.tell(
                    live.Seen(
                        result.step, pattern.reshape(shape), picture, self.dose.reshape(shape).copy(), signal,
                        float(expected[0]), self.posterior.count + 1,
                    )
                )  # fmt: skip
            self.posterior.add(acting, np.array([signal]), background)
            if slopes is not None:
                self.charging.add(slopes[place], halfway, self._critical)

    def _slopes(self, index: np.ndarray, pool: Pool) -> np.ndarray | None:
        """How these patterns change with the needles' biases; None where they were recorded and nothing predicts them."""
        if self.recorded is not None or not len(index):
            return None
        assert self.decoder is not None
        return bias_slopes(self.decoder, pool.settings.part(index), pool.patterns[index], self.settings.pixels)

    def _settle(self, choice: Choice, number: int) -> Steps:
        posterior = self.posterior
        if not posterior.count:
            return
        if retune_is_due(number + 1, posterior.pixels):
            posterior.retune()
        posterior.settle()
        gain = choice.gain_nats[np.isfinite(choice.gain_nats)]
        scatter = posterior.scatter()
        if (
            scatter is not None and scatter > LARGEST_MISFIT
        ):  # the prior may be what does not fit: before the patterns are blamed
            posterior.question()
            scatter = posterior.scatter()
        if posterior.pixels <= 32 or number % BATCHES_BETWEEN_CHECKS == 0:  # a large picture takes tenths of a second
            self.excess = self.charging.excess(posterior)
        # where checks are made, one tells whether the plate has charged; a suspicion alone is said where nothing is checked
        suspicion = remark_on(self.excess, chosen=self.settings.rule in ("information", "divergence"))
        remark = posterior.remark(scatter) if scatter is not None else ""
        self.suspicious = bool(remark or suspicion)
        remark = remark or ("" if self.settings.check_every else suspicion)
        uncertainty = posterior.uncertainty()
        yield from self.note(
            f"picture-{number:04d}",
            f"{posterior.count} patterns, {self.spent:.3g} e/Å². {remark}".strip(),
            level="warning" if remark else "info",
            data={
                "picture": np.round(posterior.picture, 4).tolist(),
                "uncertainty": np.round(uncertainty, 4).tolist(),
                "dose_e_per_a2": np.round(self.dose.reshape(posterior.picture.shape), 3).tolist(),
                "patterns": posterior.count,
                "spent_e_per_a2": self.spent,
                "electrons": self.electrons,
                "expected_error": expected_error(posterior.picture, uncertainty) if posterior.count >= FEW else None,
                "misfit": scatter,
                "charging": self.excess,
                "gain_nats": float(gain.mean()) if len(gain) else None,
                "strength": posterior.strength,
                "inflation": posterior.inflation,
                "doubt": posterior.doubt,
                "pixel_nm": self.pixel_nm,
                "origin_nm": list(self.origin_nm),
            },
        )

    # -- dose

    @property
    def _critical(self) -> float | None:
        """Critical dose; None where it is not known, or the size of a pixel is not."""
        return self.settings.critical_dose_e_per_a2 if self.pixel_nm else None

    def _pixel_dose(self, patterns: np.ndarray) -> np.ndarray:
        """Dose of one exposure of patterns in e/Å² by pixel; 0 where the size of a pixel is not known."""
        area = (self.pixel_nm * 10.0) ** 2
        return np.asarray(patterns * (self.electrons_per_s * self.exposure_s / area) if area else patterns * 0.0)

    def _dose_of(self, exposure_s: float) -> float:
        return exposure_dose_e_per_a2(self.context.beam_current_pa, exposure_s, self.context.field.area_nm2)
