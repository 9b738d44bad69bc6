"""Single-pixel imaging: how well patterns are predicted, pictures reconstructed, and patterns chosen.

The plates are as the workshop would build them (`physics.caustics.built_plate`): geometry, capacitances, offset charges,
aberrations, source and camera distortion are all off their design, and their patterns are simulated at twice the sampling of the
decoder. Every reconstruction uses *predicted* patterns, every signal is counted with the *true* ones, so that the error of the
predictor is in all figures. NRMSE is ``|found - truth| / |truth|``. No strength is ever chosen with the truth, except for
``ridge_best_possible``.

``adaptive_pattern_ratio``: patterns after which the adaptive run reaches the error that random choice from the same pool has after
M, over M; mean over specimens, doses and seeds. A run that does not get there within M counts as 1.5.

``damage_ratio_*``: opacity lost by an adaptive run up to the error that random choice reaches (or that a raster reaches at the
adaptive run's own best error), over what those lose. Above 1, the
other way is better; a run that never reaches that error counts as 2.
"""

from __future__ import annotations

import importlib.util
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..physics.caustics import BIAS_LIMIT_V, CAPACITANCE_F, Caustics, record
from ..single_pixel.adaptive import most_informative
from ..single_pixel.predict import Decoder, nrmse, pearson
from ..single_pixel.reconstruct import RIDGES, correlation, ridge, ridges, total_variation
from ..single_pixel.watch import check_predictor
from .parts.single_pixel_runs import Plate, calibrated, error_of, first_reached, image, pool_for, raster_scan
from .parts.single_pixel_sets import specimens
from .report import figure, report

PIXELS = 32
PATTERNS = 384
DOSES = (3e3, 1e5)
POOL = 4000
NEVER = 1.5
NEVER_DAMAGE = 2.0


