"""Noise taken out of singular vectors along energy, by as much as the known noise allows and no more.

Singular vectors of noise-scaled data carry white noise of known size, ``1 / s``. A starlet transform (Starck, Fadili and
Murtagh, IEEE TIP 16, 2007, 297: undecimated, symmetric) splits them by width; coefficients below three noise widths are
dropped. Lines and edges that stand out of the noise stay as sharp as they are.
"""

from __future__ import annotations

import numpy as np

LEVELS = 6
CUT = 3.0
_B3 = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0


def denoise(vectors: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Columns ``(channels, r)`` with white noise of standard deviations `sigma` ``(r,)``, smoothed where there is only noise."""
    from scipy.ndimage import convolve1d

    if len(vectors) < 64:
        return vectors
    levels = min(LEVELS, int(np.log2(len(vectors) / 16)))
    smooth = np.asarray(vectors, dtype=np.float64)
    kept = np.zeros_like(smooth)
    for level, gain in zip(range(levels), _gains(levels), strict=True):
        kernel = np.zeros(4 * 2**level + 1)
        kernel[:: 2**level] = _B3
        wider = convolve1d(smooth, kernel, axis=0, mode="mirror")
        detail = smooth - wider
        strong = np.abs(detail) > CUT * gain * sigma
        # a neighbour of a strong coefficient is part of the same feature
        strong |= np.abs(convolve1d(strong.astype(np.float64), np.ones(3), axis=0, mode="nearest")) > 1.5
        kept += np.where(strong, detail, 0.0)
        smooth = wider
    return np.asarray(kept + smooth)


def _gains(levels: int) -> list[float]:
    """Standard deviation of unit white noise at every level of the transform."""
    from scipy.ndimage import convolve1d

    impulse = np.zeros(8 * 2**levels + 1)
    impulse[len(impulse) // 2] = 1.0
    gains = []
    for level in range(levels):
        kernel = np.zeros(4 * 2**level + 1)
        kernel[:: 2**level] = _B3
        wider = convolve1d(impulse, kernel, mode="constant")
        gains.append(float(np.linalg.norm(impulse - wider)))
        impulse = wider
    return gains
