"""The windows in which the refinement looks at a frame, and how much each of their bins counts.

The higher aberrations act most at the rim of a frame, which a window that fades out towards its own edge hardly reads. So the
windows, half periods of a sine, reach over the frame's edge; what is left of one that does is only softened at the frame's edge.
Each then has an autocorrelation of its own, which is how far it damps the rings (see `physics.ronchigram_spectrum`).

Bins next to each other, and windows that overlap, see the same noise. Summed over dense rings that noise cancels as the rings
themselves are damped, so that to trust each bin by what it shows on its own gives the dense rings too little say. The weights are
those of generalised least squares: per axis, with K the covariance of the windows' sums over bins at a given damping and s what
the windows show of the rings, they solve K (weight s) = s.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..physics.aberrations import ESTIMATED, curvature_basis
from ..physics.ronchigram import Geometry
from ..schema import BadInput

if TYPE_CHECKING:
    import torch

    from ..physics.ronchigram_spectrum import Slopes

SINE_SIGMA = 0.1808
"""Standard width of the square of a sine window, in windows."""
OVERLAP = 0.5
SOFT_EDGE = 0.045
"""Width over which a window is softened at the frame's edge, in windows."""
HELD = 0.05
"""Added to the covariance of the windows' sums, relative to its diagonal: neighbours share almost all at the rim."""
LARGEST_WEIGHT = 8.0
"""Per axis, relative to the middle of the frame without damping."""
LAGS = 512
"""Entries per window of the tables over lags from 0 to 1 window."""
WEIGHED_LAGS = 24


_UNIT = (np.array([-1.0]), np.array([0.0]), np.array([1.0]))


class Seen(NamedTuple):
    """What windows do to rings whose sidebands are a lag apart along one axis."""

    autocorrelation: Slopes
    weight: torch.Tensor
    shift: torch.Tensor | float = 0.0
    """See `Windows._places_of_rings`; left out where no window reaches over the frame's edge, as is the next."""
    narrowing: torch.Tensor | float = 0.0


