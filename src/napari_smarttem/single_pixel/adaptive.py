"""Which patterns next: those that are expected to tell most about this specimen.

For a Gaussian posterior the expected Kullback-Leibler divergence between what is known after a pattern and before it is
``1/2 ln(1 + p^T Sigma p / sigma^2)``, sigma being the noise of its signal. Sigma is that of the present edge weights, which is what
makes the choice follow the specimen. A batch is picked greedily, each pick taking off what it will tell from what the others would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..schema import BadInput
from .posterior import Posterior

EXACT_PIXELS = 32


@dataclass(frozen=True)
class Choice:
    """Numbers of the chosen patterns in the pool, what each is expected to tell (nats, given those before), and why it ended."""

    index: np.ndarray
    gain_nats: np.ndarray
    reason: str = ""


def most_informative(
    posterior: Posterior,
    pool: np.ndarray,
    count: int,
    rng: np.random.Generator,
    *,
    exploration: float = 0.05,
    taken: np.ndarray | None = None,
    samples: int = 96,
    background: np.ndarray | None = None,
) -> Choice:
    """A batch with the largest expected gain.

    Parameters
    ----------
    posterior : Posterior
        Settled.
    pool : ndarray, shape (n, pixels²) or (n, pixels, pixels)
        Patterns that could be made.
    count : int
        Size of the batch.
    exploration : float
        Fraction of all patterns that is drawn by chance, should the model be wrong: small batches have their share, too.
    taken : ndarray of bool, shape (n,), optional
        Patterns that must not be chosen.
    samples : int
        Of the posterior, where the picture has more than 32 x 32 pixels: their number is the rank of the covariance that the
        choice works with, so that a batch should be smaller.
    background : ndarray, shape (n,), optional
        Part of the signals that does not come from these patterns; see `Posterior.add`.

    Raises
    ------
    BadInput
        No pattern is left in the pool.
    """
    flat, free = _checked(pool, taken)
    count = min(count, int(free.sum()))
    before = posterior.count
    by_chance = min(count, int(exploration * (before + count) + 1e-9) - int(exploration * before + 1e-9))
    if posterior.pixels <= EXACT_PIXELS:
        spread = posterior.spread(flat)
    else:
        spread = np.asarray(posterior.samples(samples, rng).astype(np.float32) @ flat.T / np.sqrt(samples))
    signals = posterior.predicted(flat) if background is None else posterior.predicted(flat) + background
    noise = posterior.variance_of(signals) * posterior.inflation
    variance = np.einsum("ij,ij->j", spread, spread).astype(float)
    past = np.zeros((count, len(flat)))
    index, gains = [], []
    candidate = free.copy()
    for number in range(count):
        gain = 0.5 * np.log1p(variance / noise)
        if number < count - by_chance:
            best = int(np.argmax(np.where(candidate, gain, -np.inf)))
        else:
            best = int(rng.choice(np.flatnonzero(candidate)))
        index.append(best)
        gains.append(float(gain[best]))
        candidate[best] = False
        shared = (spread[:, best] @ spread).astype(float) - past[:number, best] @ past[:number]
        update = past[number] = shared / np.sqrt(noise[best] + variance[best])
        variance = np.maximum(variance - update**2, 0.0)
    return Choice(np.array(index, dtype=int), np.array(gains))


def by_chance(pool: np.ndarray, count: int, rng: np.random.Generator, *, taken: np.ndarray | None = None) -> Choice:
    """A batch drawn by chance: the baseline."""
    _, free = _checked(pool, taken)
    index = rng.choice(np.flatnonzero(free), size=min(count, int(free.sum())), replace=False)
    return Choice(np.asarray(index), np.full(len(index), np.nan))


def most_contrast(pool: np.ndarray, count: int, rng: np.random.Generator, *, taken: np.ndarray | None = None) -> Choice:
    """The patterns with the largest contrast, whatever the specimen: a baseline."""
    flat, free = _checked(pool, taken)
    contrast = np.where(free, flat.std(axis=1), -np.inf)
    index = np.argsort(-contrast, kind="stable")[: min(count, int(free.sum()))]
    return Choice(index, np.full(len(index), np.nan))


def naive_divergence(
    posterior: Posterior,
    pool: np.ndarray,
    count: int,
    rng: np.random.Generator,
    *,
    predicted_before: np.ndarray,
    taken: np.ndarray | None = None,
    exploration: float = 0.1,
) -> Choice:
    """The rule "where observed data P and model Q diverge": patterns that light what the surprising ones lit.

    Both the signals and what was predicted of them before they were measured (`predicted_before`, (count,)) are normalised to
    distributions over the patterns; the terms ``P ln(P / Q)``, spread back over their patterns, give a map, and the patterns that
    overlap most with it are next.
    """
    flat, free = _checked(pool, taken)
    count = min(count, int(free.sum()))
    signals, patterns = posterior.signals, posterior.patterns
    observed, model = np.maximum(signals, 1e-12), np.maximum(predicted_before, 1e-12)
    observed, model = observed / observed.sum(), model / model.sum()
    surprise = np.abs(observed * np.log(observed / model))
    lit = patterns.sum(axis=0)
    where = (surprise @ patterns) / np.maximum(lit, 1e-3 * lit.max())
    overlap = np.where(free, (flat @ where) / np.linalg.norm(flat, axis=1).clip(1e-12), -np.inf)
    index = list(np.argsort(-overlap, kind="stable")[: count - round(exploration * count)])
    rest = np.setdiff1d(np.flatnonzero(free), index)
    index += list(rng.choice(rest, size=min(len(rest), count - len(index)), replace=False))
    return Choice(np.array(index, dtype=int), np.full(len(index), np.nan))


def stop_reason(
    choice: Choice,
    *,
    least_gain_nats: float,
    dose_e_per_a2: float,
    next_dose_e_per_a2: float,
    budget_e_per_a2: float | None,
) -> str:
    """Why to stop before this batch; empty where to go on."""
    if budget_e_per_a2 is not None and dose_e_per_a2 + next_dose_e_per_a2 > budget_e_per_a2 * (1 + 1e-9):
        return f"the dose budget of {budget_e_per_a2:g} e/Å² is used up"
    known = choice.gain_nats[np.isfinite(choice.gain_nats)]
    if len(known) and known.mean() < least_gain_nats:
        return f"a further pattern is expected to tell {known.mean():.2g} nats, less than the {least_gain_nats:g} asked for"
    return ""


def _checked(pool: np.ndarray, taken: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    flat = np.asarray(pool).reshape(len(pool), -1)
    free = np.ones(len(flat), dtype=bool) if taken is None else ~np.asarray(taken, dtype=bool)
    if not free.any():
        raise BadInput("no pattern is left to choose from; make the pool larger or allow patterns to be repeated.")
    return flat, free
