"""Which elements explain an endmember: X-ray lines or ionisation edges, by stepwise non-negative fits judged by BIC.

Line energies, weights and edge onsets are those of exspy's tables. A family of lines (K, L, M of one element) is one
template of Gaussians whose width follows Fiori and Newbury (1978), ``FWHM^2 = FWHM_Mn^2 + 2.5 (E - 5895)`` in eV; an edge
is a step at its onset that decays as a power law. Backgrounds are smooth functions that are always in the fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from ..schema import BadInput
from .result import UnmixingResult

ENOUGH_BIC = 10.0
MN_K_ALPHA_EV = 5895.0
FIRST_SHARP_M5 = 55
"""From caesium on the M4,5 edges begin with white lines; those of lighter elements rise slowly."""
SMALLEST_SHARE = 0.15
"""A family that adds less than this to what stands at its main line already is a fault of the peak's shape, not an element."""
IGNORED = frozenset({"He", "Ne", "Ar", "Kr", "Xe", "Rn", "Tc", "Pm", "Po", "At", "Fr", "Ra", "Ac", "Pa"})
"""Gases that no specimen holds and elements without stable isotopes: found only when they are asked for."""


@dataclass(frozen=True)
class Feature:
    """A line family or an edge found in a spectrum.

    Parameters
    ----------
    element : str
        Symbol.
    name : str
        ``"Fe_K"`` or ``"Fe_L3"``.
    energy_ev : float
        Of the strongest line, or the onset.
    strength : float
        Amount in the fit over its error.
    bic_gain : float
        What the fit loses without it.
    """

    element: str
    name: str
    energy_ev: float
    strength: float
    bic_gain: float


@lru_cache(maxsize=1)
def _table() -> Any:
    from exspy.material import elements

    whole = elements.as_dictionary()
    return {
        symbol: entry for symbol, entry in whole.items() if isinstance(entry, dict) and "Atomic_properties" in entry
    }


def find_elements(
    spectrum: np.ndarray,
    energy_ev: np.ndarray,
    *,
    signal: str,
    errors: np.ndarray | None = None,
    candidates: Iterable[str] | None = None,
    resolution_ev: float = 130.0,
    largest: int = 10,
) -> tuple[Feature, ...]:
    """Elements in one spectrum, the strongest first.

    Parameters
    ----------
    spectrum : ndarray
        ``(energy,)``.
    energy_ev : ndarray
        ``(energy,)`` in eV.
    signal : str
        ``"EDS"`` or ``"EELS"``.
    errors : ndarray, optional
        Standard errors; None: those of counts.
    candidates : symbols, optional
        Look only for these.
    resolution_ev : float
        Width of the Mn K-alpha line (EDS).
    largest : int
        No more features than this.

    Raises
    ------
    BadInput
        A signal that has neither lines nor edges.
    """
    kind = signal.upper()
    if kind.startswith(("EDS", "EDX")):
        templates = list(_line_families(energy_ev, candidates, resolution_ev))
        background = _smooth_background(spectrum, energy_ev)
    elif kind.startswith("EELS"):
        templates = list(_edges(energy_ev, candidates))
        background = _power_laws(energy_ev)
    else:
        raise BadInput(f"Elements are named in EDS and EELS spectra, and this is {signal}.")
    if not templates:
        return ()
    scale = float(np.abs(spectrum).max()) or 1.0
    if errors is None or not np.isfinite(errors).all():
        from scipy.ndimage import gaussian_filter1d

        # the variance is that of the mean: a channel of few counts must not count for more because it happens to be low
        errors = np.sqrt(np.maximum(gaussian_filter1d(np.asarray(spectrum, dtype=np.float64), 4.0), 0.5))
    sigma = errors
    # A model of lines and edges is never better than about a per cent of the signal: more counts do not add elements.
    sigma = np.sqrt(np.maximum(sigma, scale * 1e-6) ** 2 + (0.02 * np.maximum(spectrum, 0.0)) ** 2)
    return _stepwise(spectrum / sigma, templates, background / sigma, sigma, largest=largest, lines=kind[:2] == "ED")


