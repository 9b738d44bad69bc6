"""What elements add to an X-ray spectrum: families of lines with known ratios, and by how much their shape may be off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .elements_fit import Candidate, Fit, Stepwise

MN_K_ALPHA_EV = 5895.0
SHAPE_ERROR = 0.02
"""Part of the signal by which a model of lines is wrong."""
SMALLEST_SHARE = 0.15
"""A family that adds less than this to what stands at its main line already is a fault of a peak's shape, not an element."""
SMALLEST_COUNTS = 0.004
"""Part of the counts in all lines that a family has at least."""
AGREEMENT = 0.35
"""A family's second line has at least this part of the height that its main line promises, where that could be seen."""
SEEN = 4.0
"""What could be seen: the second line's height over its noise."""
TOO_NEAR = 1.0
"""Main lines nearer than this, in standard deviations of a line, cannot be told apart: one family is named."""
FAVOUR = 400.0
"""So much worse (BIC) may lines fit that belong to an element known by its harder lines, and take the place of another's."""


def width_ev(energy_ev: float, resolution_ev: float) -> float:
    """Standard deviation of a line, after Fiori and Newbury (1978): ``FWHM^2 = FWHM_Mn^2 + 2.5 (E - 5895)``."""
    return float(np.sqrt(max(resolution_ev**2 + 2.5 * (energy_ev - MN_K_ALPHA_EV), 45.0**2)) / 2.3548)


def find_lines(
    spectrum: np.ndarray,
    energy: np.ndarray,
    errors: np.ndarray,
    table: Any,
    symbols: Sequence[str],
    *,
    resolution_ev: float,
    largest: int,
) -> list[tuple[Candidate, float]]:
    """Families of lines in a spectrum and what the fit loses without each.

    Parameters
    ----------
    spectrum, energy, errors : ndarray
        ``(energy,)``.
    table : mapping
        exspy's elements.
    symbols : sequence of str
        Elements that are looked for.
    resolution_ev : float
        Width of the Mn K-alpha line.
    largest : int
        No more families than this.
    """
    candidates, members = [], []
    for candidate, lines in families(energy, table, symbols, resolution_ev):
        candidates.append(candidate)
        members.append(lines)
    if not candidates:
        return []
    sigma = np.sqrt(errors**2 + (SHAPE_ERROR * np.maximum(spectrum, 0.0)) ** 2)
    sigma = np.maximum(sigma, 1e-6 * max(float(np.abs(spectrum).max()), 1e-30))
    search = Stepwise(spectrum / sigma, smooth_background(spectrum, energy) / sigma, candidates, sigma)

    def allowed(c: int, taken: tuple[int, ...]) -> bool:
        # soft lines are believed only where the element's harder ones are, if those can be excited and seen at all
        one = candidates[c]
        harder = [
            d for d, other in enumerate(candidates) if other.element == one.element and other.energy_ev > one.energy_ev
        ]
        return not harder or any(d in taken for d in harder)

    def plausible(c: int, fit: Fit) -> bool:
        return _plausible(c, fit, candidates, members[c], spectrum=spectrum, energy=energy, sigma=sigma)

    def apart(c: int, d: int) -> bool:
        one, other = candidates[c], candidates[d]
        width = width_ev(max(one.energy_ev, other.energy_ev), resolution_ev)
        return one.element == other.element or abs(one.energy_ev - other.energy_ev) > TOO_NEAR * width

    def favour(c: int, taken: tuple[int, ...]) -> float:
        # lines of an element that is known by harder ones need no other element to explain them
        known = any(candidates[d].element == candidates[c].element for d in taken)
        rivals = [
            d
            for d in taken
            if not apart(c, d) and not any(candidates[e].element == candidates[d].element and e != d for e in taken)
        ]
        return FAVOUR if known and rivals else 0.0

    fit = search.grow(allowed, plausible, largest=largest, apart=apart, favour=favour)
    return [(candidates[c], gain) for c, gain in zip(fit.taken, fit.gains, strict=True)]