def run(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Measure; the figures of ``smarttem bench single-pixel``."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(2):
        caustics, decoder, biases, measured = calibrated(seed, 150 if quick else 300)
        figures = predictor_figures(caustics, decoder, biases, measured, seed, quick=quick)
        plate = pool_for(caustics, decoder, PIXELS, 1500 if quick else POOL, seed)
        names = ("particles", "grains") if quick else tuple(specimens(PIXELS, 0))
        seeds = range(seed, seed + (1 if quick else 3))
        doses = DOSES[:1] if quick else DOSES
        figures |= adaptive_figures(plate, names, doses, seeds, patterns=160 if quick else PATTERNS)
        figures |= damage_figures(plate, names, seeds[:1], patterns=160 if quick else PATTERNS)
        figures |= model_error_figures(plate, names[:2], seed)
        figures |= large_figures(caustics, decoder, seed, quick=quick)
    return report("single-pixel", seed, figures)


# -- the predictor


def predictor_figures(
    caustics: Caustics, decoder: Decoder, biases: np.ndarray, measured: np.ndarray, seed: int, *, quick: bool
) -> dict[str, Any]:
    """Held-out biases over the whole range, against patterns without noise."""
    rng = np.random.default_rng([seed, 66])
    held = rng.uniform(-BIAS_LIMIT_V, BIAS_LIMIT_V, (60 if quick else 200, biases.shape[1]))
    truth = caustics.patterns(held)
    began = time.perf_counter()
    found = decoder.predict(held)
    each_ms = (time.perf_counter() - began) / len(held) * 1e3
    nearest = measured[((held[:, None] - biases[None]) ** 2).sum(-1).argmin(axis=1)]
    rivals = {"unfitted": Decoder.nominal().predict(held), "nearest_neighbour": nearest}
    known: dict[str, dict[str, float | None]] = {"pearson": {}, "nrmse": {}}
    for name, other in rivals.items():
        known["pearson"][name], known["nrmse"][name] = (
            float(pearson(other, truth).mean()),
            float(nrmse(other, truth).mean()),
        )
    for pairs in (300, 10_000):
        other = None if quick else plain_decoder(caustics, pairs, held, (biases, measured), seed)
        name = f"plain_decoder_{pairs}"
        known["pearson"][name] = None if other is None else float(pearson(other, truth).mean())
        known["nrmse"][name] = None if other is None else float(nrmse(other, truth).mean())
    charged = charging(caustics, decoder, seed)
    return {
        "predictor_pearson": figure(float(pearson(found, truth).mean()), ">=", 0.98, **known["pearson"]),
        "predictor_nrmse": figure(float(nrmse(found, truth).mean()), "<=", 0.10, **known["nrmse"]),
        "predict_ms": figure(each_ms, "<=", 20.0),
        "charged_nrmse_after_refit": figure(charged[1], "<=", 0.10, before=charged[0]),
    }


def plain_decoder(
    caustics: Caustics, pairs: int, held: np.ndarray, measured: tuple[np.ndarray, np.ndarray], seed: int
) -> np.ndarray | None:
    """Patterns of a network without physics, trained on `pairs` patterns; None without torch."""
    if not (importlib.util.find_spec("torch") and importlib.util.find_spec("safetensors")):
        return None
    from safetensors.torch import load_file

    from ..nn import networks, registry, training
    from ..single_pixel.decoder_training import DecoderTask, decoded

    if pairs > len(measured[0]):
        rng = np.random.default_rng([seed, 67])
        quick_plate = Caustics(caustics.plate, caustics.optics, samples=64, oversampling=1)
        biases = rng.uniform(-BIAS_LIMIT_V, BIAS_LIMIT_V, (pairs, held.shape[1]))
        measured = biases, record(quick_plate.patterns(biases), 1e5, rng)
    task = DecoderTask(pairs, seed, measured)
    task.caustics = Caustics(caustics.plate, caustics.optics, samples=64, oversampling=1)
    steps = 1200 if pairs < 1000 else 4000
    with tempfile.TemporaryDirectory() as folder:
        training.train(task, Path(folder), seed=seed, steps=steps, threads=2, validate_s=20.0, say=lambda _: None)
        network = networks.build(task.architecture())
        network.load_state_dict(load_file(Path(folder) / registry.WEIGHTS))
    return decoded(network.eval(), held)


def charging(caustics: Caustics, decoder: Decoder, seed: int) -> tuple[float, float]:
    """NRMSE of predictions after the plate has charged (0.2 V rms), and after a re-fit of the offsets to five patterns."""
    rng = np.random.default_rng([seed, 68])
    drifted = Caustics(
        caustics.plate.charged_by(0.2 * CAPACITANCE_F * rng.standard_normal(decoder.needles)), caustics.optics
    )
    few = 0.5 * rng.uniform(-BIAS_LIMIT_V, BIAS_LIMIT_V, (5, decoder.needles))
    check = check_predictor(decoder, few, record(drifted.patterns(few), 1e5, rng), 1e5)
    held = rng.uniform(-BIAS_LIMIT_V, BIAS_LIMIT_V, (40, decoder.needles))
    truth = drifted.patterns(held)
    return float(nrmse(decoder.predict(held), truth).mean()), float(nrmse(check.decoder.predict(held), truth).mean())


# -- reconstruction and choice


def adaptive_figures(
    plate: Plate, names: tuple[str, ...], doses: tuple[float, ...], seeds: range, *, patterns: int
) -> dict[str, Any]:
    """Equal patterns: total variation against correlation and ridge; equal error: adaptive against random."""
    ratios: list[float] = []
    by_case: dict[str, list[float]] = {}
    rivals: dict[str, list[float]] = {"divergence": [], "contrast": []}
    ghost, tuned, best_possible, raster, steps = [], [], [], [], []
    for seed in seeds:
        for name, truth in specimens(plate_pixels(plate), seed + 100).items():
            if name not in names:
                continue
            for dose in doses:
                random = image(plate, truth, "random", patterns=patterns, electrons=dose, seed=seed)
                adaptive = image(plate, truth, "information", patterns=patterns, electrons=dose, seed=seed)
                ratio = min(NEVER, adaptive.patterns_to(random.errors[-1]) / patterns)
                ratios.append(ratio)
                by_case.setdefault(f"{name}_{dose:g}", []).append(ratio)
                steps += adaptive.step_s[2:]
                if seed == seeds[0]:
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
        "raster_nrmse_over_adaptive_at_equal_dose": figure(float(np.mean(raster)), ">=", None),
        "adaptive_step_s_32": figure(float(np.median(steps)), "<=", 0.5, slowest=max(steps)),
    }  # fmt: skip


def plate_pixels(plate: Plate) -> int:
    """Side of a picture."""
    return int(round(plate.predicted.shape[1] ** 0.5))  # noqa: RUF046 - for mypy


def damage_figures(plate: Plate, names: tuple[str, ...], seeds: range, *, patterns: int) -> dict[str, Any]:
    """Opacity lost at equal error, with a specimen that fades (a third of it at the full random dose)."""
    to_random: dict[str, float] = {}
    to_raster: dict[str, float] = {}
    dose = DOSES[0]
    critical = dose * patterns / plate.predicted.shape[1] * 2.5
    for seed in seeds:
        for name, truth in specimens(plate_pixels(plate), seed + 100).items():
            if name not in names:
                continue
            settings: dict[str, Any] = {
                "patterns": patterns, "electrons": dose, "seed": seed, "critical_e_per_px": critical,
            }  # fmt: skip
            random, adaptive = image(plate, truth, "random", **settings), image(plate, truth, "information", **settings)
            best = min(random.errors)
            at_random = random.damages[int(np.argmin(random.errors))]
            to_random[name] = min(NEVER_DAMAGE, first_reached(adaptive.damages, adaptive.errors, best) / at_random)
            reached = min(adaptive.errors)
            scans = [raster_scan(truth, f * dose * patterns, seed, critical) for f in np.geomspace(0.002, 2.0, 12)]
            raster = first_reached([lost for _, lost in scans], [error_of(p, truth) for p, _ in scans], reached)
            ours = adaptive.damages[int(np.argmin(adaptive.errors))]
            to_raster[name] = ours / raster if math.isfinite(raster) else 0.0
    return {
        "damage_ratio_to_random": figure(float(np.mean(list(to_random.values()))), "<=", 1.0, **to_random),
        "damage_ratio_to_raster": figure(float(np.mean(list(to_raster.values()))), "<=", 1.0, **to_raster),
    }


