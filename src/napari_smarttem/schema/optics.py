"""Names, units and signs of aberrations and of the controls that change them.

Aberrations carry CEOS/Haider names; the wave aberration is

    W(w) = Re[ 1/2 C1 w w* + 1/2 A1 w*^2 + B2 w^2 w* + 1/3 A2 w*^3 + 1/4 C3 (w w*)^2 + ... ],   w = theta_x + i theta_y in rad,

with chi = 2 pi W / lambda, and Cartesian parts ``.x`` and ``.y``. C1 < 0 is underfocus.
"""

from __future__ import annotations

from typing import Self

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


def electron_wavelength_nm(high_tension_v: float) -> float:
    """Relativistic de Broglie wavelength in nm (CODATA 2018 constants)."""
    energy_ev = float(high_tension_v)
    rest_ev = 510998.95
    momentum_c_ev = (energy_ev * (energy_ev + 2.0 * rest_ev)) ** 0.5
    return float(1239.841984 / momentum_c_ev)
