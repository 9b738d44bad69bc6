"""Simulated single-pixel runs: patterns chosen by a rule, counted by chance, reconstructed on the way."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from ...physics.caustics import Caustics, built_optics, built_plate, record
from ...single_pixel.adaptive import EXACT_PIXELS, Choice, by_chance, most_contrast, most_informative, naive_divergence
from ...single_pixel.calibrate import calibrate, calibration_biases
from ...single_pixel.charging import MOST, ChargingWatch, bias_slopes
from ...single_pixel.compare import reconstructed_raster
from ...single_pixel.fading import as_seen
from ...single_pixel.patterns import coarser
from ...single_pixel.pool import PlateSettings, predict_pool, settings_of_pool, spot_raster
from ...single_pixel.posterior import LARGEST_MISFIT, Posterior, retune_is_due
from ...single_pixel.predict import Decoder

BATCH = 16


@dataclass(frozen=True)
class Plate:
    """A plate as built, the decoder fitted to its patterns, and a pool: settings, predicted and true, (n, pixels²)."""

    caustics: Caustics
    decoder: Decoder
    settings: PlateSettings
    predicted: np.ndarray
    true: np.ndarray


def calibrated(
    seed: int, patterns: int = 300, electrons: float = 1e5
) -> tuple[Caustics, Decoder, np.ndarray, np.ndarray]:
    """A plate from `seed`, the decoder fitted to noisy patterns of it, and the biases and patterns it was fitted to."""
    rng = np.random.default_rng([seed, 61])
    caustics = Caustics(built_plate(rng), built_optics(rng))
    biases = calibration_biases(patterns, rng)
    measured = record(caustics.patterns(biases), electrons, rng)
    return caustics, calibrate(biases, measured, electrons).decoder, biases, measured


def pool_for(caustics: Caustics, decoder: Decoder, pixels: int, count: int, seed: int) -> Plate:
    """A pool for pictures of ``pixels x pixels``; the true patterns are made at the plate's own fine sampling."""
    drawn = settings_of_pool(count, decoder, np.random.default_rng([seed, 62]))
    return _both_ways(caustics, decoder, drawn, pixels)


def _both_ways(caustics: Caustics, decoder: Decoder, drawn: PlateSettings, pixels: int) -> Plate:
    """Patterns as they are predicted, and as the plate makes them."""
    predicted = predict_pool(decoder, drawn, pixels).patterns
    true = coarser(caustics.patterns(drawn.biases_v, drawn.shift_px, drawn.defocus_rad), pixels)
    return Plate(caustics, decoder, drawn, predicted, true.reshape(len(drawn), -1))


@dataclass
class Run:
    """What became of one run: error against patterns, and the posterior at the end."""

    posterior: Posterior
    counts: list[int] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    damages: list[float] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    signals: list[float] = field(default_factory=list)
    index: list[int] = field(default_factory=list)

    def patterns_to(self, error: float) -> float:
        """Patterns (interpolated) after which the error first falls to `error`; infinity where it never does."""
        return first_reached(self.counts, self.errors, error)


def first_reached(positions: list, errors: list[float], error: float) -> float:
    """Where along `positions` (interpolated) a falling `errors` first reaches `error`; infinity where it never does."""
    for k, now in enumerate(errors):
        if now <= error:
            if k == 0:
                return float(positions[0])
            before, past = errors[k - 1], positions[k - 1]
            return float(past + (positions[k] - past) * (before - error) / max(before - now, 1e-12))
    return float("inf")


def error_of(picture: np.ndarray, truth: np.ndarray) -> float:
    """NRMSE: ``|picture - truth| / |truth|``."""
    return float(np.linalg.norm(picture - truth) / np.linalg.norm(truth))


