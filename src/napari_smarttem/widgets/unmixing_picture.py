"""Maps and spectra of a result as one figure for a paper. Qt-free; matplotlib is imported when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schema import BadInput
from .unmixing_lines import Line

if TYPE_CHECKING:
    from ..unmixing import UnmixingResult
    from .unmixing_canvas import Canvas

FORMATS = (".pdf", ".svg", ".png")
LABEL_ROWS = 5
LETTER_POINTS = 3.4
"""Width of a letter of a line's name in the figure, with what the axis is narrower than the figure."""
_NICE = np.array([1.0, 2.0, 5.0])


def composite(maps: Sequence[np.ndarray], colors: Sequence[str]) -> np.ndarray:
    """Maps added up in their colours, ``(y, x, 3)`` from 0 to 1; NaN is black."""
    total = np.zeros((*np.shape(maps[0]), 3))
    for values, color in zip(maps, colors, strict=True):
        rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        finite = np.nan_to_num(values, nan=0.0)
        high = float(np.percentile(finite, 99.8))
        total += np.clip(finite / high if high > 0 else finite, 0, 1)[..., None] * rgb
    return np.clip(total, 0, 1)


def scale_bar_length(width: float) -> float:
    """A round length (1, 2, 5 times a power of ten), about a quarter of `width`."""
    wanted = width / 4
    decade = 10.0 ** np.floor(np.log10(wanted))
    lengths = np.concatenate([_NICE * decade / 10, _NICE * decade])
    return float(lengths[lengths <= wanted * 1.0001].max())


def draw_picture(
    result: UnmixingResult,
    canvas: Canvas,
    path: str | Path,
    *,
    colors: Sequence[str],
    visible: Sequence[bool],
    lines: Sequence[Sequence[Line]],
    title: str,
    simulated: bool = False,
) -> Path:
    """Write the figure: the composite, each visible map with a scale bar, the spectra with their lines named.

    Parameters
    ----------
    canvas : Canvas
        How maps lie on the specimen.
    path : path
        Ends in one of `FORMATS`.
    lines : sequence of sequence of Line
        One a component.

    Raises
    ------
    BadInput
        Another ending, or nothing visible.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise BadInput(
            f"A picture is written as {', '.join(FORMATS)}, not as {path.suffix or 'a file without ending'}."
        )
    shown = [i for i in range(result.components) if visible[i]]
    if not shown:
        raise BadInput("No component is visible; show at least one before making a picture.")
    images = [np.asarray(canvas.image(result.maps[i], "map", {}).data) for i in shown]
    columns = min(4, len(shown) + 1)
    map_rows = -(-(len(shown) + 1) // columns)
    figure = Figure(figsize=(1.8 * columns, 1.9 * map_rows + 0.75 * len(shown) + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.9 * map_rows, 0.75 * len(shown) + 0.9])
    boxes = np.atleast_1d(upper.subplots(map_rows, columns)).ravel()
    _draw_image(boxes[0], composite(images, [colors[i] for i in shown]), canvas, "all", None)
    for box, i, values in zip(boxes[1:], shown, images, strict=False):
        _draw_image(box, values, canvas, result.names[i], colors[i])
    for box in boxes[len(shown) + 1 :]:
        box.set_visible(False)
    _draw_spectra(lower, result, shown, colors, lines)
    mark = " · SIMULATED" if simulated else ""
    figure.suptitle(f"{title}{mark}", fontsize=8)
    lower.supxlabel(f"{result.method}: {result.assumption}", fontsize=6)
    figure.savefig(path, dpi=300)
    return path


def _draw_image(box: Any, values: np.ndarray, canvas: Canvas, name: str, color: str | None) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    y, x = canvas.axes
    height, width = values.shape[0] * abs(y.scale), values.shape[1] * abs(x.scale)
    arguments: dict[str, Any] = {"extent": (0, width, height, 0), "interpolation": "nearest", "aspect": "equal"}
    if color is not None:
        high = float(np.nanpercentile(values, 99.8))
        cmap = LinearSegmentedColormap.from_list(name, ["#000000", color])
        arguments |= {"cmap": cmap.with_extremes(bad="#303030")}
        arguments |= {"vmin": min(0.0, float(np.nanmin(values))), "vmax": high if high > 0 else 1.0}
    box.imshow(values, **arguments)
    box.set_title(name, fontsize=7)
    box.set_xticks([])
    box.set_yticks([])
    length = scale_bar_length(width)
    start = 0.05 * width
    box.plot([start, start + length], [0.93 * height] * 2, color="white", lw=2, solid_capstyle="butt")
    box.text(
        start + length / 2, 0.89 * height, f"{length:g} {x.units}", color="white", fontsize=6, ha="center", va="bottom"
    )


def free_rows(places: Sequence[float], widths: Sequence[float], rows: int) -> list[int]:
    """Row of each label that begins at its place, so that none lies over another as long as there are rows enough."""
    ends = [-np.inf] * rows
    found = [0] * len(places)
    for number in np.argsort(np.asarray(places, dtype=float)):
        row = next((r for r in range(rows) if ends[r] <= places[number]), int(np.argmin(ends)))
        ends[row] = places[number] + widths[number]
        found[number] = row
    return found


def _signed_root(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.sqrt(np.abs(values))


def _signed_square(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.square(values)


def _draw_spectra(
    figure: Any, result: UnmixingResult, shown: list[int], colors: Sequence[str], lines: Sequence[Sequence[Line]]
) -> None:
    boxes = np.atleast_1d(figure.subplots(len(shown), 1, sharex=True))
    energy, unit = result.energy_ev, "eV"
    if energy[-1] > 5000:
        energy, unit = energy / 1000, "keV"
    for box, i in zip(boxes, shown, strict=True):
        box.plot(energy, result.endmembers[i], color=colors[i], lw=0.8)
        error = result.endmember_errors[i]
        if np.isfinite(error).all():
            box.fill_between(
                energy, result.endmembers[i] - error, result.endmembers[i] + error, color=colors[i], alpha=0.25, lw=0
            )
        top = float(result.endmembers[i].max())
        span = abs(float(energy[-1] - energy[0]))
        places = [line.energy_ev / (1000 if unit == "keV" else 1) for line in lines[i]]
        letters = span * LETTER_POINTS / (72 * figure.bbox.width / figure.dpi)
        rows = free_rows(places, [letters * (len(line.name) + 2) for line in lines[i]], LABEL_ROWS)
        for line, at, row in zip(lines[i], places, rows, strict=True):
            box.axvline(at, color="#808080", lw=0.4, ls=":")
            box.text(
                at,
                0.97 - row / (LABEL_ROWS + 1.5),
                f" {line.name}",
                fontsize=5,
                va="top",
                color="#303030",
                transform=box.get_xaxis_transform(),
            )
        box.set_ylabel(result.names[i], fontsize=5)
        if result.endmembers[i].min() >= -0.02 * top:  # a square root shows small lines beside large ones
            box.set_yscale("function", functions=(_signed_root, _signed_square))
        box.tick_params(labelsize=5)
        box.set_xlim(float(energy[0]), float(energy[-1]))
    boxes[-1].set_xlabel(f"Energy ({unit})", fontsize=6)
