"""The zero-loss peak under a low loss, learnt from the spectra themselves by replicas of small networks, and its 68 % band.

As in EELSfitter (Roest et al., Ultramicroscopy 222, 2021, 113202; Brokkelkamp et al., J. Phys. Chem. A 126, 2022, 1255):
pixels are put together by thickness, every replica is a fresh draw of pixels, a network is fitted where there is no loss
yet, and what it says further on is the peak under the loss. The band holds three things: noise (each replica draws its own
pixels), where the loss may begin (each replica draws its own end of the fit), and the shape of the wings (each replica has
its own prior).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..schema import BadInput
from ..schema.frame import Frame
from .zlp_network import Replicas, inputs, one_thread

REPLICAS = 32
GROUPS = 5
BINS_PER_WIDTH = 10.0
"""Channels are averaged over this part of the scaled loss ``asinh(E / w)``; a peak is smooth on that scale."""
SHAPE_ACCURACY = 0.02
"""Groups of pixels differ in the shape of their peaks by about so much: more counts do not count for more than that."""
NEAR = 2.5
"""Data up to this multiple of where the fits end are looked at."""
BEFORE = (0.9, 1.5)
"""In widths of the peak: how far before the onset that is seen the fits end."""
TAIL = 1.8
"""In widths of the peak: what is needed of the tail to continue it."""
POOR = 3.0
"""Replicas that fit worse than the median by this factor were caught in a wrong minimum, and are left out."""


@dataclass(frozen=True)
class ZeroLoss:
    """Zero-loss peaks as learnt.

    Parameters
    ----------
    energy_ev : ndarray
        ``(channels,)``.
    width_ev : float
        Full width at half of the maximum.
    thickness : ndarray
        ``(groups,)`` mean thickness over the mean free path, ``ln(all counts / counts of the peak)``.
    shapes : ndarray
        ``(replicas, groups, channels)`` peaks whose channels nearest to zero (`core`) add up to one.
    ends_ev : ndarray
        ``(replicas,)`` up to where each was fitted.
    core : (int, int)
        First channel, and one after the last, of what counts as the peak's height.
    resampled : ndarray
        ``(replicas, groups, channels)`` the replicas' own spectra in the same units.
    misfit : ndarray
        ``(replicas,)`` mean squared misfit over its expectation.
    """

    energy_ev: np.ndarray
    width_ev: float
    thickness: np.ndarray
    shapes: np.ndarray
    ends_ev: np.ndarray
    core: tuple[int, int]
    resampled: np.ndarray
    misfit: np.ndarray

    def band(self, thickness: float | None = None) -> np.ndarray:
        """Lower end, median and upper end of the 68 % band, ``(3, channels)``, for a peak of height one.

        `thickness` (over the mean free path) between those of the groups is interpolated; None is the mean of the groups.
        """
        if thickness is None:
            shapes = self.shapes.mean(axis=1)
        else:
            shapes = np.einsum("g,rgc->rc", _between(self.thickness, np.array([thickness]))[0], self.shapes)
        return np.array(np.percentile(shapes, (16.0, 50.0, 84.0), axis=0))

    def peaks(self, spectra: np.ndarray) -> np.ndarray:
        """Median peak under each of `spectra` ``(pixels, channels)``, in their counts."""
        height, thickness = _height_and_thickness(spectra, self.core)
        middle = np.median(self.shapes, axis=0)
        return np.asarray((_between(self.thickness, thickness) * height[:, None]) @ middle)


def _between(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Weights ``(wanted, known)`` of linear interpolation, constant outside."""
    place = np.interp(wanted, known, np.arange(len(known), dtype=float))
    return np.asarray(np.maximum(1.0 - np.abs(place[:, None] - np.arange(len(known))), 0.0))


