"""The spectrum model against what is known of it in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_smarttem.physics import eels
from napari_smarttem.physics.cross_sections import hydrogenic
from napari_smarttem.schema import BadInput

OPTICS = {"high_tension_v": 200e3, "convergence_mrad": 20.0, "collection_mrad": 40.0}
PLASMON = eels.LossProcess("plasmon", eels.valence_cumulative(20.0, 5.0, tail=0.0))
CARBON = eels.LossProcess("valence", eels.valence_cumulative(24.0, 18.0, exponent=3.2))
OXYGEN = eels.LossProcess("O_K", hydrogenic("O_K", **OPTICS).cumulative)


def model(*processes: eels.LossProcess, dispersion=0.5, offset=-20.0, channels=2048, resolution=0.8):
    return eels.SpectrumModel(
        processes, dispersion_ev=dispersion, offset_ev=offset, channels=channels, resolution_ev=resolution
    )


def test_without_matter_only_the_zero_loss_peak_remains():
    spectrum = model(CARBON, OXYGEN)
    seen = spectrum.probabilities(np.zeros(2))
    assert seen.sum() == pytest.approx(1.0, abs=1e-9)
    near = np.abs(spectrum.energy_ev) < 3 * 2.4
    assert seen[near].sum() == pytest.approx(1.0, abs=1e-4)
    assert spectrum.energy_ev[np.argmax(seen)] == pytest.approx(0.0, abs=0.25)
    mean = float((seen * spectrum.energy_ev).sum())
    assert mean == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("resolution", [0.3, 0.8, 2.0])
def test_zero_loss_peak_has_the_energy_resolution(resolution):
    spectrum = model(CARBON, dispersion=0.05, offset=-20.0, resolution=resolution)
    peak = spectrum.probabilities(np.zeros(1))
    above = spectrum.energy_ev[peak > peak.max() / 2]
    assert above[-1] - above[0] + 0.05 == pytest.approx(resolution, rel=0.06, abs=0.06)


@given(st.floats(0.01, 4.0))
def test_every_electron_is_counted_once_whatever_the_thickness(thickness):
    # plasmons alone cannot leave a kilovolt-wide axis, so the whole probability must be on it
    assert model(PLASMON).probabilities(np.array([thickness])).sum() == pytest.approx(1.0, abs=2e-4)


@given(st.floats(0.05, 3.0))
def test_log_ratio_gives_the_thickness_back(thickness):
    spectrum = model(PLASMON)
    measured = eels.log_ratio_thickness(spectrum.energy_ev, spectrum.probabilities(np.array([thickness])))
    assert measured == pytest.approx(thickness, rel=0.03)


@given(st.floats(0.2, 2.0))
def test_plasmon_peaks_follow_poisson(thickness):
    """Sharp plasmons: the n-th peak holds the share exp(-t) t^n / n!."""
    sharp = eels.LossProcess("sharp", lambda e: eels.gaussian_cumulative(np.asarray(e) - 20.0, 1.0))
    spectrum = model(sharp, offset=-10.0, channels=1024)
    seen = spectrum.probabilities(np.array([thickness]))
    for n in range(5):
        window = np.abs(spectrum.energy_ev - 20.0 * n) < 9.9
        assert seen[window].sum() == pytest.approx(math.exp(-thickness) * thickness**n / math.factorial(n), abs=3e-3)


def test_mean_loss_is_the_sum_of_the_parts():
    """Wald's identity: the mean loss is the mean number of events times the mean loss of one."""
    narrow = eels.LossProcess("narrow", lambda e: eels.gaussian_cumulative(np.asarray(e) - 30.0, 2.0))
    spectrum = model(narrow, offset=-20.0)
    seen = spectrum.probabilities(np.array([1.7]))
    assert (seen * spectrum.energy_ev).sum() == pytest.approx(1.7 * 30.0, rel=1e-3)


