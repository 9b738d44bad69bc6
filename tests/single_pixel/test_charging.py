"""Charging that nobody looks for: the signals of the bucket tell it, before they scatter too much."""

import numpy as np
import pytest

from napari_smarttem.single_pixel.charging import LEAST, LIMIT, ChargingWatch, bias_slopes, remark_on
from napari_smarttem.single_pixel.fading import as_seen
from napari_smarttem.single_pixel.pool import predict_pool
from napari_smarttem.single_pixel.posterior import Posterior

COUNT = 160
ELECTRONS = 3e4


@pytest.fixture(scope="module")
def shown(decoder, pool):
    """Settings, predicted patterns and slopes of some patterns."""
    settings = pool.settings.part(np.arange(COUNT))
    patterns = pool.patterns[:COUNT]
    return settings, patterns, bias_slopes(decoder, settings, patterns, 16)


def watched(shown, specimen, true, seed):
    """A posterior and its watch after signals that the patterns `true` have given."""
    _, patterns, slopes = shown
    signals = np.random.default_rng(seed).poisson(ELECTRONS * (true @ specimen.ravel())) / ELECTRONS
    posterior, watch = Posterior(16, ELECTRONS, model_error=0.01), ChargingWatch()
    posterior.add(patterns, signals)
    for one in slopes:
        watch.add(one, np.zeros(1), None)
    posterior.choose_strength()
    posterior.settle(4)
    return posterior, watch


def test_slopes_foresee_a_charged_plate(decoder, shown):
    settings, patterns, slopes = shown
    offset = 0.01 * np.array([1.0, -1.0, 0.5, 2.0, -2.0, 1.0, 0.0, -1.0])
    moved = predict_pool(decoder.with_offset(offset), settings, 16).patterns - patterns
    foreseen = np.einsum("nkp,k->np", slopes, offset)
    assert np.linalg.norm(foreseen - moved) < 0.1 * np.linalg.norm(moved)


def test_a_plate_that_is_as_predicted_is_left_alone(shown, specimen):
    found = []
    for seed in range(12):
        posterior, watch = watched(shown, specimen, shown[1], seed)
        found.append(watch.excess(posterior))
    assert max(found) < LIMIT
    assert 0.1 < np.mean(found) < 1.2, "a mean square of chance"


def charged(decoder, shown, volts, seed):
    offset = volts * np.random.default_rng(seed).choice([-1.0, 1.0], decoder.needles)
    return predict_pool(decoder.with_offset(offset), shown[0], 16).patterns


@pytest.mark.parametrize("seed", [1, 3])
def test_a_little_charging_is_told_before_the_signals_scatter(decoder, shown, specimen, seed):
    posterior, watch = watched(shown, specimen, charged(decoder, shown, 0.02, seed), seed)
    assert posterior.remark() == ""
    assert "charged" in remark_on(watch.excess(posterior))
    assert remark_on(watch.excess(posterior), chosen=True) == "", "for those that were chosen more is wanted"


@pytest.mark.parametrize("seed", range(4))
def test_much_charging_is_told_one_way_or_the_other(decoder, shown, specimen, seed):
    posterior, watch = watched(shown, specimen, charged(decoder, shown, 0.1, seed), seed)
    assert posterior.remark() or remark_on(watch.excess(posterior))


def test_a_specimen_that_fades_changes_the_slopes_as_it_changes_the_signals(shown, specimen):
    _, patterns, slopes = shown
    dose, critical = np.linspace(0, 40, 256), 25.0
    changes = np.random.default_rng(2).standard_normal(slopes.shape[1]) * 1e-3
    moved = (patterns[:1] + changes @ slopes[0])[0]

    def signal(pattern):
        acting, background = as_seen(pattern[None], dose, critical)
        return (acting @ specimen.ravel() + background)[0]

    acting, background = as_seen(slopes[0], dose, critical)
    foreseen = changes @ (acting @ specimen.ravel() + background)
    assert signal(moved) - signal(patterns[0]) == pytest.approx(foreseen, rel=1e-3, abs=1e-9)


def test_nothing_is_told_of_few_signals_nor_of_those_before_a_check(shown, specimen):
    posterior, watch = watched(shown, specimen, shown[1], 0)
    assert watch.excess(posterior) is not None
    watch.forget()
    assert watch.excess(posterior) is None
    for one in shown[2][: LEAST - 1]:
        watch.add(one, np.zeros(1), None)
    assert watch.excess(posterior) is None
    assert remark_on(None) == ""
