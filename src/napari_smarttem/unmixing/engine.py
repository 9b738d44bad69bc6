"""`unmix`: from a spectrum image to endmembers, maps, error bars, and a sentence on what the answer rests."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from .._version import __version__
from ..schema import BadInput, Cancelled
from . import abundances, plural, rank, spatial_filter
from .methods import METHODS
from .methods_base import Found
from .result import Scree, UnmixingResult
from .smoothing import denoise
from .spectra import SpectrumImage, spectrum_image
from .subspace import Subspace, decompose

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

WEAK = 2.0
"""Singular values nearer to the noise than this need more power iterations than one, or chance has a say in them."""
SETTLED = 0.003
"""A vector that the last power iteration lengthened by more than this part goes on being iterated."""
AGAIN = 4
"""Decompositions after the first one, at most; most data need none."""
OUT_OF_LINE = 1.03
"""The largest singular values of noise follow each other more closely than this."""

BEFORE_SMOOTHING = 0.2
"""Of the time, what is done when smoothing of maps begins."""

JUDGED = ("auto", "svd")
"""Methods that say themselves where they fail, or assume nothing."""
OUTSIDE = 1.0
"""Squared misfit in units of the noise, in the directions of the components: that of a model that holds is near zero."""

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Problem:
    """What a method gets to see.

    Parameters
    ----------
    image : SpectrumImage
    subspace : Subspace
        With at least `k` vectors.
    k : int
        Number of components.
    rng : numpy Generator
    options : dict
        Further settings of the method.
    report : callable
        Told the fraction done and a word; raises `Cancelled` where a person asked to stop.
    """

    image: SpectrumImage
    subspace: Subspace
    k: int
    rng: np.random.Generator
    options: dict[str, Any]
    report: Progress


def unmix(
    frame: Any,
    *,
    method: str = "auto",
    components: int | Literal["auto"] = "auto",
    noise: Literal["auto", "poisson", "uniform"] = "auto",
    seed: int = 0,
    largest: int = rank.LARGEST,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
    threads: int = 1,
    elements: bool = False,
    smooth_maps: bool | spatial_filter.Goal = False,
    client: Any = None,
    **options: Any,
) -> UnmixingResult:
    """See what a spectrum image is made of.

    Parameters
    ----------
    frame : Frame or array
        ``(y, x, energy)`` counts, or a line scan ``(x, energy)``. Memory maps and lazy arrays are read in pieces.
    method : str
        ``"auto"`` looks at the data and says what it assumed; or one of `methods.METHODS`.
    components : int or "auto"
        How many; "auto" counts what stands above the noise.
    noise : {"auto", "poisson", "uniform"}
        Counts, or the same noise everywhere (for data that were subtracted or smoothed).
    seed : int
        Of everything left to chance: the same seed gives the same answer.
    largest : int
        "auto" does not go beyond so many components.
    progress : callable, optional
        Called with the fraction done (0..1) and a word. It may be called on any thread that called `unmix`.
    cancel : callable, optional
        Asked now and then; True ends the work with `Cancelled`.
    threads : int
        Of the linear algebra. More than one rarely pays: the work is limited by reading memory.
    elements : bool
        Name the elements in each endmember too, and the components after them.
    smooth_maps : bool, "least error" or "repeatable"
        Take noise out of the maps as far as two halves of the counts agree on structure, where that predicts counts held
        out better (`spatial_filter`); ``provenance["smooth_maps"]`` says whether, how and by how much. True is "least error";
        "repeatable" smooths more, within a bound on what that costs. The data are read once more.
    client : dask.distributed.Client, optional
        Whose workers read and multiply what is not in memory: lazy arrays, and memory maps of files that they see under the
        same path.
    **options
        Of the method; see its docstring in `methods`.

    Returns
    -------
    UnmixingResult

    Raises
    ------
    BadInput
        Data or settings that cannot be used, in one sentence.
    Cancelled
        A person asked to stop.
    """
    began = time.perf_counter()
    if method not in METHODS:
        raise BadInput(f"There is no unmixing method {method!r}; there are {', '.join(METHODS)}.")
    if smooth_maps not in (False, True, *get_args(spatial_filter.Goal)):
        raise BadInput(f"Maps are smoothed for {' or '.join(get_args(spatial_filter.Goal))}, not for {smooth_maps!r}.")
    image = spectrum_image(frame)
    wanted = _wanted(components, image)

    share = BEFORE_SMOOTHING if smooth_maps else 1.0

    def tell(fraction: float, word: str) -> None:
        if cancel is not None and cancel():
            raise Cancelled("The unmixing was stopped.")
        if progress is not None:
            progress(fraction, word)

    def report(fraction: float, word: str) -> None:
        tell(share * fraction, word)

    with _libraries().limit(limits=max(1, threads)):
        subspace = decompose(
            image,
            max(largest, wanted or 0),
            seed=seed,
            client=client,
            poisson={"auto": None, "poisson": True, "uniform": False}[noise],
            progress=lambda fraction, word: report(0.6 * fraction, word),
            cancel=cancel,
        )
        scree = rank.choose(image, subspace, wanted, largest=largest, seed=seed)
        passes = subspace.passes
        for turn in range(AGAIN):
            if not (_undecided(subspace, scree) if turn == 0 else _unsettled(subspace, scree)):
                break
            subspace = decompose(
                image,
                max(largest, wanted or 0),
                seed=seed,
                client=client,
                poisson=subspace.poisson,
                start=subspace,
                progress=partial(_later, report, turn),
                cancel=cancel,
            )
            passes += subspace.passes
            scree = rank.choose(image, subspace, wanted, largest=largest, seed=seed)
        problem = Problem(image, subspace, scree.chosen, np.random.default_rng(seed), dict(options), report)
        report(0.65, "endmembers")
        found = METHODS[method].find(problem)
        report(0.9, "maps")
        found = replace(found, warnings=(*found.warnings, *_thickness(problem), *rank.warnings(subspace, scree)))
        goal: spatial_filter.Goal = "least error" if isinstance(smooth_maps, bool) else smooth_maps
        smoothed = _smoothed(problem, found, method, goal, tell) if smooth_maps else None
        result = _assemble(problem, scree, found, method, smoothed)
    provenance = {
        "software": f"napari-smarttem {__version__}",
        "method": method,
        "used": found.used or method,
        "components": components,
        "noise": ("counting and read-out" if subspace.offset > 0 else "poisson") if subspace.poisson else "uniform",
        "noise_variance": round(subspace.noise, 6),
        "read_out_noise": round(subspace.read_out, 6),
        "seed": seed,
        "options": {key: value for key, value in options.items() if isinstance(value, (str, int, float, bool))},
        "passes": passes,
        "seconds": round(time.perf_counter() - began, 4),
        "source": image.metadata,
    }
    if smoothed is not None:
        provenance["smooth_maps"] = {
            "used": smoothed.used,
            "held_out_error": round(smoothed.held_out, 4),
            "by": smoothed.by,
        }
        provenance["passes"] = passes + 1
    result = replace(result, provenance=provenance)
    if elements:
        from .elements import name_components

        tell(0.95, "elements")
        with _libraries().limit(limits=max(1, threads)):  # small matrices: threads would wait for each other
            result = name_components(result)
    tell(1.0, "done")
    return result


@lru_cache(maxsize=1)
def _libraries() -> ThreadpoolController:
    """Linear algebra libraries in this process; looking for them takes as long as unmixing a small image."""
    import scipy.linalg  # noqa: F401 - brings a library of its own
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _undecided(subspace: Subspace, scree: Scree) -> bool:
    """Whether the last component is near the noise, or the one after it does not look like noise."""
    values, k = subspace.values, min(scree.chosen, len(subspace.values))
    near = values[k - 1] < WEAK * scree.threshold
    return bool(
        near or _unsettled(subspace, scree) or (k + 1 < len(values) and values[k] > OUT_OF_LINE * values[k + 1])
    )


def _later(report: Progress, turn: int, fraction: float, word: str) -> None:
    report(0.6 + 0.05 * (turn + fraction) / AGAIN, word)


def _unsettled(subspace: Subspace, scree: Scree) -> bool:
    """Whether one more power iteration still lengthened a vector, that is, turned it towards more of the data."""
    return bool((np.linalg.norm(subspace.vectors[:, : scree.chosen], axis=0) > 1.0 + SETTLED).any())


def _wanted(components: int | str, image: SpectrumImage) -> int | None:
    if components == "auto":
        return None
    if isinstance(components, bool) or not isinstance(components, (int, np.integer)) or components < 1:
        raise BadInput(f"The number of components is a whole number from 1 on or 'auto', not {components!r}.")
    if components > min(image.pixels, image.channels):
        raise BadInput(
            f"{components} components are more than {image.pixels} spectra of {image.channels} channels can tell apart;"
            " ask for fewer, or for 'auto'."
        )
    return int(components)


def _smoothed(
    problem: Problem, found: Found, method: str, goal: spatial_filter.Goal, tell: Progress
) -> spatial_filter.Smoothed:
    if found.amounts is not None:
        raise BadInput(
            f"Maps of the method {method!r} cannot be smoothed by counts; choose another method, or leave them as they are."
        )
    return spatial_filter.smoothed_scores(
        problem.image,
        problem.subspace,
        found.corners,
        problem.rng,
        goal=goal,
        report=lambda part: tell(BEFORE_SMOOTHING + (0.95 - BEFORE_SMOOTHING) * part, "smoothing"),
    )


def _assemble(
    problem: Problem, scree: Scree, found: Found, method: str, smoothed: spatial_filter.Smoothed | None
) -> UnmixingResult:
    subspace, image, k = problem.subspace, problem.image, len(found.corners)
    r = found.corners.shape[1]
    scores = subspace.scores[:, :r]
    # amounts are in units of scores: a pixel's own brightness comes back with its sqrt(g)
    root_g = subspace.pixel_scale[:, None]
    if smoothed is None:
        fitted = scores
        amounts = found.amounts if found.amounts is not None else abundances.nonnegative(fitted, found.corners)
        spread = abundances.errors(subspace, found.corners, np.abs(amounts))
        if found.errors is not None:
            spread = np.broadcast_to(found.errors, amounts.shape)
        weights, errors = amounts * root_g, spread * root_g
    else:
        weights = abundances.nonnegative(smoothed.scores, found.corners)  # also where a pixel has no counts of its own
        even = replace(subspace, pixel_scale=np.ones_like(subspace.pixel_scale))
        errors = abundances.errors(even, found.corners, weights) * smoothed.error_ratio(found.corners)
        inverse = np.where(root_g > 0, 1.0 / np.where(root_g > 0, root_g, 1.0), 0.0)
        fitted, amounts = smoothed.scores * inverse, weights * inverse
    endmembers = found_spectra(problem, found.corners) if found.spectra is None else found.spectra
    left = scores - amounts @ found.corners
    squares = subspace.norms - np.einsum("ij,ij->i", scores, scores) + np.einsum("ij,ij->i", left, left)
    expected = _expected(subspace, found.corners, np.abs(amounts))
    reduced = np.maximum(squares, 0.0) / np.where(expected > 0, expected, np.inf)
    spectra_errors = _spectra_errors(subspace, found.corners, amounts)
    scale = abundances.whole(weights, endmembers)
    warnings = found.warnings
    if method not in JUDGED:
        warnings = (*warnings, *_outside(subspace, fitted - amounts @ found.corners))
    order = np.argsort(-(weights / scale).sum(axis=0)) if found.sort else np.arange(k)
    weights, errors = (weights / scale)[:, order], (errors / scale)[:, order]
    shape = image.shape
    residual = _residual_spectrum(subspace, endmembers * scale[:, None], weights[:, np.argsort(order)])
    return UnmixingResult(
        endmembers=(endmembers * scale[:, None])[order],
        endmember_errors=(spectra_errors * scale[:, None])[order],
        maps=np.ascontiguousarray(weights.T, dtype=np.float32).reshape(k, *shape),
        map_errors=np.ascontiguousarray(errors.T, dtype=np.float32).reshape(k, *shape),
        residual_map=reduced.reshape(shape).astype(np.float32),
        chi2=float(np.maximum(squares, 0.0).sum() / max(float(expected.sum()), 1e-300)),
        axes=image.axes,
        signal=image.signal,
        method=found.used or method,
        assumption=found.assumption,
        warnings=tuple(warnings),
        scree=scree,
        names=found.names or tuple(f"component {c + 1}" for c in range(k)),
        elements=((),) * k,
        residual_spectrum=residual,
        extra={
            key: (value.reshape(shape) if isinstance(value, np.ndarray) and value.shape == (image.pixels,) else value)
            for key, value in found.extra.items()
        },
    )


def _thickness(problem: Problem) -> tuple[str, ...]:
    image = problem.image
    if image.signal != "EELS" or image.axes[2].units != "eV":
        return ()
    return plural.warning(problem.subspace, problem.k, image.energy_ev)


def _outside(subspace: Subspace, left: np.ndarray) -> tuple[str, ...]:
    """A sentence where scores differ from their model by more than the noise: what the method assumes does not hold."""
    misfit = float((left**2).mean()) / max(subspace.noise, 1e-300)
    if misfit <= OUTSIDE:
        return ()
    return (
        f"What this method assumes does not hold for these data: spectra differ from what it allows by"
        f" {np.sqrt(misfit):.2g} times the noise. There may be no pixels as pure, as uniform or as equally thick as it needs,"
        " a component may be missing, or plural scattering may change with thickness; compare with the automatic choice.",
    )


def found_spectra(problem: Problem, corners: np.ndarray) -> np.ndarray:
    """Endmembers in data units; vectors are freed of what is only noise, unless ``smooth=False`` was asked for."""
    subspace, r = problem.subspace, corners.shape[1]
    if not problem.options.get("smooth", True):
        return subspace.spectra(corners)
    sigma = np.sqrt(subspace.noise) / np.maximum(subspace.values[:r], 1e-30)
    return np.asarray((corners @ denoise(subspace.vectors[:, :r], sigma).T) * subspace.channel_scale)


def _expected(subspace: Subspace, corners: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """Expected squared noise of every scaled spectrum."""
    _, m = subspace.size
    if not subspace.poisson:
        return np.full(len(amounts), m * subspace.noise)
    h, root_g = subspace.channel_scale, subspace.pixel_scale
    inverse = np.where(h > 0, 1.0 / np.where(h > 0, h, 1.0), 0.0)
    per_unit = (corners @ subspace.vectors[:, : corners.shape[1]].T) @ inverse
    mean = (amounts @ per_unit) / np.where(root_g > 0, root_g, np.inf)
    read_out = subspace.offset * float((inverse**2).sum()) / np.where(root_g > 0, root_g, np.inf) ** 2
    return np.asarray(np.maximum(mean + read_out, 0.0) * abundances.gain(subspace))


def _spectra_errors(subspace: Subspace, corners: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """Standard errors of endmembers if the maps were known: counting noise through least squares, ``(k, channels)``."""
    gram = amounts.T @ amounts
    inverse = np.linalg.pinv(gram)
    unit = np.sqrt(np.maximum(np.diag(inverse), 0.0) * subspace.noise)
    return np.asarray(unit[:, None] * subspace.channel_scale[None, :])


def _residual_spectrum(subspace: Subspace, endmembers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of the data minus the model; the data's mean is in the column scale."""
    if not subspace.poisson:
        return np.zeros(endmembers.shape[1])
    return np.asarray(subspace.mean - weights.mean(axis=0) @ endmembers)