@pytest.mark.parametrize("exponent", [2.6, 3.1, 3.8])
def test_background_is_a_power_law_with_the_given_exponent(exponent):
    tail = eels.LossProcess("tail", lambda e: eels.power_law_cumulative(e, exponent, 40.0))
    spectrum = model(tail, offset=100.0, dispersion=1.0, channels=1500)
    seen = spectrum.probabilities(np.array([1e-3]))
    fitted = (spectrum.energy_ev > 200) & (spectrum.energy_ev < 1200)
    slope = np.polyfit(np.log(spectrum.energy_ev[fitted]), np.log(seen[fitted]), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.01)


@pytest.mark.parametrize("exponent", [2.8, 3.3])
def test_valence_losses_end_in_the_power_law_without_a_step(exponent):
    cumulative = eels.valence_cumulative(22.0, 14.0, tail=0.5, exponent=exponent)
    energy = np.linspace(1.0, 1500.0, 3000)
    density = np.diff(cumulative(energy))
    middle = (energy[1:] + energy[:-1]) / 2
    far = middle > 300
    slope = np.polyfit(np.log(middle[far]), np.log(density[far]), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.1)
    # no step: neighbouring half electronvolts differ by a few percent above the plasmon
    above = middle > 30
    assert np.abs(np.diff(np.log(density[above]))).max() < 0.08
    assert cumulative(np.array([6000.0]))[0] == pytest.approx(1.0)


@pytest.mark.parametrize("edge", ["C_K", "N_K", "O_K", "Ti_L3", "Fe_L3", "Ni_L3", "Cu_L3"])
def test_edges_stand_at_their_onsets(edge):
    section = hydrogenic(edge, **OPTICS)
    process = eels.LossProcess(edge, section.cumulative)
    spectrum = model(process, offset=200.0)
    seen = spectrum.probabilities(np.array([1e-3]))
    before, after = spectrum.energy_ev < section.onset_ev - 3, spectrum.energy_ev > section.onset_ev + 3
    assert seen[before].max() < 1e-3 * seen.max()
    steepest = spectrum.energy_ev[np.argmax(np.diff(seen))] + 0.25
    assert abs(steepest - section.onset_ev) < 1.0
    assert seen[after].max() > 0


def test_core_loss_is_the_cross_section_times_the_areal_density():
    section = hydrogenic("O_K", **OPTICS)
    atoms_per_nm2 = 1000.0
    spectrum = model(OXYGEN, offset=400.0)
    seen = spectrum.probabilities(np.array([atoms_per_nm2 * section.total_nm2]))
    window = (spectrum.energy_ev > 560) & (spectrum.energy_ev < 700)
    barn = np.interp(spectrum.energy_ev[window], section.energy_ev, section.barn_per_ev)
    expected = atoms_per_nm2 * 1e-10 * 0.5 * barn.sum()
    assert seen[window].sum() == pytest.approx(expected, rel=0.01)


def test_plural_scattering_blurs_an_edge_but_keeps_its_electrons():
    thin = model(CARBON, OXYGEN, offset=300.0, channels=2048)
    bare = thin.probabilities(np.array([0.0, 1e-3]))
    thick = thin.probabilities(np.array([1.0, 1e-3])) - thin.probabilities(np.array([1.0, 0.0]))
    near = (thin.energy_ev > 532) & (thin.energy_ev < 545)
    assert thick[near].sum() < 0.6 * bare[near].sum()
    assert thick.sum() == pytest.approx(bare.sum(), rel=0.06)


@given(st.sampled_from([0.05, 0.1, 0.25, 0.5, 1.0]), st.floats(-100, 1500), st.floats(0, 2), st.floats(0, 0.02))
def test_spectra_are_distributions_on_any_axis(dispersion, offset, thickness, ionisations):
    spectrum = model(CARBON, OXYGEN, dispersion=dispersion, offset=offset, channels=512)
    seen = spectrum.probabilities(np.array([thickness, ionisations]))
    assert seen.shape == (512,)
    assert np.all(np.isfinite(seen))
    assert np.all(seen >= 0)
    assert seen.sum() <= 1 + 1e-6


