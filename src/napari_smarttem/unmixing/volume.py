"""The tightest simplex around the pixels, roughly: a start for the faces where corners in the data are far from the truth.

Minimise ``-log|det W| + lambda mean(hinge(-W t)^2)`` with rows that sum to the mean direction (after SISAL,
Bioucas-Dias, WHISPERS 2009). Only a start: the final place is found by the likelihood in `facets`.
"""

from __future__ import annotations

import numpy as np

SAMPLE = 3000
HARDNESS = 30.0


def minimum_volume(scores: np.ndarray, corners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Corners ``(k, k)`` of the simplex, from the pixels `scores` ``(pixels, k)`` and a first guess."""
    from scipy.optimize import minimize

    k = corners.shape[0]
    mean = scores.mean(axis=0)
    mean = mean / (mean @ mean)
    points = scores / np.maximum(scores @ mean, 0.05)[:, None]
    first = corners / (corners @ mean)[:, None]
    unmixer = np.linalg.inv(first)  # points @ unmixer = parts that sum to one
    if len(points) > SAMPLE:
        parts = points @ unmixer
        far = np.argsort(parts.min(axis=1))[: SAMPLE // 2]
        rest = rng.choice(len(points), SAMPLE // 2, replace=False)
        points = points[np.unique(np.concatenate([far, rest]))]
    base = points @ unmixer
    noise = np.maximum(1.0 / np.maximum(np.linalg.norm(first, axis=1).mean(), 1e-30), 1e-9)
    sigma = np.maximum(noise * np.linalg.norm(unmixer, axis=0).mean() * np.linalg.norm(first, axis=1).mean(), 1e-9)

    def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
        # parts = base @ q, rows of q sum to one so that parts still do
        q = np.concatenate([flat.reshape(k, k - 1), 1.0 - flat.reshape(k, k - 1).sum(axis=1, keepdims=True)], axis=1)
        sign, log_volume = np.linalg.slogdet(q)
        if sign <= 0:
            return 1e12, np.zeros_like(flat)
        below = np.minimum(base @ q, 0.0) / sigma
        penalty = HARDNESS * float((below**2).sum()) / len(base)
        gradient = -np.linalg.inv(q).T + 2 * HARDNESS / len(base) / sigma * (base.T @ below)
        return -log_volume + penalty, (gradient[:, :-1] - gradient[:, -1:]).ravel()

    found = minimize(cost, np.eye(k)[:, :-1].ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 150})
    flat = found.x.reshape(k, k - 1)
    q = np.concatenate([flat, 1.0 - flat.sum(axis=1, keepdims=True)], axis=1)
    if abs(np.linalg.det(q)) < 1e-9:
        return corners
    return np.asarray(np.linalg.inv(unmixer @ q))
