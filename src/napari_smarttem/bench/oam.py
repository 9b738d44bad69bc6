"""How well the orbital-angular-momentum sorter is aligned, on simulated sorters that differ from the model that reads them.

Random misalignments over the whole range, with Poisson noise and drift; ten sorters whose controls do different things, each
learned once beforehand, from another start (``learning_frames``). A sorter is *aligned* while its resolution is at most 1.1 times,
and the power in its right 1-hbar bin at least 0.95 times, that of the perfect one, both from its true misalignments during the
exposure. ``loop_frames_median`` counts pictures up to and with the first one taken by an aligned sorter that stayed so to the end;
``loop_success`` is the share that needed at most five. Each run goes on for some pictures more, to see that it holds.

Baselines: the published gain of 1/5 on the network's word alone; Nelder-Mead and SPSA on the sharpness of the spectrum, which are
told what a half-range is on every control, count as done at the first aligned picture, held or not, and are given up after their
limit of pictures (which is then their figure).

``r2_min``, ``coverage_68`` and ``coverage_95`` are measured on fresh pictures of the model; ``..._other_camera`` on pictures
of the simulator, which has another source, needle, background and pixel. ``ambiguous`` is the share of pictures of the plane
wave at 10 000 electrons that another, different set of misalignments explains nearly as well.

``ms_per_frame`` and ``simulations_per_s`` are processor time of one thread, which is all they use; beside them the same by the
clock, which on a busy machine measures the others.

Where ``SMARTTEM_BENCH_PICTURES`` names a folder, one alignment is drawn into it, picture by picture.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..alignment.targets.fit import RIVAL_DEVIANCE, Fit, one_thread, search
from ..alignment.targets.oam_sorter import OamSorterTarget
from ..backends.simulator.sorter import BACKGROUND, shared_sorter
from ..physics.oam import PARAMETERS, frames
from ..physics.oam_range import HALF_RANGES, draw
from .parts.oam_pictures import series
from .parts.oam_runs import Bench, Way, align_many, learned_responses, nelder_mead, spsa
from .report import figure, report

PICTURES = "SMARTTEM_BENCH_PICTURES"
ELECTRONS = (1e4, 1e5)
FRAMES = 5
HOLD = 5
SLOW_FRAMES = 40
SEARCH_FRAMES = 200


def run(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Measure; the figures of ``smarttem bench oam``."""
    with one_thread():
        folder = os.environ.get(PICTURES)
        if folder:
            series(Path(folder) / "oam-sorter.png", seed=seed)
        return report("oam", seed, _figures(quick, seed))


def _figures(quick: bool, seed: int) -> dict[str, Any]:
    target = OamSorterTarget()
    figures = estimator_figures(target, 200 if quick else 1000, seed)
    pooled: list[Way] = []
    for electrons in ELECTRONS:
        found, ways = loop_figures(target, electrons, seed, (10, 4, 2) if quick else (200, 40, 10))
        figures |= found
        pooled += ways
    return figures | pooled_figures(pooled) | beyond_figures(target, 10 if quick else 100, seed)


# -- the loop


