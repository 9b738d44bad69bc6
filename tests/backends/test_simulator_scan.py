"""Scan images of the simulator follow its specimen."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_smarttem.backends.simulator import SPECIMENS, connect
from napari_smarttem.schema import BadInput, Cancelled, Field2D, LimitExceeded

from ..tokens import AfterLooks

GO = threading.Event()
STILL = {"speed": None, "drift_nm_per_s": (0.0, 0.0), "drift_walk_nm": 0.0, "line_jitter_nm": 0.0}


def scan(microscope, *, shape=(128, 128), dwell_s=4e-6, signals=("HAADF",), field=None):
    return microscope.scanner.scan(
        field=field or microscope.scanner.field, shape=shape, dwell_s=dwell_s, signals=signals, cancel=GO
    )


def correlation(a, b):
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


@pytest.fixture(scope="module")
def still():
    """A microscope without drift or jitter; tests that use it change nothing that others see."""
    return connect("core-shell", seed=3, **STILL)


def test_haadf_follows_atomic_number_and_thickness(still):
    (image,) = scan(still, dwell_s=50e-6)
    truth = still.ground_truth(shape=(128, 128))
    weights = {"C": 6, "O": 8, "Ti": 22, "Cu": 29}
    expected = sum(weights[e] ** 1.7 * atoms for e, atoms in zip(truth.elements, truth.atoms_per_nm2, strict=True))
    assert correlation(image.data, expected) > 0.98
    means = [image.data[truth.labels == label].mean() for label in range(3)]
    assert means[1] > means[2] > means[0]


def test_bright_field_is_darker_where_there_is_more(still):
    (image,) = scan(still, dwell_s=50e-6, signals=("BF",))
    truth = still.ground_truth(shape=(128, 128))
    assert correlation(image.data, truth.thickness_nm) < -0.85


def test_detectors_together_never_count_more_than_the_beam(still):
    haadf, bf = scan(still, dwell_s=20e-6, signals=("HAADF", "BF"))
    electrons = 50e-12 / 1.602e-19 * 20e-6
    assert (haadf.data.mean() + bf.data.mean()) < 1.02 * electrons
    assert haadf.signal == "HAADF"
    assert bf.signal == "BF"


def test_counts_are_poisson(still):
    images = np.stack([scan(still, shape=(64, 64))[0].data for _ in range(40)])
    mean, variance = images.mean(axis=0), images.var(axis=0, ddof=1)
    bright = mean > 5
    assert np.mean(variance[bright] / mean[bright]) == pytest.approx(1.0, abs=0.05)


def test_two_phase_contrast_and_gradient():
    microscope = connect("two-phase", seed=2, **STILL)
    truth = microscope.ground_truth(shape=(64, 64))
    nickel = truth.composition[truth.elements.index("Ni")]
    assert np.all(nickel[truth.labels == 0] < 0.01)
    rightmost = nickel[:, -8:].mean()
    assert rightmost > nickel[:, 36:44].mean() > 0
    assert 0.25 < (truth.labels == 0).mean() < 0.75
    (image,) = scan(microscope, shape=(64, 64), dwell_s=50e-6)
    assert image.data[truth.labels == 0].mean() > image.data[truth.labels == 1].mean()


@pytest.mark.parametrize("name", SPECIMENS)
def test_truth_is_consistent(name):
    microscope = connect(name, seed=5, **STILL)
    field = Field2D(y_nm=20, x_nm=40, height_nm=60, width_nm=90)
    truth = microscope.ground_truth(field, (30, 45))
    assert np.allclose(truth.composition.sum(axis=0), 1.0)
    assert np.allclose(truth.phase_nm.sum(axis=0), truth.thickness_nm)
    assert truth.thickness_nm.min() > 0
    assert truth.boundaries.any()
    assert not truth.boundaries.all()
    # the truth at a point is that of the pixel there
    at = microscope.truth(20 + 2.0 * 7.5, 40 + 2.0 * 11.5)
    assert at["thickness_nm"] == pytest.approx(truth.thickness_nm[7, 11])
    assert at["label"] == truth.label_names[truth.labels[7, 11]]
    for element, atoms in at["atoms_per_nm2"].items():
        assert atoms == pytest.approx(truth.atoms_per_nm2[truth.elements.index(element), 7, 11])
    # and the raster the images are made from is the geometry to within a raster pixel at steep places
    y = field.y_nm + (np.arange(30) + 0.5) * 2
    x = field.x_nm + (np.arange(45) + 0.5) * 2
    rastered = microscope.column.specimen.phase_nm(*np.meshgrid(y, x, indexing="ij"))
    assert np.median(np.abs(rastered - truth.phase_nm)) < 0.05


def test_particles_do_not_overlap_and_are_of_two_kinds(still):
    truth = still.ground_truth(shape=(400, 400))
    assert truth.label_names == ("film", "core", "shell")
    assert 0.05 < (truth.labels > 0).mean() < 0.6
    copper = truth.phase_nm[truth.phases.index("copper")]
    titania = truth.phase_nm[truth.phases.index("titania")]
    assert np.all(copper[truth.labels == 2] == 0)
    assert np.all(titania[truth.labels == 0] == 0)
    assert copper.max() < 31
    assert titania.max() < 31


def test_a_part_of_the_field_shows_that_part(still):
    (whole,) = scan(still, shape=(200, 200), dwell_s=50e-6)
    part_field = Field2D(y_nm=50, x_nm=80, height_nm=60, width_nm=100)
    (part,) = scan(still, shape=(60, 100), dwell_s=50e-6, field=part_field)
    assert correlation(part.data, whole.data[50:110, 80:180]) > 0.95
    assert part.coordinates("y")[0] == pytest.approx(50.5)
    assert part.coordinates("x")[-1] == pytest.approx(179.5)


def test_same_seed_same_image_other_seed_other_image():
    first = scan(connect(seed=8, speed=None))[0].data
    again = scan(connect(seed=8, speed=None))[0].data
    other = scan(connect(seed=9, speed=None))[0].data
    assert np.array_equal(first, again)
    assert correlation(first, other) < 0.5


def test_noise_differs_between_exposures(still):
    assert not np.array_equal(scan(still)[0].data, scan(still)[0].data)


def test_defocus_blurs_and_astigmatism_blurs_one_way():
    microscope = connect("core-shell", seed=3, **STILL, contamination=False)

    def gradients():
        (image,) = scan(microscope, dwell_s=200e-6)
        dy, dx = np.gradient(image.data.astype(float))
        return (dy**2).sum(), (dx**2).sum()

    sharp = gradients()
    microscope.optics.set({"C1": 300.0})
    blurred = gradients()
    assert blurred[0] < 0.7 * sharp[0]
    # C1 + A1.x cancel along y and add along x
    microscope.optics.set({"C1": 300.0, "A1.x": 300.0})
    line = gradients()
    assert line[1] < 0.7 * blurred[1]
    assert line[0] > 1.2 * blurred[0]
    microscope.optics.set({"C1": 0.0, "A1.x": 0.0})
    microscope.stage.move({"z_nm": 300.0})
    assert gradients()[0] < 0.7 * sharp[0]
    assert microscope.optics.get()["C1"] == 0.0


def test_drift_moves_the_image_as_the_truth_says():
    skimage = pytest.importorskip("skimage.registration")
    microscope = connect(
        "core-shell", seed=4, speed=None, drift_nm_per_s=(0.9, -0.5), drift_walk_nm=0.0, line_jitter_nm=0.0
    )
    (first,) = scan(microscope, shape=(200, 200), dwell_s=20e-6)
    microscope.column.clock.sleep(6.0)
    (second,) = scan(microscope, shape=(200, 200), dwell_s=20e-6)
    truth = np.subtract(second.metadata["truth"]["drift_nm"], first.metadata["truth"]["drift_nm"])
    elapsed = second.metadata["exposure_started_s"] - first.metadata["exposure_started_s"]
    assert truth == pytest.approx(np.array([0.9, -0.5]) * elapsed)
    shift, *_ = skimage.phase_cross_correlation(first.data, second.data, upsample_factor=20)
    assert -shift == pytest.approx(truth, abs=0.2)  # one pixel is one nm


def test_drift_is_a_function_of_time_alone():
    from napari_smarttem.backends.simulator.drift import Drift

    one, two = Drift((0.1, 0.0), 0.3, seed=2), Drift((0.1, 0.0), 0.3, seed=2)
    late_first = [one.at(900.0), one.at(3.0)]
    early_first = [two.at(3.0), two.at(900.0)]
    assert np.array_equal(late_first[0], early_first[1])
    assert np.array_equal(late_first[1], early_first[0])
    assert np.array_equal(one.at(0.0), [0.0, 0.0])
    steps = np.diff(Drift((0.0, 0.0), 0.3, seed=1).at(np.arange(2000.0)), axis=0)
    assert steps.std() == pytest.approx(0.3, rel=0.05)


def test_drift_turns_round_before_it_leaves_the_specimen():
    from napari_smarttem.backends.simulator.drift import Drift

    times = np.linspace(0, 10_000, 5001)
    path = Drift((0.3, -0.1), 0.0, seed=0, reach_nm=100.0).at(times)
    assert np.abs(path).max() <= 100.0
    assert np.allclose(path[times < 300], np.outer(times[times < 300], [0.3, -0.1]))
    assert np.abs(np.diff(path[:, 0])).max() <= 0.3 * 2.0 + 1e-9


def test_stage_moves_the_specimen_over_the_field():
    microscope = connect("core-shell", seed=3, **STILL)
    (before,) = scan(microscope, shape=(200, 200), dwell_s=50e-6)
    microscope.stage.move({"y_nm": 30.0, "x_nm": -20.0})
    assert microscope.stage.position() == {"y_nm": 30.0, "x_nm": -20.0, "z_nm": 0.0}
    (after,) = scan(microscope, shape=(200, 200), dwell_s=50e-6)
    assert correlation(after.data[30:, :180], before.data[:170, 20:]) > 0.95


def test_jitter_shifts_lines():
    calm = connect("core-shell", seed=3, **STILL)
    shaky = connect("core-shell", seed=3, **{**STILL, "line_jitter_nm": 2.0})
    a, b = scan(calm, dwell_s=200e-6)[0].data, scan(shaky, dwell_s=200e-6)[0].data
    rough = [np.abs(np.diff(image, axis=0)).mean() for image in (a, b)]
    assert rough[1] > 1.2 * rough[0]


def test_scan_takes_its_time_and_is_stamped():
    microscope = connect(speed=None)
    before = microscope.now_s()
    (image,) = scan(microscope, shape=(50, 80), dwell_s=1e-4)
    expected = 50 * (80 * 1e-4 + microscope.plan_context().flyback_s)
    assert image.metadata["exposure_started_s"] >= before
    assert image.metadata["exposure_finished_s"] - image.metadata["exposure_started_s"] == pytest.approx(expected)
    assert microscope.now_s() - before == pytest.approx(expected)
    assert image.metadata["simulated"] is True
    assert image.shape == (50, 80)
    assert image.axis("x").units == "nm"


def test_blanked_images_are_dark_and_cost_no_dose(still):
    microscope = connect(seed=3, speed=None)
    microscope.blanker.set_blanked(True)
    (image,) = scan(microscope, dwell_s=20e-6)
    assert image.data.mean() < 0.1
    assert microscope.dose_e_per_a2().max() == 0


def test_cancel_stops_a_scan_at_a_line_end():
    microscope = connect(seed=3, speed=1.0)
    token = AfterLooks(8)
    with pytest.raises(Cancelled, match="of 100 lines"):
        microscope.scanner.scan(
            field=microscope.scanner.field, shape=(100, 100), dwell_s=1e-3, signals=("HAADF",), cancel=token
        )
    assert microscope.now_s() < 9.0, "the lines that were left took no time"
    dose = microscope.dose_e_per_a2()
    rows = np.flatnonzero(dose.any(axis=1))
    assert 0 < len(rows) < 120, "only the lines scanned before the stop have seen electrons"
    token.clear()
    assert microscope.scanner.probe_position_nm is None


def test_blanking_in_the_middle_darkens_the_rest():
    microscope = connect(seed=3, speed=1.0)
    threading.Timer(0.25, lambda: microscope.blanker.set_blanked(True)).start()
    (image,) = microscope.scanner.scan(
        field=microscope.scanner.field, shape=(50, 50), dwell_s=2e-4, signals=("BF",), cancel=GO
    )
    assert image.data[0].mean() > 1000
    assert image.data[-1].mean() < 10


@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    dwell=st.floats(1e-7, 1e-3),
    corner=st.tuples(st.floats(0, 150), st.floats(0, 150)),
    size=st.tuples(st.floats(0.5, 50), st.floats(0.5, 50)),
)
@settings(max_examples=25)
def test_any_scan_inside_the_field_works(still, shape, dwell, corner, size):
    field = Field2D(y_nm=corner[0], x_nm=corner[1], height_nm=size[0], width_nm=size[1])
    (image,) = scan(still, shape=shape, dwell_s=dwell, field=field)
    assert image.shape == shape
    assert np.all(np.isfinite(image.data))
    assert image.data.min() >= 0
    assert image.axis("y").scale == pytest.approx(size[0] / shape[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"field": Field2D(y_nm=-1, x_nm=0, height_nm=10, width_nm=10)}, "field of view"),
        ({"field": Field2D(y_nm=150, x_nm=0, height_nm=60, width_nm=10)}, "field of view"),
        ({"dwell_s": 0.0}, "dwell"),
        ({"dwell_s": float("nan")}, "dwell"),
        ({"dwell_s": 5.0}, "dwell"),
        ({"shape": (0, 10)}, "pixels"),
        ({"shape": (10, 5000)}, "pixels"),
    ],
)
def test_scans_outside_the_limits(still, change, words):
    before = still.now_s()
    with pytest.raises(LimitExceeded, match=words):
        scan(still, **change)
    assert still.now_s() == before


def test_unknown_signal(still):
    with pytest.raises(BadInput, match="EDS"):
        scan(still, signals=("EDS",))


@pytest.mark.parametrize("place", [(-1.0, 10.0), (10.0, 201.0), (float("nan"), 5.0)])
def test_probe_outside_the_field(still, place):
    with pytest.raises(LimitExceeded, match="probe cannot go"):
        still.scanner.move_probe(*place)
    assert still.scanner.probe_position_nm is None
