"""Maps smoothed by as much as their own error bars ask for."""

from __future__ import annotations

import numpy as np

STRENGTHS = 4.0 ** np.arange(-4, 9)


def smooth_maps(maps: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Each map smoothed by the penalty ``(strength * laplacian)^2`` that its error bars ask for.

    The strength is the one of least risk (Stein, Ann. Statist. 9, 1981, 1135): an estimate of the distance to the truth that
    needs the noise and not the truth. With reflecting edges the smoother is diagonal in the cosine transform.

    Parameters
    ----------
    maps : ndarray
        ``(k, y, x)``.
    errors : ndarray
        ``(k, y, x)`` standard errors; noise of neighbouring pixels is taken as independent.

    Returns
    -------
    ndarray
        ``(k, y, x)``, float64; negative only where the maps are.
    """
    from scipy.fft import dctn, idctn

    rows, columns = maps.shape[1:]
    frequency = [2.0 - 2.0 * np.cos(np.pi * np.arange(count) / count) for count in (rows, columns)]
    laplacian = (frequency[0][:, None] + frequency[1][None, :]) ** 2
    out = np.empty(maps.shape)
    for c, (one, error) in enumerate(zip(maps, errors, strict=True)):
        values = dctn(np.asarray(one, dtype=np.float64), norm="ortho")
        variance = float(np.mean(np.asarray(error, dtype=np.float64) ** 2))
        kept = 1.0 / (1.0 + STRENGTHS[:, None, None] * laplacian)
        risk = (((1.0 - kept) * values) ** 2 + 2.0 * variance * kept).sum(axis=(1, 2))
        best = int(risk.argmin())
        if risk[best] >= 2.0 * variance * values.size:  # no smoothing at all is better than any
            out[c] = one
            continue
        smooth = idctn(kept[best] * values, norm="ortho")
        out[c] = np.maximum(smooth, 0.0) if one.min() >= 0 else smooth
    return out
