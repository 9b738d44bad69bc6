"""How constants of the unmixing are chosen without looking at the truth: what one half of the counts says of the other.

Every count of a spectrum image goes to one of two halves by the toss of a coin; the halves of Poisson counts are independent.
Of the values a constant may have that one is right for which the endmembers of the halves agree best.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...unmixing import auto, facets, lines, vertices
from ...unmixing.spectra import spectrum_image
from ...unmixing.subspace import decompose


def halves(data: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two independent halves of the counts `data`, float32."""
    counts = np.rint(data).astype(np.int64)
    one = np.random.default_rng(seed).binomial(counts, 0.5)
    return one.astype(np.float32), (counts - one).astype(np.float32)


def angle_between(a: np.ndarray, b: np.ndarray) -> float:
    """Mean angle in degrees between the spectra ``(k, channels)`` of two answers, matched."""
    from scipy.optimize import linear_sum_assignment

    one, other = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300) for x in (a, b))
    angles = np.degrees(np.arccos(np.clip(one @ other.T, -1.0, 1.0)))
    return float(angles[linear_sum_assignment(angles)].mean())


def line_width(data: np.ndarray, k: int, widths: Sequence[float], seed: int = 0) -> np.ndarray:
    """Angle in degrees between the two halves' endmembers by their lines, for each width of the band-pass.

    Chose `lines.WIDTH`: of 0.7, 1, 1.5, 2 and 3 channels the one with the least mean over the sets "all_mixed", "no_pure" and
    "easy" of seeds 30 to 34, 64x64x1024.
    """
    found = []
    for half in halves(data, seed):
        subspace = decompose(spectrum_image(half), k + 4, seed=seed)
        scores = np.ascontiguousarray(subspace.scores[:, :k], dtype=np.float64)
        start = vertices.successive_projections(scores, k)
        faces = facets.fit(scores, start, auto.linear_noise(subspace, start))
        rng = np.random.default_rng(seed)
        found.append(
            [
                subspace.spectra(lines.fit(subspace, k, rng, width=width, starts=0, start=faces.corners).corners)
                for width in widths
            ]
        )
    return np.array([angle_between(a, b) for a, b in zip(*found, strict=True)])
