"""Non-negative factorization and its priors against known truth."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from napari_smarttem.bench.parts import unmixing_sets as sets
from napari_smarttem.schema import BadInput
from napari_smarttem.unmixing import unmix
from napari_smarttem.unmixing.nmf import on_simplex
from napari_smarttem.unmixing.spatial import smooth_maps


@pytest.fixture(scope="module")
def few() -> sets.Truth:
    return sets.easy(40, (48, 48), 256, counts=3.0)


def nmf(truth: sets.Truth, **options):
    return unmix(truth.data, method="nmf", components=len(truth.endmembers), **options)


def test_likelihood_of_counts_falls_short_of_nothing_that_least_squares_reaches(few) -> None:
    squares, likely = nmf(few), nmf(few, divergence="kl")
    deviance = likely.extra["deviance"]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in pairwise(deviance))
    model = np.maximum(np.tensordot(squares.maps, squares.endmembers, axes=(0, 0)), 1e-9)
    data = few.data.astype(np.float64)
    of_squares = 2 * (data * np.log(np.where(data > 0, data / model, 1.0)) - data + model).sum()
    assert deviance[-1] < of_squares
    # twice the log-likelihood of the truth itself is about the number of values
    assert deviance[-1] < 1.3 * data.size


def test_amounts_on_a_simplex_sum_to_one_and_are_nearer(few) -> None:
    free, bound = nmf(few), nmf(few, simplex=True)
    total = bound.maps.sum(axis=0)
    assert total.std() / total.mean() < 0.02
    assert sets.matched(few, bound.endmembers, bound.maps)[1] < sets.matched(few, free.endmembers, free.maps)[1]


def test_simplex_of_known_spectra_gives_known_amounts() -> None:
    rng = np.random.default_rng(0)
    corners, total = rng.uniform(0, 1, (3, 5)) + np.eye(3, 5), rng.uniform(0.5, 2.0, 50)
    amounts = rng.dirichlet(np.ones(3), 50) * total[:, None]
    np.testing.assert_allclose(on_simplex(amounts @ corners, corners, total), amounts, atol=1e-6)
    outside = on_simplex((amounts + np.array([0.5, -1.5, 0.0])) @ corners, corners, total)
    assert (outside >= 0).all()
    np.testing.assert_allclose(outside.sum(axis=1), total)


def test_smooth_maps_are_nearer_to_the_truth(few) -> None:
    rough, smooth = nmf(few), nmf(few, spatial=True)
    lost = []
    for result in (rough, smooth):  # the part of the variance that the true map does not have
        correlation = np.corrcoef(result.maps.reshape(4, -1), few.maps.reshape(4, -1))[:4, 4:].max(axis=1)
        lost.append(1.0 - float(np.mean(correlation**2)))
    assert lost[1] < 0.6 * lost[0]


def test_smoothing_is_as_strong_as_the_error_bars_ask_for() -> None:
    rng = np.random.default_rng(1)
    truth = sets.fields(rng, 2, (48, 48))
    for error, gain in ((0.3, 0.35), (0.03, 0.8)):
        bars = np.full(truth.shape, error)
        noisy = truth + error * rng.standard_normal(truth.shape)
        assert np.std(smooth_maps(noisy, bars) - truth) < gain * error
    np.testing.assert_allclose(smooth_maps(truth, np.full(truth.shape, 1e-9)), truth, atol=1e-4)


def test_smallest_volume_finds_endmembers_that_no_pixel_holds() -> None:
    truth = sets.hard("no_pure", 41, (64, 64), 512)
    plain, small = nmf(truth), nmf(truth, volume=True)
    wide, near = (sets.matched(truth, r.endmembers, r.maps)[0] for r in (plain, small))
    assert near < 0.6 * wide
    assert small.chi2 == pytest.approx(1.0, abs=0.05)
    assert "smallest volume" in small.assumption


def test_options_that_do_not_fit_are_refused_in_a_sentence(few) -> None:
    with pytest.raises(BadInput, match="'squares' or 'kl'"):
        nmf(few, divergence="cosine")
    with pytest.raises(BadInput, match="counts"):
        unmix(few.data - 2.0, method="nmf", components=4, divergence="kl")
    with pytest.raises(BadInput, match="turns"):
        nmf(few, turns=0)
