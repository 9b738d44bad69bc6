"""An instrument that takes no time: what is left of a run's duration is the engine's own.

It is for measuring and testing the engine, and is not registered as a backend: nobody can connect to it by mistake.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from ...backends.base import CancelToken
from ...schema import (
    BadInput,
    Cancelled,
    ControlInfo,
    Field2D,
    Frame,
    InstrumentFault,
    InstrumentInfo,
    PlanContext,
    image_frame,
    spectrum_frame,
)

_FIELD = Field2D(y_nm=0.0, x_nm=0.0, height_nm=100.0, width_nm=100.0)


class InstantInstrument:
    """Scanner, spectrometer, optics and blanker in one object; every answer is at hand at once.

    Parameters
    ----------
    channels : int
        Length of a spectrum.
    seconds_per_exposure : float
        Real time an exposure takes, for tests of stopping and pausing; it looks at the cancel token all the while.
    """

    def __init__(self, channels: int = 2048, seconds_per_exposure: float = 0.0) -> None:
        self.info = InstrumentInfo(
            backend="instant",
            name="instant instrument (SIMULATED)",
            simulated=True,
            capabilities=("scanner", "spectrometer", "optics", "blanker"),
        )
        self.scanner = self
        self.spectrometer = self
        self.optics = self
        self.blanker = self
        self.camera = None
        self.stage = None
        self.channels = channels
        self.seconds_per_exposure = seconds_per_exposure
        self.signal = "EELS"
        self.energy_offset_ev = 0.0
        self.dispersion_ev = 0.5
        self.dispersions_ev = (0.5, 1.0)
        self.energy_offset_range_ev = (-100.0, 1000.0)
        self.probe_position_nm: tuple[float, float] | None = None
        self.blanked = True
        self.visited: list[tuple[float, float]] = []
        self.closed = 0
        self._values = {"C1": 0.0}
        self._ramp = np.arange(channels, dtype=np.float32)

    signals = ("HAADF",)
    field = _FIELD
    native_shape = None
    beam_current_pa = 10.0
    controls: Mapping[str, ControlInfo] = {
        "C1": ControlInfo(name="C1", units="nm", minimum=-1000.0, maximum=1000.0, largest_step=500.0)
    }

    def now_s(self) -> float:
        """Real time."""
        return time.monotonic()

    def plan_context(self) -> PlanContext:
        """The field and the detectors."""
        return PlanContext(field=_FIELD, signals=self.signals, beam_current_pa=self.beam_current_pa)

    def close(self) -> None:
        """Count how often it was let go."""
        self.closed += 1

    def scan(
        self, *, field: Field2D, shape: tuple[int, int], dwell_s: float, signals: tuple[str, ...], cancel: CancelToken
    ) -> tuple[Frame, ...]:
        """A ramp over the field for each signal."""
        self._expose(cancel)
        rows, columns = shape
        image = np.add.outer(np.arange(rows), np.arange(columns)).astype(np.float32)
        pixel = (field.height_nm / rows, field.width_nm / columns)
        origin = (field.y_nm + pixel[0] / 2, field.x_nm + pixel[1] / 2)
        self.probe_position_nm = None
        return tuple(image_frame(image, pixel_nm=pixel, origin_nm=origin, signal=name) for name in signals)

    def move_probe(self, y_nm: float, x_nm: float) -> None:
        """Put the probe at a place."""
        self.probe_position_nm = (y_nm, x_nm)

    def park_probe(self) -> None:
        """Take the probe away."""
        self.probe_position_nm = None

    def set_energy_offset_ev(self, value: float) -> None:
        """Set the energy of channel 0."""
        self.energy_offset_ev = value

    def set_dispersion_ev(self, value: float) -> None:
        """Set one of the two dispersions."""
        if value not in self.dispersions_ev:
            raise BadInput(f"A dispersion of {value} eV is not one of {self.dispersions_ev}.")
        self.dispersion_ev = value

    def acquire_spectrum(self, exposure_s: float, cancel: CancelToken) -> Frame:
        """A ramp whose first two channels say where the probe stood."""
        if self.probe_position_nm is None:
            raise InstrumentFault("The probe is parked; put it somewhere before recording a spectrum.")
        self._expose(cancel)
        self.visited.append(self.probe_position_nm)
        counts = self._ramp.copy()
        counts[:2] = self.probe_position_nm
        return spectrum_frame(
            counts, dispersion_ev=self.dispersion_ev, offset_ev=self.energy_offset_ev, signal="EELS",
            metadata={"exposure_s": exposure_s},
        )  # fmt: skip

    def get(self) -> dict[str, float]:
        """Present values of the controls."""
        return dict(self._values)

    def set(self, values: Mapping[str, float]) -> None:
        """Set some controls."""
        self._values.update(values)

    def set_blanked(self, blanked: bool) -> None:
        """Blank or unblank."""
        self.blanked = blanked

    def _expose(self, cancel: CancelToken) -> None:
        if self.seconds_per_exposure and cancel.wait(self.seconds_per_exposure):
            raise Cancelled("The exposure was broken off.")
