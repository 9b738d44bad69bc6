"""One alignment as a series of pictures: before, every step, after; what the camera saw and the spectrum in steps of hbar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...alignment.targets.oam_sorter import OamSorterTarget
from ...physics.oam_range import HALF_RANGES
from .oam_runs import Bench, Way, learned_responses

START = np.array([0.8, -0.6, 0.7, -0.9, 0.5]) * HALF_RANGES
_INK, _PAPER, _LINE, _PERFECT = "#e6e6e6", "#16191d", "#56B4E9", "#E69F00"
_STYLE: Any = {
    "figure.facecolor": _PAPER, "axes.facecolor": _PAPER, "savefig.facecolor": _PAPER, "text.color": _INK,
    "axes.labelcolor": _INK, "axes.edgecolor": "#6b7280", "xtick.color": _INK, "ytick.color": _INK,
    "font.size": 9, "axes.titlesize": 10, "legend.frameon": False, "figure.dpi": 110, "axes.titlelocation": "left",
}  # fmt: skip


def series(file: Path, *, seed: int = 0, electrons: float = 1e4, target: OamSorterTarget | None = None) -> Way:
    """Align one sorter and draw what its camera saw into `file`; returns what was drawn."""
    target = target or OamSorterTarget()
    ((response, *_),) = learned_responses(target, electrons, seed, 1)
    bench = Bench(target, 1000 * seed, 1, electrons, start=START)
    way = bench.by_plan(response=response, hold=1)
    draw_series(way, target, electrons, file)
    return way


def draw_series(way: Way, target: OamSorterTarget, electrons: float, file: Path) -> None:
    """Camera pictures above, spectra below, one column a picture."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(way.pictures)
    hbar = np.linspace(-12.0, 12.0, 481)
    perfect = target.sorter.spectrum(np.zeros(5), hbar)
    with rc_context(_STYLE):
        figure = Figure(figsize=(2.3 * count, 4.6), layout="constrained")
        FigureCanvasAgg(figure)  # no window system, whatever the person's matplotlib is set to
        for k, picture in enumerate(way.pictures):
            half = 0.5 * target.sorter.optics.pixels * target.sorter.optics.pixel_hbar
            above, below = figure.add_subplot(2, count, k + 1), figure.add_subplot(2, count, count + k + 1)
            above.imshow(np.sqrt(picture), extent=(-half, half, half, -half), cmap="magma")
            above.set(xlim=(-12, 12), ylim=(12, -12), xticks=(-8, 0, 8), yticks=(-8, 0, 8))
            above.set_title("before" if k == 0 else f"picture {k + 1}")
            step = 2 * half / picture.shape[1]
            places = (np.arange(picture.shape[1]) - 0.5 * (picture.shape[1] - 1)) * step
            measured = picture.sum(axis=0) / (step * electrons)
            below.plot(hbar, perfect, color=_PERFECT, lw=1.0, label="perfect")
            below.step(places, measured, color=_LINE, lw=1.2, where="mid", label="measured")
            below.set(xlim=(-12, 12), ylim=(0, 1.15), xticks=range(-12, 13, 4), xlabel="orbital angular momentum (ħ)")
            below.set_title(f"width × {way.resolution[k]:.2f}, own bin × {way.power[k]:.2f}", fontsize=8)
            if k == 0:
                above.set_ylabel("radial momentum (1/a)")
                below.set_ylabel("share per ħ")
                below.legend(loc="upper left", fontsize=8)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)
