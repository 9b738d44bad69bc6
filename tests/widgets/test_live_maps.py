"""Live maps: right counts at the right place, NaN elsewhere, and quick however many points there are."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy")

from hypothesis import given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel

from napari_smarttem.schema import Field2D, spectrum_frame
from napari_smarttem.widgets.energy_windows import EnergyWindow, EnergyWindows
from napari_smarttem.widgets.live_maps import LiveMaps, PatchGrid

FIELD = Field2D(y_nm=-20, x_nm=100, height_nm=40, width_nm=80)


def spectrum(level: float, channels: int = 64):
    return spectrum_frame(np.full(channels, level, dtype=np.float32), dispersion_ev=1.0, offset_ev=0.0, signal="EDS")


@pytest.fixture
def viewer():
    return ViewerModel()


@pytest.fixture
def maps(qapp, viewer):
    maps = LiveMaps(viewer, EnergyWindows([EnergyWindow("low", 9.5, 19.5), EnergyWindow("high", 30, 31)]))
    maps.clear(FIELD, spacing_nm=5.0, simulated=True)
    return maps


def value_at(layer, y_nm: float, x_nm: float) -> float:
    row, column = (np.asarray(layer.world_to_data((y_nm, x_nm))) + 0.5).astype(int)
    return float(layer.data[row, column])


def test_each_point_shows_its_counts_where_it_was_measured(maps):
    maps.add(-10.0, 110.0, spectrum(3.0))
    maps.add(12.0, 170.0, spectrum(7.0))
    maps.draw()
    low, high = maps.layers["low"], maps.layers["high"]
    assert value_at(low, -10.0, 110.0) == pytest.approx(30.0)
    assert value_at(low, 12.0, 170.0) == pytest.approx(70.0)
    assert value_at(high, 12.0, 170.0) == pytest.approx(7.0)
    assert np.isnan(value_at(low, 0.0, 140.0))
    assert "SIMULATED" in low.name
    assert low.blending == "additive"
    assert [str(u) for u in low.units] == ["nanometer", "nanometer"]


def test_moving_a_window_recounts_everything_measured(maps):
    maps.add(0.0, 140.0, spectrum(2.0))
    maps.draw()
    maps.windows.change("low", high_ev=39.5)
    assert maps.draw()
    assert value_at(maps.layers["low"], 0.0, 140.0) == pytest.approx(60.0)
    assert not maps.draw()


def test_a_removed_window_takes_its_layer_along_and_a_deleted_layer_stays_away(maps, viewer):
    maps.add(0.0, 140.0, spectrum(2.0))
    maps.draw()
    maps.windows.remove("high")
    maps.draw()
    assert [layer.metadata["smarttem"]["signal"] for layer in viewer.layers] == ["low map"]
    viewer.layers.clear()
    maps.add(5.0, 150.0, spectrum(2.0))
    maps.draw()
    assert len(viewer.layers) == 0


def test_a_window_beyond_the_spectrum_has_no_counts(maps):
    maps.add(0.0, 140.0, spectrum(2.0))
    assert np.isnan(maps.values(EnergyWindow("far", 500, 600))).all()


def test_a_new_run_starts_empty(maps):
    maps.add(0.0, 140.0, spectrum(2.0))
    maps.clear(FIELD, spacing_nm=5.0)
    maps.add(0.0, 110.0, spectrum(5.0))
    maps.draw()
    assert np.isnan(value_at(maps.layers["low"], 0.0, 140.0))
    assert value_at(maps.layers["low"], 0.0, 110.0) == pytest.approx(50.0)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-20, 20), st.floats(100, 180)), min_size=1, max_size=25),
    st.floats(0.5, 30),
)
def test_a_pixel_belongs_to_the_nearest_point(places, radius):
    grid = PatchGrid(FIELD, radius, longest_px=40)
    for number, place in enumerate(places):
        grid.add(number, *place)
    y = FIELD.y_nm + (np.arange(grid.owner.shape[0]) + 0.5) * grid.pixel_nm
    x = FIELD.x_nm + (np.arange(grid.owner.shape[1]) + 0.5) * grid.pixel_nm
    pixels = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
    distance = np.linalg.norm(pixels[None] - np.array(places)[:, None, None], axis=-1)
    nearest = distance.min(axis=0)
    assert np.array_equal(grid.owner >= 0, nearest**2 <= grid.radius_nm**2) or np.allclose(
        nearest[(grid.owner >= 0) != (nearest <= grid.radius_nm)], grid.radius_nm
    )
    owned = grid.owner >= 0
    chosen = np.take_along_axis(distance, np.maximum(grid.owner, 0)[None], axis=0)[0]
    np.testing.assert_allclose(chosen[owned], nearest[owned])


def test_ten_updates_a_second_fit_beside_everything_else(maps):
    rng = np.random.default_rng(0)
    for y, x in zip(rng.uniform(-20, 20, 1000), rng.uniform(100, 180, 1000), strict=True):
        maps.add(y, x, spectrum(1.0, 2048))
    maps.draw()
    took = []
    for _ in range(5):
        maps.add(0.0, 140.0, spectrum(1.0, 2048))
        started = time.perf_counter()
        maps.draw()
        took.append(time.perf_counter() - started)
    assert np.median(took) < 0.05


def test_an_edge_is_counted_without_the_power_law_below_it(qapp, viewer):
    energy = 200.0 + np.arange(1000.0)
    law = 1e9 * energy**-3.0
    edge = np.where(energy >= 500.0, 4.0, 0.0)
    frames = [
        spectrum_frame(law + factor * edge, dispersion_ev=1.0, offset_ev=200.0, signal="EELS")
        for factor in (0.0, 1.0, 2.0)
    ]
    window = EnergyWindow("edge", 500.0, 550.0)
    maps = LiveMaps(viewer, EnergyWindows([window]))
    maps.clear(FIELD, spacing_nm=5.0)
    for i, frame in enumerate(frames):
        maps.add(0.0, 110.0 + 20 * i, frame)
    np.testing.assert_allclose(maps.values(window), [0.0, 200.0, 400.0], atol=6.0)
    maps.subtract_background = False
    assert maps.values(window)[0] == pytest.approx(law[300:350].sum(), rel=0.02)


def test_windows_of_other_spectra_have_no_map(qapp, viewer):
    windows = EnergyWindows(
        [
            EnergyWindow("Fe Ka", 6300.0, 6500.0, signal="EDS"),
            EnergyWindow("from an older file", 6300.0, 6500.0),
            EnergyWindow("O K", 532.0, 560.0, signal="EELS"),
        ]
    )
    maps = LiveMaps(viewer, windows)
    maps.clear(FIELD, spacing_nm=5.0)
    maps.add(0.0, 140.0, spectrum_frame(np.ones(1000), dispersion_ev=1.0, offset_ev=200.0, signal="EELS"))
    maps.draw()
    assert list(maps.layers) == ["O K"]
    assert not maps.lacking