def image(
    plate: Plate,
    specimen: np.ndarray,
    rule: str,
    *,
    patterns: int,
    electrons: float,
    seed: int,
    batch: int = BATCH,
    critical_e_per_px: float | None = None,
    rounds: int = 2,
    samples: int = 96,
    told: float | None = None,
    read_noise_e: float = 0.0,
) -> Run:
    """One run of `patterns` patterns by a rule: ``information``, ``random``, ``contrast``, ``divergence`` or ``in order``.

    With `critical_e_per_px` the specimen fades while it is measured: opacity decays with the electrons a pixel has seen; where the
    reconstruction is told this number, wrong by the factor `told`, it gives the fresh specimen. `read_noise_e` is the bucket's own,
    and known.
    """
    pixels = specimen.shape[0]
    rng, chance = np.random.default_rng([seed, 63]), np.random.default_rng([seed, 64])
    posterior = Posterior(pixels, electrons, model_error=plate.decoder.error, read_noise_e=read_noise_e)
    known = None if told is None or critical_e_per_px is None else critical_e_per_px * told
    run = Run(posterior)
    taken = np.zeros(len(plate.predicted), dtype=bool)
    seen, dose, believed = np.zeros(0), np.zeros(pixels**2), np.zeros(pixels**2)
    number = 0
    while posterior.count < patterns:
        began = time.perf_counter()
        acting, background = as_seen(plate.predicted, believed, known)
        choice = _choose(
            rule,
            posterior,
            acting,
            min(batch, patterns - posterior.count),
            rng,
            taken,
            seen,
            number,
            samples,
            background,
        )
        choosing = time.perf_counter() - began
        taken[choice.index] = True
        signals = []
        for k in choice.index:
            now = specimen.ravel()
            if critical_e_per_px is not None:
                now = 1.0 - (1.0 - now) * np.exp(-dose / critical_e_per_px)
            counted = chance.poisson(electrons * max(0.0, float(plate.true[k] @ now)))
            signals.append(float(counted + read_noise_e * chance.standard_normal()) / electrons)
            dose += electrons * plate.true[k]
        began = time.perf_counter()
        shown = plate.predicted[choice.index]
        before = believed + electrons * (np.cumsum(shown, axis=0) - shown)
        believed = believed + electrons * shown.sum(axis=0)
        acting, background = as_seen(shown, before, known)
        seen = np.append(seen, posterior.predicted(acting) + background)
        posterior.add(acting, np.array(signals), background)
        number += 1
        if retune_is_due(number, pixels) or posterior.count >= patterns:
            posterior.retune()
        posterior.settle(rounds)
        if pixels <= EXACT_PIXELS and (posterior.scatter() or 0.0) > LARGEST_MISFIT:
            posterior.question()
        run.step_s.append(choosing + time.perf_counter() - began)
        run.counts.append(posterior.count)
        run.errors.append(error_of(posterior.picture, specimen))
        run.signals += signals
        run.index += [int(k) for k in choice.index]
        if critical_e_per_px is not None:
            run.damages.append(damage(dose, specimen, critical_e_per_px))
    return run


def excess_of_charging(plate: Plate, run: Run) -> float | None:
    """What the newest signals of a run of a specimen that does not fade say of charging; see `single_pixel.charging`."""
    index = np.array(run.index[-MOST:])
    slopes = bias_slopes(plate.decoder, plate.settings.part(index), plate.predicted[index], run.posterior.pixels)
    watch = ChargingWatch()
    for one in slopes:
        watch.add(one, np.zeros(1), None)
    return watch.excess(run.posterior)


def _choose(  # noqa: PLR0917
    rule: str, posterior: Posterior, pool: np.ndarray, count: int, rng: np.random.Generator, taken: np.ndarray,
    seen: np.ndarray, number: int, samples: int, background: np.ndarray,
) -> Choice:  # fmt: skip
    if rule == "in order":
        index = np.flatnonzero(~taken)[:count]
        return Choice(index, np.full(len(index), np.nan))
    if rule == "random" or number == 0:
        return by_chance(pool, count, rng, taken=taken)
    if rule == "contrast":
        return most_contrast(pool, count, rng, taken=taken)
    if rule == "divergence":
        return naive_divergence(posterior, pool, count, rng, predicted_before=seen, taken=taken)
    return most_informative(posterior, pool, count, rng, taken=taken, samples=samples, background=background)


def damage(dose: np.ndarray, specimen: np.ndarray, critical: float) -> float:
    """Fraction of the specimen's opacity that is gone."""
    matter = 1.0 - specimen.ravel()
    return float((matter * -np.expm1(-dose.ravel() / critical)).sum() / matter.sum())


def raster_scan(
    specimen: np.ndarray,
    electrons: float,
    seed: int,
    critical_e_per_px: float | None = None,
    *,
    told: bool = False,
    read_noise_e: float = 0.0,
) -> tuple[np.ndarray, float]:
    """Picture and damage of a pencil beam that gives every pixel `electrons` over the pixels; no blur, the same reconstruction.

    What is `told` and the noise of the bucket are as of `image`.
    """
    rng = np.random.default_rng([seed, 65])
    each = electrons / specimen.size
    seen = specimen.ravel()
    lost, left = 0.0, 1.0
    if critical_e_per_px is not None:  # averaged over the exposure of the pixel
        rise = each / critical_e_per_px
        left = -np.expm1(-rise) / rise
        seen = 1.0 - (1.0 - seen) * left
        lost = damage(np.full(seen.size, each), specimen, critical_e_per_px)
    counted = rng.poisson(each * seen) + read_noise_e * rng.standard_normal(seen.size)
    picture = reconstructed_raster(counted / each, each, left=float(left) if told else 1.0, read_noise_e=read_noise_e)
    return picture, lost


def spot_plate(plate: Plate, pixels: int, most: int) -> Plate:
    """The raster that the plate itself can make: its smallest spot over a grid of at most `most` places."""
    return _both_ways(plate.caustics, plate.decoder, spot_raster(plate.decoder, most, pixels).settings, pixels)
