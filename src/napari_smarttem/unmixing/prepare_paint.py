"""What a person painted on a spectrum image, as something that can be written down; and the sums of painted pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..schema import BadInput
from ..schema.frame import Axis, Frame

Paint = Sequence[Sequence[int]]
"""Runs of equally painted pixels in a row: ``[label, row, first column, column after the last]``."""


def paint_of(labels: np.ndarray) -> list[list[int]]:
    """Labels ``(y, x)``, 0 where nothing is painted, as runs, which are short to write where the paint is a few pixels."""
    runs = []
    for row, values in enumerate(np.asarray(labels)):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], values, [0]])))
        starts = [int(e) for e in edges if e < len(values) and values[e] != 0]
        for start in starts:
            same = np.flatnonzero(values[start:] != values[start])
            runs.append([int(values[start]), row, start, start + int(same[0]) if len(same) else len(values)])
    return runs


def painted(paint: Paint, shape: Sequence[int]) -> np.ndarray:
    """Labels ``(y, x)`` of runs.

    Raises
    ------
    BadInput
        Something that is no run, or paint outside of the pixels.
    """
    rows, columns = int(shape[0]), int(shape[1])
    labels = np.zeros((rows, columns), dtype=np.int64)
    for run in paint:
        if len(run) != 4:
            raise BadInput(f"A run of paint is [label, row, first, last], not {list(run)}.")
        label, row, first, last = (int(value) for value in run)
        if label < 1 or not 0 <= row < rows or not 0 <= first < last <= columns:
            raise BadInput(
                f"The paint {list(run)} does not lie on {rows} x {columns} pixels, or has no label from 1 on."
            )
        labels[row, first:last] = label
    return labels


def sum_painted(frame: Frame, *, paint: Paint, mean: bool = False) -> Frame:
    """One spectrum a label: the sum of all its pixels, or their mean.

    Parameters
    ----------
    frame : Frame
        ``(y, x, energy)``.
    paint : sequence of runs
        See `paint_of`.
    mean : bool
        Mean instead of sum: the spectrum of one pixel, as a known spectrum to fit.

    Returns
    -------
    Frame
        ``(1, labels, energy)``, in the order of the labels.

    Raises
    ------
    BadInput
        No paint, or paint outside of the pixels.
    """
    labels = painted(paint, frame.shape[:2])
    present = [int(label) for label in np.unique(labels) if label]
    if not present:
        raise BadInput("Nothing is painted: the sum over painted pixels needs at least one of them.")
    sums = np.zeros((len(present), frame.shape[-1]))
    for number, label in enumerate(present):
        for row in np.flatnonzero((labels == label).any(axis=1)):
            sums[number] += np.asarray(frame.data[row])[labels[row] == label].sum(axis=0, dtype=np.float64)
        if mean:
            sums[number] /= np.count_nonzero(labels == label)
    axes = (Axis(name="y", units="pixel"), Axis(name="x", units="pixel"), frame.axes[-1])
    return frame.with_data(sums[None], axes=axes)
