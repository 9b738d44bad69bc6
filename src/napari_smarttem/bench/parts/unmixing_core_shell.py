"""How well core, shell and support of the recorded core-shell particles are told apart, judged by lines of held-out counts.

The particles have no known truth, but the counts that were not unmixed have an opinion: half of them, drawn by the toss of a
coin, is unmixed, and the maps are compared with X-ray line maps of the other half.
``python -m napari_smarttem.bench.parts.unmixing_core_shell FILE`` prints the figures.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from ...unmixing import UnmixingResult, unmix

LINES_EV = {"shell": ("Fe", 6400.0), "core": ("Pt", 9441.0), "support": ("C", 277.0)}
"""Part of the particle, its element, and the energy of the line that shows it."""


def net_counts(spectra: np.ndarray, energy: np.ndarray, line_ev: float) -> np.ndarray:
    """Counts in a line over the straight line through its surroundings, along the last axis."""
    half = 2.0 * np.sqrt(max(130.0**2 + 2.5 * (line_ev - 5895.0), 60.0**2)) / 2.3548
    inside = np.abs(energy - line_ev) < half
    beside = (np.abs(energy - line_ev) < 2.5 * half) & (np.abs(energy - line_ev) > 1.3 * half)
    return np.asarray(spectra[..., inside].sum(axis=-1) - spectra[..., beside].mean(axis=-1) * inside.sum())


def separation(path: Path, seed: int = 0) -> dict[str, float]:
    """Figures of one toss.

    Returns
    -------
    dict
        ``fe_in_shell``, ``pt_in_core``, ``c_in_support``: part of the line's net counts of the model that the component
        named after it carries. ``fe_held_out``, ``pt_held_out``: correlation of the component's map with the line map of
        the other half of the counts, over that of the two halves' own line maps under noise alone (one is all there is to
        be had).
    """
    from ...io.read import read

    frame = max((f for f in read(path) if f.axes[-1].units == "eV"), key=lambda f: f.data.size)
    counts = np.asarray(frame.data).astype(np.int64)
    one = np.random.default_rng(seed).binomial(counts, 0.5)
    result: UnmixingResult = unmix(frame.with_data(one), seed=seed, elements=True)
    energy = result.energy_ev
    out: dict[str, float] = {"components": float(result.components)}
    for part, (element, line) in LINES_EV.items():
        carried = result.maps.mean(axis=(1, 2)) * np.maximum(net_counts(result.endmembers, energy, line), 0.0)
        component = int(np.argmax(carried))
        out[f"{element.lower()}_in_{part}"] = float(carried[component] / carried.sum())
        if part == "support":
            continue
        held_out = net_counts((counts - one).astype(float), energy, line)
        seen = float(np.corrcoef(result.maps[component].ravel(), held_out.ravel())[0, 1])
        # what the true map would reach: the line map's variance that is not noise
        mean = counts[..., np.abs(energy - line) < 150].sum(axis=-1).mean() / 2
        attainable = np.sqrt(max(1.0 - mean / held_out.var(), 0.0))
        out[f"{element.lower()}_held_out"] = seen / max(attainable, 1e-9)
    return out


def main() -> int:
    """Print the means of three tosses."""
    tosses = [separation(Path(sys.argv[1]), seed) for seed in range(3)]
    print(json.dumps({name: round(float(np.mean([toss[name] for toss in tosses])), 3) for name in tosses[0]}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
