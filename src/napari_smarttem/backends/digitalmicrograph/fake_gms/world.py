"""What stands behind the fake GMS: the simulated microscope, or something that takes no time at all."""

from __future__ import annotations

import threading
import time
from typing import Protocol

import numpy as np

from ....schema import Field2D, InstrumentFault
from ...simulator import connect as switch_on
from ...simulator.clock import Clock

NEVER = threading.Event()


class World(Protocol):
    """A specimen with a beam on it; positions (y, x) in nm from the middle of the field of view."""

    field_nm: float
    signals: tuple[str, ...]
    blanked: bool
    high_tension_v: float

    def now_s(self) -> float:
        """Its clock."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        ...

    def place(self, position: tuple[float, float] | None) -> None:
        """Put the stationary beam somewhere, or off the specimen."""
        ...

    def image(
        self, signals: tuple[str, ...], y: np.ndarray, x: np.ndarray, dwell_s: float, tilted: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Electrons counted at each sample of a scan: `y`, `x` along the axes, or `tilted` (2, rows, columns)."""
        ...

    def spectrum(self, exposure_s: float, energy_ev: float, dispersion_ev: float) -> np.ndarray:
        """Counts in 2048 channels, channel 0 at `energy_ev`; time does not pass by itself."""
        ...

    def ronchigram(self, exposure_s: float) -> np.ndarray:
        """Electrons in the angle plane, a square array, with the beam on a thin film; time does not pass by itself."""
        ...


class _HeldClock(Clock):
    """The simulator's clock, held while the fake lets hardware work on its own: the fake does the waiting."""

    held = False

    def wait_until(self, deadline_s: float, cancel: object = None) -> bool:
        """At once while held."""
        return True if self.held else super().wait_until(deadline_s, cancel)  # type: ignore[arg-type]


