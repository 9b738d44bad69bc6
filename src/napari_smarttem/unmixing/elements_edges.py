"""What elements add to an energy-loss spectrum: an edge's rise, its fine structure, and what plural scattering makes of it.

The rise is a step (K; L of light elements), two steps with white lines where d or f shells are empty (L2,3 of Ca to Cu, M4,5
of Cs to Lu), or delayed where a centrifugal barrier holds electrons back (M4,5 of Rb to Xe and of what is heavier than Lu); it
falls as a power of the loss. Fine structure is given as peaks of free, non-negative height within 25 eV of the onset.
Spectrometers are often off by some eV and chemistry adds two, the same for all edges: the axis is shifted as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .elements_fit import Candidate, Fit, Stepwise

SHIFTS_EV = np.arange(-8.0, 8.1, 1.0)
USUAL_SHIFT_EV = 4.0
"""Standard deviation of what axes are off by."""
SMALLEST_LOSS_EV = 5.0
"""Below lies the zero-loss peak, or its tail, which is no power of the loss."""
SMALLEST_JUMP = 0.025
"""An edge that adds less than this to what is below it is lost in what backgrounds do."""
SMALLEST_SLOW_JUMP = 0.08
"""The same for edges that rise over tens of eV, as backgrounds do where plural scattering bends them."""
TOO_NEAR_EV = {False: 8.0, True: 25.0}
"""Two onsets nearer than this cannot be told apart, so that one edge is named; further where one rises slowly (True)."""
HELD = 0.4
"""Part of what an edge claims that the spectrum must rise by at its onset."""
POOR, BETTER = 25.0, 0.3
"""Where the squared misfit of a channel is above the first, edges of another shape are taken if they leave this part of it."""
LEAST_SHARP = 0.5
"""The first 9 eV of an edge over what comes 15 to 35 eV later, unless its shell rises slowly."""
LEAST_WHITE = 1.3
"""White lines over what comes 30 to 60 eV later, where the shell is empty."""
MOST_L1 = 0.3
"""Rise at L1 over that at L3, at most: it is about a tenth."""
MOST_CHANNELS = 700
SHAPE_ERROR = 0.006
"""Part of the signal by which models of edges and backgrounds are wrong."""
SHARP_ERROR = 0.15
"""The same of what stands out of its surroundings by less than `SMOOTH_EV`: fine structure is known in outline only."""
SMOOTH_EV = 12.0
FULL = frozenset({20, 29})
"""Of these, white lines are too weak or too far from their steps to be asked for."""
WHITE = frozenset({*range(20, 30), *range(55, 72)})


def find_edges(
    spectrum: np.ndarray, energy: np.ndarray, errors: np.ndarray, table: Any, symbols: Sequence[str], *, largest: int
) -> list[tuple[Candidate, float]]:
    """Edges in a spectrum and what the fit loses without each.

    Parameters
    ----------
    spectrum, energy, errors : ndarray
        ``(energy,)``.
    table : mapping
        exspy's elements.
    symbols : sequence of str
        Elements that are looked for.
    largest : int
        No more edges than this.
    """
    losses = energy > SMALLEST_LOSS_EV
    spectrum, energy, errors = (np.asarray(v)[losses] for v in (spectrum, energy, errors))
    if len(energy) < 8:
        return []
    binned = max(1, len(energy) // MOST_CHANNELS)
    cut = len(energy) // binned * binned
    spectrum, energy = (np.asarray(v[:cut], float).reshape(-1, binned).mean(axis=1) for v in (spectrum, energy))
    errors = np.sqrt((errors[:cut].reshape(-1, binned) ** 2).mean(axis=1) / binned)
    sharp = spectrum - smooth(spectrum, energy)
    sigma = np.sqrt(errors**2 + (SHAPE_ERROR * np.maximum(spectrum, 0.0)) ** 2 + (SHARP_ERROR * sharp) ** 2)
    sigma = np.maximum(sigma, 1e-9 * max(float(np.abs(spectrum).max()), 1e-30))
    background = power_laws(energy) / sigma

    def at(shift: float, with_l1: bool, strict: bool) -> _Placed | None:
        candidates = list(edges(energy, table, symbols, shift, with_l1=with_l1))
        if not candidates:
            return None
        search = Stepwise(spectrum / sigma, background, candidates, sigma)
        fit = _grown(search, spectrum, sigma, energy, largest=largest, strict=strict)
        return _Placed(fit.cost + (shift / USUAL_SHIFT_EV) ** 2, shift, search, fit)

    best = _cheapest(at(float(shift), False, True) for shift in SHIFTS_EV)
    # where edges of the usual shape leave much unexplained: L1, which shows in spectra of many counts; then any shape
    for strict in (True, False):
        if best is None or best.fit.chi2 <= POOR * len(energy):
            break
        other = _cheapest(at(float(shift), True, strict) for shift in SHIFTS_EV[::4])
        for step in (2.0, 1.0):
            if other is not None:
                near = (at(other.shift + sign * step, True, strict) for sign in (-1.0, 1.0))
                other = _cheapest((other, *near))
        if other is not None and other.cost < BETTER * best.cost:
            best = other
    if best is None:
        return []
    return [(best.search.candidates[c], gain) for c, gain in zip(best.fit.taken, best.fit.gains, strict=True)]


@dataclass(frozen=True)
class _Placed:
    """A fit with all edges moved by `shift`, and its cost, the shift's included."""

    cost: float
    shift: float
    search: Stepwise
    fit: Fit


