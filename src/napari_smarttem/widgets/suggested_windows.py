"""Energy windows to begin with, where the instrument says which elements are there; a person moves, renames and removes them."""

from __future__ import annotations

from collections.abc import Iterable

from ..schema import Axis
from .energy_windows import EnergyWindow

# Onset in eV (Egerton, Electron Energy-Loss Spectroscopy in the Electron Microscope, 3rd ed., appendix D) and a width that
# ends before the next edge of the usual neighbours.
_EELS = {
    "B": ("B K", 188, 40),
    "C": ("C K", 284, 45),
    "N": ("N K", 401, 40),
    "Ti": ("Ti L", 456, 45),
    "O": ("O K", 532, 45),
    "Mn": ("Mn L", 640, 50),
    "Fe": ("Fe L", 708, 50),
    "Co": ("Co L", 779, 50),
    "Ni": ("Ni L", 855, 50),
    "Cu": ("Cu L", 931, 60),
    "Si": ("Si K", 1839, 80),
}
_LIGHT = frozenset({"B", "C", "N", "O"})
MOST = 3
ADDITIVE = ("#2A5BFF", "#FF3B20", "#28C840")
"""Near-primary colours: the maps are added up, and what is in two of them must not turn white."""


def suggested_windows(elements: Iterable[str], signal: str, axis: Axis, channels: int) -> list[EnergyWindow]:
    """Up to three windows above edges of `elements` that the spectrum holds whole.

    Where there are two heavier elements or more, the light ones, which are in everything, are left to the person.

    Parameters
    ----------
    elements : iterable of str
        Symbols, the most telling ones last in energy: edges of higher loss are preferred.
    signal : str
        ``"EELS"``; for anything else nothing is suggested.
    axis : Axis
        Of the spectrum, in eV.
    channels : int
    """
    if signal != "EELS":
        return []
    ends = sorted((axis.offset, axis.offset + axis.scale * (channels - 1)))
    held = {
        element: (name, low, low + width)
        for element, (name, low, width) in ((e, _EELS[e]) for e in dict.fromkeys(elements) if e in _EELS)
        if ends[0] <= low and low + width <= ends[1]
    }
    heavy = [window for element, window in held.items() if element not in _LIGHT]
    chosen = sorted(heavy if len(heavy) > 1 else held.values(), key=lambda window: window[1])[-MOST:]
    return [EnergyWindow(name, low, high, ADDITIVE[i], signal) for i, (name, low, high) in enumerate(chosen)]
