"""A plan tried out without touching the instrument: the same limits and dose budget, no electron and no movement.

`Rehearsal` reads an instrument's identity, ranges and present settings once and from then on keeps everything it is
told in memory. `check_plan` runs steps through a `Guard` around one and collects what the guard refuses.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schema import (
    Acquire,
    Axis,
    ControlInfo,
    Field2D,
    Frame,
    InstrumentInfo,
    MoveProbe,
    PlanContext,
    Scan,
    SetOptics,
    SetSpectrometer,
    SmartTEMError,
    TakeImage,
    image_frame,
    spectrum_frame,
)
from .base import Blanker, Camera, CancelToken, Instrument, Optics, Scanner, Spectrometer, Stage, require

if TYPE_CHECKING:
    from .guard import Guard


def check_plan(steps: Iterable[Any], guard: Guard) -> list[str]:
    """What the guard would refuse of `steps`, in order, without touching anything.

    Parameters
    ----------
    steps : iterable of Step
        Notes and reviews cost nothing and are passed over.
    guard : Guard
        Its limits, what is left of its dose budget and the instrument's present settings are the starting point.

    Returns
    -------
    list of str
        ``"step-id: sentence"`` for every step that would be refused; empty where all would be carried out.
    """
    from .guard import Guard

    dry = Guard(guard.unwrapped, limits=guard.limits, dose_budget_e_per_a2=guard.dose_budget_e_per_a2, dry_run=True)
    dry.reset_dose(guard.dose_e_per_a2)
    never = threading.Event()
    sentences = []
    for step in steps:
        try:
            _rehearse(step, dry, never)
        except SmartTEMError as error:
            sentences.append(f"{step.step_id}: {error}")
    return sentences


def _rehearse(step: Any, dry: Guard, never: CancelToken) -> None:
    if isinstance(step, Scan):
        require(dry, "scanner")
        assert dry.scanner is not None
        dry.scanner.scan(
            field=step.field or dry.scanner.field,
            shape=step.shape,
            dwell_s=step.dwell_s,
            signals=step.signals,
            cancel=never,
        )
    elif isinstance(step, Acquire):
        require(dry, "scanner", "spectrometer")
        assert dry.scanner is not None
        assert dry.spectrometer is not None
        dry.scanner.move_probe(step.y_nm, step.x_nm)
        dry.spectrometer.acquire_spectrum(step.exposure_s, never)
        dry.scanner.park_probe()
    elif isinstance(step, TakeImage):
        require(dry, "camera")
        assert dry.camera is not None
        if step.y_nm is not None and step.x_nm is not None:
            require(dry, "scanner")
            assert dry.scanner is not None
            dry.scanner.move_probe(step.y_nm, step.x_nm)
        dry.camera.acquire_image(step.exposure_s, never, step.camera)
    elif isinstance(step, MoveProbe):
        require(dry, "scanner")
        assert dry.scanner is not None
        if step.y_nm is not None and step.x_nm is not None:
            dry.scanner.move_probe(step.y_nm, step.x_nm)
    elif isinstance(step, SetOptics):
        require(dry, "optics")
        assert dry.optics is not None
        dry.optics.set(step.values)
    elif isinstance(step, SetSpectrometer):
        require(dry, "spectrometer")
        assert dry.spectrometer is not None
        if step.dispersion_ev is not None:
            dry.spectrometer.set_dispersion_ev(step.dispersion_ev)
        if step.energy_offset_ev is not None:
            dry.spectrometer.set_energy_offset_ev(step.energy_offset_ev)


class Rehearsal:
    """The shape of an instrument, its ranges and its settings, with nothing behind them."""

    def __init__(self, instrument: Instrument) -> None:
        self.info: InstrumentInfo = instrument.info
        self._context = instrument.plan_context()
        self._current = instrument.beam_current_pa
        self._now = instrument.now_s()
        self.scanner: Scanner | None = None if instrument.scanner is None else _Scanner(self, instrument.scanner)
        self.spectrometer: Spectrometer | None = (
            None if instrument.spectrometer is None else _Spectrometer(self, instrument.spectrometer)
        )
        self.camera: Camera | None = None if instrument.camera is None else _Camera(self, instrument.camera)
        self.optics: Optics | None = None if instrument.optics is None else _Optics(instrument.optics)
        self.stage: Stage | None = None if instrument.stage is None else _Stage(instrument.stage)
        self.blanker: Blanker | None = None if instrument.blanker is None else _Blanker()

    @property
    def beam_current_pa(self) -> float | None:
        """The beam current when the rehearsal began, in pA."""
        return self._current

    def now_s(self) -> float:
        """A clock that only exposures move."""
        return self._now

    def plan_context(self) -> PlanContext:
        """The instrument's own."""
        return self._context

    def close(self) -> None:
        """The instrument belongs to somebody else and stays open."""

    def exposed(self, seconds: float) -> dict[str, Any]:
        """Let the clock run for `seconds`; metadata of a frame that would have been recorded."""
        started = self._now
        self._now += seconds
        return {"exposure_started_s": started, "exposure_finished_s": self._now, "exposure_s": seconds, "dry_run": True}

    def read_out(self) -> None:
        """Let the time of a spectrum's read-out pass; a stationary probe delivers dose during it."""
        self._now += self._context.spectrum_readout_s


