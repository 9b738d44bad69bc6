"""What is believed of the aberrations and of what the controls do to them, between two frames.

A Kalman filter. Its state holds, for each aberration, its value and its response to every control: a change of the controls moves
the value by the response, which is itself known only so well, and the next frame improves both. Where the units or axes of the
controls are not known, the response starts with a wide error and small known changes teach it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..physics.aberrations import ESTIMATED, quarter_pi_angle_mrad
from ..schema import BadInput
from .targets.steering import ControlState

TYPICAL = np.array([50.0, 20.0, 20.0, 200.0, 200.0, 200.0, 200.0, 20.0])
"""What is a change worth speaking of, in the units of `ESTIMATED`; cross-talk is measured against it."""
GAIN_ERROR, CROSS_TALK = 0.05, 0.02
LANDING = np.array([0.15, 0.06, 0.06, 1.2, 1.2, 2.2, 2.2, 0.08])
"""How far beside the asked value a control may land, per setting."""
APPROACH = 0.002
"""Controls are set from below, by this share of their largest step."""
DRIFT = np.array([0.02, 0.006, 0.006, 0.06, 0.06, 0.1, 0.1, 0.003])
"""Random walk per root second."""


class Belief:
    """Aberrations, responses, and the present values of the controls.

    Parameters
    ----------
    controls : mapping of str to ControlState
        At least those in `names`.
    names : sequence of str
        The controls to use, as many as aberrations.
    response : ndarray, shape (8, controls), or None
        Change of each aberration per unit of each control. None: the control called like an aberration moves it one to one.
    response_covariance : ndarray, shape (8, controls, controls), or None
        How sure the response is, for each aberration. None: a few per cent.
    known : bool
        False: nothing is known of the controls, not even their units.
    """

    def __init__(
        self,
        controls: Mapping[str, ControlState],
        names: Sequence[str] = ESTIMATED,
        *,
        response: np.ndarray | None = None,
        response_covariance: np.ndarray | None = None,
        known: bool = True,
    ) -> None:
        missing = [name for name in names if name not in controls]
        if missing:
            raise BadInput(
                f"the instrument has no control {', '.join(missing)}; name the controls that move {', '.join(ESTIMATED)}."
            )
        self.names = tuple(names)
        self.limits = [controls[name] for name in names]
        self.controls = np.array([one.value for one in self.limits])
        self.start = self.controls.copy()
        count = len(self.names)
        given = np.eye(8, count) if response is None else np.asarray(response, dtype=float)
        if given.shape != (8, count):
            raise BadInput(f"the response must be 8 x {count} numbers, got an array of shape {given.shape}.")
        self.mean = np.zeros((8, 1 + count))
        self.covariance = np.zeros((8, 1 + count, 1 + count))
        self.covariance[:, 0, 0] = (30 * TYPICAL) ** 2
        span = np.array([one.maximum - one.minimum for one in self.limits])
        if known:
            self.mean[:, 1:] = given
            size = np.abs(np.linalg.norm(given / TYPICAL[:, None], axis=0))  # typical changes per unit of a control
            spread = CROSS_TALK * TYPICAL[:, None] * size[None, :] + GAIN_ERROR * np.abs(given)
        else:
            spread = 40.0 * TYPICAL[:, None] / (0.05 * span[None, :])
        for row in range(8):
            self.covariance[row, 1:, 1:] = np.diag(spread[row] ** 2)
        if response_covariance is not None:
            if np.shape(response_covariance) != (8, count, count):
                raise BadInput(f"the covariance of the response must be 8 x {count} x {count} numbers.")
            self.covariance[:, 1:, 1:] = response_covariance

    @property
    def aberrations(self) -> np.ndarray:
        """Believed values at the present controls, shape (8,)."""
        return self.mean[:, 0].copy()

    @property
    def sigma(self) -> np.ndarray:
        """Their standard errors."""
        return np.sqrt(self.covariance[:, 0, 0])

    @property
    def response(self) -> np.ndarray:
        """Change of each aberration per unit of each control, (8, controls)."""
        return self.mean[:, 1:].copy()

    @property
    def response_covariance(self) -> np.ndarray:
        """How sure that is, (8, controls, controls)."""
        return self.covariance[:, 1:, 1:].copy()

    def moved(self, values: np.ndarray, seconds: float, *, passing: bool = False) -> None:
        """The controls were set to `values`; `seconds` pass until the next frame. `passing`: they are set again at once."""
        self.mean[:, 0], self.covariance = self._after(values, seconds, passing=passing)
        self.controls = np.array(values, dtype=float)

    def _after(self, values: np.ndarray, seconds: float, *, passing: bool = False) -> tuple[np.ndarray, np.ndarray]:
        change = values - self.controls
        step = np.eye(1 + len(change))
        step[0, 1:] = change
        mean = self.mean[:, 0] + self.mean[:, 1:] @ change
        covariance = np.einsum("ab,rbc,dc->rad", step, self.covariance, step)
        landing = LANDING**2 if np.any(change != 0) and not passing else 0.0
        covariance[:, 0, 0] += landing + DRIFT**2 * max(seconds, 0.0)
        return mean, covariance

    def seen(self, coefficients: np.ndarray, covariance: np.ndarray) -> None:
        """A frame says this; each aberration learns from its own number."""
        variance = np.diag(covariance)
        for row in range(8):
            spread = self.covariance[row, :, 0]
            gain = spread / (spread[0] + variance[row])
            self.mean[row] += gain * (coefficients[row] - self.mean[row, 0])
            updated = self.covariance[row] - np.outer(gain, spread)
            self.covariance[row] = 0.5 * (updated + updated.T)

    def surprise(self, coefficients: np.ndarray, covariance: np.ndarray) -> float:
        """Largest distance of a frame's numbers from what was expected, in standard errors."""
        spread = np.sqrt(self.covariance[:, 0, 0] + np.diag(covariance))
        return float(np.max(np.abs(coefficients - self.mean[:, 0]) / spread))

    def controls_for(self, target: np.ndarray, *, gain: float = 1.0) -> np.ndarray:
        """Settings that should bring the aberrations to `target`, within the limits; `gain` is the share that is corrected."""
        scaled = self.response / TYPICAL[:, None]
        size = np.maximum(np.linalg.norm(scaled, axis=0), 1e-12)
        change = np.linalg.pinv(scaled / size, rcond=1e-3) @ ((target - self.aberrations) / TYPICAL) / size
        low = np.array([one.minimum for one in self.limits])
        high = np.array([one.maximum for one in self.limits])
        return np.asarray(np.clip(self.controls + gain * change, low, high))

    def worth_moving(self, values: np.ndarray) -> np.ndarray:
        """The same, but controls stay whose change would do less than what they may land beside it; the first one always moves."""
        effect = np.abs(self.response * (values - self.controls)) / LANDING[:, None]
        stay = effect.max(axis=0) < 1.0
        stay[0] = False
        return np.asarray(np.where(stay, self.controls, values))

    def steps_to(self, values: np.ndarray) -> list[np.ndarray]:
        """Settings on the way to `values`, none of which moves a control by more than its largest step."""
        change = values - self.controls
        largest = np.array([one.largest_step for one in self.limits])
        count = max(1, math.ceil(float(np.max(np.abs(change) / largest)) * (1 + 1e-6)))
        return [self.controls + change * (k + 1) / count for k in range(count)]

    def approach_to(self, values: np.ndarray) -> np.ndarray:
        """Settings a little below `values`, for controls that move: from the same side each time, their play is the same."""
        low = np.array([one.minimum for one in self.limits])
        below = APPROACH * np.array([one.largest_step for one in self.limits])
        return np.asarray(np.where(values != self.controls, np.maximum(values - below, low), values))

    def angles_mrad(self, high_tension_v: float, *, seed: int = 0, draws: int = 200) -> tuple[float, float, float]:
        """Angle to which the phase stays under pi/4 at the present controls: 16, 50 and 84 % of what is believed."""
        samples = self.mean[:, 0] + self.sigma * np.random.default_rng(seed).normal(size=(draws, 8))
        angles = quarter_pi_angle_mrad(samples, high_tension_v, step_mrad=0.5)
        low, middle, high = np.percentile(angles, (16, 50, 84))
        return float(low), float(middle), float(high)

    def chance_of(
        self, values: np.ndarray, angle_mrad: float, high_tension_v: float, *, seed: int = 0, draws: int = 200
    ) -> float:
        """How likely the phase stays under pi/4 to an angle, once the controls are set to `values`."""
        mean, covariance = self._after(values, 1.0)
        spread = np.sqrt(covariance[:, 0, 0])
        samples = mean + spread * np.random.default_rng(seed).normal(size=(draws, 8))
        angles = quarter_pi_angle_mrad(samples, high_tension_v, largest_mrad=angle_mrad, step_mrad=0.5)
        return float(np.mean(np.asarray(angles) >= angle_mrad - 0.51))
