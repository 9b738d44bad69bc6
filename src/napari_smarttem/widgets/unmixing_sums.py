"""Counts of every pixel inside an energy window, quick enough to follow a hand that drags the window.

Sums along energy are kept at every 16th channel; a window is the difference of two of them and the few channels between its
edges and the nearest kept ones. Qt-free.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..schema import Axis

STEP = 16
LARGEST_TABLE_BYTES = 256 * 2**20


class WindowSums:
    """Running sums of a spectrum image along its energy axis.

    Parameters
    ----------
    data : ndarray
        ``(y, x, energy)``; values that are not finite count as zero.
    step : int, optional
        Channels between two kept sums; chosen so that the table stays below `LARGEST_TABLE_BYTES`.
    """

    def __init__(self, data: np.ndarray, step: int | None = None) -> None:
        rows, columns, channels = data.shape
        if step is None:
            step = STEP
            while rows * columns * (channels // step + 2) * 8 > LARGEST_TABLE_BYTES and step < channels:
                step *= 2
        self._data = data
        self.step = step
        starts = np.arange(0, channels, step)
        self._table = np.zeros((len(starts) + 1, rows, columns))
        for row in range(rows):  # a row at a time: the whole image need not be copied
            sums = np.add.reduceat(_finite(data[row]), starts, axis=-1, dtype=np.float64)
            self._table[1:, row] = np.cumsum(sums, axis=-1).T

    @property
    def channels(self) -> int:
        """Number of energy channels."""
        return int(self._data.shape[2])

    def window(self, first: int, last: int) -> np.ndarray:
        """Counts in channels ``first .. last - 1``, ``(y, x)``, float64; zeros for an empty window."""
        first, last = max(0, first), min(self.channels, last)
        if last <= first:
            return np.zeros(self._data.shape[:2])
        low, high = -(-first // self.step), last // self.step
        if low >= high:
            return self._between(first, last)
        total = self._table[high] - self._table[low]
        if first < low * self.step:
            total += self._between(first, low * self.step)
        if high * self.step < last:
            total += self._between(high * self.step, last)
        return np.asarray(total)

    def _between(self, first: int, last: int) -> np.ndarray:
        return np.asarray(_finite(self._data[:, :, first:last]).sum(axis=-1, dtype=np.float64))


def _finite(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return values
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def channels_between(axis: Axis, channels: int, low_ev: float, high_ev: float) -> tuple[int, int]:
    """First channel and the one after the last whose centres lie between two energies (in eV), edges included."""
    ends = sorted((axis.index(low_ev), axis.index(high_ev)))
    first = int(np.clip(np.ceil(ends[0] - 1e-9), 0, channels))
    last = int(np.clip(np.floor(ends[1] + 1e-9) + 1, 0, channels))
    return first, max(first, last)


def spectrum_at(data: Any, row: int, column: int) -> np.ndarray:
    """One pixel's spectrum, ``(energy,)``, float64, of an array in memory or a lazy one."""
    return np.asarray(data[row, column], dtype=np.float64)
