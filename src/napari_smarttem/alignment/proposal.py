"""From a reading to the change of each control, for a person to judge.

What each control does is its *response*: the change of every misalignment per unit of the control. It is learned by small known
steps; where nothing was learned, a control that bears the name and units of an aberration is taken at its word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .reading import Reading
from .targets.steering import ControlState

Response = Mapping[str, Mapping[str, float]]
"""Control -> misalignment -> change of the misalignment, in its units, per unit of the control."""


@dataclass(frozen=True)
class Change:
    """What is proposed for one control.

    Attributes
    ----------
    control, units : str
    now, then : float
        Absolute values in the control's own units.
    held : str
        Empty, or why the change is smaller than it should be.
    """

    control: str
    units: str
    now: float
    then: float
    held: str = ""


def nominal(reading: Reading, units: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """The response of controls that bear the name and the units of a misalignment: one for one."""
    known = dict(zip(reading.names, reading.units, strict=True))
    return {name: {name: 1.0} for name, unit in units.items() if known.get(name) == unit}


def carried(reading: Reading, response: Response, moved: Mapping[str, float]) -> Reading:
    """What a reading lets expect after controls were moved: the values change by the response, the error bars are kept.

    Parameters
    ----------
    reading : Reading
    response : mapping
    moved : mapping
        Control -> change since the picture was taken.
    """
    values = [
        value + sum(response[control].get(name, 0.0) * by for control, by in moved.items() if control in response)
        for name, value in zip(reading.names, reading.values, strict=True)
    ]
    return reading.model_copy(update={"values": tuple(values)})


def propose(
    reading: Reading,
    controls: Mapping[str, ControlState],
    units: Mapping[str, str],
    response: Response,
    aim: Mapping[str, float] | None = None,
) -> tuple[Change, ...]:
    """The change of each control that is understood.

    Every deviation is corrected by what of it is not noise, ``x^2 / (x^2 + sigma^2)``; the deviations are weighed by their
    error bars where controls overlap. Steps end at the limits and at the largest step.

    Parameters
    ----------
    reading : Reading
        A good one.
    controls : mapping
        Present values and limits.
    units : mapping
        Of the controls.
    response : mapping
    aim : mapping, optional
        Where a misalignment should be, zero where nothing is said (C1 at the defocus one measures at, say).

    Returns
    -------
    tuple of Change
        In the order of `controls`; empty where no control is understood.
    """
    names = [name for name in controls if name in response]
    if not names or not reading.good:
        return ()
    off = np.asarray(reading.values) - np.array([(aim or {}).get(name, 0.0) for name in reading.names])
    sigma = np.maximum(reading.sigma, 1e-12)
    gain = off**2 / (off**2 + sigma**2)
    matrix = np.array([[response[control].get(name, 0.0) for control in names] for name in reading.names])
    span = np.array([controls[name].largest_step for name in names])
    weighed = matrix * span / sigma[:, None]
    step = -span * (np.linalg.pinv(weighed, rcond=1e-6) @ (gain * off / sigma))
    return tuple(
        _held(name, units.get(name, ""), controls[name], float(by)) for name, by in zip(names, step, strict=True)
    )


def _held(name: str, units: str, state: ControlState, step: float) -> Change:
    held = ""
    if abs(step) > state.largest_step:
        step, held = float(np.copysign(0.999 * state.largest_step, step)), "largest step"
    then = state.value + step
    if not state.minimum <= then <= state.maximum:
        then, held = float(np.clip(then, state.minimum, state.maximum)), "at its limit"
    return Change(name, units, state.value, then, held)
