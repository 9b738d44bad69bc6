"""64 x 64 pixels: times, and the published setting of 5000 patterns, by chance and chosen."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ...physics.caustics import Caustics
from ...single_pixel.adaptive import most_informative
from ...single_pixel.predict import Decoder
from ..report import figure
from .single_pixel_runs import Plate, error_of, image, pool_for
from .single_pixel_sets import specimens

PIXELS = 64
PATTERNS = 5000
POOL = 9000
ELECTRONS = 1e4
BATCH = 250
SAMPLES = 384
TEN_TO_NINETY = 2.563
"""Distance between 10 % and 90 % of an edge that a Gaussian of standard deviation one has blurred."""


def large_figures(
    caustics: Caustics, decoder: Decoder, seed: int, *, quick: bool, say: Any = lambda _: None
) -> dict[str, Any]:
    """Times of a step and of one value; sharpness after 5000 patterns."""
    plate = pool_for(caustics, decoder, PIXELS, 1200 if quick else POOL, seed)
    truth = specimens(PIXELS, seed + 100)["letters"]
    figures = _times(plate, truth, seed, rounds=2 if quick else 4)
    if quick:
        missing = ("ssim_64_5000", "nrmse_64_5000", "edge_width_px_64_5000")
        return figures | {name: figure(None, ">=" if name.startswith("ssim") else "<=", None) for name in missing}
    from skimage.metrics import structural_similarity

    found: dict[str, tuple[float, float, float]] = {}
    for rule in ("random", "information"):
        say(f"64 x 64, {PATTERNS} patterns, {rule}")
        batch = PATTERNS if rule == "random" else BATCH
        one = image(
            plate,
            truth,
            rule,
            patterns=PATTERNS,
            electrons=ELECTRONS,
            seed=seed,
            batch=batch,
            rounds=1,
            samples=SAMPLES,
        )
        one.posterior.settle(4)
        picture = one.posterior.picture
        similar = float(structural_similarity(picture, truth, data_range=1.0))
        found[rule] = similar, error_of(picture, truth), edge_width_px(picture, truth)
    random, ours = found["random"], found["information"]
    return figures | {
        "ssim_64_5000": figure(ours[0], ">=", random[0], random=random[0]),
        "nrmse_64_5000": figure(ours[1], "<=", random[1], random=random[1]),
        "edge_width_px_64_5000": figure(ours[2], "<=", random[2], random=random[2], truth=edge_width_px(truth, truth)),
    }


def _times(plate: Plate, truth: np.ndarray, seed: int, *, rounds: int) -> dict[str, Any]:
    run = image(plate, truth, "random", patterns=600, electrons=ELECTRONS, seed=seed, batch=600, rounds=1)
    posterior, rng = run.posterior, np.random.default_rng([seed, 70])
    step_s, update_ms = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        choice = most_informative(posterior, plate.predicted[:4000], 16, rng)
        posterior.add(plate.predicted[choice.index], plate.true[choice.index] @ truth.ravel())
        posterior.settle(1)
        step_s.append(time.perf_counter() - began)
        for k in choice.index[:3]:
            began = time.perf_counter()
            posterior.glimpse(plate.predicted[k], float(plate.true[k] @ truth.ravel()))
            update_ms.append((time.perf_counter() - began) * 1e3)
    return {
        "adaptive_step_s_64": figure(float(np.median(step_s)), "<=", 2.0, slowest=max(step_s)),
        "picture_update_ms_64": figure(float(np.median(update_ms)), "<=", 100.0, slowest=max(update_ms)),
    }


def edge_width_px(picture: np.ndarray, truth: np.ndarray) -> float:
    """10-90 % width of the picture's edges: of the blurred truth that is nearest to the picture around the specimen's edges.

    The truth is blurred by a Gaussian; its own width (anti-aliased pixels) is that of a box of one pixel and is added in squares.
    """
    from scipy.ndimage import binary_dilation, gaussian_filter

    near = binary_dilation(np.hypot(*np.gradient(truth)) > 0.1, iterations=2)
    sigmas = np.linspace(0.0, 3.0, 121)
    misfits = [float(((gaussian_filter(truth, s) if s else truth)[near] - picture[near]).var()) for s in sigmas]
    blur = float(sigmas[int(np.argmin(misfits))])
    return float(np.hypot(TEN_TO_NINETY * blur, 0.8))
