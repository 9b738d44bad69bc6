"""Places: the tags of real files, and the way from a pixel to the beam and back, turned and mirrored columns included."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_smarttem.backends.digitalmicrograph.fake_gms.digiscan import SIDE, Geometry
from napari_smarttem.backends.digitalmicrograph.scanner import _inside, _samples
from napari_smarttem.schema import Field2D

from .conftest import bridge

NEVER = threading.Event()

# From the tags of four recorded files: width, height, zoom, rotation offset -> spacing and signed step in hardware units.
FILES = {
    "HAADF image": ((512, 512, 0.7, 180.0), 44.8, -45),
    "cathodoluminescence image": ((4096, 4096, 1.0, 180.0), 8.0, -8),
    "EELS region": ((132, 218, 0.7815, 180.0), 117.47, -117),
    "cathodoluminescence region": ((128, 128, 0.179, 0.0), 45.82, 46),
}


@pytest.mark.parametrize("name", FILES)
def test_golden_files(name):
    (width, height, zoom, turned), spacing, step = FILES[name]
    geometry = Geometry.whole_field(width, height, zoom, rotation_offset=turned)
    assert geometry.spacing == pytest.approx(spacing, abs=0.01)
    assert geometry.steps == ((step, 0), (0, step))
    tags = geometry.tags()
    assert tags["DigiScan:Horizontal Pixel Step"] == tags["DigiScan:Vertical Perp Pixel Step"] == step
    assert tags["DigiScan:Horizontal Spacing"] > 0
    assert np.sign(step) == (-1 if turned == 180.0 else 1)
    x, y = np.meshgrid(np.linspace(0, width, 23), np.linspace(0, height, 19))
    for px, py in zip(x.ravel(), y.ravel(), strict=True):
        beam = tuple(round(v) for v in geometry.to_ds(px, py))
        back = geometry.to_pixel(*beam)
        assert max(abs(back[0] - px), abs(back[1] - py)) <= 0.5 / abs(step) + 1e-12


@pytest.mark.parametrize("rotation", [0.0, 30.0, 90.0, -117.0, 180.0])
@pytest.mark.parametrize("name", FILES)
def test_golden_files_with_the_scan_turned(name, rotation):
    """The same four, turned: the beam has whole hardware steps only, and comes back to its pixel within one of them."""
    (width, height, zoom, turned), spacing, step = FILES[name]
    geometry = Geometry.whole_field(width, height, zoom, rotation, turned)
    (xx, xy), (yx, yy) = geometry.steps
    assert np.hypot(xx, yx) == pytest.approx(spacing, abs=0.75)  # whole steps along both directions
    assert np.hypot(xy, yy) == pytest.approx(spacing, abs=0.75)
    angle = np.degrees(np.arctan2(yx, xx)) - rotation - turned
    assert abs((angle + 180) % 360 - 180) < np.degrees(0.75 / abs(step))
    for px, py in ((0.0, 0.0), (width / 2, height / 2), (width - 1.0, 0.25), (0.3 * width, 0.9 * height)):
        beam = geometry.to_ds(px, py)
        back = np.array(geometry.to_pixel(*(round(v) for v in beam)))
        again = np.array(geometry.to_ds(*back))
        assert np.abs(again - beam).max() <= 0.5 + 1e-6
        assert np.abs(back - (px, py)).max() <= 1.0 / (abs(step) - 1)


def test_golden_calibrations():
    """Axis scale = field-of-view tag * step / 32768, as measured in two files to six digits."""
    for field, row, scale in ((12.926304, "HAADF image", 0.0177516), (0.5579168, "EELS region", 0.00199207)):
        (width, height, zoom, turned), _, _ = FILES[row]
        geometry = Geometry.whole_field(width, height, zoom, rotation_offset=turned)
        assert field * geometry.step / SIDE == pytest.approx(scale, rel=5e-6)


def test_the_cathodoluminescence_region_lies_where_its_tags_say():
    """128 pixels of 46 steps from (-2208, -4576): the map's constant terms are the region's corner."""
    geometry = Geometry(128, 128, 0.179, 0.0, 0.0, False, 45.82, ((46, 0), (0, 46)), offset=(-2208.0, -4576.0))
    assert geometry.to_ds(0, 0) == (-2208.0, -4576.0)
    assert geometry.to_ds(127, 127) == (-2208.0 + 127 * 46, -4576.0 + 127 * 46)
    assert geometry.to_pixel(*geometry.to_ds(31.0, 77.0)) == pytest.approx((31.0, 77.0))


@settings(max_examples=200)
@given(
    st.integers(16, 4096), st.floats(0.1, 1.0), st.floats(-360, 360), st.sampled_from([0.0, 90.0, 180.0]), st.booleans(),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)  # fmt: skip
def test_pixel_to_beam_to_pixel(size, zoom, rotation, turned, flip, place):  # noqa: PLR0917
    geometry = Geometry.whole_field(size, size, zoom, rotation, turned, flip)
    (xx, xy), (yx, yy) = geometry.steps
    if abs(xx * yy - xy * yx) < 1:  # steps of less than one hardware unit cannot be told apart
        return
    x, y = place[0] * size, place[1] * size
    back = geometry.to_pixel(*geometry.to_ds(x, y))
    assert back == pytest.approx((x, y), abs=1e-6)


COLUMNS = [
    {"rotation_offset": 180.0},
    {"rotation_offset": 0.0},
    {"rotation_offset": 180.0, "flip": True},
    {"rotation_offset": 90.0, "zoom": 0.55},
]


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("rotation", [0.0, 30.0, -117.0])
def test_the_beam_goes_where_the_image_shows_the_place(column, rotation, rng):
    """The scan shows at every pixel where it was recorded; the spectrum says where the beam stood: they must agree."""
    with bridge(instant=True, speed=None, gms=column, connect_with={"rotation_deg": rotation, "settle_s": 0.0}) as (
        running,
        instrument,
    ):
        scanner, world = instrument.scanner, running.gms.world
        instrument.blanker.set_blanked(False)
        x_image, y_image = scanner.scan(
            field=scanner.field, shape=(128, 128), dwell_s=1e-5, signals=("HAADF", "BF"), cancel=NEVER
        )
        pixel = x_image.axis("x").scale
        for _ in range(8):
            row, column_number = (int(v) for v in rng.integers(5, 123, 2))
            scanner.move_probe(float(x_image.coordinates("y")[row]), float(x_image.coordinates("x")[column_number]))
            shown = (
                np.array([y_image.data[row, column_number], x_image.data[row, column_number]]) / 100 - world.field_nm
            )
            spectrum = instrument.spectrometer.acquire_spectrum(0.01, NEVER)
            stood = np.asarray(spectrum.data[:2]) / np.asarray(spectrum.data[2]) * 2 - 1000
            # a hardware step is 1/180 of a pixel here, and a rotated scan rounds its steps over half the field
            assert np.abs(stood - shown).max() < (0.02 if rotation == 0 else 0.5) * pixel + 0.3


def test_positions_are_those_of_the_simulated_specimen():
    """A bright particle in the overview is where the beam finds it: on the column turned by 180 degrees, too."""
    with bridge(speed=None, seed=3, drift_nm_per_s=(0.0, 0.0), connect_with={"overview_pixels": 256}) as (
        running,
        inst,
    ):
        scanner, column = inst.scanner, running.gms.world.microscope.column
        inst.blanker.set_blanked(False)
        for y, x in ((40.0, 150.0), (123.4, 77.7), (199.0, 1.0)):
            scanner.move_probe(y, x)
            # the simulator's own field is 200 nm, from 0 to 200; half a pixel of the reference is the place of sample 0
            assert column.probe == pytest.approx(
                (y - 0.5 * inst.geometry["nm"], x - 0.5 * inst.geometry["nm"]), abs=0.02
            )


def test_parts_of_the_field_lie_where_they_are_asked_for(instant):
    _, instrument = instant
    scanner = instrument.scanner
    side = scanner.field.height_nm
    for shape, part in (
        ((16, 32), (0.25, 0.5, 0.25, 0.5)),
        ((40, 20), (0.0, 0.0, 1.0, 0.5)),
        ((7, 7), (0.5, 0.5, 0.5, 0.5)),
    ):
        y, x, h, w = (v * side for v in part)
        frames = scanner.scan(
            field=Field2D(y_nm=y, x_nm=x, height_nm=h, width_nm=w),
            shape=shape,
            dwell_s=1e-4,
            signals=("HAADF", "BF"),
            cancel=NEVER,
        )
        assert [frame.shape for frame in frames] == [shape, shape]
        down, across = frames[0].metadata["samples_per_pixel"]
        found_x = np.asarray(frames[0].data, float).mean(axis=0) / (down * across) / 100 - 200.0 + side / 2
        found_y = np.asarray(frames[1].data, float).mean(axis=1) / (down * across) / 100 - 200.0 + side / 2
        reference = side / 128
        # sample 0 of the reference lies half a pixel inside of the field's edge
        assert np.abs(found_x - (frames[0].coordinates("x") - reference / 2)).max() < 0.6 * reference
        assert np.abs(found_y - (frames[1].coordinates("y") - reference / 2)).max() < 0.6 * reference


@given(st.integers(1, 600), st.integers(1, 600), st.floats(8, 512), st.floats(8, 512), st.integers(1, 400))
def test_samples_keep_the_dose(rows, columns, height, width, most):
    down, across = _samples(rows, height, columns, width, most)
    assert 1 <= down * across <= most
    assert rows * down <= 4096
    assert columns * across <= 4096


@given(st.floats(0, 500), st.floats(1, 512), st.floats(0.1, 40))
def test_edges_stay_inside(start, length, pitch):
    start = min(start, 512 - length) if length <= 512 else 0.0
    first, last = _inside(start, length, pitch, 512)
    assert 0 <= first < last <= 512
