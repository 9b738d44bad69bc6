"""The specimens of the simulator, drawn from a seed."""

from __future__ import annotations

import numpy as np

from ...schema import Field2D
from .specimens import CARBON, COPPER, MAGNETITE, NICKEL_OXIDE, NYLON, POLYSTYRENE, TITANIA, Specimen

PARTICLES_PER_NM2 = 9e-4
BARE_SHARE = 0.12


def core_shell(extent: Field2D, seed: int) -> Specimen:
    """Spherical copper particles with a titania shell on a carbon film; one in eight has lost its shell."""
    rng = np.random.default_rng([seed, 1])
    centres, radii = _scatter_particles(extent, rng)
    shells = rng.uniform(2.5, 5.0, len(radii))
    shells[rng.random(len(radii)) < BARE_SHARE] = 0.0
    cores = np.maximum(radii - shells, 2.0)
    film = _waves(rng, count=12, wavelength_nm=(60.0, 200.0))

    def geometry(y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        thickness = np.zeros((3, len(y), len(x)))
        thickness[0] = 12.0 + 1.0 * film(y, x)
        labels = np.zeros((len(y), len(x)), dtype=np.int32)
        order_y, order_x = np.argsort(y), np.argsort(x)
        sorted_y, sorted_x = y[order_y], x[order_x]
        for (cy, cx), radius, core in zip(centres, radii, cores, strict=True):
            rows = order_y[np.searchsorted(sorted_y, cy - radius) : np.searchsorted(sorted_y, cy + radius)]
            columns = order_x[np.searchsorted(sorted_x, cx - radius) : np.searchsorted(sorted_x, cx + radius)]
            if not rows.size or not columns.size:
                continue
            distance2 = (y[rows, None] - cy) ** 2 + (x[None, columns] - cx) ** 2
            outer = 2 * np.sqrt(np.maximum(radius**2 - distance2, 0.0))
            inner = 2 * np.sqrt(np.maximum(core**2 - distance2, 0.0))
            patch = np.ix_(rows, columns)
            thickness[1][patch] += inner
            thickness[2][patch] += outer - inner
            labels[patch] = np.where(inner > 0, 1, np.where(outer > 0, 2, labels[patch]))
        return thickness, labels

    return Specimen(
        name="core-shell",
        description="copper cores in titania shells on a carbon film",
        phases=(CARBON, COPPER, TITANIA),
        label_names=("film", "core", "shell"),
        geometry=geometry,
        extent=extent,
    )


def two_phase(extent: Field2D, seed: int) -> Specimen:
    """A wedge of magnetite and titania that meet at a wavy interface; nickel oxide dissolves into the titania along x."""
    rng = np.random.default_rng([seed, 2])
    middle = extent.x_nm + extent.width_nm * 0.5 + rng.uniform(-0.03, 0.03) * extent.width_nm
    periods = rng.uniform(40.0, 160.0, 4)
    heights, phases = rng.uniform(1.5, 6.0, 4), rng.uniform(0, 2 * np.pi, 4)
    roughness = _waves(rng, count=12, wavelength_nm=(20.0, 80.0))
    width_nm = 0.8

    def geometry(y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        along_y = 2 * np.pi * y[:, None] / periods + phases
        interface = middle + np.sum(heights * np.sin(along_y), axis=-1)
        depth = x[None, :] - interface[:, None]
        wedge = 1 + 0.35 * (y[:, None] - extent.y_nm - extent.height_nm / 2) / extent.height_nm
        total = 40.0 * wedge + 1.0 * roughness(y, x)
        right = 1 / (1 + np.exp(-np.clip(depth / width_nm, -50, 50)))
        # the gradient spans the right half of the central third, which is the field of view
        nickel = np.clip(depth / (extent.width_nm / 6), 0.0, 1.0) * 0.5
        thickness = np.stack([total * (1 - right), total * right * (1 - nickel), total * right * nickel])
        return thickness, (depth > 0).astype(np.int32)

    return Specimen(
        name="two-phase",
        description="magnetite and titania with a wavy interface and a gradient of nickel oxide",
        phases=(MAGNETITE, TITANIA, NICKEL_OXIDE),
        label_names=("magnetite", "titania"),
        geometry=geometry,
        extent=extent,
    )


def polymer(extent: Field2D, seed: int) -> Specimen:
    """A blend of polystyrene and polyamide: loses oxygen, nitrogen and mass under the beam."""
    rng = np.random.default_rng([seed, 3])
    blend = _waves(rng, count=40, wavelength_nm=(35.0, 50.0))
    roughness = _waves(rng, count=12, wavelength_nm=(80.0, 200.0))

    def geometry(y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value = blend(y, x)
        share = 1 / (1 + np.exp(-np.clip(value / 0.12, -50, 50)))
        total = 60.0 + 3.0 * roughness(y, x)
        return np.stack([total * (1 - share), total * share]), (value > 0).astype(np.int32)

    return Specimen(
        name="polymer",
        description="a blend of polystyrene and polyamide that loses oxygen, nitrogen and mass under the beam",
        phases=(POLYSTYRENE, NYLON),
        label_names=("polystyrene", "polyamide"),
        geometry=geometry,
        extent=extent,
    )


def _scatter_particles(extent: Field2D, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Centres, shape (n, 2), and radii of particles that do not overlap, by dart throwing."""
    wanted = int(np.clip(extent.area_nm2 * PARTICLES_PER_NM2, 8, 1500))
    centres = np.zeros((0, 2))
    radii = np.zeros(0)
    origin, size = np.array([extent.y_nm, extent.x_nm]), np.array([extent.height_nm, extent.width_nm])
    for _ in range(12 * wanted):
        if len(radii) == wanted:
            break
        radius = rng.uniform(6.0, 15.0)
        centre = origin + rng.random(2) * size
        if len(radii) and np.any(np.hypot(*(centres - centre).T) < radii + radius + 1.5):
            continue
        centres, radii = np.vstack((centres, centre)), np.append(radii, radius)
    return centres, radii


def _waves(rng: np.random.Generator, *, count: int, wavelength_nm: tuple[float, float]) -> _Waves:
    wavenumber = 2 * np.pi / rng.uniform(*wavelength_nm, count)
    direction = rng.uniform(0, 2 * np.pi, count)
    return _Waves(wavenumber * np.sin(direction), wavenumber * np.cos(direction), rng.uniform(0, 2 * np.pi, count))


class _Waves:
    """A smooth random field of unit variance: plane waves in random directions, evaluated on separable grids."""

    def __init__(self, ky: np.ndarray, kx: np.ndarray, phase: np.ndarray) -> None:
        self.ky, self.kx, self.phase = ky, kx, phase

    def __call__(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Values on the grid of 1-D `y` and `x`, shape ``(y, x)``."""
        rows, columns = y[:, None] * self.ky + self.phase, x[:, None] * self.kx
        summed = np.cos(rows) @ np.cos(columns).T - np.sin(rows) @ np.sin(columns).T
        return np.asarray(summed * np.sqrt(2 / len(self.phase)))
