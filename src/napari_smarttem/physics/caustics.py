"""Caustics of a programmable electrostatic phase plate: from the biases of its needles to the pattern on the specimen.

Every needle is a finite line charge that ends outside the aperture. Projected along the beam, a charge q adds the phase
``-C_E q / (2 pi eps0) <ln|r - r'|>``, the mean running over the charge along the needle; the charges follow the biases through a
matrix of capacitances (a needle also charges its neighbours) and carry offsets that drift as the plate charges. The pattern is the
squared Fourier transform of the aperture with this phase, blurred by the size of the source and seen by a camera that distorts.

Lengths in the aperture are in units of its radius; lengths in the pattern are in pixels, `Optics.field_waves` wavelengths over
the aperture's diameter being the whole side. A pattern holds, for each pixel, the fraction of the beam's electrons that arrive
there; what falls outside the field is stopped by the field-limiting aperture, so that a pattern sums to a little less than one.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

VACUUM_PERMITTIVITY = 8.8541878128e-12
NEEDLES = 8
BIAS_LIMIT_V = 5.0
DEFOCUS_LIMIT_RAD = 10.0
"""Largest defocus that may be added to a pattern, phase at the rim of the aperture."""
CAPACITANCE_F = 4.5e-17
"""Of a needle: about 5 rad a volt at 300 kV, times the spread of the logarithm over the aperture."""


def interaction_constant(high_tension_v: float) -> float:
    """C_E in rad/(V m): 6.526e6 at 300 kV.

    ``C_E = 2 pi e (E + E0) / (lambda E (E + 2 E0))`` with E the kinetic and E0 the rest energy (Reimer & Kohl,
    *Transmission Electron Microscopy*, 5th ed., section 3.1).
    """
    energy, rest, hc = high_tension_v, 510998.95, 1.23984198e-6
    wavelength_m = hc / math.sqrt(energy * (energy + 2 * rest))
    return 2 * math.pi * (energy + rest) / (wavelength_m * energy * (energy + 2 * rest))


@dataclass(frozen=True)
class Needle:
    """A line charge: tip at (`tip`, `angle_rad`), leaning by `lean_rad` from the radius; `taper` of it near the tip."""

    angle_rad: float
    tip: float = 1.12
    length: float = 1.2
    lean_rad: float = 0.0
    taper: float = 0.5


@dataclass(frozen=True)
class PhasePlate:
    """Needles, their capacitances, and the charges that are there without any bias.

    Parameters
    ----------
    needles : tuple of Needle
    capacitance : ndarray, shape (needles, needles)
        Charge in C on the row's needle for a volt on the column's.
    offset_charge : ndarray, shape (needles,)
        In C.
    """

    needles: tuple[Needle, ...]
    capacitance: np.ndarray
    offset_charge: np.ndarray

    def charges(self, biases_v: np.ndarray) -> np.ndarray:
        """Charges in C, shape (..., needles)."""
        return np.asarray(np.asarray(biases_v, dtype=float) @ self.capacitance.T + self.offset_charge)

    def charged_by(self, charge: np.ndarray) -> PhasePlate:
        """The same plate after its offsets have drifted by `charge` (C)."""
        return replace(self, offset_charge=self.offset_charge + charge)


@dataclass(frozen=True)
class Optics:
    """What lies between the plate and the camera.

    Parameters
    ----------
    pixels : int
        Side of a pattern.
    field_waves : float
        Side of the field in wavelengths over the aperture's diameter.
    defocus_rad, spherical_rad : float
        Phase at the rim of the aperture.
    coma_rad : tuple of float
        Along y and x, at the rim.
    source_px : float
        Standard deviation of the source's image.
    stretch, shear, barrel : float
        Distortion of the camera: one axis longer than the other by `stretch`, `shear`, and growth by `barrel` at the field's edge.
    falloff : float
        How much weaker (amplitude) the illumination is at the rim of the aperture.
    high_tension_v : float
    """

    pixels: int = 64
    field_waves: float = 32.0
    defocus_rad: float = 6.0
    spherical_rad: float = 0.0
    coma_rad: tuple[float, float] = (0.0, 0.0)
    source_px: float = 0.8
    stretch: float = 0.0
    shear: float = 0.0
    barrel: float = 0.0
    falloff: float = 0.0
    high_tension_v: float = 300e3


def pupil_grid(samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates y and x of the pupil's samples in radii and the aperture's transmission there, each ``(samples, samples)``.

    A sample on the rim counts by how much of it lies inside.
    """
    along = (np.arange(samples) + 0.5) * (2.0 / samples) - 1.0
    y, x = np.meshgrid(along, along, indexing="ij")
    inside = np.clip((1.0 - np.hypot(y, x)) * samples / 2.0 + 0.5, 0.0, 1.0)
    return y, x, inside


