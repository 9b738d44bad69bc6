"""What the local power spectrum of a Ronchigram is expected to be: Thon rings, angle by angle.

Around an angle theta a Ronchigram is an in-line hologram with the curvature H(theta) of the wave aberration as its defocus. A
detail of the film of spatial frequency q makes fringes of frequency s = H q (cycles per rad), and the spectrum is

    S(s) = 2 P(q) / |det H| [1 - D cos 2 gamma] T(s)^2 + noise,      gamma = pi lambda s . H^-1 . s

with P the spectrum of the film's phase, T the camera and the source. A window of finite width sees the two sidebands of q at
places 2 lambda q apart, so that their interference is damped by the window's autocorrelation at that distance: D = rho(2 lambda q).
In units of the window (s = j / L), gamma = pi j . G . j with G = lambda H^-1 / L^2, the only thing a spectrum depends on but for
its envelope: that is why one network serves every voltage, angle and frame size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Slopes = tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]
"""An autocorrelation with its first and second derivative."""


def hann(n: int) -> np.ndarray:
    """The periodic Hann window, shape (n,)."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n))


def hann_autocorrelation(lag: torch.Tensor) -> torch.Tensor:
    """Autocorrelation of a Hann window of width 1 at `lag`, 1 at zero and 0 from 1 on."""
    import torch

    x = lag.abs().clamp(max=1.0)
    return (1 - x) * (2 / 3 + torch.cos(2 * math.pi * x) / 3) + torch.sin(2 * math.pi * x) / (2 * math.pi)


def hann_slopes(lag: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`hann_autocorrelation` with its first and second derivative."""
    import torch

    x = lag.abs().clamp(max=1.0)
    cosine, sine = torch.cos(2 * math.pi * x), torch.sin(2 * math.pi * x)
    value = (1 - x) * (2 / 3 + cosine / 3) + sine / (2 * math.pi)
    first = 2 / 3 * (cosine - 1) - 2 * math.pi / 3 * (1 - x) * sine
    second = -2 * math.pi / 3 * sine - 4 * math.pi**2 / 3 * (1 - x) * cosine
    return value, first * lag.sign(), second


def window_response(
    reduced: torch.Tensor,
    along_y: Slopes,
    along_x: Slopes,
    fall: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a window makes of cos 2 gamma: ``cosine * cos(2 gamma) - sine * sin(2 gamma)``.

    The window's transform averages over neighbouring bins, whose phase differs linearly (the damping) and, a little, quadratically
    (a shift of all rings, which would otherwise bias the defocus by one per cent).

    Parameters
    ----------
    reduced : Tensor, shape (..., places, 3)
        Inverse curvatures, from `inverse_curvature`, times wavelength over the square of the window's width.
    along_y, along_x : three Tensors of shape (..., places, bins)
        Autocorrelation of the window at the sidebands' distance 2 lambda q along each axis, in windows, with its derivatives.
    fall : (Tensor, Tensor) or None
        Slope of the logarithm of the envelope per bin, along y and x: a window sees more of the brighter side, which shifts the
        rings too.

    Returns
    -------
    cosine, sine : Tensor, shape (..., places, bins)
    """
    (vy, dy, ddy), (vx, dx, ddx) = along_y, along_x
    turned = reduced[..., 0:1] * ddy * vx + reduced[..., 2:3] * vy * ddx + 2 * reduced[..., 1:2] * dy * dx
    if fall is not None:
        turned = turned + fall[0] * dy * vx + fall[1] * vy * dx
    return vy * vx, turned * (-1 / (2 * math.pi))


def inverse_curvature(curvature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Inverse of ``(..., 3)`` symmetric matrices (yy, yx, xx), and their determinants."""
    import torch

    yy, yx, xx = curvature.unbind(-1)
    determinant = yy * xx - yx**2
    return torch.stack([xx, -yx, yy], dim=-1) / determinant[..., None], determinant


def film_spectrum(q2: torch.Tensor, film: Any) -> torch.Tensor:
    """Spectrum of a film's phase per (1/nm)², up to the square of its rms; the values of `film` broadcast."""
    import torch

    def shape(squared: torch.Tensor) -> torch.Tensor:
        ring = torch.exp(-0.5 * ((squared.sqrt() - film.ring_per_nm) / film.ring_width_per_nm) ** 2)
        return 1 / (1 + squared / film.k0_per_nm**2) ** 2 + film.ring * ring

    radii = torch.linspace(0.0, 5.0, 65, dtype=q2.dtype).reshape(-1, *(1,) * q2.ndim)
    total = torch.trapezoid(2 * math.pi * radii * shape(radii**2), radii, dim=0)
    return shape(q2) / total


def expected_spectrum(
    curvature: torch.Tensor,
    bins: torch.Tensor,
    *,
    width_rad: float,
    wavelength_nm: float,
    pixel_rad: float,
    film: Any,
    recording: Any,
    damped: bool = True,
) -> torch.Tensor:
    """Expected periodogram, in units in which shot noise is one over the electrons per pixel.

    Parameters
    ----------
    curvature : Tensor, shape (batch, places, 3)
        ``yy, yx, xx`` in nm.
    bins : Tensor, shape (bins, 2)
        Numbers (jy, jx) of the bins of the window's transform.
    width_rad : float
        Width of the Hann window; `pixel_rad` that of a pixel.
    film, recording : Film, Recording
        Values are numbers or tensors that broadcast against (batch, places, bins).
    damped : bool
        False leaves out the window.

    Returns
    -------
    Tensor, shape (batch, places, bins)
    """
    import torch

    inverse, determinant = inverse_curvature(curvature)
    s = bins / width_rad
    sy, sx = s[:, 0], s[:, 1]
    qy = inverse[..., 0:1] * sy + inverse[..., 1:2] * sx
    qx = inverse[..., 1:2] * sy + inverse[..., 2:3] * sx
    q2 = qy**2 + qx**2
    gamma = math.pi * wavelength_nm * (qy * sy + qx * sx)
    fringes = torch.cos(2 * gamma)
    if damped:
        lag, reduced = 2 * wavelength_nm / width_rad, inverse * (wavelength_nm / width_rad**2)
        cosine, sine = window_response(reduced, hann_slopes(lag * qy), hann_slopes(lag * qx))
        fringes = fringes * cosine - torch.sin(2 * gamma) * sine
    s2 = sy**2 + sx**2
    transfer = -4 * math.pi**2 * (recording.source_sigma_nm**2 * q2 + (recording.mtf_sigma_px * pixel_rad) ** 2 * s2)
    transfer = transfer - (math.pi * wavelength_nm * recording.focal_spread_nm * q2) ** 2
    pixel = (torch.sinc(sy * pixel_rad) * torch.sinc(sx * pixel_rad)) ** 2
    signal = 2 * film.phase_rms**2 * film_spectrum(q2, film) / determinant.abs()[..., None] / pixel_rad**2
    return signal * (1 - fringes) * torch.exp(transfer) * pixel + 1 / recording.dose_e_per_px
