"""What measuring targets will cost, and which of them a budget allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..schema import Acquire, Field2D, PlanContext, PlanEstimate, Scan, Target, estimate_dose, estimate_duration
from .settings import AcquisitionSettings

SMALLEST_WINDOW = 96
EARLY_SCANS = 2


@dataclass(frozen=True)
class DriftWindow:
    """Part of the overview that is re-imaged: first row, first column, rows, columns."""

    row: int
    column: int
    rows: int
    columns: int


def window_size(settings: AcquisitionSettings, shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a drift image: the fraction asked for, but 96 pixels a side where there are so many."""
    rows, columns = (min(n, max(round(n * settings.drift_fraction), SMALLEST_WINDOW)) for n in shape)
    return rows, columns


def corrects_drift(settings: AcquisitionSettings, context: PlanContext) -> bool:
    """True where drift is followed: asked for, and the overview is large enough to see it."""
    return settings.drift_every > 0 and min(settings.scan_shape(context)) >= 16


def drift_scans(points: int, settings: AcquisitionSettings, context: PlanContext) -> int:
    """Largest number of drift images for so many points: one before the first, then one every `drift_every`, and early ones.

    As long as the rate of the drift is uncertain, up to two more are made before they are due.
    """
    if points == 0 or not corrects_drift(settings, context):
        return 0
    early = min(EARLY_SCANS, (points - 1) // early_after(settings))
    return 1 + early + (points - 1) // settings.drift_every


def early_after(settings: AcquisitionSettings) -> int:
    """Points after the last drift image before which no early one is made."""
    return max(1, settings.drift_every // 5)


def image_scan(
    name: str,
    place_nm: tuple[float, float],
    settings: AcquisitionSettings,
    context: PlanContext,
    signals: tuple[str, ...],
) -> Scan | None:
    """The image of a point at high magnification, moved inwards where it would reach beyond the field; None where there is none."""
    if settings.image_nm is None:
        return None
    (y_nm, x_nm), whole = place_nm, context.field
    height, width = min(settings.image_nm, whole.height_nm), min(settings.image_nm, whole.width_nm)
    return Scan(
        step_id=name,
        field=Field2D(
            y_nm=min(max(y_nm - height / 2, whole.y_nm), whole.y_nm + whole.height_nm - height),
            x_nm=min(max(x_nm - width / 2, whole.x_nm), whole.x_nm + whole.width_nm - width),
            height_nm=height,
            width_nm=width,
        ),
        shape=(settings.image_pixels, settings.image_pixels),
        dwell_s=settings.image_dwell_s or settings.overview_dwell_s,
        signals=signals,
        purpose="image",
    )


def _costs(settings: AcquisitionSettings, context: PlanContext) -> tuple[tuple[float, float], tuple[float, float]]:
    """(seconds, e/Å²) of one point, its image included, and of one drift image."""
    image = image_scan("estimate", (0.0, 0.0), settings, context, ())
    acquire = Acquire(step_id="estimate", y_nm=0.0, x_nm=0.0, exposure_s=settings.exposure_s)
    shape = settings.scan_shape(context)
    field = settings.scan_field(context)
    scan = Scan(
        step_id="estimate",
        field=Field2D(y_nm=field.y_nm, x_nm=field.x_nm, height_nm=field.height_nm, width_nm=field.width_nm),
        shape=window_size(settings, shape),
        dwell_s=settings.drift_dwell_s or settings.overview_dwell_s,
        purpose="drift",
    )
    point = [acquire] if image is None else [image, acquire]
    return (
        (sum(estimate_duration(one, context) for one in point), sum(estimate_dose(one, context) for one in point)),
        (estimate_duration(scan, context), estimate_dose(scan, context)),
    )


def estimate(targets: Sequence[Target] | int, settings: AcquisitionSettings, context: PlanContext) -> PlanEstimate:
    """Steps, seconds and dose of measuring these targets (or so many), drift images included, people's time not."""
    points = targets if isinstance(targets, int) else len(targets)
    scans = drift_scans(points, settings, context)
    (acquire_s, acquire_dose), (scan_s, scan_dose) = _costs(settings, context)
    return PlanEstimate(
        steps=(points if settings.image_nm is None else 2 * points) + scans,
        duration_s=points * acquire_s + scans * scan_s,
        dose_e_per_a2=points * acquire_dose + scans * scan_dose,
    )


def affordable(
    wanted: int,
    settings: AcquisitionSettings,
    context: PlanContext,
    *,
    spent_s: float = 0.0,
    spent_dose_e_per_a2: float = 0.0,
) -> tuple[int, str]:
    """How many of `wanted` points the time and the dose budget allow, and in words which one is short (or nothing)."""
    time_left = None if settings.time_budget_s is None else settings.time_budget_s - spent_s
    dose_left = None if settings.dose_budget_e_per_a2 is None else settings.dose_budget_e_per_a2 - spent_dose_e_per_a2

    def fits(points: int) -> bool:
        cost = estimate(points, settings, context)
        in_time = time_left is None or cost.duration_s <= time_left
        return in_time and (dose_left is None or cost.dose_e_per_a2 <= dose_left)

    if fits(wanted):
        return wanted, ""
    low, high = 0, wanted
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    cost = estimate(low + 1, settings, context)
    short = (
        f"time budget of {settings.time_budget_s:g} s"
        if time_left is not None and cost.duration_s > time_left
        else f"dose budget of {settings.dose_budget_e_per_a2:g} e/Å²"
    )
    return low, f"the {short} allows {low} of {wanted} points"


def within_budget(
    targets: Sequence[Target],
    settings: AcquisitionSettings,
    context: PlanContext,
    *,
    spent_s: float = 0.0,
    spent_dose_e_per_a2: float = 0.0,
) -> tuple[tuple[Target, ...], str]:
    """The targets of highest score that the budgets allow, in their given order, and a remark where some were left out."""
    allowed, remark = affordable(
        len(targets), settings, context, spent_s=spent_s, spent_dose_e_per_a2=spent_dose_e_per_a2
    )
    if allowed == len(targets):
        return tuple(targets), ""
    best = sorted(range(len(targets)), key=lambda index: -targets[index].score)[:allowed]
    return tuple(
        targets[index] for index in sorted(best)
    ), f"{remark[:1].upper()}{remark[1:]}; those of highest score are kept."
