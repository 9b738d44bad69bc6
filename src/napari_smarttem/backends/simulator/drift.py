"""Drift of the specimen: a steady part and a random walk, both a function of the time alone."""

from __future__ import annotations

import threading

import numpy as np


class Drift:
    """Displacement of the specimen in nm at any time, the same however often and in whatever order it is asked.

    Parameters
    ----------
    velocity_nm_per_s : (float, float)
        (y, x).
    walk_nm : float
        Standard deviation after one second of the random walk, per direction.
    seed : int
    reach_nm : float
        Farthest displacement per direction; there the drift turns round, so that a session of hours stays on the specimen.
    """

    def __init__(
        self, velocity_nm_per_s: tuple[float, float], walk_nm: float, seed: int, reach_nm: float = 200.0
    ) -> None:
        self.reach_nm = reach_nm
        self.velocity = np.asarray(velocity_nm_per_s, dtype=float)
        self.walk_nm = walk_nm
        self._rng = np.random.default_rng([seed, 7])
        self._walk = np.zeros((1, 2))
        self._lock = threading.Lock()  # two threads extending the walk at once would make it depend on chance

    def at(self, time_s: np.ndarray | float) -> np.ndarray:
        """Displacement at `time_s` (any shape), shape ``(*time_s.shape, 2)``, order (y, x)."""
        time = np.asarray(time_s, dtype=float)
        steady = time[..., None] * self.velocity
        if self.walk_nm == 0:
            return self._folded(steady)
        with self._lock:
            while time.max(initial=0.0) >= len(self._walk) - 1:
                # one point a second, extended in blocks of fixed length so that the walk does not depend on the questions
                steps = self._rng.normal(0.0, self.walk_nm, (256, 2))
                self._walk = np.concatenate((self._walk, self._walk[-1] + np.cumsum(steps, axis=0)))
            points = self._walk
        knots = np.arange(len(points))
        walk = [np.interp(time, knots, points[:, axis]) for axis in (0, 1)]
        return self._folded(steady + np.stack(walk, axis=-1))

    def _folded(self, displacement_nm: np.ndarray) -> np.ndarray:
        """A triangle wave of unit slope through zero, as high as the reach."""
        reach = self.reach_nm
        return np.asarray(reach - np.abs(np.mod(displacement_nm + reach, 4 * reach) - 2 * reach))
