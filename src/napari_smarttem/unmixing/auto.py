"""*Automatic*: find out what the data allow, and say what was assumed.

Two independent views are taken, of the pixels (faces of their cloud) and of the spectra (sharp features that belong to
few endmembers), each with known noise. Which simplex is right is decided by what the noise forbids: pixels outside of it,
spectra below zero, faces that no pixel reaches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import facets, lines, vertices, volume
from .abundances import gain, noise_matrices, nonnegative, read_out_matrix
from .methods_base import Found
from .subspace import Subspace

if TYPE_CHECKING:
    from .engine import Problem

ENOUGH_ON_A_FACE = 20
SEEN = 5.0
"""Log-likelihood that pixels on a face must gain for the face to be there."""
MIXED_PART = 0.025
"""Endmembers that all hold more than this part of each other's sharp features are taken for mixtures."""


@dataclass(frozen=True)
class Candidate:
    """A simplex and what speaks against it, in units of noise per pixel and channel."""

    corners: np.ndarray
    outside: float
    negative: float
    faces: facets.Facets | None

    @property
    def badness(self) -> float:
        """Misfit of pixels outside plus that of spectra below zero."""
        return self.outside + self.negative


def find_auto(problem: Problem) -> Found:
    """Choose between corners, faces and lines."""
    subspace, k = problem.subspace, problem.k
    scores = np.ascontiguousarray(subspace.scores[:, :k], dtype=np.float64)
    if k == 1:
        corners = np.ones((1, 1)) * np.sign(scores.mean() or 1.0)
        return Found(corners, "One component explains the data down to the noise: all spectra have the same shape.")
    start = vertices.successive_projections(scores, k)
    noise = linear_noise(subspace, start)
    problem.report(0.68, "faces of the cloud")
    geometric = _judged(subspace, scores, facets.fit(scores, start, noise))
    corner = Candidate(start, *_against(subspace, scores, start), geometric.faces)
    if geometric.negative > max(1.0, 2.0 * corner.negative):  # spectra far below zero: these are no faces
        geometric = corner
    if geometric.outside > 1.0:  # the first guess was too far inside to see the faces
        wider = volume.minimum_volume(scores, start, problem.rng)
        geometric = min(geometric, _judged(subspace, scores, facets.fit(scores, wider, noise)), key=_badness)
    problem.report(0.78, "sharp features of the spectra")
    line = lines.fit(subspace, k, problem.rng, starts=0, start=geometric.corners)
    spectral = Candidate(line.corners, *_against(subspace, scores, line.corners), None)
    if spectral.badness < 1.0:
        problem.report(0.84, "comparing")
        part = _mixed_part(subspace, geometric.corners, spectral.corners)
        if line.gained > 10.0 * k and part > MIXED_PART:
            return Found(
                spectral.corners,
                "Every pixel holds a little of everything, so the endmembers are not in the data; they rest on the"
                " assumption that lines and edges stand at few energies and most of them belong to one endmember.",
                (
                    f"No corner and no face of the cloud of pixels is free of the other components: geometry alone would"
                    f" have given endmembers that hold {100 * part:.0f} % of each other. The answer rests on the shapes"
                    " of the spectra; check it against spectra you know.",
                ),
                used="lines",
            )
        weak = geometric.faces is not None and min(geometric.faces.evidence) < SEEN
        if geometric.badness > 1.0 or weak:
            again = _judged(subspace, scores, facets.fit(scores, spectral.corners, linear_noise(subspace, start)))
            seen = again.faces is not None and min(again.faces.evidence) >= SEEN
            if again.badness < geometric.badness and (seen or not weak):
                geometric = again
    return _geometric(subspace, scores, geometric)


def _badness(candidate: Candidate) -> float:
    return candidate.badness


