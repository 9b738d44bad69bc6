"""Finding the decoder's numbers from measured patterns: coarse to fine, because a displaced caustic has no gradient.

The patterns are read in the order of their biases: the first ones are nearly those of the design, and every batch makes the next
predictable to well within a fringe. Each batch is a Gauss-Newton step that remembers, as a covariance, all that was known before
(an extended Kalman filter whose prior is what the workshop's tolerances do to the design); passes over all patterns end it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from ..physics.caustics import BIAS_LIMIT_V, fourier_rows, pupil_grid
from ..physics.caustics_basis import GLOBALS, TERMS, basis, design_prior
from ..schema import BadInput, Cancelled
from .predict import Decoder, nrmse, pearson
from .residual import corrected, learned

STEPS = np.array([0.0, 0.02, 0.003, 0.003, 0.003, 0.0])
"""Of the finite differences by the globals that the detector holds."""

WORTHWHILE = 0.97
"""A learned part that leaves more than this of the error is not worth having."""
RELEARNT = 2


@dataclass(frozen=True)
class Calibration:
    """A decoder, and how good it is on patterns it was not fitted to."""

    decoder: Decoder
    pearson: float
    nrmse: float
    misfit: float
    """Mean squared residual over its variance; 1 where nothing but counting noise is left."""
    covariance: np.ndarray
    patterns: int


def calibration_biases(
    count: int, rng: np.random.Generator, needles: int = 8, limit_v: float = BIAS_LIMIT_V
) -> np.ndarray:
    """Biases to measure for a calibration, shape (count, needles): random, rising to the limit, half of them all the way."""
    reach = np.concatenate((np.linspace(0.0, 1.0, count - count // 2), np.ones(count // 2)))
    return np.asarray(reach[:, None] * rng.uniform(-limit_v, limit_v, (count, needles)))


def calibrate(
    biases_v: np.ndarray,
    patterns: np.ndarray,
    electrons: float,
    *,
    batch: int = 10,
    passes: int = 1,
    held_out: float = 0.08,
    progress: Callable[[float, str], bool] | None = None,
) -> Calibration:
    """Fit a decoder.

    Parameters
    ----------
    biases_v : ndarray, shape (n, needles)
    patterns : ndarray, shape (n, pixels, pixels)
        Measured, as fractions of the beam.
    electrons : float
        Of the beam, in a pattern.
    batch : int
        Patterns taken in at once on the way up.
    passes : int
        Over all patterns, at the end.
    held_out : float
        Fraction that is not fitted but tells the quality.
    progress : callable, optional
        Told the fraction done and a few words; the fit stops with `Cancelled` where it returns True.

    Raises
    ------
    BadInput
        Too few patterns, values that are not finite, or a fit that did not find the patterns.
    """
    stages = calibrating(biases_v, patterns, electrons, batch=batch, passes=passes, held_out=held_out)
    while True:
        try:
            done, words = next(stages)
        except StopIteration as end:
            return cast("Calibration", end.value)
        if progress is not None and progress(done, words):
            raise Cancelled("the calibration was stopped; the decoder is as it was before.")


def calibrating(
    biases_v: np.ndarray,
    patterns: np.ndarray,
    electrons: float,
    *,
    batch: int = 10,
    passes: int = 1,
    held_out: float = 0.08,
) -> Generator[tuple[float, str], None, Calibration]:
    """`calibrate` in stages of about a second: yields the fraction done and a few words, returns the calibration.

    Whoever drives it may stop between two stages.
    """
    biases_v, patterns = np.asarray(biases_v, dtype=float), np.asarray(patterns, dtype=np.float32)
    _check(biases_v, patterns, electrons)
    order = np.argsort(np.sqrt((biases_v**2).mean(axis=1)), kind="stable")
    kept = max(1, round(1 / held_out)) if held_out else 0
    aside = order[kept - 1 :: kept] if kept else order[:0]
    used = np.setdiff1d(order, aside, assume_unique=True)
    used = order[np.isin(order, used)]
    start = Decoder.nominal(patterns.shape[1])
    prior = design_prior(patterns.shape[1])
    fit = _Fit(start, np.linalg.inv(prior.covariance), electrons)
    batches = [used[i : i + batch] for i in range(0, len(used), batch)]
    total = len(batches) + passes * (len(used) / batch)
    for number, part in enumerate(batches):
        fit.take_in(biases_v[part], patterns[part], rounds=3 if number < 8 else 2)
        words = f"biases up to {np.abs(biases_v[part]).max():.2g} V, misfit {fit.misfit:.2f}"
        yield min(1.0, (number + 1) / total), words
    for number in range(passes):
        for done in fit.refining(biases_v[used], patterns[used]):
            yield min(1.0, (len(batches) * (1 + number) + done * len(batches)) / total), "refining"
    shown = aside if len(aside) else used
    decoder = _with_residual(fit.decoder, biases_v[used], patterns[used], electrons)
    for _ in range(
        RELEARNT if decoder.residual is not None else 0
    ):  # physics had bent towards what it has no number for
        alone = replace(decoder, residual=None).predict(biases_v[used])
        for _done in fit.refining(biases_v[used], patterns[used] - (decoder.predict(biases_v[used]) - alone)):
            yield 1.0, "refining, with a learned part"
        decoder = _with_residual(fit.decoder, biases_v[used], patterns[used], electrons)
        if decoder.residual is None:
            break
    predicted = decoder.predict(biases_v[shown])
    noise = np.sqrt((predicted.sum((1, 2)) / electrons) / (predicted.reshape(len(shown), -1) ** 2).sum(1))
    apart = nrmse(patterns[shown], predicted)
    error = float(np.sqrt(np.mean(np.maximum(apart**2 - noise**2, 1e-6))))
    return Calibration(
        replace(decoder, error=error),
        float(pearson(predicted, patterns[shown]).mean()),
        float(apart.mean()),
        fit.misfit,
        np.linalg.inv(fit.information),
        len(used),
    )


def _with_residual(decoder: Decoder, biases_v: np.ndarray, patterns: np.ndarray, electrons: float) -> Decoder:
    """The decoder with the learned part, where every third pattern, not learned from, gets nearer by it; as it was otherwise."""
    predicted = decoder.predict(biases_v)
    apart = np.arange(len(patterns)) % 3 == 2
    looseness = max(0.01, float(np.median(nrmse(predicted, patterns))) / 2)
    weights = learned(predicted[~apart], patterns[~apart], electrons, looseness)
    before = np.median(nrmse(predicted[apart], patterns[apart]))
    after = np.median(nrmse(corrected(predicted[apart], weights), patterns[apart]))
    if not after < WORTHWHILE * before:
        return decoder
    return replace(decoder, residual=learned(predicted, patterns, electrons, looseness))


def _check(biases_v: np.ndarray, patterns: np.ndarray, electrons: float) -> None:
    if biases_v.ndim != 2 or patterns.ndim != 3 or len(biases_v) != len(patterns):
        raise BadInput(
            f"a calibration needs as many patterns (n, y, x) as biases (n, needles); got {patterns.shape} and {biases_v.shape}."
        )
    if patterns.shape[1] != patterns.shape[2]:
        raise BadInput(f"patterns must be square, got {patterns.shape[1]} x {patterns.shape[2]} pixels.")
    if len(patterns) < 20:
        raise BadInput(f"{len(patterns)} patterns are too few to calibrate with; measure 200 to 500.")
    if not (np.isfinite(patterns).all() and np.isfinite(biases_v).all()):
        raise BadInput("the patterns or biases of the calibration hold values that are not finite; measure these anew.")
    if not electrons > 0:
        raise BadInput(f"the electrons of a pattern must be more than 0, got {electrons:g}.")


class _Fit:
    """Present decoder, the information that leads to it, and what it would have been without the present batch."""

    def __init__(self, decoder: Decoder, information: np.ndarray, electrons: float) -> None:
        self.decoder = decoder
        self.electrons = electrons
        self.prior_information = information
        self.prior_state = _state(decoder)
        self.information = information
        self.misfit = 1.0

    def take_in(self, biases_v: np.ndarray, patterns: np.ndarray, *, rounds: int) -> None:
        """One batch: Gauss-Newton from all that was known, linearised `rounds` times."""
        known, anchor = self.information, _state(self.decoder)
        looseness = 0.15
        for turn in range(rounds):
            found, gain, misfit = _normal_equations(self.decoder, biases_v, patterns, self.electrons, looseness)
            here = _state(self.decoder)
            information = known + found
            step = np.linalg.solve(information, gain - known @ (here - anchor))
            self.decoder = _with_state(self.decoder, here + step)
            self.information, self.misfit = information, misfit
            looseness = 0.08 if turn == 0 else 0.05

    def refining(self, biases_v: np.ndarray, patterns: np.ndarray) -> Iterator[float]:
        """One Gauss-Newton step with all patterns; yields the fraction of them that was looked at."""
        here = _state(self.decoder)
        information, gain = self.prior_information.copy(), -self.prior_information @ (here - self.prior_state)
        misfits = []
        for start in range(0, len(biases_v), 20):
            part = slice(start, start + 20)
            found, towards, misfit = _normal_equations(
                self.decoder, biases_v[part], patterns[part], self.electrons, 0.03
            )
            information, gain = information + found, gain + towards
            misfits.append(misfit)
            yield min(1.0, (start + 20) / len(biases_v))
        self.decoder = _with_state(self.decoder, here + np.linalg.solve(information, gain))
        self.information, self.misfit = information, float(np.mean(misfits))


def _state(decoder: Decoder) -> np.ndarray:
    return np.concatenate((decoder.coefficients.ravel(), decoder.globals_))


def _with_state(decoder: Decoder, state: np.ndarray) -> Decoder:
    size = decoder.coefficients.size
    return replace(decoder, coefficients=state[:size].reshape(decoder.coefficients.shape), globals_=state[size:].copy())


def _normal_equations(
    decoder: Decoder, biases_v: np.ndarray, patterns: np.ndarray, electrons: float, looseness: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Information and gradient of the state from some patterns, and their mean misfit.

    The variance of a pixel is that of counting plus that of a model which is not right yet, `looseness` times what it predicts.
    Patterns that are still far off (a caustic elsewhere) count less, as under Student's t.
    """
    features = decoder.features(biases_v)
    needles = features.shape[1]
    size = TERMS * needles
    information, gain = np.zeros((size + len(GLOBALS),) * 2), np.zeros(size + len(GLOBALS))
    moved = [
        (decoder.detector_for(decoder.globals_ + np.eye(len(GLOBALS))[k] * STEPS[k]) - decoder.detector) / STEPS[k]
        for k in range(len(GLOBALS)) if STEPS[k] > 0
    ]  # fmt: skip
    misfits = []
    for feature, pattern, phase in zip(features, patterns, decoder.phases(biases_v), strict=True):
        predicted, slopes = local_slopes(decoder, phase, moved)
        residual = pattern.ravel() - predicted
        mean = np.maximum(predicted, 0.0)
        variance = (mean + 0.3 / electrons) / electrons + (looseness * (mean + 0.1 * mean.mean())) ** 2
        misfit = float((residual**2 / variance).mean())
        misfits.append(misfit)
        weight = 1.0 / (variance * max(1.0, misfit))
        local = (slopes * weight[:, None]).T @ slopes
        towards = slopes.T @ (weight * residual)
        information[:size, :size] += np.einsum(
            "kl,ij->kilj", local[:TERMS, :TERMS], np.outer(feature, feature)
        ).reshape(size, size)
        cross = np.einsum("kg,i->kig", local[:TERMS, TERMS:], feature).reshape(size, -1)
        information[:size, size:] += cross
        information[size:, :size] += cross.T
        information[size:, size:] += local[TERMS:, TERMS:]
        gain[:size] += np.outer(towards[:TERMS], feature).ravel()
        gain[size:] += towards[TERMS:]
    return information, gain, float(np.mean(misfits))


