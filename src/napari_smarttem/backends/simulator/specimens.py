"""Specimens with a known truth: phases, and how thick each is everywhere.

A specimen is a stack of *phases* (materials), each with a thickness in nm at every place. Everything measured follows from that:
HAADF and bright field from atoms per area, the spectrum from t/lambda and areal densities. The truth handed to tests and
benchmarks is the same geometry evaluated exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...physics.scattering import atoms_per_nm3
from ...schema import BadInput, Field2D

Geometry = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
RASTER = 1500


@dataclass(frozen=True)
class Phase:
    """A material.

    Attributes
    ----------
    name : str
    density_g_cm3 : float
    composition : mapping
        Atomic fraction of each element, summing to 1.
    plasmon_ev, plasmon_width_ev : float
    tail_exponent : float
        Of the power law under the edges.
    fragile : mapping
        Element -> (critical dose in e/Å², share that stays at any dose); elements not named stay.
    """

    name: str
    density_g_cm3: float
    composition: Mapping[str, float]
    plasmon_ev: float
    plasmon_width_ev: float
    tail_exponent: float = 3.1
    fragile: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def atoms_per_nm3(self) -> float:
        """Atoms of any kind per nm³."""
        return atoms_per_nm3(self.density_g_cm3, dict(self.composition))

    def surviving(self, element: str, before: np.ndarray | float, after: np.ndarray | float) -> np.ndarray:
        """Share of `element` left, averaged while the dose rises from `before` to `after` (e/Å²).

        Exponential loss with the element's critical dose, down to the share that stays.
        """
        low, high = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
        if element not in self.fragile:
            return np.ones_like(low)
        critical, stays = self.fragile[element]
        rise = np.maximum((high - low) / critical, 1e-9)
        mean = np.exp(-low / critical) * -np.expm1(-rise) / rise
        return np.asarray(stays + (1 - stays) * mean)


CARBON = Phase("amorphous carbon", 2.0, {"C": 1.0}, 24.0, 18.0, 3.2)
COPPER = Phase("copper", 8.96, {"Cu": 1.0}, 19.0, 22.0, 2.9)
TITANIA = Phase("titania", 4.23, {"Ti": 1 / 3, "O": 2 / 3}, 25.0, 14.0, 3.0)
MAGNETITE = Phase("magnetite", 5.17, {"Fe": 3 / 7, "O": 4 / 7}, 23.0, 15.0, 3.0)
NICKEL_OXIDE = Phase("nickel oxide", 6.67, {"Ni": 0.5, "O": 0.5}, 22.5, 15.0, 3.0)
POLYSTYRENE = Phase("polystyrene", 1.05, {"C": 1.0}, 21.5, 14.0, 3.3, {"C": (800.0, 0.75)})
NYLON = Phase(
    "polyamide", 1.14, {"C": 0.75, "N": 0.125, "O": 0.125}, 21.0, 14.0, 3.3,
    {"C": (400.0, 0.6), "N": (120.0, 0.1), "O": (50.0, 0.05)},
)  # fmt: skip
CONTAMINATION = Phase("contamination", 1.6, {"C": 1.0}, 23.0, 18.0, 3.2)


@dataclass(frozen=True)
class GroundTruth:
    """What is really there, on the pixels of an image.

    Attributes
    ----------
    field : Field2D
    phases, elements, label_names : tuple of str
    labels : ndarray of int, shape (y, x)
        Index into `label_names`.
    boundaries : ndarray of bool, shape (y, x)
        Pixels with a neighbour (of four) of another label.
    thickness_nm : ndarray, shape (y, x)
    phase_nm : ndarray, shape (phases, y, x)
        Thickness of each phase.
    atoms_per_nm2 : ndarray, shape (elements, y, x)
    composition : ndarray, shape (elements, y, x)
        Atomic fractions, summing to 1 where there is matter.
    """

    field: Field2D
    phases: tuple[str, ...]
    elements: tuple[str, ...]
    label_names: tuple[str, ...]
    labels: np.ndarray
    boundaries: np.ndarray
    thickness_nm: np.ndarray
    phase_nm: np.ndarray
    atoms_per_nm2: np.ndarray
    composition: np.ndarray


class Specimen:
    """Phases and their geometry.

    Parameters
    ----------
    name, description : str
    phases : tuple of Phase
    label_names : tuple of str
    geometry : callable
        Takes 1-D coordinates y and x in nm and returns thickness, shape ``(phases, y, x)``, and labels, shape ``(y, x)``.
    extent : Field2D
        Where the geometry is defined.
    """

    def __init__(
        self,
        *,
        name: str,
        description: str,
        phases: tuple[Phase, ...],
        label_names: tuple[str, ...],
        geometry: Geometry,
        extent: Field2D,
    ) -> None:
        self.name = name
        self.description = description
        self.phases = phases
        self.label_names = label_names
        self.geometry = geometry
        self.extent = extent
        self.elements = tuple(dict.fromkeys(element for phase in phases for element in phase.composition))
        self.pixel_nm = extent.height_nm / RASTER
        centres = (np.arange(RASTER) + 0.5) * self.pixel_nm
        self.raster_nm = geometry(extent.y_nm + centres, extent.x_nm + centres)[0].astype(np.float32)

    def phase_nm(self, y_nm: np.ndarray, x_nm: np.ndarray) -> np.ndarray:
        """Thickness of each phase at places (any shape), by bilinear interpolation, shape ``(phases, *shape)``."""
        i = np.clip((np.asarray(y_nm) - self.extent.y_nm) / self.pixel_nm - 0.5, 0, RASTER - 1.001)
        j = np.clip((np.asarray(x_nm) - self.extent.x_nm) / self.pixel_nm - 0.5, 0, RASTER - 1.001)
        i0, j0 = i.astype(int), j.astype(int)
        u, v = i - i0, j - j0
        values = self.raster_nm
        upper = values[:, i0, j0] * (1 - v) + values[:, i0, j0 + 1] * v
        lower = values[:, i0 + 1, j0] * (1 - v) + values[:, i0 + 1, j0 + 1] * v
        return np.asarray(upper * (1 - u) + lower * u)

    def ground_truth(self, area: Field2D, shape: tuple[int, int]) -> GroundTruth:
        """The undamaged, undrifted truth on the pixels of an image of `area` with `shape`."""
        y = area.y_nm + (np.arange(shape[0]) + 0.5) * area.height_nm / shape[0]
        x = area.x_nm + (np.arange(shape[1]) + 0.5) * area.width_nm / shape[1]
        phase_nm, labels = self.geometry(y, x)
        density = np.array(
            [[phase.atoms_per_nm3 * phase.composition.get(e, 0.0) for phase in self.phases] for e in self.elements]
        )
        atoms = np.tensordot(density, phase_nm, axes=1)
        total = atoms.sum(axis=0)
        composition = np.divide(atoms, total, out=np.zeros_like(atoms), where=total > 0)
        boundaries = np.zeros(shape, dtype=bool)
        steps_y, steps_x = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
        boundaries[1:] |= steps_y
        boundaries[:-1] |= steps_y
        boundaries[:, 1:] |= steps_x
        boundaries[:, :-1] |= steps_x
        return GroundTruth(
            area, tuple(phase.name for phase in self.phases), self.elements, self.label_names,
            labels, boundaries, phase_nm.sum(axis=0), phase_nm, atoms, composition,
        )  # fmt: skip

    def truth(self, y_nm: float, x_nm: float) -> dict[str, object]:
        """What is at a place: label, thickness, thickness per phase and atoms per nm² per element."""
        phase_nm, labels = self.geometry(np.array([y_nm]), np.array([x_nm]))
        thickness = {phase.name: float(value) for phase, value in zip(self.phases, phase_nm[:, 0, 0], strict=True)}
        atoms = dict.fromkeys(self.elements, 0.0)
        for phase in self.phases:
            for element, fraction in phase.composition.items():
                atoms[element] += thickness[phase.name] * phase.atoms_per_nm3 * fraction
        return {
            "label": self.label_names[int(labels[0, 0])],
            "thickness_nm": sum(thickness.values()),
            "phase_nm": thickness,
            "atoms_per_nm2": atoms,
        }


def build(name: str, extent: Field2D, seed: int) -> Specimen:
    """The specimen called `name`, drawn with `seed`; `BadInput` names the ones there are."""
    from .geometry import core_shell, polymer, two_phase

    builders: dict[str, Callable[[Field2D, int], Specimen]] = {
        "core-shell": core_shell,
        "two-phase": two_phase,
        "polymer": polymer,
    }
    if name not in builders:
        raise BadInput(f"the simulator has no specimen {name!r}; choose one of {', '.join(builders)}.")
    return builders[name](extent, seed)