@functools.lru_cache(maxsize=16)
def fourier_rows(samples: int, points: int, field_waves: float) -> np.ndarray:
    """Matrix ``(points, samples)`` of the one-dimensional Fourier integral over the pupil."""
    along = (np.arange(samples) + 0.5) * (2.0 / samples) - 1.0
    position = ((np.arange(points) + 0.5) / points - 0.5) * field_waves  # wavelengths over the diameter
    return np.asarray(np.exp(-1j * np.pi * np.outer(position, along)), dtype=np.complex64)


@functools.cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss and Legendre along a needle."""
    nodes, weights = np.polynomial.legendre.leggauss(32)
    return nodes, weights


def projected_potential(needle: Needle, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Mean of ``-ln|r - r'|`` over the charge of a needle, as it is seen at (y, x); harmonic wherever there is no charge."""
    nodes, weights = _quadrature()
    along = ((nodes + 1) / 2) ** 2  # denser at the tip
    weights = weights * (nodes + 1) / 2
    density = 1.0 - needle.taper + needle.taper * 3.0 * np.exp(-4.0 * along)
    weights = weights * density / (weights * density).sum()
    direction = needle.angle_rad + needle.lean_rad
    y_tip, x_tip = needle.tip * math.sin(needle.angle_rad), needle.tip * math.cos(needle.angle_rad)
    total = np.zeros(np.shape(y))
    for part, weight in zip(along, weights, strict=True):
        away = part * needle.length
        dy, dx = y - y_tip - away * math.sin(direction), x - x_tip - away * math.cos(direction)
        total -= 0.5 * weight * np.log(dy**2 + dx**2)
    return total


def detector_matrix(
    pixels: int, points: int, sigma_px: float, *, stretch: float = 0.0, shear: float = 0.0, barrel: float = 0.0
) -> Any:
    """Sparse ``(pixels**2, points**2)``: intensity on a grid over the field -> what the camera's pixels record.

    A pixel weighs the intensity around the place it looks at by a Gaussian of `sigma_px` (pixels), the image of the source.
    Where it looks is moved by the camera's distortion (see `Optics`).
    """
    from scipy import sparse

    ratio = points / pixels
    sigma = sigma_px * ratio
    reach = max(1, math.ceil(3.5 * sigma + 0.5))
    centre = (np.arange(pixels) + 0.5) / pixels * 2 - 1
    y, x = np.meshgrid(centre, centre, indexing="ij")
    grow = 1.0 + barrel * (y**2 + x**2)
    y, x = (y * (1 + stretch) + shear * x) * grow, (x * (1 - stretch) + shear * y) * grow
    at_y, at_x = (y.ravel() + 1) / 2 * points - 0.5, (x.ravel() + 1) / 2 * points - 0.5
    offsets = np.arange(-reach, reach + 1)
    near_y, near_x = np.rint(at_y).astype(int)[:, None] + offsets, np.rint(at_x).astype(int)[:, None] + offsets
    weight_y = np.exp(-0.5 * ((near_y - at_y[:, None]) / sigma) ** 2)
    weight_x = np.exp(-0.5 * ((near_x - at_x[:, None]) / sigma) ** 2)
    weight_y /= weight_y.sum(axis=1, keepdims=True)  # before the edge is cut: nothing comes from outside the field
    weight_x /= weight_x.sum(axis=1, keepdims=True)
    weight_y = np.where((near_y >= 0) & (near_y < points), weight_y, 0.0)
    weight_x = np.where((near_x >= 0) & (near_x < points), weight_x, 0.0)
    near_y, near_x = np.clip(near_y, 0, points - 1), np.clip(near_x, 0, points - 1)
    weights = (weight_y[:, :, None] * weight_x[:, None, :]).reshape(pixels**2, -1)
    columns = (near_y[:, :, None] * points + near_x[:, None, :]).reshape(pixels**2, -1)
    rows = np.repeat(np.arange(pixels**2), weights.shape[1])
    matrix = sparse.csr_matrix(
        (weights.ravel() * ratio**2, (rows, columns.ravel())), shape=(pixels**2, points**2), dtype=np.float32
    )
    matrix.eliminate_zeros()
    return matrix


