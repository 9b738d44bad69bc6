"""Scan images: HAADF and bright field, point by point, each pixel at its own moment."""

from __future__ import annotations

import math

import numpy as np

from ...physics.scattering import (
    ATOMIC_NUMBERS,
    annular_cross_section_nm2,
    elastic_cross_section_nm2,
)
from ...schema import BadInput, Cancelled, Field2D, Frame, LimitExceeded, image_frame
from ..base import CancelToken
from .column import Column

SETTLE_S = 0.5e-3
FLYBACK_S = 60e-6
DWELL_RANGE_S = (1e-7, 1.0)
LARGEST_SHAPE = 4096
DARK_PER_S = 2000.0
SIGNALS = ("HAADF", "BF")


class SimulatedScanner:
    """Moves the probe, records HAADF and BF."""

    def __init__(self, column: Column) -> None:
        self._column = column
        tension = column.settings.high_tension_v
        self._annular = {e: annular_cross_section_nm2(ATOMIC_NUMBERS[e], tension) for e in column.elements}
        self._elastic = {e: elastic_cross_section_nm2(ATOMIC_NUMBERS[e], tension) for e in column.elements}

    @property
    def signals(self) -> tuple[str, ...]:
        """Detectors, the best overview first."""
        return SIGNALS

    @property
    def field(self) -> Field2D:
        """What the scan coils reach."""
        return self._column.field

    @property
    def native_shape(self) -> tuple[int, int] | None:
        """None: any number of pixels can be asked for."""
        return None

    @property
    def probe_position_nm(self) -> tuple[float, float] | None:
        """(y, x) of the stationary probe, None where it is parked."""
        return self._column.probe

    def move_probe(self, y_nm: float, x_nm: float) -> None:
        """Put the stationary probe at a place and wait until it has settled; `LimitExceeded` outside the field."""
        field = self._column.field
        if not field.contains(y_nm, x_nm):
            raise LimitExceeded(
                f"the probe cannot go to y = {y_nm:g}, x = {x_nm:g} nm: the field of view reaches from "
                f"{_range_text(field)}; choose a place inside."
            )
        self._column.place_probe((float(y_nm), float(x_nm)))
        self._column.clock.sleep(SETTLE_S)

    def park_probe(self) -> None:
        """Take the probe off the field of view."""
        self._column.place_probe(None)

    def scan(
        self, *, field: Field2D, shape: tuple[int, int], dwell_s: float, signals: tuple[str, ...], cancel: CancelToken
    ) -> tuple[Frame, ...]:
        """One pass over `field`; a ``(y, x)`` frame per signal, in counts. See `base.Scanner`."""
        column = self._column
        wanted = signals or SIGNALS[:1]
        self._check(field, shape, dwell_s, wanted)
        column.place_probe(None)
        rows, columns = shape
        line_s = columns * dwell_s + FLYBACK_S
        duration_s = rows * line_s
        started_s = column.clock.now_s()
        if cancel.is_set():
            raise Cancelled("the scan was stopped before it began.")
        noise = column.next_noise()
        expected = self._expected(field, shape, dwell_s=dwell_s, started_s=started_s, noise=noise, signals=wanted)
        reached = column.clock.wait_until(started_s + duration_s, cancel)
        # Stopped in the middle of a line: the line is finished, as on a scan generator.
        lines = rows if reached else min(rows, max(0, math.ceil((column.clock.now_s() - started_s) / line_s)))
        finished_s = started_s + lines * line_s
        if not reached:
            column.clock.wait_until(finished_s)
        lit = self._lines_lit(started_s, line_s, lines)
        if lit:
            electrons = column.electrons_per_s * dwell_s * lit * columns
            height = field.height_nm * lit / rows
            column.expose_field(field.model_copy(update={"height_nm": height}), electrons, started_s + lit * line_s / 2)
        if not reached:
            raise Cancelled(f"the scan was stopped after {lines} of {rows} lines.")
        frames = []
        drift = column.drift.at((started_s + finished_s) / 2)
        for signal in wanted:
            mean = expected[signal]
            mean[lit:] = 0.0
            counts = noise.poisson(mean + DARK_PER_S * dwell_s).astype(np.float32)
            frames.append(
                image_frame(
                    counts,
                    pixel_nm=(field.height_nm / rows, field.width_nm / columns),
                    origin_nm=(field.y_nm + field.height_nm / rows / 2, field.x_nm + field.width_nm / columns / 2),
                    signal=signal,
                    metadata={
                        **column.settings.provenance(),
                        "exposure_started_s": started_s,
                        "exposure_finished_s": finished_s,
                        "dwell_s": dwell_s,
                        "flyback_s": FLYBACK_S,
                        "truth": {"drift_nm": [float(drift[0]), float(drift[1])]},
                    },
                )
            )
        return tuple(frames)

    def _check(self, field: Field2D, shape: tuple[int, int], dwell_s: float, signals: tuple[str, ...]) -> None:
        reach = self._column.field
        margin = 1e-6 * reach.height_nm
        if not (
            field.y_nm >= reach.y_nm - margin
            and field.x_nm >= reach.x_nm - margin
            and field.y_nm + field.height_nm <= reach.y_nm + reach.height_nm + margin
            and field.x_nm + field.width_nm <= reach.x_nm + reach.width_nm + margin
        ):
            raise LimitExceeded(
                f"the scan from {_range_text(field)} leaves the field of view, which reaches from {_range_text(reach)}; "
                "choose a smaller or shifted field."
            )
        if len(shape) != 2 or not all(1 <= n <= LARGEST_SHAPE for n in shape):
            raise LimitExceeded(f"a scan has 1 to {LARGEST_SHAPE} pixels per side, got {shape}; ask for fewer pixels.")
        if not DWELL_RANGE_S[0] <= dwell_s <= DWELL_RANGE_S[1]:
            raise LimitExceeded(
                f"the dwell time must lie between {DWELL_RANGE_S[0]:g} and {DWELL_RANGE_S[1]:g} s, got {dwell_s:g} s."
            )
        for signal in signals:
            if signal not in SIGNALS:
                raise BadInput(f"the simulated microscope has no detector {signal!r}; it has {', '.join(SIGNALS)}.")

    def _lines_lit(self, started_s: float, line_s: float, lines: int) -> int:
        """How many of the first `lines` lines were scanned before the beam was blanked, if it was."""
        blanked_at = self._column.blanked_at_s
        if blanked_at is None:
            return lines
        return min(lines, max(0, math.floor((blanked_at - started_s) / line_s)))

    def _expected(
        self,
        field: Field2D,
        shape: tuple[int, int],
        *,
        dwell_s: float,
        started_s: float,
        noise: np.random.Generator,
        signals: tuple[str, ...],
    ) -> dict[str, np.ndarray]:
        """Mean electrons per pixel on each detector with the beam on."""
        column = self._column
        rows, columns = shape
        pixel_y, pixel_x = field.height_nm / rows, field.width_nm / columns
        line_s = columns * dwell_s + FLYBACK_S
        line_times = started_s + line_s * np.arange(rows)
        shift = column.drift.at(line_times) + column.stage_nm
        jitter = noise.normal(0.0, column.settings.line_jitter_nm, rows) if column.settings.line_jitter_nm else 0.0
        along_line = column.drift.at(line_times + line_s) + column.stage_nm - shift
        within = dwell_s * np.arange(columns) / line_s
        y = field.y_nm + (np.arange(rows) + 0.5) * pixel_y - shift[:, 0]
        x_lines = field.x_nm + jitter - shift[:, 1]
        y_map = y[:, None] - along_line[:, :1] * within
        x_map = x_lines[:, None] + (np.arange(columns) + 0.5) * pixel_x - along_line[:, 1:] * within
        scan_dose = 0.0 if column.blanked else column.electrons_per_s * dwell_s / (pixel_y * pixel_x * 100.0)
        fractions, origin, pixel_nm = self._fractions(y_map, x_map, scan_dose, signals)
        from scipy.ndimage import map_coordinates

        at = np.stack(((y_map - origin[0]) / pixel_nm, (x_map - origin[1]) / pixel_nm)).astype(np.float32)
        electrons = column.electrons_per_s * dwell_s
        return {
            signal: electrons * map_coordinates(fraction, at, order=1, mode="nearest")
            for signal, fraction in fractions.items()
        }

    def _fractions(
        self, y_map: np.ndarray, x_map: np.ndarray, scan_dose: float, signals: tuple[str, ...]
    ) -> tuple[dict[str, np.ndarray], tuple[float, float], float]:
        """Share of the beam each detector collects, on the specimen's own raster around the scan, blurred by the probe."""
        column = self._column
        specimen = column.specimen
        covariance = column.covariance_nm2()
        margin = 4 * float(np.sqrt(np.diag(covariance)).max()) + 2 * specimen.pixel_nm
        size = specimen.raster_nm.shape[1]
        spans = []
        for low, high, edge in (
            (float(y_map.min()), float(y_map.max()), specimen.extent.y_nm),
            (float(x_map.min()), float(x_map.max()), specimen.extent.x_nm),
        ):
            first = int(np.clip(math.floor((low - margin - edge) / specimen.pixel_nm), 0, size - 2))
            last = int(np.clip(math.ceil((high + margin - edge) / specimen.pixel_nm), first + 2, size))
            spans.append((first, last, edge + (first + 0.5) * specimen.pixel_nm))
        (top, bottom, origin_y), (left, right, origin_x) = spans
        y = origin_y + np.arange(bottom - top) * specimen.pixel_nm
        x = origin_x + np.arange(right - left) * specimen.pixel_nm
        with column.lock:
            before = column.dose.at(y[:, None], x[None, :]).astype(np.float32)
        after = before + np.float32(scan_dose)
        layers = column.with_contamination(specimen.raster_nm[:, top:bottom, left:right], before)
        fractions = {}
        if "HAADF" in signals:
            fractions["HAADF"] = -np.expm1(-column.projected(layers, self._annular, before, after))
        if "BF" in signals:
            fractions["BF"] = np.exp(-column.projected(layers, self._elastic, before, after))
        blurred = {signal: _blur(image, covariance / specimen.pixel_nm**2) for signal, image in fractions.items()}
        return {signal: blurred[signal] for signal in signals}, (origin_y, origin_x), specimen.pixel_nm


