"""Ionisation cross-sections of the edges the package knows, differential in energy loss.

Values are eXSpy's hydrogenic ones (Egerton's SIGMAK and SIGMAL models, *Electron Energy-Loss Spectroscopy in the Electron
Microscope*, 3rd ed., section 3.6). They are tabulated for one set of angles and voltage in ``cross_sections.json``, because
importing eXSpy costs seconds; any other setting is evaluated by eXSpy itself. ``python -m napari_smarttem.physics.cross_sections``
writes the table anew, and a test compares it with eXSpy.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import BadInput

EDGES = ("C_K", "N_K", "O_K", "Ti_L3", "Fe_L3", "Ni_L3", "Cu_L3")
"""Edges by eXSpy's names; an L3 stands for the whole L shell, as the hydrogenic model has no separate L2."""

ONSETS_EV = {"C": 284.0, "N": 401.0, "O": 532.0, "Ti": 456.0, "Fe": 708.0, "Ni": 855.0, "Cu": 931.0}
"""Onset of each element's edge in eV (eXSpy's table)."""

BARN_NM2 = 1e-10
TABLE = Path(__file__).with_name("cross_sections.json")
_TABLE_SETTINGS = {"high_tension_v": 200e3, "convergence_mrad": 20.0, "collection_mrad": 40.0}


@dataclass(frozen=True)
class CrossSection:
    """Energy-differential ionisation cross-section of one edge.

    Attributes
    ----------
    edge, element : str
        ``"O_K"``, ``"O"``.
    onset_ev : float
    energy_ev : ndarray, shape (n,)
        Energy losses from the onset upwards, in eV.
    barn_per_ev : ndarray, shape (n,)
        Per atom, within the collection aperture.
    """

    edge: str
    element: str
    onset_ev: float
    energy_ev: np.ndarray
    barn_per_ev: np.ndarray

    @property
    def total_nm2(self) -> float:
        """Integrated over all tabulated losses, in nm² per atom."""
        return float(np.trapezoid(self.barn_per_ev, self.energy_ev)) * BARN_NM2

    def cumulative(self, energy_ev: np.ndarray) -> np.ndarray:
        """Probability that an ionisation costs at most `energy_ev`; 0 below the onset, 1 at the end of the table."""
        fine = self.onset_ev + np.concatenate(([0.0], np.geomspace(0.05, self.energy_ev[-1] - self.onset_ev, 4000)))
        density = np.exp(np.interp(fine, self.energy_ev, np.log(self.barn_per_ev)))
        steps = np.diff(fine) * (density[1:] + density[:-1]) / 2
        running = np.concatenate(([0.0], np.cumsum(steps)))
        return np.asarray(np.interp(energy_ev, fine, running / running[-1], left=0.0, right=1.0))


def with_white_lines(
    section: CrossSection, *, splitting_ev: float, share: float, width_ev: float = 2.0
) -> CrossSection:
    """Add the sharp L3 and L2 lines of a 3d metal, which the hydrogenic model lacks.

    Parameters
    ----------
    section : CrossSection
        Of an L shell.
    splitting_ev : float
        Distance of the two lines: the spin-orbit splitting of the 2p level.
    share : float
        Their strength as a share of the continuum's first 50 eV; L3 takes three fifths of it, a little less than the
        statistical two thirds, as measured for the oxides of the early 3d metals.
    width_ev : float
        Full width at half maximum.
    """
    line = section.onset_ev + width_ev
    fine = np.arange(section.onset_ev, line + splitting_ev + 4 * width_ev, width_ev / 16)
    energy = np.unique(np.concatenate((section.energy_ev, fine)))
    continuum = np.exp(np.interp(energy, section.energy_ev, np.log(section.barn_per_ev)))
    first = section.onset_ev + np.linspace(0.0, 50.0, 501)
    strength = share * float(np.trapezoid(np.interp(first, energy, continuum), first))
    sigma = width_ev / 2.354820045
    lines = sum(
        part * np.exp(-(((energy - centre) / sigma) ** 2) / 2) / (sigma * np.sqrt(2 * np.pi))
        for part, centre in ((0.6, line), (0.4, line + splitting_ev))
    )
    return CrossSection(section.edge, section.element, section.onset_ev, energy, continuum + strength * lines)


def hydrogenic(edge: str, *, high_tension_v: float, convergence_mrad: float, collection_mrad: float) -> CrossSection:
    """Cross-section of `edge` for the given voltage (V) and semi-angles (mrad).

    Raises
    ------
    BadInput
        For an edge outside `EDGES`.
    """
    if edge not in EDGES:
        raise BadInput(f"no cross-section for the edge {edge!r}; known edges are {', '.join(EDGES)}.")
    settings = {
        "high_tension_v": float(high_tension_v),
        "convergence_mrad": float(convergence_mrad),
        "collection_mrad": float(collection_mrad),
    }
    if settings == _TABLE_SETTINGS:
        entry = _table()["edges"][edge]
        onset, relative, barn = entry["onset_ev"], np.asarray(_table()["relative_ev"]), np.asarray(entry["barn_per_ev"])
    else:
        onset, relative, barn = _evaluate(edge, **settings)
    return CrossSection(edge, edge.partition("_")[0], onset, onset + relative, barn)


@cache
def _table() -> Any:
    return json.loads(TABLE.read_text(encoding="utf-8"))


@cache
def _evaluate(
    edge: str, high_tension_v: float, convergence_mrad: float, collection_mrad: float
) -> tuple[float, np.ndarray, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from exspy.components import EELSCLEdge

        component = EELSCLEdge(edge, GOS="hydrogenic")
    # eXSpy takes kV and mrad and returns barn/eV per atom where the component's intensity is 1.
    component.set_microscope_parameters(
        E0=high_tension_v / 1e3, alpha=convergence_mrad, beta=collection_mrad, energy_scale=1.0
    )
    onset = float(component.onset_energy.value)
    relative = 50.0 * np.expm1(np.linspace(0.0, np.log1p(5000.0 / 50.0), 140))
    return onset, relative, np.asarray(component.function(onset + relative), dtype=float)


def write_table(path: Path = TABLE) -> None:
    """Write the table of `EDGES` at the default voltage and angles, from eXSpy."""
    edges: dict[str, Any] = {}
    relative = np.zeros(0)
    for edge in EDGES:
        onset, relative, barn = _evaluate(edge, **_TABLE_SETTINGS)
        edges[edge] = {"onset_ev": onset, "barn_per_ev": [float(f"{value:.6g}") for value in barn]}
    table = {**_TABLE_SETTINGS, "relative_ev": [round(float(value), 6) for value in relative], "edges": edges}
    path.write_text(json.dumps(table, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_table()