@dataclass(frozen=True)
class Caustics:
    """The whole way from biases to patterns.

    Parameters
    ----------
    plate : PhasePlate
    optics : Optics
    samples : int
        Of the pupil, along a side.
    oversampling : int
        Points of the intensity to a pixel, along a side.
    """

    plate: PhasePlate
    optics: Optics = field(default_factory=Optics)
    samples: int = 128
    oversampling: int = 2

    @functools.cached_property
    def _pupil(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Amplitude, fixed phase, phase of each needle for a coulomb."""
        y, x, inside = pupil_grid(self.samples)
        o = self.optics
        radius2 = y**2 + x**2
        fixed = (
            o.defocus_rad * radius2 + o.spherical_rad * radius2**2 + radius2 * (o.coma_rad[0] * y + o.coma_rad[1] * x)
        )
        amplitude = inside * (1.0 - o.falloff * radius2)
        amplitude = amplitude / np.sqrt((amplitude**2).sum())
        scale = interaction_constant(o.high_tension_v) / (2 * np.pi * VACUUM_PERMITTIVITY)
        potentials = np.stack([projected_potential(needle, y, x) for needle in self.plate.needles])
        potentials -= potentials.mean(axis=(1, 2), keepdims=True)  # a constant phase shows nowhere
        return amplitude, fixed, scale * potentials

    @functools.cached_property
    def _detector(self) -> Any:
        o = self.optics
        return detector_matrix(
            o.pixels, o.pixels * self.oversampling, o.source_px, stretch=o.stretch, shear=o.shear, barrel=o.barrel
        )

    def charged_by(self, charge_c: np.ndarray) -> Caustics:
        """The same with so much charge more on each needle (n,), in C; what does not depend on charges is not computed again."""
        charged = replace(self, plate=self.plate.charged_by(charge_c))
        vars(charged).update(_pupil=self._pupil, _detector=self._detector)
        return charged

    def phase(self, biases_v: np.ndarray) -> np.ndarray:
        """Phase in rad over the pupil, shape (samples, samples), for one set of biases."""
        _, fixed, potentials = self._pupil
        return np.asarray(fixed + np.tensordot(self.plate.charges(biases_v), potentials, axes=1))

    def patterns(
        self, biases_v: np.ndarray, shift_px: np.ndarray | None = None, defocus_rad: np.ndarray | None = None
    ) -> np.ndarray:
        """Patterns, shape (n, pixels, pixels), fraction of the beam per pixel.

        Parameters
        ----------
        biases_v : ndarray, shape (n, needles)
        shift_px : ndarray, shape (n, 2), optional
            Beam shift (y, x) in pixels of the pattern.
        defocus_rad : ndarray, shape (n,), optional
            Added defocus, phase at the rim.
        """
        biases_v = np.atleast_2d(np.asarray(biases_v, dtype=float))
        o = self.optics
        amplitude, _, _ = self._pupil
        y, x, _ = pupil_grid(self.samples)
        points = o.pixels * self.oversampling
        rows = fourier_rows(self.samples, points, o.field_waves)
        scale = (o.field_waves / (points * self.samples)) ** 2
        found = np.empty((len(biases_v), o.pixels, o.pixels), dtype=np.float32)
        for number, biases in enumerate(biases_v):
            phase = self.phase(biases)
            if shift_px is not None:
                tilt = np.pi * o.field_waves / o.pixels * np.asarray(shift_px[number])
                phase = phase + tilt[0] * y + tilt[1] * x
            if defocus_rad is not None:
                phase = phase + defocus_rad[number] * (y**2 + x**2)
            wave = rows @ (amplitude * np.exp(1j * phase)).astype(np.complex64) @ rows.T
            intensity = scale * (wave.real**2 + wave.imag**2)
            found[number] = (self._detector @ intensity.ravel()).reshape(o.pixels, o.pixels)
        return found


def record(patterns: np.ndarray, electrons: float, rng: np.random.Generator) -> np.ndarray:
    """Patterns as a counting camera records them with `electrons` a pattern, again as fractions of the beam."""
    return np.asarray(rng.poisson(np.maximum(patterns, 0.0) * electrons) / electrons, dtype=np.float32)


def nominal_plate(needles: int = NEEDLES) -> PhasePlate:
    """The plate as it was designed: evenly spread needles that charge one another by 8 %."""
    around = 2 * np.pi * np.arange(needles) / needles
    apart = np.abs(np.subtract.outer(np.arange(needles), np.arange(needles)))
    apart = np.minimum(apart, needles - apart)
    coupling = np.where(apart == 0, 1.0, np.where(apart == 1, 0.08, 0.02))
    return PhasePlate(tuple(Needle(float(angle)) for angle in around), CAPACITANCE_F * coupling, np.zeros(needles))


def built_plate(rng: np.random.Generator, tolerance: float = 1.0, needles: int = NEEDLES) -> PhasePlate:
    """A plate as it comes out of the workshop: every number of the design missed by what is usual, times `tolerance`."""
    design = nominal_plate(needles)
    t = tolerance
    made = tuple(
        Needle(
            angle_rad=n.angle_rad + 0.08 * t * rng.standard_normal(),
            tip=float(max(1.06, n.tip + 0.05 * t * rng.standard_normal())),
            length=n.length * math.exp(0.2 * t * rng.standard_normal()),
            lean_rad=0.12 * t * rng.standard_normal(),
            taper=float(np.clip(n.taper + 0.1 * t * rng.standard_normal(), 0.0, 1.0)),
        )
        for n in design.needles
    )
    spread = rng.standard_normal((needles, needles))
    capacitance = design.capacitance * np.exp(0.2 * t * np.eye(needles) * spread) + CAPACITANCE_F * 0.04 * t * spread
    offsets = 0.5 * t * CAPACITANCE_F * rng.standard_normal(needles)
    return PhasePlate(made, capacitance, offsets)


def built_optics(rng: np.random.Generator, pixels: int = 64) -> Optics:
    """Optics as they are found: defocus, aberrations, source and camera a little off what was set."""
    return Optics(
        pixels=pixels,
        defocus_rad=6.0 + 1.0 * rng.standard_normal(),
        spherical_rad=0.7 * rng.standard_normal(),
        coma_rad=(0.5 * rng.standard_normal(), 0.5 * rng.standard_normal()),
        source_px=float(pixels / 64 * np.clip(0.8 + 0.08 * rng.standard_normal(), 0.6, 1.1)),
        stretch=0.008 * rng.standard_normal(),
        shear=0.008 * rng.standard_normal(),
        barrel=0.006 * rng.standard_normal(),
        falloff=float(abs(0.08 * rng.standard_normal())),
    )
