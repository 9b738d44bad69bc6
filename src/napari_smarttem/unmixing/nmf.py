"""Non-negative factorization with the priors that people use with it, in one alternation.

Without a prior, non-negativity leaves maps and spectra undetermined. The priors here: amounts that sum to one (simplex), maps
that are smooth as far as their error bars allow, endmembers of small volume as far as the noise allows, and the likelihood of
counts (Kullback and Leibler) instead of weighted least squares. No strength is set by hand: the noise decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..schema import BadInput
from . import abundances, vertices
from .methods_base import Found
from .spatial import smooth_maps

if TYPE_CHECKING:
    from .engine import Problem

WEIGHTS = 2.0 ** np.arange(-4, 9)
TINY = 1e-9
OPTIONS = ("divergence", "simplex", "spatial", "volume", "turns", "tolerance", "smooth")


@dataclass(frozen=True)
class Settings:
    """What kind of factorization.

    Parameters
    ----------
    divergence : {"squares", "kl"}
        Least squares in the noise-scaled space, or afterwards the likelihood of counts on the data themselves.
    simplex : bool
        The amounts of a pixel sum to one: the same thickness everywhere.
    spatial : bool
        Maps are smoothed by as much as their error bars ask for.
    volume : bool
        The smallest volume of the endmembers that the noise allows.
    turns, tolerance : int, float
        At most so many turns; fewer once the misfit changes by less than this part.
    """

    divergence: str = "squares"
    simplex: bool = False
    spatial: bool = False
    volume: bool = False
    turns: int = 200
    tolerance: float = 1e-5


def find_nmf(problem: Problem) -> Found:
    """Non-negative maps and spectra, alternately; options of `Settings`.

    Raises
    ------
    BadInput
        An option that does not exist, or does not fit to the data.
    """
    options = _settings(problem)
    subspace, k = problem.subspace, problem.k
    scores = np.ascontiguousarray(subspace.scores[:, :k], dtype=np.float64)
    corners = vertices.successive_projections(scores, k)
    amounts, corners = _alternate(problem, scores, corners, options, 0.0)
    if options.volume and k > 1:
        amounts, corners = _smallest(problem, scores, corners, options)
    if options.divergence == "kl":
        return _likeliest(problem, amounts, corners, options)
    return Found(corners, _sentence(options), _warnings(options), amounts=amounts)


def _settings(problem: Problem) -> Settings:
    given = {name: problem.options[name] for name in OPTIONS if name in problem.options and name != "smooth"}
    options = Settings(**given)
    if options.divergence not in ("squares", "kl"):
        raise BadInput(f"The divergence is 'squares' or 'kl', not {options.divergence!r}.")
    if options.divergence == "kl" and (not problem.subspace.poisson or problem.subspace.offset > 0):
        raise BadInput(
            "The Kullback-Leibler divergence is for counts, and the noise of these data is not that of counting:"
            " choose divergence='squares'."
        )
    if options.turns < 1 or not options.tolerance > 0:
        raise BadInput("turns is a whole number from 1 on and tolerance is above 0.")
    return options


def _alternate(
    problem: Problem, scores: np.ndarray, corners: np.ndarray, options: Settings, weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """Amounts, then spectra, in turn, on the noise-free subspace; `weight` of the logarithm of the volume."""
    subspace, turns = problem.subspace, options.turns
    vectors = subspace.vectors[:, : scores.shape[1]]
    back = np.linalg.pinv(vectors).T
    before = np.inf
    amounts = np.empty(0)
    for turn in range(turns):
        amounts = _amounts(problem, scores, corners, options)
        gram = amounts.T @ amounts
        if weight > 0:
            gram = gram + weight * np.linalg.inv(
                corners @ corners.T + TINY * np.trace(corners @ corners.T) * np.eye(len(gram))
            )
        corners = np.linalg.lstsq(gram, amounts.T @ scores, rcond=None)[0]
        corners = np.maximum(corners @ vectors.T, 0.0) @ back
        left = float(((scores - amounts @ corners) ** 2).mean())
        if abs(before - left) < options.tolerance * left:
            break
        before = left
        if turn % 10 == 0:
            problem.report(0.65 + 0.1 * turn / turns, "alternating")
    return _amounts(problem, scores, corners, options), corners


def _amounts(problem: Problem, scores: np.ndarray, corners: np.ndarray, options: Settings) -> np.ndarray:
    subspace, shape = problem.subspace, problem.image.shape
    root_g = np.maximum(subspace.pixel_scale, 1e-30)
    amounts = on_simplex(scores, corners, 1.0 / root_g) if options.simplex else abundances.nonnegative(scores, corners)
    if not options.spatial:
        return amounts
    errors = abundances.errors(subspace, corners, amounts)
    maps, bars = ((x * root_g[:, None]).T.reshape(-1, *shape) for x in (amounts, errors))
    smooth = smooth_maps(maps, bars).reshape(len(corners), -1).T / root_g[:, None]
    if options.simplex:
        smooth *= (1.0 / root_g / np.maximum(smooth.sum(axis=1), 1e-30))[:, None]
    return np.ascontiguousarray(smooth)


def on_simplex(scores: np.ndarray, corners: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Least squares amounts ``(pixels, k)``, not negative, of which those of pixel i sum to ``total[i]``.

    The sum is one more, heavy, channel (Heinz and Chang, IEEE TGRS 39, 2001, 529), then made exact.
    """
    heavy = 30.0 * float(np.linalg.norm(corners, axis=1).mean())
    more = np.concatenate([scores, heavy * total[:, None]], axis=1)
    amounts = abundances.nonnegative(more, np.concatenate([corners, np.full((len(corners), 1), heavy)], axis=1))
    return np.asarray(amounts * (total / np.maximum(amounts.sum(axis=1), 1e-300))[:, None])