def _plausible(
    c: int,
    fit: Fit,
    candidates: Sequence[Candidate],
    lines: Sequence[tuple[float, np.ndarray]],
    *,
    spectrum: np.ndarray,
    energy: np.ndarray,
    sigma: np.ndarray,
) -> bool:
    """Enough of it beside its neighbours and beside the whole, and each of its lines where it should be seen."""
    place = fit.taken.index(c)
    amount = float(fit.amounts[place][0])
    peak = int(np.argmax(candidates[c].columns[0]))
    at = [float(fit.amounts[p][0] * candidates[d].columns[0, peak]) for p, d in enumerate(fit.taken)]
    counts = [float(fit.amounts[p][0] * candidates[d].columns[0].sum()) for p, d in enumerate(fit.taken)]
    if at[place] <= SMALLEST_SHARE * (sum(at) - at[place]) or counts[place] <= SMALLEST_COUNTS * sum(counts):
        return False
    if any(candidates[d].element == candidates[c].element for d in fit.taken[:place]):
        return True  # harder lines of it are there already
    # the lines one by one, against what the rest of the model leaves
    rest = spectrum - fit.model * sigma + amount * candidates[c].columns[0]
    ordered = sorted(lines, key=lambda line: -float(line[1].max()))
    main = ordered[0][1]
    for centre, line in ordered[1:4]:
        alone = line * (main < 0.1 * main.max()) / sigma
        power = float(alone @ alone)
        if power <= 0 or amount * np.sqrt(power) < SEEN or not energy[0] < centre < energy[-1]:
            continue
        height = (
            float(alone @ ((rest - amount * sum(other for _, other in ordered if other is not line)) / sigma)) / power
        )
        if height < AGREEMENT * amount:
            return False
    return True


def families(
    energy: np.ndarray, table: Any, symbols: Sequence[str], resolution_ev: float
) -> Iterator[tuple[Candidate, list[tuple[float, np.ndarray]]]]:
    """Candidates with their main line inside of the spectrum, and the single lines of each: energy and template."""
    low, high = max(float(energy[0]), 150.0), float(energy[-1])
    for symbol in symbols:
        found: dict[str, list[tuple[float, float]]] = {}
        for name, line in table[symbol].get("Atomic_properties", {}).get("Xray_lines", {}).items():
            found.setdefault(name[0], []).append((1000.0 * line["energy (keV)"], float(line["weight"])))
        for family, members in found.items():
            strongest = max(members, key=lambda member: member[1])[0]
            if not low < strongest < high:
                continue
            whole, moved, wider = (np.zeros_like(energy, dtype=np.float64) for _ in range(3))
            tail = np.zeros_like(whole)
            lines = []
            for centre, weight in members:
                width = width_ev(centre, resolution_ev)
                away = (energy - centre) / width
                peak = weight * np.exp(-0.5 * away**2)
                whole += peak
                moved += away * peak
                wider += (away**2 - 1.0) * peak
                # charge that is lost on the way: a low shelf on the low side
                tail += weight * np.where(away < 0, np.exp(away / 3.0), np.exp(-0.5 * away**2)) * 0.1
                lines.append((centre, peak))
            top = float(whole.max())
            if top <= 0:
                continue
            # a wrong axis, a wrong resolution, incomplete charge
            nuisance = np.array([moved, wider, tail]) / top
            yield (
                Candidate(symbol, f"{symbol}_{family}", strongest, whole[None] / top, nuisance),
                [(centre, peak / top) for centre, peak in lines],
            )


def smooth_background(spectrum: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Bremsstrahlung, ``(parts, energy)``: two hyperbolas that a detector window cuts off, and what lies under all peaks."""
    from scipy.ndimage import gaussian_filter1d, minimum_filter1d

    width = max(3, int(300.0 / abs(float(energy[1] - energy[0]))))
    smooth = gaussian_filter1d(np.maximum(spectrum, 0.0), max(1.0, width / 8))
    under = gaussian_filter1d(minimum_filter1d(smooth, width), width / 2)
    safe = np.maximum(energy, 100.0)
    window = 1.0 - np.exp(-((safe / 600.0) ** 2))
    parts = [under, window * (1.0 / safe - 1.0 / (safe[-1] * 1.3)), window * np.ones_like(safe)]
    # the detector's noise peak at zero reaches into the first channels
    parts.append(np.exp(-0.5 * (energy / 60.0) ** 2))
    return np.array([part / max(float(part.max()), 1e-30) for part in parts if float(part.max()) > 1e-12])
