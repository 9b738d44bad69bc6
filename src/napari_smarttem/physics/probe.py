"""Size and shape of the focused probe from the aberrations, by ray optics.

A ray that passes the aperture at angle w = theta_x + i theta_y lands at 2 dW/dw* (see `schema.optics` for W). Averaged over the
aperture this gives the covariance of the probe; diffraction and the source are added in quadrature.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..schema import electron_wavelength_nm

SIGMA_PER_FWHM = 1 / 2.354820045


def probe_covariance_nm2(
    aberrations: Mapping[str, float], *, convergence_mrad: float, high_tension_v: float, source_fwhm_nm: float = 0.25
) -> np.ndarray:
    """Covariance of the probe's intensity, in nm², order (y, x).

    Parameters
    ----------
    aberrations : mapping
        ``C1, A1.x, A1.y, B2.x, B2.y, A2.x, A2.y`` in nm, ``C3`` in µm; missing ones are zero.
    convergence_mrad : float
        Half-angle of the aperture.
    high_tension_v : float
    source_fwhm_nm : float
        Demagnified source.

    Returns
    -------
    ndarray, shape (2, 2)
    """
    alpha = convergence_mrad * 1e-3

    def value(name: str) -> float:
        return float(aberrations.get(name, 0.0))

    c1, ax, ay = value("C1"), value("A1.x"), value("A1.y")
    # w -> C1 w + A1 w*: a linear map of the disc, whose covariance is alpha²/4 times the unit matrix; rows y, x.
    displacement = np.array([[c1 - ax, ay], [ay, c1 + ax]])
    covariance = displacement @ displacement.T * alpha**2 / 4
    # Mean squared displacements over the disc; cross terms with the first order have little effect on the size and are left out.
    coma2 = value("B2.x") ** 2 + value("B2.y") ** 2
    star2 = value("A2.x") ** 2 + value("A2.y") ** 2
    spherical = value("C3") * 1e3
    higher = 5 * coma2 * alpha**4 / 3 + star2 * alpha**4 / 3 + spherical**2 * alpha**6 / 4
    diffraction_fwhm = 0.51 * electron_wavelength_nm(high_tension_v) / alpha
    round_part = higher / 2 + (diffraction_fwhm**2 + source_fwhm_nm**2) * SIGMA_PER_FWHM**2
    return np.asarray(covariance + round_part * np.eye(2))