def _smallest(
    problem: Problem, scores: np.ndarray, corners: np.ndarray, options: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """The largest weight of the volume at which pixels lie outside of the endmembers by no more than the noise.

    An amount that is truly zero is cut off in one of two pixels, and costs one noise variance there on average: as long as
    the misfit is below the number of amounts cut off, the endmembers are not too near to each other.
    """
    subspace, n = problem.subspace, len(scores)
    amounts = _amounts(problem, scores, corners, options)
    best = amounts, corners
    few = Settings(options.divergence, options.simplex, options.spatial, True, 60, options.tolerance)
    unit = subspace.noise * n
    for number, weight in enumerate(WEIGHTS):
        problem.report(0.75 + 0.1 * number / len(WEIGHTS), "volume")
        amounts, trial = _alternate(problem, scores, best[1], few, weight * unit)
        cut = float(np.count_nonzero(abundances.nonnegative(scores, trial) <= 0))
        misfit = float(((scores - amounts @ trial) ** 2).sum()) / subspace.noise
        if misfit > cut + 3.0 * np.sqrt(2.0 * cut):
            break
        best = amounts, trial
    return best


def _likeliest(problem: Problem, amounts: np.ndarray, corners: np.ndarray, options: Settings) -> Found:
    """Go on from least squares with the multiplicative updates for counts (Lee and Seung, 1999), reading the data each turn."""
    subspace, image = problem.subspace, problem.image
    root_g = subspace.pixel_scale[:, None]
    spectra = np.maximum(subspace.spectra(corners), 0.0)
    floor = TINY * float(spectra.mean())
    maps, spectra = amounts * root_g + 1e-6 * float((amounts * root_g).mean()), spectra + floor
    turns = min(options.turns, 30)
    deviance: list[float] = []
    for turn in range(turns):
        numerator, total = np.zeros_like(spectra), 0.0
        sums = np.maximum(spectra.sum(axis=1), 1e-300)
        for first, last, read in image.blocks():
            here, block = maps[first:last], np.maximum(read, 0.0)
            model = here @ spectra
            ratio = block / np.maximum(model, 1e-12)
            total += _deviance(block, model, ratio)
            here = here * (ratio @ spectra.T) / sums
            if options.simplex:
                here /= np.maximum(here.sum(axis=1, keepdims=True), 1e-300)
            ratio = block / np.maximum(here @ spectra, 1e-12)
            numerator += here.T @ ratio
            maps[first:last] = here
        if options.spatial:
            maps = _smoothed(problem, maps, corners)
        spectra *= numerator / np.maximum(maps.sum(axis=0), 1e-300)[:, None]
        deviance.append(total)
        problem.report(0.85 + 0.05 * turn / turns, "likelihood")
        if len(deviance) > 1 and abs(deviance[-2] - total) < options.tolerance * total:
            break
    held = subspace.channel_scale > 0
    scaled = np.where(held, spectra / np.where(held, subspace.channel_scale, 1.0), 0.0)
    corners = scaled @ np.linalg.pinv(subspace.vectors[:, : corners.shape[1]]).T
    inverse = np.where(root_g > 0, 1.0 / np.where(root_g > 0, root_g, 1.0), 0.0)
    extra = {"deviance": deviance, "spectra": spectra}
    return Found(corners, _sentence(options), _warnings(options), amounts=maps * inverse, extra=extra)


def _deviance(block: np.ndarray, model: np.ndarray, ratio: np.ndarray) -> float:
    """Twice the log-likelihood lost to the data as their own model."""
    logarithm = np.log(np.where(block > 0, ratio, 1.0))
    return float(2.0 * (block * logarithm - block + model).sum(dtype=np.float64))


def _smoothed(problem: Problem, maps: np.ndarray, corners: np.ndarray) -> np.ndarray:
    subspace, shape = problem.subspace, problem.image.shape
    root_g = np.maximum(subspace.pixel_scale, 1e-30)[:, None]
    errors = abundances.errors(subspace, corners, maps / root_g) * root_g
    smooth = smooth_maps(maps.T.reshape(-1, *shape), errors.T.reshape(-1, *shape))
    return np.ascontiguousarray(smooth.reshape(len(corners), -1).T)


_PRIORS: dict[str, Callable[[Settings], bool]] = {
    "amounts sum to one in every pixel": lambda options: options.simplex,
    "maps are as smooth as their error bars allow": lambda options: options.spatial,
    "endmembers enclose the smallest volume that the noise allows": lambda options: options.volume,
}


def _sentence(options: Settings) -> str:
    more = [words for words, chosen in _PRIORS.items() if chosen(options)]
    if not more:
        return "Maps and spectra are not negative. That alone leaves them undetermined: other pairs explain the data as well."
    return "Maps and spectra are not negative, " + ", and ".join(more) + "."


def _warnings(options: Settings) -> tuple[str, ...]:
    if options.volume:
        return ()
    return ("Non-negative factorization has no unique answer; compare with the automatic choice.",)
