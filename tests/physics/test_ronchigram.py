"""The Ronchigram's forward model against the direct way, and against what its spectra should be."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from napari_smarttem.physics.aberrations import ESTIMATED, curvature_basis, wave_basis  # noqa: E402
from napari_smarttem.physics.ronchigram import Film, Geometry, Recording, far_field, simulate  # noqa: E402
from napari_smarttem.physics.ronchigram_spectrum import expected_spectrum, hann, hann_autocorrelation  # noqa: E402
from napari_smarttem.schema import BadInput, electron_wavelength_nm  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("c1", [-100.0, 100.0])
def test_agrees_with_the_direct_way(c1):
    """|FFT(probe . transmission)|², where both ways have the same grid: dr² = lambda |C1| / n."""
    n, wavelength = 512, electron_wavelength_nm(300e3)
    dr = (wavelength * abs(c1) / n) ** 0.5
    step = dr / abs(c1)
    theta = (np.arange(n) - n // 2) * step
    y, x = np.meshgrid(theta, theta, indexing="ij")
    aperture = 1.0 * (np.hypot(y, x) < 0.022)
    others = np.array([0, 0, 0, 400.0, -300.0, 500.0, 200.0, 8.0])
    residual = np.tensordot(others, wave_basis(ESTIMATED, y, x), axes=1)
    whole = residual + 0.5 * c1 * (y**2 + x**2)
    rng = np.random.default_rng(3)
    from scipy import ndimage

    potential = ndimage.gaussian_filter(rng.normal(size=(n, n)), 3.0, mode="wrap") * 3.0
    # direct: coordinates r = j dr; the probe is the transform of the aperture function
    probe = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(aperture * np.exp(-2j * np.pi * whole / wavelength))))
    direct = np.abs(np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe * np.exp(1j * potential))))) ** 2
    # scaled: the specimen at r = C1 theta, so reversed for underfocus
    seen = potential if c1 > 0 else np.roll(potential[::-1, ::-1], 1, axis=(0, 1))
    s = np.fft.fftfreq(n, d=step)
    kernel = np.exp(1j * np.pi * wavelength / c1 * (s[:, None] ** 2 + s[None, :] ** 2))
    pupil = aperture * np.exp(-2j * np.pi * residual / wavelength)
    scaled = far_field(*(torch.as_tensor(v) for v in (pupil, np.exp(1j * seen), kernel))).abs().numpy() ** 2
    inside = np.hypot(y, x) < 0.03
    assert np.corrcoef(direct[inside], scaled[inside])[0, 1] > 0.9999
    assert np.abs(direct[inside] - scaled[inside]).max() < 1e-6 * scaled.max()


@pytest.mark.parametrize("place", [(0, 0), (224, 224), (448, 100)])
def test_local_spectra_are_as_expected(place):
    """Mean periodograms of many frames follow the formula within their noise, wherever one looks."""
    geometry, n, count = Geometry(300e3, 30.0, 512), 64, 24
    row = np.array([[-1500.0, 50, -60, 500, 300, -400, 600, 50.0]])
    recording = Recording(dose_e_per_px=1000.0)
    generator = torch.Generator().manual_seed(5)
    window = torch.as_tensor(hann(n), dtype=torch.float32)
    window = window[:, None] * window[None, :]
    total = torch.zeros(n, n)
    for _ in range(count // 4):
        frames = simulate(
            geometry, np.repeat(row, 4, axis=0), ESTIMATED, recording=recording, generator=generator, oversampling=1
        )
        patch = frames[:, place[0] : place[0] + n, place[1] : place[1] + n]
        relative = (patch / patch.mean(dim=(1, 2), keepdim=True) - 1) * window
        total += (torch.fft.fft2(relative).abs() ** 2).sum(dim=0) / (window**2).sum()
    seen = total / count
    centre = [(p + n / 2 - 256) * geometry.pixel_rad for p in place]
    curvature = row[0] @ curvature_basis(ESTIMATED, np.array(centre[0]), np.array(centre[1]))
    j = torch.fft.fftfreq(n) * n
    bins = torch.stack(torch.meshgrid(j, j, indexing="ij"), dim=-1).reshape(-1, 2)
    expected = expected_spectrum(
        torch.as_tensor(curvature, dtype=torch.float32)[None, None], bins, width_rad=n * geometry.pixel_rad,
        wavelength_nm=geometry.wavelength_nm, pixel_rad=geometry.pixel_rad, film=Film(), recording=recording,
    )[0, 0].reshape(n, n)  # fmt: skip
    radius = bins.norm(dim=-1).reshape(n, n)
    used = (radius > 2) & (radius < 20)
    ratio = (seen / expected)[used]
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.05)
    assert float(ratio.std()) < 1.5 / count**0.5
    logs = torch.stack([seen[used].log(), expected[used].log()])
    assert float(torch.corrcoef(logs)[0, 1]) > 0.85


def test_hann_autocorrelation_is_that_of_the_window():
    n = 4096
    window = hann(n)
    for lag in (0.0, 0.1, 0.5, 0.9):
        k = round(lag * n)
        exact = (window[k:] * window[: n - k]).sum() / (window**2).sum()
        assert float(hann_autocorrelation(torch.tensor(k / n))) == pytest.approx(exact, abs=1e-3)


def test_dose_seed_and_limits():
    geometry = Geometry(300e3, 30.0, 128)
    row = np.array([[-1500.0, 0, 0, 0, 0, 0, 0, 0]])

    def frame(seed, **recording):
        return simulate(
            geometry, row, ESTIMATED, recording=Recording(**recording), generator=torch.Generator().manual_seed(seed)
        )

    assert torch.equal(frame(1), frame(1))
    assert not torch.equal(frame(1), frame(2))
    assert float(frame(1, dose_e_per_px=300.0).mean()) == pytest.approx(300.0, rel=0.01)
    assert float(frame(1, dose_e_per_px=float("inf")).mean()) == pytest.approx(1.0, rel=0.01)
    with pytest.raises(BadInput, match="some defocus"):
        simulate(geometry, np.array([[-50.0, 50.0, 0, 0, 0, 0, 0, 0]]), ESTIMATED)
