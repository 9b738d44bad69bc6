import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_smarttem.acquisition.choosers import propose
from napari_smarttem.acquisition.maps import MapWindow, WindowMaps, window_sums
from napari_smarttem.acquisition.region_points import RegionPointOptions
from napari_smarttem.acquisition.regions import RegionOptions, decode_labels, describe, encode_labels, segment
from napari_smarttem.acquisition.settings import parse
from napari_smarttem.schema import Acquire, Axis, BadInput, StepResult, image_frame, spectrum_frame

from .microscope import DISCS, scene_frame

AXIS = Axis(name="energy_loss", units="eV", scale=0.5, offset=400.0)


@given(st.floats(1.5, 5.0), st.floats(1e8, 1e14), st.floats(10, 1e4))
def test_the_power_law_is_taken_off_and_the_edge_left(exponent, amplitude, step):
    energy = AXIS.coordinates(400)
    spectrum = amplitude * energy**-exponent
    window = MapWindow("O K", 532.0, 562.0, (480.0, 525.0))
    plain = window_sums(spectrum, AXIS, MapWindow("all", 532.0, 562.0))
    assert abs(window_sums(spectrum, AXIS, window)) <= 2e-3 * plain
    with_edge = spectrum + np.where(energy > 531.75, step, 0.0)
    assert window_sums(with_edge, AXIS, window) == pytest.approx(60 * step, abs=2e-3 * plain + 1e-6 * step)


@given(st.floats(350, 700), st.floats(0.1, 200))
def test_windows_side_by_side_sum_to_the_whole(low, width):
    spectra = np.random.default_rng(0).poisson(5.0, (3, 400)).astype(float)
    middle = low + 0.37 * width
    parts = [window_sums(spectra, AXIS, MapWindow("w", *edges)) for edges in ((low, middle), (middle, low + width))]
    whole = window_sums(spectra, AXIS, MapWindow("w", low, low + width))
    assert np.nansum(parts, axis=0) == pytest.approx(np.nan_to_num(whole))


def test_a_window_that_is_not_recorded_has_no_value():
    assert np.isnan(window_sums(np.ones(400), AXIS, MapWindow("Cu L", 931.0, 960.0)))


@pytest.mark.parametrize("edges", [(500, 500), (510, 500)])
def test_a_window_must_end_above_its_beginning(edges):
    with pytest.raises(BadInput, match="must end above"):
        MapWindow("w", *edges)
    with pytest.raises(BadInput, match="background"):
        MapWindow("w", 500, 510, (490, 505))


def measured(y_nm, x_nm, counts, drift=(0.0, 0.0)):
    frame = spectrum_frame(np.full(20, counts), dispersion_ev=1.0, offset_ev=100.0, signal="EELS")
    step = Acquire(step_id="a", y_nm=y_nm + drift[0], x_nm=x_nm + drift[1], exposure_s=1.0, drift_nm=drift)
    return StepResult(step=step, frames=(frame,))


def test_a_map_grows_where_was_measured_and_knows_nothing_elsewhere():
    overview = image_frame(np.zeros((40, 50)), pixel_nm=2.0, signal="HAADF", origin_nm=(1.0, 1.0))
    low, high = MapWindow("low", 99.5, 109.5), MapWindow("high", 109.5, 119.5)
    maps = WindowMaps(overview, [low])
    assert np.isnan(maps.image(low).data).all()
    assert maps.add(measured(21.0, 31.0, 3.0, drift=(6.0, -4.0)))
    assert maps.add(measured(61.0, 71.0, 5.0))
    image = maps.image(low)
    assert image.axes == overview.axes
    assert image.data[10, 15] == pytest.approx(30.0), "on the overview, not where the drift had taken it"
    assert image.data[30, 35] == pytest.approx(50.0)
    assert 0 < np.isfinite(image.data).mean() < 0.2
    maps.set_windows([low, high])
    assert maps.values(high) == pytest.approx([30.0, 50.0])
    nearest = maps.image(high, fill="nearest").data
    assert set(np.unique(nearest)) == {30.0, 50.0}


def test_a_map_between_places_is_linear():
    overview = image_frame(np.zeros((41, 41)), pixel_nm=1.0, signal="HAADF")
    window = MapWindow("w", 99.5, 119.5)
    maps = WindowMaps(overview, [window])
    for y in (0, 20, 40):
        for x in (0, 20, 40):
            maps.add(measured(float(y), float(x), 1.0 + y + 2 * x))
    y, x = np.indices((41, 41))
    assert maps.image(window, fill="linear").data == pytest.approx(20.0 * (1 + y + 2 * x), rel=1e-5)


