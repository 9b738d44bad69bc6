"""Endmembers as the corners of the cloud of pixels: SPA, VCA and N-FINDR, for data that hold pure pixels.

Gillis and Vavasis (IEEE TPAMI 36, 2014, 698), Nascimento and Bioucas-Dias (IEEE TGRS 43, 2005, 898), Winter (Proc. SPIE
3753, 1999, 266). All work on scores ``(pixels, k)`` and return rows of endmember scores ``(k, k)``.
"""

from __future__ import annotations

import numpy as np

AVERAGED = 40
"""A corner is the mean of at most this many of the farthest pixels: one pixel alone is mostly noise."""


def affine(scores: np.ndarray, snr_floor: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `scores` brought to the plane on which the mean direction is one, and which rows hold enough for that."""
    mean = scores.mean(axis=0)
    mean /= np.linalg.norm(mean)
    along = scores @ mean
    usable = along > max(snr_floor, 0.05 * float(np.median(np.abs(along))))
    return scores / np.where(usable, along, 1.0)[:, None], usable


def _farthest(along: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float]:
    count = max(1, min(AVERAGED, len(along) // 200))
    best = np.argpartition(along, -count)[-count:]
    return best, float(np.average(along[best], weights=weight[best]))


def successive_projections(scores: np.ndarray, k: int) -> np.ndarray:
    """SPA with averaged corners: the farthest pixels, then the farthest from what is spanned already."""
    points, usable = affine(scores)
    points = points[usable].astype(np.float64)
    weight = np.abs(scores[usable]).max(axis=1).astype(np.float64) ** 2
    corners = np.empty((k, points.shape[1]))
    left = points - np.average(points, axis=0, weights=weight) if k > 1 else points
    for c in range(k):
        squares = np.einsum("ij,ij->i", left, left)
        far = left[int(np.argmax(squares))]
        far = far / max(float(np.linalg.norm(far)), 1e-30)
        best, _ = _farthest(left @ far, weight)
        corners[c] = np.average(points[best], axis=0, weights=weight[best])
        basis = corners[: c + 1] - (corners[0] if c > 0 else 0.0)
        if c == 0:
            left = points - corners[0]
            continue
        q = np.linalg.qr(basis[1:].T)[0]
        left = points - corners[0]
        left = left - (left @ q) @ q.T
    return corners


def vertex_components(scores: np.ndarray, k: int, rng: np.random.Generator, restarts: int = 20) -> np.ndarray:
    """VCA: corners along random directions; of several restarts the one that encloses the largest volume."""
    points, usable = affine(scores)
    points = points[usable].astype(np.float64)
    weight = np.abs(scores[usable]).max(axis=1).astype(np.float64) ** 2
    best_volume, best_corners = -1.0, points[:k]
    for _ in range(restarts):
        corners = np.zeros((k, points.shape[1]))
        for c in range(k):
            direction = rng.standard_normal(points.shape[1])
            if c:
                q = np.linalg.qr(corners[:c].T)[0]
                direction -= q @ (q.T @ direction)
            along = points @ direction
            if -along.min() > along.max():
                along = -along
            best, _ = _farthest(along, weight)
            corners[c] = np.average(points[best], axis=0, weights=weight[best])
        volume = abs(float(np.linalg.det(corners)))
        if volume > best_volume:
            best_volume, best_corners = volume, corners
    return np.asarray(best_corners)


def n_findr(scores: np.ndarray, k: int, sweeps: int = 5) -> np.ndarray:
    """N-FINDR: exchange one corner after the other for the pixels that enlarge the simplex most, until none does."""
    points, usable = affine(scores)
    points = points[usable].astype(np.float64)
    weight = np.abs(scores[usable]).max(axis=1).astype(np.float64) ** 2
    corners = successive_projections(scores, k)
    volume = abs(float(np.linalg.det(corners)))
    for _ in range(sweeps):
        changed = False
        for c in range(k):
            others = np.delete(corners, c, axis=0)
            normal = np.linalg.svd(others)[2][-1]
            along = points @ normal
            if -along.min() > along.max():
                along = -along
            best, _ = _farthest(along, weight)
            trial = corners.copy()
            trial[c] = np.average(points[best], axis=0, weights=weight[best])
            larger = abs(float(np.linalg.det(trial)))
            if larger > volume * (1 + 1e-6):
                corners, volume, changed = trial, larger, True
        if not changed:
            break
    return corners
