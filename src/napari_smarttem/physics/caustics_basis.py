"""The same phase plate seen by someone who has only its patterns: a phase that is linear in the biases, in a basis of few maps.

Where there is no charge the projected potential is harmonic, so that whatever the needles look like, inside the aperture the phase
is ``Re sum_n c_n (x + i y)^n`` with coefficients linear in the biases: potentials, capacitances and offsets become one matrix, and
their gauge freedoms are gone. A few maps that are not harmonic take up aberrations of the lens and what the line charges leave out.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from .caustics import (
    VACUUM_PERMITTIVITY,
    Optics,
    PhasePlate,
    built_optics,
    built_plate,
    interaction_constant,
    nominal_plate,
    projected_potential,
    pupil_grid,
)

HARMONICS = 24
OTHERS = 5
TERMS = 2 * HARMONICS + OTHERS
GLOBALS = ("log_gain", "log_source", "stretch", "shear", "barrel", "falloff")
GLOBAL_SPREAD = np.array([0.02, 0.2, 0.02, 0.02, 0.015, 0.15])


@functools.lru_cache(maxsize=4)
def basis(samples: int) -> np.ndarray:
    """Maps over the pupil, shape (TERMS, samples, samples): harmonic polynomials, then r², r² y, r² x, r⁴ and r² (x² - y²)."""
    y, x, _ = pupil_grid(samples)
    radius2 = y**2 + x**2
    power = np.ones_like(x, dtype=complex)
    maps = []
    for _ in range(HARMONICS):
        power = power * (x + 1j * y)
        maps += [power.real, power.imag]
    maps += [radius2, radius2 * y, radius2 * x, radius2**2, radius2 * (x**2 - y**2)]
    return np.asarray(np.stack(maps), dtype=np.float32)


@functools.lru_cache(maxsize=2)
def _projector(samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates inside the aperture and the matrix (TERMS, points) that finds a map's coefficients there (piston left out)."""
    y, x, inside = pupil_grid(samples)
    use = inside > 0.5
    maps = np.concatenate((basis(samples)[:, use], np.ones((1, int(use.sum())), dtype=np.float32))).astype(float)
    return y[use], x[use], np.linalg.pinv(maps.T, rcond=1e-9)[:-1]


def coefficients(plate: PhasePlate, optics: Optics, samples: int = 40) -> np.ndarray:
    """Phase coefficients of a plate, shape (TERMS, needles + 1): for a volt on each needle, and without bias (last)."""
    y, x, projector = _projector(samples)
    scale = interaction_constant(optics.high_tension_v) / (2 * np.pi * VACUUM_PERMITTIVITY)
    potentials = np.stack([projected_potential(needle, y, x) for needle in plate.needles], axis=1)
    per_charge = scale * (projector @ potentials)
    fixed = np.zeros(TERMS)
    fixed[2 * HARMONICS] = optics.defocus_rad
    fixed[2 * HARMONICS + 1 : 2 * HARMONICS + 3] = optics.coma_rad
    fixed[2 * HARMONICS + 3] = optics.spherical_rad
    return np.concatenate((per_charge @ plate.capacitance, (per_charge @ plate.offset_charge + fixed)[:, None]), axis=1)


@dataclass(frozen=True)
class Prior:
    """What the design says of the parameters: mean (TERMS, needles + 1) and covariance of all coefficients, then globals."""

    mean: np.ndarray
    covariance: np.ndarray
    globals_mean: np.ndarray


@functools.lru_cache(maxsize=4)
def design_prior(pixels: int, tolerance: float = 1.5, draws: int = 240, seed: int = 20) -> Prior:
    """Mean and covariance over plates built from the design with `tolerance`; the covariance is shrunk to its diagonal."""
    rng = np.random.default_rng(seed)
    found = np.stack(
        [coefficients(built_plate(rng, tolerance), built_optics(rng, pixels)).ravel() for _ in range(draws)]
    )
    design = coefficients(nominal_plate(), Optics(pixels=pixels))
    away = found - design.ravel()
    sampled = away.T @ away / draws
    covariance = 0.6 * sampled + 0.4 * np.diag(np.diag(sampled)) + np.eye(away.shape[1]) * 4e-4
    whole = np.zeros((covariance.shape[0] + len(GLOBALS),) * 2)
    whole[: covariance.shape[0], : covariance.shape[0]] = covariance
    whole[covariance.shape[0] :, covariance.shape[0] :] = np.diag(GLOBAL_SPREAD**2)
    globals_mean = np.zeros(len(GLOBALS))
    globals_mean[1] = np.log(0.8 * pixels / 64)
    return Prior(design, whole, globals_mean)
