"""Spectra of random compositions, and how many of their elements are named rightly.

Their shapes are not those of the fits: edges carry random fine structure, plural scattering and chemical shifts, axes are off;
X-ray families have random ratios to each other, lines are off, wider or narrower than thought, and have tails.
"""

from __future__ import annotations

from typing import Any

import numpy as np

EELS_ELEMENTS = (
    "C",
    "N",
    "O",
    "F",
    "Ca",
    "Ti",
    "V",
    "Cr",
    "Mn",
    "Fe",
    "Co",
    "Ni",
    "Cu",
    "Ba",
    "La",
    "Ce",
    "Nd",
    "Sn",
    "Sb",
    "In",
    "Ag",
)
EDS_ELEMENTS = (
    *("C", "N", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "K", "Ca", "Ti", "Cr", "Mn", "Fe", "Co", "Ni", "Cu"),
    *("Zn", "Ga", "As", "Zr", "Mo", "Ag", "Sn", "Ba", "La", "W", "Pt", "Au", "Pb"),
)


def _table() -> Any:
    from exspy.material import elements

    return elements.as_dictionary()


def edges_spectrum(seed: int) -> tuple[np.ndarray, np.ndarray, set[str]]:
    """A core loss: counts ``(energy,)``, energies, and the elements whose edges are clearly inside."""
    rng = np.random.default_rng([seed, 5])
    table = _table()
    first, wide = rng.uniform(250, 480), rng.uniform(350, 650)
    scale = float(rng.choice([0.25, 0.5, 1.0]))
    energy = np.arange(first, first + wide, scale)
    off = rng.normal(0, 3.0)
    inside = []
    for symbol in EELS_ELEMENTS:
        levels = table[symbol]["Atomic_properties"]["Binding_energies"]
        shell = next(
            (s for s in ("K", "L3", "M5") if s in levels and 150 < levels[s]["onset_energy (eV)"] < 1500), None
        )
        if shell and first + 45 < levels[shell]["onset_energy (eV)"] < energy[-1] - 45:
            inside.append((symbol, shell))
    count = min(int(rng.integers(1, 5)), len(inside))
    chosen = [inside[i] for i in rng.permutation(len(inside))[:count]]
    background = (energy / first) ** -rng.uniform(2.2, 3.6)
    spectrum = background.copy()
    for symbol, shell in chosen:
        levels = table[symbol]["Atomic_properties"]["Binding_energies"]
        onset = levels[shell]["onset_energy (eV)"] + off + rng.normal(0, 1.0)
        partner = {"L3": "L2", "M5": "M4"}.get(shell)
        second = onset + (levels[partner]["onset_energy (eV)"] - levels[shell]["onset_energy (eV)"] if partner else 0.0)
        edge = _edge(rng, energy, shell, int(table[symbol]["General_properties"]["Z"]), onset=onset, second=second)
        height = rng.uniform(0.06, 0.8) * np.interp(onset, energy, background)
        behind = (energy > onset) & (energy < onset + 40)
        spectrum += height * edge / edge[behind].mean()
    spectrum = _plural(rng, spectrum, scale)
    counts = 10 ** rng.uniform(3.3, 5.5) * spectrum / spectrum.mean()
    return rng.poisson(counts).astype(float), energy, {symbol for symbol, _ in chosen}


def _edge(
    rng: np.random.Generator, energy: np.ndarray, shell: str, z: int, *, onset: float, second: float
) -> np.ndarray:
    from scipy.special import expit

    above = np.maximum(energy - onset, 0.0)
    fall = (np.maximum(energy, onset) / onset) ** -rng.uniform(2.5, 4.5)
    sharp = rng.uniform(0.6, 1.8)
    step = expit((energy - onset) / sharp)
    if shell == "K":
        phase, beat, damp = rng.uniform(0, 6.3), rng.uniform(5, 11), rng.uniform(6, 18)
        wave = 1.0 + rng.uniform(0.2, 0.6) * np.cos(2 * np.pi * above / beat + phase) * np.exp(-above / damp)
        first = rng.uniform(0, 1.2) * np.exp(-0.5 * ((energy - onset - rng.uniform(1, 4)) / rng.uniform(0.8, 2)) ** 2)
        return np.asarray(step * fall * wave + first)
    if z in range(20, 30) or 55 <= z < 72:
        size = rng.uniform(1.5, 6.0) * (0.3 if z in (28, 29) else 1.0) * (2.0 if z >= 55 else 1.0)
        ratio, width = rng.uniform(0.35, 1.0), rng.uniform(0.8, 2.0)

        def line(at: float) -> np.ndarray:
            return np.asarray(1.0 / (1.0 + ((energy - at - 1.5) / width) ** 2))

        two = expit((energy - second) / sharp)
        return np.asarray(fall * (step + 0.5 * two) + size * (line(onset) + ratio * line(second)))
    rise = rng.uniform(14.0, 40.0)
    return np.asarray((1.0 - np.exp(-above / rise)) * fall * (1.0 + 0.3 * np.exp(-(((above - 2 * rise) / rise) ** 2))))