def loop_figures(
    target: OamSorterTarget, electrons: float, seed: int, counts: tuple[int, int, int]
) -> tuple[dict[str, Any], list[Way]]:
    """Figures at one number of electrons, and the alignments they come from; `counts` of ours, of gain 1/5, of each search."""
    starts, slow, searched = counts
    responses = learned_responses(target, electrons, seed, max(2, starts // 20))
    on: dict[str, Any] = {"target": target, "responses": responses}
    ours = align_many(starts, electrons, seed, _ours, **on)
    fifth = align_many(slow, electrons, seed, _fifth, **on)
    simplex = align_many(searched, electrons, seed, lambda b, _r, _g: nelder_mead(b, SEARCH_FRAMES), **on)
    perturbed = align_many(searched, electrons, seed, lambda b, _r, g: spsa(b, SEARCH_FRAMES, g), **on)
    name = f"{electrons:.0e}".replace("+0", "")
    figures = {
        f"loop_success_{name}": figure(
            success(ours), ">=", 0.95,
            gain_one_fifth=success(fifth), nelder_mead=_first_within(simplex, FRAMES), spsa=_first_within(perturbed, FRAMES),
        ),
        f"loop_frames_median_{name}": figure(
            _median_needed(ours, np.inf), "<=", FRAMES,
            gain_one_fifth=_median_needed(fifth, SLOW_FRAMES),
            nelder_mead=_median_first(simplex), spsa=_median_first(perturbed),
        ),
        f"resolution_ratio_p95_{name}": figure(
            float(np.percentile([way.resolution[-1] for way in ours], 95)), "<=", 1.1,
            gain_one_fifth=float(np.percentile([way.resolution[-1] for way in fifth], 95)),
        ),
        f"power_ratio_p5_{name}": figure(
            float(np.percentile([way.power[-1] for way in ours], 5)), ">=", 0.95,
            gain_one_fifth=float(np.percentile([way.power[-1] for way in fifth], 5)),
        ),
        f"learning_frames_{name}": figure(float(np.median([taken for _, taken, _ in responses])), "<=", None),
        f"learning_success_{name}": figure(
            float(np.mean([verdict == "aligned" for *_, verdict in responses])), ">=", None
        ),
    }  # fmt: skip
    return figures, ours


def pooled_figures(ways: list[Way]) -> dict[str, Any]:
    """All alignments together."""
    return {
        "loop_success": figure(success(ways), ">=", 0.95),
        "loop_frames_median": figure(_median_needed(ways, np.inf), "<=", FRAMES),
        "resolution_ratio": figure(float(np.median([way.resolution[-1] for way in ways])), "<=", 1.1),
    }


def _ours(bench: Bench, response: Any, _rng: np.random.Generator) -> Way:
    return bench.by_plan(response=response, hold=HOLD)


def _fifth(bench: Bench, response: Any, _rng: np.random.Generator) -> Way:
    return bench.by_plan(response=response, fixed_gain=0.2, refine=False, frames=SLOW_FRAMES - HOLD, hold=HOLD)


def success(ways: list[Way]) -> float:
    """Share that was aligned after at most `FRAMES` pictures and stayed so."""
    return float(np.mean([way.pictures_needed <= FRAMES for way in ways]))


def _median_needed(ways: list[Way], most: float) -> float:
    return float(np.median([min(way.pictures_needed, most) for way in ways]))


def _median_first(ways: list[Way]) -> float:
    return float(np.median([min(way.first_good, SEARCH_FRAMES) for way in ways]))


def _first_within(ways: list[Way], pictures: int) -> float:
    return float(np.mean([way.first_good <= pictures for way in ways]))


def beyond_figures(target: OamSorterTarget, count: int, seed: int) -> dict[str, Any]:
    """From starts over twice the range: aligned, or said that it cannot; and never farther out than it began."""
    responses = learned_responses(target, 1e4, seed + 1, 2 if count < 50 else 10)
    ways = align_many(count, 1e4, seed + 1, _ours, target=target, responses=responses, reach=2.0)
    aligned = np.array([way.good[-1] for way in ways])
    refused = np.array([way.outcome is not None and way.outcome.verdict == "cannot" for way in ways])
    diverged = [way.farthest[-1] > 1.05 * way.farthest[0] + 0.05 and not way.good[-1] for way in ways]
    return {
        "beyond_aligned": figure(float(aligned.mean()), ">=", None),
        "beyond_aligned_or_said_no": figure(float((aligned | refused).mean()), ">=", 1.0),
        "beyond_diverged": figure(float(np.mean(diverged)), "<=", 0.0),
    }


# -- the estimator


def estimator_figures(target: OamSorterTarget, count: int, seed: int) -> dict[str, Any]:
    """Accuracy, honesty and speed on fresh pictures."""
    rng = np.random.default_rng([seed, 43])
    truth = draw(count, rng)
    electrons = ELECTRONS[0] * (ELECTRONS[1] / ELECTRONS[0]) ** rng.uniform(0.0, 1.0, count)
    began, began_cpu = time.perf_counter(), time.process_time()
    means = target.pictures(truth)
    per_s, per_cpu_s = count / (time.perf_counter() - began), count / (time.process_time() - began_cpu)
    pictures = frames(means, electrons, rng)
    target.read(pictures[:1])  # loads the network
    network, variances = (
        np.concatenate(parts) for parts in zip(*(target.read(p[None]) for p in pictures), strict=True)
    )
    began, began_cpu = time.perf_counter(), time.process_time()
    fits = [_fitted(target, one, rng) for one in pictures]
    ms, ms_cpu = 1e3 * (time.perf_counter() - began) / count, 1e3 * (time.process_time() - began_cpu) / count
    began_cpu = time.process_time()
    for one in pictures[:100]:
        target.read(one[None])
    ms_network = 10 * (time.process_time() - began_cpu)
    figures: dict[str, Any] = {}
    r2, r2_network = _r2(np.array([fit.values for fit in fits]), truth), _r2(network, truth)
    figures["r2_min"] = figure(r2.min(), ">=", 0.98, network_alone=r2_network.min())
    for name, with_fit, alone in zip(PARAMETERS, r2, r2_network, strict=True):
        figures[f"r2_{name}"] = figure(with_fit, ">=", 0.98, network_alone=alone)
    pull = np.abs(np.array([(fit.values - true) / fit.sigma for fit, true in zip(fits, truth, strict=True)]))
    pull_network = np.abs(network - truth) / np.sqrt(variances)
    figures["coverage_68"] = figure(np.mean(pull < 1), ">=", 0.63, network_alone=np.mean(pull_network < 1))
    figures["coverage_95"] = figure(np.mean(pull < 2), ">=", 0.92, network_alone=np.mean(pull_network < 2))
    figures["explained"] = figure(float(np.mean([fit.trusted for fit in fits])), ">=", None)
    figures["ms_per_frame"] = figure(ms_cpu, "<=", 20.0, network_alone=ms_network, by_the_clock=ms)
    figures["simulations_per_s"] = figure(per_cpu_s, ">=", None, by_the_clock=per_s)
    return figures | _other_camera(target, max(50, count // 10), rng) | _ambiguous(target, max(10, count // 40), rng)


def _fitted(target: OamSorterTarget, counts: np.ndarray, rng: np.random.Generator) -> Fit:
    guess = target.guess(counts)
    assert guess is not None
    return search(target, counts, [guess], rng)


def _other_camera(target: OamSorterTarget, count: int, rng: np.random.Generator) -> dict[str, Any]:
    truth = draw(count, rng)
    electrons = ELECTRONS[0] * (ELECTRONS[1] / ELECTRONS[0]) ** rng.uniform(0.0, 1.0, count)
    images = shared_sorter().images(truth)
    fine = frames(images + BACKGROUND / images[0].size, electrons, rng)
    blocks = fine.reshape(count, 64, 2, 64, 2).sum(axis=(2, 4))
    fits = [_fitted(target, one, rng) for one in blocks]
    pull = np.abs(np.array([(fit.values - true) / fit.sigma for fit, true in zip(fits, truth, strict=True)]))
    r2 = _r2(np.array([fit.values for fit in fits]), truth)
    return {
        "r2_min_other_camera": figure(r2.min(), ">=", 0.98),
        "coverage_68_other_camera": figure(np.mean(pull < 1), ">=", None),
        "coverage_95_other_camera": figure(np.mean(pull < 2), ">=", None),
    }


def _ambiguous(target: OamSorterTarget, count: int, rng: np.random.Generator) -> dict[str, Any]:
    rivals = []
    for true in draw(count, rng):
        counts = frames(target.picture(true)[None], 1e4, rng)[0]
        guess = target.guess(counts)
        assert guess is not None
        rivals.append(search(target, counts, [guess], rng, always=True).rival)
    return {"ambiguous": figure(float(np.mean(np.array(rivals) < RIVAL_DEVIANCE)), "<=", None)}


def _r2(values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    scaled = (values - truth) / HALF_RANGES
    return np.asarray(1.0 - np.mean(scaled**2, axis=0) / np.var(truth / HALF_RANGES, axis=0))
