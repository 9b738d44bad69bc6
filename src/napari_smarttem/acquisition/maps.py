"""Maps of energy windows that grow while spectra come in, on the grid of the overview."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..schema import Axis, BadInput, Frame, StepResult

Fill = Literal["points", "nearest", "linear"]


@dataclass(frozen=True)
class MapWindow:
    """A range of energy to be summed.

    Attributes
    ----------
    name : str
        What the map is called.
    low_ev, high_ev : float
        Edges.
    background_ev : tuple of float or None
        Range before the edge from which a power law is extrapolated and subtracted; None: the plain sum.
    """

    name: str
    low_ev: float
    high_ev: float
    background_ev: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.low_ev < self.high_ev:
            raise BadInput(f"The window {self.name!r} must end above {self.low_ev:g} eV, not at {self.high_ev:g} eV.")
        if self.background_ev is not None:
            low, high = self.background_ev
            if not 0 < low < high <= self.low_ev:
                raise BadInput(
                    f"The background of {self.name!r} must be a range above 0 eV and below the window's {self.low_ev:g} eV, "
                    f"not {low:g} to {high:g} eV."
                )


def channel_weights(axis: Axis, channels: int, low_ev: float, high_ev: float) -> np.ndarray:
    """How much of each channel lies between two energies, 0 to 1, shape ``(channels,)``."""
    centre = axis.coordinates(channels)
    half = 0.5 * abs(axis.scale)
    covered = np.minimum(centre + half, high_ev) - np.maximum(centre - half, low_ev)
    return np.asarray(np.clip(covered / (2.0 * half), 0.0, 1.0))


def window_sums(spectra: np.ndarray, axis: Axis, window: MapWindow) -> np.ndarray:
    """Counts in a window, less the background where one is set.

    The power law ``A E^-r`` comes from the sums over both halves of the background range (two-area method, Egerton, Electron
    Energy-Loss Spectroscopy in the Electron Microscope, 3rd ed., section 4.4).

    Parameters
    ----------
    spectra : array, shape (..., channels)
    axis : Axis
        Of the energy, in eV.
    window : MapWindow

    Returns
    -------
    array, shape (...)
        NaN where the window is not recorded, or the background has no counts to fit.
    """
    spectra = np.asarray(spectra, dtype=float)
    channels = spectra.shape[-1]
    weights = channel_weights(axis, channels, window.low_ev, window.high_ev)
    if not weights.any():
        return np.full(spectra.shape[:-1], np.nan)
    total = spectra @ weights
    if window.background_ev is None:
        return np.asarray(total)
    low, high = window.background_ev
    middle = float(np.sqrt(low * high))
    first = channel_weights(axis, channels, low, middle)
    second = channel_weights(axis, channels, middle, high)
    # Energies the channels really cover, so that a window cut by the end of the spectrum is not taken for a full one.
    centre, half = axis.coordinates(channels), 0.5 * abs(axis.scale)
    covered = centre[weights > 0]
    if not first.any() or not second.any():
        return np.full(spectra.shape[:-1], np.nan)
    one, two = spectra @ first, spectra @ second
    with np.errstate(all="ignore"):
        exponent = 2.0 * np.log((one / (middle - low)) / (two / (high - middle))) / np.log(high / low)
        one_to = _power_integral(low, high, exponent)
        begin, end = max(window.low_ev, covered.min() - half), min(window.high_ev, covered.max() + half)
        background = (one + two) * _power_integral(begin, end, exponent) / one_to
    return np.asarray(np.where(np.isfinite(background) & (one > 0) & (two > 0), total - background, np.nan))


def _power_integral(low: float, high: float, exponent: np.ndarray) -> np.ndarray:
    """Integral of ``E^-r`` from `low` to `high`; the logarithm at r = 1."""
    power = 1.0 - exponent
    near = np.abs(power) < 1e-9
    safe = np.where(near, 1.0, power)
    return np.asarray(np.where(near, np.log(high / low), (high**safe - low**safe) / safe))


class WindowMaps:
    """Spectra of measured places and the maps of energy windows made of them.

    Parameters
    ----------
    overview : Frame
        ``(y, x)``; its grid is that of the maps.
    windows : iterable of MapWindow
        May be changed at any time with `set_windows`.
    largest_side : int
        Maps of a larger overview are binned, so that one can be drawn ten times a second.
    """

    def __init__(self, overview: Frame, windows: Iterable[MapWindow] = (), *, largest_side: int = 512) -> None:
        rows, columns = overview.shape
        self._bin = max(1, -(-max(rows, columns) // largest_side))
        self.shape = (-(-rows // self._bin), -(-columns // self._bin))
        self.axes = tuple(
            Axis(
                name=a.name, units=a.units, scale=a.scale * self._bin, offset=a.offset + 0.5 * a.scale * (self._bin - 1)
            )
            for a in overview.axes
        )
        self._places: list[tuple[float, float]] = []
        self._spectra: list[Frame] = []
        self._sums: dict[MapWindow, list[float]] = {}
        self.set_windows(windows)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def windows(self) -> tuple[MapWindow, ...]:
        """The windows, in order."""
        return tuple(self._sums)

    @property
    def places_nm(self) -> np.ndarray:
        """(y, x) of the measured places on the overview, shape ``(n, 2)``."""
        return np.array(self._places).reshape(-1, 2)

    def values(self, window: MapWindow) -> np.ndarray:
        """Value of each measured place, shape ``(n,)``."""
        return np.array(self._sums[window])

    def set_windows(self, windows: Iterable[MapWindow]) -> None:
        """Use other windows; values of those that stay are kept, the others are summed from the spectra."""
        self._sums = {
            window: self._sums.get(window) or [_value(frame, window) for frame in self._spectra]
            for window in dict.fromkeys(windows)
        }

    def add(self, result: StepResult) -> bool:
        """Take in the result of a step; False where it holds no spectrum of a place.

        The place is that on the overview: where the probe stood, less the drift since.
        """
        step = result.step
        if not result.ok or step.kind != "acquire" or not result.frames or len(result.frames[0].shape) != 1:
            return False
        self.add_spectrum(step.y_nm - step.drift_nm[0], step.x_nm - step.drift_nm[1], result.frames[0])
        return True

    def add_spectrum(self, y_nm: float, x_nm: float, frame: Frame) -> None:
        """Take in a spectrum, shape ``(channels,)``, of a place."""
        self._places.append((float(y_nm), float(x_nm)))
        self._spectra.append(frame)
        for window, sums in self._sums.items():
            sums.append(_value(frame, window))

    def image(self, window: MapWindow, *, fill: Fill = "points", radius_nm: float | None = None) -> Frame:
        """The map of a window; NaN where nothing is known.

        Parameters
        ----------
        window : MapWindow
            One of `windows`.
        fill : {"points", "nearest", "linear"}
            Only discs around what was measured; the value of the nearest place everywhere; or linear between places.
        radius_nm : float or None
            Of the discs; None: one and a half pixels, or half the typical distance where that is more.
        """
        places, values = self.places_nm, self.values(window)
        image = np.full(self.shape, np.nan, dtype=np.float32)
        known = np.isfinite(values)
        if known.any():
            places, values = places[known], values[known]
            if fill == "linear" and len(places) >= 4:
                image = self._between(places, values)
            else:
                image = self._nearest(places, values, None if fill == "nearest" else self._radius(places, radius_nm))
        return Frame(data=image, axes=self.axes, signal=window.name, metadata={"measured_places": int(known.sum())})

    def _pixel_centres(self) -> np.ndarray:
        y, x = (axis.coordinates(n) for axis, n in zip(self.axes, self.shape, strict=True))
        return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)

    def _radius(self, places: np.ndarray, radius_nm: float | None) -> float:
        if radius_nm is not None:
            return radius_nm
        pixel = float(np.sqrt(abs(self.axes[0].scale * self.axes[1].scale)))
        area = self.shape[0] * self.shape[1] * pixel**2
        return max(1.5 * pixel, min(0.25 * float(np.sqrt(area / len(places))), 6.0 * pixel))

    def _nearest(self, places: np.ndarray, values: np.ndarray, radius: float | None) -> np.ndarray:
        from scipy.spatial import cKDTree

        distance, index = cKDTree(places).query(
            self._pixel_centres(), distance_upper_bound=np.inf if radius is None else radius
        )
        return np.where(np.isfinite(distance), np.append(values, np.nan)[index], np.nan).astype(np.float32)

    def _between(self, places: np.ndarray, values: np.ndarray) -> np.ndarray:
        from scipy.interpolate import LinearNDInterpolator
        from scipy.spatial import QhullError

        try:
            return np.asarray(LinearNDInterpolator(places, values)(self._pixel_centres()), dtype=np.float32)
        except QhullError:
            # All places on one line span no triangle; the nearest value is what is known then.
            return self._nearest(places, values, None)


def _value(frame: Frame, window: MapWindow) -> float:
    axis = frame.axes[-1]
    return float(window_sums(np.asarray(frame.data), axis, window))
