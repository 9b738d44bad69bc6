"""The capabilities as `guard.Guard` hands them out: each command checked before, each frame checked after."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schema import BadInput, ControlInfo, Field2D, Frame, InstrumentFault, LimitExceeded
from .base import Blanker, Camera, CancelToken, Optics, Scanner, Spectrometer, Stage

if TYPE_CHECKING:
    from .guard import Guard

_EDGE_NM = 1e-6
"""Rounding of coordinates is no violation of a limit."""


def number(what: str, value: Any) -> float:
    """`value` as a finite float; `BadInput` in one sentence that begins with `what` otherwise."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise BadInput(f"{what} must be a number, got {value!r}.") from None
    if not math.isfinite(result):
        raise BadInput(f"{what} must be a finite number, got {result}.")
    return result


def _within(what: str, value: float, limits: tuple[float, float], units: str) -> None:
    if not limits[0] <= value <= limits[1]:
        raise LimitExceeded(
            f"{what} of {value:g} {units} is outside what is possible here, {limits[0]:g} to {limits[1]:g} {units}; "
            "nothing was done."
        )


def check_frame(frame: Frame, shape: tuple[int, ...] | None, what: str) -> Frame:
    """`frame` as it is; a transient `InstrumentFault` where it has another shape than asked or is not finite."""
    if shape is not None and frame.shape != shape:
        raise InstrumentFault(
            f"{what} came back with shape {frame.shape} where {shape} was asked for; it is not used.", transient=True
        )
    values = np.asarray(frame.data)
    if values.dtype.kind in "fc" and not np.isfinite(values).all():
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise InstrumentFault(f"{what} has {bad} values that are not finite; it is not used.", transient=True)
    return frame


