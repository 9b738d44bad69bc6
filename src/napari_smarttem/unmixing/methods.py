"""The methods, each a function of a `Problem` that gives endmember scores and the sentence it rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from . import facets, vertices

if TYPE_CHECKING:
    from .engine import Problem


@dataclass(frozen=True)
class Found:
    """What a method found.

    Parameters
    ----------
    corners : ndarray
        ``(k, r)`` endmembers as scores: ``corners @ vectors.T * channel_scale`` is the spectrum.
    amounts : ndarray, optional
        ``(pixels, k)`` in units of scores; None: non-negative least squares is to find them.
    """

    corners: np.ndarray
    assumption: str
    warnings: tuple[str, ...] = ()
    amounts: np.ndarray | None = None
    used: str = ""
    sort: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A method as a menu shows it."""

    name: str
    title: str
    summary: str
    find: Callable[[Problem], Found]


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
    scores = problem.subspace.scores[:, : problem.k] / np.sqrt(problem.subspace.noise)
    start = vertices.successive_projections(scores, problem.k)
    found = facets.fit(scores, start)
    return Found(found.corners, _FACES, used="minimum-volume")


_PURE = "Every endmember is found nearly pure in at least some pixels."
_FACES = "Every endmember is absent from enough pixels, so that the faces of the cloud of pixels can be seen."

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("auto", "Automatic", "Finds out what the data allow and says what it assumed.", find_facets),
        Method(
            "minimum-volume",
            "Minimum volume",
            "The tightest simplex around the pixels, placed by the noise; needs no pure pixels.",
            find_facets,
        ),
        Method("vca", "VCA", "Corners of the cloud along random directions; needs pure pixels.", find_vca),
        Method("spa", "SPA", "Corners by successive projections; needs pure pixels.", find_spa),
        Method("n-findr", "N-FINDR", "The largest simplex with corners in the data; needs pure pixels.", find_n_findr),
    )
}
"""Every method by name, in the order of a menu."""
