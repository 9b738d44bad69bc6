"""Endmembers from the faces of the cloud of pixels: minimum volume with the noise, not a constant, as the judge.

A pixel in which endmember c is absent lies on the face opposite to c: a hyperplane ``w . t = 0`` through the origin of
the k-dimensional score space, whatever the thickness. Scores have known noise, so the signed distances ``d = w . t`` of
all pixels, in noise widths, are distributed like a non-negative quantity plus unit normal noise. What is non-negative
there may be anything: it is fitted as an atom at zero (pixels on the face) and exponentials of many scales (pixels near
it, far from it). Maximising this likelihood over w, face by face (weights of the mixture by expectation-maximisation on a
histogram, w by Fisher scoring on the sphere, noise annealed from wide to true), places the face where penalised minimum
volume cuts or swells by an amount that depends on a constant. The k faces meet in the endmembers, which no pixel needs to
contain. The pixels on a face, and what the likelihood gains by them, say whether the face is there at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .kernels import place_face

LOW, HIGH, STEP = -8.0, 8.0, 0.1
BINS = round((HIGH - LOW) / STEP)
SCALES = (0.5, 1.0, 2.0)
FEWEST = 20
"""A face that fewer pixels lie on stays where the first guess put it."""
SCHEDULE = (8.0, 4.0, 2.0, 1.0)
ROUGHLY = 2048
"""Pixels that are looked at while the noise is taken for wider than it is."""
PLACED = (0.1, 0.003)
"""A shift in noise widths after which a face is placed, roughly and in the end; chance shifts it by a tenth or so."""


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
        ``(k,)`` number of pixels within about two noise widths of each face.
    evidence : ndarray
        ``(k,)`` log-likelihood gained, per face, by an edge at zero over a distribution without one.
    """

    normals: np.ndarray
    corners: np.ndarray
    on_face: np.ndarray
    evidence: np.ndarray


@lru_cache(maxsize=1)
def _densities() -> np.ndarray:
    """Unit normal noise on an atom, on exponentials of `SCALES` and on an even filling, ``(parts, bins)``.

    The last row, the inside of the cloud, is even from the face to `HIGH` and has mass one there.
    """
    from scipy.special import log_ndtr, ndtr

    d = LOW + STEP * (np.arange(BINS) + 0.5)
    parts = [np.exp(-0.5 * d**2) / np.sqrt(2 * np.pi)]
    for scale in SCALES:
        rate = 1.0 / scale
        parts.append(np.exp(np.log(rate) + 0.5 * rate**2 - rate * d + log_ndtr(d - rate)))
    parts.append(ndtr(d) / HIGH)
    return np.ascontiguousarray(np.array(parts))


def fit(
    scores: np.ndarray,
    corners: np.ndarray,
    noise: np.ndarray | None = None,
    *,
    schedule: tuple[float, ...] = SCHEDULE,
    turns: int = 6,
) -> Facets:
    """Fit all faces, starting from the simplex of `corners`.

    Parameters
    ----------
    scores : ndarray
        ``(pixels, k)``.
    corners : ndarray
        ``(k, k)`` rows, a first guess.
    noise : ndarray, optional
        ``(k, k, k)``: ``noise[a] . t`` is row a of the covariance of a pixel with scores t, that is the covariance is
        linear in the scores, as that of counts is. None: the identity everywhere.
    """
    k = corners.shape[0]
    points = np.ascontiguousarray(scores.T, dtype=np.float64)
    some = np.ascontiguousarray(points[:, :: max(1, points.shape[1] // ROUGHLY)])
    normals = np.linalg.inv(corners).T
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    normals *= np.sign(np.einsum("ij,ij->i", normals, corners))[:, None]
    first = normals.copy()
    mean = points.mean(axis=1)
    if noise is None:  # mean . t / mean^2 is about one for every pixel: the identity as a linear function of t
        noise = np.eye(k)[:, :, None] * (mean / (mean @ mean))
    noise = np.ascontiguousarray(noise)
    on, evidence = np.zeros(k), np.zeros(k)
    for c in range(k):
        normal = normals[c].copy()
        reach = float(np.median(normal @ some))
        for blur in schedule:
            if blur > 1.0 and 6.0 * blur > reach:
                continue  # wider than the cloud: nothing to be learnt at this blur
            rough = blur > 1.0
            normal, on[c], evidence[c] = place(
                some if rough else points, normal, noise, blur, turns if rough else 4 * turns
            )
        if on[c] >= FEWEST and np.isfinite(normal).all():
            normals[c] = normal
    if abs(np.linalg.det(normals)) < 1e-3 * abs(np.linalg.det(first)):
        normals = first  # two faces fell onto each other: the guess is better than that
        evidence[:] = 0.0
    corners = np.ascontiguousarray(np.linalg.inv(normals).T)
    return Facets(normals, corners, on, evidence)


def place(
    points: np.ndarray, normal: np.ndarray, noise: np.ndarray, blur: float, turns: int
) -> tuple[np.ndarray, float, float]:
    """Place one face at one blur: normal, pixels on it, evidence.

    `points` is ``(k, pixels)``. Only pixels near the face say where it is; beyond them the cloud counts as evenly filled.
    Its pixels push the face outwards as it would leave them more room: the mean of that force is taken off again.
    """
    shrunk = points / blur if blur != 1.0 else points
    normal, near, gained = place_face(
        shrunk, normal, noise * blur, _densities(), LOW, STEP, HIGH, 2.0, turns, PLACED[0 if blur > 1.0 else 1]
    )
    return normal, float(near), float(gained)