def name_components(result: UnmixingResult, **options: Any) -> UnmixingResult:
    """The result with `elements` filled in, and the components named after those that set them apart."""
    shares: list[dict[str, float]] = []
    for spectrum, errors in zip(result.endmembers, result.endmember_errors, strict=True):
        features = find_elements(spectrum, result.energy_ev, signal=result.signal, errors=errors, **options)
        total = sum(feature.bic_gain for feature in features)
        share: dict[str, float] = {}
        for feature in features:
            share[feature.element] = share.get(feature.element, 0.0) + feature.bic_gain / total
        shares.append(share)
    names: list[str] = []
    for number, share in enumerate(shares, start=1):
        # what there is more of here than in any other component sets it apart
        own = [s for s, part in share.items() if part > 0.1 and part >= max(other.get(s, 0.0) for other in shares)]
        name = "-".join(own[:2]) or "-".join(list(share)[:2]) or f"component {number}"
        names.append(name if name not in names else f"{name} ({number})")
    return replace(result, elements=tuple(tuple(share) for share in shares), names=tuple(names))


def _wanted(candidates: Iterable[str] | None) -> Sequence[str]:
    table = _table()
    if candidates is None:
        return [symbol for symbol in table if symbol not in IGNORED]
    asked = list(candidates)
    unknown = [symbol for symbol in asked if symbol not in table]
    if unknown:
        raise BadInput(f"{unknown[0]!r} is no element; write symbols, such as Fe or Pt.")
    return asked


def _line_families(
    energy: np.ndarray, candidates: Iterable[str] | None, resolution_ev: float
) -> Iterable[tuple[str, str, float, np.ndarray]]:
    low, high = max(float(energy[0]), 150.0), float(energy[-1])
    for symbol in _wanted(candidates):
        lines = _table()[symbol].get("Atomic_properties", {}).get("Xray_lines", {})
        families: dict[str, list[tuple[float, float]]] = {}
        for name, line in lines.items():
            families.setdefault(name[0], []).append((1000.0 * line["energy (keV)"], float(line["weight"])))
        for family, members in families.items():
            strongest = max(members, key=lambda member: member[1])[0]
            if not low < strongest < high:
                continue
            template = np.zeros_like(energy, dtype=np.float64)
            for centre, weight in members:
                width = np.sqrt(max(resolution_ev**2 + 2.5 * (centre - MN_K_ALPHA_EV), 45.0**2)) / 2.3548
                template += weight * np.exp(-0.5 * ((energy - centre) / width) ** 2)
            if template.sum() > 0:
                yield symbol, f"{symbol}_{family}", strongest, template / template.max()


def _edges(energy: np.ndarray, candidates: Iterable[str] | None) -> Iterable[tuple[str, str, float, np.ndarray]]:
    low, high = float(energy[0]), float(energy[-1])
    room = 0.03 * (high - low)
    for symbol in _wanted(candidates):
        edges = _table()[symbol].get("Atomic_properties", {}).get("Binding_energies", {})
        number = int(_table()[symbol].get("General_properties", {}).get("Z", 0))
        for shell in ("K", "L3", "M5", "M3", "N5"):
            edge = edges.get(shell)
            if edge is None or edge.get("relevance") == "Minor":
                continue
            onset = float(edge["onset_energy (eV)"])
            if not (low + room < onset < high - room):
                continue
            template = np.zeros_like(energy, dtype=np.float64)
            partners = {"L3": (("L3", 1.0), ("L2", 0.5)), "M5": (("M5", 1.0), ("M4", 0.67))}.get(shell, ((shell, 1.0),))
            for name, weight in partners:
                at = float(edges.get(name, edge)["onset_energy (eV)"])
                if shell == "M5" and number < FIRST_SHARP_M5:  # the centrifugal barrier delays these by tens of eV
                    rise = 1.0 - np.exp(-np.maximum(energy - at, 0.0) / 25.0)
                    white = np.zeros_like(rise)
                else:
                    rise = 0.5 + np.arctan((energy - at - 2.0) / 1.5) / np.pi
                    sharp = shell in ("L3", "M5") or shell == "K"
                    white = 1.5 * sharp * np.exp(-0.5 * ((energy - at - 2.0) / 2.5) ** 2)
                template += weight * (rise * (np.maximum(energy, at) / at) ** -3.0 + white)
            yield symbol, f"{symbol}_{shell}", onset, template / template.max()


