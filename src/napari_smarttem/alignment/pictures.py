"""What aberrations look like: the phase plate in the aperture, and the probe it makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..physics.aberrations import phase, quarter_pi_angle_mrad
from ..physics.probe import probe_covariance_nm2
from ..schema import electron_wavelength_nm

AROUND = 1.25
"""How far the picture of the phase plate reaches, in half-angles of the aperture."""
SMALLEST_FIELD_NM, LARGEST_FIELD_NM = 0.4, 60.0
PROBE_WIDTHS = 8.0
"""Side of the picture of the probe, in standard deviations of its longest axis."""


@dataclass(frozen=True)
class ThroughAperture:
    """What aberrations make of a beam through an aperture.

    Attributes
    ----------
    quarter_pi_mrad : float
        Half-angle at which the phase reaches pi/4.
    in_focus_mrad : float
        The same without C1.
    plate : ndarray, shape (pixels, pixels)
        Phase in rad, wrapped to +- pi, over +- `plate_half_mrad`.
    plate_half_mrad : float
    spot : ndarray, shape (pixels, pixels)
        Intensity of the probe relative to the peak of the ideal one, over `field_nm`.
    field_nm : float
    """

    quarter_pi_mrad: float
    in_focus_mrad: float
    plate: np.ndarray
    plate_half_mrad: float
    spot: np.ndarray
    field_nm: float


def through_aperture(
    aberrations: Mapping[str, float], *, convergence_mrad: float, high_tension_v: float
) -> ThroughAperture:
    """Phase plate, angle and probe of aberrations by name; tens of milliseconds of work."""
    half = AROUND * convergence_mrad
    plate = phase_plate(aberrations, half_angle_mrad=half, high_tension_v=high_tension_v)
    covariance = probe_covariance_nm2(
        aberrations, convergence_mrad=convergence_mrad, high_tension_v=high_tension_v, source_fwhm_nm=0
    )
    widest = PROBE_WIDTHS * np.sqrt(np.linalg.eigvalsh(covariance)[-1])
    field = float(np.clip(widest, SMALLEST_FIELD_NM, LARGEST_FIELD_NM))
    angle = float(quarter_pi_angle_mrad(aberrations, high_tension_v))
    in_focus = angle
    if aberrations.get("C1", 0.0):
        in_focus = float(quarter_pi_angle_mrad({**aberrations, "C1": 0.0}, high_tension_v))
    return ThroughAperture(
        quarter_pi_mrad=angle,
        in_focus_mrad=in_focus,
        plate=np.mod(plate + np.pi, 2 * np.pi) - np.pi,
        plate_half_mrad=half,
        spot=probe(aberrations, convergence_mrad=convergence_mrad, high_tension_v=high_tension_v, field_nm=field),
        field_nm=field,
    )


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
