"""What a run costs the specimen: opacity lost until an error is reached, against random choice and two kinds of raster.

Every way is told the critical dose and gives the fresh specimen (`single_pixel.fading`); what happens to those that are not told,
or told wrongly, is in the figures too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..report import figure
from .single_pixel_runs import Plate, Run, error_of, first_reached, image, raster_scan, spot_plate
from .single_pixel_sets import specimens

NEVER_DAMAGE = 2.0
CRITICAL = 2.5
"""Electrons a pixel bears before 1/e of its opacity is left, over what all patterns give it on average: a third is lost by then."""
RASTER_DOSES = np.geomspace(0.01, 2.0, 7)
"""Of the calculated raster scans, over the dose of all patterns."""
READ_NOISE_E = (10.0, 100.0)
"""Of the bucket, one standard deviation of a value in electrons, for the table over read noise."""
WRONG = (0.5, 2.0)
"""Critical doses told, over the true one."""
Table = dict[str, dict[str, list[float]]]


def damage_figures(
    plates: dict[int, Plate],
    names: tuple[str, ...],
    doses: tuple[float, ...],
    *,
    patterns: int,
    thorough: bool = True,
    say: Any = lambda _: None,
) -> dict[str, Any]:
    """Ratios of opacity lost at equal error, mean over specimens, doses and seeds, and by specimen.

    Against random choice the error is the best that random choice reaches with all patterns, and, as ``early``, the one that it
    has after half of them; against a raster of the plate's own spot it is the larger of the best errors of both; against an ideal
    raster (a beam as small as a pixel, calculated) it is the best of the adaptive run, and, as ``coarse``, the one that the
    adaptive run has after a quarter of its patterns. ``read_noise_*`` are the same with a bucket that adds noise to every value.
    All plates see the first dose, the first plate all doses; the bucket's noise is tried on the first plate and dose, and so are
    wrong critical doses, on every second specimen. Not `thorough`: one dose, and the largest noise.
    """
    ways: Table = {}
    noisy: Table = {}
    blind: Table = {}
    first = min(plates)
    for seed, plate in plates.items():
        for name, truth in specimens(round(plate.predicted.shape[1] ** 0.5), seed + 100).items():
            if name not in names:
                continue
            for dose in doses if thorough and seed == first else doses[:1]:
                say(f"damage, plate {seed}, {name}, {dose:g} electrons")
                for way, ratio in _Case(plate, truth, dose, patterns, seed).ratios():
                    ways.setdefault(way, {}).setdefault(name, []).append(ratio)
            if seed != first:
                continue
            case = _Case(plate, truth, doses[0], patterns, seed)
            say(f"damage, plate {seed}, {name}, noise of the bucket")
            for noise in READ_NOISE_E if thorough else READ_NOISE_E[-1:]:
                for way, ratio in case.ratios_of_rasters(noise):
                    noisy.setdefault(f"read_noise_{noise:g}_e_{way}", {}).setdefault(name, []).append(ratio)
            if thorough and name in names[::2]:
                for way, error in case.errors_of_the_untold():
                    blind.setdefault(way, {}).setdefault(name, []).append(error)
    of_noise = {way: _mean(table) for way, table in noisy.items()}
    by_specimen = {
        f"read_noise_{READ_NOISE_E[-1]:g}_e_{name}": float(np.mean(found))
        for name, found in noisy.get(f"read_noise_{READ_NOISE_E[-1]:g}_e_raster", {}).items()
    }
    return {
        "damage_ratio_to_random": _figure(ways, "random", "early"),
        "damage_ratio_to_spot_raster": _figure(ways, "spot"),
        "damage_ratio_to_raster": _figure(ways, "raster", "coarse", **of_noise, **by_specimen),
        "damaged_nrmse": figure(
            _mean(blind["told"]) if blind else None,
            "<=",
            None,
            **{k: _mean(v) for k, v in blind.items() if k != "told"},
        ),
    }


class _Case:
    """One specimen, plate and dose."""

    def __init__(self, plate: Plate, truth: np.ndarray, dose: float, patterns: int, seed: int) -> None:
        self.plate, self.truth, self.dose, self.patterns, self.seed = plate, truth, dose, patterns, seed
        self.critical = dose * patterns / truth.size * CRITICAL

    def run(self, rule: str, *, told: float | None = 1.0, read_noise_e: float = 0.0) -> Run:
        return image(
            self.plate, self.truth, rule, patterns=self.patterns, electrons=self.dose, seed=self.seed,
            critical_e_per_px=self.critical, told=told, read_noise_e=read_noise_e,
        )  # fmt: skip

    def rasters(self, read_noise_e: float = 0.0) -> tuple[list[float], list[float]]:
        """Opacity lost and error of ideal rasters of rising dose."""
        scans = [
            raster_scan(
                self.truth, float(share) * self.dose * self.patterns, self.seed, self.critical,
                told=True, read_noise_e=read_noise_e,
            )
            for share in RASTER_DOSES
        ]  # fmt: skip
        return [loss for _, loss in scans], [error_of(picture, self.truth) for picture, _ in scans]

    def ratios(self) -> list[tuple[str, float]]:
        random, ours = self.run("random"), self.run("information")
        spots = spot_plate(self.plate, self.truth.shape[0], self.patterns)
        count = len(spots.predicted)
        spot = image(
            spots, self.truth, "in order", patterns=count, electrons=self.dose * self.patterns / count, seed=self.seed,
            critical_e_per_px=self.critical, told=1.0,
        )  # fmt: skip
        best = min(ours.errors)
        half = random.errors[max(0, len(random.errors) // 2 - 1)]
        return [
            ("random", _ratio(ours, random.damages, random.errors, min(random.errors))),
            ("early", _ratio(ours, random.damages, random.errors, half)),
            ("spot", _ratio(ours, spot.damages, spot.errors, max(min(spot.errors), best))),
            *_of_rasters(ours, *self.rasters()),
        ]

    def ratios_of_rasters(self, read_noise_e: float) -> list[tuple[str, float]]:
        return _of_rasters(self.run("information", read_noise_e=read_noise_e), *self.rasters(read_noise_e))

    def errors_of_the_untold(self) -> list[tuple[str, float]]:
        """Best error of a run that knows the critical dose, that does not, and that is told a wrong one."""
        named: list[tuple[str, float | None]] = [("told", 1.0), ("not_told", None)]
        named += [(f"told_times_{factor:g}", factor) for factor in WRONG]
        found = [(name, min(self.run("information", told=told).errors)) for name, told in named]
        return [*found, ("random_not_told", min(self.run("random", told=None).errors))]


def _of_rasters(ours: Run, lost: list[float], errors: list[float]) -> list[tuple[str, float]]:
    quarter = ours.errors[max(0, len(ours.errors) // 4 - 1)]
    return [("raster", _ratio(ours, lost, errors, min(ours.errors))), ("coarse", _ratio(ours, lost, errors, quarter))]


def _mean(table: dict[str, list[float]]) -> float:
    return float(np.mean([value for found in table.values() for value in found]))


def _figure(ways: Table, way: str, second: str | None = None, **more: float) -> dict[str, Any]:
    table = ways[way]
    rest: dict[str, float] = {name: float(np.mean(found)) for name, found in table.items()}
    if second is not None:
        rest[second] = _mean(ways[second])
        rest |= {f"{second}_{name}": float(np.mean(found)) for name, found in ways[second].items()}
    worst = max(value for found in table.values() for value in found)
    return figure(_mean(table), "<=", 1.0, worst=worst, **rest, **more)


def _ratio(ours: Run, lost: list[float], errors: list[float], error: float) -> float:
    """Opacity we lose until `error` is reached, over what the other way loses; capped, and 0 where only we get there."""
    mine, theirs = first_reached(ours.damages, ours.errors, error), first_reached(lost, errors, error)
    if not np.isfinite(theirs):
        return 0.0
    return float(min(NEVER_DAMAGE, mine / theirs)) if np.isfinite(mine) else NEVER_DAMAGE
