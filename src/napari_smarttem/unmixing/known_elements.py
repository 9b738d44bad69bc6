"""Spectra of named elements as they stand in a mean spectrum: lines or edges of exspy's tables, and the background under them.

What an element adds to a spectrum (families of lines with known ratios, an edge with its fine structure and what plural
scattering makes of it) is fitted to the mean of the data together with the other elements and the background; what each
contributes is its spectrum. Amounts of these spectra pixel by pixel are then maps of elements.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..schema import BadInput
from . import elements_edges, elements_lines
from .elements import table_of
from .elements_fit import Candidate, Fit, Stepwise


def library_of(
    mean: np.ndarray, energy_ev: np.ndarray, symbols: Sequence[str], *, signal: str, resolution_ev: float = 130.0
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and spectra ``(elements + 1, channels)`` of elements and of the background, which comes last.

    Parameters
    ----------
    mean : ndarray
        ``(channels,)`` mean spectrum in counts.
    energy_ev : ndarray
        ``(channels,)``.
    symbols : sequence of str
        ``"Fe"``, ``"Pt"`` ...
    signal : str
        ``"EELS"`` or ``"EDS"``.
    resolution_ev : float
        Width of the Mn K-alpha line (EDS).

    Raises
    ------
    BadInput
        No element, one that does not exist, one without a line or edge at these energies, or another kind of signal.
    """
    kind = signal.upper()
    if not kind.startswith(("EDS", "EDX", "EELS")):
        raise BadInput(f"Elements are fitted to EDS and EELS spectra, and this is {signal}.")
    wanted, table = list(dict.fromkeys(symbols)), table_of(symbols)
    if not wanted:
        raise BadInput("Name at least one element to be fitted, such as Fe or Pt.")
    fits: list[tuple[Fit, Stepwise]] = []
    sigma = np.sqrt(np.maximum(mean, 1e-3 * max(float(mean.max()), 1e-30)))
    if kind.startswith("EELS"):
        background = elements_edges.power_laws(energy_ev)
        for shift in elements_edges.SHIFTS_EV:
            fits.append(
                _fitted(mean, background, list(elements_edges.edges(energy_ev, table, wanted, float(shift))), sigma)
            )
    else:
        background = elements_lines.smooth_background(mean, energy_ev)
        found = [candidate for candidate, _ in elements_lines.families(energy_ev, table, wanted, resolution_ev)]
        fits.append(_fitted(mean, background, found, sigma))
    fit, search = min(fits, key=_cost)
    rows = []
    for symbol in wanted:
        own = [c for c, candidate in enumerate(search.candidates) if candidate.element == symbol]
        if not own:
            raise BadInput(
                f"{symbol} has no line or edge between {energy_ev[0]:.4g} and {energy_ev[-1]:.4g} eV that could be fitted."
            )
        row = sum((fit.amounts[c] @ search.candidates[c].columns for c in own), np.zeros_like(mean))
        if not row.any():  # not in the mean: as the table has it
            row = sum((search.candidates[c].columns[0] for c in own), np.zeros_like(mean))
        rows.append(row)
    rows.append(np.maximum((fit.model - fit.peaks) * sigma, 0.0))
    return (*wanted, "background"), np.array(rows)


def _fitted(
    mean: np.ndarray, background: np.ndarray, candidates: Sequence[Candidate], sigma: np.ndarray
) -> tuple[Fit, Stepwise]:
    if not candidates:
        raise BadInput("None of the elements has a line or an edge at these energies.")
    search = Stepwise(mean / sigma, background / sigma, candidates, sigma)
    return search.fit(range(len(candidates))), search


def _cost(one: tuple[Fit, Stepwise]) -> float:
    return one[0].chi2
