"""Ronchigrams of thin amorphous films, batched, in torch.

Exact for a thin specimen (multiplicative transmission). With the curvature H of the wave aberration at the middle of the frame,
W = 1/2 theta.H.theta + W_r, the amplitude at an angle theta is, up to a phase,

    Psi(theta) = K* ** { t(H theta') . [ K ** exp(-i chi_r) ](theta') },      K^(s) = exp(+i pi lambda s.H^-1.s)

(** is convolution over angles, s in cycles per rad): a Fresnel propagation to the specimen in demagnified coordinates and back, so
that the grid must only hold the residual phase chi_r = 2 pi W_r / lambda and not the defocus. The usual direct way,
|FFT(probe . t)|^2, needs ten times as many pixels each way and is the check in the tests.

Angles are in mrad or rad as named, lengths in nm; arrays are (batch, y, x) and pixel i of n has its centre at
(i + 1/2 - n/2) 2 half_angle / n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schema import BadInput, electron_wavelength_nm
from .aberrations import curvature_basis, wave_basis

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Geometry:
    """What a frame shows.

    Parameters
    ----------
    high_tension_v : float
    half_angle_mrad : float
        From the middle of the frame to the middle of its edge.
    pixels : int
        The frame is square.
    """

    high_tension_v: float = 300e3
    half_angle_mrad: float = 30.0
    pixels: int = 512

    @property
    def wavelength_nm(self) -> float:
        """Relativistic wavelength."""
        return electron_wavelength_nm(self.high_tension_v)

    @property
    def pixel_rad(self) -> float:
        """Angle per pixel."""
        return 2e-3 * self.half_angle_mrad / self.pixels


@dataclass(frozen=True)
class Film:
    """An amorphous film, seen by its projected phase; values may be arrays of shape (batch,).

    The power spectrum of the phase is that of atoms at random with a mean inner structure: a fall-off
    ``1 / (1 + (q/k0)^2)^2`` and a ring of relative height `ring` at `ring_per_nm` of width `ring_width_per_nm`.

    Parameters
    ----------
    phase_rms : float
        Standard deviation of the phase below 5/nm, in rad; grows with the square root of the thickness (0.1 is about 3 nm of
        carbon at 300 kV).
    k0_per_nm : float
        Where the spectrum falls off.
    ring, ring_per_nm, ring_width_per_nm : float
        First ring of the amorphous diffraction pattern.
    """

    phase_rms: Any = 0.2
    k0_per_nm: Any = 5.0
    ring: Any = 0.3
    ring_per_nm: Any = 4.7
    ring_width_per_nm: Any = 0.8


@dataclass(frozen=True)
class Recording:
    """How the beam and the camera spoil the frame; values may be arrays of shape (batch,).

    Parameters
    ----------
    dose_e_per_px : float
        Mean electrons per camera pixel; infinity leaves out the shot noise.
    source_sigma_nm : float
        Standard deviation of the demagnified source.
    focal_spread_nm : float
        Standard deviation of the defocus from the energy width.
    mtf_sigma_px : float
        Gaussian blur of the camera before the noise; the pixel's own square is added to it.
    gain_ripple : float
        Standard deviation of the fixed pattern that is left after the gain correction.
    specks : float
        Mean number of crystalline specks in the field.
    disc_mrad : float or None
        Radius of an aperture in front of the specimen; None: the frame is filled.
    offset_mrad : (float, float)
        Where the optic axis lies in the frame, (y, x).
    ellipticity : float
        Relative difference of the angular scale along x and y.
    """

    dose_e_per_px: Any = 200.0
    source_sigma_nm: Any = 0.02
    focal_spread_nm: Any = 2.0
    mtf_sigma_px: Any = 0.5
    gain_ripple: Any = 0.0
    specks: float = 0.0
    disc_mrad: float | None = None
    offset_mrad: tuple[float, float] = (0.0, 0.0)
    ellipticity: float = 0.0


GUARD = 1.125
"""The grid reaches this much beyond the frame, so that what scatters in from outside is there."""


def nice_size(n: float) -> int:
    """The next even number that has only the factors 2, 3 and 5."""
    size = 2 * math.ceil(n / 2)
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2


def needed_oversampling(geometry: Geometry, coefficients: np.ndarray, names: Sequence[str]) -> int:
    """Grid points per camera pixel that hold the residual phase within the frame.

    Parameters
    ----------
    coefficients : ndarray, shape (batch, len(names))
    """
    edge = geometry.half_angle_mrad * 1e-3
    at = np.linspace(-edge, edge, 17)
    y, x = np.meshgrid(at, at, indexing="ij")
    residual = [k for k, name in enumerate(names) if name.partition(".")[0] not in ("C1", "A1")]
    if not residual:
        return 1
    from .aberrations import gradient_basis

    slope = np.tensordot(coefficients[:, residual], gradient_basis([names[k] for k in residual], y, x), axes=1)
    steepest = float(np.abs(slope).max()) / geometry.wavelength_nm  # cycles per rad
    return max(1, math.ceil(2 * steepest * geometry.pixel_rad / 1.1))


def simulate(
    geometry: Geometry,
    coefficients: np.ndarray,
    names: Sequence[str],
    *,
    film: Film | None = None,
    recording: Recording | None = None,
    generator: torch.Generator | None = None,
    oversampling: int | None = None,
    largest_oversampling: int = 4,
    device: str = "cpu",
) -> torch.Tensor:
    """Frames in electrons per pixel.

    Parameters
    ----------
    geometry : Geometry
    coefficients : ndarray, shape (batch, len(names))
        Units as in `aberrations.TERMS`.
    names : sequence of str
        Aberrations, among `aberrations.ALL`.
    film : Film
        Drawn afresh for every frame.
    recording : Recording
    generator : torch.Generator
        Of the specimen and the noise.
    oversampling : int or None
        Grid points per camera pixel; None takes what the residual aberrations need. With 1, nothing beyond the camera's own
        Nyquist frequency is in the specimen (and so nothing can alias).
    largest_oversampling : int
        Bound of what None takes; beyond it the rim of a badly misaligned frame is not exact.

    Returns
    -------
    Tensor, shape (batch, pixels, pixels), float32

    Raises
    ------
    BadInput
        Where C1 and A1 leave no defocus at all in some direction: the magnification would be infinite.
    """
    import torch

    film, recording = film or Film(), recording or Recording()
    coefficients = np.atleast_2d(np.asarray(coefficients, dtype=float))
    over = oversampling or min(largest_oversampling, needed_oversampling(geometry, coefficients, names))
    step = geometry.pixel_rad / over
    size = nice_size(geometry.pixels * GUARD) * over
    batch = len(coefficients)
    wavelength = geometry.wavelength_nm

    first = [k for k, name in enumerate(names) if name.partition(".")[0] in ("C1", "A1")]
    rest = [k for k in range(len(names)) if k not in first]
    zero = np.zeros(())
    curvature = coefficients[:, first] @ curvature_basis([names[k] for k in first], zero, zero)  # (batch, 3)
    yy, yx, xx = curvature.T
    determinant = yy * xx - yx**2
    if np.any(np.abs(determinant) < 1.0):
        raise BadInput(
            "a Ronchigram needs some defocus in every direction: |C1| must differ from |A1| by more than 1 nm."
        )

    def column(values: Any) -> torch.Tensor:
        """A number, or one a frame, as (batch, 1, 1)."""
        tensor = torch.as_tensor(np.broadcast_to(np.asarray(values, dtype=np.float32), (batch,)).copy(), device=device)
        return tensor.reshape(batch, 1, 1)

    s = torch.fft.fftfreq(size, d=step, device=device, dtype=torch.float32)
    sy, sx = s[:, None], s[None, :]
    # q = H^-1 s in 1/nm: which detail of the specimen makes which fringe
    qy = column(xx / determinant) * sy - column(yx / determinant) * sx
    qx = -column(yx / determinant) * sy + column(yy / determinant) * sx
    gamma = (math.pi * wavelength) * (qy * sy + qx * sx)
    kernel = torch.polar(torch.ones_like(gamma), gamma)

    # -- the specimen, in demagnified coordinates
    q2 = qy**2 + qx**2
    power = 1 / (1 + q2 / column(film.k0_per_nm) ** 2) ** 2
    # what scatters over more than the grid would come back in from its other side (near focus only)
    power = power * (wavelength**2 * q2 < (0.45 * size * step) ** 2)
    off_ring = (q2.sqrt() - column(film.ring_per_nm)) / column(film.ring_width_per_nm)
    power = power + column(film.ring) * torch.exp(-0.5 * off_ring**2)
    # phase_rms counts what lies below 5/nm: the integral of `power` over that disc is done on a fine grid of radii
    radii = torch.linspace(0.0, 5.0, 257, device=device)[None, :]
    k0, ring_at, ring_width = (column(v)[:, 0] for v in (film.k0_per_nm, film.ring_per_nm, film.ring_width_per_nm))
    line = 1 / (1 + radii**2 / k0**2) ** 2
    line = line + column(film.ring)[:, 0] * torch.exp(-0.5 * ((radii - ring_at) / ring_width) ** 2)
    total = torch.trapezoid(2 * math.pi * radii * line, radii)[:, None, None]
    # power per area of q -> power per grid point of the demagnified plane
    per_point = column(1 / (np.abs(determinant) * step**2)) * power / total * column(film.phase_rms) ** 2
    noise = torch.randn((batch, size, size), generator=generator, device=device)
    potential = torch.fft.irfft2(torch.fft.rfft2(noise) * per_point.sqrt()[..., : size // 2 + 1], s=(size, size))
    if recording.specks:
        potential = potential + _specks(
            geometry, curvature, size=size, step=step, mean=recording.specks, generator=generator, device=device
        )
    transmission = torch.polar(torch.ones_like(potential), potential)

    # -- the wave
    at = (torch.arange(size, dtype=torch.float64) + 0.5 - size / 2).numpy() * step
    ty = at[:, None] - 1e-3 * recording.offset_mrad[0]
    tx = (at[None, :] - 1e-3 * recording.offset_mrad[1]) * (1 + recording.ellipticity)
    y, x = np.broadcast_arrays(ty, tx)
    active = [k for k in rest if np.any(coefficients[:, k] != 0)]
    if active:
        basis = torch.as_tensor(wave_basis([names[k] for k in active], y, x).reshape(len(active), -1), device=device)
        # float64 until here: the phase reaches hundreds of rad
        chi = torch.as_tensor(coefficients[:, active] * (2 * math.pi / wavelength), device=device) @ basis
        chi = torch.remainder(chi, 2 * math.pi).to(torch.float32).reshape(batch, size, size)
        pupil = torch.polar(torch.ones_like(chi), -chi)
    else:
        pupil = torch.ones((batch, size, size), dtype=torch.complex64, device=device)
    window = _window(size, over, geometry, recording, at=at, device=device)
    intensity = far_field(pupil * window, transmission, kernel).abs() ** 2

    # -- the camera: source size, pixel and point spread act on the intensity
    half = size // 2 + 1
    fy, fx = sy, s.abs()[None, :half]
    blur = torch.exp(-2 * (math.pi**2) * column(recording.source_sigma_nm) ** 2 * q2[..., :half])
    camera = column(recording.mtf_sigma_px) * geometry.pixel_rad
    blur = blur * torch.exp(-2 * (math.pi**2) * camera**2 * (fy**2 + fx**2))
    blur = blur * torch.exp(
        -0.5 * (2 * math.pi * wavelength * column(recording.focal_spread_nm) * q2[..., :half]) ** 2 / 4
    )
    if over == 1:
        blur = blur * torch.sinc(fy * geometry.pixel_rad) * torch.sinc(fx * geometry.pixel_rad)
    intensity = torch.fft.irfft2(torch.fft.rfft2(intensity) * blur, s=(size, size)).clamp_(min=0)
    margin = (size - geometry.pixels * over) // 2
    frame = intensity[:, margin : margin + geometry.pixels * over, margin : margin + geometry.pixels * over]
    if over > 1:
        frame = frame.reshape(batch, geometry.pixels, over, geometry.pixels, over).mean(dim=(2, 4))
    return _recorded(frame.contiguous(), column(recording.dose_e_per_px), column(recording.gain_ripple), generator)


def far_field(pupil: torch.Tensor, transmission: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Amplitude over angles, up to a phase; see the module for the formula.

    Parameters
    ----------
    pupil : Tensor, shape (..., n, n)
        ``exp(-i chi_r)`` and the aperture, over angles.
    transmission : Tensor, shape (..., n, n)
        The specimen at ``r = H theta``.
    kernel : Tensor, shape (..., n, n)
        ``exp(i pi lambda s.H^-1.s)`` over the frequencies of the angles, zero frequency first.
    """
    import torch

    at_specimen = torch.fft.ifft2(torch.fft.fft2(pupil) * kernel)
    return torch.fft.ifft2(torch.fft.fft2(at_specimen * transmission) * kernel.conj())


