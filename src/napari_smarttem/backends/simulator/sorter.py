"""An orbital-angular-momentum sorter in the simulated column: its camera, and controls that nobody has calibrated.

What the five controls do is drawn at random from the seed and known to nobody outside: every control moves mostly one misalignment,
by an unknown amount and in an unknown sense, and the others a little; it leaves a small part of every step undone; and the
whole drifts. The pictures are made on a finer camera and with a slightly other source, needle and background than the model
knows that reads them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np

from ...physics.oam import PARAMETERS, Sorter, SorterOptics
from ...physics.oam_range import HALF_RANGES
from ...physics.oam_states import InputState
from ...schema import Axis, ControlInfo, Frame, InstrumentFault, electron_wavelength_nm
from ..base import Camera, Optics
from .beside import CameraBeside, ControlsBeside
from .clock import Clock
from .column import Column

CAMERA = "sorter"
CONTROLS = {
    name: ControlInfo(name=name, units="raw", minimum=-1000.0, maximum=1000.0, largest_step=600.0)
    for name in ("sorter focus", "sorter size", "sorter shift x", "sorter shift y", "sorter rotation")
}
SETTLE_S = 0.05
READOUT_S = 0.01
EXPOSURE_RANGE_S = (1e-4, 60.0)
ELECTRONS_PER_S = 1e5
"""A coherent beam through two phase plates is a thin one; 0.1 s is 10 000 electrons."""

BACKGROUND = 0.01
SCALE_NM = 1.0e4
"""`a` of the phase elements: one hbar is lambda / (2 pi a) at the camera."""

OPTICS = SorterOptics(pixels=128, pixel_hbar=0.25, step=0.045, source_hbar=0.12, needle_width=0.035, tip_radius=0.033)
_SORTERS: dict[str, Sorter] = {}
_SORTERS_LOCK = threading.Lock()


def shared_sorter(state: InputState | None = None) -> Sorter:
    """The simulator's own model of the sorter; made once, since its table takes a second."""
    key = "plane wave" if state is None else state.name
    with _SORTERS_LOCK:
        if key not in _SORTERS:
            _SORTERS[key] = Sorter(OPTICS, state)
        return _SORTERS[key]


class SorterPart:
    """The sorter's hidden state: what the controls do, where it drifts to.

    Parameters
    ----------
    clock : Clock
    seed : int
        Of what the controls do, and of all else together with `session`.
    session : int
        The same instrument on another day: the controls do the same, start, drift and noise are others.
    start : ndarray, shape (5,), optional
        Misalignments at the beginning, in the order of `PARAMETERS`; drawn from within the ranges otherwise.
    drift_per_s, walk : float
        Steady drift in half-ranges per second (its direction is drawn), and a random walk in half-ranges per root second.
    remanence : float
        Part of every step of a control that is not made.
    electrons_per_s : float
    """

    def __init__(
        self,
        clock: Clock,
        seed: int,
        *,
        session: int = 0,
        start: np.ndarray | None = None,
        drift_per_s: float = 2e-4,
        walk: float = 1e-3,
        remanence: float = 0.01,
        electrons_per_s: float = ELECTRONS_PER_S,
    ) -> None:
        rng = np.random.default_rng([seed, 13])
        n = len(PARAMETERS)
        # one half-range is 150 to 350 raw units, of either sign; the others are moved by a tenth of that
        size = rng.uniform(1 / 350, 1 / 150, n) * rng.choice((-1.0, 1.0), n)
        mixing = np.eye(n) + rng.normal(0.0, 0.1, (n, n)) * (1 - np.eye(n))
        self.response = HALF_RANGES[:, None] * mixing * size
        """Change of the misalignments per raw unit of each control, shape (5, 5); the truth, for benches and tests."""
        self.clock = clock
        self.electrons_per_s = electrons_per_s
        self.remanence = remanence
        day = np.random.default_rng([seed, 15, session])
        self._start = HALF_RANGES * day.uniform(-1, 1, n) if start is None else np.asarray(start, dtype=float)
        direction = day.normal(size=n)
        self._velocity = HALF_RANGES * direction / np.linalg.norm(direction) * drift_per_s
        self._walk = walk
        self._rng = np.random.default_rng([seed, 17, session])
        self._noise = np.random.default_rng([seed, 19, session])
        self._knots = np.zeros((1, n))
        self._set = np.zeros(n)
        self._reached = np.zeros(n)
        self.lock = threading.RLock()

    def misalignment(self, time_s: float | None = None) -> np.ndarray:
        """The five true misalignments now, or at a time, shape (5,)."""
        time = self.clock.now_s() if time_s is None else time_s
        with self.lock:
            while time >= len(self._knots) - 1:
                steps = self._rng.normal(0.0, self._walk, (256, len(PARAMETERS))) * HALF_RANGES
                self._knots = np.concatenate((self._knots, self._knots[-1] + np.cumsum(steps, axis=0)))
            low = int(time)
            wandered = self._knots[low] + (time - low) * (self._knots[low + 1] - self._knots[low])
            return np.asarray(self._start + self._velocity * time + wandered + self.response @ self._reached)

    def control_values(self) -> dict[str, float]:
        """What the controls were set to."""
        return dict(zip(CONTROLS, self._set.tolist(), strict=True))

    def set_controls(self, values: Mapping[str, float]) -> None:
        """Set some of them; a small part of every step is not made."""
        with self.lock:
            new = np.array([values.get(name, now) for name, now in self.control_values().items()])
            moved = new != self._set
            self._reached = np.where(moved, new - self.remanence * (new - self._reached), self._reached)
            self._set = new

    def picture(self, exposure_s: float, started_s: float) -> np.ndarray:
        """Counts of one exposure, shape (128, 128); `InstrumentFault` where the beam misses the camera's model altogether."""
        at = self.misalignment(started_s + 0.5 * exposure_s)
        sorter = shared_sorter()
        at[0] = np.clip(at[0], -sorter.optics.largest_df, sorter.optics.largest_df)
        mean = sorter.images(at)[0].astype(float)
        mean += BACKGROUND / mean.size
        with self.lock:
            return np.asarray(self._noise.poisson(mean * self.electrons_per_s * exposure_s), dtype=np.float32)


