"""Aligning without a model of what is seen: search for the controls that make the sharpest image (Bayesian optimisation).

For samples without an amorphous area. The figure of merit is the variance of the image relative to its squared mean, over the part
that all images share (they are registered, since controls shift the image). A Gaussian process with one lengthscale for all
controls, scaled by their search ranges, says where the next image is worth most: upper confidence bound, as in the published
automatic tuning by Bayesian optimisation.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np

from ..schema import AwaitReview, BadInput, Field2D, Note, PlanContext, Scan, SetOptics, StepResult
from .settings import AlignmentSettings

BETA = 2.0
LENGTHSCALES = (0.3, 0.6, 1.2)
NOISES = (0.02, 0.1)
FIRST = 5
"""Images at random places before the process is asked."""


class Surrogate:
    """A Gaussian process on points within -1..1, squared-exponential and isotropic, its two parameters by likelihood."""

    def __init__(self, points: np.ndarray, values: np.ndarray) -> None:
        self.points = points
        self.centre, self.scale = float(values.mean()), float(values.std()) or 1.0
        target = (values - self.centre) / self.scale
        best = -math.inf
        for length in LENGTHSCALES:
            for noise in NOISES:
                gram = self._kernel(points, points, length) + noise * np.eye(len(points))
                lower = np.linalg.cholesky(gram)
                weights = np.linalg.solve(lower.T, np.linalg.solve(lower, target))
                likelihood = -0.5 * float(target @ weights) - float(np.log(np.diag(lower)).sum())
                if likelihood > best:
                    best = likelihood
                    self.length, self._lower, self._weights = length, lower, weights

    @staticmethod
    def _kernel(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
        distance2 = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=-1)
        return np.asarray(np.exp(-0.5 * distance2 / length**2))

    def predict(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation at points (n, d), both (n,), in units of the values."""
        cross = self._kernel(at, self.points, self.length)
        mean = cross @ self._weights
        half = np.linalg.solve(self._lower, cross.T)
        variance = np.maximum(1.0 - (half**2).sum(axis=0), 1e-9)
        return mean * self.scale + self.centre, np.sqrt(variance) * self.scale


