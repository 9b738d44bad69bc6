"""Stepwise non-negative fit of groups of templates to one spectrum, judged by the Bayesian information criterion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

ENOUGH_BIC = 10.0
TRIED = 8
"""So many of the candidates that a matched filter finds strongest are fitted at each step."""


@dataclass(frozen=True)
class Candidate:
    """What an element would add to a spectrum.

    Parameters
    ----------
    element, name : str
        ``"Fe"``, ``"Fe_K"``.
    energy_ev : float
        Of the strongest line, or the onset.
    columns : ndarray
        ``(parts, energy)`` non-negative templates; the first must be there.
    nuisance : ndarray
        ``(parts, energy)`` what its shape may differ by, with a free sign; used once it stands far above the noise.
    moved_ev : float
        By how much the axis was taken to be off.
    delayed, white : bool
        An edge that rises over tens of eV; one that must begin with white lines.
    """

    element: str
    name: str
    energy_ev: float
    columns: np.ndarray
    nuisance: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    moved_ev: float = 0.0
    delayed: bool = False
    white: bool = False


@dataclass(frozen=True)
class Fit:
    """Amounts of every column, and what is left.

    Parameters
    ----------
    taken : tuple of int
        Candidates.
    amounts : tuple of ndarray
        Of the columns of each.
    chi2 : float
        Squared misfit in units of the noise.
    cost : float
        `chi2` plus the logarithm of the number of channels for every column that is not zero.
    model : ndarray
        ``(energy,)`` in the units of the target.
    peaks : ndarray
        ``(energy,)`` the part of `model` that is no background.
    gains : tuple of float
        What the fit loses without each.
    """

    taken: tuple[int, ...]
    amounts: tuple[np.ndarray, ...]
    chi2: float
    cost: float
    model: np.ndarray
    peaks: np.ndarray
    gains: tuple[float, ...] = ()


Plausible = Callable[[int, Fit], bool]
"""Whether a candidate may be believed, given the fit that holds it."""


class Stepwise:
    """One spectrum in units of its noise, and all that may be in it.

    Parameters
    ----------
    target : ndarray
        ``(energy,)``.
    background : ndarray
        ``(parts, energy)``, always in the fit.
    candidates : sequence of Candidate
    sigma : ndarray
        ``(energy,)`` noise by which `target` and `background` were divided.
    strong : float
        From this strength on (in sigma) a candidate's nuisance is fitted too.
    """

    def __init__(
        self,
        target: np.ndarray,
        background: np.ndarray,
        candidates: Sequence[Candidate],
        sigma: np.ndarray,
        *,
        strong: float = 15.0,
    ) -> None:
        self._target, self._background, self.candidates = target, background, candidates
        self._columns = [one.columns / sigma for one in candidates]
        self._nuisance = [
            one.nuisance / sigma if one.nuisance.size else np.zeros((0, len(target))) for one in candidates
        ]
        self._strong, self._penalty = strong, float(np.log(len(target)))
        first = np.array([columns[0] for columns in self._columns])
        self._first, self._norms = first, np.linalg.norm(first, axis=1)

    def fit(self, taken: Sequence[int]) -> Fit:
        """Fit the background and these candidates."""
        from scipy.optimize import nnls

        plain, offsets = [self._background], [len(self._background)]
        for c in taken:
            plain.append(self._columns[c])
            offsets.append(offsets[-1] + len(self._columns[c]))
        design = np.concatenate(plain)
        amounts, left = nnls(design.T, self._target)
        extra = [
            self._nuisance[c]
            for at, c in enumerate(taken)
            if len(self._nuisance[c])
            and np.linalg.norm(amounts[offsets[at] : offsets[at + 1]] @ self._columns[c]) > self._strong
        ]
        if extra:
            free = np.concatenate(extra)
            design = np.concatenate([design, free, -free])
            amounts, left = nnls(design.T, self._target)
        count = int(np.count_nonzero(amounts))
        parts = tuple(amounts[a:b] for a, b in pairwise(offsets))
        model = amounts @ design
        under = amounts[: len(self._background)] @ self._background
        return Fit(
            tuple(taken), parts, float(left) ** 2, float(left) ** 2 + self._penalty * count, model, model - under
        )

    def grow(
        self,
        allowed: Callable[[int, tuple[int, ...]], bool],
        plausible: Plausible,
        *,
        largest: int,
        apart: Callable[[int, int], bool] = lambda _c, _d: True,
        favour: Callable[[int, tuple[int, ...]], float] = lambda _c, _taken: 0.0,
    ) -> Fit:
        """Add what gains most, take out what no longer does, until nothing gains enough.

        Of two candidates that are not `apart` only the one that fits better is kept; one may fit worse by `favour`.
        """
        best = self.fit(())
        refused: set[int] = set()
        while len(best.taken) < largest:
            trials = [
                trial
                for c in self._strongest(best, allowed, refused)
                if (trial := self.fit((*(d for d in best.taken if apart(c, d)), c))).cost
                < best.cost - ENOUGH_BIC + favour(c, best.taken)
            ]
            if not trials:
                break
            chosen = min(trials, key=lambda one: one.cost)
            if not plausible(chosen.taken[-1], chosen):
                refused.add(chosen.taken[-1])
                continue
            best = self._pruned(chosen, plausible)
            if chosen.taken[-1] not in best.taken:
                refused.add(chosen.taken[-1])
        return best

    def _pruned(self, now: Fit, plausible: Plausible) -> Fit:
        while now.taken:
            # a model never fits perfectly: its misfit counts as noise
            excess = max(1.0, now.chi2 / len(self._target))
            without = [self.fit([c for c in now.taken if c != out]) for out in now.taken]
            gains = [(one.cost - now.cost) / excess for one in without]
            worst = int(np.argmin([g if plausible(c, now) else -np.inf for g, c in zip(gains, now.taken, strict=True)]))
            if gains[worst] >= ENOUGH_BIC and plausible(now.taken[worst], now):
                return replace(now, gains=tuple(gains))
            now = without[worst]
        return now

    def _strongest(self, now: Fit, allowed: Callable[[int, tuple[int, ...]], bool], refused: set[int]) -> list[int]:
        design = np.concatenate([self._background, *(self._columns[c] for c in now.taken)])
        residual = self._target - now.model
        q = np.linalg.qr(design.T)[0]
        free = self._first - (self._first @ q) @ q.T  # matched filter of what a template has that the fit has not
        strength = (free @ residual) / np.maximum(np.linalg.norm(free, axis=1), 1e-3 * self._norms)
        order = np.argsort(-strength)
        good = [int(c) for c in order if strength[c] > 2.5 and c not in now.taken and int(c) not in refused]
        return [c for c in good if allowed(c, now.taken)][:TRIED]
