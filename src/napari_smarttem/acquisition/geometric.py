"""Choosers that do not look at the image: by hand, on a grid, at random. The baselines of all others."""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from .choosers import Choice, Chooser, Pick, Wanted
from .overview import Overview
from .settings import Options
from .spacing import spread


class NoOptions(Options):
    """Nothing to set."""


class ManualOptions(Options):
    """Places given by a person."""

    positions_nm: tuple[tuple[float, float], ...] = Field(default=(), description="(y, x) of every point, in nm.")


def choose_manual(overview: Overview, options: ManualOptions, wanted: Wanted) -> Choice:
    """The given places, less those that cannot be reached."""
    picks, outside = [], 0
    for y_nm, x_nm in options.positions_nm:
        row = (y_nm - overview.origin_nm[0]) / overview.pixel_nm[0]
        column = (x_nm - overview.origin_nm[1]) / overview.pixel_nm[1]
        inside = -0.5 <= row <= overview.shape[0] - 0.5 and -0.5 <= column <= overview.shape[1] - 0.5
        if inside and overview.allowed[_pixel(row, overview.shape[0]), _pixel(column, overview.shape[1])]:
            picks.append(Pick(row, column, 1.0, "manual", "given by hand"))
        else:
            outside += 1
    remarks = []
    if outside:
        remarks.append(
            f"{outside} of {len(options.positions_nm)} given points lie outside the overview, inside its margin or where "
            "it was measured before, and were left out."
        )
    if len(picks) > wanted.points:
        remarks.append(f"{len(picks)} points were given but only {wanted.points} are wanted: the first ones are kept.")
    return Choice(tuple(picks[: wanted.points]), tuple(remarks))


def _pixel(index: float, size: int) -> int:
    return int(np.clip(round(index), 0, size - 1))


def choose_grid(overview: Overview, options: NoOptions, wanted: Wanted) -> Choice:
    """A square grid, centred, of at most the wanted number of points."""
    height = overview.shape[0] * abs(overview.pixel_nm[0])
    width = overview.shape[1] * abs(overview.pixel_nm[1])
    count = min(wanted.points, int(overview.allowed.sum()))
    rows = max(1, min(overview.shape[0], round(math.sqrt(count * height / width))))
    columns = max(1, min(overview.shape[1], count // rows))
    rows = max(1, min(overview.shape[0], count // columns))
    if wanted.spacing_nm is not None:
        rows = max(1, min(rows, int(height // wanted.spacing_nm)))
        columns = max(1, min(columns, int(width // wanted.spacing_nm)))
    picks = []
    for row in (np.arange(rows) + 0.5) * overview.shape[0] / rows - 0.5:
        for column in (np.arange(columns) + 0.5) * overview.shape[1] / columns - 0.5:
            if overview.allowed[_pixel(row, overview.shape[0]), _pixel(column, overview.shape[1])]:
                reason = f"grid of {rows} x {columns}, pitch {height / rows:.3g} x {width / columns:.3g} nm"
                picks.append(Pick(float(row), float(column), 0.5, "grid", reason))
    # A full grid of fewer points than asked for is what a grid is: nothing to remark unless much is missing.
    short = len(picks) < 0.8 * wanted.points
    return Choice(tuple(picks), (f"The grid has {len(picks)} of {wanted.points} points.",) if short else ())


def choose_random(overview: Overview, options: NoOptions, wanted: Wanted) -> Choice:
    """Points at random, kept apart as discs are (Poisson-disc sampling)."""
    rows, columns = np.nonzero(overview.allowed)
    shuffled = wanted.rng.permutation(len(rows))
    rows, columns = rows[shuffled], columns[shuffled]
    places = overview.positions_nm(rows, columns)
    kept = spread(
        places,
        wanted.points,
        spacing_nm=wanted.spacing_nm,
        finest_nm=0.5 * overview.mean_pixel_nm,
        taken_nm=overview.taken_nm,
    )
    picks = tuple(Pick(float(rows[i]), float(columns[i]), 0.5, "random", "drawn by lot") for i in kept)
    return Choice(picks)


MANUAL = Chooser("manual", "By hand", "The places you give.", ManualOptions, choose_manual)
GRID = Chooser("grid", "Grid", "A square grid over the overview.", NoOptions, choose_grid)
RANDOM = Chooser("random", "Random", "At random, never two close together (Poisson-disc).", NoOptions, choose_random)
