"""Every method says where what it assumes fails, and is quiet where it holds."""

from __future__ import annotations

import numpy as np
import pytest

from napari_smarttem.bench.parts import unmixing_sets as sets
from napari_smarttem.unmixing import unmix

FAILS = "does not hold for these data"


def _said(result) -> bool:
    return any(FAILS in warning for warning in result.warnings)


@pytest.fixture(scope="module")
def pure() -> sets.Truth:
    return sets.easy(20, (64, 64), 512)


@pytest.fixture(scope="module")
def mixed() -> sets.Truth:
    return sets.hard("no_pure", 20, (64, 64), 512)


@pytest.mark.parametrize("method", ["vca", "spa", "n-findr"])
def test_corners_are_doubted_where_no_pixel_is_pure(pure, mixed, method: str) -> None:
    assert not _said(unmix(pure.data, method=method, components=4))
    assert _said(unmix(mixed.data, method=method, components=4))


@pytest.mark.parametrize("method", ["auto", "minimum-volume", "lines", "svd"])
def test_methods_that_need_no_pure_pixels_are_not_doubted_for_that(mixed, method: str) -> None:
    assert not _said(unmix(mixed.data, method=method, components=4))


def test_one_kind_a_pixel_is_doubted_where_pixels_are_mixtures(mixed) -> None:
    assert _said(unmix(mixed.data, method="clusters", components=4))


def test_amounts_that_sum_to_one_are_doubted_where_the_thickness_changes(pure) -> None:
    assert not _said(unmix(pure.data, method="nmf", simplex=True, components=4))
    thickness = np.linspace(0.4, 1.6, 64)[None, :, None]
    mean = np.tensordot(pure.maps, pure.endmembers, axes=(0, 0)) * thickness
    wedge = np.random.default_rng(0).poisson(mean).astype(np.float32)
    assert _said(unmix(wedge, method="nmf", simplex=True, components=4))
    assert not _said(unmix(wedge, method="nmf", components=4))


def test_a_library_is_doubted_where_a_spectrum_is_missing_from_it(pure) -> None:
    assert not _said(unmix(pure.data, method="reference", library=pure.endmembers))
    assert _said(unmix(pure.data, method="reference", library=pure.endmembers[:3]))
