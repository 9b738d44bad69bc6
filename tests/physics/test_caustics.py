"""Caustics: constants, conservation, symmetries, and an independent way to compute the same pattern."""

from dataclasses import replace

import numpy as np
import pytest

from napari_smarttem.physics.caustics import (
    CAPACITANCE_F,
    Caustics,
    Needle,
    Optics,
    built_optics,
    built_plate,
    detector_matrix,
    interaction_constant,
    nominal_plate,
    projected_potential,
    pupil_grid,
    record,
)
from napari_smarttem.physics.caustics_basis import HARMONICS, basis, coefficients


def test_interaction_constant_has_the_tabulated_values():
    assert interaction_constant(300e3) == pytest.approx(6.526e6, rel=1e-3)
    assert interaction_constant(200e3) == pytest.approx(7.288e6, rel=1e-3)


def test_a_projected_potential_is_harmonic_where_there_is_no_charge():
    h = 1e-3
    y, x = np.random.default_rng(0).uniform(-0.6, 0.6, (2, 20))

    def potential(dy, dx):
        return projected_potential(Needle(0.7), y + dy, x + dx)

    laplacian = (potential(h, 0) + potential(-h, 0) + potential(0, h) + potential(0, -h) - 4 * potential(0, 0)) / h**2
    assert np.abs(laplacian).max() < 1e-5 * np.abs(potential(0, 0)).max() / h


def test_a_pattern_without_bias_and_aberration_is_the_airy_disc():
    optics = Optics(defocus_rad=0.0, source_px=0.3)
    pattern = Caustics(nominal_plate(), optics).patterns(np.zeros((1, 8)))[0]
    assert pattern.sum() == pytest.approx(1.0, abs=0.02)
    # 83.8 % of the Airy pattern lies within its first dark ring, at 1.22 wavelengths over the diameter = 2.44 pixels here
    along = np.arange(64) - 31.5
    inside = np.hypot(along[:, None], along) < 2.44 + 0.5
    assert 0.75 < pattern[inside].sum() < 0.92


def test_a_shift_moves_the_pattern_and_changes_nothing_else():
    caustics = Caustics(built_plate(np.random.default_rng(1)), Optics())
    biases = np.full((1, 8), 0.6) * np.array([1, -1, 1, 1, -1, 1, -1, 1])
    still, moved = caustics.patterns(np.repeat(biases, 2, axis=0), shift_px=np.array([[0, 0], [4, -3]]))
    np.testing.assert_allclose(np.roll(still, (4, -3), (0, 1))[10:-10, 10:-10], moved[10:-10, 10:-10], atol=2e-6)


def test_opposite_charges_and_opposite_focus_mirror_the_pattern():
    optics = Optics(defocus_rad=5.0)
    plate = replace(nominal_plate(), offset_charge=np.zeros(8))
    biases = np.random.default_rng(2).uniform(-3, 3, (1, 8))
    one = Caustics(plate, optics).patterns(biases)[0]
    other = Caustics(plate, replace(optics, defocus_rad=-5.0)).patterns(-biases)[0]
    np.testing.assert_allclose(one, other[::-1, ::-1], atol=1e-6)


def test_the_matrix_transform_is_the_fast_fourier_transform():
    caustics = Caustics(built_plate(np.random.default_rng(3)), Optics(source_px=0.31), samples=64, oversampling=1)
    biases = np.random.default_rng(4).uniform(-2, 2, (1, 8))
    amplitude, _, _ = caustics._pupil
    wave = amplitude * np.exp(1j * caustics.phase(biases[0]))
    n = 128  # twice the pupil's samples: a point every half wavelength over the diameter
    padded = np.zeros((n, n), dtype=complex)
    padded[:64, :64] = wave
    # the matrix looks at the middles of points, half a point beside those of the FFT
    ramp = np.exp(-1j * np.pi * np.arange(n) / n)
    spectrum = np.fft.fftshift(np.abs(np.fft.fft2(padded * ramp[:, None] * ramp)) ** 2) / n**2
    middle = spectrum[32:96, 32:96]
    blurred = (detector_matrix(64, 64, 0.31) @ middle.ravel()).reshape(64, 64)
    np.testing.assert_allclose(caustics.patterns(biases)[0], blurred, atol=2e-6)


def test_the_detector_keeps_electrons_and_widens_by_the_source():
    spot = np.zeros((64, 64), dtype=np.float32)
    spot[30, 33] = 1.0
    seen = (detector_matrix(64, 64, 1.3) @ spot.ravel()).reshape(64, 64)
    along = np.arange(64)
    mean = (seen.sum(0) * along).sum()
    assert seen.sum() == pytest.approx(1.0, abs=1e-3)
    assert mean == pytest.approx(33.0, abs=1e-3)
    assert np.sqrt((seen.sum(0) * (along - mean) ** 2).sum()) == pytest.approx(1.3, rel=0.02)


def test_the_basis_holds_the_phase_of_a_built_plate():
    rng = np.random.default_rng(5)
    plate, optics = built_plate(rng), built_optics(rng)
    caustics = Caustics(plate, optics, samples=64)
    biases = rng.uniform(-5, 5, 8)
    found = np.tensordot(coefficients(plate, optics) @ np.append(biases, 1.0), basis(64), axes=1)
    _, _, inside = pupil_grid(64)
    apart = (found - caustics.phase(biases))[inside > 0.99]
    assert np.std(apart) < 0.05  # rad, of some tens


def test_the_first_maps_are_tilts():
    y, x, _ = pupil_grid(16)
    np.testing.assert_allclose(basis(16)[0], x, atol=1e-6)
    np.testing.assert_allclose(basis(16)[1], y, atol=1e-6)
    assert basis(16)[2 * HARMONICS].min() >= 0


def test_recording_counts_electrons():
    pattern = np.full((1, 64, 64), 1 / 4096)
    seen = record(pattern, 1e5, np.random.default_rng(6))
    assert seen.sum() == pytest.approx(1.0, abs=0.02)
    assert (seen * 1e5).var() == pytest.approx(1e5 / 4096, rel=0.1)


def test_charging_acts_like_a_bias():
    plate = nominal_plate()
    volts = np.array([0.3, 0, 0, 0, -0.2, 0, 0, 0])
    np.testing.assert_allclose(plate.charged_by(plate.capacitance @ volts).charges(np.zeros(8)), plate.charges(volts))
    assert plate.charges(volts).max() < CAPACITANCE_F


def test_charges_change_the_phase_and_nothing_else():
    rng = np.random.default_rng(4)
    built = Caustics(built_plate(rng), built_optics(rng), samples=64, oversampling=1)
    biases, charge = rng.uniform(-5, 5, (2, 8)), 0.3 * CAPACITANCE_F * rng.standard_normal(8)
    anew = Caustics(built.plate.charged_by(charge), built.optics, samples=64, oversampling=1)
    np.testing.assert_array_equal(built.charged_by(charge).patterns(biases), anew.patterns(biases))
    assert not np.allclose(built.patterns(biases), anew.patterns(biases), atol=1e-4)
