"""A programmable phase plate on the simulated microscope: needles as controls, a pattern camera, and a bucket detector.

The plate makes a field of structured illumination, `SIDE_FRACTION` of the scan field wide and in its middle, behind an aperture
that lets nothing else through. The *pattern* camera sees the illumination itself, with the specimen out of the way. The *bucket*
detector counts all electrons that the specimen lets through, and each of them has done its damage: electrons land on the dose map
where the pattern is bright, and what is fragile fades there.

Needles respond with hysteresis, charge slowly, need time to settle, and may stop responding (`SimulatedPhasePlate.break_needle`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...physics.caustics import (
    BIAS_LIMIT_V,
    CAPACITANCE_F,
    DEFOCUS_LIMIT_RAD,
    NEEDLES,
    Caustics,
    built_optics,
    built_plate,
)
from ...schema import BadInput, ControlInfo, Field2D, Frame, image_frame
from ..base import Camera, Optics
from .beside import CameraBeside, ControlsBeside
from .column import Column

PIXELS = 64
SIDE_FRACTION = 0.5
SETTLE_S = 1e-3
HYSTERESIS = 0.002
"""Fraction of the last change that stays behind."""
CHARGING = 2e-4
"""Of a needle's capacitance times a volt, per square root of a second: how fast the offsets wander."""
SATURATION_E = 4e6
PATTERN_CAMERA, BUCKET = "pattern", "bucket"
NEEDLE_CONTROLS = tuple(f"needle.{k + 1}" for k in range(NEEDLES))
SHIFT_CONTROLS = ("pattern_shift.y", "pattern_shift.x")
DEFOCUS_CONTROL = "pattern_defocus"
EXPOSURE_RANGE_S = (1e-7, 10.0)
MASS_THICKNESS_NM = 80.0
"""A carbon-like layer of this thickness scatters all but 1/e of the electrons beyond the bucket's aperture."""
CARBON_G_CM3 = 2.0

CONTROLS: dict[str, ControlInfo] = {
    **{
        name: ControlInfo(
            name=name, units="V", minimum=-BIAS_LIMIT_V, maximum=BIAS_LIMIT_V, largest_step=2 * BIAS_LIMIT_V
        )
        for name in NEEDLE_CONTROLS
    },
    **{
        name: ControlInfo(name=name, units="px", minimum=-PIXELS / 2, maximum=PIXELS / 2, largest_step=float(PIXELS))
        for name in SHIFT_CONTROLS
    },
    DEFOCUS_CONTROL: ControlInfo(
        name=DEFOCUS_CONTROL, units="rad", minimum=-DEFOCUS_LIMIT_RAD, maximum=DEFOCUS_LIMIT_RAD,
        largest_step=2 * DEFOCUS_LIMIT_RAD,
    ),
}  # fmt: skip