def _geometric(subspace: Subspace, scores: np.ndarray, found: Candidate) -> Found:
    amounts = nonnegative(scores, found.corners)
    parts = amounts / np.maximum(amounts.sum(axis=1, keepdims=True), 1e-30)
    pure = (parts > 0.95).sum(axis=0)
    warnings = []
    assert found.faces is not None
    weak = [c for c in range(len(found.corners)) if found.faces.on_face[c] < ENOUGH_ON_A_FACE]
    if found.badness > 1.0:
        warnings.append(
            "Some pixels lie outside of what mixtures of these endmembers can give, by more than the noise: there may be"
            " another component, or plural scattering that changes with thickness (deconvolve first)."
        )
    if weak:
        warnings.append(
            f"{len(weak)} of {len(found.corners)} faces of the cloud of pixels are hardly populated, so that the"
            " endmembers opposite to them are not well determined."
        )
    if (pure >= ENOUGH_ON_A_FACE).all():
        sentence = "Pure pixels of every endmember exist; the faces between them were placed by the known noise."
    else:
        sentence = (
            "Not every endmember is found pure; each is absent from enough pixels that the faces of the cloud of pixels"
            " show where the pure spectra must be (minimum volume, placed by the known noise)."
        )
    return Found(found.corners, sentence, tuple(warnings), used="minimum-volume")


def linear_noise(subspace: Subspace, corners: np.ndarray) -> np.ndarray | None:
    """Covariance of scores as a linear function of the scores, ``(r, r, r)``.

    A pixel ``t = p corners`` has covariance ``sum_c p_c M_c``: linear in p, and p is linear in t. None where it is even. Read-out
    noise, the same for all pixels, goes with the weights of p of which the sum is most nearly one for all of them.
    """
    if not subspace.poisson:
        return None
    root_g = subspace.pixel_scale[subspace.pixel_scale > 0]
    typical, inverse = float(np.median(root_g)), np.linalg.inv(corners)
    matrices = noise_matrices(subspace, corners) / typical
    if subspace.offset > 0:
        amounts = subspace.scores[:, : len(corners)] @ inverse
        whole = np.linalg.lstsq(amounts, np.ones(len(amounts)), rcond=None)[0]
        matrices = matrices + whole[:, None, None] * read_out_matrix(subspace, len(corners)) / typical**2
    matrices = matrices * gain(subspace)
    return np.asarray(np.einsum("qc,cab->abq", inverse, matrices))


def _judged(subspace: Subspace, scores: np.ndarray, found: facets.Facets) -> Candidate:
    return Candidate(found.corners, *_against(subspace, scores, found.corners), found)


def _against(subspace: Subspace, scores: np.ndarray, corners: np.ndarray) -> tuple[float, float]:
    """Mean squared misfit of pixels outside over their noise, and the same of spectra below zero."""
    if not np.isfinite(corners).all() or np.linalg.cond(corners) > 1e8:
        return np.inf, np.inf
    left = scores - nonnegative(scores, corners) @ corners
    outside = float(np.einsum("ij,ij->", left, left)) / (len(scores) * subspace.noise * scores.shape[1])
    k = len(corners)
    profile = corners @ subspace.vectors[:, :k].T
    if profile.sum() == 0:
        return outside, np.inf
    profile *= np.where((profile @ subspace.channel_scale) < 0, -1.0, 1.0)[:, None]
    width = np.sqrt((corners**2 / np.maximum(subspace.values[:k] ** 2, 1e-30)).sum(axis=1) * subspace.noise)
    below = np.minimum(profile / width[:, None] + 1.0, 0.0)
    return outside, float((below**2).mean()) if not subspace.signed else 0.0


def _mixed_part(subspace: Subspace, inner: np.ndarray, outer: np.ndarray) -> float:
    """The part of the others that the inner endmembers hold at least, counted in the outer ones: a low quantile."""
    from scipy.optimize import linear_sum_assignment

    k = len(inner)
    counts = (outer @ subspace.vectors[:, :k].T) @ subspace.channel_scale
    parts = (inner @ np.linalg.inv(outer)) * counts
    parts /= parts.sum(axis=1, keepdims=True)
    rows, columns = linear_sum_assignment(-parts)
    others = np.ones((k, k), bool)
    others[rows, columns] = False
    return float(np.quantile(parts[others], 0.25))
