"""The OAM sorter's model against known answers, against brute force, and against itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from napari_smarttem.physics.oam import (
    PARAMETERS,
    Sorter,
    SorterOptics,
    frames,
    misalignment,
    power_in_bin,
    resolution_hbar,
)
from napari_smarttem.physics.oam_range import HALF_RANGES, draw
from napari_smarttem.physics.oam_states import chiral, dichroic, petals, superposition, vortex

ALIGNED = np.zeros(5)
HBAR = np.linspace(-25, 25, 1001)
BARE = SorterOptics(needle_width=0.0, tip_radius=0.0, source_hbar=0.0)


@pytest.fixture(scope="module")
def sorter():
    return Sorter()


def test_states_land_linearly_in_their_angular_momentum():
    momenta = np.arange(-6, 7, 3)
    places = []
    for momentum in momenta:
        spectrum = Sorter(BARE, vortex(int(momentum))).spectrum(ALIGNED, HBAR)
        near = np.abs(HBAR - momentum) < 1
        places.append(np.sum(HBAR[near] * spectrum[near]) / np.sum(spectrum[near]))
    slope, offset = np.polyfit(momenta, places, 1)
    assert slope == pytest.approx(1.0, abs=0.005)
    assert abs(offset) < 0.01
    assert np.abs(places - momenta).max() < 0.03


def test_cross_talk_of_one_hbar_is_that_of_the_sinc():
    bare = Sorter(BARE)
    spectrum = bare.spectrum(ALIGNED, HBAR) / bare.transmitted(ALIGNED)
    own, beside = (quad(lambda t: np.sinc(t) ** 2, a - 0.5, a + 0.5)[0] for a in (0.0, 1.0))
    assert own == pytest.approx(0.774, abs=0.001)
    # the strip at S2 ends in a diffraction edge, not in a cut: a few percent go into the tails
    assert power_in_bin(HBAR, spectrum) == pytest.approx(own, abs=0.05)
    assert power_in_bin(HBAR, spectrum, 1.0) == pytest.approx(beside, abs=0.03)
    assert resolution_hbar(HBAR, spectrum) == pytest.approx(0.886, rel=0.05)


def test_electrons_are_conserved():
    wide = Sorter(SorterOptics(pixels=224, pixel_hbar=0.5, source_hbar=0.0))
    entered = np.sum(np.abs(wide.entrance) ** 2) * (wide._x[1] - wide._x[0]) ** 2
    for parameters in (ALIGNED, 0.5 * HALF_RANGES):
        behind = wide.transmitted(parameters)
        assert 0.97 * entered < behind <= 1.002 * entered
        assert wide.images(parameters)[0].sum() == pytest.approx(behind, rel=0.01)
    assert wide.transmitted(ALIGNED) == pytest.approx(wide.transmitted([0, 0.05, 0.1, -0.1, 0.05]), rel=1e-5)


def test_finer_sampling_changes_nothing(sorter):
    fine = Sorter(SorterOptics(step=0.025, oversampling=2.0))
    for parameters in draw(4, np.random.default_rng(3)):
        coarse, exact = sorter.images(parameters)[0], fine.images(parameters)[0]
        assert np.linalg.norm(coarse - exact) < 0.02 * np.linalg.norm(exact)


def brute_force(parameters: np.ndarray, optics: SorterOptics, pixels: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """The sorter in metres, with two fast Fourier transforms: the published formulas as they stand."""
    df, size, shx, shy, beta = parameters
    wavelength, radius, f1 = 1.97e-12, 20e-6, 0.5
    k = 2 * np.pi / wavelength
    a = optics.strength * f1 / (k * radius)
    b = optics.b * radius
    x = (np.arange(pixels) - pixels / 2 + 0.5) * (4.0 * radius / pixels)
    X, Y = np.meshgrid(x, x)
    r = np.hypot(X, Y)
    w12 = (k * a / f1) * (Y * np.arctan2(Y, X) - X * np.log(r / b) + X)
    wave = (r < radius) * np.exp(1j * (w12 + df * (r / radius) ** 2))

    # half-pixel offsets of the grids are linear phases in the other plane
    def transform(field, step):
        n = len(field)
        shift = np.exp(-1j * np.pi * (1 - n) * np.arange(n) / n)
        ramp = np.outer(shift, shift)
        return np.fft.fft2(field * ramp) * ramp * step**2

    far = transform(wave, x[1] - x[0])
    u = (np.arange(pixels) - pixels / 2 + 0.5) * (wavelength * f1 / (4.0 * radius))
    U, V = np.meshgrid(u, u)
    U1, V1 = U - shx * a, V - shy * a
    U1, V1 = (U1 * np.cos(beta) + V1 * np.sin(beta)) / (1 + size), (V1 * np.cos(beta) - U1 * np.sin(beta)) / (1 + size)
    inside = (np.abs(V) < optics.v_reach * a) & (-optics.u_margin * a < U) & (optics.u_reach * a > U)
    phase = np.where(inside, -(k * a * b / f1) * np.exp(-U1 / a) * np.cos(V1 / a), 0.0)
    camera = transform(far * inside * np.exp(1j * phase), u[1] - u[0])
    momentum = (np.arange(pixels) - pixels / 2 + 0.5) * (2 * np.pi / (pixels * (u[1] - u[0]))) * a
    spectrum = np.sum(np.abs(camera) ** 2, axis=1)
    return momentum, spectrum / np.sum(spectrum) / (momentum[1] - momentum[0])


@pytest.mark.parametrize("parameters", [ALIGNED, np.array([6.0, -0.03, 0.04, -0.05, 0.03])])
def test_brute_force_in_metres_agrees(parameters):
    optics = SorterOptics(needle_width=0.0, tip_radius=0.0, source_hbar=0.0)
    hbar, expected = brute_force(parameters, optics)
    near = np.abs(hbar) < 12
    ours = Sorter(optics)
    fine = np.linspace(-25, 25, 4001)
    spectrum = np.interp(hbar[near], fine, ours.spectrum(parameters, fine)) / ours.transmitted(parameters)
    assert np.corrcoef(spectrum, expected[near])[0, 1] > 0.999
    assert np.abs(spectrum - expected[near]).max() < 0.05 * expected.max()


def test_derivatives_are_those_of_the_picture(sorter):
    at = draw(1, np.random.default_rng(5))[0]
    picture, slopes = sorter.image_and_slopes(at)
    assert np.allclose(picture, sorter.images(at)[0], atol=1e-6 * picture.max())
    for k, step in enumerate(2e-3 * HALF_RANGES):
        change = np.zeros(5)
        change[k] = step
        numeric = (sorter.images(at + change)[0].astype(float) - sorter.images(at - change)[0]) / (2 * step)
        assert np.abs(numeric - slopes[k]).max() < 1e-3 * np.abs(slopes[k]).max(), PARAMETERS[k]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=5, max_size=5))
def test_mirrored_misalignment_mirrors_the_picture(sorter, values):
    at = np.array(values) * HALF_RANGES
    mirrored = at * [1, 1, 1, -1, -1]
    picture = sorter.images(at)[0]
    assert np.allclose(sorter.images(mirrored)[0], picture[:, ::-1], atol=2e-3 * picture.max())


def test_every_misalignment_spoils_the_sorter(sorter):
    own = power_in_bin(HBAR, sorter.spectrum(ALIGNED, HBAR))
    for k in range(5):
        powers = [own]
        for share in (0.3, 1.0):
            at = np.zeros(5)
            at[k] = share * HALF_RANGES[k]
            powers.append(power_in_bin(HBAR, sorter.spectrum(at, HBAR)))
        assert powers[0] > powers[1] > powers[2]
        assert powers[2] < 0.6 * own, PARAMETERS[k]


def test_petals_are_two_lines():
    spectrum = Sorter(BARE, petals(4)).spectrum(ALIGNED, HBAR)
    left, middle, right = (power_in_bin(HBAR, spectrum, centre) for centre in (-4.0, 0.0, 4.0))
    assert left == pytest.approx(right, rel=0.01)
    assert left > 0.3
    assert middle < 0.02


@pytest.mark.parametrize("contrast", [-0.5, 0.0, 0.8])
def test_dichroic_contrast_is_read_off_the_spectrum(contrast):
    spectrum = Sorter(BARE, dichroic(contrast, order=3)).spectrum(ALIGNED, HBAR)
    plus, minus = power_in_bin(HBAR, spectrum, 3.0), power_in_bin(HBAR, spectrum, -3.0)
    assert (plus - minus) / (plus + minus) == pytest.approx(contrast, abs=0.02)


def test_hand_of_a_spiral_shows_in_the_radial_momentum():
    tilt = {}
    for winding in (-5.0, 5.0):
        sorter = Sorter(BARE, chiral(arms=4, depth_rad=1.0, winding=winding))
        picture = sorter.images(ALIGNED)[0]
        tilt[winding] = np.einsum("pt,p,t->", picture, sorter.hbar, sorter.hbar) / picture.sum()
    assert tilt[5.0] < -1.0
    assert tilt[-5.0] > 1.0
    assert tilt[5.0] == pytest.approx(-tilt[-5.0], rel=0.2)


def test_coherent_and_incoherent_sums_differ_only_where_they_overlap():
    coherent = Sorter(BARE, superposition({0: 1.0, 8: 1.0})).spectrum(ALIGNED, HBAR)
    single = 0.5 * (Sorter(BARE).spectrum(ALIGNED, HBAR) + Sorter(BARE, vortex(8)).spectrum(ALIGNED, HBAR))
    for centre in (0.0, 8.0):
        assert power_in_bin(HBAR, coherent, centre) == pytest.approx(power_in_bin(HBAR, single, centre), rel=0.05)


def test_counts_have_the_mean_and_the_variance_of_electrons(sorter):
    mean = sorter.images(ALIGNED)[0] * 1e4
    counted = frames(np.broadcast_to(mean / 1e4, (300, *mean.shape)), 1e4, np.random.default_rng(0))
    bright = mean > 20
    assert counted.mean(axis=0)[bright] == pytest.approx(mean[bright], rel=0.1)
    assert np.mean(counted.var(axis=0)[bright] / mean[bright]) == pytest.approx(1.0, abs=0.1)


def test_defocus_beyond_the_table_is_refused(sorter):
    with pytest.raises(ValueError, match="df"):
        sorter.images([60.0, 0, 0, 0, 0])


def test_misalignments_by_name():
    assert misalignment({"beta": 0.1}).tolist() == [0, 0, 0, 0, 0.1]
    with pytest.raises(ValueError, match="df, SM"):
        misalignment({"tilt": 1.0})


def test_resolution_of_a_known_line():
    assert resolution_hbar(HBAR, np.exp(-0.5 * HBAR**2)) == pytest.approx(2.3548, rel=0.002)
    two = np.exp(-0.5 * (HBAR - 3) ** 2 / 0.01) + np.exp(-0.5 * (HBAR + 3) ** 2 / 0.01)
    assert resolution_hbar(HBAR, two) == pytest.approx(6.235, abs=0.02)