def _blur(image: np.ndarray, covariance_px2: np.ndarray) -> np.ndarray:
    """Convolve with a Gaussian of any covariance, keeping the level at the edges."""
    from scipy.fft import irfft2, next_fast_len, rfft2

    pad = math.ceil(4 * math.sqrt(float(np.diag(covariance_px2).max())))
    height, width = image.shape
    shape = (next_fast_len(height + 2 * pad, real=True), next_fast_len(width + 2 * pad, real=True))
    padded = np.pad(image, ((pad, shape[0] - height - pad), (pad, shape[1] - width - pad)), mode="edge")
    ky, kx = np.fft.fftfreq(shape[0]).astype(np.float32)[:, None], np.fft.rfftfreq(shape[1]).astype(np.float32)[None, :]
    (cyy, cyx), (_, cxx) = covariance_px2.astype(np.float32)
    transfer = np.exp(-2 * np.float32(np.pi) ** 2 * (cyy * ky**2 + 2 * cyx * ky * kx + cxx * kx**2))
    blurred = irfft2(rfft2(padded) * transfer, shape)[pad : pad + height, pad : pad + width]
    return np.asarray(np.maximum(blurred, 0.0))


def _range_text(field: Field2D) -> str:
    return (
        f"y = {field.y_nm:g} to {field.y_nm + field.height_nm:g} nm and "
        f"x = {field.x_nm:g} to {field.x_nm + field.width_nm:g} nm"
    )
