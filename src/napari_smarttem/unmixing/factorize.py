"""The familiar factorizations in the same interface: SVD, ICA, and fitting known spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..schema import BadInput
from . import abundances
from .methods_base import Found

if TYPE_CHECKING:
    from .engine import Problem


def find_svd(problem: Problem) -> Found:
    """Principal components of the noise-scaled data: orthogonal, signed, for counting and denoising."""
    k = problem.k
    return Found(
        np.eye(k),
        "None: these are orthogonal directions of most variance, not spectra of anything.",
        amounts=problem.subspace.scores[:, :k].astype(np.float64),
        sort=False,
    )


def find_ica(problem: Problem) -> Found:
    """FastICA of the first differences of the vectors (as HyperSpy's blind source separation), signs by positivity."""
    from sklearn.decomposition import FastICA

    subspace, k = problem.subspace, problem.k
    vectors = subspace.vectors[:, :k] * subspace.channel_scale[:, None]
    seed = int(problem.rng.integers(2**31 - 1))
    model = FastICA(k, random_state=seed, whiten="unit-variance", max_iter=500)
    model.fit(np.diff(vectors, axis=0))
    corners = np.asarray(model.components_)
    totals = (corners @ vectors.T).sum(axis=1)
    corners = corners * np.where(totals < 0, -1.0, 1.0)[:, None]
    return Found(corners, "The changes of the spectra from channel to channel are statistically independent.")


def _mean(problem: Problem) -> np.ndarray:
    if problem.subspace.poisson:
        return problem.subspace.mean
    return np.asarray(
        sum(block.sum(axis=0, dtype=np.float64) for *_, block in problem.image.blocks()) / problem.image.pixels
    )


def find_reference(problem: Problem) -> Found:
    """Amounts of known spectra: ``library`` ``(k, channels)`` on the same energies with optional ``names``, or ``symbols``.

    ``symbols`` (``("Fe", "Pt")``) are elements whose lines or edges in exspy's tables are fitted to the mean spectrum with
    the background under them; the spectra found are the library.

    Raises
    ------
    BadInput
        Neither of both, another number of channels or names, or elements that cannot be fitted.
    """
    image, library, names = problem.image, problem.options.get("library"), tuple(problem.options.get("names", ()))
    if library is None and problem.options.get("symbols"):
        from .known_elements import library_of

        names, library = library_of(_mean(problem), image.energy_ev, problem.options["symbols"], signal=image.signal)
    if library is None:
        raise BadInput(
            "Fitting needs a library of known spectra, one a row, on the same energy axis, or symbols of elements."
        )
    library = np.atleast_2d(np.asarray(library, dtype=np.float64))
    if library.shape[1] != problem.image.channels:
        raise BadInput(
            f"The library has {library.shape[1]} channels and the data {problem.image.channels};"
            " bring it to the same energy axis first."
        )
    if names and len(names) != len(library):
        raise BadInput(f"There are {len(names)} names for {len(library)} spectra of the library.")
    subspace = problem.subspace
    r = min(len(subspace.values), max(len(library), problem.k))
    h, root_g = subspace.channel_scale, subspace.pixel_scale
    scaled = library / np.where(h > 0, h, np.inf)
    vectors = subspace.vectors[:, :r]
    corners = scaled @ np.linalg.pinv(vectors).T
    lost = np.linalg.norm(scaled - corners @ vectors.T, axis=1) / np.maximum(np.linalg.norm(scaled, axis=1), 1e-30)
    strange = [names[c] if names else str(c + 1) for c in range(len(library)) if lost[c] > 0.3]
    warnings = (
        (f"Library spectra {', '.join(strange)} are hardly contained in the data: absent, or calibrated otherwise.",)
        if strange
        else ()
    )
    # the data themselves are fitted: fewer directions than spectra in the library could not tell these apart
    products = np.empty((image.pixels, len(library)))
    weight = (scaled / np.where(h > 0, h, np.inf)).T.astype(np.float32)
    for first, last, block in image.blocks():
        problem.report(0.65 + 0.2 * first / image.pixels, "fitting the library")
        products[first:last] = block @ weight
    gram = scaled @ scaled.T
    amounts = abundances.of_products(gram, products / np.where(root_g > 0, root_g, np.inf)[:, None])
    errors = np.sqrt(np.maximum(np.diag(np.linalg.pinv(gram)), 0.0) * subspace.noise)
    return Found(
        corners,
        "The pixels are mixtures of the library's spectra and of nothing else.",
        warnings,
        amounts=amounts,
        sort=False,
        spectra=library,
        errors=errors,
        names=names,
    )
