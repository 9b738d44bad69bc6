"""The law of the noise is read off the data, and unmixing by it is as good as it can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_smarttem.bench.parts import unmixing_sets as sets
from napari_smarttem.unmixing import noise, unmix
from napari_smarttem.unmixing.engine import UnmixingResult

SHAPE = (48, 48)


@pytest.fixture(scope="module")
def truth() -> sets.Truth:
    return sets.easy(33, SHAPE, 512)


def _mean(truth: sets.Truth) -> np.ndarray:
    return np.tensordot(truth.maps, truth.endmembers, axes=(0, 0))


def _measured(truth: sets.Truth, gain: float, read_out: float, seed: int = 1) -> np.ndarray:
    """What a camera gives for the mean counts of `truth`: `gain` counts for an electron, and read-out noise, dark level off."""
    rng, mean = np.random.default_rng(seed), _mean(truth)
    return (gain * rng.poisson(mean / gain) + read_out * rng.standard_normal(mean.shape)).astype(np.float32)


def _angle(truth: sets.Truth, result: UnmixingResult) -> float:
    return sets.matched(truth, result.endmembers, result.maps)[0]


@settings(max_examples=8, deadline=None)
@given(gain=st.floats(0.2, 30.0), read_out=st.floats(0.0, 12.0), dark=st.floats(0.0, 20.0))
def test_gain_and_read_out_are_found(gain: float, read_out: float, dark: float) -> None:
    """Also where a constant was subtracted, which is an offset of its own."""
    truth = sets.easy(34, (16, 16), 512)
    law = noise.estimate(_measured(truth, gain, read_out).reshape(-1, 512) - dark)
    assert law is not None
    variance = gain * _mean(truth) + read_out**2
    found = law.gain * (_mean(truth) - dark + law.offset)
    # what the scaling needs: the variance, from the darkest to the brightest values
    for part in (0.05, 0.5, 0.95):
        assert np.quantile(found, part) == pytest.approx(np.quantile(variance, part), rel=0.15)


def test_noise_that_does_not_grow_is_even() -> None:
    rng = np.random.default_rng(2)
    assert noise.estimate(np.linspace(0, 50, 300) + rng.standard_normal((200, 300))) is None


def test_counts_are_counts() -> None:
    law = noise.estimate(sets.easy(34, (16, 16), 512).data.reshape(-1, 512))
    assert law is not None
    assert law.gain == pytest.approx(1.0, abs=0.03)
    assert law.offset == 0.0


@pytest.mark.parametrize("count", [1, 50, 5000])
def test_negative_values_do_not_change_the_answer(truth, count: int) -> None:
    rng = np.random.default_rng(count)
    clean = unmix(truth.data)
    data = truth.data.copy()
    data.flat[rng.choice(data.size, count, replace=False)] = -1.0 - rng.integers(0, 3, count)
    result = unmix(data)
    assert result.components == clean.components == 4
    assert _angle(truth, result) < 1.2 * _angle(truth, clean)


@pytest.mark.parametrize(("gain", "read_out"), [(1, 1), (1, 2), (1, 3), (2, 0), (5, 3), (20, 0), (20, 10)])
def test_a_camera_costs_no_more_than_its_noise(truth, gain: float, read_out: float) -> None:
    """The measure is pure counting of fewer electrons, as many as give the same mean variance for the same mean."""
    mean = _mean(truth)
    counted = np.random.default_rng(7).poisson(mean * mean.mean() / (gain * mean.mean() + read_out**2))
    result, clean = unmix(_measured(truth, gain, read_out)), unmix(counted.astype(np.float32))
    assert result.components == clean.components == 4
    assert _angle(truth, result) < 1.2 * _angle(truth, clean)
    assert result.provenance["noise_variance"] == pytest.approx(gain, rel=0.1)
    assert result.provenance["read_out_noise"] == pytest.approx(read_out, abs=0.1 * np.sqrt(gain * 30))
    assert result.chi2 == pytest.approx(1.0, abs=0.05)


def test_error_bars_hold_with_read_out_noise(truth) -> None:
    result = unmix(_measured(truth, 2.0, 8.0), components=4)
    assert any("read-out" in warning for warning in result.warnings)
    angles = result.endmembers @ truth.endmembers.T
    order = angles.argmax(axis=0) if len(set(angles.argmax(axis=0))) == 4 else None
    assert order is not None
    maps, errors = result.maps[order], result.map_errors[order]
    scale = (maps * truth.maps).sum(axis=(1, 2)) / (truth.maps**2).sum(axis=(1, 2))
    there = truth.maps > 0.05
    within = np.abs(maps - truth.maps * scale[:, None, None]) < errors
    assert within[there].mean() == pytest.approx(0.68, abs=0.08)