class Windows:
    """Square windows on a frame.

    Parameters
    ----------
    geometry : Geometry
    width : int
        Of a window, in pixels.
    overhang : float
        How far the outermost windows reach over the frame's edge, in windows.

    Raises
    ------
    BadInput
        A window wider than the frame.
    """

    def __init__(self, geometry: Geometry, width: int, overhang: float = 0.0) -> None:
        if width > geometry.pixels:
            raise BadInput(f"a window of {width} pixels does not fit a frame of {geometry.pixels} pixels.")
        self.geometry = geometry
        self.width = width
        self.overhang = round(overhang * width)
        last = geometry.pixels + self.overhang - width
        self.side = max(3, round((last + self.overhang) / (OVERLAP * width)) + 1)
        self.corners = np.rint(np.linspace(-self.overhang, last, self.side)).astype(int)
        rows, columns = np.meshgrid(np.arange(self.side), np.arange(self.side), indexing="ij")
        self._row, self._column = rows.ravel(), columns.ravel()

    @property
    def width_rad(self) -> float:
        """Width of a window."""
        return self.width * self.geometry.pixel_rad

    @cached_property
    def tapers(self) -> np.ndarray:
        """The window function of each row (or column) of windows, shape (side, width); 0 outside of the frame."""
        pixel = np.arange(self.width) + 0.5
        at = self.corners[:, None] + pixel
        depth = np.minimum(at, self.geometry.pixels - at) / max(2, round(SOFT_EDGE * self.width))
        return np.asarray(np.sin(np.pi * pixel / self.width) * np.sin(np.pi / 2 * np.clip(depth, 0, 1)))

    def periodograms(self, frame: torch.Tensor) -> torch.Tensor:
        """Periodograms of the relative intensity.

        Parameters
        ----------
        frame : Tensor, shape (pixels, pixels)
            Counts; only ratios to the local mean matter.

        Returns
        -------
        Tensor, shape (side * side, width, width // 2 + 1)
            In units in which shot noise is one over the electrons per pixel.
        """
        import torch

        taper = torch.as_tensor(self.tapers, dtype=frame.dtype)
        window = taper[:, None, :, None] * taper[None, :, None, :]
        around = torch.nn.functional.pad(frame, (self.overhang,) * 4)
        at = torch.as_tensor(self.corners[:, None] + np.arange(self.width) + self.overhang)
        patches = around[at][..., at].permute(0, 2, 1, 3)  # (side, side, width, width)
        mean = (patches * window).sum(dim=(-2, -1), keepdim=True) / window.sum(dim=(-2, -1), keepdim=True)
        spectrum = torch.fft.rfft2((patches / mean.clamp(min=1e-6) - 1) * window)
        power = (spectrum.real**2 + spectrum.imag**2) / (window**2).sum(dim=(-2, -1), keepdim=True)
        return power.flatten(0, 1)

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Centre of the square of each window function (from the optic axis) and its standard width, in rad; (side,) each."""
        square = self.tapers**2 / (self.tapers**2).sum(axis=1, keepdims=True)
        at = (self.corners[:, None] + np.arange(self.width) + 0.5 - self.geometry.pixels / 2) * self.geometry.pixel_rad
        centre = (square * at).sum(axis=1)
        return centre, np.sqrt((square * (at - centre[:, None]) ** 2).sum(axis=1))

    def curvature_basis(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Curvature that a unit of each of `ESTIMATED` makes.

        Returns
        -------
        mean : ndarray, shape (8, places, 3)
            Averaged over each window with the weight of its square.
        slopes : ndarray, shape (8, places, 3, 2)
            Change over a standard width of the window along y and x.
        bends : ndarray, shape (8, 3, 3)
            Second derivatives (yy, yx, xx; the same everywhere), per square of the window's width.
        """
        centre, sigma = self._moments
        y, x, dy, dx = centre[self._row], centre[self._column], sigma[self._row], sigma[self._column]

        def at(up: int, right: int) -> np.ndarray:
            return np.asarray(curvature_basis(ESTIMATED, y + up * dy, x + right * dx)).transpose(0, 2, 1)

        mean = (at(1, 1) + at(1, -1) + at(-1, 1) + at(-1, -1)) / 4
        slopes = np.stack([at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1)], axis=-1) / 2
        corners = [np.asarray(curvature_basis(ESTIMATED, v, u))[..., 0] for v in _UNIT for u in _UNIT]
        grid = np.array(corners).reshape(3, 3, len(ESTIMATED), 3)
        across = (grid[2, 2] - grid[2, 0] - grid[0, 2] + grid[0, 0]) / 4
        bends = [grid[2, 1] - 2 * grid[1, 1] + grid[0, 1], across, grid[1, 2] - 2 * grid[1, 1] + grid[1, 0]]
        return mean, slopes, np.stack(bends, axis=-1) * self.width_rad**2

    @cached_property
    def _table(self) -> list[torch.Tensor]:
        """Autocorrelation, its two derivatives, weight and `_places_of_rings`, by window and lag: six of (side * (LAGS + 1),)."""
        import torch

        n = self.width
        value = np.array([np.correlate(taper, taper, "full")[n - 1 :] for taper in self.tapers])
        value = np.pad(value / value[:, :1], ((0, 0), (0, 2)))
        mirrored = np.concatenate([value[:, 1:2], value], axis=1)
        first = (mirrored[:, 2:] - mirrored[:, :-2]) / 2 * n
        second = (mirrored[:, 2:] - 2 * mirrored[:, 1:-1] + mirrored[:, :-2]) * n**2
        lag, pixels = np.linspace(0, 1, LAGS + 1), np.arange(n + 1) / n
        weighed, weights = self._weights()
        columns = [(pixels, value[:, :-1]), (pixels, first), (pixels, second), (weighed, weights)]
        columns += [(pixels, places) for places in self._places_of_rings()]
        rows = [[np.interp(lag, at, column[row]) for at, column in columns] for row in range(self.side)]
        table = np.array(rows).transpose(1, 0, 2).reshape(len(columns), -1)
        return [torch.as_tensor(column, dtype=torch.float32) for column in table]

    def _places_of_rings(self) -> tuple[np.ndarray, np.ndarray]:
        """Where a window sees rings whose sidebands are a lag apart, relative to where its square lies: (side, lags) each.

        Both sidebands must lie within the window. The farther apart they are, the narrower the range of the middles between
        them, and where the window is cut off at the frame's edge, the farther inside.

        Returns
        -------
        shift : ndarray
            Of the mean of the middles, in standard widths of the window.
        narrowing : ndarray
            Change of their mean square distance from the window's centre without that shift, in squares of its width.
        """
        n = self.width
        centre, sigma = (column / self.geometry.pixel_rad for column in self._moments)
        at = self.corners[:, None] + np.arange(n) + 0.5 - self.geometry.pixels / 2 - centre[:, None]

        def middles(power: int) -> np.ndarray:
            """Sums of (x + x')^power over pairs of a lag."""
            pairs = ([(0, 0, 1)], [(1, 0, 1), (0, 1, 1)], [(2, 0, 1), (1, 1, 2), (0, 2, 1)])[power]
            return np.array(
                [
                    sum(k * np.correlate(t * x**i, t * x**j, "full")[n - 1 :] for i, j, k in pairs)
                    for t, x in zip(self.tapers, at, strict=True)
                ]
            )

        sums = middles(0)
        known = sums > 1e-3 * sums[:, :1]
        safe = np.where(known, sums, 1.0)
        mean = np.where(known, middles(1) / 2 / safe, np.nan)
        square = np.where(known, middles(2) / 4 / safe, np.nan) - mean**2
        shift, narrowing = mean / sigma[:, None], (square - sigma[:, None] ** 2) / n**2
        for row in (*shift, *narrowing):  # where nothing is seen any more, the last known
            row[np.isnan(row)] = row[~np.isnan(row)][-1]
        return np.pad(shift, ((0, 0), (0, 1)), mode="edge"), np.pad(narrowing, ((0, 0), (0, 1)), mode="edge")

    def _weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Lags in windows, (lags,), and weights, (side, lags)."""
        n, corner = self.width, self.corners - self.corners[0]
        line = np.zeros((self.side, corner[-1] + n))
        for row, start in enumerate(corner):
            line[row, start : start + n] = self.tapers[row]
        energy = (line**2).sum(axis=1)
        lags = np.unique(np.rint(np.linspace(0, n - 1, WEIGHED_LAGS)).astype(int))
        weights, middle = [], self.side // 2
        for lag in lags:
            product = line[:, : line.shape[1] - lag] * line[:, lag:]
            covariance = product @ product.T * n / energy[:, None] / energy
            shown = product.sum(axis=1) / energy
            if lag == 0:
                held = HELD * covariance[middle, middle] * np.eye(self.side)
            solved = np.linalg.solve(covariance + held, shown)
            weights.append((solved / shown.clip(0.02)).clip(0))
        table = np.array(weights).T
        return lags / n, table.clip(max=LARGEST_WEIGHT * table[middle, 0])

    def along(self, axis: int, lag: torch.Tensor, places: slice = slice(None)) -> Seen:
        """What the windows do to rings whose sidebands are `lag` apart.

        Parameters
        ----------
        axis : int
            0 for y, 1 for x.
        lag : Tensor, shape (places, bins)
            Component along the axis, in windows.
        places : slice
            Which of all windows `lag` is of.

        Returns
        -------
        Seen
            With Tensors of shape (places, bins).
        """
        import torch

        own = torch.as_tensor((self._row, self._column)[axis][places] * (LAGS + 1), dtype=torch.int32)
        index = (lag.abs() * LAGS + 0.5).clamp_(max=LAGS).to(torch.int32).add_(own[:, None]).flatten()
        value, first, second, weight, *seen_at = (
            column.index_select(0, index).view(lag.shape) for column in self._table[: 6 if self.overhang else 4]
        )
        return Seen((value, first.mul_(lag.sign()), second), weight, *seen_at)