def model_error_figures(plate: Plate, names: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Pictures with a predictor that is out of date by 0.1 and 0.3 V of charging, and whether the reconstruction says so."""
    settings: dict[str, Any] = {"patterns": 256, "electrons": 1e5, "seed": seed}
    side = plate_pixels(plate)
    found: dict[str, list[float]] = {}
    for volts in (0.0, 0.1, 0.3):
        offset = volts * np.random.default_rng([seed, 69]).standard_normal(plate.decoder.needles)
        stale = pool_for(plate.caustics, plate.decoder.with_offset(offset), side, 600, seed)
        for name in names:
            truth = specimens(side, seed + 100)[name]
            one = image(stale, truth, "random", **settings)
            linear = ridge(stale.predicted[one.index], np.array(one.signals), settings["electrons"])
            found.setdefault(f"at_{volts:g}_v", []).append(one.errors[-1])
            found.setdefault(f"ridge_at_{volts:g}_v", []).append(error_of(linear, truth))
            found.setdefault(f"told_at_{volts:g}_v", []).append(float(bool(one.posterior.remark())))
    mean = {name: float(np.mean(values)) for name, values in found.items()}
    told = {name: value for name, value in mean.items() if name.startswith("told")}
    return {
        "miscalibrated_nrmse": figure(mean["at_0.3_v"], "<=", None, **{k: v for k, v in mean.items() if k not in told}),
        "miscalibration_told": figure(min(mean["told_at_0.1_v"], mean["told_at_0.3_v"]), ">=", 1.0, **told),
    }


# -- 64 x 64


def large_figures(caustics: Caustics, decoder: Decoder, seed: int, *, quick: bool) -> dict[str, Any]:
    """Times at 64 x 64, and the published setting: 5000 patterns by chance and chosen."""
    total = 5000
    plate = pool_for(caustics, decoder, 64, 1200 if quick else 7000, seed)
    truth = specimens(64, seed + 100)["letters"]
    run = image(plate, truth, "random", patterns=600, electrons=1e4, seed=seed, batch=600, rounds=1, retune_at=())
    posterior, rng = run.posterior, np.random.default_rng([seed, 70])
    step_s, update_ms = [], []
    for _ in range(2 if quick else 4):
        began = time.perf_counter()
        choice = most_informative(posterior, plate.predicted[:3000], 16, rng)
        posterior.add(plate.predicted[choice.index], plate.true[choice.index] @ truth.ravel())
        posterior.settle(1)
        step_s.append(time.perf_counter() - began)
        for k in choice.index[:3]:
            began = time.perf_counter()
            posterior.add_at_once(plate.predicted[k], float(plate.true[k] @ truth.ravel()))
            update_ms.append((time.perf_counter() - began) * 1e3)
    figures = {
        "adaptive_step_s_64": figure(float(np.median(step_s)), "<=", 2.0, slowest=max(step_s)),
        "picture_update_ms_64": figure(float(np.median(update_ms)), "<=", 100.0, slowest=max(update_ms)),
    }
    if quick:
        return figures | {"ssim_64_5000": figure(None, ">=", None), "nrmse_64_5000": figure(None, "<=", None)}
    from skimage.metrics import structural_similarity

    found: dict[str, tuple[float, float, float]] = {}
    for rule in ("random", "information"):
        batch = total if rule == "random" else 500
        one = image(
            plate, truth, rule, patterns=total, electrons=1e4, seed=seed, batch=batch, rounds=1, retune_at=(1, 4)
        )
        one.posterior.settle(4)
        picture = one.posterior.picture
        similar = float(structural_similarity(picture, truth, data_range=1.0))
        found[rule] = similar, error_of(picture, truth), edge_error(picture, truth)
    random, ours = found["random"], found["information"]
    return figures | {
        "ssim_64_5000": figure(ours[0], ">=", random[0], random=random[0]),
        "nrmse_64_5000": figure(ours[1], "<=", random[1], random=random[1]),
        "edge_nrmse_64_5000": figure(ours[2], "<=", random[2], random=random[2]),
    }


def edge_error(picture: np.ndarray, truth: np.ndarray) -> float:
    """NRMSE on the pixels beside the specimen's edges."""
    steep = np.hypot(*np.gradient(truth)) > 0.1
    return float(np.linalg.norm((picture - truth)[steep]) / np.linalg.norm(truth[steep]))