def _cheapest(fits: Iterable[_Placed | None]) -> _Placed | None:
    return min((one for one in fits if one is not None), key=lambda one: one.cost, default=None)


def _grown(
    search: Stepwise, spectrum: np.ndarray, sigma: np.ndarray, energy: np.ndarray, *, largest: int, strict: bool
) -> Fit:
    """The edges of `search` that explain the spectrum and that may be believed."""

    def seen(c: int, fit: Fit) -> bool:
        edge = search.candidates[c]
        return _plausible(edge, fit, c, spectrum=spectrum, sigma=sigma, energy=energy, strict=strict)

    def apart(c: int, d: int) -> bool:
        one, other = search.candidates[c], search.candidates[d]
        room = TOO_NEAR_EV[one.delayed or other.delayed]
        return one.element == other.element or abs(one.energy_ev - other.energy_ev) > room

    return search.grow(lambda _c, _taken: True, seen, largest=largest, apart=apart)


def _plausible(
    edge: Candidate,
    fit: Fit,
    c: int,
    *,
    spectrum: np.ndarray,
    sigma: np.ndarray,
    energy: np.ndarray,
    strict: bool = True,
) -> bool:
    """Whether the spectrum rises at the onset, by what the edge claims, and in the way of its shell (if `strict`)."""
    own = fit.amounts[fit.taken.index(c)] @ edge.columns
    onset = edge.energy_ev + edge.moved_ev
    slow = edge.delayed
    before = (energy > onset - 28.0) & (energy < onset - 4.0)
    after = (energy > onset) & (energy < onset + (35.0 if slow else 14.0))
    if before.sum() < 3 or after.sum() < 2:
        return False
    rest = spectrum - (fit.peaks * sigma - own)  # without the other edges
    level = np.maximum(rest[before], 1e-3 * max(float(rest[before].mean()), 1e-30))
    line = np.polyfit(np.log(energy[before]), np.log(level), 1)
    expected = np.exp(np.polyval(line, np.log(energy[after])))
    jump, claimed = float((rest[after] - expected).mean()), float(own[after].mean())
    least = (SMALLEST_SLOW_JUMP if slow else SMALLEST_JUMP) * float(level.mean())
    noise = float(np.sqrt((sigma[before] ** 2).mean() / before.sum() + (sigma[after] ** 2).mean() / after.sum()))
    if claimed < least or jump < max(HELD * claimed, 2.0 * noise):
        return False
    if not strict:
        return True
    if not slow:
        soon, then = ((energy > onset + a) & (energy < onset + b) for a, b in ((0.0, 9.0), (15.0, 35.0)))
        if then.any() and float(own[soon].mean()) < LEAST_SHARP * float(own[then].mean()):
            return False
    if edge.white:
        top = float(own[(energy > onset - 3.0) & (energy < onset + 6.0)].max(initial=0.0))
        later = (energy > onset + 30.0) & (energy < onset + 60.0)
        if later.any() and top < LEAST_WHITE * float(own[later].mean()):
            return False
    return True