class _Scanner:
    def __init__(self, owner: Rehearsal, inner: Scanner) -> None:
        self._owner = owner
        self.signals: tuple[str, ...] = inner.signals
        self.field: Field2D = inner.field
        self.native_shape: tuple[int, int] | None = inner.native_shape
        self.probe_position_nm: tuple[float, float] | None = None

    def scan(
        self, *, field: Field2D, shape: tuple[int, int], dwell_s: float, signals: tuple[str, ...], cancel: CancelToken
    ) -> tuple[Frame, ...]:
        metadata = self._owner.exposed(shape[0] * shape[1] * dwell_s)
        pixel = (field.height_nm / shape[0], field.width_nm / shape[1])
        origin = (field.y_nm + pixel[0] / 2, field.x_nm + pixel[1] / 2)
        return tuple(
            image_frame(np.zeros(shape, np.uint8), pixel_nm=pixel, origin_nm=origin, signal=name, metadata=metadata)
            for name in signals
        )

    def move_probe(self, y_nm: float, x_nm: float) -> None:
        self.probe_position_nm = (y_nm, x_nm)

    def park_probe(self) -> None:
        self.probe_position_nm = None


class _Spectrometer:
    def __init__(self, owner: Rehearsal, inner: Spectrometer) -> None:
        self._owner = owner
        self.signal: str = inner.signal
        self.channels: int = inner.channels
        self.energy_offset_ev: float = inner.energy_offset_ev
        self.dispersion_ev: float = inner.dispersion_ev
        self.dispersions_ev: tuple[float, ...] = inner.dispersions_ev
        self.energy_offset_range_ev: tuple[float, float] = inner.energy_offset_range_ev
        self.exposure_range_s: tuple[float, float] | None = getattr(inner, "exposure_range_s", None)

    def set_energy_offset_ev(self, value: float) -> None:
        self.energy_offset_ev = value

    def set_dispersion_ev(self, value: float) -> None:
        self.dispersion_ev = value

    def acquire_spectrum(self, exposure_s: float, cancel: CancelToken) -> Frame:
        metadata = self._owner.exposed(exposure_s)
        self._owner.read_out()
        return spectrum_frame(
            np.zeros(self.channels, np.uint8),
            dispersion_ev=self.dispersion_ev,
            offset_ev=self.energy_offset_ev,
            signal=self.signal,
            metadata=metadata,
        )


class _Camera:
    def __init__(self, owner: Rehearsal, inner: Camera) -> None:
        self._owner = owner
        self.cameras: tuple[str, ...] = inner.cameras

    def acquire_image(self, exposure_s: float, cancel: CancelToken, camera: str | None = None) -> Frame:
        axes = (Axis(name="theta_y", units="mrad"), Axis(name="theta_x", units="mrad"))
        return Frame(
            data=np.zeros((1, 1), np.uint8),
            axes=axes,
            signal=camera or self.cameras[0],
            metadata=self._owner.exposed(exposure_s),
        )


class _Optics:
    def __init__(self, inner: Optics) -> None:
        self.controls: Mapping[str, ControlInfo] = dict(inner.controls)
        self._values = dict(inner.get())

    def get(self) -> dict[str, float]:
        return dict(self._values)

    def set(self, values: Mapping[str, float]) -> None:
        self._values.update(values)


class _Stage:
    def __init__(self, inner: Stage) -> None:
        self._values = dict(inner.position())

    def position(self) -> dict[str, float]:
        return dict(self._values)

    def move(self, values: Mapping[str, float]) -> None:
        self._values.update({name: float(value) for name, value in values.items() if math.isfinite(value)})


class _Blanker:
    def __init__(self) -> None:
        self.blanked: bool = True

    def set_blanked(self, blanked: bool) -> None:
        self.blanked = blanked
