"""Endmembers from what is known of spectra: lines and edges stand at few energies, and each belongs to few endmembers.

Where every pixel holds a little of everything the cloud of pixels has no corners and no true faces, and geometry finds a
simplex that is too small without noticing. Spectra help: the sharp features of an endmember (seen through a band-pass
along energy, which removes smooth backgrounds) are absent at most energies. So the rotation is looked for in which
endmembers are sparse: independent component analysis by maximum likelihood, with a source density that is fitted - a spike
as wide as the known noise, and Gaussians of many widths - and the iterative-projection update of Ono (WASPAA 2011), which
never lowers the likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .kernels import sparse_rotation
from .subspace import Subspace

WIDTHS = 6
"""Gaussians in the density of a source: as wide as the noise, and each with six times the variance of the one before."""
SETTLE = 8
"""Turns of expectation-maximisation for the densities before the first step."""
ENOUGH = 0.5
"""A turn that gains less log-likelihood than this is the last."""


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
        Log-likelihood of the sharp features, in all.
    gained : float
        By how much that is more than at the start, with densities fitted to the start.
    """

    corners: np.ndarray
    sparsity: np.ndarray
    likelihood: float
    gained: float


def band_pass(spectra: np.ndarray, width: float) -> np.ndarray:
    """First derivative of a Gaussian of `width` channels along the last axis, its own slope on straight lines removed."""
    from scipy.ndimage import gaussian_filter1d

    slope = gaussian_filter1d(spectra, width, axis=-1, order=1, mode="nearest")
    smooth = gaussian_filter1d(slope, 12.0 * width, axis=-1, mode="nearest")
    return np.asarray(slope - smooth)


WIDTH = 1.0
"""Channels. Endmembers from two halves of the counts agree best with it (`bench.parts.unmixing_choices.line_width`)."""


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


def fit(
    subspace: Subspace,
    k: int,
    rng: np.random.Generator,
    *,
    width: float = WIDTH,
    starts: int = 1,
    start: np.ndarray | None = None,
) -> Lines:
    """Rotate the first `k` singular vectors until the endmembers' sharp features are sparse.

    Parameters
    ----------
    subspace : Subspace
    k : int
        Number of endmembers.
    rng : numpy Generator
        For random starts.
    width : float
        Channels, of the band-pass.
    starts : int
        Besides `start`: whitened vectors, and random rotations of them for those after the first.
    start : ndarray, optional
        ``(k, k)`` corners to begin from; the likelihood has many local maxima, and a simplex that is only too small lies
        near the right one. With ``starts=0`` the only beginning.
    """
    units, noise = sharp_units(subspace, k, width)
    begin = [] if start is None else [start]
    whitened = _whitening(units) if starts else np.eye(k)
    begin += [np.linalg.qr(rng.standard_normal((k, k)))[0] @ whitened if turn else whitened for turn in range(starts)]
    best = max((_maximise(units, noise, one) for one in begin), key=_likelihood)
    corners = best.corners
    # the sign that makes the spectrum positive
    totals = (corners @ subspace.vectors[:, :k].T) @ subspace.channel_scale
    return replace(best, corners=corners * np.where(totals < 0, -1.0, 1.0)[:, None])


def _likelihood(found: Lines) -> float:
    return found.likelihood


def _whitening(units: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(units.T @ units / len(units))
    return np.asarray((vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1]))).T)


def _maximise(units: np.ndarray, noise: np.ndarray, start: np.ndarray, turns: int = 60) -> Lines:
    try:
        b, weights, first, likelihood = sparse_rotation(
            units, noise, np.ascontiguousarray(start, dtype=np.float64), WIDTHS, SETTLE, turns, ENOUGH
        )
    except np.linalg.LinAlgError:  # endmembers that are the same: no rotation of those is any better
        return Lines(start, np.zeros(len(start)), -np.inf, 0.0)
    return Lines(b, weights[:, 0] + weights[:, 1], float(likelihood), float(likelihood - first))
