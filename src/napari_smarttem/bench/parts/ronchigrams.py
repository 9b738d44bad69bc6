"""Ronchigrams for the bench of the alignment: good ones of the published ranges, unusable ones of six kinds, misaligned columns."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...alignment.estimator import Estimator
from ...alignment.image_search import search
from ...alignment.plan import Alignment, Outcome, first_belief
from ...alignment.settings import LEARNING, parse
from ...alignment.targets.loop import controls_of
from ...alignment.training import draw_published
from ...backends.guard import Guard
from ...backends.registry import connect
from ...backends.simulator.lenses import START
from ...engine.execute import execute
from ...physics.aberrations import ESTIMATED, quarter_pi_angle_mrad
from ...physics.ronchigram import Film, Geometry, Recording, simulate
from ...schema import Note, Scan, SmartTEMError, StepResult

BAD_KINDS = ("vacuum", "blanked beam", "saturated", "crystalline", "wrong camera length", "another image")


def good_frames(
    geometry: Geometry, count: int, seed: int | tuple[int, ...], *, dose: float = 200.0, scale: float = 1.0
) -> Iterator[tuple[np.ndarray, np.ndarray, Film]]:
    """Coefficients (8,) of the published ranges (times `scale`), their frame, and the film that was under the beam."""
    import torch

    rng = np.random.default_rng([*np.atleast_1d(seed), 71, geometry.pixels])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    for _ in range(count):
        coefficients = draw_published(rng, 1) * scale
        film = Film(phase_rms=rng.uniform(0.15, 0.25), k0_per_nm=rng.uniform(4.0, 6.0))
        frame = simulate(
            geometry, coefficients, ESTIMATED, recording=Recording(dose_e_per_px=dose), generator=generator, film=film
        )
        yield coefficients[0], frame[0].numpy(), film


def bad_frame(kind: str, geometry: Geometry, seed: int) -> np.ndarray:
    """A frame that must be refused."""
    import torch

    rng = np.random.default_rng([seed, 72, BAD_KINDS.index(kind)])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    coefficients = draw_published(rng, 1)
    shape = (geometry.pixels, geometry.pixels)
    if kind == "blanked beam":
        return rng.poisson(0.05, shape).astype(np.float32) + rng.normal(0, 0.3, shape).astype(np.float32)
    if kind == "another image":
        from scipy import ndimage

        smooth = ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(1.0, 12.0))
        return np.asarray(rng.poisson(200.0 * (1 + 0.3 * smooth / smooth.std()).clip(0)), dtype=np.float32)
    film, recording, shown = Film(phase_rms=rng.uniform(0.1, 0.3)), Recording(dose_e_per_px=200.0), geometry
    if kind == "vacuum":
        film = Film(phase_rms=1e-6)
    elif kind == "crystalline":
        film = Film(phase_rms=0.02)
        recording = Recording(dose_e_per_px=200.0, specks=150.0)
    elif kind == "wrong camera length":
        factor = float(rng.choice([0.4, 2.0]))
        shown = Geometry(geometry.high_tension_v, factor * geometry.half_angle_mrad, geometry.pixels)
    frame = simulate(
        shown, coefficients, ESTIMATED, film=film, recording=recording, generator=generator, largest_oversampling=2
    )[0].numpy()
    if kind == "saturated":
        frame = np.minimum(frame, np.quantile(frame, rng.uniform(0.6, 0.95)))
    return np.asarray(frame)


@dataclass(frozen=True)
class LoopResult:
    """How one closed loop went."""

    outcome: Outcome
    quarter_pi_mrad: float
    largest_step_kept: bool
    electrons: float
    reached_at: int | None
    """Frames after which the column, taken back to focus as it was, would have been good; None: never."""


def closed_loop(
    seed: int, wanted_mrad: float = 25.0, estimator: Estimator | None = None, *, learned: bool = False, **settings: Any
) -> LoopResult:
    """Align a misaligned simulated column, with drift, play, cross-talk and noise of its controls.

    With `learned`, a run of eight frames (`alignment.settings.LEARNING`) learns the controls first; then the column is misaligned
    anew, as on another day, and what counts begins.
    """
    instrument = misaligned(seed)
    microscope: Any = instrument.unwrapped
    if learned:
        taught = _run(instrument, Loop(estimator, {**LEARNING, "wanted_mrad": wanted_mrad})).outcome
        settings = {**settings, "response": taught.response, "response_covariance": taught.response_covariance}
        microscope.column.lenses.misalign_anew()
    result = _run(instrument, Loop(estimator, {**settings, "wanted_mrad": wanted_mrad}))
    instrument.close()
    return result


def misaligned(seed: int) -> Any:
    """A guarded simulated instrument whose column is out in the published ranges, with imperfect controls, beam on."""
    instrument: Any = Guard(
        connect("simulator", seed=seed, speed=None, high_tension_v=300e3, misalignment=1.0, optics_imperfection=1.0,
                specimen="two-phase")
    )  # fmt: skip
    instrument.blanker.set_blanked(False)
    return instrument


def by_images(seed: int, images: int = 60) -> tuple[float, int, float]:
    """Bayesian optimisation of the contrast of images on the same columns: pi/4 angle in mrad, images, electrons.

    All eight aberrations are searched for in the ranges in which the column is out.
    """
    instrument = misaligned(seed)
    context = instrument.plan_context()
    settings = parse(
        {
            "controls": controls_of(instrument.optics), "method": "image-quality", "frames": images, "seed": seed,
            "search_nm": {name: START[name] for name in ESTIMATED}, "image_pixels": 64, "exposure_s": 0.5,
        }
    )  # fmt: skip
    steps: Any = search(settings, context)
    result: StepResult | None = None
    electrons, taken = 0.0, 0
    column = instrument.unwrapped.column
    while True:
        try:
            step = steps.send(result)
        except StopIteration:
            break
        if isinstance(step, Note):
            result = StepResult(step=step)
            continue
        result = execute(instrument, step, threading.Event())
        if isinstance(step, Scan):
            taken += 1
            electrons += column.electrons_per_s * step.dwell_s * step.shape[0] * step.shape[1]
    angle = float(quarter_pi_angle_mrad(column.true_aberrations(instrument.now_s()), 300e3))
    instrument.close()
    return angle, taken, electrons


@dataclass(frozen=True)
class Loop:
    """What to run: an estimator (one copy of the weights for all loops) and settings."""

    estimator: Estimator | None
    settings: dict[str, Any]


def _run(instrument: Any, loop: Loop) -> LoopResult:
    microscope: Any = instrument.unwrapped
    wanted_mrad = float(loop.settings["wanted_mrad"])
    checked = parse({"controls": controls_of(instrument.optics), **loop.settings})
    estimator = loop.estimator or Estimator(checked.model)
    steps: Any = Alignment(checked, first_belief(checked), estimator).steps()
    result: StepResult | None = None
    kept, electrons, frames = True, 0.0, 0
    reached: int | None = None
    while True:
        try:
            step = steps.send(result)
        except StopIteration as end:
            outcome = end.value
            break
        if isinstance(step, Note):
            result = StepResult(step=step)
            continue
        try:
            result = execute(instrument, step, threading.Event())
        except SmartTEMError as error:
            kept = False
            result = StepResult(step=step, status="failed", reason=str(error))
        for frame in result.frames:
            electrons += float(np.asarray(frame.data, dtype=float).sum())
            frames += 1
        if reached is None and frames:
            now = dict(microscope.column.true_aberrations(microscope.now_s())) | {"C1": 0.0}
            if float(quarter_pi_angle_mrad(now, 300e3)) >= wanted_mrad:
                reached = frames
    angle = float(quarter_pi_angle_mrad(microscope.column.true_aberrations(microscope.now_s()), 300e3))
    return LoopResult(outcome, angle, kept, electrons, reached)
