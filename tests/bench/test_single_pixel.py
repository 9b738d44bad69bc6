"""The measures of the single-pixel bench have the values they must have where the answer is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_smarttem.bench.parts.single_pixel_damage import NEVER_DAMAGE, _ratio
from napari_smarttem.bench.parts.single_pixel_large import TEN_TO_NINETY, edge_width_px
from napari_smarttem.bench.parts.single_pixel_predictor import stray
from napari_smarttem.bench.parts.single_pixel_runs import damage, error_of, first_reached, raster_scan
from napari_smarttem.bench.parts.single_pixel_sets import specimens
from napari_smarttem.bench.single_pixel import pixels_lit
from napari_smarttem.single_pixel.compare import expected_error, expected_raster_error, ideal_raster


def test_the_width_of_an_edge_is_that_of_its_blur():
    truth = specimens(64, 3)["letters"]
    assert edge_width_px(truth, truth) == pytest.approx(0.8)
    for sigma in (0.8, 1.5):
        found = edge_width_px(gaussian_filter(truth, sigma), truth)
        assert found == pytest.approx(np.hypot(TEN_TO_NINETY * sigma, 0.8), rel=0.03)


def test_a_raster_lights_one_pixel_and_a_flood_all():
    assert pixels_lit(np.eye(64)) == pytest.approx(1.0)
    assert pixels_lit(np.full((3, 64), 1 / 64)) == pytest.approx(64.0)


def test_where_an_error_is_first_reached():
    assert first_reached([10, 20, 30], [0.5, 0.3, 0.1], 0.2) == pytest.approx(25.0)
    assert first_reached([10, 20], [0.5, 0.3], 0.1) == np.inf
    assert first_reached([10, 20], [0.05, 0.3], 0.1) == 10.0


def test_the_ratio_of_damages():
    ours = SimpleNamespace(damages=[0.1, 0.2], errors=[0.4, 0.2])
    assert _ratio(ours, [0.2, 0.4], [0.4, 0.2], 0.2) == pytest.approx(0.5)
    assert _ratio(ours, [0.2, 0.4], [0.5, 0.3], 0.2) == 0.0  # only we get there
    assert _ratio(ours, [0.2, 0.4], [0.2, 0.1], 0.1) == NEVER_DAMAGE


def test_opacity_fades_with_the_electrons_a_pixel_has_seen():
    specimen = np.full((4, 4), 0.5)
    assert damage(np.full(16, 3.0), specimen, 3.0) == pytest.approx(1 - np.exp(-1))
    _, lost = raster_scan(specimen, 48.0, 0, 3.0)
    assert lost == pytest.approx(1 - np.exp(-1))


def test_the_ideal_raster_has_the_error_of_counting_where_the_dose_is_high():
    specimen = specimens(32, 5)["grains"]
    many = ideal_raster(specimen, 1024 * 1e4)
    counted = np.sqrt(specimen.mean() / 1e4) / np.sqrt((specimen**2).mean())
    assert 0.2 * counted < many.error <= 1.1 * counted  # a prior that knows grains may only help
    assert many.electrons_per_px == pytest.approx(1e4)
    few = ideal_raster(specimen, 1024 * 100.0)
    assert few.error > many.error
    assert expected_raster_error(specimen, 1024 * 1e4, 10.0) == pytest.approx(many.error, rel=1.0)
    assert expected_error(specimen, 0.1 * specimen) == pytest.approx(0.1)


def test_a_raster_that_is_told_what_fades_shows_the_fresh_specimen():
    specimen = specimens(16, 5)["core-shell"]
    electrons, critical = 256 * 1e5, 1e5
    blind, lost = raster_scan(specimen, electrons, 0, critical)
    told, same = raster_scan(specimen, electrons, 0, critical, told=True)
    assert lost == same == pytest.approx(1 - np.exp(-1))
    assert error_of(told, specimen) < 0.1 * error_of(blind, specimen)
    noisy, _ = raster_scan(specimen, electrons, 0, critical, told=True, read_noise_e=1e4)
    assert error_of(noisy, specimen) > 2 * error_of(told, specimen)


def test_a_camera_that_strays_keeps_the_electrons():
    patterns = np.random.default_rng(0).random((2, 32, 32))
    patterns[:, :8] = patterns[:, -8:] = patterns[:, :, :8] = patterns[:, :, -8:] = 0.0
    seen = stray(patterns)
    np.testing.assert_allclose(seen.sum(axis=(1, 2)), patterns.sum(axis=(1, 2)), rtol=0.02)
    assert seen[:, :4].min() > 0.0


@pytest.mark.slow  # a minute
def test_a_quick_bench_ends_and_leaves_out_only_what_is_long() -> None:
    from napari_smarttem.bench import single_pixel

    figures = single_pixel.run(quick=True)["figures"]
    left_out = {name for name, one in figures.items() if one["value"] is None}
    assert left_out == {"damaged_nrmse", "stray_camera_nrmse", "ssim_64_5000", "nrmse_64_5000", "edge_width_px_64_5000"}
    assert figures["adaptive_pattern_ratio"]["value"] < 1
