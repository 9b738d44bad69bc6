"""Instruments that fail on purpose, to try out what a run does then.

`Faulty` has the shape of an `Instrument` and passes everything on, until one of its `Fault`s is due: by the number of the
call or by chance, under a seed. `full_disk` is the fault that is not the instrument's.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from ..schema import BadInput, Cancelled, Frame, InstrumentFault, InstrumentInfo, PlanContext
from .base import Blanker, Camera, CancelToken, Instrument, Optics, Scanner, Spectrometer, Stage

T = TypeVar("T")

FaultKind = Literal["timeout", "dropped", "nan", "truncated", "beam_gone", "slow", "refused"]

_EXPOSURES = ("scan", "acquire_spectrum", "acquire_image")
_KINDS: dict[str, tuple[str, ...]] = {
    "timeout": _EXPOSURES,
    "dropped": _EXPOSURES,
    "nan": _EXPOSURES,
    "truncated": _EXPOSURES,
    "beam_gone": _EXPOSURES,
    "slow": _EXPOSURES,
    "refused": ("set_optics", "move_probe", "move_stage", "set_energy_offset_ev", "set_dispersion_ev", "set_blanked"),
}
CALLS = tuple(dict.fromkeys((*_EXPOSURES, *_KINDS["refused"], "park_probe")))
"""The calls that can fail, by name."""


@dataclass(frozen=True)
class Fault:
    """One way to fail, and when.

    Attributes
    ----------
    kind : str
        ``"timeout"`` (transient fault, after the exposure), ``"dropped"`` (the connection is lost: this and every later
        call fails), ``"nan"`` and ``"truncated"`` (a frame that is not usable), ``"beam_gone"`` (zero counts, then a
        permanent fault at the next exposure), ``"slow"`` (takes `seconds` longer), ``"refused"`` (a control does not move).
    calls : tuple of str
        Which calls it befalls (see `CALLS`); empty: those this kind usually befalls.
    at : tuple of int
        Numbers of the calls, the first being 0, counted over all calls named in `calls`.
    probability : float
        Chance per call, beside `at`.
    seconds : float
        How much longer a slow call takes, on a real clock.
    blanks_itself : bool
        Whether the instrument, left alone by a dropped connection, blanks its own beam (a dead man's switch).
    """

    kind: FaultKind
    calls: tuple[str, ...] = ()
    at: tuple[int, ...] = ()
    probability: float = 0.0
    seconds: float = 1.0
    blanks_itself: bool = True

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise BadInput(f"There is no fault {self.kind!r}; there is {', '.join(_KINDS)}.")
        unknown = [name for name in self.calls if name not in CALLS]
        if unknown:
            raise BadInput(f"There is no call {', '.join(unknown)} that could fail; there is {', '.join(CALLS)}.")
        if not 0.0 <= self.probability <= 1.0:
            raise BadInput(f"A fault's probability lies between 0 and 1, got {self.probability!r}.")

    @property
    def befalls(self) -> tuple[str, ...]:
        """Names of the calls it befalls."""
        return self.calls or _KINDS[self.kind]


class Faulty:
    """An instrument that fails when it is told to.

    Parameters
    ----------
    instrument : Instrument
        Works; `unwrapped` gives it back.
    faults : sequence of Fault
        None scheduled: it works as well as `instrument`.
    seed : int
        Of the faults that come by chance; the same seed and the same calls give the same faults.
    """

    def __init__(self, instrument: Instrument, faults: Sequence[Fault] = (), seed: int = 0) -> None:
        self.unwrapped = instrument
        self.faults = tuple(faults)
        self.fired: list[tuple[str, int, str]] = []
        """What failed so far: call, its number, kind of fault."""
        self._rng = np.random.default_rng(seed)
        self._lock = threading.Lock()
        self._counts = [0] * len(self.faults)
        self._dropped = self._beam_gone = False
        self.info: InstrumentInfo = instrument.info
        inner = instrument
        self.scanner: Scanner | None = None if inner.scanner is None else _Scanner(self, inner.scanner)
        self.spectrometer: Spectrometer | None = (
            None if inner.spectrometer is None else _Spectrometer(self, inner.spectrometer)
        )
        self.camera: Camera | None = None if inner.camera is None else _Camera(self, inner.camera)
        self.optics: Optics | None = None if inner.optics is None else _Optics(self, inner.optics)
        self.stage: Stage | None = None if inner.stage is None else _Stage(self, inner.stage)
        self.blanker: Blanker | None = None if inner.blanker is None else _Blanker(self, inner.blanker)

    @property
    def beam_current_pa(self) -> float | None:
        """As the instrument says; 0 once the beam has gone."""
        return 0.0 if self._beam_gone else self.unwrapped.beam_current_pa

    def now_s(self) -> float:
        """The instrument's clock."""
        return self.unwrapped.now_s()

    def plan_context(self) -> PlanContext:
        """As the instrument says."""
        return self.unwrapped.plan_context()

    def close(self) -> None:
        """Let go of the instrument. May be called twice; works after a dropped connection."""
        self.unwrapped.close()

    def repair(self) -> None:
        """Connection and beam are back; faults that are scheduled stay so."""
        self._dropped = self._beam_gone = False

    def command(self, name: str, action: Callable[[], None]) -> None:
        """Carry out a command unless a fault is due."""
        kinds = self._due(name)
        if "slow" in kinds:
            threading.Event().wait(self._slowness(name))
        if "timeout" in kinds:
            raise InstrumentFault(f"{name} timed out: the instrument did not answer in time.", transient=True)
        if "refused" in kinds:
            raise InstrumentFault(f"The instrument refused {name}; check it by hand.")
        action()

    def expose(self, name: str, action: Callable[[], T], spoil: Callable[[T, str], T], cancel: CancelToken) -> T:
        """Expose unless a fault is due; a fault that spoils frames does so afterwards, when the dose is delivered."""
        if self._beam_gone:
            raise InstrumentFault("There is no beam: no counts arrive at any detector; check the gun and the valves.")
        kinds = self._due(name)
        if "slow" in kinds and cancel.wait(self._slowness(name)):
            raise Cancelled(f"{name} was stopped while the instrument was slow to answer.")
        if "refused" in kinds:
            raise InstrumentFault(f"The instrument refused {name}; check it by hand.")
        result = action()
        if "timeout" in kinds:
            raise InstrumentFault(f"{name} timed out: nothing was read out in time.", transient=True)
        if "beam_gone" in kinds:
            self._beam_gone = True
        for kind in ("nan", "truncated", "beam_gone"):
            if kind in kinds:
                result = spoil(result, kind)
        return result

    def _due(self, name: str) -> set[str]:
        """Kinds of the faults that befall this call. Every scheduled fault counts the calls it could befall."""
        kinds: set[str] = set()
        with self._lock:
            for index, fault in enumerate(self.faults):
                if name not in fault.befalls:
                    continue
                number = self._counts[index]
                self._counts[index] += 1
                by_chance = fault.probability > 0 and self._rng.random() < fault.probability
                if number in fault.at or by_chance:
                    kinds.add(fault.kind)
                    self.fired.append((name, number, fault.kind))
                    if fault.kind == "dropped":
                        self._drop(fault)
            dropped = self._dropped
        if dropped:
            raise InstrumentFault(f"The connection to {self.info.name} was lost; reconnect and resume the run.")
        return kinds

    def _drop(self, fault: Fault) -> None:
        self._dropped = True
        if fault.blanks_itself and self.unwrapped.blanker is not None:
            self.unwrapped.blanker.set_blanked(True)

    def _slowness(self, name: str) -> float:
        return max(fault.seconds for fault in self.faults if fault.kind == "slow" and name in fault.befalls)


def _spoil_frame(frame: Frame, kind: str) -> Frame:
    data = np.array(frame.data)
    if kind == "beam_gone":
        return frame.with_data(np.zeros_like(data))
    if kind == "nan":
        data = data.astype(np.float32)
        data.flat[data.size // 2 :] = np.nan
        return frame.with_data(data)
    return frame.with_data(data[: data.shape[0] // 2])


def _spoil_frames(frames: tuple[Frame, ...], kind: str) -> tuple[Frame, ...]:
    return tuple(_spoil_frame(frame, kind) for frame in frames)


class _Passing:
    """Everything that cannot fail is the wrapped capability's."""

    def __init__(self, owner: Faulty, inner: Any) -> None:
        self._owner, self._inner = owner, inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Scanner(_Passing):
    def scan(self, *, cancel: CancelToken, **arguments: Any) -> tuple[Frame, ...]:
        return self._owner.expose("scan", lambda: self._inner.scan(cancel=cancel, **arguments), _spoil_frames, cancel)

    def move_probe(self, y_nm: float, x_nm: float) -> None:
        self._owner.command("move_probe", lambda: self._inner.move_probe(y_nm, x_nm))

    def park_probe(self) -> None:
        self._owner.command("park_probe", self._inner.park_probe)


class _Spectrometer(_Passing):
    def set_energy_offset_ev(self, value: float) -> None:
        self._owner.command("set_energy_offset_ev", lambda: self._inner.set_energy_offset_ev(value))

    def set_dispersion_ev(self, value: float) -> None:
        self._owner.command("set_dispersion_ev", lambda: self._inner.set_dispersion_ev(value))

    def acquire_spectrum(self, exposure_s: float, cancel: CancelToken) -> Frame:
        def record() -> Frame:
            frame: Frame = self._inner.acquire_spectrum(exposure_s, cancel)
            return frame

        return self._owner.expose("acquire_spectrum", record, _spoil_frame, cancel)


class _Camera(_Passing):
    def acquire_image(self, exposure_s: float, cancel: CancelToken, camera: str | None = None) -> Frame:
        def record() -> Frame:
            frame: Frame = self._inner.acquire_image(exposure_s, cancel, camera)
            return frame

        return self._owner.expose("acquire_image", record, _spoil_frame, cancel)


class _Optics(_Passing):
    def set(self, values: Any) -> None:
        self._owner.command("set_optics", lambda: self._inner.set(values))


class _Stage(_Passing):
    def move(self, values: Any) -> None:
        self._owner.command("move_stage", lambda: self._inner.move(values))


class _Blanker(_Passing):
    def set_blanked(self, blanked: bool) -> None:
        self._owner.command("set_blanked", lambda: self._inner.set_blanked(blanked))


@contextmanager
def full_disk(module: Any, *, name: str = "fsync", after: int = 0) -> Iterator[None]:
    """A disk that is full from the call number `after` on: ``module.os.NAME`` raises ``OSError(ENOSPC)``.

    Parameters
    ----------
    module : module
        The one whose ``os`` calls fail; other modules' do not.
    name : str
        A function of `os`, such as ``"fsync"``, ``"write"`` or ``"replace"``.
    after : int
        Calls that succeed before the disk is full.
    """
    genuine = module.os
    if not callable(getattr(genuine, name, None)):
        raise BadInput(f"os has no function {name!r} that could find the disk full.")
    calls = 0

    class _FullDisk:
        def __getattr__(self, attribute: str) -> Any:
            real = getattr(genuine, attribute)
            if attribute != name:
                return real

            def fail_when_full(*arguments: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > after:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return real(*arguments, **options)

            return fail_when_full

    module.os = _FullDisk()
    try:
        yield
    finally:
        module.os = genuine
