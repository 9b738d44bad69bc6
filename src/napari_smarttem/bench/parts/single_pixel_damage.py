"""What a run costs the specimen: opacity lost until an error is reached, against random choice and two kinds of raster."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..report import figure
from .single_pixel_runs import Plate, Run, error_of, first_reached, image, raster_scan, spot_plate
from .single_pixel_sets import specimens

NEVER_DAMAGE = 2.0
CRITICAL = 2.5
"""Electrons a pixel bears before 1/e of its opacity is left, over what all patterns give it on average: a third is lost by then."""
RASTER_DOSES = np.geomspace(0.01, 2.0, 8)
"""Of the calculated raster scans, over the dose of all patterns."""


def damage_figures(
    plates: dict[int, Plate], names: tuple[str, ...], dose: float, *, patterns: int, say: Any = lambda _: None
) -> dict[str, Any]:
    """Ratios of opacity lost at equal error, mean over specimens and seeds, and by specimen.

    Against random choice the error is the best that random choice reaches with all patterns, and, as ``early``, the one that it has
    after half of them; against a raster of the plate's own
    spot it is the larger of the best errors of both; against an ideal raster (a beam as small as a pixel, calculated) it is the
    best of the adaptive run, and, as ``coarse``, the one that the adaptive run has after a quarter of its patterns.
    """
    ways: dict[str, dict[str, list[float]]] = {way: {} for way in ("random", "early", "spot", "raster", "coarse")}
    for seed, plate in plates.items():
        pixels = round(plate.predicted.shape[1] ** 0.5)
        spots = spot_plate(plate, pixels, patterns)
        critical = dose * patterns / plate.predicted.shape[1] * CRITICAL
        for name, truth in specimens(pixels, seed + 100).items():
            if name not in names:
                continue
            say(f"damage, plate {seed}, {name}")
            settings: dict[str, Any] = {"seed": seed, "critical_e_per_px": critical}
            random = image(plate, truth, "random", patterns=patterns, electrons=dose, **settings)
            ours = image(plate, truth, "information", patterns=patterns, electrons=dose, **settings)
            share = patterns / len(spots.predicted)
            spot = image(spots, truth, "in order", patterns=len(spots.predicted), electrons=dose * share, **settings)
            scans = [raster_scan(truth, float(f) * dose * patterns, seed, critical) for f in RASTER_DOSES]
            lost, errors = [loss for _, loss in scans], [error_of(picture, truth) for picture, _ in scans]
            best, quarter = min(ours.errors), ours.errors[max(0, len(ours.errors) // 4 - 1)]
            half = random.errors[max(0, len(random.errors) // 2 - 1)]
            for way, ratio in (
                ("random", _ratio(ours, random.damages, random.errors, min(random.errors))),
                ("early", _ratio(ours, random.damages, random.errors, half)),
                ("spot", _ratio(ours, spot.damages, spot.errors, max(min(spot.errors), best))),
                ("raster", _ratio(ours, lost, errors, best)),
                ("coarse", _ratio(ours, lost, errors, quarter)),
            ):
                ways[way].setdefault(name, []).append(ratio)
    means = {way: {name: float(np.mean(found)) for name, found in table.items()} for way, table in ways.items()}
    all_of = {way: [ratio for found in table.values() for ratio in found] for way, table in ways.items()}
    coarse = {f"coarse_{name}": value for name, value in means["coarse"].items()}
    early = {f"early_{name}": value for name, value in means["early"].items()}
    return {
        "damage_ratio_to_random": figure(
            float(np.mean(all_of["random"])), "<=", 1.0, worst=max(all_of["random"]),
            early=float(np.mean(all_of["early"])), **means["random"], **early,
        ),
        "damage_ratio_to_spot_raster": figure(
            float(np.mean(all_of["spot"])), "<=", 1.0, worst=max(all_of["spot"]), **means["spot"]
        ),
        "damage_ratio_to_raster": figure(
            float(np.mean(all_of["raster"])), "<=", 1.0, worst=max(all_of["raster"]),
            coarse=float(np.mean(all_of["coarse"])), **means["raster"], **coarse,
        ),
    }  # fmt: skip


def _ratio(ours: Run, lost: list[float], errors: list[float], error: float) -> float:
    """Opacity we lose until `error` is reached, over what the other way loses; capped, and 0 where only we get there."""
    mine, theirs = first_reached(ours.damages, ours.errors, error), first_reached(lost, errors, error)
    if not np.isfinite(theirs):
        return 0.0
    return float(min(NEVER_DAMAGE, mine / theirs)) if np.isfinite(mine) else NEVER_DAMAGE
