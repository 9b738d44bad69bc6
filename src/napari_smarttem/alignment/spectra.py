"""Local spectra of a frame, and the units in which they do not depend on voltage, angle or frame size.

A window of width L (rad) sees, at an angle where the wave aberration has the curvature H, fringes that depend on ``L^2 H / lambda``
alone. The window is chosen so that this number is near `BEST_RINGS`: then the rings are neither closer than the window resolves nor
too few to be measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..physics.aberrations import ESTIMATED, curvature_basis, order_of
from ..physics.ronchigram import Geometry
from ..physics.ronchigram_spectrum import hann
from ..schema import BadInput

if TYPE_CHECKING:
    import torch

BEST_RINGS = 42.0
SIDE = 16
"""Windows per row and column of the frame that the network looks at; 2 x 2 of them are averaged."""
CELLS = SIDE // 2
NET_HALF = 32
"""The network sees the bins up to this number."""
NET_BINS = 2 * NET_HALF * (NET_HALF + 1)
SMALLEST_WINDOW = 64
RATIO_SCALES = (0.5, 0.1, 0.1, 0.03, 0.03, 0.03, 0.03, 0.09)
"""Typical sizes of the reduced coefficients, in the order of `ESTIMATED`; see `reduced`."""


def window_pixels(geometry: Geometry, c1_nm: float) -> int:
    """The window for a defocus, in pixels: a multiple of 16, between 64 and three eighths of the frame."""
    ideal = math.sqrt(BEST_RINGS * geometry.wavelength_nm / max(abs(c1_nm), 1e-3)) / geometry.pixel_rad
    largest = max(SMALLEST_WINDOW, int(0.375 * geometry.pixels) // 16 * 16)
    return int(np.clip(16 * round(ideal / 16), SMALLEST_WINDOW, largest))


@dataclass(frozen=True)
class Layout:
    """Where the windows lie: `side` x `side` windows of `window` pixels, evenly spread over the frame."""

    geometry: Geometry
    window: int
    side: int = SIDE

    def __post_init__(self) -> None:
        if self.window > self.geometry.pixels:
            raise BadInput(f"a window of {self.window} pixels does not fit a frame of {self.geometry.pixels} pixels.")

    @cached_property
    def corners(self) -> np.ndarray:
        """First pixel of each row (or column) of windows, shape (side,)."""
        return np.rint(np.linspace(0, self.geometry.pixels - self.window, self.side)).astype(int)

    @cached_property
    def centres_rad(self) -> np.ndarray:
        """Angles of the windows' centres along one axis, shape (side,)."""
        return np.asarray((self.corners + self.window / 2 - self.geometry.pixels / 2) * self.geometry.pixel_rad)

    @property
    def width_rad(self) -> float:
        """Width of a window."""
        return self.window * self.geometry.pixel_rad

    def curvature_basis(self, names: tuple[str, ...] = ESTIMATED) -> np.ndarray:
        """Curvature at each window of a unit of each coefficient, (names, side * side, 3)."""
        y, x = np.meshgrid(self.centres_rad, self.centres_rad, indexing="ij")
        return np.asarray(curvature_basis(names, y.ravel(), x.ravel()).transpose(0, 2, 1))

    def curvature_slopes(self, names: tuple[str, ...] = ESTIMATED) -> np.ndarray:
        """How the curvature of a unit of each coefficient changes along y and x, per rad: (names, places, 3, 2)."""
        step = self.width_rad / 2
        y, x = (v.ravel() for v in np.meshgrid(self.centres_rad, self.centres_rad, indexing="ij"))
        along_y = curvature_basis(names, y + step, x) - curvature_basis(names, y - step, x)
        along_x = curvature_basis(names, y, x + step) - curvature_basis(names, y, x - step)
        return np.asarray(np.stack([along_y, along_x], axis=-1).transpose(0, 2, 1, 3) / self.width_rad)

    def cell_curvature_basis(self, names: tuple[str, ...] = ESTIMATED) -> np.ndarray:
        """As `curvature_basis`, in the middle of each 2 x 2 windows: (names, cells * cells, 3)."""
        y, x = np.meshgrid(self.cell_centres_rad, self.cell_centres_rad, indexing="ij")
        return np.asarray(curvature_basis(names, y.ravel(), x.ravel()).transpose(0, 2, 1))

    @cached_property
    def cell_centres_rad(self) -> np.ndarray:
        """Middles of neighbouring windows along one axis, shape (side / 2,)."""
        return np.asarray(self.centres_rad.reshape(-1, 2).mean(axis=1))


