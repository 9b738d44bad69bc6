"""Preparation, step by step: each one recorded, each one taken back by a click. Qt-free.

The steps themselves are `unmixing.prepare`'s; here they get words, and a window that may go on while one is being done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from ..schema import BadInput, Frame
from ..unmixing.prepare import REPORTING, STEPS, as_map
from ..unmixing.prepare import deconvolve as without_plural_scattering

Report = Callable[[float, str], None]
Words = Callable[[Mapping[str, Any]], str]
WORDS: dict[str, Words] = {
    "crop_energy": lambda a: f"kept {a['first_ev']:.5g} to {a['last_ev']:.5g} eV",
    "crop_area": lambda a: f"kept rows {a['top']}–{a['bottom'] - 1}, columns {a['left']}–{a['right'] - 1}",
    "bin": lambda a: f"summed {a['y']} × {a['x']} pixels, {a['energy']} channels",
    "spikes": lambda a: "removed spikes",
    "zero_negatives": lambda a: "set negative values to zero",
    "align_zero_loss": lambda a: "put the zero-loss peaks at 0 eV",
    "power_law": lambda a: f"subtracted a power law fitted to {a['first_ev']:.5g} to {a['last_ev']:.5g} eV",
    "polynomial": lambda a: f"subtracted a line fitted to {a['first_ev']:.5g} to {a['last_ev']:.5g} eV",
    "deconvolve": lambda a: (
        f"removed plural scattering with {'the mean of ' if a.get('mean') else ''}{Path(a['low_loss']).name}"
    ),
    "zero_loss": lambda a: "subtracted the zero-loss peak that networks learnt, with its 68 % band",
    "sum_painted": lambda a: f"summed the painted pixels of each of {len({run[0] for run in a['paint']})} colours",
}
MORE: dict[str, str] = {
    "spikes": "Remove spikes (cosmic rays)",
    "zero_negatives": "Set negative values to zero",
    "align_zero_loss": "Align the zero-loss peaks",
    "power_law": "Subtract a power law fitted to the blue range",
    "polynomial": "Subtract a straight line fitted to the blue range",
    "deconvolve": "Remove plural scattering with a low loss …",
    "deconvolve_mean": "Remove plural scattering with the mean of a low loss …",
    "zero_loss": "Subtract the zero-loss peak (learnt by networks; takes a minute)",
    "sum_painted": "Sum the painted pixels of each colour",
}
"""Steps that have no button of their own, with their titles."""
_WITH_RANGE = frozenset({"crop_energy", "power_law", "polynomial"})


def deconvolve(frame: Frame, *, low_loss: str, mean: bool = False, report: Report | None = None) -> Frame:
    """Remove plural scattering with the largest low loss in the file `low_loss`."""
    from ..io import read

    frames = [one for one in read(low_loss) if one.axes[-1].units == "eV"]
    if not frames:
        raise BadInput(f"{Path(low_loss).name} holds no spectra.")
    largest = max(frames, key=lambda one: prod(one.shape))
    if len(largest.axes) == 2 and len(frame.axes) == 3:  # a line scan, which is a map of one row here
        largest = as_map(largest)
    return without_plural_scattering(frame, largest, mean=mean, report=report)


@dataclass(frozen=True)
class Step:
    """One preparation step.

    Parameters
    ----------
    name : str
        Of a function of `unmixing.prepare.STEPS`.
    arguments : dict
        JSON values.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return WORDS[self.name](self.arguments) if self.name in WORDS else self.name

    @property
    def sentence(self) -> str:
        """What was done, as a sentence; units and file names keep their capitals."""
        words = str(self)
        return f"{words[:1].upper()}{words[1:]}."

    @property
    def function(self) -> Callable[..., Frame]:
        """What does it; BadInput where there is no such step."""
        if self.name not in STEPS:
            raise BadInput(f"There is no preparation step {self.name!r}; there are {', '.join(STEPS)}.")
        return deconvolve if self.name == "deconvolve" else STEPS[self.name]


def arguments_of(name: str, low_ev: float, high_ev: float) -> dict[str, Any]:
    """Arguments of a step: those that need a range take the one that was dragged."""
    return {"first_ev": low_ev, "last_ev": high_ev} if name in _WITH_RANGE else {}


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

    def apply(self, step: Step, report: Report | None = None) -> Frame:
        """What `step` would make of the present frame; needs `accept` to hold. May take long.

        `report` is told how far the long ones are; what it raises ends the step, and nothing is changed.
        """
        if report is not None:
            report(0.0, step.name.replace("_", " "))
        telling = {"report": report} if report is not None and step.name in REPORTING else {}
        made = step.function(self.frame, **step.arguments, **telling)
        record = [{"step": one.name, **one.arguments} for one in (*self.steps, step)]
        return made.with_data(made.data, metadata={**made.metadata, "preparation": record})

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
