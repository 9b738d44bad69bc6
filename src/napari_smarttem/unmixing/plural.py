"""Does the thickness change the shape of the spectra? Plural scattering that unmixing takes for another component.

An electron that lost energy to an edge may lose more to plasmons, the oftener the thicker the specimen. To first order a thicker
place adds to a spectrum the spectrum convolved with the loss of one plasmon (Egerton, *Electron Energy-Loss Spectroscopy in the
Electron Microscope*, 3rd ed., section 4.3). If that is a mixture of the components that were found, while it has a shape of its
own, the thickness changes from pixel to pixel and components may be one material at several thicknesses.
"""

from __future__ import annotations

import numpy as np

from ..physics.eels import drude_loss
from .subspace import Subspace

PLASMONS_EV = (10.0, 12.5, 15.0, 17.5, 20.0, 22.5, 25.0, 28.0, 32.0)
WIDTHS_EV = (3.0, 6.0, 12.0)
REACH_EV = 120.0
"""A plasmon costs no more than this, nearly always."""
EXPLAINED = 0.7
"""Of the shape that a plasmon adds, the components hold more than this part where the thickness changes (0.85 to 0.99 in real and
simulated spectra), and far less (up to 0.15) where it does not."""
FEWEST_CHANNELS = 32
FINE_EV = 0.5


def held(subspace: Subspace, k: int, energy_ev: np.ndarray) -> tuple[float, float]:
    """The part of what one more plasmon adds to the mean spectrum that `k` components hold, and the plasmon's energy in eV.

    Parameters
    ----------
    subspace : Subspace
    k : int
        Number of components; with one there is nothing to hold it, and the part is zero.
    energy_ev : ndarray
        ``(channels,)`` energy loss.
    """
    if k < 2 or not subspace.poisson or energy_ev[-1] < energy_ev[0]:
        return 0.0, 0.0
    # a plasmon is wide: channels are added up, in units of the noise of their sums
    several = max(1, int(FINE_EV / float(energy_ev[1] - energy_ev[0])))
    starts = np.arange(0, len(energy_ev) - several + 1, several)
    whole = len(starts) * several
    mean = np.add.reduceat(np.maximum(subspace.mean, 0.0)[:whole], starts)
    spectra = np.add.reduceat((subspace.vectors[:, :k] * subspace.channel_scale[:, None])[:whole], starts, axis=0)
    h = np.sqrt(np.add.reduceat(subspace.channel_scale[:whole] ** 2, starts))
    energy_ev = np.add.reduceat(energy_ev[:whole], starts) / several
    if len(energy_ev) < FEWEST_CHANNELS:
        return 0.0, 0.0
    step = float(energy_ev[1] - energy_ev[0])
    lost = np.arange(0.0, REACH_EV, step)
    before = _before(mean, len(lost), energy_ev)
    best = 0.0, 0.0
    for plasmon in PLASMONS_EV:
        used = (h > 0) & ((energy_ev > energy_ev[0] + 2.0 * plasmon) | (energy_ev[0] < 0))
        if int(used.sum()) < max(FEWEST_CHANNELS, int(plasmon / step)):
            continue
        weight = 1.0 / h[used]
        vectors = np.linalg.qr(spectra[used] * weight[:, None])[0]
        own = mean[used] * weight
        own /= max(float(np.linalg.norm(own)), 1e-300)
        for width in WIDTHS_EV:
            one = drude_loss(lost, plasmon, width)
            added = np.convolve(before, one / one.sum())[len(lost) : len(before)][used] * weight
            added -= own * (own @ added)
            part = float((vectors.T @ added) @ (vectors.T @ added)) / max(float(added @ added), 1e-300)
            best = max(best, (part, plasmon))
    return best


def _before(mean: np.ndarray, channels: int, energy_ev: np.ndarray) -> np.ndarray:
    """`mean` with `channels` before it: nothing before a zero-loss peak, else the power law on which it begins."""
    if energy_ev[0] <= 0:
        return np.concatenate([np.zeros(channels), mean])
    first = max(4, min(len(mean) // 10, 40))
    x, y = np.log(energy_ev[:first]), np.log(np.maximum(mean[:first], 1e-3 * max(float(mean.max()), 1e-300)))
    slope, level = np.polyfit(x, y, 1)
    step = float(energy_ev[1] - energy_ev[0])
    earlier = np.maximum(energy_ev[0] - step * np.arange(channels, 0, -1), 0.2 * energy_ev[0])
    return np.concatenate([np.exp(level + min(slope, 0.0) * np.log(earlier)), mean])


def warning(subspace: Subspace, k: int, energy_ev: np.ndarray) -> tuple[str, ...]:
    """A sentence where the components hold what one more plasmon would add."""
    part, plasmon = held(subspace, k, energy_ev)
    if part < EXPLAINED:
        return ()
    return (
        f"Thickness-dependent plural scattering: the components hold {100 * part:.0f} % of what one more plasmon"
        f" (of {plasmon:.3g} eV) would add to the mean spectrum, so some of them may be one material at several thicknesses."
        " Deconvolve with a low loss of the same pixels first; its mean would not do.",
    )
