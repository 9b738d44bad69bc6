"""What a custom piece of optics has to say to be aligned: a forward model, a list of controls, a figure of merit.

Everything else (fitting pictures, learning what the controls do, closing the loop, undoing it) is the same for all of them and
lives beside this file.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import numpy as np
from pydantic import JsonValue

from ...schema import BadInput, Frame


@dataclass(frozen=True)
class Parameter:
    """One misalignment.

    Parameters
    ----------
    name, units : str
    half_range : float
        How far from aligned it is expected at the start; all numbers are scaled by it, and none is believed far beyond it.
    """

    name: str
    units: str
    half_range: float


@dataclass(frozen=True)
class Guess:
    """A first idea of the misalignments from one picture.

    Parameters
    ----------
    values : ndarray, shape (p,)
    covariance : ndarray, shape (p, p)
    """

    values: np.ndarray
    covariance: np.ndarray


class AlignmentTarget(abc.ABC):
    """A forward model + a list of controls + a figure of merit.

    A subclass sets the attributes and writes `picture` and `merit`; the rest has a default.

    Attributes
    ----------
    name : str
    camera : str
        Name of the instrument's camera that shows it.
    parameters : tuple of Parameter
        Zero is aligned.
    controls : tuple of str
        Names of the instrument's controls, as many as parameters; which does what is learned.
    """

    name: str
    camera: str
    parameters: tuple[Parameter, ...]
    controls: tuple[str, ...]

    @abc.abstractmethod
    def picture(self, parameters: np.ndarray) -> np.ndarray:
        """Mean picture for misalignments of shape (p,): fraction of the electrons per pixel, shape (y, x)."""

    @abc.abstractmethod
    def merit(self, parameters: np.ndarray) -> float:
        """How good it is: 1 where aligned, falling to 0."""

    def pictures(self, parameters: np.ndarray) -> np.ndarray:
        """Mean pictures for misalignments of shape (n, p); shape (n, y, x)."""
        return np.stack([self.picture(one) for one in parameters])

    def picture_and_slopes(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A mean picture and its derivatives, shapes (y, x) and (p, y, x); central differences unless a subclass knows better."""
        slopes = []
        for k, step in enumerate(1e-3 * self.half_ranges):
            change = np.zeros(len(self.parameters))
            change[k] = step
            slopes.append((self.picture(parameters + change) - self.picture(parameters - change)) / (2 * step))
        return self.picture(parameters), np.stack(slopes)

    def counts(self, frame: Frame) -> np.ndarray:
        """Electrons per pixel of the model's picture, from a frame of the camera. Whole multiples of its pixels are summed."""
        return binned(np.asarray(frame.data, dtype=np.float32), self.shape, self.name)

    def guess(self, counts: np.ndarray) -> Guess | None:
        """A first idea from one picture, where a network or a formula gives one; None leaves it to the search."""
        return None

    @property
    def shape(self) -> tuple[int, int]:
        """Of the model's picture."""
        rows, columns = self.picture(np.zeros(len(self.parameters))).shape
        return rows, columns

    @property
    def provenance(self) -> dict[str, JsonValue]:
        """What beside this package's version made the estimates: the model's name and the sha256 of its weights, say."""
        return {}

    @property
    def half_ranges(self) -> np.ndarray:
        """Of the parameters, shape (p,)."""
        return np.array([one.half_range for one in self.parameters])

    @property
    def tolerance(self) -> np.ndarray:
        """Misalignment of each parameter alone that costs 1 % of the merit, shape (p,); below a fifth of it nothing is moved."""
        if not hasattr(self, "_tolerance"):
            self._tolerance = np.array([self._one_percent(k) for k in range(len(self.parameters))])
        return self._tolerance

    def _one_percent(self, k: int) -> float:
        change = np.zeros(len(self.parameters))
        size = 0.2 * self.half_ranges[k]
        for _ in range(40):
            change[k] = size
            if max(self.merit(change), self.merit(-change)) >= 0.99:
                break
            size *= 0.8
        return float(size)


def binned(data: np.ndarray, shape: tuple[int, int], name: str) -> np.ndarray:
    """Sum of whole blocks of pixels, so that the result has `shape`."""
    factors = tuple(have // want for have, want in zip(data.shape, shape, strict=True))
    if (
        data.ndim != 2
        or factors[0] * shape[0] != data.shape[0]
        or factors[1] * shape[1] != data.shape[1]
        or 0 in factors
    ):
        raise BadInput(
            f"a picture of {name} must have whole multiples of {shape[0]} x {shape[1]} pixels, got {data.shape}; "
            "read the camera at another binning."
        )
    blocks = data.reshape(shape[0], factors[0], shape[1], factors[1])
    return np.asarray(blocks.sum(axis=(1, 3)))
