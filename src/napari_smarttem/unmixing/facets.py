"""Endmembers from the faces of the cloud of pixels: minimum volume with the noise, not a constant, as the judge.

A pixel in which endmember c is absent lies on the face opposite to c: a hyperplane ``w . t = 0`` through the origin of
the k-dimensional score space, whatever the thickness. Scores have noise of variance one in every direction, so the signed
distances ``d = w . t`` (``|w| = 1``) of all pixels are distributed as ``pi N(d) + rho Phi(d)`` near the face: an atom of
those that lie on it, blurred by known noise, and a population on one side only. Maximising this likelihood over w, face by
face (expectation-maximisation with Newton steps on the sphere, noise annealed from wide to true), places the face through
the middle of its pixels, where penalised minimum volume cuts or swells by an amount that depends on a constant. The k
faces meet in the endmembers, which no pixel needs to contain. The gain in likelihood over "no pixel lies here" says
whether the face is there at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .kernels import facet_sums

NEAR = 5.0
SCHEDULE = (8.0, 4.0, 2.0, 1.4, 1.0)


@dataclass(frozen=True)
class Facets:
    """The faces found.

    Parameters
    ----------
    normals : ndarray
        ``(k, k)``, one inward unit normal a row, in the space of the scores given.
    corners : ndarray
        ``(k, k)`` endmember scores, one a row, of arbitrary length.
    on_face : ndarray
        ``(k,)`` number of pixels on each face.
    evidence : ndarray
        ``(k,)`` log-likelihood gained, per face, by saying that pixels lie on it.
    support : ndarray
        ``(k,)`` in how many noise widths the pixels on a face spread in their narrowest direction along it.
    width : ndarray
        ``(k,)`` spread across the face over the noise; one where the noise is understood.
    """

    normals: np.ndarray
    corners: np.ndarray
    on_face: np.ndarray
    evidence: np.ndarray
    support: np.ndarray
    width: np.ndarray


def fit(scores: np.ndarray, corners: np.ndarray, *, schedule: tuple[float, ...] = SCHEDULE, turns: int = 8) -> Facets:
    """Fit all faces, starting from the simplex of `corners`.

    Parameters
    ----------
    scores : ndarray
        ``(pixels, k)`` with noise of variance one.
    corners : ndarray
        ``(k, k)`` rows, a first guess.
    """
    k = corners.shape[0]
    points = np.ascontiguousarray(scores, dtype=np.float64)
    normals = np.linalg.inv(corners).T
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    inward = np.sign(np.einsum("ij,ij->i", normals, corners))
    normals *= inward[:, None]
    spread = np.median(np.abs(points @ normals.T), axis=0)
    on, evidence, support, width = (np.zeros(k) for _ in range(4))
    for c in range(k):
        normal = normals[c].copy()
        for sigma in schedule:
            if sigma > 1.0 and sigma * NEAR > spread[c]:
                continue  # wider than the whole cloud: nothing to be learnt at this blur
            normal, figures = _face(points, normal, sigma, turns if sigma > 1 else 2 * turns)
        normals[c] = normal
        on[c], evidence[c], support[c], width[c] = figures
    inverse = np.linalg.inv(normals)  # rows of the result's transpose meet all faces but one
    return Facets(normals, np.ascontiguousarray(inverse.T), on, evidence, support, width)


def _face(
    points: np.ndarray, normal: np.ndarray, sigma: float, turns: int
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    count = len(points)
    distance = points @ normal
    reach = 3.0 * NEAR * sigma
    close = np.ascontiguousarray(points[distance < reach])
    if len(close) < 2 * points.shape[1]:
        return normal, (0.0, 0.0, 0.0, 1.0)
    atom = 0.3 * len(close) / count
    density = 0.7 * len(close) / count / (3.0 * NEAR)
    figures = (0.0, 0.0, 0.0, 1.0)
    for _ in range(turns):
        gain, mass, _, square, gradient, curvature, scatter = facet_sums(close, normal, sigma, atom, density, NEAR)
        near = close @ normal < NEAR * sigma
        inside = max(float(np.count_nonzero(near)) - mass, 1.0)
        atom = max(mass, 1e-3) / count
        density = inside / count / NEAR
        tangent = np.eye(len(normal)) - np.outer(normal, normal)
        hessian = tangent @ curvature @ tangent
        values, vectors = np.linalg.eigh(hessian)
        inverse = np.where(values > 1e-9 * max(values[-1], 1e-30), 1.0 / np.maximum(values, 1e-30), 0.0)
        step = -(vectors * inverse) @ (vectors.T @ (tangent @ gradient))
        length = float(np.linalg.norm(step))
        if length > 0.3:
            step *= 0.3 / length
        normal = normal + step
        normal /= np.linalg.norm(normal)
        along = np.linalg.eigvalsh(tangent @ scatter @ tangent)
        narrowest = float(np.sqrt(max(along[1], 0.0) / max(mass, 1e-9))) if len(along) > 1 else 0.0
        figures = (mass, gain, narrowest, float(np.sqrt(square / max(mass, 1e-9))))
        if length < 1e-6:
            break
    return normal, figures
