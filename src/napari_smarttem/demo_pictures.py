"""Pictures of the demonstration: overview with targets, spectra, maps beside the truth, drift. All with units and a scale bar."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .schema import Frame, TargetState

if TYPE_CHECKING:
    from .demo import Story

# The colours of Okabe and Ito: told apart by people with any colour vision, and the same as in the window.
STATE_COLORS = {
    TargetState.PROPOSED: "#F0E442",
    TargetState.APPROVED: "#00B583",
    TargetState.REJECTED: "#CC79A7",
    TargetState.ACQUIRING: "#FFFFFF",
    TargetState.DONE: "#56B4E9",
    TargetState.FAILED: "#D55E00",
}
LABEL_COLORS = ("#888888", "#E69F00", "#56B4E9", "#009E73", "#CC79A7")
_INK, _PAPER = "#e6e6e6", "#16191d"
_STYLE: Any = {
    "figure.facecolor": _PAPER, "axes.facecolor": _PAPER, "savefig.facecolor": _PAPER, "text.color": _INK,
    "axes.labelcolor": _INK, "axes.edgecolor": "#6b7280", "xtick.color": _INK, "ytick.color": _INK,
    "font.size": 10, "axes.titlesize": 11, "legend.frameon": False, "figure.dpi": 110, "axes.titlelocation": "left",
}  # fmt: skip


def draw(story: Story, out: Path) -> dict[str, Path]:
    """Draw every picture into `out`; paths by name."""
    from matplotlib import rc_context

    pictures = {}
    with rc_context(_STYLE):
        for name, make in (("overview", _overview), ("spectra", _spectra), ("maps", _maps), ("drift", _drift)):
            figure = make(story)
            pictures[name] = out / f"{name}.png"
            figure.savefig(pictures[name], bbox_inches="tight")
    return pictures


def _figure(columns: int, width: float, height: float, rows: int = 1) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no window system, whatever the person's matplotlib is set to
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]


def _image(axes: Any, overview: Frame, data: np.ndarray | None = None, **options: Any) -> Any:
    """An image in nm with a scale bar and no ticks; y down, as in the window."""
    y, x = overview.axes
    rows, columns = overview.shape
    extent = (
        x.offset - x.scale / 2,
        x.offset + (columns - 0.5) * x.scale,
        y.offset + (rows - 0.5) * y.scale,
        y.offset - y.scale / 2,
    )
    drawn = axes.imshow(overview.data if data is None else data, extent=extent, **({"cmap": "gray"} | options))
    axes.set_xticks([])
    axes.set_yticks([])
    _scale_bar(axes, extent)
    return drawn


def _scale_bar(axes: Any, extent: tuple[float, float, float, float]) -> None:
    left, right, bottom, top = extent
    width = right - left
    length = _round_length(width / 5)
    x0, y0 = left + 0.05 * width, bottom - 0.05 * (bottom - top)
    axes.plot([x0, x0 + length], [y0, y0], color="white", linewidth=4, solid_capstyle="butt")
    label = f"{length:g} nm"
    axes.text(x0 + length / 2, y0 - 0.02 * (bottom - top), label, color="white", ha="center", va="bottom", fontsize=9)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def _round_length(length: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not longer than `length`."""
    decade = 10.0 ** np.floor(np.log10(length))
    return float(max(step * decade for step in (1, 2, 5) if step * decade <= length))


def _overview(story: Story) -> Any:
    assert story.overview is not None
    figure, (plain, judged) = _figure(2, 11, 5.2)
    _image(plain, story.overview)
    plain.set_title(f"{story.overview.signal} overview, as the chooser saw it (SIMULATED)")
    _image(judged, story.overview, alpha=0.75)
    for state, marker in ((TargetState.REJECTED, "x"), (TargetState.DONE, "s"), (TargetState.FAILED, "v")):
        places = np.array([(j.target.y_nm, j.target.x_nm) for j in story.targets if j.state is state]).reshape(-1, 2)
        if len(places):
            label = f"{state.value}: {len(places)}"
            judged.scatter(places[:, 1], places[:, 0], s=12, marker=marker, color=STATE_COLORS[state], label=label)
    judged.set_title("Proposed points and what became of them")
    judged.legend(loc="upper right", framealpha=0.7, frameon=True, facecolor=_PAPER)
    return figure


def _spectra(story: Story) -> Any:
    assert story.spectra is not None
    assert story.point_labels is not None
    figure, (axes,) = _figure(1, 11, 4.2)
    energy = story.spectra.coordinates("energy_loss")
    for number, name in enumerate(story.label_names):
        chosen = story.point_labels == number
        if chosen.any():
            mean = np.asarray(story.spectra.data[chosen], dtype=float).mean(axis=0)
            axes.semilogy(
                energy, np.maximum(mean, 0.5), color=LABEL_COLORS[number], linewidth=1, label=f"{name} ({chosen.sum()})"
            )
    from .demo import WINDOWS

    low, high = axes.get_ylim()
    for _, window in WINDOWS:
        axes.axvspan(window.low_ev, window.high_ev, color="white", alpha=0.08)
        axes.text(window.low_ev, high, f" {window.name}", va="top", fontsize=9)
    axes.set_ylim(low, high)
    axes.set_xlim(energy[0], energy[-1])
    axes.set_xlabel("energy loss (eV)")
    axes.set_ylabel("counts per channel")
    axes.set_title("Mean spectrum over the points of each class of the ground truth (SIMULATED)")
    axes.legend(loc="lower left")
    return figure


def _maps(story: Story) -> Any:
    assert story.overview is not None
    assert story.spectra is not None
    figure, panels = _figure(2, 11, 9.4, rows=2)
    from matplotlib.colors import ListedColormap

    labels = ListedColormap(list(LABEL_COLORS[: len(story.label_names)]))
    _image(panels[0], story.overview, story.true_labels, cmap=labels, interpolation="nearest")
    panels[0].set_title("Ground truth: " + ", ".join(story.label_names))
    points: Any = story.spectra.metadata["points"]
    for panel, (name, values) in zip(panels[1:], story.maps.items(), strict=True):
        _image(panel, story.overview, alpha=0.35)
        drawn = panel.scatter(points["x_nm"], points["y_nm"], c=values, s=26, cmap="viridis")
        bar = figure.colorbar(drawn, ax=panel, shrink=0.75)
        bar.set_label("counts above background")
        panel.set_title(f"{name}: r = {story.metrics[f'correlation_{name}']:.3f} with the truth")
    return figure


def _drift(story: Story) -> Any:
    figure, (axes,) = _figure(1, 11, 3.4)
    spectrum = np.arange(len(story.drift["true_nm"]))
    for column, (name, color) in enumerate((("y", "#E69F00"), ("x", "#56B4E9"))):
        axes.plot(
            spectrum, story.drift["true_nm"][:, column], color=color, linewidth=3, alpha=0.4, label=f"{name}, true"
        )
        axes.plot(
            spectrum, story.drift["corrected_nm"][:, column], color=color, linewidth=1, label=f"{name}, corrected for"
        )
    axes.set_xlabel("spectrum, in the order measured")
    axes.set_ylabel("drift since the overview (nm)")
    axes.set_title(
        "Drift of the specimen and what was corrected; it falls back where the killed simulator was started anew"
    )
    axes.legend(loc="upper left", ncols=2)
    return figure
