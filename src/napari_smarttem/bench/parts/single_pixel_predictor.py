"""How well patterns are predicted, against those who know no physics, nothing, or only the design."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ...physics.caustics import BIAS_LIMIT_V, CAPACITANCE_F, Caustics, record
from ...single_pixel.predict import Decoder, nrmse, pearson
from ...single_pixel.watch import check_predictor
from ..report import figure

PLAIN_STEPS = {300: 600, 10_000: 1500}
"""Training steps of the plain decoder, short enough for a bench: one and three minutes of one core."""


def predictor_figures(
    caustics: Caustics,
    decoder: Decoder,
    biases: np.ndarray,
    measured: np.ndarray,
    seed: int,
    *,
    held_out: int = 200,
    plain: bool = True,
) -> dict[str, Any]:
    """Held-out biases over the whole range, against patterns without noise."""
    rng = np.random.default_rng([seed, 66])
    held = rng.uniform(-BIAS_LIMIT_V, BIAS_LIMIT_V, (held_out, biases.shape[1]))
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
    took: dict[str, float | None] = {}
    for pairs in PLAIN_STEPS if plain else ():
        began = time.perf_counter()
        other = plain_decoder(caustics, pairs, held, (biases, measured), seed)
        name = f"plain_decoder_{pairs}"
        took[f"{name}_training_s"] = None if other is None else time.perf_counter() - began
        known["pearson"][name] = None if other is None else float(pearson(other, truth).mean())
        known["nrmse"][name] = None if other is None else float(nrmse(other, truth).mean())
    charged = charging(caustics, decoder, seed)
    return {
        "predictor_pearson": figure(float(pearson(found, truth).mean()), ">=", 0.98, **known["pearson"]),
        "predictor_nrmse": figure(float(nrmse(found, truth).mean()), "<=", 0.10, **known["nrmse"]),
        "predict_ms": figure(each_ms, "<=", 20.0, **took),
        "charged_nrmse_after_refit": figure(charged[1], "<=", 0.10, before=charged[0]),
    }


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
            task, Path(folder), seed=seed, steps=steps, threads=2, validate_s=1e9, checkpoint_s=1e9, say=lambda _: None
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
