"""A part put into the simulated column: its detectors and controls stand beside those that are there already."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from ...schema import BadInput, Cancelled, ControlInfo, Frame, LimitExceeded
from ..base import Camera, CancelToken, Optics
from .clock import Clock


class CameraBeside(ABC):
    """The detectors of a part, and those of the column.

    Parameters
    ----------
    clock : Clock
    others : Camera or None
        What the column has; asked for every camera that is not one of `OWN`.
    """

    OWN: ClassVar[tuple[str, ...]]
    EXPOSURE_RANGE_S: ClassVar[tuple[float, float]]

    def __init__(self, clock: Clock, others: Camera | None) -> None:
        self._clock, self._others = clock, others

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras, the default one first."""
        return (*(self._others.cameras if self._others is not None else ()), *self.OWN)

    def acquire_image(self, exposure_s: float, cancel: CancelToken, camera: str | None = None) -> Frame:
        """Expose and read once. See `base.Camera`."""
        camera = camera or self.cameras[0]
        if camera not in self.OWN:
            if self._others is None:
                raise BadInput(f"There is no camera {camera!r}; there is {', '.join(self.cameras)}.")
            return self._others.acquire_image(exposure_s, cancel, camera)
        low, high = self.EXPOSURE_RANGE_S
        if not low <= exposure_s <= high:
            raise LimitExceeded(
                f"an exposure of {exposure_s:g} s is outside {low:g} to {high:g} s; nothing was recorded, ask for one inside."
            )
        started_s = self._clock.now_s()
        if not self._clock.wait_until(started_s + exposure_s, cancel):
            raise Cancelled(f"the exposure of the {camera} camera was stopped; nothing was recorded.")
        return self._read(camera, exposure_s, started_s)

    @abstractmethod
    def _read(self, camera: str, exposure_s: float, started_s: float) -> Frame:
        """What one of `OWN` recorded in an exposure that is over."""


class ControlsBeside(ABC):
    """The controls of a part, and those of the column.

    Parameters
    ----------
    own : mapping of str to ControlInfo
    others : Optics or None
        What the column has; every control that is not one of `own` goes there.
    """

    def __init__(self, own: Mapping[str, ControlInfo], others: Optics | None) -> None:
        self._own, self._others = own, others

    @property
    def controls(self) -> Mapping[str, ControlInfo]:
        """Every control by name."""
        return {**(self._others.controls if self._others is not None else {}), **self._own}

    def get(self) -> dict[str, float]:
        """Present values."""
        return {**(self._others.get() if self._others is not None else {}), **self._values()}

    def set(self, values: Mapping[str, float]) -> None:
        """Set some controls; all or, where one is unknown or outside its limits, none."""
        controls = self.controls
        for name, value in values.items():
            if name not in controls:
                raise BadInput(f"the simulated column has no {name!r}; it has {', '.join(controls)}.")
            info = controls[name]
            if not info.minimum <= value <= info.maximum:
                raise LimitExceeded(
                    f"{name} = {value:g} {info.units} is outside {info.minimum:g} to {info.maximum:g} {info.units}; "
                    "nothing was moved, ask for a value inside."
                )
        others = {name: value for name, value in values.items() if name not in self._own}
        if others and self._others is not None:
            self._others.set(others)
        ours = {name: float(value) for name, value in values.items() if name in self._own}
        if ours:
            self._move(ours)

    @abstractmethod
    def _values(self) -> Mapping[str, float]:
        """What the part's own controls were set to."""

    @abstractmethod
    def _move(self, values: dict[str, float]) -> None:
        """Set some of the part's own controls, within their limits, and let them settle."""