def _smooth_background(spectrum: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Bremsstrahlung, ``(parts, energy)``: two hyperbolas that a detector window cuts off, and what lies under all peaks."""
    from scipy.ndimage import gaussian_filter1d, minimum_filter1d

    width = max(3, int(300.0 / abs(float(energy[1] - energy[0]))))
    smooth = gaussian_filter1d(np.maximum(spectrum, 0.0), max(1.0, width / 8))
    under = gaussian_filter1d(minimum_filter1d(smooth, width), width / 2)
    safe = np.maximum(energy, 100.0)
    window = 1.0 - np.exp(-((safe / 600.0) ** 2))
    parts = [under, window * (1.0 / safe - 1.0 / (safe[-1] * 1.3)), window * np.ones_like(safe)]
    return np.array([part / max(float(part.max()), 1e-30) for part in parts])


def _power_laws(energy: np.ndarray) -> np.ndarray:
    safe = np.maximum(energy, 1.0) / max(float(energy[0]), 1.0)
    return np.array([safe**-exponent for exponent in (1.0, 2.0, 3.0, 4.0, 6.0)])


def _allowed(candidate: int, taken: list[int], templates: list[tuple[str, str, float, np.ndarray]]) -> bool:
    """Soft lines of an element are believed only where its harder ones are, if those can be excited and seen at all.

    Below 1 keV the lines of half of the periodic table overlap, and so does the noise peak of the detector.
    """
    symbol, _, at, _ = templates[candidate]
    harder = [c for c, (other, _, energy, _) in enumerate(templates) if other == symbol and energy > at]
    return not harder or any(c in taken for c in harder)


def _stepwise(
    target: np.ndarray,
    templates: list[tuple[str, str, float, np.ndarray]],
    background: np.ndarray,
    sigma: np.ndarray,
    *,
    largest: int,
    lines: bool,
) -> tuple[Feature, ...]:
    from scipy.optimize import nnls

    columns = np.array([template / sigma for _, _, _, template in templates])
    norms = np.linalg.norm(columns, axis=1)
    # templates inside one resolution are correlated: about one independent value every few channels
    penalty = np.log(len(target))
    taken: list[int] = []

    def fit(chosen: list[int]) -> tuple[np.ndarray, float]:
        design = np.concatenate([background, columns[chosen]]) if chosen else background
        amounts, left = nnls(design.T, target)
        return amounts, float(left) ** 2

    amounts, chi2 = fit(taken)
    noise = 1.0
    while len(taken) < largest:
        design = np.concatenate([background, columns[taken]]) if taken else background
        residual = target - amounts @ design
        q = np.linalg.qr(design.T)[0]
        free = columns - (columns @ q) @ q.T  # matched filter of what a template has that the fit has not
        strength = (free @ residual) / np.maximum(np.linalg.norm(free, axis=1), 1e-3 * norms)
        strength[taken] = -np.inf
        if lines:
            strength[[not _allowed(c, taken, templates) for c in range(len(templates))]] = -np.inf
        order = np.argsort(-strength)[:6]
        trials = []
        for c in order:
            if strength[c] > 3.0:
                trial, left = fit([*taken, int(c)])
                peak = int(np.argmax(templates[c][3]))
                others = trial[len(background) : -1] @ columns[taken][:, peak] if taken else 0.0
                if trial[-1] * columns[c, peak] > SMALLEST_SHARE * others:
                    trials.append((left, int(c)))
        if not trials:
            break
        best, candidate = min(trials)
        if (chi2 - best) / noise < penalty + ENOUGH_BIC:
            break
        taken.append(candidate)
        amounts, chi2 = fit(taken)
    features = []
    for place, candidate in enumerate(taken):
        rest = [c for c in taken if c != candidate]
        gain = fit(rest)[1] - chi2 - penalty
        if gain < ENOUGH_BIC:
            continue
        symbol, name, at, _ = templates[candidate]
        amount = float(amounts[len(background) + place])
        features.append(Feature(symbol, name, at, float(np.sqrt(max(gain, 0.0))), float(gain)))
        assert amount >= 0
    return tuple(sorted(features, key=lambda feature: -feature.bic_gain))
