"""Single-pixel imaging: how well patterns are predicted, pictures reconstructed, and patterns chosen.

The plates are as the workshop would build them (`physics.caustics.built_plate`): geometry, capacitances, offset charges,
aberrations, source and camera distortion are all off their design, and their patterns are simulated at twice the sampling of the
decoder. Every reconstruction uses *predicted* patterns, every signal is counted with the *true* ones, so that the error of the
predictor is in all figures. NRMSE is ``|found - truth| / |truth|``. No strength is ever chosen with the truth, except for
``ridge_best_possible``.

``adaptive_pattern_ratio``: patterns after which the adaptive run reaches the error that random choice from the same pool has after
M, over M; mean over specimens, doses and seeds. A run that does not get there within M counts as 1.5.

``damage_ratio_*``: opacity lost by an adaptive run up to an error that the other way reaches too, over what that way loses. Above 1
the other way is better; a run that never reaches that error counts as 2.

``expected_error_over_true`` is what the uncertainty lets expect over the true error; ``miscalibrated_*`` are of predictors that
are out of date by charging. The plates of all seeds are different ones, each calibrated by itself. The whole bench takes about a
quarter of an hour of one core's time, ``--quick`` one and a half minutes; what it is doing, and the core's time
so far, goes to standard error.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..single_pixel.charging import remark_on
from ..single_pixel.compare import expected_error, expected_raster_error
from ..single_pixel.reconstruct import RIDGES, correlation, ridge, ridges, total_variation
from .parts.progress import Progress
from .parts.single_pixel_damage import damage_figures
from .parts.single_pixel_large import large_figures
from .parts.single_pixel_predictor import THREADS, predictor_figures
from .parts.single_pixel_runs import (
    Plate,
    calibrated,
    error_of,
    excess_of_charging,
    image,
    pool_for,
    raster_scan,
)
from .parts.single_pixel_sets import specimens
from .report import figure, report

PIXELS = 32
PATTERNS = 384
DOSES = (3e3, 1e5)
POOL = 4000
NEVER = 1.5
RIVALS = ("divergence", "contrast")
STALE_V = (0.0, 0.1, 0.3)
"""Charging that nobody has told the predictor of, in V rms."""


def run(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Measure; the figures of ``smarttem bench single-pixel``."""
    from threadpoolctl import threadpool_limits

    say = Progress("single-pixel")
    patterns = 160 if quick else PATTERNS
    names = ("particles", "grains") if quick else tuple(specimens(PIXELS, 0))
    seeds = range(seed, seed + (1 if quick else 3))
    doses = DOSES[:1] if quick else DOSES
    with threadpool_limits(THREADS):
        plates, made = {}, {}
        for one in seeds:
            say(f"calibrating plate {one}")
            made[one] = calibrated(one, 150 if quick else 300)
            plates[one] = pool_for(made[one][0], made[one][1], PIXELS, 1500 if quick else POOL, one)
        caustics, decoder, _, _ = made[seed]
        say("the predictor and its rivals")
        figures = predictor_figures(made, seed, held_out=60 if quick else 200, plain=not quick)
        figures |= adaptive_figures(plates, names, doses, patterns=patterns, say=say)
        figures |= damage_figures(
            plates, names[:1] if quick else names, doses, patterns=patterns, thorough=not quick, say=say
        )
        say("predictors that are out of date")
        figures |= model_error_figures(plates, names)
        say("64 x 64")
        figures |= large_figures(caustics, decoder, seed, quick=quick, say=say)
        say("done")
    return report("single-pixel", seed, figures)


