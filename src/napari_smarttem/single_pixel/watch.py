"""Noticing what goes wrong with the plate and the detector, and putting right what can be: charging, a dead needle, saturation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..physics.caustics import BIAS_LIMIT_V
from ..physics.caustics_basis import TERMS
from ..schema import BadInput, Frame
from .calibrate import local_slopes
from .predict import Decoder, nrmse

DRIFTED = 2.5
"""A predictor is out of date where its error is this many times that of its calibration (and more than `LEAST_ERROR`)."""
LEAST_ERROR = 0.05
OFFSET_SPREAD_V = 1.0
DEAD_GAIN = 4.0


@dataclass(frozen=True)
class Check:
    """What some fresh patterns say of a decoder."""

    decoder: Decoder
    before: float
    after: float
    changed: bool
    remark: str


def model_error(decoder: Decoder, biases_v: np.ndarray, patterns: np.ndarray, electrons: float) -> float:
    """NRMSE of the predictions against measured patterns, counting noise taken off."""
    predicted = decoder.predict(biases_v)
    apart = nrmse(patterns, predicted)
    noise2 = (patterns.sum((1, 2)) / electrons) / np.maximum((predicted.reshape(len(predicted), -1) ** 2).sum(1), 1e-30)
    return float(np.sqrt(max(np.mean(apart**2 - noise2), 1e-6)))


def refit_offsets(
    decoder: Decoder, biases_v: np.ndarray, patterns: np.ndarray, electrons: float, *, rounds: int = 8
) -> Decoder:
    """Fit again what charging changes, one offset a needle, to a few patterns; everything else stays."""
    scale = OFFSET_SPREAD_V
    looseness = 0.3
    best = decoder, _misfit(decoder, biases_v, patterns)
    for _ in range(rounds):
        information, gain = np.eye(decoder.needles) / scale**2, np.zeros(decoder.needles)
        offset = np.zeros(decoder.needles) if decoder.bias_offset_v is None else decoder.bias_offset_v
        for phase, pattern in zip(decoder.phases(biases_v), patterns, strict=True):
            predicted, slopes = local_slopes(decoder, phase, [])
            by_bias = slopes[:, :TERMS] @ decoder.coefficients[:, :-1]
            mean = np.maximum(predicted, 0.0)
            variance = (mean + 0.3 / electrons) / electrons + (looseness * (mean + mean.mean())) ** 2
            weighted = by_bias / variance[:, None]
            information += weighted.T @ by_bias
            gain += weighted.T @ (pattern.ravel() - predicted)
        step = np.clip(np.linalg.solve(information, gain), -0.3, 0.3)
        decoder = decoder.with_offset(offset + step)
        misfit = _misfit(decoder, biases_v, patterns)
        if misfit < best[1]:
            best = decoder, misfit
        looseness = max(0.03, looseness / 2)
    return best[0]


def _misfit(decoder: Decoder, biases_v: np.ndarray, patterns: np.ndarray) -> float:
    return float(np.mean(nrmse(decoder.predict(biases_v), patterns) ** 2))


def find_dead_needle(
    decoder: Decoder, biases_v: np.ndarray, patterns: np.ndarray, *, levels: int = 21
) -> tuple[int, float] | None:
    """The needle that no longer follows its bias and where it stands, or None where that explains nothing.

    Every needle is tried at every level; it is dead where this brings the squared misfit down `DEAD_GAIN` times.
    """
    start = _misfit(decoder, biases_v, patterns)
    few = slice(0, 3)  # enough to tell needles and levels apart; all of them decide
    tried = []
    for needle in range(decoder.needles):
        for level in np.linspace(-BIAS_LIMIT_V, BIAS_LIMIT_V, levels):
            stuck = replace(decoder, dead={**decoder.dead, needle: float(level)})
            tried.append((_misfit(stuck, biases_v[few], patterns[few]), needle, float(level)))
    _, needle, level = min(tried)
    step = 2 * BIAS_LIMIT_V / (levels - 1)
    fine = [
        (_misfit(replace(decoder, dead={**decoder.dead, needle: float(v)}), biases_v, patterns), float(v))
        for v in np.linspace(level - step, level + step, 17)
    ]
    misfit, level = min(fine)
    return (needle, level) if misfit * DEAD_GAIN < start else None


def check_predictor(decoder: Decoder, biases_v: np.ndarray, patterns: np.ndarray, electrons: float) -> Check:
    """Compare a few fresh patterns with their predictions; where they do not fit, find out why and correct it.

    Charging is tried first (one offset a needle); where that is not enough, a needle that stopped responding.
    """
    biases_v, patterns = np.atleast_2d(biases_v), np.asarray(patterns, dtype=np.float32)
    if not np.isfinite(patterns).all():
        raise BadInput("a pattern to check the predictor with holds values that are not finite; record it again.")
    before = model_error(decoder, biases_v, patterns, electrons)
    limit = max(LEAST_ERROR, DRIFTED * decoder.error)
    if before <= limit:
        return Check(decoder, before, before, False, f"The patterns are as predicted (error {before:.1%}).")
    charged = refit_offsets(decoder, biases_v, patterns, electrons)
    after = model_error(charged, biases_v, patterns, electrons)
    if after <= limit:
        most = float(np.abs(charged.bias_offset_v).max()) if charged.bias_offset_v is not None else 0.0
        text = f"The plate has charged (up to {most:.2g} V); the offsets were fitted again, error {before:.0%} -> {after:.1%}."
        return Check(charged, before, after, True, text)
    found = find_dead_needle(charged if after < 0.5 * before else decoder, biases_v, patterns)
    if found is not None:
        needle, level = found
        stuck = replace(decoder, dead={**decoder.dead, needle: level})
        stuck = refit_offsets(stuck, biases_v, patterns, electrons)
        with_dead = model_error(stuck, biases_v, patterns, electrons)
        if with_dead < after:
            text = (
                f"Needle {needle + 1} does not respond (it stands at {level:+.1f} V); it is taken out of use, "
                f"error {before:.0%} -> {with_dead:.1%}."
            )
            return Check(replace(stuck, error=max(decoder.error, with_dead)), before, with_dead, True, text)
    kept = charged if after < before else decoder
    error = min(before, after)
    text = f"The patterns are not as predicted (error {error:.0%}), and charging does not explain it: calibrate anew."
    return Check(replace(kept, error=error), before, error, True, text)


def bucket_signal(frame: Frame, electrons: float | None = None) -> tuple[float, str]:
    """A bucket frame as a fraction of the beam, and what is wrong with it: empty where nothing is."""
    counts = float(np.asarray(frame.data, dtype=float).sum())
    beam = electrons if electrons is not None else float(frame.metadata.get("electrons", 0.0) or 0.0)  # type: ignore[arg-type]
    if not np.isfinite(counts):
        return float("nan"), "the bucket signal is not a number"
    if frame.metadata.get("saturated"):
        return float("nan"), f"the bucket detector saturates at {counts:.3g} counts; shorten the exposure"
    if beam <= 0:
        return float("nan"), "the beam is blanked or its current is not known"
    return counts / beam, ""
