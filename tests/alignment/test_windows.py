"""The windows of the refinement: what they see of the rim, what they make of rings and of noise."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from napari_smarttem.alignment.whittle import Likelihood  # noqa: E402
from napari_smarttem.alignment.windows import Windows  # noqa: E402
from napari_smarttem.physics.aberrations import ESTIMATED, curvature_basis  # noqa: E402
from napari_smarttem.physics.ronchigram import Film, Geometry, Recording, simulate  # noqa: E402
from napari_smarttem.schema import BadInput  # noqa: E402

GEOMETRY = Geometry(300e3, 30.0, 256)


def test_windows_that_reach_over_the_edge_read_the_rim():
    """The share of a pixel's squared weight in all windows together, at the rim and in the middle."""
    shares = []
    for overhang in (0.0, 0.4):
        windows = Windows(GEOMETRY, 64, overhang)
        line = np.zeros(256 + 2 * windows.overhang)
        for corner, taper in zip(windows.corners + windows.overhang, windows.tapers, strict=True):
            line[corner : corner + 64] += taper**2
        outside = np.concatenate([line[: windows.overhang], line[len(line) - windows.overhang :]])
        assert not outside.any()
        line = line[windows.overhang : windows.overhang + 256]
        shares.append(line[2:8].mean() / line[100:156].mean())
    assert shares[0] < 0.1
    assert shares[1] > 0.6


def test_shot_noise_is_one_over_the_dose_in_every_window():
    generator = torch.Generator().manual_seed(3)
    windows = Windows(GEOMETRY, 64, 0.4)
    frames = [100 + 10 * torch.randn((256, 256), generator=generator) for _ in range(8)]
    power = torch.stack([windows.periodograms(frame) for frame in frames])
    np.testing.assert_allclose(power[..., 3:30, 3:30].mean(dim=(0, 2, 3)) * 100, 1.0, atol=0.06)


def test_inside_the_frame_the_autocorrelation_is_that_of_a_sine():
    windows = Windows(GEOMETRY, 64)
    lag = torch.linspace(-0.95, 0.95, 81).expand(windows.side**2, -1)
    value, first, second = (column[windows.side // 2] for column in windows.along(1, lag).autocorrelation)
    lag = lag[0]
    x = lag.abs()
    expected = (1 - x) * torch.cos(torch.pi * x) + torch.sin(torch.pi * x) / torch.pi
    slope = -torch.pi * (1 - x) * torch.sin(torch.pi * x) * lag.sign()
    bend = torch.pi * torch.sin(torch.pi * x) - torch.pi**2 * (1 - x) * torch.cos(torch.pi * x)
    for found, known in ((value, expected), (first, slope), (second, bend)):
        torch.testing.assert_close(found, known, atol=0.02 * float(known.abs().max()), rtol=0)


def test_the_weights_make_the_most_of_correlated_noise():
    """Sums over sparse and over dense rings on noise alone: signal over noise, against bins that all count alike."""
    generator = torch.Generator().manual_seed(5)
    windows = Windows(GEOMETRY, 64, 0.4)
    frames = [torch.randn((256, 256), generator=generator) * 0.1 + 1 for _ in range(40)]
    power = torch.stack([windows.periodograms(frame)[..., 2:-2] for frame in frames])  # (frames, places, 64, 29)
    power = power / power.mean(dim=0) - 1
    patterns, signals = [0.0, 0.0], [0.0, 0.0]
    for lag in (0.1, 0.5):
        one = torch.full((windows.side**2, 1), lag)
        along, across = windows.along(1, one), windows.along(0, 0 * one)
        shown = along.autocorrelation[0] * across.autocorrelation[0]
        # rings along x: one period of their phase in 1 / lag bins
        rings = torch.cos(2 * torch.pi * lag * torch.arange(power.shape[-1])).expand(64, -1)
        for k, weight in enumerate((torch.ones_like(shown), along.weight * across.weight)):
            patterns[k] = patterns[k] + (weight * shown)[..., None] * rings
            signals[k] += float((weight * shown**2).sum() * (rings**2).sum())
    noise = [float((power * pattern).sum(dim=(1, 2, 3)).std()) for pattern in patterns]
    assert signals[1] / noise[1] > 1.05 * signals[0] / noise[0]
    assert signals[1] / noise[1] == pytest.approx(signals[1] ** 0.5, rel=0.25)


def test_rings_of_far_sidebands_are_seen_farther_inside_at_the_rim_alone():
    windows = Windows(GEOMETRY, 64, 0.4)
    shift, narrowing = windows._places_of_rings()
    assert np.abs(shift[2:-2]).max() < 1e-6
    assert shift[0, 32] > 0.3
    np.testing.assert_allclose(shift[0], -shift[-1], atol=1e-6)
    assert (np.diff(narrowing[windows.side // 2]) < 1e-9).all()


def test_the_bends_are_the_second_derivatives_of_the_curvature():
    windows = Windows(GEOMETRY, 64, 0.4)
    mean, slopes, bends = windows.curvature_basis()
    sigma = windows._moments[1][windows.side // 2]
    zero, step = np.zeros(1), np.array([1e-3])
    change = curvature_basis(ESTIMATED, step, zero) + curvature_basis(ESTIMATED, -step, zero)
    change = (change - 2 * curvature_basis(ESTIMATED, zero, zero))[..., 0] / 1e-6
    np.testing.assert_allclose(bends[:, :, 0], change * windows.width_rad**2, atol=1e-9)
    assert windows.side % 2 == 1
    expected = bends[7] @ [0.5, 0, 0.5] * (sigma / windows.width_rad) ** 2
    np.testing.assert_allclose(mean[7, windows.side**2 // 2], expected, rtol=1e-6, atol=1e-12)
    assert slopes.shape == (8, windows.side**2, 3, 2)


def test_the_rim_makes_the_spherical_aberration_surer():
    generator = torch.Generator().manual_seed(11)
    truth = np.array([-1500.0, 40, -30, 300, -200, 400, 100, 50])
    frame = simulate(GEOMETRY, truth[None], ESTIMATED, film=Film(), recording=Recording(), generator=generator)[0]
    errors = []
    for overhang in (0.0, 0.4):
        likelihood = Likelihood(frame, GEOMETRY, 72, overhang)
        count = likelihood.reach(truth, 0.35)
        parts = likelihood.parts(truth, likelihood.start_nuisances(count), count)
        errors.append(np.sqrt(np.diag(np.linalg.inv(likelihood.scores(parts, np.zeros(10))[1])))[7])
    assert errors[1] < 0.85 * errors[0]


def test_a_window_wider_than_the_frame_is_refused():
    with pytest.raises(BadInput, match="a window of 300 pixels does not fit a frame of 256 pixels"):
        Windows(GEOMETRY, 300)