def next_point(points: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where the upper confidence bound is highest, shape (d,): among random points and points around the best ones."""
    surrogate = Surrogate(points, values)
    dimensions = points.shape[1]
    spread = rng.uniform(-1, 1, (600, dimensions))
    leaders = points[np.argsort(values)[-3:]]
    near = (leaders[:, None, :] + rng.normal(0, 0.15, (3, 150, dimensions))).reshape(-1, dimensions).clip(-1, 1)
    candidates = np.concatenate([spread, near])
    mean, sigma = surrogate.predict(candidates)
    return np.asarray(candidates[int(np.argmax(mean + BETA * sigma))])


def shared_contrast(image: np.ndarray, reference: np.ndarray | None) -> float:
    """Variance over squared mean of the part of an image that also lies in the reference."""
    shown = image
    if reference is not None:
        from skimage.registration import phase_cross_correlation

        shift = np.rint(phase_cross_correlation(reference, image, upsample_factor=1)[0]).astype(int)
        limit = image.shape[0] // 4
        dy, dx = (int(np.clip(v, -limit, limit)) for v in shift)
        rows = slice(max(-dy, 0), image.shape[0] - max(dy, 0))
        columns = slice(max(-dx, 0), image.shape[1] - max(dx, 0))
        shown = image[rows, columns]
    mean = float(shown.mean())
    # the noise of counting has a variance too; neighbours do not share it
    noise = 0.25 * float(np.mean((shown[:, 1:] - shown[:, :-1]) ** 2) + np.mean((shown[1:] - shown[:-1]) ** 2))
    return (float(shown.var()) - noise) / max(mean**2, 1e-12)


def search(settings: AlignmentSettings, context: PlanContext) -> Generator[Any, StepResult, dict[str, Any]]:
    """The plan: `settings.frames` images, the best controls at the end; every control back where no image was better."""
    names = tuple(settings.search_nm)
    if not names:
        raise BadInput(
            'the image search needs search_nm, such as {"C1": 200, "A1.x": 50, "A1.y": 50}: what to vary, and how far.'
        )
    missing = [name for name in names if name not in settings.controls]
    if missing:
        raise BadInput(f"the instrument has no control {', '.join(missing)}; it has {', '.join(settings.controls)}.")
    return _search(settings, context, names)


def _search(
    settings: AlignmentSettings, context: PlanContext, names: tuple[str, ...]
) -> Generator[Any, StepResult, dict[str, Any]]:
    rng = np.random.default_rng([settings.seed, 41])
    start = np.array([settings.controls[name].value for name in names])
    reach = np.array([settings.search_nm[name] for name in names])
    low = np.array([settings.controls[name].minimum for name in names])
    high = np.array([settings.controls[name].maximum for name in names])
    largest = np.array([settings.controls[name].largest_step for name in names])
    present = start.copy()
    field = context.field
    side = min(settings.image_field_nm, field.height_nm, field.width_nm)
    middle = Field2D(
        y_nm=field.y_nm + (field.height_nm - side) / 2,
        x_nm=field.x_nm + (field.width_nm - side) / 2,
        height_nm=side,
        width_nm=side,
    )
    shape = (settings.image_pixels, settings.image_pixels)
    points: list[np.ndarray] = []
    values: list[float] = []
    reference: np.ndarray | None = None
    number = 0
    while number < settings.frames:
        if number == 0:
            point = np.zeros(len(names))
        elif number < FIRST:
            point = rng.uniform(-1, 1, len(names))
        else:
            point = next_point(np.array(points), np.array(values), rng)
        wanted = np.clip(start + point * reach, low, high)
        if not (yield from _set(names, present, wanted, largest, f"set-{number:03d}")):
            yield from _set(names, present, start, largest, "restore")
            yield Note(
                step_id="cannot", level="warning", text="A control was refused; every control is back where it was."
            )
            return {"verdict": "cannot", "frames": number, "controls": dict(zip(names, start.tolist(), strict=True))}
        present = wanted
        scan = Scan(
            step_id=f"image-{number:03d}",
            field=middle,
            shape=shape,
            dwell_s=settings.exposure_s / (shape[0] * shape[1]),
            signals=context.signals[:1],
            purpose="image",
        )
        result = yield scan
        number += 1
        if not result.ok or not result.frames:
            continue
        image = np.asarray(result.frames[0].data, dtype=float)
        points.append((wanted - start) / reach)
        values.append(shared_contrast(image, reference))
        if reference is None or values[-1] >= max(values):
            reference = image
        yield Note(
            step_id=f"merit-{number - 1:03d}",
            text=f"Contrast {values[-1]:.4g}; the best so far is {max(values):.4g}.",
            data={"controls": dict(zip(names, wanted.tolist(), strict=True)), "merit": values[-1], "best": max(values)},
        )
        if number == settings.frames and settings.ask:
            review = yield AwaitReview(
                step_id=f"review-{number:03d}", targets=(), prompt="Keep the best, put everything back, or search on?"
            )
            outcome = review.review
            if outcome is not None and outcome.action == "repropose":
                settings = settings.model_copy(update={"frames": settings.frames + 10})
            elif outcome is None or outcome.action == "finish" or outcome.settings.get("undo"):
                yield from _set(names, present, start, largest, "undo")
                return {
                    "verdict": "ended by a person",
                    "frames": number,
                    "controls": dict(zip(names, start.tolist(), strict=True)),
                }
    best = start + points[int(np.argmax(values))] * reach if values else start
    yield from _set(names, present, best, largest, "best")
    found = {"verdict": "sharpest found", "frames": number, "controls": dict(zip(names, best.tolist(), strict=True))}
    yield Note(
        step_id="end",
        text=f"The sharpest of {len(values)} images is kept; its contrast is {max(values, default=math.nan):.4g}.",
        data=found,
    )
    return found


def _set(
    names: tuple[str, ...], present: np.ndarray, wanted: np.ndarray, largest: np.ndarray, name: str
) -> Generator[Any, StepResult, bool]:
    """Set the controls in steps that none exceeds; False where the instrument refused."""
    change = wanted - present
    count = max(1, math.ceil(float(np.max(np.abs(change) / largest)) * (1 + 1e-6)))
    for part in range(count):
        values = present + change * (part + 1) / count
        result = yield SetOptics(step_id=f"{name}-{part}", values=dict(zip(names, map(float, values), strict=True)))
        if not result.ok:
            return False
    return True