class GuardedScanner:
    """A scanner that stays inside the field and the dose budget."""

    def __init__(self, guard: Guard, inner: Scanner) -> None:
        self._guard, self._inner = guard, inner

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of the detectors."""
        return self._inner.signals

    @property
    def field(self) -> Field2D:
        """Where the probe may go: what the coils reach, inside the limits."""
        return self._guard.field

    @property
    def native_shape(self) -> tuple[int, int] | None:
        """Pixels of a recorded overview."""
        return self._inner.native_shape

    @property
    def probe_position_nm(self) -> tuple[float, float] | None:
        """(y, x) of the stationary probe, or None where it is parked."""
        return self._inner.probe_position_nm

    def scan(
        self, *, field: Field2D, shape: tuple[int, int], dwell_s: float, signals: tuple[str, ...], cancel: CancelToken
    ) -> tuple[Frame, ...]:
        """Scan `field`; see `Scanner.scan`."""
        limits = self._guard.limits
        dwell_s = number("The dwell time", dwell_s)
        _within("A dwell time", dwell_s, limits.dwell_s, "s")
        rows, columns = shape
        if rows < 1 or columns < 1 or rows * columns > limits.scan_pixels:
            raise LimitExceeded(
                f"A scan of {rows} x {columns} pixels is not possible; 1 to {limits.scan_pixels} pixels are."
            )
        self.check_inside(field.y_nm, field.x_nm)
        self.check_inside(field.y_nm + field.height_nm, field.x_nm + field.width_nm)
        signals = tuple(signals) or self._inner.signals[:1]
        unknown = [name for name in signals if name not in self._inner.signals]
        if unknown:
            raise BadInput(f"There is no detector {', '.join(unknown)}; there is {', '.join(self._inner.signals)}.")
        exposed_s = rows * columns * dwell_s
        with self._guard.exposure(exposed_s, cancel) as token:
            frames = self._inner.scan(field=field, shape=shape, dwell_s=dwell_s, signals=signals, cancel=token)
        if tuple(frame.signal for frame in frames) != signals:
            raise InstrumentFault(
                f"The scan recorded {[f.signal for f in frames]} where {list(signals)} was asked for.", transient=True
            )
        return tuple(check_frame(frame, (rows, columns), f"The {frame.signal} image") for frame in frames)

    def move_probe(self, y_nm: float, x_nm: float) -> None:
        """Put the probe at a place inside the field, with the beam blanked where that is possible."""
        y_nm, x_nm = number("The probe position y", y_nm), number("The probe position x", x_nm)
        self.check_inside(y_nm, x_nm)
        self._guard.blank_between_exposures()
        self._inner.move_probe(y_nm, x_nm)

    def park_probe(self) -> None:
        """Take the probe off the field of view."""
        self._inner.park_probe()

    def check_inside(self, y_nm: float, x_nm: float) -> None:
        """`LimitExceeded` for a place outside the field."""
        field = self._guard.field
        beyond = max(
            field.y_nm - y_nm,
            y_nm - field.y_nm - field.height_nm,
            field.x_nm - x_nm,
            x_nm - field.x_nm - field.width_nm,
        )
        if not beyond <= _EDGE_NM:
            raise LimitExceeded(
                f"(y {y_nm:.4g}, x {x_nm:.4g}) nm lies outside the scan field, y {field.y_nm:.4g} to "
                f"{field.y_nm + field.height_nm:.4g} and x {field.x_nm:.4g} to {field.x_nm + field.width_nm:.4g} nm; "
                "nothing was moved."
            )


class GuardedSpectrometer:
    """A spectrometer within its ranges and the dose budget."""

    def __init__(self, guard: Guard, inner: Spectrometer) -> None:
        self._guard, self._inner = guard, inner

    @property
    def signal(self) -> str:
        """``"EELS"`` or ``"EDS"``."""
        return self._inner.signal

    @property
    def channels(self) -> int:
        """Number of channels of a spectrum."""
        return self._inner.channels

    @property
    def energy_offset_ev(self) -> float:
        """Energy of channel 0."""
        return self._inner.energy_offset_ev

    @property
    def dispersion_ev(self) -> float:
        """Energy per channel, in eV."""
        return self._inner.dispersion_ev

    @property
    def dispersions_ev(self) -> tuple[float, ...]:
        """Dispersions that can be set."""
        return self._inner.dispersions_ev

    @property
    def energy_offset_range_ev(self) -> tuple[float, float]:
        """Smallest and largest energy offset that can be set."""
        return self._inner.energy_offset_range_ev

    @property
    def exposure_range_s(self) -> tuple[float, float] | None:
        """Shortest and longest exposure, where the spectrometer says (a recording holds no more than it holds)."""
        return getattr(self._inner, "exposure_range_s", None)

    def set_energy_offset_ev(self, value: float) -> None:
        """Set the energy of channel 0."""
        value = number("The energy offset", value)
        _within("An energy offset", value, self._inner.energy_offset_range_ev, "eV")
        self._inner.set_energy_offset_ev(value)

    def set_dispersion_ev(self, value: float) -> None:
        """Set one of `dispersions_ev`."""
        value = number("The dispersion", value)
        known = [d for d in self._inner.dispersions_ev if math.isclose(d, value, rel_tol=1e-6)]
        if not known:
            raise LimitExceeded(
                f"A dispersion of {value:g} eV/channel cannot be set; "
                f"{', '.join(f'{d:g}' for d in self._inner.dispersions_ev)} eV/channel can."
            )
        self._inner.set_dispersion_ev(known[0])

    def acquire_spectrum(self, exposure_s: float, cancel: CancelToken) -> Frame:
        """Expose and read; see `Spectrometer.acquire_spectrum`."""
        exposure_s = number("The exposure", exposure_s)
        _within("An exposure", exposure_s, self._guard.limits.exposure_s, "s")
        if self.exposure_range_s is not None:
            _within("An exposure", exposure_s, self.exposure_range_s, "s")
        with self._guard.exposure(exposure_s, cancel, stationary=True) as token:
            frame = self._inner.acquire_spectrum(exposure_s, token)
        return check_frame(frame, (self._inner.channels,), f"The {self._inner.signal} spectrum")


class GuardedCamera:
    """A camera within the exposure limits and the dose budget."""

    def __init__(self, guard: Guard, inner: Camera) -> None:
        self._guard, self._inner = guard, inner

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras, the default one first."""
        return self._inner.cameras

    def acquire_image(self, exposure_s: float, cancel: CancelToken, camera: str | None = None) -> Frame:
        """Expose and read once; see `Camera.acquire_image`."""
        exposure_s = number("The exposure", exposure_s)
        _within("An exposure", exposure_s, self._guard.limits.exposure_s, "s")
        if camera is not None and camera not in self._inner.cameras:
            raise BadInput(f"There is no camera {camera!r}; there is {', '.join(self._inner.cameras)}.")
        with self._guard.exposure(exposure_s, cancel, stationary=True) as token:
            frame = self._inner.acquire_image(exposure_s, token, camera)
        return check_frame(frame, None, f"The {frame.signal} image")