def adaptive_figures(
    plates: dict[int, Plate],
    names: tuple[str, ...],
    doses: tuple[float, ...],
    *,
    patterns: int,
    say: Any = lambda _: None,
) -> dict[str, Any]:
    """Equal patterns: total variation against correlation and ridge; equal error: adaptive against random."""
    ratios: list[float] = []
    by_case: dict[str, list[float]] = {}
    rivals: dict[str, list[float]] = {rule: [] for rule in RIVALS}
    ghost, tuned, best_possible, raster, bound, steps, honesty, lit = [], [], [], [], [], [], [], []
    first = min(plates)
    for seed, plate in plates.items():
        for name, truth in specimens(PIXELS, seed + 100).items():
            if name not in names:
                continue
            say(f"plate {seed}, {name}")
            for dose in doses:
                random = image(plate, truth, "random", patterns=patterns, electrons=dose, seed=seed)
                adaptive = image(plate, truth, "information", patterns=patterns, electrons=dose, seed=seed)
                ratio = min(NEVER, adaptive.patterns_to(random.errors[-1]) / patterns)
                ratios.append(ratio)
                by_case.setdefault(f"{name}_{dose:g}", []).append(ratio)
                steps += adaptive.step_s[2:]
                if seed == first:
                    for rule, found in rivals.items():
                        other = image(plate, truth, rule, patterns=patterns, electrons=dose, seed=seed)
                        found.append(min(NEVER, other.patterns_to(random.errors[-1]) / patterns))
                shown, signals = plate.predicted[random.index], np.array(random.signals)
                ours = error_of(total_variation(shown, signals, dose, model_error=plate.decoder.error), truth)
                ghost.append(ours / error_of(correlation(shown, signals), truth))
                tuned.append(ours / error_of(ridge(shown, signals, dose), truth))
                all_ridges = ridges(shown, signals, dose, RIDGES, every=True)
                best_possible.append(ours / min(error_of(one, truth) for one in all_ridges))
                raster.append(error_of(raster_scan(truth, dose * patterns, seed)[0], truth) / adaptive.errors[-1])
                posterior = adaptive.posterior
                expected = expected_error(posterior.picture, posterior.uncertainty())
                honesty.append(expected / adaptive.errors[-1])
                lit.append((pixels_lit(plate.predicted[adaptive.index]), pixels_lit(shown)))
                bound.append(expected_raster_error(truth, dose * patterns, posterior.strength) / expected)
    cases = {f"case_{key}": float(np.mean(found)) for key, found in by_case.items()}
    return {
        "nrmse_ratio_to_ghost": figure(float(np.mean(ghost)), "<=", 0.5, worst=max(ghost)),
        "nrmse_ratio_to_ridge": figure(
            float(np.mean(tuned)), "<=", 0.7, worst=max(tuned), ridge_best_possible=float(np.mean(best_possible))
        ),
        "adaptive_pattern_ratio": figure(
            float(np.mean(ratios)), "<=", 0.5, worst=max(ratios), median=float(np.median(ratios)),
            divergence_rule=float(np.mean(rivals["divergence"])), contrast_rule=float(np.mean(rivals["contrast"])), **cases,
        ),
        "raster_nrmse_over_adaptive_at_equal_dose": figure(
            float(np.mean(raster)), ">=", None, best=max(raster), worst=min(raster), by_the_posterior=float(np.mean(bound)),
            pixels_lit_adaptive=float(np.mean([a for a, _ in lit])), pixels_lit_random=float(np.mean([r for _, r in lit])),
        ),
        "expected_error_over_true": figure(
            float(np.median(honesty)), ">=", None, smallest=min(honesty), largest=max(honesty)
        ),
        "adaptive_step_s_32": figure(float(np.median(steps)), "<=", 0.5, slowest=max(steps)),
    }  # fmt: skip


def pixels_lit(patterns: np.ndarray) -> float:
    """Over how many pixels patterns (n, pixels²) spread, on average: ``(sum p)² / sum p²``.

    A pixel's Fisher information from counts is that of a raster over this number, before anything is known of the specimen.
    """
    return float(np.mean(patterns.sum(axis=1) ** 2 / (patterns**2).sum(axis=1)))


def model_error_figures(plates: dict[int, Plate], names: tuple[str, ...]) -> dict[str, Any]:
    """Pictures with a predictor that is out of date by charging, and whether the reconstruction says so.

    Each plate has its share of the specimens. ``expected_*`` is what the uncertainty lets expect over the true error.
    """
    settings: dict[str, Any] = {"patterns": 256, "electrons": 1e5}
    found: dict[str, list[float]] = {}
    for number, (seed, plate) in enumerate(plates.items()):
        sets = specimens(PIXELS, seed + 100)
        for volts in STALE_V:
            offset = volts * np.random.default_rng([seed, 69]).standard_normal(plate.decoder.needles)
            stale = pool_for(plate.caustics, plate.decoder.with_offset(offset), PIXELS, 600, seed)
            for name in names[number :: len(plates)]:
                one = image(stale, sets[name], "random", seed=seed, **settings)
                posterior, error = one.posterior, one.errors[-1]
                charging = excess_of_charging(stale, one)
                linear = ridge(stale.predicted[one.index], np.array(one.signals), settings["electrons"])
                expected = expected_error(posterior.picture, posterior.uncertainty())
                for what, value in (
                    ("at", error),
                    ("ridge_at", error_of(linear, sets[name])),
                    ("flat_at", error_of(np.full_like(linear, sets[name].mean()), sets[name])),
                    ("expected_over_true_at", expected / error),
                    ("told_at", float(bool(posterior.remark() or remark_on(charging)))),
                    ("by_scatter_alone_at", float(bool(posterior.remark()))),
                    ("charging_excess_at", charging or 0.0),
                ):
                    found.setdefault(f"{what}_{volts:g}_v", []).append(value)
    mean = {name: float(np.mean(values)) for name, values in found.items()}
    told = {name: value for name, value in mean.items() if name.startswith(("told", "by_scatter", "charging"))}
    worst = f"{STALE_V[-1]:g}_v"
    return {
        "miscalibrated_nrmse": figure(
            mean[f"at_{worst}"], "<=", None, **{k: v for k, v in mean.items() if k not in told}
        ),
        "miscalibration_told": figure(min(told[f"told_at_{volts:g}_v"] for volts in STALE_V[1:]), ">=", 1.0, **told),
    }
