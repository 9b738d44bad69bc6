"""Where the lines and edges of elements lie, for naming what stands in a spectrum. Qt-free."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

SMALLEST_WEIGHT = 0.1
"""X-ray lines weaker than this part of their family's strongest are not drawn."""


@dataclass(frozen=True)
class Line:
    """An X-ray line or the onset of an edge.

    Parameters
    ----------
    element : str
        ``"Fe"``
    name : str
        ``"Fe Ka"`` or ``"Fe L3"``.
    energy_ev : float
    weight : float
        Relative to the strongest of its family (X-ray lines); 1 for a major edge.
    """

    element: str
    name: str
    energy_ev: float
    weight: float


@cache
def line_table(signal: str) -> tuple[Line, ...]:
    """All lines (EDS) or major edges (anything else), by energy, from exspy's tables.

    The first call imports exspy, which takes seconds: make it on another thread than the window's.
    """
    from exspy.material import elements

    found = []
    for symbol, facts in elements.as_dictionary().items():
        atomic = facts.get("Atomic_properties", {}) if isinstance(facts, dict) else {}
        if signal.upper().startswith("EDS"):
            for name, line in atomic.get("Xray_lines", {}).items():
                if float(line["weight"]) >= SMALLEST_WEIGHT:
                    found.append(
                        Line(symbol, f"{symbol} {name}", 1e3 * float(line["energy (keV)"]), float(line["weight"]))
                    )
        else:
            for name, edge in atomic.get("Binding_energies", {}).items():
                if edge.get("relevance") == "Major":
                    found.append(Line(symbol, f"{symbol} {name}", float(edge["onset_energy (eV)"]), 1.0))
    return tuple(sorted(found, key=lambda line: line.energy_ev))


def lines_of(symbols: Iterable[str], signal: str, low_ev: float, high_ev: float) -> list[Line]:
    """Lines or edges of some elements between two energies (eV): of each family (K, L, M) the strongest alone."""
    wanted = set(symbols)
    best: dict[tuple[str, str], Line] = {}
    for line in line_table(signal):
        if line.element in wanted and low_ev <= line.energy_ev <= high_ev:
            family = (line.element, line.name.split()[1][0])
            if family not in best or line.weight > best[family].weight:
                best[family] = line  # of edges, which weigh the same, the first is the one that rises first
    return sorted(best.values(), key=lambda line: line.energy_ev)


def lines_near(energy_ev: float, signal: str, width_ev: float, most: int = 8) -> list[Line]:
    """Lines or edges within `width_ev` of an energy, the nearest first and one an element."""
    near: dict[str, Line] = {}
    for line in sorted(line_table(signal), key=lambda line: abs(line.energy_ev - energy_ev) / max(line.weight, 0.3)):
        if abs(line.energy_ev - energy_ev) <= width_ev:
            near.setdefault(line.element, line)
    return list(near.values())[:most]


def known_symbols(text: str) -> tuple[str, ...]:
    """Element symbols in a person's words, such as ``"Fe, pt O"``.

    Raises
    ------
    BadInput
        A word that is no element.
    """
    from ..schema import BadInput

    symbols = []
    for word in text.replace(",", " ").replace(";", " ").replace("+", " ").split():
        symbol = word.capitalize()
        if symbol not in SYMBOLS:
            raise BadInput(f"{word!r} is no element; write symbols such as Fe, Pt, O.")
        symbols.append(symbol)
    return tuple(dict.fromkeys(symbols))


_PERIODIC = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh
Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr
Ra Ac Th Pa U
"""
SYMBOLS = frozenset(_PERIODIC.split())


def can_name_elements(signal: str) -> bool:
    """True for X-ray and energy-loss spectra; light tells no elements."""
    return signal.upper().startswith(("EDS", "EDX", "EELS"))


def spectrum_kind(result: Any) -> str:
    """``"EDS"`` or ``"EELS"``: which table the lines of a result come from."""
    return "EDS" if str(result.signal).upper().startswith("EDS") else "EELS"