class SorterCamera(CameraBeside):
    """The camera behind the sorter: angular momentum along theta_x, ``mrad_per_hbar`` in the metadata."""

    OWN = (CAMERA,)
    EXPOSURE_RANGE_S = EXPOSURE_RANGE_S

    def __init__(self, part: SorterPart, column: Column | None, others: Camera | None, high_tension_v: float) -> None:
        super().__init__(part.clock, others)
        self._part = part
        self._column = column
        self._mrad_per_hbar = electron_wavelength_nm(high_tension_v) / (2 * np.pi * SCALE_NM) * 1e3

    def _read(self, camera: str, exposure_s: float, started_s: float) -> Frame:
        blanked = self._column is not None and self._column.blanked
        counts = self._part.picture(exposure_s, started_s)
        if blanked:
            counts = np.zeros_like(counts)
        if not np.isfinite(counts).all():
            raise InstrumentFault("the sorter's camera gave numbers that are not finite; expose again.", transient=True)
        finished = self._clock.now_s()
        self._clock.sleep(READOUT_S)
        pixel = OPTICS.pixel_hbar * self._mrad_per_hbar
        offset = -0.5 * (OPTICS.pixels - 1) * pixel
        axes = tuple(Axis(name=name, units="mrad", scale=pixel, offset=offset) for name in ("theta_y", "theta_x"))
        return Frame(
            data=counts,
            axes=axes,
            signal="OAM sorter",
            metadata={
                "camera": camera,
                "exposure_s": exposure_s,
                "exposure_started_s": started_s,
                "exposure_finished_s": finished,
                "mrad_per_hbar": self._mrad_per_hbar,
                "electrons": self._part.electrons_per_s * exposure_s,
                "optics": dict(self._part.control_values()),
                "simulated": True,
            },
        )


class SorterControls(ControlsBeside):
    """The sorter's five controls, beside those the column has."""

    def __init__(self, part: SorterPart, others: Optics | None) -> None:
        super().__init__(CONTROLS, others)
        self._part = part

    def _values(self) -> Mapping[str, float]:
        return self._part.control_values()

    def _move(self, values: dict[str, float]) -> None:
        self._part.set_controls(values)
        self._part.clock.sleep(SETTLE_S)
