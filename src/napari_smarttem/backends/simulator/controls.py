"""Optics, stage and blanker of the simulated microscope."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ...schema import BadInput, ControlInfo, LimitExceeded
from .column import Column

OPTICS_SETTLE_S = 0.02
STAGE_SETTLE_S = 0.3
STAGE_NM_PER_S = 200.0
BLANK_S = 1e-4


def _control(name: str, units: str, reach: float, step: float) -> ControlInfo:
    return ControlInfo(name=name, units=units, minimum=-reach, maximum=reach, largest_step=step)


CONTROLS: dict[str, ControlInfo] = {
    info.name: info
    for info in (
        _control("C1", "nm", 4000.0, 1000.0),
        *(_control(f"A1.{axis}", "nm", 1000.0, 300.0) for axis in "xy"),
        *(_control(f"B2.{axis}", "nm", 10000.0, 3000.0) for axis in "xy"),
        *(_control(f"A2.{axis}", "nm", 10000.0, 3000.0) for axis in "xy"),
        _control("C3", "um", 1000.0, 200.0),
    )
}


def _checked(
    values: Mapping[str, float], limits: Mapping[str, tuple[float, float, str]], what: str
) -> dict[str, float]:
    for name, value in values.items():
        if name not in limits:
            raise BadInput(f"the simulated {what} has no {name!r}; it has {', '.join(limits)}.")
        low, high, units = limits[name]
        if not math.isfinite(value) or not low <= value <= high:
            raise LimitExceeded(
                f"{name} = {value:g} {units} is outside {low:g} to {high:g} {units}; nothing was moved, ask for a value inside."
            )
    return {name: float(value) for name, value in values.items()}


class SimulatedOptics:
    """Aberrations as controls; they set the size and shape of the probe, and so sharpen or blur everything."""

    def __init__(self, column: Column) -> None:
        self._column = column
        column.aberrations = dict.fromkeys(CONTROLS, 0.0)

    @property
    def controls(self) -> Mapping[str, ControlInfo]:
        """Every control by name."""
        return CONTROLS

    def get(self) -> dict[str, float]:
        """Present values."""
        return dict(self._column.aberrations)

    def set(self, values: Mapping[str, float]) -> None:
        """Set some controls; all or, where one is unknown or outside its limits, none."""
        limits = {name: (info.minimum, info.maximum, info.units) for name, info in CONTROLS.items()}
        new = _checked(values, limits, "column")
        with self._column.lock:
            self._column.settle_dose(self._column.clock.now_s())
            self._column.aberrations = {**self._column.aberrations, **new}
            self._column.lenses.set(self._column.aberrations)
        self._column.clock.sleep(OPTICS_SETTLE_S)


class SimulatedStage:
    """Moves the specimen under the field of view, and up and down through focus."""

    def __init__(self, column: Column) -> None:
        self._column = column
        reach = column.field.height_nm
        self._limits = {"y_nm": (-reach, reach, "nm"), "x_nm": (-reach, reach, "nm"), "z_nm": (-2000.0, 2000.0, "nm")}

    def position(self) -> dict[str, float]:
        """Present values, in nm."""
        y, x = self._column.stage_nm
        return {"y_nm": float(y), "x_nm": float(x), "z_nm": self._column.stage_z_nm}

    def move(self, values: Mapping[str, float]) -> None:
        """Move to absolute values; the specimen moves by as much over the field of view."""
        new = _checked(values, self._limits, "stage")
        before = self.position()
        after = {**before, **new}
        with self._column.lock:
            self._column.settle_dose(self._column.clock.now_s())
            self._column.stage_nm[:] = after["y_nm"], after["x_nm"]
            self._column.stage_z_nm = after["z_nm"]
        distance = max(abs(after[name] - before[name]) for name in after)
        self._column.clock.sleep(STAGE_SETTLE_S + distance / STAGE_NM_PER_S)


class SimulatedBlanker:
    """An electrostatic blanker above the specimen."""

    def __init__(self, column: Column) -> None:
        self._column = column

    @property
    def blanked(self) -> bool:
        """True while no electrons reach the specimen."""
        return self._column.blanked

    def set_blanked(self, blanked: bool) -> None:
        """Blank or unblank, and wait until it is so."""
        if blanked != self._column.blanked:
            self._column.set_blanked(blanked)
            self._column.clock.sleep(BLANK_S)