class SimulatedWorld:
    """The package's own simulated microscope behind GMS.

    Parameters
    ----------
    speed : float or None
        Virtual seconds per second; None: time passes only when something waits.
    **settings
        Those of the simulator.
    """

    def __init__(self, speed: float | None = 1.0, **settings: object) -> None:
        self.microscope = switch_on(speed=speed, **settings)  # type: ignore[arg-type]
        column = self.microscope.column
        self.clock = _HeldClock(speed)
        column.clock = self.clock
        self.field_nm = column.field.height_nm
        self.high_tension_v = column.settings.high_tension_v
        # The coils reach further than the simulator says of its own accord: a rotated scan does.
        side = self.field_nm
        column.field = Field2D(y_nm=-side / 2, x_nm=-side / 2, height_nm=2 * side, width_nm=2 * side)
        assert self.microscope.scanner is not None
        self.signals = self.microscope.scanner.signals

    @property
    def blanked(self) -> bool:
        """Whether the beam is blanked."""
        return self.microscope.column.blanked

    @blanked.setter
    def blanked(self, blanked: bool) -> None:
        self.microscope.column.set_blanked(blanked)

    def now_s(self) -> float:
        """The simulator's clock."""
        return self.clock.now_s()

    def sleep(self, seconds: float) -> None:
        """Wait on the simulator's clock."""
        self.clock.sleep(seconds)

    def place(self, position: tuple[float, float] | None) -> None:
        """See `World`."""
        middle = self.field_nm / 2
        self.microscope.column.place_probe(None if position is None else (position[0] + middle, position[1] + middle))

    def image(
        self, signals: tuple[str, ...], y: np.ndarray, x: np.ndarray, dwell_s: float, tilted: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """See `World`. A tilted scan is read from an upright one of the same pixel size."""
        pixel_y = float(y[1] - y[0]) if len(y) > 1 else float(x[1] - x[0]) if len(x) > 1 else 1.0
        pixel_x = float(x[1] - x[0]) if len(x) > 1 else pixel_y
        middle = self.field_nm / 2
        field = Field2D(
            y_nm=float(y[0]) + middle - pixel_y / 2,
            x_nm=float(x[0]) + middle - pixel_x / 2,
            height_nm=pixel_y * len(y),
            width_nm=pixel_x * len(x),
        )
        assert self.microscope.scanner is not None
        self.clock.held = True
        try:
            frames = self.microscope.scanner.scan(
                field=field, shape=(len(y), len(x)), dwell_s=dwell_s, signals=signals, cancel=NEVER
            )
        finally:
            self.clock.held = False
        found = {frame.signal: np.asarray(frame.data) for frame in frames}
        if tilted is not None:
            rows = np.clip(np.rint((tilted[0] - y[0]) / pixel_y).astype(int), 0, len(y) - 1)
            columns = np.clip(np.rint((tilted[1] - x[0]) / pixel_x).astype(int), 0, len(x) - 1)
            found = {name: image[rows, columns] for name, image in found.items()}
        return found

    def spectrum(self, exposure_s: float, energy_ev: float, dispersion_ev: float) -> np.ndarray:
        """See `World`; nothing but noise with the beam parked."""
        spectrometer = self.microscope.spectrometer
        assert spectrometer is not None
        self.clock.held = True
        try:
            low, high = spectrometer.energy_offset_range_ev
            if spectrometer.energy_offset_ev != energy_ev:
                spectrometer.set_energy_offset_ev(min(max(energy_ev, low), high))
            if spectrometer.dispersion_ev != dispersion_ev:
                spectrometer.set_dispersion_ev(dispersion_ev)
            return np.asarray(spectrometer.acquire_spectrum(exposure_s, NEVER).data)
        except InstrumentFault:
            return np.zeros(spectrometer.channels, dtype=np.float32)
        finally:
            self.clock.held = False

    def ronchigram(self, exposure_s: float) -> np.ndarray:
        """See `World`."""
        camera = self.microscope.camera
        if camera is None:
            raise RuntimeError("This simulation has no Ronchigrams: it needs torch.")
        self.clock.held = True
        try:
            return np.asarray(camera.acquire_image(exposure_s, NEVER).data)
        finally:
            self.clock.held = False


class InstantWorld:
    """Takes no time and knows no physics: what is left is the bridge. Channels 0 and 1 of a spectrum say where the beam stood.

    Parameters
    ----------
    virtual : bool
        True: a clock of its own that moves only when something waits; False: this computer's.
    """

    def __init__(self, virtual: bool = False, field_nm: float = 200.0) -> None:
        self.field_nm = field_nm
        self.signals: tuple[str, ...] = ("HAADF", "BF")
        self.blanked = False
        self.high_tension_v = 200e3
        self.virtual_s = 0.0 if virtual else None
        self.position: tuple[float, float] | None = None
        self._ramp = np.arange(2048, dtype=np.float32)

    def now_s(self) -> float:
        """Its clock."""
        return time.monotonic() if self.virtual_s is None else self.virtual_s

    def sleep(self, seconds: float) -> None:
        """Pass time in virtual time only."""
        if self.virtual_s is not None:
            self.virtual_s += seconds

    def place(self, position: tuple[float, float] | None) -> None:
        """See `World`."""
        self.position = position

    def image(
        self, signals: tuple[str, ...], y: np.ndarray, x: np.ndarray, dwell_s: float, tilted: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Where the samples lie: x in the first signal, y in the second, in hundredths of a nm from a field before the middle."""
        grid_y, grid_x = np.meshgrid(y, x, indexing="ij") if tilted is None else tilted
        places = (100 * (grid_x + self.field_nm), 100 * (grid_y + self.field_nm))
        return {name: np.clip(places[self.signals.index(name)], 0, 4e9) for name in signals}

    def spectrum(self, exposure_s: float, energy_ev: float, dispersion_ev: float) -> np.ndarray:
        """See the class."""
        counts = self._ramp.copy()
        if self.position is not None and not self.blanked:
            counts[:2] = 1000 + np.array(self.position)
        else:
            counts[:] = 0
        return counts

    def ronchigram(self, exposure_s: float) -> np.ndarray:
        """A ramp along x, so that one sees which way round it comes; dark where the beam is blanked."""
        ramp = np.arange(256, dtype=np.float32) * (not self.blanked)
        return np.broadcast_to(ramp, (256, 256))
