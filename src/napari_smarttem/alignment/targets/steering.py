"""What is known of a target between two pictures: where it is, how sure, and what the controls do.

A Kalman filter whose state is the misalignments, in half-ranges. A change of the controls moves the state through the response
matrix, which is itself known only so well; every picture after a known change improves both (recursive least squares, row by row).
The correction is the whole of what is believed, times what of it is not noise: the gain falls as the variance grows.
"""

from __future__ import annotations

import copy

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ...schema import BadInput
from .base import AlignmentTarget, Guess
from .fit import Fit

DRIFT_PER_ROOT_S = 0.01
"""Random walk of the misalignments that the filter expects, in half-ranges after a second."""

RESPONSE_ERROR = 0.05
"""Relative error of a response that was learned earlier."""

SMALLEST_ERROR = 0.02
"""Relative error of a response that no number of pictures is believed to beat: controls have remanence."""


class ControlState(BaseModel):
    """A control as the plan finds it: its value and how far it may go, in its own units."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float
    minimum: float
    maximum: float
    largest_step: float = Field(gt=0)


class Steering:
    """State, response and corrections of one alignment.

    Parameters
    ----------
    target : AlignmentTarget
    controls : mapping of str to ControlState
        All of `target.controls`.
    response : ndarray, shape (parameters, controls), optional
        Change of the misalignments, in their own units, per unit of each control. Without it the controls have to be tried first.

    Attributes
    ----------
    values : ndarray, shape (controls,)
        Present settings.
    """

    def __init__(
        self, target: AlignmentTarget, controls: dict[str, ControlState], response: np.ndarray | None = None
    ) -> None:
        missing = [name for name in target.controls if name not in controls]
        if missing:
            raise BadInput(f"{target.name} is aligned with {', '.join(missing)}, which the instrument does not offer.")
        self.target = target
        self.scale = target.half_ranges
        self.limits = [controls[name] for name in target.controls]
        self.values = np.array([one.value for one in self.limits])
        self.unit = np.array([0.05 * (one.maximum - one.minimum) for one in self.limits])
        p, c = len(self.scale), len(self.limits)
        self.state: np.ndarray | None = None
        self.covariance = np.eye(p)
        self.response = np.zeros((p, c))
        self.response_covariance = np.stack([np.eye(c) * 100.0] * p)
        self.learned = np.zeros(c, dtype=bool)
        self._pending = np.zeros(c)
        self._state_before: np.ndarray | None = None
        self._covariance_before = np.eye(p)
        if response is not None:
            given = np.asarray(response, dtype=float)
            if given.shape != (p, c) or not np.isfinite(given).all():
                raise BadInput(
                    f"the response of {target.name} must be {p} x {c} finite numbers, got an array of shape {given.shape}."
                )
            self.response = given / self.scale[:, None] * self.unit[None, :]
            sizes = np.linalg.norm(self.response, axis=0)
            self.response_covariance = np.stack([np.diag((RESPONSE_ERROR * sizes) ** 2)] * p)
            self.learned[:] = True

    def branch(self, fit_values: np.ndarray) -> Steering:
        """The same knowledge of the controls, but the target somewhere else: another reading of the same picture."""
        other = copy.copy(self)
        for name in ("values", "response", "response_covariance", "learned", "_pending", "covariance"):
            setattr(other, name, getattr(self, name).copy())
        other.state = fit_values / self.scale
        return other

    def forget(self) -> None:
        """Nothing is known any more: neither what the controls do nor where the target is."""
        self.state = None
        self.covariance = np.eye(len(self.scale))
        self.response[:] = 0.0
        self.response_covariance[:] = np.eye(len(self.limits)) * 100.0
        self.learned[:] = False
        self._pending = np.zeros(len(self.limits))

    # -- what pictures say

    def predicted(self) -> Guess | None:
        """Where the next picture should find the target; None before the first."""
        if self.state is None:
            return None
        return Guess(self.state * self.scale, self.covariance * np.outer(self.scale, self.scale))

    def surprise(self, fit: Fit) -> float:
        """Squared distance of a picture's misalignments from where they were expected, in units of its variance."""
        if self.state is None:
            return 0.0
        off = fit.values / self.scale - self.state
        spread = self.covariance + fit.covariance / np.outer(self.scale, self.scale) + np.eye(len(off)) * 1e-6
        return float(off @ np.linalg.solve(spread, off))

    def moved(self, values: np.ndarray, seconds: float) -> None:
        """The controls were set to `values`; `seconds` pass until the next picture."""
        change = (values - self.values) / self.unit
        self.values = np.array(values, dtype=float)
        if self.state is None:
            return
        if not self._pending.any():
            self._state_before, self._covariance_before = self.state.copy(), self.covariance.copy()
        self._pending = self._pending + change
        unsure = np.array([change @ row @ change for row in self.response_covariance])
        self.state = self.state + self.response @ change
        self.covariance = self.covariance + np.diag(unsure + DRIFT_PER_ROOT_S**2 * max(seconds, 0.0))

    def observe(self, fit: Fit) -> None:
        """Take in a picture that was explained."""
        seen = fit.values / self.scale
        noise = fit.covariance / np.outer(self.scale, self.scale) + np.eye(len(seen)) * 1e-8
        if self.state is None:
            self.state, self.covariance = seen, noise
            return
        if self._pending.any() and self._state_before is not None:
            self._learn(seen - self._state_before, np.diag(noise) + np.diag(self._covariance_before))
        gain = self.covariance @ np.linalg.inv(self.covariance + noise)
        self.state = self.state + gain @ (seen - self.state)
        self.covariance = (np.eye(len(seen)) - gain) @ self.covariance
        self.covariance = 0.5 * (self.covariance + self.covariance.T)
        self._pending = np.zeros(len(self.limits))

    def _learn(self, change: np.ndarray, variance: np.ndarray) -> None:
        """One more equation ``response @ pending = change`` for each row."""
        step = self._pending
        variance = variance + (SMALLEST_ERROR * np.linalg.norm(change)) ** 2 + DRIFT_PER_ROOT_S**2
        for row, covariance in enumerate(self.response_covariance):
            gain = covariance @ step / (step @ covariance @ step + variance[row])
            self.response[row] += gain * (change[row] - self.response[row] @ step)
            self.response_covariance[row] = covariance - np.outer(gain, step @ covariance)
        self.learned |= step != 0

    @property
    def sigma(self) -> np.ndarray:
        """Standard deviations of the misalignments, in their own units."""
        return np.asarray(np.sqrt(np.maximum(np.diag(self.covariance), 0.0)) * self.scale)

    @property
    def parameters(self) -> np.ndarray:
        """The misalignments as they are believed to be, in their own units; zeros before the first picture."""
        return np.zeros(len(self.scale)) if self.state is None else self.state * self.scale

    def learned_response(self) -> np.ndarray:
        """In the parameters' units per the controls' own, shape (parameters, controls): what `response` takes the next time."""
        return np.asarray(self.response * self.scale[:, None] / self.unit[None, :])

    # -- what to do

    def correction(self, fixed_gain: float | None = None) -> np.ndarray:
        """New settings of all controls, within limits and largest steps; the present ones where there is nothing to gain.

        Parameters
        ----------
        fixed_gain : float, optional
            Correct this share of everything, as in the published procedure, instead of what is not noise.
        """
        assert self.state is not None
        variance = np.maximum(np.diag(self.covariance), 0.0)
        if fixed_gain is None:
            worth = np.abs(self.parameters) > 0.2 * self.target.tolerance
            gain = worth * self.state**2 / (self.state**2 + variance + 1e-12)
        else:
            gain = np.full(len(self.state), fixed_gain)
        change = -np.linalg.pinv(self.response, rcond=1e-3) @ (gain * self.state)
        return self._within_limits(self.values + change * self.unit)

    def _within_limits(self, wanted: np.ndarray) -> np.ndarray:
        """The direction is kept where a step is too large; a control at its limit stays there."""
        step = wanted - self.values
        longest = np.array([0.999 * one.largest_step for one in self.limits])
        step = step * min(1.0, float(np.min(longest / np.maximum(np.abs(step), 1e-12))))
        low = np.array([one.minimum for one in self.limits])
        high = np.array([one.maximum for one in self.limits])
        return np.asarray(np.clip(self.values + step, low, high))

    def at_limit(self, values: np.ndarray) -> list[str]:
        """Names of the controls that can go no farther."""
        return [
            name
            for name, value, one in zip(self.target.controls, values, self.limits, strict=True)
            if not one.minimum < value < one.maximum
        ]
