"""Over what the sorter's misalignments range, here and in everything trained or measured on them."""

from __future__ import annotations

import numpy as np

from .oam import PARAMETERS

RANGES = {"df": 12.0, "SM": 0.08, "shx": 0.1, "shy": 0.1, "beta": 0.08}
"""Half-ranges, in the units of `oam.UNITS`. At the end of any of them the sorter is useless: its lines are 4 to 15 hbar wide, or
(defocus) hold less than half of their power."""

HALF_RANGES = np.array([RANGES[name] for name in PARAMETERS])


def draw(count: int, rng: np.random.Generator, reach: float = 1.0) -> np.ndarray:
    """Misalignments spread evenly over `reach` times the ranges, shape (count, 5)."""
    return np.asarray(rng.uniform(-reach, reach, (count, len(PARAMETERS))) * HALF_RANGES)
