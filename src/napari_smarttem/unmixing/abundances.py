"""How much of each endmember a pixel holds, with error bars that follow from the counting noise."""

from __future__ import annotations

import numpy as np

from .kernels import nonnegative_rows
from .subspace import Subspace


def nonnegative(scores: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Non-negative least squares ``scores ~ p corners`` for every pixel.

    Parameters
    ----------
    scores : ndarray
        ``(pixels, r)``.
    corners : ndarray
        ``(k, r)``.

    Returns
    -------
    ndarray
        ``(pixels, k)``, float64.
    """
    return of_products(corners @ corners.T, scores @ corners.T)


def of_products(gram: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """`nonnegative` from the products of endmembers with each other ``(k, k)`` and of spectra with them ``(pixels, k)``."""
    scale = np.sqrt(np.maximum(np.diag(gram), 1e-300))
    gram = np.ascontiguousarray(gram / scale / scale[:, None], dtype=np.float64)
    targets = np.ascontiguousarray(targets / scale, dtype=np.float64)
    start = targets @ np.linalg.inv(gram + 1e-12 * np.eye(len(gram)))
    found = np.asarray(nonnegative_rows(gram, targets, start))
    found /= scale
    return found


def noise_matrices(subspace: Subspace, corners: np.ndarray) -> np.ndarray:
    """Covariance of the scores of a spectrum that is one unit of each endmember, ``(k, r, r)``.

    Counting noise: the variance of a channel is its mean. With the uniform scale it is the identity times the noise.
    """
    k, r = corners.shape
    if not subspace.poisson:
        return np.repeat(np.eye(r)[None] * subspace.noise, k, axis=0)
    scaled = corners @ subspace.vectors[:, :r].T  # endmember / sqrt(h)
    if not subspace.signed:
        scaled = np.maximum(scaled, 0.0)
    h = subspace.channel_scale
    weight = scaled / np.where(h > 0, h, np.inf)  # endmember / h: variance of the scaled channel
    vectors = subspace.vectors[:, :r]
    return np.stack([(vectors * row[:, None]).T @ vectors for row in weight])


def read_out_matrix(subspace: Subspace, r: int) -> np.ndarray:
    """Covariance of the first `r` scores by what is there without signal, of a pixel of ``pixel_scale`` one, ``(r, r)``."""
    h, vectors = subspace.channel_scale, subspace.vectors[:, :r]
    weight = subspace.offset / np.where(h > 0, h, np.inf) ** 2
    return np.asarray((vectors * weight[:, None]).T @ vectors)


def errors(subspace: Subspace, corners: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """Standard error of `amounts` (as from `nonnegative`), ``(pixels, k)``.

    The covariance of least squares, ``P M P^T`` with the noise ``M`` of each pixel and the pseudo-inverse ``P``.
    """
    inverse = np.linalg.pinv(corners)  # (r, k): p = t @ inverse
    if not subspace.poisson:
        variance = np.einsum("rk,rk->k", inverse, inverse) * subspace.noise
        return np.asarray(np.sqrt(np.broadcast_to(variance, amounts.shape)))
    matrices = noise_matrices(subspace, corners)
    per_unit = np.einsum("rk,crs,sk->ck", inverse, matrices, inverse)
    root_g = subspace.pixel_scale
    # scores = X / sqrt(g) / sqrt(h): a pixel of many counts has its noise divided by its own sqrt(g)
    variance = (amounts @ per_unit) / np.where(root_g > 0, root_g, np.inf)[:, None] * gain(subspace)
    if subspace.offset > 0:
        apart = np.einsum("rk,rs,sk->k", inverse, read_out_matrix(subspace, corners.shape[1]), inverse)
        variance = variance + apart / np.where(root_g > 0, root_g**2, np.inf)[:, None] * gain(subspace)
    floor = per_unit.mean(axis=0) * 1e-6
    return np.asarray(np.sqrt(np.maximum(variance, floor)))


def gain(subspace: Subspace) -> float:
    """Noise variance over that of counting; electrons per count, or a coefficient left by earlier processing."""
    if not subspace.poisson:
        return 1.0
    return max(1.0, subspace.noise) if subspace.counts else subspace.noise


def whole(weights: np.ndarray, endmembers: np.ndarray) -> np.ndarray:
    """Factors on the endmembers so that the amounts of a pixel sum to one as nearly as can be.

    Where that has no sensible answer (methods with signed maps) each map is brought to a largest value of one.

    Parameters
    ----------
    weights : ndarray
        ``(pixels, k)`` amounts of `endmembers` in the data.
    endmembers : ndarray
        ``(k, channels)``.
    """
    k = weights.shape[1]
    if (weights >= 0).all():
        total = np.linalg.lstsq(weights.T @ weights, weights.sum(axis=0), rcond=None)[0]
        counts = endmembers.sum(axis=1)
        if (total > 0).all() and (counts > 0).all():
            return np.asarray(1.0 / total)
        bright = weights @ np.abs(counts)
        return np.asarray(np.full(k, float(np.median(bright[bright > 0]))) / np.maximum(np.abs(counts), 1e-300))
    largest = np.percentile(np.abs(weights), 99.5, axis=0)
    return np.asarray(np.where(largest > 0, largest, 1.0))