class GuardedOptics:
    """Optics controls within their limits and largest steps."""

    def __init__(self, guard: Guard, inner: Optics) -> None:
        self._guard, self._inner = guard, inner

    @property
    def controls(self) -> Mapping[str, ControlInfo]:
        """Every control by name, with the limits that hold here."""
        return {
            **self._inner.controls,
            **{k: v for k, v in self._guard.limits.controls.items() if k in self._inner.controls},
        }

    def get(self) -> dict[str, float]:
        """Present values of all controls."""
        return self._inner.get()

    def set(self, values: Mapping[str, float]) -> None:
        """Set some controls; all of them are checked before the first one moves."""
        controls, present = self.controls, self._inner.get()
        checked: dict[str, float] = {}
        for name, value in values.items():
            if name not in controls:
                raise BadInput(f"There is no optics control {name!r}; there is {', '.join(controls)}.")
            checked[name] = number(name, value)
            tightest = (self._inner.controls[name], controls[name])
            for info in tightest if tightest[0] != tightest[1] else tightest[:1]:
                self._guard.check_control(info, checked[name], present[name])
        if checked:
            self._inner.set(checked)


class GuardedStage:
    """A specimen stage within its limits and largest steps."""

    def __init__(self, guard: Guard, inner: Stage) -> None:
        self._guard, self._inner = guard, inner

    def position(self) -> dict[str, float]:
        """Present values."""
        return self._inner.position()

    def move(self, values: Mapping[str, float]) -> None:
        """Move to absolute values; all of them are checked before the stage moves."""
        present = self._inner.position()
        checked: dict[str, float] = {}
        for name, value in values.items():
            if name not in present:
                raise BadInput(f"The stage has no axis {name!r}; it has {', '.join(present)}.")
            checked[name] = number(name, value)
            if name in self._guard.limits.stage:
                self._guard.check_control(self._guard.limits.stage[name], checked[name], present[name])
        if checked:
            self._inner.move(checked)


class GuardedBlanker:
    """The blanker; an exposure unblanks and blanks by itself."""

    def __init__(self, guard: Guard, inner: Blanker) -> None:
        self._guard, self._inner = guard, inner

    @property
    def blanked(self) -> bool:
        """True while no electrons reach the specimen."""
        return self._inner.blanked

    def set_blanked(self, blanked: bool) -> None:
        """Blank or unblank the beam. The next exposure blanks it again when it ends."""
        self._inner.set_blanked(bool(blanked))


class EitherToken:
    """A cancel token that is set as soon as one of two is."""

    def __init__(self, first: CancelToken, second: CancelToken) -> None:
        self._first, self._second = first, second

    def is_set(self) -> bool:
        """True once stopping was asked for."""
        return self._first.is_set() or self._second.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds; True where stopping was asked for."""
        remaining = math.inf if timeout is None else timeout
        while not self.is_set():
            if remaining <= 0:
                return False
            # Two events cannot be waited for at once: look at the second every 10 ms.
            piece = min(0.01, remaining)
            self._first.wait(piece)
            remaining -= piece
        return True
