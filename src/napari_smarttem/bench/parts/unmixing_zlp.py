"""Low-loss spectrum images with a known zero-loss peak and a known band gap, and how well both are found again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...schema import BadInput
from ...schema.frame import Axis, Frame

GAPS_EV = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)


@dataclass(frozen=True)
class LowLoss:
    """A synthetic low loss and what it was made of.

    Parameters
    ----------
    frame : Frame
        ``(y, x, energy_loss)`` counts.
    peak : ndarray
        ``(energy,)`` mean true zero-loss peak of all pixels, counts.
    gap_ev, exponent : float
        The loss begins as ``(E - gap)^exponent``.
    width_ev : float
        Full width of the core at half of its height.
    """

    frame: Frame
    peak: np.ndarray
    gap_ev: float
    exponent: float
    width_ev: float


def zero_loss_peak(rng: np.random.Generator, energy: np.ndarray, width_ev: float) -> np.ndarray:
    """A peak of area one: Gaussian core, an exponential tail towards loss (cold emitter), and weak wide power-law wings.

    The wings' exponents and heights, and the tail, are drawn at random and differ on the two sides.
    """
    core = np.exp(-4 * np.log(2) * (energy / width_ev) ** 2)
    wings = np.zeros_like(energy)
    for side in (-1, 1):
        power, height = rng.uniform(2.2, 3.2), 10 ** rng.uniform(-2.2, -1.4)
        wing = height * (1.0 + (energy / (0.8 * width_ev)) ** 2) ** (-power / 2)
        wings += np.where(np.sign(energy + 1e-12) == side, wing, 0.0)
    decay = width_ev * rng.uniform(0.25, 0.5)
    tail = (
        rng.uniform(0.05, 0.2)
        * np.exp(-np.abs(energy) / decay)
        * (energy > 0)
        * (1 - np.exp(-((energy / width_ev) ** 2)))
    )
    peak = core + wings + tail
    return np.asarray(peak / peak.sum())


def low_loss(
    seed: int,
    shape: tuple[int, int] = (64, 64),
    channels: int = 2048,
    *,
    gap_ev: float | None = None,
    exponent: float = 0.5,
    electrons: float = 2e5,
) -> LowLoss:
    """A specimen of varying thickness with a band gap and a plasmon, -3 eV to 28 eV.

    The peak's middle lies anywhere in its channel, which the axis cannot say.
    """
    from scipy.ndimage import gaussian_filter, gaussian_filter1d

    rng = np.random.default_rng([seed, 77])
    gap = float(rng.choice(GAPS_EV)) if gap_ev is None else gap_ev
    width = float(rng.uniform(0.1, 0.4)) if gap < 2 else float(rng.uniform(0.1, 0.8))
    scale = 31.0 / channels
    zero = scale * float(np.random.default_rng([seed, 78]).uniform(-0.5, 0.5))
    energy = -3.0 + scale * np.arange(channels) - zero
    above = np.maximum(energy - gap, 0.0)
    plasmon, damping = rng.uniform(15.0, 22.0), rng.uniform(4.0, 10.0)
    # single scattering: the joint density of states begins as a power; free electrons take over towards the plasmon
    free = energy * damping * plasmon**2 / ((energy**2 - plasmon**2) ** 2 + (energy * damping) ** 2)
    onset = above**exponent / (above**exponent + rng.uniform(1.0, 3.0))
    bound = rng.uniform(0.3, 1.0) * onset * np.exp(-((energy / rng.uniform(8.0, 14.0)) ** 2))
    single = np.where(energy > gap, onset * np.maximum(free, 0.0) + 0.3 * bound, 0.0)
    single /= single.sum()
    peak = zero_loss_peak(rng, energy, width)
    # what the instrument's width does to the loss
    single = gaussian_filter1d(single, width / 2.3548 / scale)
    thickness = gaussian_filter(rng.standard_normal(shape), max(shape) / 8.0, mode="wrap")
    thickness = 0.15 + 0.75 * (thickness - thickness.min()) / np.ptp(thickness)
    current = electrons * (1.0 + 0.03 * rng.standard_normal(shape))
    zero = current * np.exp(-thickness)
    mean = zero[..., None] * (peak + thickness[..., None] * single)
    data = rng.poisson(mean).astype(np.float32)
    axes = (
        Axis(name="y", units="nm"),
        Axis(name="x", units="nm"),
        Axis(name="energy_loss", units="eV", scale=scale, offset=-3.0),
    )
    return LowLoss(Frame(data=data, axes=axes, signal="EELS"), peak * zero.mean(), gap, exponent, width)


def zlp_figures(seed: int, *, sets: int = 7, shape: tuple[int, int] = (64, 64)) -> dict[str, Any]:
    """Gaps, bands and time over `sets` data sets, seeds ``1000 seed + 0, 1 ...``; the gaps of `GAPS_EV` in turn.

    Returns
    -------
    dict
        ``gap_bias_ev`` the largest absolute error of the gap, ``gap_mean_ev`` the mean error, ``gap_covered`` in how many
        sets the gap's own 68 % band holds it; ``band_covered`` the part of the channels from where the fit ends to 1 eV
        above the gap in which the 68 % band of the peak holds the true peak, mean over sets, and ``band_covered_spread`` its
        standard error; ``mirror_bias_ev`` and ``power_law_bias_ev`` the largest errors with the gain side mirrored and with
        a power law fitted up to the same energy, and how often they found none;
        ``seconds`` and ``cpu_seconds`` the medians of subtracting
        a whole image.
    """
    from ...unmixing.zlp import fit_zero_loss
    from ...unmixing.zlp_gap import band_gap, gap_over

    errors, held, covered, seconds, processor = [], [], [], [], []
    rivals: dict[str, list[float]] = {"mirror": [], "power_law": []}
    for turn in range(sets):
        truth = low_loss(1000 * seed + turn, shape, gap_ev=GAPS_EV[turn % len(GAPS_EV)])
        began, cpu = time.perf_counter(), time.process_time()
        learnt = fit_zero_loss(truth.frame, seed=turn)
        rows = np.asarray(truth.frame.data).reshape(-1, truth.frame.shape[-1])
        for start in range(0, len(rows), 4096):
            rows[start : start + 4096] - learnt.peaks(rows[start : start + 4096])
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - cpu)
        gap = band_gap(learnt, exponent=truth.exponent)
        errors.append(gap.value_ev - truth.gap_ev)
        held.append(gap.low_ev <= truth.gap_ev <= gap.high_ev)
        energy, core = learnt.energy_ev, slice(*learnt.core)
        peak = truth.peak / truth.peak[core].sum()
        low, _, high = learnt.band()
        there = (energy > learnt.ends_ev.max()) & (energy < truth.gap_ev + 1.0)
        covered.append(float(((low <= peak) & (peak <= high))[there].mean()))
        mean = rows.mean(axis=0, dtype=np.float64)
        mean /= mean[core].sum()
        end = float(learnt.ends_ev.mean())
        for name, guess in (("mirror", mirrored(energy, mean)), ("power_law", power_law(energy, mean, end))):
            try:
                found = gap_over(energy, mean, guess, end, learnt.width_ev, exponent=truth.exponent)
            except BadInput:  # it leaves nothing that begins anywhere: counted below
                found = float("nan")
            rivals[name].append(found - truth.gap_ev)
    return {
        "gap_bias_ev": float(np.max(np.abs(errors))),
        "gap_mean_ev": float(np.mean(errors)),
        "gap_covered": float(np.mean(held)),
        "band_covered": float(np.mean(covered)),
        "band_covered_spread": float(np.std(covered) / np.sqrt(len(covered))),
        "mirror_bias_ev": float(np.nanmax(np.abs([*rivals["mirror"], 0.0]))),
        "mirror_found_none": int(np.isnan(rivals["mirror"]).sum()),
        "power_law_bias_ev": float(np.nanmax(np.abs([*rivals["power_law"], 0.0]))),
        "power_law_found_none": int(np.isnan(rivals["power_law"]).sum()),
        "seconds": float(np.median(seconds)),
        "cpu_seconds": float(np.median(processor)),
    }


def mirrored(energy: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The gain side put on the loss side, the peak that people subtract by hand."""
    return np.where(energy > 0, np.interp(-energy, energy, mean, left=0.0), mean)


def power_law(energy: np.ndarray, mean: np.ndarray, end: float) -> np.ndarray:
    """A power law fitted to the last half of the tail before `end`."""
    tail = (energy > 0.5 * end) & (energy < end) & (mean > 0)
    slope, level = np.polyfit(np.log(energy[tail]), np.log(mean[tail]), 1)
    return np.where(energy > 0.5 * end, np.exp(level) * np.maximum(energy, 1e-6) ** slope, mean)