def test_a_large_overview_gives_a_binned_map_at_the_right_place():
    overview = image_frame(np.zeros((1000, 600)), pixel_nm=0.5, signal="HAADF", origin_nm=(0.25, 0.25))
    window = MapWindow("w", 99.5, 119.5)
    maps = WindowMaps(overview, [window], largest_side=250)
    maps.add(measured(300.0, 100.0, 1.0))
    image = maps.image(window)
    assert image.shape == (250, 150)
    assert image.axes[0].offset == pytest.approx(1.0)
    rows, columns = np.nonzero(np.isfinite(image.data))
    assert image.axes[0].offset + 2.0 * rows.mean() == pytest.approx(300.0, abs=1.0)
    assert image.axes[1].offset + 2.0 * columns.mean() == pytest.approx(100.0, abs=1.0)


def test_failed_steps_and_images_are_no_spectra():
    overview = image_frame(np.zeros((8, 8)), pixel_nm=1.0, signal="HAADF")
    maps = WindowMaps(overview)
    failed = StepResult(step=Acquire(step_id="a", y_nm=0, x_nm=0, exposure_s=1), status="failed", reason="no beam")
    assert not maps.add(failed)
    assert len(maps) == 0


@pytest.mark.parametrize(("method", "tolerance"), [("otsu", 0.35), ("k-means", 0.6)])
def test_regions_are_the_particles(method, tolerance):
    overview = scene_frame(np.random.default_rng(0))
    labels = segment(overview, RegionOptions(method=method))
    regions = describe(labels, overview)
    assert [region.label for region in regions] == [1, 2, 3, 4]
    for region, (y, x, radius) in zip(regions, sorted(DISCS, key=lambda disc: -disc[2]), strict=True):
        assert region.centre_nm == pytest.approx((y, x), abs=1.5)
        assert region.area_nm2 == pytest.approx(np.pi * radius**2, rel=tolerance)
        assert region.contrast > 2
        assert "nm across" in region.description


def test_dark_and_rare_regions():
    y, x = np.indices((64, 64))
    image = np.where(np.hypot(y - 20, x - 20) < 9, 10.0, 100.0)
    image[40:50, 40:50] = 200.0
    frame = image_frame(np.random.default_rng(1).poisson(image).astype(float), pixel_nm=1.0, signal="BF")
    (dark,) = describe(segment(frame, RegionOptions(foreground="dark")), frame)
    assert dark.centre_nm == pytest.approx((20, 20), abs=1)
    rare = describe(segment(frame, RegionOptions(foreground="rare", classes=3)), frame)
    assert len([region for region in rare if region.area_nm2 > 60]) == 2


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_labels_travel_as_text(rows, columns, seed):
    labels = np.random.default_rng(seed).integers(-3, 70_000, (rows, columns))
    options = RegionPointOptions.model_validate({"labels": encode_labels(labels)})
    assert (decode_labels(options.labels) == labels).all()


def test_what_a_person_painted_is_what_is_used():
    overview = scene_frame(np.random.default_rng(0))
    labels = np.zeros((128, 128), dtype=int)
    labels[5:15, 110:120] = 7  # nothing is there for any method to find
    settings = parse(
        {"chooser": "regions", "points": 9, "chooser_settings": {"places": ["inside"], "labels": encode_labels(labels)}}
    )
    targets = propose(overview, settings)
    assert len(targets) == 9
    assert all(5 <= t.y_nm <= 15 and 110 <= t.x_nm <= 120 for t in targets)
    assert {t.label for t in targets} == {"region 7 inside"}


def test_labels_of_another_overview_or_damaged_ones_are_refused():
    overview = scene_frame()
    small = parse({"chooser": "regions", "chooser_settings": {"labels": encode_labels(np.ones((5, 5)))}})
    with pytest.raises(BadInput, match="find the regions again"):
        propose(overview, small)
    with pytest.raises(BadInput, match="another overview"):
        describe(np.ones((5, 5), dtype=int), overview)
    broken = encode_labels(np.ones((5, 5))) | {"shape": [50, 50]}
    with pytest.raises(BadInput, match="does not hold 50 x 50"):
        parse({"chooser": "regions", "chooser_settings": {"labels": broken}})
    with pytest.raises(BadInput, match="cannot be read"):
        parse({"chooser": "regions", "chooser_settings": {"labels": {"shape": [2, 2], "data": "????"}}})
