"""Spectra of the simulator follow its specimen; dose does what dose does."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_smarttem.backends.simulator import connect
from napari_smarttem.backends.simulator.dose import DoseMap
from napari_smarttem.physics.cross_sections import hydrogenic
from napari_smarttem.physics.eels import log_ratio_thickness
from napari_smarttem.schema import BadInput, Cancelled, Field2D, InstrumentFault, LimitExceeded

from ..tokens import AfterLooks

GO = threading.Event()
STILL = {"speed": None, "drift_nm_per_s": (0.0, 0.0), "drift_walk_nm": 0.0, "contamination": False}
ELECTRONS_PER_S = 50e-12 / 1.602176634e-19


def spectrum_at(microscope, y, x, exposure_s=0.2):
    microscope.scanner.move_probe(y, x)
    frame = microscope.spectrometer.acquire_spectrum(exposure_s, GO)
    microscope.scanner.park_probe()
    return frame


def edge_counts(frame, onset_ev, width_ev=40.0):
    """Counts of an edge above the power law fitted in front of it."""
    energy, counts = frame.coordinates("energy_loss"), frame.data.astype(float)
    before = (energy > onset_ev - 60) & (energy < onset_ev - 8)
    window = (energy >= onset_ev) & (energy < onset_ev + width_ev)
    slope, level = np.polyfit(np.log(energy[before]), np.log(np.maximum(counts[before], 0.5)), 1)
    return float((counts[window] - np.exp(level + slope * np.log(energy[window]))).sum())


@pytest.fixture(scope="module")
def places():
    """Places of each label, well inside, of the core-shell specimen with seed 3."""
    microscope = connect("core-shell", seed=3, **STILL)
    truth = microscope.ground_truth(shape=(200, 200))
    rng = np.random.default_rng(0)
    chosen = []
    for label in range(3):
        rows, columns = np.nonzero((truth.labels == label) & ~truth.boundaries)
        picks = rng.choice(len(rows), 8, replace=False)
        chosen += [(rows[k] + 0.5, columns[k] + 0.5) for k in picks]
    return microscope, chosen


def test_edges_measure_the_composition(places):
    microscope, chosen = places
    frames = [spectrum_at(microscope, y, x, 0.5) for y, x in chosen]
    truths = [microscope.truth(y, x)["atoms_per_nm2"] for y, x in chosen]
    for element, onset in (("Ti", 456.0), ("O", 532.0), ("Cu", 931.0)):
        counts = [edge_counts(frame, onset) for frame in frames]
        atoms = [truth[element] for truth in truths]
        assert np.corrcoef(counts, atoms)[0, 1] > 0.97, element
        # recorded truth is what the probe saw
        seen = [frame.metadata["truth"]["atoms_per_nm2"][element] for frame in frames]
        assert np.corrcoef(seen, atoms)[0, 1] > 0.99


def test_oxygen_counts_are_the_cross_section_times_atoms_times_electrons():
    microscope = connect("two-phase", seed=3, **STILL, read_noise_counts=0.0)
    frame = spectrum_at(microscope, 100.0, 30.0, 5.0)
    truth = frame.metadata["truth"]
    section = hydrogenic("O_K", high_tension_v=200e3, convergence_mrad=20.0, collection_mrad=40.0)
    energy = np.arange(532.0, 632.0)
    barn = np.interp(energy, section.energy_ev, section.barn_per_ev).sum()
    expected = truth["atoms_per_nm2"]["O"] * barn * 1e-10 * truth["electrons"]
    # plural scattering moves part of the edge out of the window, hence the one-sided slack
    assert 0.6 * expected < edge_counts(frame, 532.0, 100.0) < 1.15 * expected


def test_thickness_from_the_low_loss(places):
    microscope, chosen = places
    microscope.spectrometer.set_energy_offset_ev(-50.0)
    try:
        for y, x in chosen[::3]:
            frame = spectrum_at(microscope, y, x)
            measured = log_ratio_thickness(frame.coordinates("energy_loss"), frame.data)
            assert measured == pytest.approx(frame.metadata["truth"]["t_over_lambda"], rel=0.08)
            electrons = ELECTRONS_PER_S * 0.2
            assert frame.data.sum() == pytest.approx(electrons, rel=0.01)
    finally:
        microscope.spectrometer.set_energy_offset_ev(200.0)


def test_noise_is_poisson():
    microscope = connect("two-phase", seed=1, **STILL, read_noise_counts=0.0)
    spectra = np.stack([spectrum_at(microscope, 100.0, 40.0, 0.05).data for _ in range(60)])
    mean, variance = spectra.mean(axis=0), spectra.var(axis=0, ddof=1)
    assert np.sum(variance) / np.sum(mean) == pytest.approx(1.0, abs=0.05)


def test_gain_and_read_noise():
    base = {**STILL, "seed": 1}
    plain = spectrum_at(connect("two-phase", **base, read_noise_counts=0.0), 100.0, 40.0)
    gained = spectrum_at(connect("two-phase", **base, read_noise_counts=0.0, counts_per_electron=8.0), 100.0, 40.0)
    assert gained.data.sum() == pytest.approx(8 * plain.data.sum(), rel=0.01)
    dark = connect("two-phase", **base, read_noise_counts=4.0)
    dark.blanker.set_blanked(True)
    frame = spectrum_at(dark, 100.0, 40.0, 0.01)
    assert frame.data.mean() == pytest.approx(0.0, abs=0.4)
    assert frame.data.std() == pytest.approx(4.0, rel=0.1)
    assert dark.dose_e_per_a2().max() == 0


def test_same_seed_same_spectrum():
    one, two = (connect(seed=6, speed=None) for _ in range(2))
    a, b = spectrum_at(one, 80, 80), spectrum_at(two, 80, 80)
    assert np.array_equal(a.data, b.data)
    assert a.metadata == b.metadata
    assert not np.array_equal(spectrum_at(one, 80, 80).data, a.data)


def test_axis_and_stamps():
    microscope = connect(seed=6, speed=None)
    microscope.spectrometer.set_dispersion_ev(0.25)
    microscope.spectrometer.set_energy_offset_ev(400.0)
    before = microscope.now_s()
    frame = spectrum_at(microscope, 50, 60, 0.1)
    axis = frame.axis("energy_loss")
    assert (axis.scale, axis.offset, axis.units) == (0.25, 400.0, "eV")
    assert frame.shape == (microscope.spectrometer.channels,)
    assert frame.metadata["exposure_started_s"] >= before
    assert frame.metadata["exposure_finished_s"] - frame.metadata["exposure_started_s"] == pytest.approx(0.1)
    context = microscope.plan_context()
    assert microscope.now_s() - before == pytest.approx(context.settle_s + 0.1 + context.spectrum_readout_s)


@given(st.sampled_from([0.05, 0.1, 0.25, 0.5, 1.0]), st.floats(-100, 2000), st.floats(1e-5, 1.0), st.floats(0, 200))
@settings(max_examples=15)
def test_any_setting_gives_a_finite_spectrum(dispersion, offset, exposure, place):
    microscope = _shared()
    microscope.spectrometer.set_dispersion_ev(dispersion)
    microscope.spectrometer.set_energy_offset_ev(offset)
    frame = spectrum_at(microscope, place, 200 - place, exposure)
    assert np.all(np.isfinite(frame.data))
    assert frame.data.sum() < 1.01 * ELECTRONS_PER_S * exposure + 2048


def _shared(kept=[]):  # noqa: B006 one microscope for all examples: making one costs more than using it
    if not kept:
        kept.append(connect("polymer", seed=1, speed=None))
    return kept[0]


def test_a_parked_probe_records_nothing():
    microscope = connect(speed=None)
    with pytest.raises(InstrumentFault, match="parked") as caught:
        microscope.spectrometer.acquire_spectrum(0.1, GO)
    assert not caught.value.transient


@pytest.mark.parametrize("exposure", [0.0, -1.0, 1e9, float("nan")])
def test_exposures_outside_the_limits(exposure):
    microscope = connect(speed=None)
    microscope.scanner.move_probe(10, 10)
    with pytest.raises(LimitExceeded, match="exposure"):
        microscope.spectrometer.acquire_spectrum(exposure, GO)


def test_spectrometer_limits():
    spectrometer = connect(speed=None).spectrometer
    with pytest.raises(LimitExceeded, match="offset"):
        spectrometer.set_energy_offset_ev(5000.0)
    with pytest.raises(BadInput, match="dispersion"):
        spectrometer.set_dispersion_ev(0.3)
    assert (spectrometer.energy_offset_ev, spectrometer.dispersion_ev) == (200.0, 0.5)


def test_cancel_interrupts_an_exposure():
    microscope = connect(speed=1.0)
    before = microscope.now_s()
    microscope.scanner.move_probe(100, 100)
    token = AfterLooks(8)
    with pytest.raises(Cancelled):
        microscope.spectrometer.acquire_spectrum(60.0, token)
    assert max(token.waits) <= 0.02, "so soon it is heard"
    # what was delivered until then stays delivered
    microscope.scanner.park_probe()
    elapsed = microscope.now_s() - before
    assert elapsed < 60.0
    assert 6 * 0.02 * ELECTRONS_PER_S < microscope.column.dose.electrons < 1.01 * ELECTRONS_PER_S * elapsed


def test_blanking_during_an_exposure_ends_the_counting():
    microscope = connect(speed=1.0, seed=1, contamination=False)
    microscope.scanner.move_probe(100, 100)
    threading.Timer(0.1, lambda: microscope.blanker.set_blanked(True)).start()
    frame = microscope.spectrometer.acquire_spectrum(0.5, GO)
    assert 0.1 < frame.metadata["truth"]["electrons"] / (ELECTRONS_PER_S * 0.5) < 0.5


# dose ---------------------------------------------------------------------------------------------------------------------------


def test_every_electron_is_on_the_map():
    microscope = connect(seed=2, speed=None)
    area = Field2D(y_nm=33.3, x_nm=20.7, height_nm=51.9, width_nm=77.2)
    microscope.scanner.scan(field=area, shape=(40, 60), dwell_s=1e-5, signals=("HAADF",), cancel=GO)
    scanned = 40 * 60 * 1e-5 * ELECTRONS_PER_S
    assert microscope.column.dose.electrons == pytest.approx(scanned, rel=1e-4)
    started = microscope.now_s()
    spectrum_at(microscope, 150.0, 150.0, 0.3)
    stood = microscope.now_s() - started
    assert microscope.column.dose.electrons == pytest.approx(scanned + stood * ELECTRONS_PER_S, rel=1e-4)


@given(st.floats(-150, 350), st.floats(-150, 350), st.floats(0.05, 20.0), st.floats(0.05, 20.0), st.floats(1.0, 1e9))
def test_a_spot_inside_the_map_is_counted_whole(y, x, sy, sx, electrons):
    dose = DoseMap(Field2D(y_nm=-300, x_nm=-300, height_nm=800, width_nm=800), size=200)
    dose.add_probe(y, x, np.diag([sy**2, sx**2]), electrons)
    assert dose.electrons == pytest.approx(electrons, rel=1e-3)
    assert dose.e_per_a2.shape == (200, 200)


@given(st.floats(-1000, 1000), st.floats(-1000, 1000), st.floats(0.1, 300.0))
def test_what_falls_off_the_map_is_not_an_error(y, x, size):
    dose = DoseMap(Field2D(y_nm=0, x_nm=0, height_nm=100, width_nm=100), size=50)
    dose.add_field(Field2D(y_nm=y, x_nm=x, height_nm=size, width_nm=size), 1e6)
    dose.add_probe(y, x, np.eye(2) * size, 1e6)
    assert 0 <= dose.electrons <= 2.001e6
    assert np.all(np.isfinite(dose.e_per_a2))
    assert dose.at(np.array([-5.0, 50.0, 500.0]), np.array([50.0, 50.0, 50.0])).shape == (3,)
    assert dose.at(np.array([-5.0]), np.array([50.0]))[0] == 0


def test_a_uniform_scan_has_the_dose_of_current_times_time_over_area():
    microscope = connect(**STILL)
    microscope.scanner.scan(
        field=microscope.scanner.field, shape=(256, 256), dwell_s=4e-6, signals=("HAADF",), cancel=GO
    )
    expected = ELECTRONS_PER_S * 256 * 256 * 4e-6 / (200 * 200 * 100)
    dose = microscope.column.dose.at(np.array([50.0, 150.0]), np.array([50.0, 150.0]))
    assert dose == pytest.approx(expected, rel=1e-3)


def test_polymer_loses_oxygen_before_nitrogen_before_carbon():
    microscope = connect("polymer", seed=4, **STILL, beam_current_pa=5.0)
    left = {element: [] for element in "CNO"}
    for _ in range(4):
        for element, atoms in _probed_atoms(microscope).items():
            left[element].append(atoms)
        # half the critical dose of oxygen each time
        microscope.scanner.scan(
            field=microscope.scanner.field, shape=(256, 256), dwell_s=5e-5, signals=("HAADF",), cancel=GO
        )
    kept = {element: values[-1] / values[0] for element, values in left.items()}
    assert kept["O"] < kept["N"] < kept["C"] < 1.0
    for values in left.values():
        assert np.all(np.diff(values) < 0)
    # three scans of 25.6 e/Å² at a critical dose of 50 e/Å², 5 % staying
    dose = 3 * 5e-12 / 1.602176634e-19 * 256 * 256 * 5e-5 / 4e6
    assert kept["O"] == pytest.approx(0.05 + 0.95 * np.exp(-dose / 50.0), rel=0.02)


def _probed_atoms(microscope):
    """Atoms in the field that are left, from the column's own bookkeeping."""
    column = microscope.column
    y, x = np.meshgrid(np.linspace(10, 190, 40), np.linspace(10, 190, 40), indexing="ij")
    layers = column.with_contamination(column.specimen.phase_nm(y, x), column.dose.at(y, x))
    dose = column.dose.at(y, x)
    # polystyrene has no O or N: the sum over the field is the polyamide's
    return {e: float(column.projected(layers, {e: 1.0}, dose, dose).sum()) for e in "CNO"}


