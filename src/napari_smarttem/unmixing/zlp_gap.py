"""Band gap from a low loss: where what is left over the zero-loss peak begins, with the band of the replicas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..schema import BadInput
from .zlp import ZeroLoss

EXPONENTS = (0.5, 1.5)
"""Of the joint density of states above a direct and an indirect gap."""


@dataclass(frozen=True)
class Gap:
    """A band gap.

    Parameters
    ----------
    value_ev, low_ev, high_ev : float
        Median of the replicas and their 68 % band.
    exponent : float
        Of ``(E - gap)^exponent``.
    replicas_ev : ndarray
        ``(replicas,)``.
    """

    value_ev: float
    low_ev: float
    high_ev: float
    exponent: float
    replicas_ev: np.ndarray


def band_gap(
    learnt: ZeroLoss, *, exponent: float | None = None, reach_ev: tuple[float, float] = (0.6, 1.4), seed: int = 0
) -> Gap:
    """Fit ``A (E - gap)^b (1 + c (E - gap)^d + e (E - gap)^2d)``, as wide as the peak, over each replica's own peak.

    Every replica fits its own draw of the pixels, up to its own energy above the gap, with its own d between 0.5 and 1, and
    one in two without the last term: how the loss goes on above the gap is not known, and that is part of the band. So is
    where in its channel the middle of the zero-loss peak lies. The height and the power of its peak's tail are free.

    Parameters
    ----------
    learnt : ZeroLoss
    exponent : float, optional
        b: 0.5 for a direct gap, 1.5 for an indirect one; None takes the one of `EXPONENTS` that fits better.
    reach_ev : (float, float)
        Between these is drawn up to how far above the onset a replica fits.
    seed : int
        Of the draws.

    Raises
    ------
    BadInput
        Nothing is left over the zero-loss peak.
    """
    rng = np.random.default_rng(seed)
    count, channel = len(learnt.shapes), abs(float(learnt.energy_ev[1] - learnt.energy_ev[0]))
    reaches, bends = rng.uniform(*reach_ev, count), rng.uniform(0.5, 1.0, count)
    curved, zeros = rng.random(count) < 0.5, channel * rng.uniform(-0.5, 0.5, count)
    best: tuple[float, float, np.ndarray] | None = None
    for power in EXPONENTS if exponent is None else (exponent,):
        fits = [
            _gap_of(learnt, r, power, reach=reaches[r], bend=bends[r], curved=bool(curved[r])) for r in range(count)
        ]
        misfit = float(np.median([fit[1] for fit in fits]))
        if np.isfinite(misfit) and (best is None or misfit < best[0]):
            gaps = [fit[0] + zero for fit, zero in zip(fits, zeros, strict=True) if np.isfinite(fit[1])]
            best = misfit, power, np.array(gaps)
    if best is None:
        raise BadInput("Nothing is left over the zero-loss peak, so there is no band gap to be found.")
    low, middle, high = np.percentile(best[2], (16.0, 50.0, 84.0))
    return Gap(float(middle), float(low), float(high), best[1], best[2])


def _gap_of(
    learnt: ZeroLoss, replica: int, power: float, *, reach: float, bend: float, curved: bool
) -> tuple[float, float]:
    total, peak = learnt.resampled[replica].mean(axis=0), learnt.shapes[replica].mean(axis=0)
    end = float(learnt.ends_ev[replica])
    energy, width = learnt.energy_ev, learnt.width_ev
    return _fitted(energy, total, peak, end, width, power=power, reach=reach, bend=bend, curved=curved)


def gap_over(
    energy: np.ndarray, total: np.ndarray, peak: np.ndarray, end_ev: float, width_ev: float, *, exponent: float
) -> float:
    """Gap in eV of one spectrum over any zero-loss peak ``(energy,)``, loss-free up to `end_ev`."""
    return _fitted(energy, total, peak, end_ev, width_ev, power=exponent, reach=1.0, bend=0.75, curved=True)[0]


def _fitted(
    energy: np.ndarray,
    total: np.ndarray,
    peak: np.ndarray,
    end: float,
    width: float,
    *,
    power: float,
    reach: float,
    bend: float,
    curved: bool,
) -> tuple[float, float]:
    inside = (energy > 0.8 * end) & (energy < energy[-1])
    first = _first_seen(energy, total, peak, end)
    inside &= energy < first + width + reach
    e, y, z = energy[inside], total[inside], peak[inside]
    if len(e) < 12:
        raise BadInput("There are too few channels above the zero-loss peak for a band gap.")
    sigma = np.sqrt(np.maximum(y, float(y[y > 0].min() if (y > 0).any() else 1.0)))
    offsets = np.linspace(-1.5, 1.5, 41) * width / 2.3548 * 2.0
    blur = np.exp(-0.5 * (offsets / (width / 2.3548)) ** 2)
    blur /= blur.sum()

    tilted = z * np.log(e / end)  # the power of the tail is as free as its height

    def misfit(gap: float) -> float:
        above = np.maximum(e[:, None] - gap - offsets, 0.0)
        rises = [(above ** (power + turn * bend)) @ blur for turn in range(3 if curved else 2)]
        design = np.stack([*rises, z, tilted], axis=1) / sigma[:, None]
        norms = np.maximum(np.linalg.norm(design, axis=0), 1e-300)
        amounts, *_ = np.linalg.lstsq(design / norms, y / sigma, rcond=1e-10)
        if amounts[0] < 0:
            return float("inf")
        return float(((y / sigma - design / norms @ amounts) ** 2).mean())

    step = max(0.02, (energy[1] - energy[0]))
    tried = np.arange(0.75 * end, first + 0.6 * width + 0.5 * reach, step)
    values = np.array([misfit(g) for g in tried])
    at = int(np.argmin(values))
    if not np.isfinite(values[at]):
        return float("nan"), float("inf")
    if 0 < at < len(tried) - 1 and np.isfinite(values[at - 1 : at + 2]).all():
        a, b, c = values[at - 1 : at + 2]
        return float(tried[at] + 0.5 * step * (a - c) / max(a - 2 * b + c, 1e-30)), float(b)
    return float(tried[at]), float(values[at])


def _first_seen(energy: np.ndarray, total: np.ndarray, peak: np.ndarray, end: float) -> float:
    """Where the loss begins to rise over the falling peak; where it never rises, where it exceeds the peak."""
    from scipy.ndimage import uniform_filter1d

    width = max(3, int(0.1 / abs(float(energy[1] - energy[0]))))
    smooth, under = uniform_filter1d(total, width), uniform_filter1d(peak, width)
    near = np.flatnonzero((energy > 0.9 * end) & (energy < 2.0 * end + 2.0))
    if len(near) > 2:
        lowest = int(np.argmin(smooth[near]))
        if 0 < lowest < len(near) - width and smooth[near[lowest] :].max() > 1.5 * smooth[near[lowest]]:
            return float(energy[near[lowest]])
    seen = np.flatnonzero((energy > end) & (smooth - under > under))
    if not len(seen):
        raise BadInput("Nothing is left over the zero-loss peak, so there is no band gap to be found.")
    return float(energy[seen[0]])
