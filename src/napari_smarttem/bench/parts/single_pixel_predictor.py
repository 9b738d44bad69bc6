"""How well patterns are predicted, against those who know no physics, nothing, or only the design."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...physics.caustics import BIAS_LIMIT_V, CAPACITANCE_F, Caustics, record
from ...single_pixel.calibrate import calibrate
from ...single_pixel.predict import Decoder, nrmse, pearson
from ...single_pixel.watch import check_predictor
from ..report import figure

PLAIN_STEPS = {300: 600, 10_000: 1500}
"""Training steps of the plain decoder, short enough for a bench: one and three minutes of one core."""
THREADS = min(2, os.cpu_count() or 1, int(os.environ.get("OMP_NUM_THREADS") or 2))
Calibrated = tuple[Caustics, Decoder, np.ndarray, np.ndarray]


def predictor_figures(
    plates: dict[int, Calibrated], seed: int, *, held_out: int = 200, plain: bool = True
) -> dict[str, Any]:
    """Held-out biases over the whole range, against patterns without noise.

    Parameters
    ----------
    plates : dict of int to tuple
        Seed -> plate, decoder fitted to it, biases and patterns it was fitted to.
    seed : int
        Of the plate that the plain decoders are trained for.
    """
    known: dict[str, dict[str, list[float]]] = {"pearson": {}, "nrmse": {}}
    each_ms: list[float] = []
    kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def note(name: str, found: np.ndarray, truth: np.ndarray) -> None:
        known["pearson"].setdefault(name, []).append(float(pearson(found, truth).mean()))
        known["nrmse"].setdefault(name, []).append(float(nrmse(found, truth).mean()))

    for number, (caustics, decoder, biases, measured) in plates.items():
        rng = np.random.default_rng([number, 66])
        held = rng.uniform(-BIAS_LIMIT_V, BIAS_LIMIT_V, (held_out, biases.shape[1]))
        truth = caustics.patterns(held)
        began = time.perf_counter()
        found = decoder.predict(held)
        each_ms.append((time.perf_counter() - began) / len(held) * 1e3)
        note("ours", found, truth)
        note("without_learned_part", replace(decoder, residual=None).predict(held), truth)
        note("unfitted", Decoder.nominal().predict(held), truth)
        note("nearest_neighbour", measured[((held[:, None] - biases[None]) ** 2).sum(-1).argmin(axis=1)], truth)
        kept[number] = held, truth
    caustics, decoder, biases, measured = plates[seed]
    took: dict[str, float | None] = {}
    glows: list[float | None] = [None, None]
    for pairs in PLAIN_STEPS if plain else ():
        began = time.process_time()
        held, truth = kept[seed]
        other = plain_decoder(caustics, pairs, held, (biases, measured), seed)
        name = f"plain_decoder_{pairs}"
        if other is not None:
            took[f"{name}_training_core_s"] = time.process_time() - began
            note(name, other, truth)
    if plain:
        held, truth = kept[seed]
        with_glow = record(stray(caustics.patterns(biases)), 1e5, np.random.default_rng([seed, 72]))
        strayed = calibrate(biases, with_glow, 1e5).decoder
        glows = [
            float(nrmse(one.predict(held), stray(truth)).mean()) for one in (strayed, replace(strayed, residual=None))
        ]
    charged = charging(caustics, decoder, seed)
    pearsons, errors = known["pearson"].pop("ours"), known["nrmse"].pop("ours")
    rivals = {kind: {name: float(np.mean(found)) for name, found in table.items()} for kind, table in known.items()}
    return {
        "predictor_pearson": figure(
            float(np.mean(pearsons)), ">=", 0.98, worst_plate=min(pearsons), **rivals["pearson"]
        ),
        "predictor_nrmse": figure(float(np.mean(errors)), "<=", 0.10, worst_plate=max(errors), **rivals["nrmse"]),
        "predict_ms": figure(float(np.median(each_ms)), "<=", 20.0, **took),
        "stray_camera_nrmse": figure(glows[0], "<=", 0.10, without_learned_part=glows[1]),
        "charged_nrmse_after_refit": figure(charged[1], "<=", 0.10, before=charged[0]),
    }


def stray(patterns: np.ndarray) -> np.ndarray:
    """Patterns (n, pixels, pixels) as a camera shows them that scatters 5 % far and glows: the physics has no number for it."""
    from scipy.ndimage import gaussian_filter

    far = gaussian_filter(patterns, (0, 5.0, 5.0))
    return np.asarray(0.93 * patterns + 0.05 * far + 0.02 * patterns.mean(axis=(1, 2), keepdims=True))


def plain_decoder(
    caustics: Caustics, pairs: int, held: np.ndarray, measured: tuple[np.ndarray, np.ndarray], seed: int
) -> np.ndarray | None:
    """Patterns of a network without physics, trained on `pairs` patterns; None without torch."""
    if not (importlib.util.find_spec("torch") and importlib.util.find_spec("safetensors")):
        return None
    from safetensors.torch import load_file

    from ...nn import networks, registry, training
    from ...single_pixel.decoder_training import DecoderTask, decoded

    if pairs > len(measured[0]):
        rng = np.random.default_rng([seed, 67])
        quick_plate = Caustics(caustics.plate, caustics.optics, samples=64, oversampling=1)
        biases = rng.uniform(-BIAS_LIMIT_V, BIAS_LIMIT_V, (pairs, held.shape[1]))
        measured = biases, record(quick_plate.patterns(biases), 1e5, rng)
    task = DecoderTask(pairs, seed, measured)
    task.caustics = Caustics(caustics.plate, caustics.optics, samples=64, oversampling=1)
    steps = PLAIN_STEPS[pairs]
    with tempfile.TemporaryDirectory() as folder:
        training.train(
            task,
            Path(folder),
            seed=seed,
            steps=steps,
            threads=THREADS,
            validate_s=1e9,
            checkpoint_s=1e9,
            say=lambda _: None,
        )
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