def test_damage_shows_in_spectra_and_spares_hard_specimens():
    soft = connect("polymer", seed=4, **STILL, read_noise_counts=0.0, beam_current_pa=1.0)
    truth = soft.ground_truth(shape=(100, 100))
    row, column = np.argwhere(truth.composition[truth.elements.index("O")] > 0.11)[40]
    y, x = 2 * row + 1.0, 2 * column + 1.0
    soft.optics.set({"C1": 400.0})  # a wide probe: less dose per area
    first = spectrum_at(soft, y, x, 0.02).metadata["truth"]["atoms_per_nm2"]["O"]
    later = spectrum_at(soft, y, x, 3.0).metadata["truth"]["atoms_per_nm2"]["O"]
    assert later < 0.6 * first
    hard = connect("two-phase", seed=4, **STILL)
    a, b = (spectrum_at(hard, 100, 40, 3.0).metadata["truth"]["atoms_per_nm2"]["O"] for _ in range(2))
    assert a == pytest.approx(b, rel=1e-9)


def test_damage_within_one_exposure_is_the_average():
    from napari_smarttem.backends.simulator.specimens import NYLON

    doses = np.linspace(0, 300, 20_001)
    instant = NYLON.surviving("O", doses, doses)
    assert NYLON.surviving("O", 0.0, 300.0) == pytest.approx(np.trapezoid(instant, doses) / 300.0, rel=1e-5)
    assert NYLON.surviving("O", 0.0, 0.0) == pytest.approx(1.0)
    assert NYLON.surviving("O", 1e9, 1e9) == pytest.approx(0.05)


