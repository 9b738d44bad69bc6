"""What aberrations look like: the phase plate in the aperture, and the probe it makes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..physics.aberrations import phase
from ..schema import electron_wavelength_nm


def phase_plate(
    aberrations: Mapping[str, float], *, half_angle_mrad: float, high_tension_v: float, pixels: int = 161
) -> np.ndarray:
    """The phase chi over a square of +- `half_angle_mrad`, in rad, shape (pixels, pixels); (theta_y, theta_x)."""
    theta = np.linspace(-half_angle_mrad, half_angle_mrad, pixels)
    return phase(aberrations, theta[:, None], theta[None, :], high_tension_v)


def probe(
    aberrations: Mapping[str, float],
    *,
    convergence_mrad: float,
    high_tension_v: float,
    field_nm: float = 1.0,
    pixels: int = 128,
) -> np.ndarray:
    """Intensity of the coherent probe, by the diffraction integral over the aperture.

    Parameters
    ----------
    aberrations : mapping
        By name, as in `physics.aberrations`.
    convergence_mrad : float
        Half-angle of the aperture.
    high_tension_v : float
    field_nm : float
        Side of the picture.
    pixels : int

    Returns
    -------
    ndarray, shape (pixels, pixels)
        Relative to the peak of the probe without aberrations: the largest value is the Strehl ratio where the optics is nearly
        aligned.
    """
    wavelength = electron_wavelength_nm(high_tension_v)
    # samples over the aperture: as many as the phase of the farthest place in the picture and of the aberrations asks for
    steps = int(np.clip(4 * convergence_mrad * 1e-3 * field_nm / wavelength, 96, 320))
    theta = (np.arange(steps) + 0.5) / steps * 2 * convergence_mrad - convergence_mrad
    inside = theta[:, None] ** 2 + theta[None, :] ** 2 <= convergence_mrad**2
    chi = phase(aberrations, theta[:, None], theta[None, :], high_tension_v)
    pupil = np.where(inside, np.exp(-1j * chi), 0.0)
    place = (np.arange(pixels) - (pixels - 1) / 2) * (field_nm / pixels)
    kernel = np.exp(2j * np.pi / wavelength * np.outer(place, theta * 1e-3))
    amplitude = kernel @ pupil @ kernel.T
    return np.asarray(np.abs(amplitude / inside.sum()) ** 2)
