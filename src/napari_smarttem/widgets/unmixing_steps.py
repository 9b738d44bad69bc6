"""Preparation, step by step: each one recorded, each one taken back by a click. Qt-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..schema import Axis, BadInput, Frame


@dataclass(frozen=True)
class Step:
    """One preparation step.

    Parameters
    ----------
    name : str
        Of a function of `STEPS`.
    arguments : dict
        JSON values.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return STEPS[self.name].words(self.arguments)


@dataclass(frozen=True)
class Kind:
    """What a step does and how it is told.

    Parameters
    ----------
    work : callable
        ``work(frame, **arguments) -> Frame``
    words : callable
        The arguments as a short line for the list of steps.
    """

    work: Callable[..., Frame]
    words: Callable[[Mapping[str, Any]], str]


def crop_energy(frame: Frame, *, low_ev: float, high_ev: float) -> Frame:
    """Keep the channels between two energies (eV)."""
    from .unmixing_sums import channels_between

    axis = frame.axes[-1]
    first, last = channels_between(axis, frame.shape[-1], low_ev, high_ev)
    if last - first < 4:
        raise BadInput(
            f"Between {low_ev:.4g} and {high_ev:.4g} eV lie {last - first} channels; keep at least 4, of the range"
            f" {axis.offset:.4g} to {axis.offset + axis.scale * (frame.shape[-1] - 1):.4g} eV."
        )
    return frame.with_data(
        frame.data[..., first:last], axes=(*frame.axes[:-1], _moved(axis, axis.offset + axis.scale * first, axis.scale))
    )


def crop_area(frame: Frame, *, top: int, bottom: int, left: int, right: int) -> Frame:
    """Keep rows ``top .. bottom - 1`` and columns ``left .. right - 1`` of a spectrum image."""
    if frame.data.ndim != 3:
        raise BadInput("Only a spectrum image has an area to crop; crop a line scan by energy.")
    rows, columns = frame.shape[:2]
    top, left, bottom, right = max(0, top), max(0, left), min(rows, bottom), min(columns, right)
    if (bottom - top) * (right - left) < 4:
        raise BadInput(f"The area lies beside the {rows} × {columns} pixels, or holds fewer than 4; draw a larger one.")
    y, x, energy = frame.axes
    axes = (_moved(y, y.offset + y.scale * top, y.scale), _moved(x, x.offset + x.scale * left, x.scale), energy)
    return frame.with_data(frame.data[top:bottom, left:right], axes=axes)


def bin_pixels(frame: Frame, *, pixels: int = 1, channels: int = 1) -> Frame:
    """Sum squares of ``pixels`` by ``pixels`` pixels and groups of ``channels`` channels; what does not fill one is left out.

    A line scan is summed along its one direction.
    """
    if pixels < 1 or channels < 1 or pixels * channels == 1:
        raise BadInput("Binning takes at least two pixels or two channels together.")
    factors = (*(pixels,) * (frame.data.ndim - 1), channels)
    data = frame.data
    axes = []
    for dimension, (factor, axis) in enumerate(zip(factors, frame.axes, strict=True)):
        size = data.shape[dimension] // factor
        if size < 1:
            raise BadInput(f"{axis.name} has {data.shape[dimension]} elements; {factor} cannot be taken together.")
        data = data[(slice(None),) * dimension + (slice(0, size * factor),)]
        if factor > 1:
            shape = (*data.shape[:dimension], size, factor, *data.shape[dimension + 1 :])
            kind = np.float64 if np.dtype(data.dtype).kind == "f" else np.int64
            data = data.reshape(shape).sum(axis=dimension + 1, dtype=kind)
        axes.append(_moved(axis, axis.offset + axis.scale * (factor - 1) / 2, axis.scale * factor))
    if isinstance(data, np.ndarray):
        data = data.astype(np.float32)
    return frame.with_data(data, axes=tuple(axes))


def _moved(axis: Axis, offset: float, scale: float) -> Axis:
    return axis.model_copy(update={"offset": float(offset), "scale": float(scale)})


STEPS: dict[str, Kind] = {
    "crop_energy": Kind(crop_energy, lambda a: f"kept {a['low_ev']:.5g} to {a['high_ev']:.5g} eV"),
    "crop_area": Kind(
        crop_area, lambda a: f"kept rows {a['top']}–{a['bottom'] - 1}, columns {a['left']}–{a['right'] - 1}"
    ),
    "bin_pixels": Kind(bin_pixels, lambda a: f"summed {a['pixels']} × {a['pixels']} pixels, {a['channels']} channels"),
}


MORE: dict[str, str] = {}
"""Steps that have no button of their own, with their titles."""


def arguments_of(name: str, low_ev: float, high_ev: float) -> dict[str, Any]:
    """Arguments of a step of `MORE`: those that need a range take the one that was dragged."""
    return {"low_ev": low_ev, "high_ev": high_ev} if name in STEPS else {}


class Preparation:
    """The frames after each step, the newest last; an undo takes one away.

    Parameters
    ----------
    frame : Frame
        As it was read.
    """

    def __init__(self, frame: Frame) -> None:
        self._frames = [frame]
        self.steps: list[Step] = []

    @property
    def frame(self) -> Frame:
        """What is unmixed."""
        return self._frames[-1]

    def apply(self, step: Step) -> Frame:
        """What `step` would make of the present frame; needs `accept` to hold. May take long."""
        if step.name not in STEPS:
            raise BadInput(f"There is no preparation step {step.name!r}; there are {', '.join(STEPS)}.")
        return STEPS[step.name].work(self.frame, **step.arguments)

    def accept(self, step: Step, frame: Frame) -> None:
        """Hold on to what `apply` made."""
        self.steps.append(step)
        self._frames.append(frame)

    def repeated(self, frame: Frame) -> Preparation:
        """The same steps on another frame, such as one that has grown. May take long."""
        again = Preparation(frame)
        for step in self.steps:
            again.accept(step, again.apply(step))
        return again

    def undo(self) -> bool:
        """Take the last step back; False where there is none."""
        if not self.steps:
            return False
        self.steps.pop()
        self._frames.pop()
        return True
