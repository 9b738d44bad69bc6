"""The law of the noise, read off the data: how its variance grows with the mean, and what is there without any signal.

Counts of a detector that reads a charge vary as ``gain * mean + read_out^2`` (the photon transfer of a camera: Janesick, SPIE
PM170, 2007): the gain is in counts per electron, the read-out noise in counts. Dividing by the gain, that is the variance of
Poisson counts of ``mean + offset`` with ``offset = read_out^2 / gain``. So Keenan and Kotula's scaling (Surf. Interface Anal. 36,
2004, 203) holds for it if the offset is added to the means of rows and columns, and to nothing else. A constant taken off
counts (a dark level) has the same law.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_COMPONENTS = 12
GROUPS = 32
"""Values are put together by their expected mean; one mean and one variance each."""
MODEL_ERROR = 0.03
"""What a few components and a separable weight leave unexplained, as a part of the variance of a group."""
SURE = 4.0
"""Standard errors from which a read-out noise is there."""
GROWS = 2.0
"""Standard errors from which the noise grows with the mean; a slow growth that is not there does no harm."""
EXPLAINED = 0.5
"""The part of the differences between variances that a line has to explain."""
WORTH = 0.01
"""An offset below this part of the mean changes no weight that matters."""
TURNS = 4


@dataclass(frozen=True)
class Law:
    """Variance of a value of mean ``mu``: ``gain * (mu + offset)``.

    Parameters
    ----------
    gain : float
        Counts per electron; one for counted electrons or photons.
    offset : float
        ``read_out^2 / gain`` in counts, zero for pure counting.
    """

    gain: float
    offset: float

    @property
    def read_out(self) -> float:
        """Standard deviation without signal, in counts."""
        return float(np.sqrt(max(self.gain * self.offset, 0.0)))


def estimate(spectra: np.ndarray) -> Law | None:
    """The law of the noise of some spectra; None where the variance does not grow with the mean: the same noise everywhere.

    A few components, those above the noise, are taken off; the squares of what is left are compared with the means of the
    values, in groups that are expected to be equally bright. Weights are refined with the law found.

    Parameters
    ----------
    spectra : ndarray
        ``(pixels, channels)``, a sample; 256 spectra are enough.
    """
    data = np.asarray(spectra, dtype=np.float64)
    data = data[np.ptp(data, axis=1) > 0]
    data = data[:, np.ptp(data, axis=0) > 0] if len(data) else data
    n, m = data.shape
    if n < 8 or m < 8:
        return Law(1.0, 0.0)
    rows, columns = data.mean(axis=1), data.mean(axis=0)
    lowest = max(0.0, -1.1 * float(rows.min()), -1.1 * float(columns.min()))
    offset = max(float(data.mean()), lowest) + 1e-12 * float(np.abs(data).max())
    law: Law | None = None
    for _ in range(TURNS):
        weight = np.maximum(rows + offset, 0.02 * offset)[:, None] * np.maximum(columns + offset, 0.02 * offset)
        weight /= weight.mean()
        mean, variance, number = _groups(data, _left(data, np.sqrt(weight)), weight)
        gain, constant, gain_error, constant_error, explained = _line(mean, variance, number)
        if not gain > GROWS * gain_error or explained < EXPLAINED:
            return None
        if constant < SURE * constant_error or constant < WORTH * gain * float(np.abs(data.mean())):
            constant = 0.0
        law = Law(float(gain), float(constant / gain))
        offset = max(law.offset, lowest) + 1e-3 * float(np.abs(data).mean())
    return law


def _left(data: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Squares of what a few components leave, in units of the data, corrected for what they took of the noise."""
    n, m = data.shape
    scaled = data / root
    most = max(1, min(MOST_COMPONENTS, n // 4, m // 4))
    if n <= m:
        squares, vectors = np.linalg.eigh(scaled @ scaled.T)
    else:
        squares, vectors = np.linalg.eigh(scaled.T @ scaled)
    squares, vectors = squares[::-1], vectors[:, ::-1]
    k = most
    for _ in range(3):
        even = squares[k:].sum() / ((n - k) * (m - k))
        k = int(np.clip(np.count_nonzero(squares > 1.1 * even * (np.sqrt(n) + np.sqrt(m)) ** 2), 1, most))
    leading = vectors[:, :k]
    scaled = scaled - (leading @ (leading.T @ scaled) if n <= m else (scaled @ leading) @ leading.T)
    return np.asarray((scaled * root) ** 2 * (n * m / ((n - k) * (m - k))))


def _groups(data: np.ndarray, squares: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, variances and numbers of values in groups of like weight, ``(groups,)`` each."""
    flat = weight.ravel()
    edges = np.unique(np.quantile(flat, np.linspace(0, 1, GROUPS + 1)[1:-1]))
    # the brightest values tell most of the gain: the last group is cut up once more
    edges = np.unique(np.concatenate([edges, np.quantile(flat, (0.98, 0.99, 0.995, 0.998))]))
    group = np.searchsorted(edges, flat)
    number = np.bincount(group, minlength=len(edges) + 1)
    held = number > 0
    mean, variance = (
        np.bincount(group, values.ravel(), minlength=len(edges) + 1)[held] / number[held] for values in (data, squares)
    )
    return mean, variance, number[held].astype(np.float64)


def _line(mean: np.ndarray, variance: np.ndarray, number: np.ndarray) -> tuple[float, ...]:
    """Gain and constant of ``variance = gain * mean + constant``, by weighted least squares, their standard errors, and
    the part of the differences between variances that they explain.
    """
    design = np.stack([mean, np.ones_like(mean)], axis=1)
    expected = variance.copy()
    answer = covariance = np.zeros(0)
    error = np.ones(0)
    for _ in range(5):
        error = np.maximum(expected, 0.3 * variance) * np.sqrt(3.0 / number + MODEL_ERROR**2) + 1e-300
        rows = design / error[:, None]
        covariance = np.linalg.pinv(rows.T @ rows)
        answer = covariance @ (rows.T @ (variance / error))
        expected = design @ answer
    spread = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    even = float(np.average(variance, weights=error**-2))
    left, all_of_it = (float((((variance - other) / error) ** 2).sum()) for other in (expected, even))
    return float(answer[0]), float(answer[1]), float(spread[0]), float(spread[1]), 1.0 - left / max(all_of_it, 1e-300)
