import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_smarttem.acquisition.drift import DriftTracker, register
from napari_smarttem.schema import BadInput

SIZE, RIM = 128, 32


def texture(seed, blur=1.5):
    return ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((SIZE + 2 * RIM,) * 2), blur)


def lattice(seed):
    y, x = np.indices((SIZE + 2 * RIM,) * 2)
    return (
        np.cos(2 * np.pi * (0.11 * y + 0.02 * x))
        + np.cos(2 * np.pi * (0.12 * x - 0.015 * y))
        + 2.4 * texture(seed, 3.0) * 3
    )


def pair(scene, shift, snr, seed=0):
    """The middle of a scene, and of the scene moved by a Fourier shift, each with its own noise."""
    rng = np.random.default_rng(seed)
    moved = np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(scene), shift)).real
    cut = slice(RIM, -RIM)
    sigma = scene[cut, cut].std() / snr
    return tuple(picture[cut, cut] + rng.normal(0, sigma, (SIZE, SIZE)) for picture in (scene, moved))


def test_noisy_images_are_registered_to_a_twentieth_of_a_pixel():
    errors, promised = [], []
    for seed in range(20):
        shift = np.random.default_rng(seed).uniform(-6, 6, 2)
        found = register(*pair(texture(seed), shift, snr=3, seed=seed))
        assert found.ok
        errors.append(np.array(found.shift_px) - shift)
        promised.append(found.error_px)
    rms = np.sqrt(np.mean(np.square(errors)))
    assert rms <= 0.05
    assert 0.5 <= np.mean(promised) / rms <= 2.0, "the error it states is the error it makes"


@hypothesis_settings(max_examples=15)
@given(st.floats(-20, 20), st.floats(-20, 20), st.integers(0, 100))
def test_without_noise_any_shift_is_found(dy, dx, seed):
    found = register(*pair(texture(seed), (dy, dx), snr=300, seed=seed))
    assert found.ok
    assert np.array(found.shift_px) == pytest.approx(np.array([dy, dx]), abs=0.03)


def test_a_lattice_is_not_matched_one_spacing_off():
    jumped = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shift = rng.uniform(-12, 12, 2)
        expected = shift + rng.uniform(-1.0, 1.0, 2)
        found = register(*pair(lattice(seed), shift, snr=3, seed=seed), expected_px=tuple(expected), search_px=3.0)
        assert found.ok
        jumped += np.abs(np.array(found.shift_px) - shift).max() > 0.5
    assert jumped == 0


def test_a_match_beyond_the_bound_is_refused():
    found = register(*pair(texture(1), (9.0, 0.0), snr=10), expected_px=(0.0, 0.0), search_px=4.0)
    assert not found.ok
    assert found.problem


@pytest.mark.parametrize("kind", ["noise", "another place"])
def test_images_of_different_places_are_refused(kind):
    refused = 0
    for seed in range(20):
        if kind == "noise":
            rng = np.random.default_rng(seed)
            one, other = rng.standard_normal((2, SIZE, SIZE))
        else:
            one, _ = pair(texture(seed, 1.0), (0, 0), 3, seed)
            other, _ = pair(texture(seed + 1000, 1.0), (0, 0), 3, seed + 1)
        refused += not register(one, other).ok
    assert refused >= 19


@pytest.mark.parametrize(
    "image",
    [np.zeros((SIZE, SIZE)), np.full((SIZE, SIZE), np.nan), np.full((SIZE, SIZE), 5.0)],
    ids=["zero", "NaN", "flat"],
)
def test_an_image_without_content_is_refused_and_the_prediction_kept(image):
    found = register(pair(texture(0), (0, 0), 10)[0], image, expected_px=(1.5, -2.5))
    assert not found.ok
    assert found.shift_px == (1.5, -2.5)


def test_a_few_dead_pixels_do_no_harm():
    one, other = pair(texture(3), (2.3, -1.1), snr=10)
    other[::17, ::13] = np.nan
    assert register(one, other).shift_px == pytest.approx((2.3, -1.1), abs=0.1)


def test_shapes_must_agree():
    with pytest.raises(BadInput, match="8 x 8"):
        register(np.ones((20, 20)), np.ones((20, 21)))
    with pytest.raises(BadInput, match="8 x 8"):
        register(np.ones((4, 40)), np.ones((4, 40)))


def test_the_tracker_learns_a_steady_rate_and_says_how_sure_it_is():
    rng = np.random.default_rng(0)
    tracker = DriftTracker(rate_nm_per_s=1.0)
    rate = np.array([0.7, -0.4])
    for time in np.arange(1.0, 30.0, 2.5):
        tracker.update(time, tuple(rate * time + rng.normal(0, 0.05, 2)), 0.05)
    assert tracker.velocity_nm_per_s == pytest.approx(tuple(rate), abs=0.05)
    place, spread = tracker.predict(31.0)
    assert place == pytest.approx(tuple(rate * 31.0), abs=0.15)
    assert 0.02 < spread < 0.3
    assert tracker.predict(60.0)[1] > spread


def test_after_a_gap_nobody_saw_the_tracker_is_unsure_and_takes_the_next_measurement():
    tracker = DriftTracker(rate_nm_per_s=1.0)
    tracker.update(5.0, (5.0, 0.0), 0.05)
    tracker.lost(20.0)
    assert tracker.predict(5.0)[1] >= 19.0
    tracker.update(6.0, (-3.0, 1.0), 0.05)
    assert tracker.predict(6.0)[0] == pytest.approx((-3.0, 1.0), abs=0.05)
