"""Points that look like nothing else in the overview."""

from __future__ import annotations

import numpy as np
from pydantic import Field, field_validator

from .choosers import Choice, Chooser, Pick, Wanted
from .features import patches, principal_components
from .overview import Overview
from .settings import Options
from .spacing import spread

LARGEST_FIT = 20_000


class AnomalyOptions(Options):
    """Settings of the anomaly chooser."""

    patch_px: int = Field(
        default=7,
        ge=3,
        le=31,
        description="Side of the surroundings that are compared.",
        json_schema_extra={"units": "px"},
    )
    components: int = Field(default=8, ge=1, le=64, description="Principal components that describe what is usual.")
    usual: float = Field(default=0.8, gt=0.1, le=1, description="Fraction of the overview that is taken for usual.")
    false_alarms: float = Field(
        default=1.0, gt=0, description="Points that an overview with nothing unusual may give, on average."
    )

    @field_validator("patch_px")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"it must be odd, such as {value + 1}")
        return value


def choose_anomalies(overview: Overview, options: AnomalyOptions, wanted: Wanted) -> Choice:
    """Mahalanobis distance of patches from the usual ones, within and beyond their principal components.

    The components, their variances and the variance beyond them are those of the `usual` fraction, found by trimming
    the farthest patches and fitting anew (concentration steps, Rousseeuw & Van Driessen, Technometrics 41 (1999) 212).
    """
    if overview.is_flat or min(overview.shape) < 3:
        return Choice(remarks=("The overview is flat or too small: nothing in it is unusual.",))
    whole = _surroundings_known(overview.shape, options.patch_px)
    distance = np.zeros(overview.image.size)
    distance[whole], components = patch_distance(patches(overview, options.patch_px)[whole], options, wanted.rng)
    from scipy import stats

    # The bulk sets the scale, since trimmed variances are too small and neighbouring patches overlap.
    bulk = np.median(distance[whole]) / stats.chi2.median(components + 1)
    unusual = stats.chi2.isf(min(options.false_alarms / whole.sum(), 0.5), components + 1) * max(float(bulk), 1e-12)
    flat = np.flatnonzero(overview.allowed.ravel() & (distance >= unusual))
    if len(flat) == 0:
        return Choice(remarks=("Nothing in the overview looks unusual.",))
    flat = flat[np.argsort(-distance[flat], kind="stable")]
    rows, columns = np.divmod(flat, overview.shape[1])
    kept = spread(
        overview.positions_nm(rows, columns),
        wanted.points,
        spacing_nm=wanted.spacing_nm,
        finest_nm=overview.mean_pixel_nm,
        taken_nm=overview.taken_nm,
    )
    largest = float(np.quantile(distance[flat], 0.98))
    brightness = overview.image.ravel()
    order = np.sort(brightness)
    picks = []
    for index in kept:
        place = int(flat[index])
        brighter = 100.0 * float(np.searchsorted(order, brightness[place])) / order.size
        ratio = float(np.sqrt(distance[place] / unusual))
        score = float(np.clip(np.sqrt(distance[place] / max(largest, 1e-300)), 0.0, 1.0))
        reason = (
            f"Mahalanobis distance {np.sqrt(distance[place]):.1f}, {ratio:.1f}x what is usual here; "
            f"brighter than {brighter:.0f} % of the overview"
        )
        picks.append(Pick(float(rows[index]), float(columns[index]), score, "anomaly", reason))
    return Choice(tuple(picks))


def _surroundings_known(shape: tuple[int, int], size: int) -> np.ndarray:
    """True, shape (y * x,), where a patch lies inside the image; everywhere where the image is hardly larger than a patch."""
    half = size // 2
    inside = np.ones(shape, dtype=bool)
    if min(shape) > 2 * size:
        inside[:half], inside[-half:], inside[:, :half], inside[:, -half:] = False, False, False, False
    return inside.ravel()


def patch_distance(data: np.ndarray, options: AnomalyOptions, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Squared Mahalanobis distance of every patch, shape ``(n,)``, and the number of components used."""
    sample = data if len(data) <= LARGEST_FIT else data[rng.choice(len(data), LARGEST_FIT, replace=False)]
    wanted = min(options.components, data.shape[1] - 1, max(len(sample) - 1, 1))
    kept = sample
    for _ in range(3):
        model = principal_components(kept, wanted)
        trial = _distance(sample, kept, model)
        kept = sample[trial <= np.quantile(trial, options.usual)]
    return _distance(data, kept, model), wanted


def _distance(data: np.ndarray, usual: np.ndarray, model: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    mean, axes, variances = model

    def split(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores = (rows - mean) @ axes.T
        beyond = ((rows - mean) ** 2).sum(axis=1) - (scores**2).sum(axis=1)
        return scores, np.maximum(beyond, 0.0)

    scores, beyond = split(data)
    # What is beyond the components is a sum of many squares, so hardly varies: a little more of it is much. Its cube root is
    # close to normal (Wilson & Hilferty, PNAS 17 (1931) 684).
    root, usually = np.cbrt(beyond), np.cbrt(split(usual)[1])
    excess = np.maximum(root - usually.mean(), 0.0) / max(float(usually.std()), 1e-6 * float(usually.mean()), 1e-12)
    floor = max(float(variances.max()) * 1e-6, 1e-12)
    return np.asarray((scores**2 / np.maximum(variances, floor)).sum(axis=1) + excess**2)


CHOOSER = Chooser(
    "anomalies",
    "Unusual places",
    "Places whose surroundings look like nothing else in the overview.",
    AnomalyOptions,
    choose_anomalies,
)
