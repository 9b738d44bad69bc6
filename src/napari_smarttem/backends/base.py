"""What an instrument is: an identity, a clock, and the capabilities it has.

A backend is any object with the shape of `Instrument`. It offers the capabilities it has and None for the rest; a task
says what it needs through `require`, which raises one clear sentence naming what is missing. Backends know nothing of
limits, budgets or blanking on the way out: `guard.Guard` wraps every one of them.

Every exposure is stamped by the instrument's own clock: frames carry ``exposure_started_s`` and ``exposure_finished_s``
in their metadata, so that only frames whose exposure began after a change of the optics are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from ..schema import ControlInfo, Field2D, Frame, InstrumentInfo, MissingCapability, PlanContext

CAPABILITIES = ("scanner", "spectrometer", "camera", "optics", "stage", "blanker")


@runtime_checkable
class CancelToken(Protocol):
    """Says whether to stop; `threading.Event` fits. ``wait`` returns True as soon as stopping was asked for."""

    def is_set(self) -> bool:
        """True once stopping was asked for."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds; True where stopping was asked for."""
        ...


class Scanner(Protocol):
    """Moves the probe over the specimen and records detectors point by point. All positions in nm on the specimen."""

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of the detectors that can record during a scan, the best overview first."""
        ...

    @property
    def field(self) -> Field2D:
        """What the scan coils can reach; the coordinates every position refers to."""
        ...

    @property
    def native_shape(self) -> tuple[int, int] | None:
        """Pixels of a recorded overview, or None where any number can be asked for."""
        ...

    @property
    def probe_position_nm(self) -> tuple[float, float] | None:
        """(y, x) of the stationary probe, or None where it is parked."""
        ...

    def scan(
        self, *, field: Field2D, shape: tuple[int, int], dwell_s: float, signals: tuple[str, ...], cancel: CancelToken
    ) -> tuple[Frame, ...]:
        """One pass over `field`; a ``(y, x)`` frame in nm per signal, in the order asked. Ends with the probe parked.

        Raises `Cancelled` at the next line end once `cancel` is set, `InstrumentFault` where the scan failed.
        """
        ...

    def move_probe(self, y_nm: float, x_nm: float) -> None:
        """Put the stationary probe at a place and wait until it has settled."""
        ...

    def park_probe(self) -> None:
        """Take the probe off the field of view."""
        ...


class Spectrometer(Protocol):
    """Records a spectrum with the probe where it stands."""

    @property
    def signal(self) -> str:
        """``"EELS"`` or ``"EDS"``."""
        ...

    @property
    def channels(self) -> int:
        """Number of channels of a spectrum."""
        ...

    @property
    def energy_offset_ev(self) -> float:
        """Energy of channel 0."""
        ...

    @property
    def dispersion_ev(self) -> float:
        """EV per channel."""
        ...

    @property
    def dispersions_ev(self) -> tuple[float, ...]:
        """Dispersions that can be set; one entry where it is fixed."""
        ...

    @property
    def energy_offset_range_ev(self) -> tuple[float, float]:
        """Smallest and largest energy offset that can be set; equal where it is fixed."""
        ...

    def set_energy_offset_ev(self, value: float) -> None:
        """Set the energy of channel 0 and wait until it has settled."""
        ...

    def set_dispersion_ev(self, value: float) -> None:
        """Set one of `dispersions_ev`."""
        ...

    def acquire_spectrum(self, exposure_s: float, cancel: CancelToken) -> Frame:
        """Expose and read; shape ``(channels,)``, axis in eV. Raises `Cancelled` or `InstrumentFault`."""
        ...


class Camera(Protocol):
    """Records images of the angle plane: Ronchigrams, diffraction patterns, the sorter's camera."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras, the default one first."""
        ...

    def acquire_image(self, exposure_s: float, cancel: CancelToken, camera: str | None = None) -> Frame:
        """Expose and read once; a ``(theta_y, theta_x)`` frame in mrad or 1/nm."""
        ...


class Optics(Protocol):
    """Named controls of the column, in their own units."""

    @property
    def controls(self) -> Mapping[str, ControlInfo]:
        """Every control by name, with units and limits."""
        ...

    def get(self) -> dict[str, float]:
        """Present values of all controls."""
        ...

    def set(self, values: Mapping[str, float]) -> None:
        """Set some controls to absolute values and wait until they have settled."""
        ...


class Stage(Protocol):
    """The specimen stage; positions in nm, tilts in mrad."""

    def position(self) -> dict[str, float]:
        """Present values, such as ``{"y_nm": 0.0, "x_nm": 0.0, "z_nm": 0.0, "alpha_mrad": 0.0}``."""
        ...

    def move(self, values: Mapping[str, float]) -> None:
        """Move to absolute values and wait until the stage stands still."""
        ...


class Blanker(Protocol):
    """Keeps the beam off the specimen."""

    @property
    def blanked(self) -> bool:
        """True while no electrons reach the specimen."""
        ...

    def set_blanked(self, blanked: bool) -> None:
        """Blank or unblank the beam, and wait until it is so."""
        ...


class Instrument(Protocol):
    """A microscope, a simulation of one, or a recording played back.

    Attributes
    ----------
    info : InstrumentInfo
        Identity; ``info.settings`` is what `registry.connect` needs to connect to the same instrument again.
    scanner, spectrometer, camera, optics, stage, blanker
        Capabilities, None where the instrument lacks one.
    beam_current_pa : float or None
        Present beam current, None where it is not known.
    """

    info: InstrumentInfo
    scanner: Scanner | None
    spectrometer: Spectrometer | None
    camera: Camera | None
    optics: Optics | None
    stage: Stage | None
    blanker: Blanker | None

    @property
    def beam_current_pa(self) -> float | None:
        """Present beam current in pA, None where it is not known."""
        ...

    def now_s(self) -> float:
        """The instrument's clock, in s. May be virtual; never runs backwards."""
        ...

    def plan_context(self) -> PlanContext:
        """What a plan may know before it starts: field, signals, timings, beam current."""
        ...

    def close(self) -> None:
        """Let go of the instrument. May be called twice."""
        ...


def require(instrument: Any, *names: str) -> None:
    """Raise `MissingCapability` in one sentence unless `instrument` has every capability in `names`."""
    missing = [name for name in names if getattr(instrument, name, None) is None]
    if missing:
        have = [name for name in CAPABILITIES if getattr(instrument, name, None) is not None]
        raise MissingCapability(
            f"{instrument.info.name} has no {' and no '.join(missing)}, which this task needs; "
            f"it offers {', '.join(have) or 'nothing'}."
        )