def periodograms(frames: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Periodograms of the relative intensity under Hann windows.

    Parameters
    ----------
    frames : Tensor, shape (batch, pixels, pixels)
        Counts; only ratios to the local mean matter.
    layout : Layout

    Returns
    -------
    Tensor, shape (batch, side * side, window, window // 2 + 1)
        In units in which shot noise is one over the electrons per pixel.
    """
    import torch

    n = layout.window
    window = torch.as_tensor(hann(n), dtype=frames.dtype, device=frames.device)
    window = window[:, None] * window[None, :]
    at = torch.as_tensor(layout.corners[:, None] + np.arange(n), device=frames.device)  # (side, n)
    rows = frames[:, at]  # (batch, side, n, pixels)
    patches = rows[..., at].permute(0, 1, 3, 2, 4)  # (batch, side, side, n, n)
    weight = window / window.sum()
    mean = (patches * weight).sum(dim=(-2, -1), keepdim=True)
    relative = (patches / mean.clamp(min=1e-6) - 1) * window
    spectrum = torch.fft.rfft2(relative)
    power = (spectrum.real**2 + spectrum.imag**2) / (window**2).sum()
    return power.flatten(1, 2)


def for_network(power: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network is given: logarithms of averaged spectra, (batch, cells², NET_BINS), and what is known of each cell."""
    import torch

    batch, _, n, _ = power.shape
    side = layout.side
    rows = torch.cat([torch.arange(NET_HALF), torch.arange(n - NET_HALF, n)])
    seen = power[:, :, rows, : NET_HALF + 1]
    pooled = seen.reshape(batch, side // 2, 2, side // 2, 2, 2 * NET_HALF, NET_HALF + 1).mean(dim=(2, 4))
    return logarithms(pooled.flatten(1, 2).flatten(2)), extras(layout, batch)


def logarithms(pooled: torch.Tensor) -> torch.Tensor:
    """Logarithms of spectra (batch, cells, NET_BINS), free of the frame's contrast, without the lowest frequencies."""
    logs = pooled.clamp(min=1e-12).log()
    kept = network_bins().norm(dim=-1) > 1.5
    centred = logs - logs[..., kept].mean(dim=(1, 2), keepdim=True)
    return centred.clamp(-4.0, 4.0) * kept


def network_bins() -> torch.Tensor:
    """(jy, jx) of the bins the network sees, shape (NET_BINS, 2)."""
    import torch

    jy = torch.cat([torch.arange(NET_HALF), torch.arange(-NET_HALF, 0)]).float()
    jx = torch.arange(NET_HALF + 1).float()
    return torch.stack(torch.meshgrid(jy, jx, indexing="ij"), dim=-1).reshape(-1, 2)


def extras(layout: Layout, batch: int) -> torch.Tensor:
    """Position of each cell in the frame (-1 to 1) and width of the windows relative to the frame, (batch, cells², 3)."""
    import torch

    edge = 1e-3 * layout.geometry.half_angle_mrad
    y, x = np.meshgrid(layout.cell_centres_rad / edge, layout.cell_centres_rad / edge, indexing="ij")
    wide = np.full_like(x, 2 * layout.width_rad / edge - 0.5)
    table = torch.as_tensor(np.stack([y.ravel(), x.ravel(), wide.ravel()], axis=-1), dtype=torch.float32)
    return table.expand(batch, -1, -1)


def reduced(coefficients: np.ndarray, layout: Layout) -> np.ndarray:
    """Coefficients as the network knows them, shape (..., 8): ln of the ring number, and ratios to C1 at the frame's edge.

    A Ronchigram does not tell the sign of all coefficients together; C1 is taken as negative (underfocus).
    """
    edge = 1e-3 * layout.geometry.half_angle_mrad
    c1 = coefficients[..., :1]
    if np.any(c1 >= 0):
        raise BadInput("the network reads underfocused Ronchigrams: C1 must be negative.")
    rings = -c1 * layout.width_rad**2 / layout.geometry.wavelength_nm
    ratios = coefficients[..., 1:] * _edge_units(edge)[1:] / c1
    return np.asarray(np.concatenate([np.log(rings / 60.0), ratios], axis=-1) / np.array(RATIO_SCALES))


def physical(values: np.ndarray, layout: Layout) -> np.ndarray:
    """The inverse of `reduced`."""
    edge = 1e-3 * layout.geometry.half_angle_mrad
    values = values * np.array(RATIO_SCALES)
    c1 = -60.0 * np.exp(values[..., :1]) * layout.geometry.wavelength_nm / layout.width_rad**2
    return np.asarray(np.concatenate([c1, values[..., 1:] * c1 / _edge_units(edge)[1:]], axis=-1))


def _edge_units(edge_rad: float) -> np.ndarray:
    """What a unit of each coefficient adds to the ray's slope per angle at the edge of the frame, in nm; shape (8,)."""
    return np.array([(1e3 if name == "C3" else 1.0) * edge_rad ** (order_of(name) - 1) for name in ESTIMATED])