def test_axes_agree_where_they_overlap():
    """The same energies seen at another offset and a coarser dispersion carry the same probability."""
    events = np.array([0.8, 2e-3])
    fine = model(CARBON, OXYGEN, dispersion=0.25, offset=400.0, resolution=3.0)
    coarse = model(CARBON, OXYGEN, dispersion=1.0, offset=200.0, resolution=3.0)
    a, b = fine.probabilities(events), coarse.probabilities(events)
    for low in (450.0, 530.0, 600.0, 800.0):
        share_a = a[(fine.energy_ev > low) & (fine.energy_ev < low + 50)].sum()
        share_b = b[(coarse.energy_ev > low) & (coarse.energy_ev < low + 50)].sum()
        # windows end between channels of either axis to within half a coarse channel
        assert share_a == pytest.approx(share_b, rel=0.03)


def test_wrap_around_does_not_show():
    """Twice the range leaves nothing to fold back: on a longer axis the same channels hold the same values."""
    events = np.array([1.5, 0.02])
    short = model(CARBON, OXYGEN, offset=200.0, channels=1400).probabilities(events)
    long = model(CARBON, OXYGEN, offset=200.0, channels=5600).probabilities(events)[:1400]
    assert np.allclose(short, long, rtol=2e-3)


def test_counts_are_poisson_with_gain_and_read_noise():
    rng = np.random.default_rng(5)
    mean = np.full(200_000, 40.0)
    counts = eels.record(mean, rng, counts_per_electron=3.0, read_noise_counts=7.0, dark_electrons=10.0)
    assert counts.mean() == pytest.approx(120.0, rel=2e-3)
    assert counts.var() == pytest.approx(3.0**2 * 50.0 + 7.0**2, rel=0.02)
    plain = eels.record(mean, rng)
    assert plain.var() == pytest.approx(plain.mean(), rel=0.02)
    assert np.array_equal(plain, np.round(plain))


@pytest.mark.parametrize("bad", [[-0.1, 0.0], [0.1], [np.nan, 0.0], [0.1, 0.2, 0.3]])
def test_impossible_event_numbers_are_refused(bad):
    with pytest.raises(BadInput, match="2 mean event numbers"):
        model(CARBON, OXYGEN).probabilities(np.array(bad))


@pytest.mark.parametrize("axis", [{"dispersion": 0.0}, {"dispersion": -1.0}, {"resolution": 0.0}, {"channels": 0}])
def test_impossible_axes_are_refused(axis):
    with pytest.raises(BadInput, match="energy axis"):
        model(CARBON, **axis)


def test_impossible_plasmon_is_refused():
    with pytest.raises(BadInput, match="plasmon"):
        eels.valence_cumulative(0.0, 5.0)


def test_log_ratio_needs_a_zero_loss_peak():
    energy = np.linspace(200, 1200, 500)
    with pytest.raises(BadInput, match="zero-loss"):
        eels.log_ratio_thickness(energy, np.ones(500))


def test_drude_peak_and_tail():
    energy = np.linspace(1, 2000, 40_000)
    loss = eels.drude_loss(energy, 22.0, 3.0)
    assert energy[np.argmax(loss)] == pytest.approx(22.0, abs=0.2)
    slope = np.polyfit(np.log(energy[energy > 500]), np.log(loss[energy > 500]), 1)[0]
    assert slope == pytest.approx(-3.0, abs=0.01)
    # f-sum rule: the integral of E·Im(-1/eps) is pi Ep² / 2
    wide = np.geomspace(1e-3, 1e7, 400_000)
    assert np.trapezoid(wide * eels.drude_loss(wide, 22.0, 3.0), wide) == pytest.approx(np.pi * 22.0**2 / 2, rel=1e-3)
