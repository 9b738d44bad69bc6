"""What the bench of the alignment holds itself against: frames of another program, and a network that reads pictures."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from napari_smarttem.bench.parts import image_network, other_simulator  # noqa: E402
from napari_smarttem.nn.registry import load  # noqa: E402


def test_the_frames_of_the_other_program_are_what_they_should_be():
    frames = list(other_simulator.frames(512, 0))
    assert len(frames) >= 6
    for geometry, truth, counts, film in frames:
        assert counts.shape == (512, 512)
        assert counts.mean() == pytest.approx(200.0, rel=2e-3)
        assert -1000 <= truth[0] <= -500
        assert np.all(np.abs(truth[1:]) <= [50, 50, 500, 500, 500, 500, 50])
        assert 0.03 < film.phase_rms < 0.3
        assert (geometry.high_tension_v, geometry.half_angle_mrad) == (300e3, 30.0)
    again = next(other_simulator.frames(512, 0))[2]
    assert np.array_equal(frames[0][2], again)
    assert not np.array_equal(next(other_simulator.frames(512, 1))[2], again)


def test_binned_frames_hold_the_flux_of_four_pixels():
    large, small = (next(other_simulator.frames(pixels, 0))[2] for pixels in (512, 256))
    summed = large.reshape(256, 2, 256, 2).sum(axis=(1, 3)) / 4
    # the same picture but for the shot noise of either
    assert np.std(summed - small) < 1.2 * np.sqrt(200 + 50)
    assert np.corrcoef(summed.ravel(), small.ravel())[0, 1] > 0.1


def test_the_image_network_is_as_large_as_ours_and_its_set_is_fixed(tmp_path):
    ours = sum(one.numel() for one in load("ronchigram").network.parameters())
    theirs = sum(one.numel() for one in image_network.fresh_network(0).parameters())
    assert theirs == pytest.approx(ours, rel=0.02)
    first, again, other = (np.array(image_network.fixed_set(tmp_path, 8, seed)[0]) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.mean() == pytest.approx(128, abs=0.5)
    assert first.std() > 3
    assert np.all(np.abs(image_network.fixed_set(tmp_path, 8, 0)[1]) <= 1)


def test_the_image_network_learns_what_pictures_do_show():
    """A gradient of brightness that tells the first coefficient: the loop of the training finds it."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    truth = rng.uniform(-1, 1, (160, 8)).astype(np.float32)
    ramp = np.linspace(-1, 1, 128)
    pictures = 128 + 40 * truth[:, :1, None] * ramp + rng.normal(0, 4, (160, 128, 128))
    seen = pictures.clip(0, 255).astype(np.uint8)
    network = image_network.fresh_network(0)
    losses = list(image_network.epochs(network, seen, truth, 0, 6))
    assert losses[-1] < losses[0] - 0.05
    network.eval()
    with torch.inference_mode():
        mean, _ = network(image_network.given(seen[:64]), torch.zeros(64, 0))
    assert np.corrcoef(mean[:, 0].numpy(), truth[:64, 0])[0, 1] > 0.9