class SimulatedPhasePlate:
    """The plate, what it makes, and the two detectors that see it.

    Parameters
    ----------
    column : Column
    """

    def __init__(self, column: Column) -> None:
        self._column = column
        rng = np.random.default_rng([column.settings.seed, 17])
        self.caustics = Caustics(built_plate(rng), built_optics(rng, PIXELS), samples=64, oversampling=1)
        self._rng = np.random.default_rng([column.settings.seed, 18])
        self.values = dict.fromkeys(CONTROLS, 0.0)
        self._acting = np.zeros(NEEDLES)
        self._charge = np.zeros(NEEDLES)
        self._charged_at_s = column.clock.now_s()
        self._broken: dict[int, float] = {}
        self.read_noise_e = 0.0
        """Of the bucket's amplifier, one standard deviation of a value in electrons."""
        side = SIDE_FRACTION * column.field.height_nm
        middle_y = column.field.y_nm + column.field.height_nm / 2
        middle_x = column.field.x_nm + column.field.width_nm / 2
        self.field = Field2D(y_nm=middle_y - side / 2, x_nm=middle_x - side / 2, height_nm=side, width_nm=side)

    def set(self, values: dict[str, float]) -> None:
        """Set some controls (checked by the caller) and let them settle."""
        new = {**self.values, **values}
        for number, name in enumerate(NEEDLE_CONTROLS):
            if number in self._broken:
                self._acting[number] = self._broken[number]
            else:
                self._acting[number] = new[name] - HYSTERESIS * (new[name] - self._acting[number])
        self.values = new
        self._column.clock.sleep(SETTLE_S)

    def break_needle(self, number: int, stands_at_v: float = 0.0) -> None:
        """From now on the needle (counted from 0) stays at a bias, whatever is asked."""
        if not 0 <= number < NEEDLES:
            raise BadInput(f"the simulated phase plate has needles 0 to {NEEDLES - 1}, not {number}.")
        self._broken[number] = float(stands_at_v)
        self._acting[number] = float(stands_at_v)

    def charge(self, volts: np.ndarray) -> None:
        """Add charge to the needles at once, as much as these biases would."""
        self._charge += np.asarray(volts, dtype=float) * CAPACITANCE_F

    def illumination(self) -> np.ndarray:
        """The pattern as it is now, (PIXELS, PIXELS), fraction of the beam per pixel."""
        now = self._column.clock.now_s()
        waited = max(0.0, now - self._charged_at_s)
        if waited > 0:
            self._charge += CHARGING * CAPACITANCE_F * np.sqrt(waited) * self._rng.standard_normal(NEEDLES)
            self._charged_at_s = now
        shift = np.array([[self.values[name] for name in SHIFT_CONTROLS]])
        defocus = np.array([self.values[DEFOCUS_CONTROL]])
        return np.asarray(self.caustics.charged_by(self._charge).patterns(self._acting[None], shift, defocus)[0])

    def record(self, camera: str, exposure_s: float, started_s: float) -> Frame:
        """What the pattern camera or the bucket counts in an exposure; the bucket's electrons go through the specimen."""
        column = self._column
        with column.lock:
            noise = column.next_noise()
            electrons = 0.0 if column.blanked else column.electrons_per_s * exposure_s
            pattern = self.illumination()
            if camera == PATTERN_CAMERA:
                counts = noise.poisson(np.maximum(pattern, 0.0) * electrons).astype(np.float32)
                origin = (self.field.y_nm + self.pixel_nm / 2, self.field.x_nm + self.pixel_nm / 2)
                return image_frame(
                    counts, pixel_nm=self.pixel_nm, origin_nm=origin, signal="pattern",
                    metadata=self._told(started_s, exposure_s, electrons),
                )  # fmt: skip
            through = float((pattern * self.transmission(started_s + exposure_s / 2)).sum()) * electrons
            self._expose(pattern * electrons, started_s + exposure_s / 2)
        counted = min(float(noise.poisson(through) + self.read_noise_e * noise.standard_normal()), SATURATION_E)
        metadata = {**self._told(started_s, exposure_s, electrons), "saturated": counted >= SATURATION_E}
        side = self.field.height_nm
        return image_frame(
            np.array([[counted]], dtype=np.float32), pixel_nm=side, signal="bucket", metadata=metadata,
            origin_nm=(self.field.y_nm + side / 2, self.field.x_nm + side / 2),
        )  # fmt: skip

    @property
    def pixel_nm(self) -> float:
        """Side of a pattern's pixel on the specimen."""
        return self.field.height_nm / PIXELS

    def transmission(self, time_s: float) -> np.ndarray:
        """Fraction of electrons that reach the bucket from each pixel, (PIXELS, PIXELS), as the specimen is now."""
        column = self._column
        y, x = self._places(time_s)
        dose = np.asarray(column.dose.at(y, x))
        layers = column.with_contamination(column.specimen.phase_nm(y, x), dose)
        # mass-thickness contrast, relative to carbon
        opacity = np.zeros(y.shape)
        for phase, thickness in zip(column.phases, layers, strict=True):
            left = np.full(y.shape, 1.0 - sum(phase.composition[element] for element in phase.fragile))
            for element in phase.fragile:
                left += phase.composition[element] * phase.surviving(element, dose, dose)
            opacity += phase.density_g_cm3 / CARBON_G_CM3 * np.asarray(thickness) * left / MASS_THICKNESS_NM
        return np.asarray(np.exp(-opacity))

    def _places(self, time_s: float) -> tuple[np.ndarray, np.ndarray]:
        along = (np.arange(PIXELS) + 0.5) * self.pixel_nm
        y, x = np.meshgrid(self.field.y_nm + along, self.field.x_nm + along, indexing="ij")
        return self._column.on_specimen(y, x, np.full(y.shape, time_s))

    def _expose(self, electrons: np.ndarray, time_s: float) -> None:
        dose = self._column.dose
        top, left = self._column.on_specimen(self.field.y_nm, self.field.x_nm, time_s)
        centres = np.arange(dose.size) + 0.5
        rows = np.floor((dose.extent.y_nm + centres * dose.pixel_nm[0] - float(top)) / self.pixel_nm).astype(int)
        columns = np.floor((dose.extent.x_nm + centres * dose.pixel_nm[1] - float(left)) / self.pixel_nm).astype(int)
        i, j = (np.flatnonzero((k >= 0) & (k < PIXELS)) for k in (rows, columns))
        per_a2 = electrons / (self.pixel_nm**2 * 100.0)
        dose.e_per_a2[np.ix_(i, j)] += per_a2[np.ix_(rows[i], columns[j])].astype(np.float32)

    def _told(self, started_s: float, exposure_s: float, electrons: float) -> dict[str, Any]:
        return {
            **self._column.settings.provenance(),
            "exposure_started_s": started_s,
            "exposure_finished_s": started_s + exposure_s,
            "exposure_s": exposure_s,
            "electrons": electrons,
            "optics": dict(self.values),
        }


class PlateCamera(CameraBeside):
    """The pattern camera, (64, 64) of the illumination, and the bucket, (1, 1), beside the cameras the column has."""

    OWN = (PATTERN_CAMERA, BUCKET)
    EXPOSURE_RANGE_S = EXPOSURE_RANGE_S

    def __init__(self, plate: SimulatedPhasePlate, column: Column, others: Camera | None) -> None:
        super().__init__(column.clock, others)
        self._plate = plate

    def _read(self, camera: str, exposure_s: float, started_s: float) -> Frame:
        return self._plate.record(camera, exposure_s, started_s)


class PlateControls(ControlsBeside):
    """The needles and the shift of the pattern, beside the controls the column has."""

    def __init__(self, plate: SimulatedPhasePlate, others: Optics | None) -> None:
        super().__init__(CONTROLS, others)
        self._plate = plate

    def _values(self) -> Mapping[str, float]:
        return self._plate.values

    def _move(self, values: dict[str, float]) -> None:
        self._plate.set(values)