def local_slopes(decoder: Decoder, phase: np.ndarray, moved: list) -> tuple[np.ndarray, np.ndarray]:
    """A predicted pattern, shape (pixels²,), and its derivatives, (pixels², TERMS + globals)."""
    samples, points = decoder.samples, decoder.points
    rows = fourier_rows(samples, points, decoder.field_waves)
    scale = np.float32((decoder.field_waves / (points * samples)) ** 2)
    wave = (decoder.amplitude() * np.exp(1j * phase)).astype(np.complex64)
    y, x, _ = pupil_grid(samples)
    falloff = decoder.globals_[-1]
    radius2 = y**2 + x**2
    fade = -radius2 / np.maximum(1.0 - falloff * radius2, 0.1)
    power = (np.abs(wave) ** 2).astype(float)
    fade = fade - (fade * power).sum()  # the whole beam stays one
    sources = np.concatenate((1j * basis(samples) * wave, (fade * wave)[None]), dtype=np.complex64)
    there = rows @ wave @ rows.T
    slopes = np.matmul(rows, (sources.reshape(-1, samples) @ rows.T).reshape(-1, samples, points))
    slopes = 2 * scale * (there.real * slopes.real + there.imag * slopes.imag)
    intensity = (scale * (there.real**2 + there.imag**2)).ravel()
    predicted = decoder.detector @ intensity
    by_phase = decoder.detector @ np.ascontiguousarray(slopes.reshape(len(slopes), -1).T)
    columns = [by_phase[:, :-1], predicted[:, None], *((m @ intensity)[:, None] for m in moved), by_phase[:, -1:]]
    return predicted, np.concatenate(columns, axis=1)
