"""Drift of a run: which part of the overview to re-image, where it is now, and where a target has gone since it was seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..schema import Field2D, Frame, Note, PlanContext, Scan, StepResult
from .drift import DriftTracker, register
from .estimate import DriftWindow, window_size
from .settings import AcquisitionSettings

DISTORTION_PX = 0.07
"""What line jitter and the shear of a drifting scan add to the error of a registration; its noise says nothing of them."""


def exposure_times(result: StepResult) -> tuple[float, float]:
    """Beginning and end of what was recorded, on the instrument's clock: those of the frame, else those of the step."""
    if result.frames:
        times = [result.frames[0].metadata.get(name) for name in ("exposure_started_s", "exposure_finished_s")]
        if all(isinstance(t, (int, float)) and math.isfinite(t) for t in times):
            return float(times[0]), float(times[1])  # type: ignore[arg-type]
    return result.started_s, result.finished_s


@dataclass(frozen=True)
class Correction:
    """What one drift image told: the note for the record, and whether it was used."""

    note: Note
    used: bool


class DriftCorrection:
    """Follows the specimen from the overview on.

    Parameters
    ----------
    overview : StepResult
        Of the overview scan.
    settings : AcquisitionSettings
    context : PlanContext
    """

    def __init__(self, overview: StepResult, settings: AcquisitionSettings, context: PlanContext) -> None:
        self._frame: Frame = overview.frames[0]
        self._settings = settings
        self._bounds = context.field
        self._field = settings.scan_field(context)
        rows, columns = self._frame.shape
        self._pixel = (self._field.height_nm / rows, self._field.width_nm / columns)
        self._started, self._finished = exposure_times(overview)
        self.window = richest_window(np.asarray(self._frame.data, dtype=float), window_size(settings, (rows, columns)))
        self._reference_s = self._row_time(self.window.row + 0.5 * (self.window.rows - 1))
        self._tracker = DriftTracker(settings.drift_rate_nm_per_s)
        self._offset_px = (0, 0)

    def _row_time(self, row: float) -> float:
        """When a row of the overview was scanned."""
        return self._started + (row + 0.5) / self._frame.shape[0] * (self._finished - self._started)

    def displacement(self, y_nm: float, time_s: float) -> tuple[float, float]:
        """(dy, dx) in nm by which a place seen at `y_nm` of the overview will have moved at a time.

        The overview itself took time: its last rows were seen later than its first, and have moved less since.
        """
        (dy, dx), _ = self._tracker.predict(time_s - self._reference_s)
        seen_s = self._row_time((y_nm - self._field.y_nm) / self._pixel[0] - 0.5) - self._reference_s
        velocity = self._tracker.velocity_nm_per_s
        return dy - velocity[0] * seen_s, dx - velocity[1] * seen_s

    def uncertainty_px(self, time_s: float) -> float:
        """Standard deviation of the predicted displacement at a time, in pixels of the overview, each direction."""
        return self._tracker.predict(time_s - self._reference_s)[1] / min(abs(p) for p in self._pixel)

    def scan(self, step_id: str, time_s: float) -> Scan:
        """The next drift image: the same window, carried along by whole pixels so that it shows the same place."""
        (dy, dx), _ = self._tracker.predict(time_s - self._reference_s)
        row, row_shift = self._carried(self.window.row, self.window.rows, dy / self._pixel[0], axis=0)
        column, column_shift = self._carried(self.window.column, self.window.columns, dx / self._pixel[1], axis=1)
        self._offset_px = (row_shift, column_shift)
        y_nm = max(self._field.y_nm + row * self._pixel[0], self._bounds.y_nm)
        x_nm = max(self._field.x_nm + column * self._pixel[1], self._bounds.x_nm)
        return Scan(
            step_id=step_id,
            field=Field2D(
                y_nm=y_nm,
                x_nm=x_nm,
                height_nm=min(self.window.rows * self._pixel[0], self._bounds.y_nm + self._bounds.height_nm - y_nm),
                width_nm=min(self.window.columns * self._pixel[1], self._bounds.x_nm + self._bounds.width_nm - x_nm),
            ),
            shape=(self.window.rows, self.window.columns),
            dwell_s=self._settings.drift_dwell_s or self._settings.overview_dwell_s,
            signals=(self._frame.signal,),
            purpose="drift",
        )

    def _carried(self, first: int, size: int, drift_px: float, axis: int) -> tuple[int, int]:
        """First row (or column) of the carried window, inside what the scanner can reach, and by how much it was carried."""
        low, high = (
            (self._bounds.y_nm, self._bounds.y_nm + self._bounds.height_nm)
            if axis == 0
            else (self._bounds.x_nm, self._bounds.x_nm + self._bounds.width_nm)
        )
        edge = self._field.y_nm if axis == 0 else self._field.x_nm
        lowest = math.ceil((low - edge) / self._pixel[axis] - 1e-6)
        highest = math.floor((high - edge) / self._pixel[axis] + 1e-6) - size
        place = int(np.clip(first + round(drift_px), lowest, max(highest, lowest)))
        return place, place - first

    def take(self, result: StepResult, note_id: str, time_shift_s: float = 0.0) -> Correction:
        """Register a drift image and say, for the record, what came of it.

        ``time_shift_s`` is added to the image's own times where the instrument's clock was started anew.
        """
        if not result.ok:
            text = f"The drift image could not be recorded, the prediction is kept: {result.reason}"
            return Correction(Note(step_id=note_id, text=text, level="warning"), used=False)
        started, finished = (t + time_shift_s for t in exposure_times(result))
        time_s = 0.5 * (started + finished) - self._reference_s
        (dy, dx), spread_nm = self._tracker.predict(time_s)
        pixel = math.sqrt(self._pixel[0] * self._pixel[1])
        offset = np.array(self._offset_px)
        expected = np.array([dy / self._pixel[0], dx / self._pixel[1]]) - offset
        window = self.window
        reference = np.asarray(self._frame.data, dtype=float)
        reference = reference[window.row : window.row + window.rows, window.column : window.column + window.columns]
        largest = min(window.rows, window.columns) / 3.0
        measured = register(
            reference,
            np.asarray(result.frames[0].data, dtype=float),
            expected_px=(float(expected[0]), float(expected[1])),
            search_px=float(np.clip(4.0 * spread_nm / pixel, 3.0, largest)),
            minimum_quality=self._settings.drift_minimum_quality,
        )
        data: dict[str, float | str | bool] = {
            "predicted_dy_nm": dy,
            "predicted_dx_nm": dx,
            "quality": measured.quality,
            "used": measured.ok,
        }
        if not measured.ok:
            text = f"Drift image refused, the prediction of {dy:+.2f}, {dx:+.2f} nm (y, x) is kept: {measured.problem}."
            return Correction(Note(step_id=note_id, text=text, level="warning", data=data), used=False)
        total = (np.array(measured.shift_px) + offset) * self._pixel
        error_nm = math.hypot(min(measured.error_px, 1.0), DISTORTION_PX) * pixel
        self._tracker.update(time_s, (float(total[0]), float(total[1])), error_nm)
        velocity = self._tracker.velocity_nm_per_s
        data |= {
            "dy_nm": float(total[0]),
            "dx_nm": float(total[1]),
            "error_nm": error_nm,
            "velocity_y_nm_per_s": velocity[0],
            "velocity_x_nm_per_s": velocity[1],
        }
        text = (
            f"Drift since the overview {total[0]:+.2f}, {total[1]:+.2f} nm (y, x), "
            f"now {velocity[0]:+.3f}, {velocity[1]:+.3f} nm/s."
        )
        return Correction(Note(step_id=note_id, text=text, data=data), used=True)

    def lost(self) -> None:
        """The instrument was started again: look everywhere at the next drift image."""
        self._tracker.lost(0.25 * min(self.window.rows * self._pixel[0], self.window.columns * self._pixel[1]))


def richest_window(image: np.ndarray, size: tuple[int, int]) -> DriftWindow:
    """The part of an image with most structure, those near the middle preferred since it can be followed either way."""
    rows, columns = size
    spare = image.shape[0] - rows, image.shape[1] - columns
    if spare == (0, 0):
        return DriftWindow(0, 0, rows, columns)
    from scipy import ndimage

    finite = np.where(np.isfinite(image), image, np.median(image[np.isfinite(image)]))
    energy = ndimage.gaussian_gradient_magnitude(finite, 2.0) ** 2
    total = np.pad(energy.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]
    away = [np.abs(np.arange(n + 1) / max(n, 1) - 0.5) * 2.0 for n in spare]
    sums = sums * (1.0 - 0.25 * away[0][:, None]) * (1.0 - 0.25 * away[1][None, :])
    row, column = divmod(int(sums.argmax()), sums.shape[1])
    return DriftWindow(row, column, rows, columns)
