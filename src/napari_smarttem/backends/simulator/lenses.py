"""What the lenses really do: the aberrations the beam has, which is not what the controls say.

The column starts misaligned by amounts nobody is told. A control moves mostly its own aberration, by a little too much or too
little, and the others a little; it has play (hysteresis); every setting lands a little beside where it was asked; and everything
drifts. All of it is scaled by `optics_imperfection`, and zero where that is zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ...physics.aberrations import ESTIMATED

START = {
    "C1": 200.0,
    "A1.x": 100.0,
    "A1.y": 100.0,
    "B2.x": 1000.0,
    "B2.y": 1000.0,
    "A2.x": 1000.0,
    "A2.y": 1000.0,
    "C3": 100.0,
}
"""Half-ranges of the first misalignment, at `misalignment` 1."""
HIGHER = {"A3.x": 0.15, "A3.y": 0.15, "S3.x": 0.04, "S3.y": 0.04, "A4.x": 5.0, "A4.y": 5.0, "C5": 0.25}
"""Standard deviations of what no control moves, in um, um, um and mm: all together under a sixteenth of a wave at 25 mrad."""
SCALES = np.array([50.0, 20.0, 20.0, 200.0, 200.0, 200.0, 200.0, 20.0])
CROSS_TALK = 0.03
GAIN_ERROR = 0.05
PLAY = np.array([0.15, 0.05, 0.05, 1.0, 1.0, 2.0, 2.0, 0.1])
NOISE = np.array([0.1, 0.04, 0.04, 0.8, 0.8, 1.5, 1.5, 0.05])
DRIFT = np.array([0.02, 0.005, 0.005, 0.05, 0.05, 0.1, 0.1, 0.002])
"""Random walk, per root second, in the units of `ESTIMATED`."""


class Lenses:
    """The state of the lenses.

    Parameters
    ----------
    seed : int
    misalignment : float
        Size of the first misalignment, 1 as the published ranges.
    imperfection : float
        Size of cross-talk, play, noise and drift; 0 is a perfect instrument.
    """

    def __init__(self, seed: int, misalignment: float, imperfection: float) -> None:
        rng = np.random.default_rng([seed, 31])
        self._size = misalignment * np.array([START[name] for name in ESTIMATED])
        self.start = rng.uniform(-1, 1, 8) * self._size
        self.higher = {name: float(misalignment * size * rng.normal()) for name, size in HIGHER.items()}
        mixing = CROSS_TALK * rng.normal(size=(8, 8)) + np.diag(GAIN_ERROR * rng.normal(size=8))
        self.response = np.eye(8) + imperfection * mixing * SCALES[:, None] / SCALES[None, :]
        self.imperfection = imperfection
        self._followed = np.zeros(8)
        self._missed = np.zeros(8)
        self._asked = np.zeros(8)
        self._noise = np.random.default_rng([seed, 32])
        self._walk_rng = np.random.default_rng([seed, 33])
        self._walk = np.zeros((1, 8))

    def misalign_anew(self) -> None:
        """Another misalignment at the present controls, as on another day; what the controls do stays."""
        self.start = self._noise.uniform(-1, 1, 8) * self._size - self.response @ (self._followed + self._missed)

    def set(self, controls: Mapping[str, float]) -> None:
        """The controls have these values now."""
        asked = np.array([float(controls.get(name, 0.0)) for name in ESTIMATED])
        changed = asked != self._asked
        play = self.imperfection * PLAY
        self._followed = np.where(changed, np.clip(self._followed, asked - play, asked + play), self._followed)
        misses = self.imperfection * NOISE * self._noise.normal(size=8)
        self._missed = np.where(changed, misses, self._missed)
        self._asked = asked

    def estimated(self, time_s: float) -> np.ndarray:
        """The aberrations in the order of `ESTIMATED`."""
        return np.asarray(self.start + self.response @ (self._followed + self._missed) + self._drifted(time_s))

    def aberrations(self, time_s: float) -> dict[str, float]:
        """Every aberration of the beam by name."""
        return dict(zip(ESTIMATED, map(float, self.estimated(time_s)), strict=True)) | self.higher

    def _drifted(self, time_s: float) -> np.ndarray:
        if self.imperfection == 0:
            return np.zeros(8)
        while len(self._walk) < math.floor(max(time_s, 0.0)) + 2:
            steps = self._walk_rng.normal(size=(64, 8)) * DRIFT * self.imperfection
            self._walk = np.concatenate([self._walk, self._walk[-1] + np.cumsum(steps, axis=0)])
        whole = math.floor(max(time_s, 0.0))
        share = max(time_s, 0.0) - whole
        return np.asarray((1 - share) * self._walk[whole] + share * self._walk[whole + 1])
