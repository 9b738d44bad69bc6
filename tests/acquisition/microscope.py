"""A microscope in a hundred lines: known scene, steady drift, a clock, faults on demand. Carries out plans without an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from napari_smarttem.schema import (
    Acquire,
    AwaitReview,
    Field2D,
    PlanContext,
    ReviewOutcome,
    Scan,
    StepResult,
    estimate_dose,
    estimate_duration,
    image_frame,
    spectrum_frame,
)

DISCS = ((30.0, 30.0, 12.0), (80.0, 90.0, 18.0), (100.0, 30.0, 9.0), (30.0, 100.0, 7.0))
SIDE_NM = 128.0


def scene(y_nm: np.ndarray, x_nm: np.ndarray) -> np.ndarray:
    """Bright discs with soft rims on a dark film."""
    image = np.full(np.broadcast(y_nm, x_nm).shape, 20.0)
    for y, x, radius in DISCS:
        image = image + 60.0 / (1.0 + np.exp((np.hypot(y_nm - y, x_nm - x) - radius) / 0.7))
    return image


def rim_distance(y_nm: float, x_nm: float) -> float:
    """Distance to the nearest rim of a disc."""
    return min(abs(np.hypot(y_nm - y, x_nm - x) - radius) for y, x, radius in DISCS)


def scene_frame(rng: np.random.Generator | None = None, pixels: int = 128) -> Any:
    """The scene as an overview."""
    pixel = SIDE_NM / pixels
    centre = (np.arange(pixels) + 0.5) * pixel
    image = scene(centre[:, None], centre[None, :])
    if rng is not None:
        image = rng.poisson(image).astype(float)
    return image_frame(image, pixel_nm=pixel, signal="HAADF", origin_nm=(pixel / 2, pixel / 2))


def context(**changes: Any) -> PlanContext:
    """Of the microscope below."""
    fields: dict[str, Any] = {
        "field": Field2D(y_nm=0.0, x_nm=0.0, height_nm=SIDE_NM, width_nm=SIDE_NM),
        "signals": ("HAADF", "BF"),
        "beam_current_pa": 50.0,
        "settle_s": 1e-3,
        "flyback_s": 5e-5,
        "spectrum_readout_s": 2e-3,
    }
    return PlanContext(**(fields | changes))


def approve_all(step: AwaitReview) -> ReviewOutcome:
    """What a policy would say."""
    return ReviewOutcome(approved=step.targets)


class FakeMicroscope:
    """Carries out the steps of a plan.

    ``fails(step)`` returns a reason, or nothing; ``review(step)`` the outcome of a review. ``drifted_s`` is for how long the
    specimen has drifted when the clock shows zero.
    """

    def __init__(
        self,
        *,
        drift_nm_per_s: tuple[float, float] = (0.0, 0.0),
        seed: int = 0,
        drifted_s: float = 0.0,
        review: Callable[[AwaitReview], ReviewOutcome] = approve_all,
        fails: Callable[[Any], str] = lambda step: "",
        **changes: Any,
    ) -> None:
        self.context = context(**changes)
        self.drift = np.array(drift_nm_per_s)
        self.drifted_s = drifted_s
        self.rng = np.random.default_rng(seed)
        self.review = review
        self.fails = fails
        self.now_s = 0.0
        self.results: list[StepResult] = []

    def run(self, plan: Any, replay: list[StepResult] = ()) -> list[StepResult]:
        """Carry out a plan, the first steps from what is known already."""
        known = {result.step.step_id: result for result in replay}
        self.results = []
        result = None
        while True:
            try:
                step = plan.send(result)
            except StopIteration:
                return self.results
            result = known.get(step.step_id)
            if result is not None:
                assert result.step == step
                result = result.model_copy(update={"replayed": True})
            else:
                result = self.execute(step)
            self.results.append(result)
            assert len(self.results) < 5000

    def execute(self, step: Any) -> StepResult:
        """One step."""
        started = self.now_s
        reason = self.fails(step)
        if reason:
            status = "skipped" if reason.startswith("veto") else "failed"
            return StepResult(step=step, status=status, reason=reason, started_s=started, finished_s=started)
        self.now_s += estimate_duration(step, self.context)
        frames: tuple[Any, ...] = ()
        review = None
        if isinstance(step, Scan):
            frames = (self._image(step, started),)
        elif isinstance(step, Acquire):
            frames = (spectrum_frame(np.ones(8), dispersion_ev=1.0, offset_ev=100.0, signal="EELS"),)
        elif isinstance(step, AwaitReview):
            review = self.review(step)
        return StepResult(
            step=step,
            frames=frames,
            started_s=started,
            finished_s=self.now_s,
            dose_e_per_a2=estimate_dose(step, self.context),
            review=review,
        )

    def _image(self, step: Scan, started: float) -> Any:
        field = step.field or self.context.field
        rows, columns = step.shape
        pixel = (field.height_nm / rows, field.width_nm / columns)
        y = field.y_nm + (np.arange(rows) + 0.5) * pixel[0]
        x = field.x_nm + (np.arange(columns) + 0.5) * pixel[1]
        line_s = columns * step.dwell_s + self.context.flyback_s
        moved = self.drift * (self.drifted_s + started + (np.arange(rows)[:, None] + 0.5) * line_s)[..., None]
        image = scene(y[:, None] - moved[..., 0], x[None, :] - moved[..., 1])
        return image_frame(
            self.rng.poisson(image).astype(float), pixel_nm=pixel, signal=step.signals[0], origin_nm=(y[0], x[0])
        )