def _window(
    size: int, over: int, geometry: Geometry, recording: Recording, *, at: np.ndarray, device: str
) -> torch.Tensor:
    """1 in the frame, falling to 0 at the rim of the grid (or of an aperture), (size, size)."""
    import torch

    inside = geometry.pixels * over / 2
    taper = size / 2 - inside
    distance = np.abs(np.arange(size) + 0.5 - size / 2) - inside
    edge = np.where(distance <= 0, 1.0, np.cos(np.clip(distance / taper, 0, 1) * np.pi / 2) ** 2)
    window = edge[:, None] * edge[None, :]
    if recording.disc_mrad is not None:
        radius = np.hypot(at[:, None] - 1e-3 * recording.offset_mrad[0], at[None, :] - 1e-3 * recording.offset_mrad[1])
        soft = 2 * geometry.pixel_rad
        window = window / (1 + np.exp(np.clip((radius - 1e-3 * recording.disc_mrad) / soft * 4, -60, 60)))
    return torch.as_tensor(window.astype(np.float32), device=device)


def _specks(
    geometry: Geometry,
    curvature: np.ndarray,
    *,
    size: int,
    step: float,
    mean: float,
    generator: torch.Generator | None,
    device: str,
) -> torch.Tensor:
    """Small crystals: lattice fringes under Gaussian envelopes, in demagnified coordinates; (batch, size, size)."""
    import torch

    batch = len(curvature)
    out = torch.zeros((batch, size, size), device=device)
    at = (torch.arange(size, device=device) + 0.5 - size / 2) * step
    for b in range(batch):
        count = int(torch.poisson(torch.tensor([float(mean)], device=device), generator=generator))
        yy, yx, xx = (float(v) for v in curvature[b])
        for _ in range(count):
            cy, cx, angle, spacing, wide, strength = torch.rand(6, generator=generator, device=device).tolist()
            half = geometry.half_angle_mrad * 1e-3
            dy, dx = at[:, None] - (2 * cy - 1) * half, at[None, :] - (2 * cx - 1) * half
            ry, rx = yy * dy + yx * dx, yx * dy + xx * dx  # nm on the specimen
            q = 1 / (0.2 + 0.3 * spacing)
            sigma = 1.5 + 2.5 * wide
            fringe = torch.cos(2 * math.pi * q * (math.sin(angle * math.pi) * ry + math.cos(angle * math.pi) * rx))
            out[b] += 0.4 * (0.3 + strength) * fringe * torch.exp(-0.5 * (ry**2 + rx**2) / sigma**2)
    return out


def _recorded(
    frame: torch.Tensor, dose: torch.Tensor, ripple: torch.Tensor, generator: torch.Generator | None
) -> torch.Tensor:
    """Counts of a frame of relative intensity."""
    import torch

    if bool((ripple > 0).any()):
        frame = frame * (1 + ripple * torch.randn(frame.shape, generator=generator, device=frame.device)).clamp_(min=0)
    if not bool(torch.isfinite(dose).all()):
        return frame
    # Above 50 electrons a Poisson number is a normal one to better than the eye or the spectra can tell, and ten times as fast.
    expected = frame * dose
    if float(dose.min()) >= 50.0:
        noise = torch.randn(frame.shape, generator=generator, device=frame.device)
        return (expected + expected.sqrt() * noise).round_().clamp_(min=0)
    return torch.poisson(expected, generator=generator)
