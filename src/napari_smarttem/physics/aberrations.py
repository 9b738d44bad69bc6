"""Axial aberrations: the wave aberration, its gradient and its curvature, all linear in the coefficients.

    W(w) = Re[ sum_k c_k f_k w^a_k conj(w)^b_k ],   w = theta_x + i theta_y in rad

with the factors and powers of `TERMS` (CEOS/Haider names, see `schema.optics`), and the phase chi = 2 pi W / lambda. Because W is
linear in the coefficients, everything here is a fixed array times a vector: `wave_basis`, `gradient_basis`, `curvature_basis`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..schema import BadInput, electron_wavelength_nm


@dataclass(frozen=True)
class Term:
    """One aberration: W gains ``Re[c factor w^a conj(w)^b]``; `units_nm` is one unit of the coefficient in nm."""

    a: int
    b: int
    factor: float
    units: str
    units_nm: float


TERMS: dict[str, Term] = {
    "C1": Term(1, 1, 1 / 2, "nm", 1.0),
    "A1": Term(0, 2, 1 / 2, "nm", 1.0),
    "B2": Term(2, 1, 1.0, "nm", 1.0),
    "A2": Term(0, 3, 1 / 3, "nm", 1.0),
    "C3": Term(2, 2, 1 / 4, "um", 1e3),
    "S3": Term(3, 1, 1.0, "um", 1e3),
    "A3": Term(0, 4, 1 / 4, "um", 1e3),
    "B4": Term(3, 2, 1.0, "um", 1e3),
    "D4": Term(4, 1, 1.0, "um", 1e3),
    "A4": Term(0, 5, 1 / 5, "um", 1e3),
    "C5": Term(3, 3, 1 / 6, "mm", 1e6),
}
"""Aberrations to the fourth order, and C5. Those with a = b are real, the others have parts ``.x`` and ``.y``."""

ESTIMATED = ("C1", "A1.x", "A1.y", "B2.x", "B2.y", "A2.x", "A2.y", "C3")
"""What is read from one Ronchigram."""


def _parts() -> tuple[str, ...]:
    names: list[str] = []
    for name, term in TERMS.items():
        names += [name] if term.a == term.b else [f"{name}.x", f"{name}.y"]
    return tuple(names)


ALL = _parts()
"""Every coefficient by name: ``C1, A1.x, A1.y, B2.x, ...``."""


def units_of(name: str) -> str:
    """Units of a coefficient: nm for first and second order, um for third and fourth, mm for C5."""
    return _term(name)[0].units


def order_of(name: str) -> int:
    """Order n of a coefficient: W grows with the angle to the power n + 1."""
    term = _term(name)[0]
    return term.a + term.b - 1


def _term(name: str) -> tuple[Term, complex]:
    """The term and the unit complex coefficient of a name such as ``"A1.y"``."""
    head, _, part = name.partition(".")
    term = TERMS.get(head)
    if term is None or part not in ({""} if term.a == term.b else {"x", "y"}):
        raise BadInput(f"there is no aberration {name!r}; there are {', '.join(ALL)}.")
    return term, 1j if part == "y" else 1.0


def vector(coefficients: Mapping[str, float], names: Sequence[str] = ALL) -> np.ndarray:
    """Coefficients as an array in the order of `names`; what is absent is zero.

    Raises
    ------
    BadInput
        For a name that is no aberration, or one that is not among `names` and not zero.
    """
    for name, value in coefficients.items():
        _term(name)
        if name not in names and value != 0:
            raise BadInput(f"the aberration {name} is not among {', '.join(names)}.")
    return np.array([float(coefficients.get(name, 0.0)) for name in names])


def _monomial(name: str, x: np.ndarray, y: np.ndarray, da: int, db: int) -> np.ndarray:
    """d^da/dw^da d^db/dconj(w)^db of ``factor w^a conj(w)^b`` in nm per unit of the coefficient; complex."""
    term, unit = _term(name)
    if term.a < da or term.b < db:
        return np.zeros(np.broadcast(x, y).shape, dtype=complex)
    scale = unit * term.factor * term.units_nm
    for k in range(da):
        scale *= term.a - k
    for k in range(db):
        scale *= term.b - k
    w = x + 1j * y
    return np.asarray(scale * w ** (term.a - da) * np.conj(w) ** (term.b - db))


def wave_basis(names: Sequence[str], theta_y_rad: np.ndarray, theta_x_rad: np.ndarray) -> np.ndarray:
    """W in nm of a unit of each coefficient, shape ``(len(names), *theta.shape)``."""
    y, x = np.asarray(theta_y_rad, dtype=float), np.asarray(theta_x_rad, dtype=float)
    return np.stack([_monomial(name, x, y, 0, 0).real for name in names])


def gradient_basis(names: Sequence[str], theta_y_rad: np.ndarray, theta_x_rad: np.ndarray) -> np.ndarray:
    """Where a ray meets the specimen, in nm, for a unit of each coefficient; shape ``(len(names), 2, *theta.shape)``, (y, x)."""
    y, x = np.asarray(theta_y_rad, dtype=float), np.asarray(theta_x_rad, dtype=float)
    rows = []
    for name in names:
        dw, dc = _monomial(name, x, y, 1, 0), _monomial(name, x, y, 0, 1)
        rows.append(np.stack([(1j * (dw - dc)).real, (dw + dc).real]))
    return np.stack(rows)


def curvature_basis(names: Sequence[str], theta_y_rad: np.ndarray, theta_x_rad: np.ndarray) -> np.ndarray:
    """Second derivatives of W (the local defocus and astigmatism, nm) of a unit of each coefficient.

    Returns
    -------
    ndarray, shape ``(len(names), 3, *theta.shape)``
        ``yy, yx, xx``.
    """
    y, x = np.asarray(theta_y_rad, dtype=float), np.asarray(theta_x_rad, dtype=float)
    rows = []
    for name in names:
        ww, wc, cc = (_monomial(name, x, y, da, 2 - da) for da in (2, 1, 0))
        rows.append(np.stack([-(ww - 2 * wc + cc).real, (1j * (ww - cc)).real, (ww + 2 * wc + cc).real]))
    return np.stack(rows)


def phase(
    coefficients: Mapping[str, float], theta_y_mrad: np.ndarray, theta_x_mrad: np.ndarray, high_tension_v: float
) -> np.ndarray:
    """The phase chi = 2 pi W / lambda in rad, at angles in mrad."""
    names = [name for name, value in coefficients.items() if value != 0] or ["C1"]
    basis = wave_basis(names, np.asarray(theta_y_mrad) * 1e-3, np.asarray(theta_x_mrad) * 1e-3)
    wave_nm = np.tensordot(vector({n: coefficients.get(n, 0.0) for n in names}, names), basis, axes=1)
    return np.asarray(2 * np.pi / electron_wavelength_nm(high_tension_v) * wave_nm)


def quarter_pi_angle_mrad(
    coefficients: Mapping[str, float] | np.ndarray,
    high_tension_v: float,
    *,
    names: Sequence[str] = ESTIMATED,
    largest_mrad: float = 60.0,
    step_mrad: float = 0.1,
) -> float | np.ndarray:
    """Largest angle within which the phase stays between -pi/4 and pi/4 in every direction.

    Parameters
    ----------
    coefficients : mapping, or ndarray of shape (..., len(names))
        All of them count, C1 and A1 included.
    high_tension_v : float
    names : sequence of str
        Order of an array.
    largest_mrad : float
        Where the search ends.

    Returns
    -------
    float, or ndarray of shape (...)
        In mrad.
    """
    if isinstance(coefficients, Mapping):
        return float(quarter_pi_angle_mrad(vector(coefficients), high_tension_v, names=ALL, largest_mrad=largest_mrad))
    radii = np.arange(step_mrad, largest_mrad + step_mrad / 2, step_mrad)
    azimuth = np.linspace(0, 2 * np.pi, 73)[:-1]
    basis = wave_basis(names, 1e-3 * radii[:, None] * np.sin(azimuth), 1e-3 * radii[:, None] * np.cos(azimuth))
    chi = np.tensordot(np.asarray(coefficients), basis, axes=1) * (2 * np.pi / electron_wavelength_nm(high_tension_v))
    worst = np.abs(chi).max(axis=-1)  # (..., radii)
    bad = worst > np.pi / 4
    first = np.where(bad.any(axis=-1), bad.argmax(axis=-1), len(radii))
    found = np.where(first > 0, radii[np.maximum(first - 1, 0)], 0.0)
    return float(found) if found.ndim == 0 else found
