from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_smarttem.acquisition import route
from napari_smarttem.acquisition.clusters import quota
from napari_smarttem.acquisition.route import path_length, shortest_path
from napari_smarttem.acquisition.spacing import keep_apart, spread

seeds = st.integers(0, 2**31)


def closest(places):
    distance = np.hypot(*(places[:, None] - places[None, :]).transpose(2, 0, 1))
    return np.min(distance + np.eye(len(places)) * 1e9)


@given(seeds, st.integers(1, 200), st.floats(0.1, 60.0))
def test_points_kept_apart_are_apart_and_no_more_would_fit(seed, count, spacing):
    places = np.random.default_rng(seed).uniform(-50, 50, (count, 2))
    kept = keep_apart(places, spacing, count)
    assert kept[0] == 0
    if len(kept) > 1:
        assert closest(places[kept]) >= spacing * (1 - 1e-6)
    left = np.setdiff1d(np.arange(count), kept)
    to_kept = np.hypot(*(places[left][:, None] - places[kept][None, :]).transpose(2, 0, 1))
    assert (to_kept.min(axis=1) < spacing).all()


@given(seeds, st.integers(1, 80))
def test_spreading_finds_all_that_are_wanted_and_wider_than_at_random(seed, wanted):
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(40.0), np.arange(30.0)), axis=-1).reshape(-1, 2)
    places = grid[rng.permutation(len(grid))]
    kept = spread(places, wanted, spacing_nm=None, finest_nm=1.0)
    assert len(kept) == len(set(kept.tolist())) == wanted
    if wanted > 1:
        # Random sequential discs cover at least four tenths of the plane before they jam.
        assert closest(places[kept]) >= 0.6 * np.sqrt(4 * 0.4 * 1200 / (np.pi * wanted)) - 1.0


def test_less_wanted_points_may_lie_farther_apart():
    places = np.stack([np.zeros(200), np.arange(200.0)], axis=1)
    stretch = np.where(np.arange(200) < 100, 1.0, 3.0)
    kept = keep_apart(places, 4.0, 200, stretch)
    assert np.diff(kept[kept < 100]).min() == 4
    assert np.diff(kept[kept >= 100]).min() == 12


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(0, 300), st.floats(0, 2))
def test_quotas_use_every_place_and_none_twice(sizes, points, rarity):
    shares = quota(sizes, points, rarity)
    assert sum(shares) == min(points, sum(sizes))
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))


def test_a_quota_follows_rarity():
    assert quota([900, 90, 10], 10, 0.0) == [9, 1, 0]
    assert quota([900, 90, 10], 9, 1.0) == [3, 3, 3]
    rare_first = quota([900, 90, 10], 9, 2.0)
    assert rare_first[2] > rare_first[1] >= rare_first[0]


@pytest.mark.parametrize("count", [1, 2, 5, 7])
@pytest.mark.parametrize("start", [None, (10.0, -3.0)])
def test_few_points_are_visited_on_the_shortest_path_there_is(count, start):
    places = np.random.default_rng(count).uniform(0, 100, (count, 2))
    best = min(path_length(places, np.array(order), start) for order in permutations(range(count)))
    found = shortest_path(places, start_nm=start)
    assert sorted(found) == list(range(count))
    assert path_length(places, found, start) == pytest.approx(best)


def test_improvement_by_moves_comes_within_a_twentieth_of_the_optimum():
    ratios = []
    for seed in range(25):
        places = np.random.default_rng(seed).uniform(0, 100, (8 + seed % 5, 2))
        improved, exact = (path_length(places, way(places, False, 0.0)) for way in (route._improved, route._exact))
        ratios.append(improved / exact)
    assert max(ratios) <= 1.05
    assert min(ratios) >= 1 - 1e-9


@pytest.mark.parametrize("count", [50, 100, 200])
def test_the_path_is_a_quarter_shorter_than_going_line_by_line(count):
    places = np.random.default_rng(count).uniform(0, 100, (count, 2))
    # Lines as wide as points are apart, alternately forth and back: the best that a raster can do.
    line = np.floor(places[:, 0] / (100 / np.sqrt(count))).astype(int)
    serpentine = np.lexsort((np.where(line % 2, -places[:, 1], places[:, 1]), line))
    raster = np.lexsort((places[:, 1], line))
    length = path_length(places, shortest_path(places))
    assert length <= 0.75 * path_length(places, raster)
    assert length < path_length(places, serpentine)


def test_a_thousand_points_take_a_second_at_most():
    import sys
    import time

    places = np.random.default_rng(5).uniform(0, 200, (1000, 2))
    tracer = sys.gettrace()
    sys.settrace(None)  # a coverage tracer that looks at every line takes longer than the lines themselves
    try:
        started = time.process_time()
        order = shortest_path(places)
        took = time.process_time() - started
    finally:
        sys.settrace(tracer)
    assert took <= 1.0
    assert sorted(order) == list(range(1000))


@given(seeds, st.integers(0, 60), st.floats(0, 10))
def test_an_order_is_a_permutation_whatever_the_places(seed, count, settle):
    rng = np.random.default_rng(seed)
    places = rng.integers(0, 4, (count, 2)).astype(float)  # many on the same spot
    assert sorted(shortest_path(places, settle_nm=settle)) == list(range(count))


def test_settling_keeps_visits_to_one_place_together():
    places = np.array([[0, 0], [5, 5], [0, 0], [5, 5], [0, 0], [9, 1]] * 4, dtype=float)
    order = shortest_path(places, settle_nm=100.0)
    moves = np.hypot(*np.diff(places[order], axis=0).T) > 0
    assert moves.sum() == 2
