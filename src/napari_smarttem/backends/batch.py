"""Many points in one go, under the guard: every point's dose is counted, and the batch ends where the budget does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..schema import Cancelled, Frame, InstrumentFault, LimitExceeded, SmartTEMError
from .base import CancelToken, require
from .guarded import GuardedScanner, check_frame, number

if TYPE_CHECKING:
    from .guard import Guard

MOST = 256
"""Points sent together under a budget, after one alone, which shows how long the beam is on for each."""


def visit(
    guard: Guard, points_nm: Sequence[tuple[float, float]], exposure_s: float, cancel: CancelToken
) -> Iterator[Frame]:
    """See `Guard.visit`. All points are checked at once, before anything is done."""
    require(guard, "scanner", "spectrometer")
    assert isinstance(guard.scanner, GuardedScanner)
    exposure_s = number("The exposure", exposure_s)
    low, high = guard.limits.exposure_s
    if not low <= exposure_s <= high:
        raise LimitExceeded(
            f"An exposure of {exposure_s:g} s is outside what is possible here, {low:g} to {high:g} s; nothing was done."
        )
    points = [(number("A place's y", y), number("A place's x", x)) for y, x in points_nm]
    for place in points:
        guard.scanner.check_inside(*place)
    return (
        _one_by_one(guard, points, exposure_s, cancel)
        if guard.batch is None
        else _together(guard, points, exposure_s, cancel)
    )


def _one_by_one(
    guard: Guard, points: list[tuple[float, float]], exposure_s: float, cancel: CancelToken
) -> Iterator[Frame]:
    assert guard.scanner is not None
    assert guard.spectrometer is not None
    try:
        for y, x in points:
            guard.scanner.move_probe(y, x)
            yield guard.spectrometer.acquire_spectrum(exposure_s, cancel)
    finally:
        guard.scanner.park_probe()


def _together(
    guard: Guard, points: list[tuple[float, float]], exposure_s: float, cancel: CancelToken
) -> Iterator[Frame]:
    assert guard.batch is not None
    assert guard.spectrometer is not None
    on_s = exposure_s + guard.readout_s
    most, begun = 1, 0
    while begun < len(points):
        left = len(points) - begun
        wanted = left if guard.dose_budget_e_per_a2 is None else min(left, most)
        some = points[begun : begun + guard.affordable(on_s, wanted)]
        frames: list[Frame] = []
        failure: SmartTEMError | None = None
        try:
            with guard.interruptible(cancel) as token:
                started_s = guard.now_s()
                try:
                    for frame in guard.batch(some, exposure_s, token):
                        frames.append(frame)
                except SmartTEMError as error:
                    failure = error  # those before it are kept
                if isinstance(failure, InstrumentFault) and not frames:  # nobody knows how far it came
                    took_s = len(some) * (exposure_s + guard.readout_s)
                else:
                    took_s = _beam_on_s(guard, frames, exposure_s, started_s)
                    took_s += exposure_s + guard.readout_s if failure is not None else 0.0
                guard.count(took_s)
        except Cancelled as error:
            failure = error
        for frame in frames:
            yield check_frame(frame, (guard.spectrometer.channels,), f"The {guard.spectrometer.signal} spectrum")
        if failure is not None:
            raise failure
        on_s = max(on_s, took_s / len(some))
        begun, most = begun + len(some), MOST


def _beam_on_s(guard: Guard, frames: list[Frame], exposure_s: float, started_s: float) -> float:
    """Seconds of beam on the specimen: from stamp to stamp, or all the time where there is no blanker."""
    if guard.blanker is None:
        return max(guard.now_s() - started_s, len(frames) * exposure_s)
    stamps = ((f.metadata["exposure_started_s"], f.metadata["exposure_finished_s"]) for f in frames)
    return sum(max(exposure_s, float(str(end)) - float(str(start))) for start, end in stamps)