def smooth(spectrum: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """What is left of a spectrum after averaging over `SMOOTH_EV`, ``(energy,)``."""
    from scipy.ndimage import gaussian_filter1d

    return np.asarray(gaussian_filter1d(spectrum, SMOOTH_EV / abs(float(energy[1] - energy[0])), mode="nearest"))


def power_laws(energy: np.ndarray) -> np.ndarray:
    """Backgrounds ``(parts, energy)``: what falls as a sum of powers."""
    safe = np.maximum(energy, 1.0) / max(float(energy[0]), 1.0)
    return np.array([safe**-exponent for exponent in (0.0, 1.0, 2.0, 3.0, 4.0, 6.0)])


def edges(
    energy: np.ndarray, table: Any, symbols: Sequence[str], shift: float, *, with_l1: bool = False
) -> Iterator[Candidate]:
    """Candidates with onsets inside of the spectrum, all moved by `shift`; those of L3 with L1 if wanted."""
    low, high = float(energy[0]), float(energy[-1])
    room = 0.03 * (high - low)
    for symbol in symbols:
        levels = table[symbol].get("Atomic_properties", {}).get("Binding_energies", {})
        number = int(table[symbol].get("General_properties", {}).get("Z", 0))
        for shell in ("K", "L3", "M5", "M3", "N5"):
            level = levels.get(shell)
            if level is None or level.get("relevance") == "Minor":
                continue
            onset = float(level["onset_energy (eV)"]) + shift
            if not low + room < onset < high - room:
                continue
            partner = {"L3": "L2", "M5": "M4", "M3": "M2"}.get(shell, "")
            second = float(levels.get(partner, level)["onset_energy (eV)"]) + shift
            third = float(levels["L1"]["onset_energy (eV)"]) + shift if with_l1 and "L1" in levels else None
            yield Candidate(
                symbol,
                f"{symbol}_{shell}",
                onset - shift,
                _columns(energy, shell, number, onset, (second, third)),
                moved_ev=shift,
                delayed=_is_delayed(shell, number),
                white=shell in ("L3", "M5") and number in WHITE and number not in FULL,
            )


def _is_delayed(shell: str, number: int) -> bool:
    return not (shell == "K" or (shell == "L3" and number < 20) or (shell in ("L3", "M5") and number in WHITE))


def _columns(
    energy: np.ndarray, shell: str, number: int, onset: float, above: tuple[float, float | None]
) -> np.ndarray:
    second, third = above  # onsets of the other half of a split shell, and of L1 where it is to be thought of

    def fall(at: float, power: float = 3.2) -> np.ndarray:
        return np.asarray((np.maximum(energy, at) / at) ** -power)

    def step(at: float, width: float = 1.5) -> np.ndarray:
        return np.asarray((0.5 + np.arctan((energy - at) / width) / np.pi) * (energy > at - 6 * width))

    def peak(at: float, width: float) -> np.ndarray:
        return np.asarray(np.exp(-0.5 * ((energy - at) / width) ** 2))

    def delayed(rise: float) -> np.ndarray:
        return np.asarray((1.0 - np.exp(-np.maximum(energy - onset, 0.0) / rise)) * fall(onset))

    def late_rise(at: float) -> np.ndarray:  # what has lost energy to a plasmon too
        return np.asarray((1.0 - np.exp(-np.maximum(energy - at, 0.0) / 14.0)) * fall(at))

    def fine(at: float, places: Sequence[float]) -> list[np.ndarray]:
        return [peak(at + place, 1.2 + 0.16 * max(place, 0.0)) for place in places]

    plural = [peak(onset + 28.0, 11.0), late_rise(onset + 8.0)]
    if _is_delayed(shell, number):
        parts = [delayed(20.0), delayed(45.0), plural[0]]
    elif shell != "K" and number in WHITE:
        both = [step(onset + late) * fall(onset) + 0.5 * step(second + late) * fall(second) for late in (0.0, 4.0)]
        near = (-1.5, 1.0, 3.5)
        after = (6.5,) if second - onset > 9.0 else ()
        parts = [
            both[0] + 2.0 * peak(onset + 1.0, 2.0),
            *both,
            *fine(onset, near + after),
            *fine(second, near),
            *plural,
        ]
        if shell == "L3" and third is not None:
            parts.append(both[0] + MOST_L1 * step(third, 4.0) * fall(third))
    else:
        parts = [step(onset + late) * fall(onset) for late in (0.0, 4.0)]
        parts += [*fine(onset, (-1.5, 1.0, 3.5, 6.5, 10.0, 15.0, 21.0)), *plural]
    return np.array(parts)
