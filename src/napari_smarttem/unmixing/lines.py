"""Endmembers from what is known of spectra: lines and edges stand at few energies, and each belongs to few endmembers.

Where every pixel holds a little of everything the cloud of pixels has no corners and no true faces, and geometry finds a
simplex that is too small without noticing. Spectra help: the sharp features of an endmember (seen through a band-pass
along energy, which removes smooth backgrounds) are absent at most energies. So the rotation is looked for in which
endmembers are sparse: independent component analysis by maximum likelihood, with a source density that is fitted - a spike
as wide as the known noise, and Gaussians of many widths - and the iterative-projection update of Ono (WASPAA 2011), which
never lowers the likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .kernels import scale_mixture
from .subspace import Subspace

WIDTHS = 6.0 ** np.arange(6)


@dataclass(frozen=True)
class Lines:
    """What the lines say.

    Parameters
    ----------
    corners : ndarray
        ``(k, k)`` endmember scores, one a row.
    sparsity : ndarray
        ``(k,)`` part of the channels in which an endmember shows nothing sharper than noise.
    likelihood : float
        Mean log-likelihood per channel.
    """

    corners: np.ndarray
    sparsity: np.ndarray
    likelihood: float


def band_pass(spectra: np.ndarray, width: float) -> np.ndarray:
    """First derivative of a Gaussian of `width` channels along the last axis, its own slope on straight lines removed."""
    from scipy.ndimage import gaussian_filter1d

    slope = gaussian_filter1d(spectra, width, axis=-1, order=1, mode="nearest")
    smooth = gaussian_filter1d(slope, 12.0 * width, axis=-1, mode="nearest")
    return np.asarray(slope - smooth)


WIDTH = 2.0
"""Channels: about the width of the sharpest edges that a spectrometer is set up to sample."""


def sharp_units(subspace: Subspace, k: int, width: float = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """Band-passed vectors in units of the noise, ``(channels, k)``, and the variance of noise along each of them."""
    h = subspace.channel_scale
    held = h > 0
    vectors = subspace.vectors[:, :k] * h[:, None]
    sharp = band_pass(vectors.T, width).T  # (channels, k)
    # noise of a singular vector is even over channels, 1/s: through the scale and the filter it becomes nu_j / s
    impulse = np.zeros(8 * int(np.ceil(width)) + 9)
    impulse[len(impulse) // 2] = 1.0
    power = float((band_pass(impulse[None], width) ** 2).sum())
    nu = np.sqrt(power) * h
    # neighbouring channels say nearly the same after the filter
    units = np.ascontiguousarray((sharp[held] / nu[held, None])[:: max(1, int(width))])
    noise = subspace.noise / np.maximum(subspace.values[:k] ** 2, 1e-30)
    return units, noise


def likelihood_of(subspace: Subspace, corners: np.ndarray, width: float = WIDTH) -> float:
    """Log-likelihood of the sharp features of the endmembers given, with weights fitted for them, in all."""
    k = len(corners)
    units, noise = sharp_units(subspace, k, width)
    total = float(np.linalg.slogdet(corners)[1])
    for row in corners:
        weights = np.full(len(WIDTHS), 1.0 / len(WIDTHS))
        variance = float(noise @ row**2) * WIDTHS
        mean = 0.0
        for _ in range(15):
            mean, weights, _ = scale_mixture(units, row, variance, weights)
        total += mean
    # the filter is about two widths wide, and a sample was taken every width
    return total * len(units) / 2.0


def fit(subspace: Subspace, k: int, rng: np.random.Generator, *, width: float = WIDTH, starts: int = 1) -> Lines:
    """Rotate the first `k` singular vectors until the endmembers' sharp features are sparse."""
    units, noise = sharp_units(subspace, k, width)
    h = subspace.channel_scale
    best: Lines | None = None
    start = _whitening(units)
    for turn in range(starts):
        rotation = np.eye(k) if turn == 0 else np.linalg.qr(rng.standard_normal((k, k)))[0]
        found = _maximise(units, noise, rotation @ start)
        if best is None or found.likelihood > best.likelihood + 1e-9:
            best = found
    assert best is not None
    corners = best.corners
    # the sign that makes the spectrum positive
    totals = (corners @ subspace.vectors[:, :k].T) @ h
    corners = corners * np.where(totals < 0, -1.0, 1.0)[:, None]
    return Lines(corners, best.sparsity, best.likelihood)


def _whitening(units: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(units.T @ units / len(units))
    return np.asarray((vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1]))).T)


def _maximise(units: np.ndarray, noise: np.ndarray, rotation: np.ndarray, turns: int = 40) -> Lines:
    k = len(rotation)
    b = rotation.copy()
    weights = np.full((k, len(WIDTHS)), 1.0 / len(WIDTHS))
    before = -np.inf
    likelihood = -np.inf
    for turn in range(turns):
        total = 0.0
        for c in range(k):
            spike = float(noise @ b[c] ** 2)
            variance = spike * WIDTHS  # (parts,)
            mean, weights[c], covariance = scale_mixture(units, b[c], variance, weights[c])
            total += mean
            unit = np.zeros(k)
            unit[c] = 1.0
            try:
                row = np.linalg.solve(b @ covariance, unit)
            except np.linalg.LinAlgError:
                break
            b[c] = row / np.sqrt(max(float(row @ covariance @ row), 1e-300))
        likelihood = total + float(np.linalg.slogdet(b)[1])
        if turn > 8 and abs(likelihood - before) < 3e-5:
            break
        before = likelihood
    return Lines(b, weights[:, 0] + weights[:, 1], likelihood)