def _plural(rng: np.random.Generator, spectrum: np.ndarray, scale: float) -> np.ndarray:
    thickness, plasmon, damping = rng.uniform(0.2, 0.8), rng.uniform(14, 26), rng.uniform(4, 12)
    loss = np.arange(0, 90, scale)
    single = loss * damping / ((loss**2 - plasmon**2) ** 2 + (loss * damping) ** 2)
    single *= thickness / single.sum()
    kernel = np.concatenate([[1.0], single[1:] + 0.5 * np.convolve(single, single)[1 : len(loss)]])
    padded = np.concatenate([np.full(len(kernel), spectrum[0]), spectrum])
    return np.asarray(np.convolve(padded, kernel)[len(kernel) : len(padded)])


def lines_spectrum(seed: int) -> tuple[np.ndarray, np.ndarray, set[str]]:
    """An X-ray spectrum, 0.1 to 20 keV in 10 or 20 eV: counts, energies, and its elements."""
    rng = np.random.default_rng([seed, 6])
    table = _table()
    energy = np.arange(100.0, 20000.0, float(rng.choice([10.0, 20.0])))
    chosen = [EDS_ELEMENTS[i] for i in rng.permutation(len(EDS_ELEMENTS))[: int(rng.integers(1, 6))]]
    off, gain, resolution = rng.normal(0, 5), 1 + rng.normal(0, 5e-4), 130 * rng.uniform(0.94, 1.08)
    spectrum = np.zeros_like(energy)
    for symbol in chosen:
        shares: dict[str, float] = {}
        one = np.zeros_like(energy)
        for name, line in table[symbol]["Atomic_properties"]["Xray_lines"].items():
            at = 1000 * line["energy (keV)"]
            if not 150 < at < 24000:
                continue
            share = shares.setdefault(name[0], 10 ** rng.uniform(-0.3, 0.3) * (0.3 if at < 1000 else 1.0))
            weight = share * float(line["weight"]) * rng.uniform(0.85, 1.15)
            width = np.sqrt(max(resolution**2 + 2.5 * (at - 5895), 45.0**2)) / 2.3548
            away = (energy - at * gain - off) / width
            one += weight * (np.exp(-0.5 * away**2) + 0.02 * np.exp(np.minimum(away, 0) / 4) * (away < 0)) / width
        spectrum += 10 ** rng.uniform(-1.5, 0) * one / max(one.sum(), 1e-30)
    brems = np.exp(-energy / 5000) * (1 - np.exp(-((energy / 700) ** 2))) / energy**0.4
    spectrum += rng.uniform(0.1, 0.6) * spectrum.sum() * brems / brems.sum()
    counts = 10 ** rng.uniform(4.0, 6.0) * spectrum / spectrum.sum()
    return rng.poisson(counts).astype(float), energy, set(chosen)


def element_figures(seed: int, spectra: int = 40) -> dict[str, Any]:
    """Precision and recall of the elements named in `spectra` EELS and as many EDS spectra, over all elements together.

    An element that is there with less than a sensible minimum is none the less counted as missed.
    """
    from ...unmixing.elements import find_elements

    out: dict[str, Any] = {}
    for signal, make in (("EELS", edges_spectrum), ("EDS", lines_spectrum)):
        right = named = there = 0
        wrong: dict[str, int] = {}
        missed: dict[str, int] = {}
        for turn in range(spectra):
            counts, energy, true = make(1000 * seed + turn)
            found = {feature.element for feature in find_elements(counts, energy, signal=signal)}
            right, named, there = right + len(found & true), named + len(found), there + len(true)
            for symbol in found - true:
                wrong[symbol] = wrong.get(symbol, 0) + 1
            for symbol in true - found:
                missed[symbol] = missed.get(symbol, 0) + 1
        out[f"{signal.lower()}_precision"] = right / max(named, 1)
        out[f"{signal.lower()}_recall"] = right / max(there, 1)
        out[f"{signal.lower()}_wrong"] = dict(sorted(wrong.items(), key=lambda pair: -pair[1]))
        out[f"{signal.lower()}_missed"] = dict(sorted(missed.items(), key=lambda pair: -pair[1]))
    return out
