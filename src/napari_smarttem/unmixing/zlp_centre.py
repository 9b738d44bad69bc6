"""Where the zero-loss peak of every spectrum is, to a fraction of a channel, however many channels wide it is."""

from __future__ import annotations

import numpy as np

TURNS = 3
"""The channels used are moved to the centre found, and the centre is found again."""
FEWEST = 1
"""At least the highest channel and this many on either side are used."""


def zero_loss_centres(spectra: np.ndarray) -> np.ndarray:
    """Centres of the highest peaks in channels, ``(pixels,)``.

    The parabola through the logarithms of the channels in which the mean peak is above half of its height, each weighted with its
    counts (Caruana et al., Anal. Chem. 58, 1986, 1162): tails are left out, at the price of twice the error that all of a Gaussian
    peak would allow.

    Parameters
    ----------
    spectra : ndarray
        ``(pixels, channels)`` counts.
    """
    count, channels = spectra.shape
    centre = spectra.argmax(axis=1).astype(float)
    reach = FEWEST
    for _ in range(TURNS):
        reach = min(max(FEWEST, _half_width(spectra, centre)), max(FEWEST, (channels - 1) // 2))
        middle = np.clip(np.rint(centre).astype(np.int64), reach, channels - 1 - reach)
        places = np.arange(-reach, reach + 1)
        near = np.maximum(spectra[np.arange(count)[:, None], middle[:, None] + places], 0.0)
        # counts are the weights of their logarithms; an expected count instead of a lucky one would be better by little
        logs, weight = np.log(np.maximum(near, 1e-3)), near
        moments = [(weight * (places / reach) ** power).sum(axis=1) for power in range(5)]
        sums = [(weight * logs * (places / reach) ** power).sum(axis=1) for power in range(3)]
        normal = np.stack([np.stack([moments[a + b] for b in range(3)], axis=-1) for a in range(3)], axis=-2)
        normal += 1e-12 * np.maximum(moments[0], 1e-300)[:, None, None] * np.eye(3)
        _, slope, curve = np.moveaxis(np.linalg.solve(normal, np.stack(sums, axis=-1)[..., None])[..., 0], -1, 0)
        peaked = curve < 0
        moved = np.where(peaked, -0.5 * slope / np.where(peaked, curve, -1.0), 0.0) * reach
        centre = middle + np.clip(moved, -reach, reach)
    return np.asarray(centre)


def _half_width(spectra: np.ndarray, centre: np.ndarray) -> int:
    """Channels on one side in which the mean of the spectra, put one on the other, is above half of its height."""
    channels = spectra.shape[1]
    shift = np.rint(centre).astype(np.int64)
    most = min(channels // 2, 4096)
    places = np.arange(-most, most + 1)
    some = np.linspace(0, len(spectra) - 1, min(len(spectra), 256)).astype(np.int64)
    mean = np.maximum(
        spectra[some[:, None], np.clip(shift[some][:, None] + places, 0, channels - 1)].mean(axis=0, dtype=np.float64),
        0.0,
    )
    low = np.flatnonzero(mean < 0.5 * mean[most])
    right, left = low[low > most], low[low < most]
    if not len(right) or not len(left):
        return FEWEST
    return int(max(FEWEST, min(right[0] - most, most - left[-1]) - 1))
