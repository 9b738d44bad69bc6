"""What one picture says of one piece of optics, in the same words for the Ronchigram and for every other target.

A reader turns a camera's frame into a `Reading`: values, covariance, and whether they may be used. The window, the plans of single
clicks and the journal speak of readings only.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..physics.aberrations import ESTIMATED, quarter_pi_angle_mrad, units_of, wave_basis
from ..schema import BadInput, Frame, electron_wavelength_nm
from .targets import AlignmentTarget, search
from .targets import target as target_called

RONCHIGRAM = "ronchigram"
WANTED_MRAD = 25.0
"""Half-angle to which the phase should stay under pi/4."""
DRAWS = 200
"""Random aberrations within the error bars, from which the angle after a correction is foretold."""


class Reading(BaseModel):
    """What a picture says.

    Parameters
    ----------
    names, units : tuple of str
        Of the misalignments.
    values : tuple of float
    covariance : tuple of tuple of float
    good : bool
        Whether the numbers may be used.
    verdict : str
        ``"good"``, or why not, in words.
    tolerance : tuple of float
        How large each may be alone; empty where it is not known.
    figures : dict of str to float
        What else is worth knowing, such as ``quarter_pi_mrad`` or ``merit``.
    made_with : dict
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    units: tuple[str, ...]
    values: tuple[float, ...] = ()
    covariance: tuple[tuple[float, ...], ...] = ()
    good: bool
    verdict: str
    tolerance: tuple[float, ...] = ()
    figures: dict[str, float] = Field(default_factory=dict)
    made_with: dict[str, Any] = Field(default_factory=dict)

    @property
    def sigma(self) -> np.ndarray:
        """Standard errors, shape (n,)."""
        return np.sqrt(
            np.maximum(np.diag(np.asarray(self.covariance, dtype=float).reshape(2 * (len(self.values),))), 0.0)
        )

    def value(self, name: str) -> float:
        """One of the values by name."""
        return self.values[self.names.index(name)]

    def as_mapping(self) -> dict[str, float]:
        """Values by name; empty where they must not be used."""
        return dict(zip(self.names, self.values, strict=True)) if self.good else {}

    def words(self) -> str:
        """The reading as a sentence."""
        if not self.good:
            return f"No measurement: {self.verdict}."
        said = ", ".join(
            f"{name} {value:.4g} ± {sigma:.2g} {units}"
            for name, value, sigma, units in zip(self.names, self.values, self.sigma, self.units, strict=True)
        )
        return f"{said}."


Reader = Callable[[Frame], Reading]


def reader(target: str, settings: Mapping[str, Any], high_tension_v: float | None, expected_c1_nm: float) -> Reader:
    """What reads the pictures of a target.

    Parameters
    ----------
    target : str
        ``"ronchigram"``, or the name of an installed alignment target.
    settings : mapping
        For the target's builder.
    high_tension_v : float or None
        Where the frames do not say it.
    expected_c1_nm : float
        About where C1 is; Ronchigrams only.

    Raises
    ------
    BadInput, MissingCapability
        There is no such target, or its network's library is not installed.
    """
    if target == RONCHIGRAM:
        return RonchigramReader(_estimator(), high_tension_v, expected_c1_nm)
    return TargetReader(_target(target, json.dumps(dict(settings), sort_keys=True)))


@functools.lru_cache(maxsize=1)
def _estimator() -> Any:
    from ..nn.registry import available
    from .estimator import MODEL, Estimator

    return Estimator(MODEL if MODEL in available() else None)


@functools.lru_cache(maxsize=4)
def _target(name: str, settings: str) -> AlignmentTarget:
    return target_called(name, **json.loads(settings))


class RonchigramReader:
    """Aberrations from a Ronchigram.

    Parameters
    ----------
    estimator : Estimator
        Anything with its `measure`.
    high_tension_v : float or None
    expected_c1_nm : float
    """

    def __init__(self, estimator: Any, high_tension_v: float | None, expected_c1_nm: float) -> None:
        self.estimator = estimator
        self.high_tension_v = high_tension_v
        self.expected_c1_nm = expected_c1_nm

    def __call__(self, frame: Frame) -> Reading:
        """Read a ``(theta_y, theta_x)`` frame in mrad."""
        tension = frame.metadata.get("high_tension_v", self.high_tension_v)
        if not isinstance(tension, (int, float)) or not tension > 0:
            raise BadInput("the high tension is not known; state it (in kV) beside the camera's settings.")
        measured = self.estimator.measure(
            np.asarray(frame.data),
            high_tension_v=float(tension),
            half_angle_mrad=half_angle_mrad(frame),
            expected_c1_nm=self.expected_c1_nm,
        )
        units = tuple(units_of(name) for name in measured.names)
        if not measured.good:
            return Reading(names=measured.names, units=units, good=False, verdict=measured.verdict)
        low, middle, high = after_correction_mrad(measured.covariance, float(tension), measured.names)
        return Reading(
            names=measured.names,
            units=units,
            values=tuple(map(float, measured.coefficients)),
            covariance=tuple(tuple(map(float, row)) for row in measured.covariance),
            good=True,
            verdict=measured.verdict,
            tolerance=tolerances(float(tension), measured.names),
            figures={
                "quarter_pi_mrad": float(measured.quarter_pi_mrad),
                "corrected_mrad_16": low,
                "corrected_mrad": middle,
                "corrected_mrad_84": high,
                "high_tension_v": float(tension),
            },
            made_with=dict(measured.provenance),
        )


