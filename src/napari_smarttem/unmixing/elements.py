"""Which elements explain an endmember: X-ray lines or ionisation edges, by stepwise non-negative fits judged by BIC.

Line energies, weights and edge onsets are those of exspy's tables; what an element adds to a spectrum is in `elements_lines`
and `elements_edges`, and how candidates are chosen in `elements_fit`. Backgrounds are always in the fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from ..schema import BadInput
from .elements_edges import find_edges
from .elements_lines import find_lines
from .result import UnmixingResult

IGNORED = frozenset({"He", "Ne", "Ar", "Kr", "Xe", "Rn", "Tc", "Pm", "Po", "At", "Fr", "Ra", "Ac", "Pa"})
"""Gases that no specimen holds and elements without stable isotopes: found only when they are asked for."""


LEAST = 0.05
"""Part of what a fit gains by elements, below which one gives no name to a component."""


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
    if not kind.startswith(("EDS", "EDX", "EELS")):
        raise BadInput(f"Elements are named in EDS and EELS spectra, and this is {signal}.")
    symbols, table = _wanted(candidates), _table()
    spectrum = np.asarray(spectrum, dtype=np.float64)
    if errors is None or not np.isfinite(errors).all():
        from scipy.ndimage import gaussian_filter1d

        # the variance is that of the mean: a channel of few counts must not count for more because it happens to be low
        errors = np.sqrt(np.maximum(gaussian_filter1d(spectrum, 4.0), 0.5))
    if kind.startswith("EELS"):
        found = find_edges(spectrum, energy_ev, errors, table, symbols, largest=largest)
    else:
        found = find_lines(spectrum, energy_ev, errors, table, symbols, resolution_ev=resolution_ev, largest=largest)
    features = [
        Feature(one.element, one.name, one.energy_ev, float(np.sqrt(max(gain, 0.0))), gain) for one, gain in found
    ]
    return tuple(sorted(features, key=lambda feature: -feature.bic_gain))


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
        # what there is more of here than in any other component sets it apart; the little that is only here, too
        most = [s for s, part in share.items() if part >= max(other.get(s, 0.0) for other in shares)]
        own = [s for s in most if share[s] > 0.1]
        if len(own) == 1:
            own += [s for s in most if LEAST < share[s] <= 0.1]
        name = "-".join(own[:2]) or "-".join(list(share)[:2]) or f"component {number}"
        names.append(name if name not in names else f"{name} ({number})")
    return replace(result, elements=tuple(tuple(share) for share in shares), names=tuple(names))


def table_of(symbols: Iterable[str]) -> Any:
    """The elements of exspy; BadInput where one of `symbols` is not among them."""
    _wanted(symbols)
    return _table()


def _wanted(candidates: Iterable[str] | None) -> Sequence[str]:
    table = _table()
    if candidates is None:
        return [symbol for symbol in table if symbol not in IGNORED]
    asked = list(candidates)
    unknown = [symbol for symbol in asked if symbol not in table]
    if unknown:
        raise BadInput(f"{unknown[0]!r} is no element; write symbols, such as Fe or Pt.")
    return asked
