"""The Cramer-Rao bound of the aberrations under the Whittle likelihood: how well any method can do on one Ronchigram.

Film, source, camera and dose are taken as known, and the rings as resolved everywhere: an estimator that must find those out too
lies above it.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np

from ..physics.aberrations import ESTIMATED, curvature_basis
from ..physics.ronchigram import Film, Geometry, Recording
from ..physics.ronchigram_spectrum import expected_spectrum, inverse_curvature

PLACES, FREQUENCIES = 10, 160


def standard_errors(
    geometry: Geometry, coefficients: np.ndarray, *, film: Film | None = None, recording: Recording | None = None
) -> np.ndarray:
    """Smallest possible standard errors, shape (8,), in the units of the coefficients."""
    import torch

    film, recording = film or Film(), recording or Recording()
    film = SimpleNamespace(**{name: torch.tensor(float(value)) for name, value in vars(film).items()})  # type: ignore[assignment]
    edge = 1e-3 * geometry.half_angle_mrad
    at = (np.arange(PLACES) + 0.5) / PLACES * 2 * edge - edge
    y, x = (v.ravel() for v in np.meshgrid(at, at, indexing="ij"))
    units = curvature_basis(ESTIMATED, y, x).transpose(0, 2, 1)  # (8, places, 3)
    curvature = torch.as_tensor(np.tensordot(coefficients, units, axes=1))
    nyquist = 0.5 / geometry.pixel_rad
    f = (np.arange(FREQUENCIES) + 0.5) / FREQUENCIES * 2 * nyquist - nyquist
    sy, sx = np.meshgrid(f, f[FREQUENCIES // 2 :], indexing="ij")
    s = torch.as_tensor(np.stack([sy.ravel(), sx.ravel()], axis=-1))
    wavelength = geometry.wavelength_nm
    known = {
        "width_rad": 1.0,
        "wavelength_nm": wavelength,
        "pixel_rad": geometry.pixel_rad,
        "film": film,
        "damped": False,
    }
    expected = expected_spectrum(curvature[None], s, recording=recording, **known)[0]  # type: ignore[arg-type]
    inverse, _ = inverse_curvature(curvature)
    qy = inverse[:, 0:1] * s[:, 0] + inverse[:, 1:2] * s[:, 1]
    qx = inverse[:, 1:2] * s[:, 0] + inverse[:, 2:3] * s[:, 1]
    gamma2 = 2 * math.pi * wavelength * (qy * s[:, 0] + qx * s[:, 1])
    signal = expected - 1 / float(recording.dose_e_per_px)
    # signal is envelope times (1 - cos): the envelope alone, where the rings are not dark
    slope = (
        signal / (1 - torch.cos(gamma2)).clamp(min=1e-4) * torch.sin(gamma2) / expected * (-2 * math.pi * wavelength)
    )
    local = torch.stack([slope * qy**2, 2 * slope * qy * qx, slope * qx**2], dim=1)
    weight = (2 * edge / PLACES) ** 2 * (2 * nyquist / FREQUENCIES) ** 2
    gram = (torch.bmm(local, local.transpose(1, 2)) * weight).numpy()
    fisher = np.einsum("api,pij,bpj->ab", units, gram, units, optimize=True)
    return np.asarray(np.sqrt(np.diag(np.linalg.inv(fisher))))


def mean_absolute_errors(
    geometry: Geometry, coefficients: np.ndarray, *, film: Film | None = None, recording: Recording | None = None
) -> np.ndarray:
    """The bound as mean absolute errors, averaged over rows of coefficients (n, 8); shape (8,)."""
    errors = [standard_errors(geometry, row, film=film, recording=recording) for row in coefficients]
    return np.asarray(np.mean(errors, axis=0) * math.sqrt(2 / math.pi))
