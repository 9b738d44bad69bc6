"""Points in regions: their innermost place, their boundary, or a grid inside."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from ..schema import BadInput
from .choosers import Choice, Chooser, Pick, Wanted
from .clusters import quota
from .overview import Overview
from .regions import Labels, Region, RegionOptions, decode_labels, describe, segment
from .spacing import distances_nm, spread

Place = Literal["centre", "boundary", "inside"]


class RegionPointOptions(RegionOptions):
    """Settings of the regions chooser."""

    places: tuple[Place, ...] = Field(
        default=("boundary",), min_length=1, description="The innermost place, along the boundary, a grid inside."
    )
    labels: Labels | None = Field(
        default=None, description="Regions as a person edited them; none: they are found by the method above."
    )


def choose_in_regions(overview: Overview, options: RegionPointOptions, wanted: Wanted) -> Choice:
    """Every region gets its share of the points, large and small alike; centres come first."""
    labels = (
        decode_labels(options.labels)
        if options.labels
        else segment(overview, options, seed=int(wanted.rng.integers(2**31)))
    )
    if labels.shape != overview.shape:
        raise BadInput(
            f"The edited regions have {labels.shape} pixels but the overview {overview.shape}; find the regions again."
        )
    regions = describe(labels, overview)
    if not regions:
        return Choice(remarks=("No regions were found; paint some, or try other classes.",))
    picks: list[Pick] = []
    picks_left = wanted.points
    for number, place in enumerate(dict.fromkeys(sorted(options.places, key=lambda p: p != "centre"))):
        remaining = len(set(options.places)) - number
        share = picks_left if place == "centre" else -(-picks_left // remaining)
        found = _points(overview, labels, regions, place=place, points=share, spacing_nm=wanted.spacing_nm)
        picks += found
        picks_left -= len(found)
    if wanted.spacing_nm is not None and picks:
        places = overview.positions_nm(np.array([p.row for p in picks]), np.array([p.column for p in picks]))
        kept = spread(places, wanted.points, spacing_nm=wanted.spacing_nm, finest_nm=overview.mean_pixel_nm)
        picks = [picks[index] for index in kept]
    return Choice(tuple(picks))


def _points(
    overview: Overview,
    labels: np.ndarray,
    regions: tuple[Region, ...],
    *,
    place: Place,
    points: int,
    spacing_nm: float | None,
) -> list[Pick]:
    from scipy import ndimage

    largest = max(region.area_nm2 for region in regions)
    candidates: list[tuple[np.ndarray, np.ndarray]] = []
    for region in regions:
        # A rim of background around the region makes the rim of the picture a boundary for the distance, not for points.
        mask = np.pad(labels == region.label, 1)
        depth = ndimage.distance_transform_edt(mask, sampling=[abs(p) for p in overview.pixel_nm])[1:-1, 1:-1]
        mask = mask[1:-1, 1:-1]
        if place == "centre":
            inside = np.where(overview.allowed, depth, 0.0)
            rows, columns = np.nonzero(inside)
            # a centre that was measured gives way to the middle of what is left
            clear = distances_nm(overview.positions_nm(rows, columns), overview.taken_nm)
            inside[rows, columns] = np.minimum(inside[rows, columns], clear)
            best = np.argwhere(inside == inside.max())
            rows, columns = (
                (best[len(best) // 2 : len(best) // 2 + 1].T) if inside.max() > 0 else np.zeros((2, 0), dtype=int)
            )
        elif place == "boundary":
            edge = mask & ~ndimage.binary_erosion(mask, border_value=1) & overview.allowed
            rows, columns = np.nonzero(edge)
        else:
            rows, columns = np.nonzero(mask & overview.allowed)
        candidates.append((np.asarray(rows), np.asarray(columns)))
    shares = quota([len(rows) for rows, _ in candidates], points, 0.5)
    picks: list[Pick] = []
    for region, own, share in zip(regions, candidates, shares, strict=True):
        rows, columns = _grid_inside(*own, share) if place == "inside" and share else own
        places = overview.positions_nm(rows, columns)
        kept = spread(
            places, share, spacing_nm=spacing_nm, finest_nm=overview.mean_pixel_nm, taken_nm=overview.taken_nm
        )
        score = {"centre": 0.7, "boundary": 0.6, "inside": 0.4}[place] + 0.3 * float(np.sqrt(region.area_nm2 / largest))
        words = {"centre": "innermost place of", "boundary": "boundary of", "inside": "inside"}[place]
        picks += [
            Pick(
                float(rows[i]),
                float(columns[i]),
                score,
                f"region {region.label} {place}",
                f"{words} {region.description}",
            )
            for i in kept
        ]
    return picks


def _grid_inside(rows: np.ndarray, columns: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of a region that lie on the widest square grid that still has `wanted` of them there."""
    for pitch in range(max(1, int(np.sqrt(len(rows) / wanted)) + 1), 1, -1):
        for phase in (pitch // 2, 0):
            on_grid = ((rows - rows.min()) % pitch == phase) & ((columns - columns.min()) % pitch == phase)
            if on_grid.sum() >= wanted:
                return rows[on_grid], columns[on_grid]
    return rows, columns


CHOOSER = Chooser(
    "regions",
    "Regions",
    "In regions you can edit: their innermost place, their boundary, or a grid inside.",
    RegionPointOptions,
    choose_in_regions,
)
