"""Reconstruction: known answers, streaming against all at once, uncertainties that are true, and the choice of patterns."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_smarttem.schema import BadInput
from napari_smarttem.single_pixel.adaptive import (
    by_chance,
    most_contrast,
    most_informative,
    naive_divergence,
    stop_reason,
)
from napari_smarttem.single_pixel.fading import as_seen
from napari_smarttem.single_pixel.lapack import factorised, half_solved, solved
from napari_smarttem.single_pixel.patterns import SETS, coarser
from napari_smarttem.single_pixel.posterior import Posterior
from napari_smarttem.single_pixel.reconstruct import correlation, ridge, total_variation


def error(picture, truth):
    return np.linalg.norm(picture - truth) / np.linalg.norm(truth)


def signals_of(patterns, specimen, electrons, seed=0):
    rng = np.random.default_rng(seed)
    return rng.poisson(electrons * (patterns.reshape(len(patterns), -1) @ specimen.ravel())) / electrons


@pytest.mark.parametrize("name", sorted(SETS))
def test_every_set_is_made_of_beams_and_gives_the_picture_back(name, specimen):
    patterns = SETS[name](16, 300, np.random.default_rng(0))
    assert patterns.min() >= 0
    np.testing.assert_allclose(patterns.sum(axis=(1, 2)), 1.0, atol=1e-4)
    picture = total_variation(patterns, signals_of(patterns, specimen, 1e6), 1e6)
    assert error(picture, specimen) < 0.05


def test_a_complete_raster_without_noise_is_exact(specimen):
    patterns = SETS["raster"](16, 256, np.random.default_rng(0))
    picture = total_variation(patterns, patterns.reshape(256, -1) @ specimen.ravel(), 1e9, strength=0.1)
    np.testing.assert_allclose(picture, specimen, atol=1e-3)


def test_total_variation_beats_correlation_and_ridge_on_caustics(pool, specimen):
    shown = pool.patterns[:160]
    signals = signals_of(shown, specimen, 1e5)
    ours = error(total_variation(shown, signals, 1e5), specimen)
    assert ours < 0.5 * error(correlation(shown, signals), specimen)
    assert ours < 0.7 * error(ridge(shown, signals, 1e5), specimen)


def test_streaming_ends_where_all_at_once_does(pool, specimen):
    shown = pool.patterns[:96]
    signals = signals_of(shown, specimen, 1e5)
    streamed = Posterior(16, 1e5, strength=5.0)
    for start in range(0, 96, 16):
        streamed.add(shown[start : start + 16], signals[start : start + 16])
        streamed.settle()
    streamed.settle(12)
    whole = total_variation(shown, signals, 1e5, strength=5.0)
    assert error(streamed.picture, whole) < 0.02


def test_the_picture_improves_with_every_hundred_patterns(pool, specimen):
    errors = []
    for count in (16, 64, 256):
        shown = pool.patterns[:count]
        errors.append(error(total_variation(shown, signals_of(shown, specimen, 1e5), 1e5), specimen))
    assert errors[0] > errors[1] > errors[2]


def test_one_value_at_once_is_the_gaussian_update(pool, specimen):
    shown = pool.patterns[:60]
    signals = signals_of(shown, specimen, 1e5)
    posterior = Posterior(16, 1e5)
    posterior.add(shown[:58], signals[:58])
    posterior.settle(4)
    before = posterior.picture.ravel().copy()
    covariance = (lambda s: s.T @ s)(posterior.spread(np.eye(256))).astype(float)
    for k in (58, 59):
        gain = covariance @ shown[k]
        total = posterior.variance_of(signals[k : k + 1])[0] + shown[k] @ gain
        before = np.clip(before + gain * (signals[k] - shown[k] @ before) / total, 0, 1)
        covariance -= np.outer(gain, gain) / total
        posterior.add_at_once(shown[k], float(signals[k]))
    np.testing.assert_allclose(posterior.picture.ravel(), before, atol=2e-4)
    assert posterior.count == 60


def test_uncertainty_falls_where_electrons_were(specimen):
    patterns = SETS["raster"](16, 256, np.random.default_rng(0))[:128]  # the upper half
    posterior = Posterior(16, 1e4)
    posterior.add(patterns, patterns.reshape(128, -1) @ specimen.ravel())
    posterior.settle(2)
    uncertainty = posterior.uncertainty()
    assert uncertainty[:7].mean() < 0.5 * uncertainty[10:].mean()


def test_samples_have_the_covariance_of_the_posterior(pool, specimen):
    posterior = Posterior(16, 1e4)
    posterior.add(pool.patterns[:80], signals_of(pool.patterns[:80], specimen, 1e4))
    posterior.settle(3)
    drawn = posterior.samples(4000, np.random.default_rng(1))
    probe = pool.patterns[200:210]
    exact = (posterior.spread(probe) ** 2).sum(axis=0)
    np.testing.assert_allclose(((drawn @ probe.T) ** 2).mean(axis=0), exact, rtol=0.15)


def test_a_wrong_predictor_is_told(pool, specimen):
    rng = np.random.default_rng(2)
    wrong = pool.patterns[rng.permutation(200)]
    posterior = Posterior(16, 1e5, model_error=0.01)
    posterior.add(wrong, signals_of(pool.patterns[:200], specimen, 1e5))
    posterior.choose_strength()
    posterior.settle(4)
    assert "calibrate anew" in posterior.remark()
    good = Posterior(16, 1e5, model_error=0.01)
    good.add(pool.patterns[:200], signals_of(pool.patterns[:200], specimen, 1e5))
    good.choose_strength()
    good.settle(4)
    assert 0.1 < good.misfit() < 1.5
    assert good.remark() == ""


def test_a_predictor_that_is_a_little_wrong_costs_sharpness_not_truth(pool, specimen):
    rng = np.random.default_rng(5)
    shown = pool.patterns[:200]
    signals = signals_of(shown, specimen, 1e5) * (
        1 + 0.1 * rng.standard_normal(200)
    )  # no pattern is as bright as predicted
    trusting = Posterior(16, 1e5)
    trusting.add(shown, signals)
    trusting.choose_strength()
    trusting.settle(4)
    before, scatter = error(trusting.picture, specimen), trusting.misfit()
    assert 0.03 <= trusting.question() <= 0.3
    assert error(trusting.picture, specimen) < 0.7 * before
    expected = np.linalg.norm(trusting.uncertainty()) / np.linalg.norm(trusting.picture)
    assert 0.3 < expected / error(trusting.picture, specimen) < 3
    assert scatter > 10
    assert "calibrate anew" in trusting.remark()  # a doubt is no excuse
    believed = trusting.doubt
    trusting.add(pool.patterns[200:216], signals_of(pool.patterns[200:216], specimen, 1e5))
    assert trusting.question() == believed  # too few are new


def test_nothing_is_doubted_where_all_is_well(pool, specimen):
    good = Posterior(16, 1e5)
    good.add(pool.patterns[:200], signals_of(pool.patterns[:200], specimen, 1e5))
    assert good.question() <= 0.003


def test_noise_of_the_bucket_is_known_noise(pool, specimen):
    shown, electrons, noise = pool.patterns[:200], 1e4, 300.0
    counted = signals_of(shown, specimen, electrons) + noise / electrons * np.random.default_rng(7).standard_normal(200)
    found = {}
    for told in (0.0, noise):
        posterior = Posterior(16, electrons, read_noise_e=told)
        posterior.add(shown, counted)
        posterior.settle(8)
        found[told] = error(posterior.picture, specimen), posterior.misfit()
    assert found[noise][0] < 0.8 * found[0.0][0]
    assert found[noise][1] < 1.5
    assert found[0.0][1] > 2
    with pytest.raises(BadInput, match="read noise"):
        Posterior(16, electrons, read_noise_e=-1.0)


def test_the_fresh_specimen_is_found_although_it_fades(pool, specimen):
    shown, electrons = pool.patterns[:300], 1e5
    each = electrons * shown
    dose = np.cumsum(each, axis=0) - each
    critical = float(dose[-1].mean())
    now = 1 - (1 - specimen.ravel()) * np.exp(-dose / critical)
    counted = np.random.default_rng(8).poisson(electrons * (shown * now).sum(axis=1)) / electrons
    acting, background = as_seen(shown, dose, critical)
    np.testing.assert_allclose(acting @ specimen.ravel() + background, (shown * now).sum(axis=1), rtol=1e-4)
    found = {}
    for name, (patterns, rest) in {"told": (acting, background), "not told": as_seen(shown, dose, None)}.items():
        posterior = Posterior(16, electrons)
        posterior.add(patterns, counted, rest)
        posterior.choose_strength()
        posterior.settle(8)
        found[name] = error(posterior.picture, specimen)
    assert found["told"] < 0.3 * found["not told"]


def _turns(work):
    """How often this thread had its turn while another one was inside some work."""
    times = []

    def timed():
        times.append(time.perf_counter())
        work()
        times.append(time.perf_counter())

    worker, turns = threading.Thread(target=timed), []
    worker.start()
    while worker.is_alive():
        time.sleep(0.001)
        turns.append(time.perf_counter())
    return sum(times[0] < turn < times[1] for turn in turns)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_factors_are_scipys_and_let_others_work(kind):
    rng = np.random.default_rng(0)
    root = rng.standard_normal((300, 300)).astype(kind)
    matrix = root @ root.T + 30 * np.eye(300, dtype=kind)
    right = rng.standard_normal((300, 7)).astype(kind)
    expected = np.linalg.solve(matrix.astype(float), right)
    factor = factorised(matrix.copy())
    tight = {"rtol": 1e-3, "atol": 1e-5} if kind is np.float32 else {"rtol": 1e-9}
    np.testing.assert_allclose(solved(factor, right), expected, **tight)
    np.testing.assert_allclose(solved(factor, right[:, 0]), expected[:, 0], **tight)
    half = half_solved(factor, right, transposed=True)
    np.testing.assert_allclose(half_solved(factor, half, transposed=False), expected, **tight)
    np.testing.assert_allclose((half**2).sum(axis=0), (right * expected).sum(axis=0), **tight)
    with pytest.raises(np.linalg.LinAlgError):
        factorised(-matrix)


def test_a_large_factor_does_not_hold_the_interpreter():
    large = np.eye(2000, dtype=np.float32) * 2000 + 1
    copies = [large.copy() for _ in range(3)]
    # with the lock held there is one turn at most, before the work has begun
    assert max(_turns(lambda matrix=matrix: factorised(matrix)) for matrix in copies) > 2


# -- choice


def test_what_is_burnt_away_is_not_asked(specimen):
    raster = SETS["raster"](16, 256, np.random.default_rng(0))
    posterior = Posterior(16, 1e3)
    dose = np.where(np.arange(256) < 128, 10.0, 0.0)
    acting, background = as_seen(raster, dose, 1.0)
    choice = most_informative(posterior, acting, 20, np.random.default_rng(0), exploration=0.0, background=background)
    assert (choice.index >= 128).all()


def test_small_batches_explore_too(pool, specimen):
    posterior = Posterior(16, 1e4)
    drawn = 0
    for number in range(20):
        best = most_informative(posterior, pool.patterns, 1, np.random.default_rng(number), exploration=0.0)
        choice = most_informative(posterior, pool.patterns, 1, np.random.default_rng(number), exploration=0.25)
        drawn += int(choice.index[0] != best.index[0])
        posterior.add(pool.patterns[best.index], signals_of(pool.patterns[best.index], specimen, 1e4))
        posterior.settle(1)
    assert drawn == 5  # a quarter of twenty


def test_the_greedy_batch_is_that_of_the_determinant(pool, specimen):
    posterior = Posterior(16, 1e4)
    posterior.add(pool.patterns[:40], signals_of(pool.patterns[:40], specimen, 1e4))
    posterior.settle(3)
    few = pool.patterns[100:160]
    choice = most_informative(posterior, few, 5, np.random.default_rng(0), exploration=0.0)
    spread = posterior.spread(few).astype(float)
    scaled = spread / np.sqrt(posterior.variance_of(posterior.predicted(few)))

    def information(index):
        part = scaled[:, index]
        return 0.5 * np.linalg.slogdet(np.eye(len(index)) + part.T @ part)[1]

    assert choice.gain_nats.sum() == pytest.approx(information(choice.index), rel=1e-3)
    chosen = []
    for _ in range(5):
        left = [k for k in range(60) if k not in chosen]
        chosen.append(max(left, key=lambda k: information([*chosen, k])))
    assert list(choice.index) == chosen


def test_information_looks_where_nothing_is_known(specimen):
    raster = SETS["raster"](16, 256, np.random.default_rng(0))
    posterior = Posterior(16, 1e5)
    posterior.add(raster[:128], raster[:128].reshape(128, -1) @ specimen.ravel())
    posterior.settle(2)
    choice = most_informative(posterior, raster, 20, np.random.default_rng(0), exploration=0.0)
    assert (choice.index >= 128).all()


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 40), exploration=st.floats(0, 1), seed=st.integers(0, 100))
def test_a_batch_is_of_distinct_free_patterns(count, exploration, seed):
    rng = np.random.default_rng(seed)
    patterns = rng.random((40, 64)).astype(np.float32) / 64
    posterior = Posterior(8, 1e4)
    posterior.add(patterns[:4], np.full(4, 0.3))
    taken = rng.random(40) < 0.3
    choice = most_informative(posterior, patterns, count, rng, exploration=exploration, taken=taken)
    assert len(set(choice.index.tolist())) == len(choice.index) == min(count, int((~taken).sum()))
    assert not taken[choice.index].any()
    assert (choice.gain_nats >= 0).all()


def test_the_simpler_rules(pool, specimen):
    rng = np.random.default_rng(3)
    posterior = Posterior(16, 1e4)
    signals = signals_of(pool.patterns[:30], specimen, 1e4)
    before = posterior.predicted(pool.patterns[:30])
    posterior.add(pool.patterns[:30], signals)
    taken = np.arange(len(pool)) < 30
    contrast = most_contrast(pool.patterns, 5, rng, taken=taken)
    assert pool.patterns[contrast.index].std(axis=1).min() >= pool.patterns[30:].std(axis=1).mean()
    assert (naive_divergence(posterior, pool.patterns, 8, rng, predicted_before=before, taken=taken).index >= 30).all()
    assert len(by_chance(pool.patterns, 8, rng, taken=taken).index) == 8
    with pytest.raises(BadInput, match="pool larger"):
        by_chance(pool.patterns, 1, rng, taken=np.ones(len(pool), dtype=bool))


def test_a_run_stops_for_little_gain_or_much_dose(pool):
    posterior = Posterior(16, 1e4)
    choice = most_informative(posterior, pool.patterns, 4, np.random.default_rng(0))
    none = {"least_gain_nats": 0.0, "dose_e_per_a2": 1.0, "next_dose_e_per_a2": 0.5, "budget_e_per_a2": None}
    assert stop_reason(choice, **none) == ""
    assert "budget" in stop_reason(choice, **{**none, "budget_e_per_a2": 1.4})
    assert "nats" in stop_reason(choice, **{**none, "least_gain_nats": 1e3})


# -- bad input


def test_bad_signals_and_sizes_are_refused(pool):
    posterior = Posterior(16, 1e4)
    with pytest.raises(BadInput, match="not finite"):
        posterior.add(pool.patterns[:1], np.array([np.nan]))
    with pytest.raises(BadInput, match="as many patterns"):
        posterior.add(pool.patterns[:2], np.array([0.1]))
    with pytest.raises(BadInput, match="signal 1 is not finite"):
        correlation(pool.patterns[:2], np.array([0.1, np.inf]))
    with pytest.raises(BadInput, match="pixels on a side"):
        Posterior(500, 1e4)
    with pytest.raises(BadInput, match="power of two"):
        SETS["hadamard"](12, 4, np.random.default_rng(0))
    with pytest.raises(BadInput, match="divisor"):
        coarser(np.zeros((1, 64, 64)), 48)
