"""One step on one instrument: the translation from what a plan asks to what a capability does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backends.base import CancelToken, require
from ..schema import (
    Acquire,
    BadInput,
    Frame,
    MoveProbe,
    Note,
    Scan,
    SetOptics,
    SetSpectrometer,
    StepResult,
    TakeImage,
)


def execute(instrument: Any, step: Any, cancel: CancelToken) -> StepResult:
    """Carry out `step`; the guard sees to limits, dose and the blanked beam.

    Parameters
    ----------
    instrument : Guard
    step : Step
        Any but `AwaitReview`, which needs a person and not an instrument.
    cancel : CancelToken
        Looked at by the detectors.

    Raises
    ------
    SmartTEMError
        `Cancelled`, `InstrumentFault`, `LimitExceeded`, `DoseBudgetExceeded`, `MissingCapability`; nothing is swallowed here.
    """
    try:
        action = _ACTIONS[type(step)]
    except KeyError:
        raise BadInput(f"A plan asked for {type(step).__name__}, which is not a step an instrument can do.") from None
    started = instrument.now_s()
    dose_before = instrument.dose_e_per_a2
    frames = action(instrument, step, cancel)
    return StepResult(
        step=step,
        frames=frames,
        started_s=started,
        finished_s=instrument.now_s(),
        dose_e_per_a2=max(0.0, instrument.dose_e_per_a2 - dose_before),
    )


def _scan(instrument: Any, step: Scan, cancel: CancelToken) -> tuple[Frame, ...]:
    require(instrument, "scanner")
    scanner = instrument.scanner
    frames: tuple[Frame, ...] = scanner.scan(
        field=step.field or scanner.field,
        shape=step.shape,
        dwell_s=step.dwell_s,
        signals=step.signals or scanner.signals[:1],
        cancel=cancel,
    )
    return frames


def _acquire(instrument: Any, step: Acquire, cancel: CancelToken) -> tuple[Frame, ...]:
    require(instrument, "scanner", "spectrometer")
    instrument.scanner.move_probe(step.y_nm, step.x_nm)
    try:
        return (instrument.spectrometer.acquire_spectrum(step.exposure_s, cancel),)
    finally:
        instrument.scanner.park_probe()


def _take_image(instrument: Any, step: TakeImage, cancel: CancelToken) -> tuple[Frame, ...]:
    require(instrument, "camera")
    placed = step.y_nm is not None and step.x_nm is not None
    if placed:
        require(instrument, "scanner")
        instrument.scanner.move_probe(step.y_nm, step.x_nm)
    try:
        return (instrument.camera.acquire_image(step.exposure_s, cancel, camera=step.camera),)
    finally:
        if placed:
            instrument.scanner.park_probe()


def _move_probe(instrument: Any, step: MoveProbe, _cancel: CancelToken) -> tuple[Frame, ...]:
    require(instrument, "scanner")
    if step.y_nm is None or step.x_nm is None:
        instrument.scanner.park_probe()
    else:
        instrument.scanner.move_probe(step.y_nm, step.x_nm)
    return ()


def _set_optics(instrument: Any, step: SetOptics, _cancel: CancelToken) -> tuple[Frame, ...]:
    require(instrument, "optics")
    instrument.optics.set(step.values)
    return ()


def _set_spectrometer(instrument: Any, step: SetSpectrometer, _cancel: CancelToken) -> tuple[Frame, ...]:
    require(instrument, "spectrometer")
    if step.dispersion_ev is not None:
        instrument.spectrometer.set_dispersion_ev(step.dispersion_ev)
    if step.energy_offset_ev is not None:
        instrument.spectrometer.set_energy_offset_ev(step.energy_offset_ev)
    return ()


def _note(_instrument: Any, _step: Note, _cancel: CancelToken) -> tuple[Frame, ...]:
    return ()


_ACTIONS: dict[type, Callable[[Any, Any, CancelToken], tuple[Frame, ...]]] = {
    Scan: _scan,
    Acquire: _acquire,
    TakeImage: _take_image,
    MoveProbe: _move_probe,
    SetOptics: _set_optics,
    SetSpectrometer: _set_spectrometer,
    Note: _note,
}