def half_angle_mrad(frame: Frame) -> float:
    """From the middle of a frame to the middle of its shorter edge; `BadInput` where the camera is not calibrated."""
    if len(frame.axes) != 2:
        raise BadInput(f"a Ronchigram has two axes, {frame.signal} has {len(frame.axes)}.")
    if any(axis.units != "mrad" for axis in frame.axes):
        raise BadInput(
            f"{frame.signal} is in {frame.axes[0].units}, but aberrations need angles in mrad; calibrate the camera length first."
        )
    return min(abs(axis.scale) * size / 2 for axis, size in zip(frame.axes, frame.shape, strict=True))


def tolerances(
    high_tension_v: float, names: tuple[str, ...] = ESTIMATED, angle_mrad: float = WANTED_MRAD
) -> tuple[float, ...]:
    """Size of each aberration that alone makes a phase of pi/4 at `angle_mrad`, in its own units."""
    angle = angle_mrad * 1e-3
    eighth_nm = electron_wavelength_nm(high_tension_v) / 8
    azimuth = np.linspace(0, 2 * np.pi, 73)
    around = np.abs(wave_basis(names, angle * np.sin(azimuth), angle * np.cos(azimuth))).max(axis=1)
    return tuple(float(one) for one in eighth_nm / around)


def after_correction_mrad(
    covariance: np.ndarray, high_tension_v: float, names: tuple[str, ...] = ESTIMATED
) -> tuple[float, float, float]:
    """Pi/4 angle to expect where everything measured is corrected: what remains are the errors of the measurement.

    Returns
    -------
    (float, float, float)
        16 %, 50 % and 84 % of the draws, in mrad.
    """
    rng = np.random.default_rng(0)
    left_over = rng.multivariate_normal(np.zeros(len(names)), covariance, size=DRAWS, method="eigh")
    angles = quarter_pi_angle_mrad(left_over, high_tension_v, names=names)
    low, middle, high = np.percentile(angles, (16, 50, 84))
    return float(low), float(middle), float(high)


class TargetReader:
    """Misalignments of a target with a forward model, by fitting it.

    Parameters
    ----------
    target : AlignmentTarget
    reach : float
        How far out a search looks, in half-ranges.
    """

    def __init__(self, target: AlignmentTarget, reach: float = 2.2) -> None:
        self.target = target
        self.reach = reach

    def __call__(self, frame: Frame) -> Reading:
        """Read a frame of the target's camera."""
        target = self.target
        names, units = (tuple(getattr(one, what) for one in target.parameters) for what in ("name", "units"))
        counts = target.counts(frame)
        if not math.isfinite(float(counts.sum())) or counts.sum() <= 0:
            return Reading(names=names, units=units, good=False, verdict="the picture is dark: is the beam blanked?")
        guess = target.guess(counts)
        guesses = [] if guess is None else [guess]
        fit = search(target, counts, guesses, np.random.default_rng(0), draws=300, starts=10, reach=self.reach)
        if not fit.trusted:
            words = (
                f"the model explains only {fit.explained:.0%} of the picture: too far out, or something else is wrong"
            )
            return Reading(names=names, units=units, good=False, verdict=words)
        figures = {"merit": float(target.merit(fit.values)), "explained": fit.explained, "electrons": fit.electrons}
        quality = getattr(target, "quality", None)
        if quality is not None:
            figures["resolution_hbar"] = float(quality(fit.values)[0])
        return Reading(
            names=names,
            units=units,
            values=tuple(map(float, fit.values)),
            covariance=tuple(tuple(map(float, row)) for row in fit.covariance),
            good=True,
            verdict="good",
            tolerance=tuple(map(float, target.tolerance)),
            figures=figures,
            made_with={**target.provenance, "method": "fit of the forward model", "target": target.name},
        )
