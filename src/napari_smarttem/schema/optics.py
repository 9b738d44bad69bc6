"""Names, units and signs of aberrations and of the controls that change them.

Aberrations carry CEOS/Haider names; the wave aberration is

    W(w) = Re[ 1/2 C1 w w* + 1/2 A1 w*^2 + B2 w^2 w* + 1/3 A2 w*^3 + 1/4 C3 (w w*)^2 + ... ],   w = theta_x + i theta_y in rad,

with chi = 2 pi W / lambda, and Cartesian parts ``.x`` and ``.y``. C1 < 0 is underfocus.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ControlInfo(BaseModel):
    """One adjustable quantity of the column.

    Parameters
    ----------
    name : str
        ``"C1"``, ``"A1.x"``, ``"A1.y"`` ... or the instrument's own word.
    units : str
        ``"nm"``, ``"um"``, or ``"raw"`` where the instrument does not say.
    minimum, maximum : float
        Limits, in `units`.
    largest_step : float
        Largest change that may be made without a person's yes, in `units`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1)
    units: str
    minimum: float
    maximum: float
    largest_step: float = Field(gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError(f"{self.name}: minimum {self.minimum} is above maximum {self.maximum}")
        return self


def controls_of(optics: Any, names: Collection[str] | None = None) -> dict[str, dict[str, float]]:
    """Present values and limits of an instrument's controls, all or some, as JSON numbers: what the plans that set them take."""
    present = optics.get()
    return {
        name: {
            "value": float(present[name]),
            "minimum": float(info.minimum),
            "maximum": float(info.maximum),
            "largest_step": float(info.largest_step),
        }
        for name, info in optics.controls.items()
        if names is None or name in names
    }


def electron_wavelength_nm(high_tension_v: float) -> float:
    """Relativistic de Broglie wavelength in nm (CODATA 2018 constants)."""
    energy_ev = float(high_tension_v)
    rest_ev = 510998.95
    momentum_c_ev = (energy_ev * (energy_ev + 2.0 * rest_ev)) ** 0.5
    return float(1239.841984 / momentum_c_ev)


_KRIVANEK: dict[str, tuple[str, int, int, float, float]] = {
    # CEOS name: (Krivanek name, power of w, power of conj(w), factor in W, units in nm)
    "C1": ("C10", 1, 1, 1 / 2, 1.0),
    "A1": ("C12", 0, 2, 1 / 2, 1.0),
    "B2": ("C21", 2, 1, 1.0, 1.0),
    "A2": ("C23", 0, 3, 1 / 3, 1.0),
    "C3": ("C30", 2, 2, 1 / 4, 1e3),
    "S3": ("C32", 3, 1, 1.0, 1e3),
    "A3": ("C34", 0, 4, 1 / 4, 1e3),
    "B4": ("C41", 3, 2, 1.0, 1e3),
    "D4": ("C43", 4, 1, 1.0, 1e3),
    "A4": ("C45", 0, 5, 1 / 5, 1e3),
    "C5": ("C50", 3, 3, 1 / 6, 1e6),
}


def _krivanek_parts(name: str) -> tuple[tuple[str, float], ...]:
    """For each part of a CEOS aberration: the Krivanek name, and what a unit of the part is in it, in nm."""
    krivanek, a, b, factor, unit_nm = _KRIVANEK[name]
    scale = (a + b) * factor * unit_nm
    if a == b:
        return ((krivanek, scale),)
    # W = factor |w|^n Re[(x + iy) exp(i (a - b) phi)]: the sine changes its sign with that of a - b
    return ((f"{krivanek}a", scale), (f"{krivanek}b", scale if b > a else -scale))


def to_krivanek(aberrations: Mapping[str, float]) -> dict[str, float]:
    """Krivanek coefficients in nm (``C10, C12a, C12b, C21a ...``) of CEOS/Haider ones.

    Krivanek's convention (Krivanek, Dellby and Lupini, Ultramicroscopy 78 (1999) 1) is
    W = sum theta^(n+1) / (n+1) [C_nma cos m phi + C_nmb sin m phi], so that C21 = 3 B2 and C32 = 4 S3.

    Raises
    ------
    KeyError
        For a name that is no aberration.
    """
    found: dict[str, float] = {}
    for name, value in aberrations.items():
        head, _, part = name.partition(".")
        krivanek, scale = _krivanek_parts(head)[1 if part == "y" else 0]
        found[krivanek] = float(value) * scale
    return found


def from_krivanek(coefficients: Mapping[str, float]) -> dict[str, float]:
    """The inverse of `to_krivanek`: CEOS/Haider coefficients in their own units (nm, um, mm)."""
    parts = {
        krivanek: (head if len(both) == 1 else f"{head}.{'xy'[index]}", scale)
        for head in _KRIVANEK
        for both in (_krivanek_parts(head),)
        for index, (krivanek, scale) in enumerate(both)
    }
    return {parts[name][0]: float(value) / parts[name][1] for name, value in coefficients.items()}
