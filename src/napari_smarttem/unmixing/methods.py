"""The methods, each a function of a `Problem` that gives endmember scores and the sentence it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import autoencoder, classify, facets, factorize, lines, nmf, vertices, volume
from .auto import find_auto, linear_noise
from .methods_base import Found, Method

if TYPE_CHECKING:
    from .engine import Problem


def find_spa(problem: Problem) -> Found:
    """Successive projections: corners of the cloud."""
    corners = vertices.successive_projections(problem.subspace.scores[:, : problem.k], problem.k)
    return Found(corners, _PURE)


def find_vca(problem: Problem) -> Found:
    """Vertex component analysis; ``restarts`` (20)."""
    restarts = int(problem.options.get("restarts", 20))
    scores = problem.subspace.scores[:, : problem.k]
    return Found(vertices.vertex_components(scores, problem.k, problem.rng, restarts), _PURE)


def find_n_findr(problem: Problem) -> Found:
    """N-FINDR: the largest simplex with corners in the data."""
    return Found(vertices.n_findr(problem.subspace.scores[:, : problem.k], problem.k), _PURE)


def find_facets(problem: Problem) -> Found:
    """Minimum volume, judged by the noise: faces of the cloud."""
    scores = problem.subspace.scores[:, : problem.k]
    corners = vertices.successive_projections(scores, problem.k)
    corners = volume.minimum_volume(scores.astype(float), corners, problem.rng)
    found = facets.fit(scores, corners, linear_noise(problem.subspace, corners))
    return Found(found.corners, _FACES, used="minimum-volume")


def find_lines(problem: Problem) -> Found:
    """Independent sharp features; the beginning that ends in the highest likelihood, of the faces and five rotations."""
    scores = np.ascontiguousarray(problem.subspace.scores[:, : problem.k], dtype=np.float64)
    corners = vertices.successive_projections(scores, problem.k)
    faces = facets.fit(scores, corners, linear_noise(problem.subspace, corners))
    width = float(problem.options.get("width", lines.WIDTH))
    found = lines.fit(problem.subspace, problem.k, problem.rng, width=width, starts=5, start=faces.corners)
    return Found(found.corners, _LINES, used="lines")


_PURE = "Every endmember is found nearly pure in at least some pixels."
_FACES = "Every endmember is absent from enough pixels, so that the faces of the cloud of pixels can be seen."

_LINES = "Lines and edges stand at few energies, and most of them belong to one endmember."

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("auto", "Automatic", "Finds out what the data allow and says what it assumed.", find_auto),
        Method(
            "minimum-volume",
            "Minimum volume",
            "The tightest simplex around the pixels, placed by the noise; needs no pure pixels.",
            find_facets,
        ),
        Method("lines", "Lines", "Endmembers whose sharp features are sparse; needs no pure pixels.", find_lines),
        Method("vca", "VCA", "Corners of the cloud along random directions; needs pure pixels.", find_vca),
        Method("spa", "SPA", "Corners by successive projections; needs pure pixels.", find_spa),
        Method("n-findr", "N-FINDR", "The largest simplex with corners in the data; needs pure pixels.", find_n_findr),
        Method(
            "svd", "SVD / PCA", "Orthogonal directions of most variance; to look, not to believe.", factorize.find_svd
        ),
        Method("nmf", "NMF", "Non-negative maps and spectra; not unique.", nmf.find_nmf),
        Method("ica", "ICA", "Independent changes along energy, as blind source separation.", factorize.find_ica),
        Method("clusters", "Clusters", "k-means (or a Gaussian mixture) of the scores.", classify.find_clusters),
        Method(
            "autoencoder",
            "Autoencoder + mixture",
            "Kinds of pixels in a code that a network learns; needs PyTorch.",
            autoencoder.find_autoencoder,
        ),
        Method("labels", "Few labels", "Every pixel to one of the kinds painted.", classify.find_labelled),
        Method("reference", "Reference fit", "Amounts of known spectra.", factorize.find_reference),
    )
}
"""Every method by name, in the order of a menu."""