def test_contamination_grows_under_the_probe():
    microscope = connect("two-phase", seed=4, speed=None, drift_nm_per_s=(0.0, 0.0), drift_walk_nm=0.0)
    first = spectrum_at(microscope, 100, 40, 0.05).metadata["truth"]["atoms_per_nm2"]["C"]
    for _ in range(5):
        last = spectrum_at(microscope, 100, 40, 0.5).metadata["truth"]["atoms_per_nm2"]["C"]
    assert last > first > 0
    elsewhere = spectrum_at(microscope, 150, 150, 0.001).metadata["truth"]["atoms_per_nm2"]["C"]
    assert elsewhere < 0.05 * last


def test_drift_carries_the_specimen_away_from_the_probe():
    microscope = connect("core-shell", seed=3, speed=None, drift_nm_per_s=(0.0, 1.0), drift_walk_nm=0.0)
    truth = microscope.ground_truth(shape=(200, 200))
    row, column = np.argwhere(truth.labels[:, 60:140] == 1)[0] + [0, 60]
    microscope.column.clock.sleep(25.0)
    there = microscope.truth(row + 0.5, column + 0.5)["atoms_per_nm2"]["Cu"]
    drift = microscope.now_s()
    followed = spectrum_at(microscope, row + 0.5, column + 0.5 + drift, 0.01).metadata["truth"]
    assert followed["drift_nm"][1] == pytest.approx(drift, abs=0.1)
    assert followed["atoms_per_nm2"]["Cu"] > 0.3 * there > 0