def _height_and_thickness(spectra: np.ndarray, core: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    height = np.maximum(spectra[:, core[0] : core[1]].sum(axis=1, dtype=np.float64), 1e-9)
    total = np.maximum(spectra.sum(axis=1, dtype=np.float64), height)
    return height, np.log(total / height)


def fit_zero_loss(
    frame: Frame,
    *,
    onset_ev: float | None = None,
    replicas: int = REPLICAS,
    groups: int = GROUPS,
    seed: int = 0,
    steps: int = 80,
    report: Callable[[float, str], None] | None = None,
) -> ZeroLoss:
    """Learn the zero-loss peak of a low loss.

    Parameters
    ----------
    frame : Frame
        ``(y, x, energy)`` or ``(x, energy)`` counts, zero-loss peaks aligned at 0 eV.
    onset_ev : float, optional
        Where loss begins to be seen; None finds it from what changes with thickness.
    replicas, groups : int
        Networks, and groups of pixels of like thickness.
    seed : int
        Of draws and weights.
    steps : int
        Of the optimiser.
    report : callable, optional
        Told the fraction done and a word; may raise `Cancelled`.

    Raises
    ------
    BadInput
        No zero-loss peak in the data, one that is not aligned, or no channels free of loss.
    """
    tell = report or (lambda _fraction, _word: None)
    energy = frame.axes[-1].coordinates(frame.shape[-1])
    spectra = np.asarray(frame.data, dtype=np.float32).reshape(-1, len(energy))
    if replicas < 4 or groups < 1:
        raise BadInput("A band needs at least four replicas, and one group of pixels.")
    width, core = _peak(spectra.mean(axis=0, dtype=np.float64), energy)
    tell(0.02, "pixels by thickness")
    rng = np.random.default_rng(seed)
    group, thickness = _grouped(spectra, core, min(groups, max(1, len(spectra) // 8)))
    drawn = _resampled(spectra, group, core, replicas=replicas, rng=rng, tell=tell)
    sums = np.stack([spectra[group == g].sum(axis=0, dtype=np.float64) for g in range(len(thickness))])
    found = onset(sums, energy, core, thickness, width) if onset_ev is None else onset_ev
    if not 1.2 * width < found < energy[-1]:
        raise BadInput(
            f"Loss begins at {found:.3g} eV, inside of the zero-loss peak ({width:.3g} eV wide): no part of its tail is"
            " free of loss, so the peak cannot be learnt from these spectra."
        )
    ends = _ends(found, width, replicas, rng)
    tell(0.1, "zero-loss networks")
    shapes, misfit = _learn(
        drawn, sums, energy, width, core, thickness=thickness, ends=ends, seed=seed, steps=steps, tell=tell
    )
    good = np.flatnonzero(misfit <= POOR * np.median(misfit))
    return ZeroLoss(energy, width, thickness, shapes[good], ends[good], core, drawn[good], misfit[good])


def subtract_zero_loss(
    frame: Frame,
    *,
    onset_ev: float | None = None,
    replicas: int = REPLICAS,
    groups: int = GROUPS,
    seed: int = 0,
    report: Callable[[float, str], None] | None = None,
) -> Frame:
    """Subtract the zero-loss peak learnt from the spectra (`fit_zero_loss`); its mean 68 % band is kept in the metadata.

    ``metadata["zero_loss"]`` holds ``low``, ``median`` and ``high`` (counts of the mean pixel, one number a channel, the
    channels from ``first_ev`` on in steps of ``step_ev``), ``width_ev`` and ``onset_ev``, the mean end of the fits. `report`
    is told the fraction done and a word; it may raise `Cancelled`.
    """
    tell = report or (lambda _fraction, _word: None)
    learnt = fit_zero_loss(
        frame,
        onset_ev=onset_ev,
        replicas=replicas,
        groups=groups,
        seed=seed,
        report=lambda fraction, word: tell(0.95 * fraction, word),
    )
    data = np.asarray(frame.data, dtype=np.float32).reshape(-1, frame.shape[-1])
    left = np.empty_like(data)
    for start in range(0, len(data), 4096):
        tell(0.95 + 0.05 * start / len(data), "subtracting the peak")
        part = data[start : start + 4096]
        left[start : start + 4096] = part - learnt.peaks(part)
    height = float(_height_and_thickness(data, learnt.core)[0].mean())
    low, median, high = (height * learnt.band()).tolist()
    kept = {
        "first_ev": float(learnt.energy_ev[0]),
        "step_ev": float(learnt.energy_ev[1] - learnt.energy_ev[0]),
        "width_ev": learnt.width_ev,
        "onset_ev": float(learnt.ends_ev.mean()),
        "low": low,
        "median": median,
        "high": high,
    }
    return frame.with_data(left.reshape(frame.shape), metadata={**frame.metadata, "zero_loss": kept})


def _peak(mean: np.ndarray, energy: np.ndarray) -> tuple[float, tuple[int, int]]:
    """Width of the peak at half of its height, and the channels within half a width of its top."""
    top = int(np.argmax(mean))
    scale = abs(float(energy[1] - energy[0]))
    if energy[0] >= 0 or energy[-1] <= 0:
        raise BadInput(
            f"A zero-loss peak is at 0 eV, and these spectra go from {energy[0]:.4g} to {energy[-1]:.4g} eV."
        )
    half = mean[top] / 2
    right = top + int(np.argmax(mean[top:] < half))
    left = top - int(np.argmax(mean[top::-1] < half))
    if top in (left, right) or not np.isfinite(mean).all():
        raise BadInput("There is no whole zero-loss peak in these spectra.")
    # crossings between channels
    right_at = right - (half - mean[right]) / max(mean[right - 1] - mean[right], 1e-30)
    left_at = left + (half - mean[left]) / max(mean[left + 1] - mean[left], 1e-30)
    width = (right_at - left_at) * scale
    if abs(float(energy[top])) > max(0.5 * width, scale):
        raise BadInput(f"The zero-loss peak is at {energy[top]:.3g} eV: align the zero-loss peaks first.")
    reach = max(1, int(0.5 * width / scale))
    return float(width), (max(0, top - reach), min(len(mean), top + reach + 1))


def _grouped(spectra: np.ndarray, core: tuple[int, int], groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Group of every pixel, as many pixels in each, and the groups' mean thicknesses, rising."""
    _, thickness = _height_and_thickness(spectra, core)
    edges = np.quantile(thickness, np.linspace(0, 1, groups + 1)[1:-1])
    group = np.searchsorted(edges, thickness)
    present = [g for g in range(groups) if (group == g).any()]
    renumbered = np.searchsorted(present, group)
    return renumbered, np.array([thickness[group == g].mean() for g in present])


def _resampled(
    spectra: np.ndarray,
    group: np.ndarray,
    core: tuple[int, int],
    *,
    replicas: int,
    rng: np.random.Generator,
    tell: Callable[[float, str], None],
) -> np.ndarray:
    """Mean spectra of pixels drawn with replacement, ``(replicas, groups, channels)``, of height one."""
    groups = int(group.max()) + 1
    out = np.empty((replicas, groups, spectra.shape[1]))
    for g in range(groups):
        tell(0.02 + 0.08 * g / groups, "pixels by thickness")
        members = np.flatnonzero(group == g)
        times = rng.multinomial(len(members), np.full(len(members), 1.0 / len(members)), size=replicas)
        sums = times.astype(np.float32) @ spectra[members]
        if len(members) < 30:  # too few pixels to draw from: counting noise instead
            sums = rng.poisson(np.maximum(spectra[members].sum(axis=0), 0.0), size=(replicas, spectra.shape[1]))
        out[:, g] = sums / np.maximum(sums[:, core[0] : core[1]].sum(axis=1, keepdims=True), 1e-9)
    return out


def onset(sums: np.ndarray, energy: np.ndarray, core: tuple[int, int], thickness: np.ndarray, width_ev: float) -> float:
    """Where loss begins to be seen, in eV: what grows with thickness; or the first minimum where all is equally thick.

    Parameters
    ----------
    sums : ndarray
        ``(groups, channels)`` counts of each group.
    energy : ndarray
        ``(channels,)``.
    core : (int, int)
        Channels of the peak.
    thickness : ndarray
        ``(groups,)``.
    width_ev : float
        Of the peak.
    """
    scale = abs(float(energy[1] - energy[0]))
    step = max(1, round(max(0.04, width_ev / 6) / scale))
    cut = sums.shape[1] // step * step
    counts = sums[:, :cut].reshape(len(sums), -1, step).sum(axis=2)
    middle = energy[:cut].reshape(-1, step).mean(axis=1)
    heights = sums[:, core[0] : core[1]].sum(axis=1)
    shape, variance = counts / heights[:, None], np.maximum(counts, 1.0) / heights[:, None] ** 2
    later = np.flatnonzero(middle > 1.3 * width_ev)
    if np.ptp(thickness) > 0.05:
        weight = 1.0 / (variance + (SHAPE_ACCURACY * shape) ** 2)
        mean_t = (weight * thickness[:, None]).sum(axis=0) / weight.sum(axis=0)
        lever = thickness[:, None] - mean_t
        spread = (weight * lever**2).sum(axis=0)
        slope = (weight * lever * shape).sum(axis=0) / spread
        level = (weight * shape).sum(axis=0) / weight.sum(axis=0)
        grows = (slope * np.sqrt(spread) > 4.0) & (slope * np.ptp(thickness) > 0.03 * level)
        for at in later[:-2]:
            if grows[at : at + 3].all():
                return float(middle[at])
    smooth = np.convolve(counts.sum(axis=0), np.ones(3) / 3, mode="same")[later[0] :]
    rises = np.flatnonzero(np.diff(smooth) > 3.0 * np.sqrt(np.maximum(smooth[:-1], 1.0)))
    if not len(rises):
        raise BadInput("No loss is seen beside the zero-loss peak: there is nothing to take it away from.")
    return 0.8 * float(middle[later[0] + rises[0]])


def _ends(found: float, width: float, replicas: int, rng: np.random.Generator) -> np.ndarray:
    """Up to where each replica is fitted, ``(replicas,)``, in eV.

    The instrument's width spreads the loss to before where it is seen, and a fit that takes in one percent of loss at its end
    goes on too high above it. But the tail has to be in the fit.
    """
    ends = np.minimum(found - width * rng.uniform(*BEFORE, replicas), found * rng.uniform(0.75, 1.0, replicas))
    tail = np.minimum(TAIL * width * rng.uniform(0.85, 1.15, replicas), found - 0.3 * width)
    return np.maximum(np.maximum(ends, tail), min(1.2 * width, 0.9 * found))


def _learn(
    drawn: np.ndarray,
    sums: np.ndarray,
    energy: np.ndarray,
    width: float,
    core: tuple[int, int],
    *,
    thickness: np.ndarray,
    ends: np.ndarray,
    seed: int,
    steps: int,
    tell: Callable[[float, str], None],
) -> tuple[np.ndarray, np.ndarray]:
    count = len(drawn)
    near = energy < NEAR * float(ends.max())  # a ceiling far beyond says nothing
    binning, middle = _bins(energy, width, near)
    sizes = binning.sum(axis=1)
    means = drawn @ (binning / sizes[:, None]).T  # (replicas, groups, bins)
    heights = sums[:, core[0] : core[1]].sum(axis=1)
    counts = sums @ binning.T  # counts that stand behind a bin
    variance = 1.0 / np.maximum(counts, 1.0) + SHAPE_ACCURACY**2
    logs = np.log(np.maximum(means, 0.3 / (heights[:, None] * sizes))) - _bulge(
        counts.sum(axis=0) / sizes, middle, binning, energy
    )
    before = (middle[None, :] < ends[:, None])[:, None, :] & (counts > 20)[None]
    beyond = (middle[None, :] >= ends[:, None])[:, None, :] & (counts > 20)[None]
    typical = (thickness - thickness.mean()) / max(float(thickness.std()), 0.05)
    points = np.concatenate([inputs(middle, np.full(len(middle), t), width) for t in typical])
    offset = float(logs.max())
    networks = Replicas(count, seed)
    pairs = _falling(energy, width, typical, float(ends.min()))
    with one_thread():
        misfit = networks.fit(
            points,
            (logs - offset).reshape(count, -1),
            (before / variance).reshape(count, -1),
            pairs,
            ceiling=(beyond / variance).reshape(count, -1),
            steps=steps,
            report=lambda part: tell(0.1 + 0.85 * part, "zero-loss networks"),
        )
        shapes = np.empty_like(drawn)
        for g, t in enumerate(typical):
            shapes[:, g] = np.exp(networks.predict(inputs(energy, np.full(len(energy), t), width)) + offset)
    return shapes, misfit


def _bins(energy: np.ndarray, width: float, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which channels a bin holds ``(bins, channels)``, and mean energies; only of channels that are `near`."""
    place = np.floor(np.arcsinh(energy / width) * BINS_PER_WIDTH).astype(int)
    present = np.unique(place[near])
    binning = ((place[None, :] == present[:, None]) & near[None, :]).astype(np.float64)
    return binning, binning @ energy / binning.sum(axis=1)


def _bulge(mean: np.ndarray, middle: np.ndarray, binning: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """By how much the logarithm of a bin's mean exceeds that at its middle, where the peak falls exponentially, ``(bins,)``."""
    slope = np.gradient(np.log(np.maximum(mean, 1e-30)), middle)
    variance = binning @ energy**2 / binning.sum(axis=1) - middle**2
    half = np.abs(slope) * np.sqrt(3.0 * np.maximum(variance, 0.0)) + 1e-6
    return np.asarray(np.log(np.sinh(half) / half))


def _falling(energy: np.ndarray, width: float, typical: np.ndarray, start: float) -> np.ndarray:
    """Places that must fall: from inside of the fit outwards, for the thinnest and the thickest."""
    far = np.sinh(np.linspace(np.arcsinh(0.7 * start / width), np.arcsinh(energy[-1] / width), 24)) * width
    pairs: list[Any] = []
    for t in (typical[0], typical[-1]):
        row = inputs(far, np.full(len(far), t), width)
        pairs.append(np.stack([row[:-1], row[1:]], axis=1))
    return np.concatenate(pairs)
