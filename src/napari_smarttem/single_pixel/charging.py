"""What the bucket's signals say of charging, without a look at the pattern camera: a score test on the needles' offsets.

A needle that has charged by ``o`` volts changes the signal of a pattern p by ``o dp/dv . x``, x being the picture. Before the data
are seen, signals scatter about the prior's mean with the covariance ``S = V + P C P^T`` (noise and what is not known of the
picture); the Gaussian posterior gives ``S^-1 (s - mean) = W r`` from its residuals r and weights W, and ``S^-1 = W - W K W``
with the posterior covariance K of the signals. For slopes G, the score ``u = G^T W r`` then has the covariance ``G^T S^-1 G`` where
nothing has charged, so that ``u^T (G^T S^-1 G)^-1 u`` is a sum of as many squares as there are needles (Rao, Proc. Cambridge
Philos. Soc. 44 (1948) 50). All signals scatter more or less than that where prior and predictor are not quite right; the mean
square of a needle is compared with the mean square of a signal, and only an excess far beyond chance is told.
"""

from __future__ import annotations

import numpy as np

from .fading import as_seen
from .pool import PlateSettings, predict_pool
from .posterior import Posterior
from .predict import Decoder

LIMIT = 4.0
"""Of the excess, for patterns that were drawn by chance: 0.3 to 2.3 on two calibrated plates where nothing had charged."""
LIMIT_CHOSEN = 15.0
"""For patterns that were chosen by what the signals before them told: their scores scatter more, up to 10 on the same two."""
LEAST = 64
"""Signals before anything is told."""
MOST = 256
"""Signals that are looked at, the newest: charging is new, and slopes take eight times the memory of patterns."""
STEP_V = 0.02
SPREAD_V = 1e3
"""Needles that nothing is known of (dead ones) say nothing."""

REMARK = (
    "The signals follow the needles' voltages as if the plate had charged: check the predictor or calibrate anew, or trust "
    "the picture less."
)


def bias_slopes(decoder: Decoder, settings: PlateSettings, predicted: np.ndarray, pixels: int) -> np.ndarray:
    """How predicted patterns change with the bias of each needle, in 1/V.

    Parameters
    ----------
    decoder : Decoder
    settings : PlateSettings
        Of n patterns.
    predicted : ndarray, shape (n, pixels²)
        As the decoder predicts them.
    pixels : int

    Returns
    -------
    ndarray, shape (n, needles, pixels²), float32
    """
    offset = np.zeros(decoder.needles) if decoder.bias_offset_v is None else decoder.bias_offset_v
    slopes = np.empty((len(settings), decoder.needles, pixels**2), dtype=np.float32)
    for needle in range(decoder.needles):
        moved = offset.copy()
        moved[needle] += STEP_V
        slopes[:, needle] = (predict_pool(decoder.with_offset(moved), settings, pixels).patterns - predicted) / STEP_V
    return slopes


class ChargingWatch:
    """Slopes of the newest signals of a posterior, and what they tell."""

    def __init__(self) -> None:
        self._slopes: list[np.ndarray] = []
        self._background: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._slopes)

    def forget(self) -> None:
        """Look only at signals from now on: the predictor was just compared with the plate."""
        self._slopes.clear()
        self._background.clear()

    def add(self, slopes: np.ndarray, dose: np.ndarray, critical: float | None) -> None:
        """Take in the slopes (needles, pixels²) of the pattern of the posterior's newest signal; the rest is as of `as_seen`."""
        acting, background = as_seen(slopes, dose, critical)
        self._slopes.append(acting)
        self._background.append(background)
        if len(self._slopes) > MOST:
            del self._slopes[0], self._background[0]

    def excess(self, posterior: Posterior) -> float | None:
        """Mean square of what the signals say of a needle over that of a signal, 1 by chance; None before there are enough."""
        if len(self) < LEAST:
            return None
        score, information, of_signals = self._score(posterior)
        information = information + np.eye(len(score)) / SPREAD_V**2
        return float(score @ np.linalg.solve(information, score)) / len(score) / max(1.0, of_signals)

    def _score(self, posterior: Posterior) -> tuple[np.ndarray, np.ndarray, float]:
        """The score (needles,), its covariance by counting alone, and the mean square of a signal."""
        count = len(self)
        patterns, signals = posterior.patterns[-count:], posterior.signals[-count:]
        weights = posterior.weights[-count:]
        slopes = np.stack(self._slopes) @ posterior.picture.ravel() + np.stack(self._background)
        residual = signals - posterior.fitted(patterns)
        known = posterior.spread(patterns).astype(float)
        covariance = known.T @ known / posterior.inflation
        precision = np.diag(weights) - weights[:, None] * covariance * weights
        score = slopes.T @ (weights * residual)
        information = slopes.T @ precision @ slopes
        # what is left of the noise in fitted signals
        left = max(float(count - (weights * np.diag(covariance)).sum()), 1.0)
        return score, information, float(residual @ (weights * residual)) / left


def remark_on(excess: float | None, *, chosen: bool = False) -> str:
    """One sentence where `ChargingWatch.excess` says that the plate has charged; empty otherwise.

    `chosen` is true where the signals had a say in which patterns came next.
    """
    return "" if excess is None or excess < (LIMIT_CHOSEN if chosen else LIMIT) else REMARK
