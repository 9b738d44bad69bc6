"""What is known of the picture after some patterns: an estimate, its uncertainty, and both anew with every batch.

Total variation by lagged diffusivity: the edges of the present picture set the weights of a Gaussian prior,
``w = strength / sqrt(|grad x|^2 + eps^2)``, so that the posterior is a Gaussian, ``Q = P^T R^-1 P + D^T w D``, from which the next
patterns can be chosen. R holds counting noise and what is wrong with the predicted patterns. The strength is the one that best
predicts patterns held out, never the one that is nearest to the truth.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..schema import BadInput
from .lapack import factorised, half_solved, solved

EDGE = 0.004
STRENGTHS = np.logspace(-1.0, 3.0, 9)
LARGEST = 128
FEW = 48
LEAST_TO_JUDGE = 96
LARGEST_MISFIT = 1.25  # the mean of 128 squares scatters by 0.125
DOUBTS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Relative errors of signals, beyond what is known of the predictor, that are tried where signals scatter too much."""


def retune_is_due(batches: int, pixels: int) -> bool:
    """Whether the strength should be looked at after so many batches: often at first, and rarely where it takes seconds."""
    if pixels > 32:
        return batches in (1, 2, 4, 8) or batches % 32 == 0
    return batches == 1 or (batches % 2 == 0 and batches <= 8) or batches % 4 == 0


class Posterior:
    """Streaming estimate of a picture of ``pixels x pixels``.

    Parameters
    ----------
    pixels : int
        Up to 128; work and memory grow with the fourth power.
    electrons : float
        Of the beam, in a pattern.
    model_error : float
        Relative error of the patterns (NRMSE); their signals are trusted to a third of it, since errors of pixels partly cancel.
    read_noise_e : float
        Standard deviation of a signal that no electrons cause (dark counts, amplifier), in electrons.

    Attributes
    ----------
    picture : ndarray, shape (pixels, pixels)
    strength : float
        Of the prior.
    inflation : float
        By how much held-out signals scatter more than counting noise and the model error say (variance); 1 where all is well.
    doubt : float
        Relative error of the signals beyond all that is known, as held-out signals tell it (`question`); 0 where all is well.
    """

    def __init__(
        self,
        pixels: int,
        electrons: float,
        *,
        model_error: float = 0.0,
        strength: float = 10.0,
        read_noise_e: float = 0.0,
    ) -> None:
        if not 2 <= pixels <= LARGEST:
            raise BadInput(f"a picture must have 2 to {LARGEST} pixels on a side, got {pixels}.")
        if not electrons > 0:
            raise BadInput(f"the electrons of a pattern must be more than 0, got {electrons}.")
        self.pixels, self.electrons, self.model_error = pixels, float(electrons), float(model_error)
        if not 0 <= read_noise_e < np.inf:
            raise BadInput(f"the read noise must be 0 electrons or more, got {read_noise_e}.")
        self.strength, self.inflation, self.doubt = float(strength), 1.0, 0.0
        self.read_noise_e = float(read_noise_e)
        self.dtype: Any = np.float64 if pixels <= 16 else np.float32  # half the time and memory where it counts
        size = pixels * pixels
        self.picture = np.full((pixels, pixels), 0.5)
        self._mean = self.picture.ravel()  # of the Gaussian, which knows nothing of 0 and 1
        self._patterns: list[np.ndarray] = []
        self._signals: list[np.ndarray] = []
        self._believed: list[np.ndarray] = []
        self._counted: list[np.ndarray] = []
        self._gram = np.zeros((size, size), dtype=self.dtype)
        self._seen = np.zeros(size, dtype=self.dtype)
        self._factor: np.ndarray | None = None
        self._pending: list[tuple[np.ndarray, float]] = []
        self._glimpses: list[tuple[np.ndarray, float]] = []
        self._glimpsed: np.ndarray | None = None
        self._outset: np.ndarray | None = None
        self._absorbed = 0
        self._told, self._questioned = np.inf, 0

    @property
    def count(self) -> int:
        """Patterns taken in."""
        return sum(len(signals) for signals in self._signals)

    @property
    def patterns(self) -> np.ndarray:
        """All patterns taken in, (count, pixels²)."""
        return np.concatenate(self._patterns) if self._patterns else np.zeros((0, self.pixels**2), dtype=np.float32)

    @property
    def signals(self) -> np.ndarray:
        """All signals taken in, (count,)."""
        return np.concatenate(self._signals) if self._signals else np.zeros(0)

    def variance_of(self, signals: np.ndarray) -> np.ndarray:
        """Variance of signals (fractions of the beam): counting, reading, and patterns that are not quite as predicted."""
        return self._believed_variance(signals) + (self.doubt * np.asarray(signals, dtype=float)) ** 2

    def _believed_variance(self, signals: np.ndarray) -> np.ndarray:
        signals = np.asarray(signals, dtype=float)
        counting = np.maximum(signals, 1.0 / self.electrons) / self.electrons
        reading = (self.read_noise_e / self.electrons) ** 2
        return np.asarray(counting + reading + (self.model_error / 3.0 * signals) ** 2)

    @property
    def weights(self) -> np.ndarray:
        """Of all signals, (count,): the inverse of their variances, as things stood when they came."""
        believed, counted = np.concatenate(self._believed), np.concatenate(self._counted)
        return np.asarray(1.0 / (believed + (self.doubt * counted) ** 2))

    # -- taking in

    def add(self, patterns: np.ndarray, signals: np.ndarray, background: np.ndarray | None = None) -> None:
        """Take in a batch; the picture follows with `settle`.

        `background` (n,) is a part of the signals that does not come from these patterns and the picture; its counting noise is
        theirs all the same. See `single_pixel.fading`.
        """
        flat, signals = self._checked(patterns, signals)
        self._keep(flat, signals, np.zeros(len(signals)) if background is None else np.asarray(background, dtype=float))

    def _keep(self, flat: np.ndarray, signals: np.ndarray, background: np.ndarray) -> None:
        self._patterns.append(flat)
        self._signals.append(signals - background)
        self._counted.append(signals)
        self._believed.append(self._believed_variance(signals))  # as things stood then

    def _absorb(self) -> None:
        """Put what was taken in since the last time into the normal equations."""
        if self._absorbed == len(self._signals):
            return
        flat, signals = (
            np.concatenate(self._patterns[self._absorbed :]),
            np.concatenate(self._signals[self._absorbed :]),
        )
        weights = self.weights[-len(signals) :]
        weighted = (flat * np.sqrt(weights)[:, None]).astype(self.dtype)
        np.add(self._gram, weighted.T @ weighted, out=self._gram)
        self._seen = self._seen + (flat.T @ (weights * signals)).astype(self.dtype)
        self._absorbed = len(self._signals)

    def add_at_once(self, pattern: np.ndarray, signal: float) -> np.ndarray:
        """Take in one value and show it in the picture now, at the edge weights of the last `settle`; returns the picture."""
        flat, signals = self._checked(np.asarray(pattern)[None], np.array([signal]))
        if self._factor is None:
            self.settle()
        direction = flat[0].astype(self.dtype)
        moved = self._covariance_times(direction)
        for past, total in self._pending:  # what the values since the last `settle` have taken off the covariance
            moved = moved - past * (float(past @ direction) / total)
        total = float(self.variance_of(signals)[0] * self.inflation + direction @ moved)
        innovation = float(signals[0] - direction @ self.picture.ravel())
        self._mean = self._mean + moved * (float(signals[0] - direction @ self._mean) / total)
        self.picture = np.clip(self.picture + (moved * (innovation / total)).reshape(self.picture.shape), 0.0, 1.0)
        self._pending.append((moved, total))
        self._keep(flat, signals, np.zeros(1))
        return self.picture

    def glimpse(self, pattern: np.ndarray, signal: float, background: float = 0.0) -> np.ndarray:
        """The picture as one more value moves it, for whoever watches; nothing of the posterior is changed.

        Values glimpsed since the last `settle` add up. `settle` forgets them: they come in with `add`.
        """
        flat, signals = self._checked(np.asarray(pattern)[None], np.array([signal]))
        if self._factor is None and self._outset is None:
            self._outset = self._factorised(self._gram, self.picture)
        picture = self.picture if self._glimpsed is None else self._glimpsed
        direction = flat[0].astype(self.dtype)
        moved = self._solved_by(self._outset if self._factor is None else self._factor, direction)
        for past, total in self._glimpses:
            moved = moved - past * (float(past @ direction) / total)
        total = float(self.variance_of(signals)[0] * self.inflation + direction @ moved)
        innovation = float(signals[0] - background - direction @ picture.ravel())
        self._glimpsed = np.clip(picture + (moved * (innovation / total)).reshape(picture.shape), 0.0, 1.0)
        self._glimpses.append((moved, total))
        return self._glimpsed

    def _checked(self, patterns: np.ndarray, signals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        flat = np.asarray(patterns, dtype=np.float32).reshape(len(patterns), -1)
        signals = np.asarray(signals, dtype=float)
        if flat.shape != (len(signals), self.pixels**2):
            raise BadInput(
                f"{len(signals)} signals need as many patterns of {self.pixels} x {self.pixels} pixels, got {np.shape(patterns)}."
            )
        if not (np.isfinite(flat).all() and np.isfinite(signals).all()):
            raise BadInput("a bucket signal (or its pattern) is not finite; it was not taken in.")
        return flat, signals

    # -- the picture

    def settle(self, rounds: int = 2) -> None:
        """Solve for the picture, `rounds` times with new edge weights, and keep the factor for uncertainties."""
        self._absorb()
        for _ in range(rounds):
            self._factor = self._factorised(self._gram, self.picture)
            self._mean = self._unclipped(self._factor, self._seen)
            self.picture = self._shown(self._mean)
        self._pending.clear()
        self._glimpses.clear()
        self._glimpsed = self._outset = None

    def choose_strength(self, strengths: np.ndarray | None = None, *, rounds: int = 4) -> float:
        """Choose the strength (and the inflation) from patterns held out: every eighth, every fourth while there are few.

        The picture is left as it is.
        """
        self._absorb()
        patterns, signals = self.patterns, self.signals
        every = 8 if len(signals) >= FEW else 4
        aside = np.arange(len(signals)) % every == every - 1
        if aside.sum() < 3:
            return self.strength
        if strengths is None:
            strengths = STRENGTHS
        weights = self.weights
        held = (patterns[aside] * np.sqrt(weights[aside])[:, None]).astype(self.dtype)
        gram = self._gram - held.T @ held
        seen = self._seen - (patterns[aside].T @ (weights[aside] * signals[aside])).astype(self.dtype)
        before, misfits = self.strength, []
        picture = self.picture
        for strength in sorted(strengths, reverse=True):  # from smooth to rough: each is a good start for the next
            self.strength = float(strength)
            for _ in range(rounds):
                factor = self._factorised(gram, picture)
                picture = self._shown(self._unclipped(factor, seen))
            residual = patterns[aside] @ picture.ravel() - signals[aside]
            unknown = half_solved(factor, patterns[aside].T, transposed=True)
            expected = 1.0 / weights[aside] + (unknown**2).sum(axis=0)
            # log predictive density, up to a constant, and the scatter over what was expected
            told = float((residual**2 / expected + np.log(expected)).mean())
            misfits.append((told, float(strength), float((residual**2 / expected).mean())))
        self._told, best, misfit = min(misfits)
        self.strength = best if np.isfinite(misfit) else before
        self.inflation = max(1.0, misfit) if np.isfinite(misfit) else self.inflation
        return self.strength

    def retune(self) -> float:
        """`choose_strength` among the present one and its neighbours."""
        near = np.unique(np.clip(self.strength * np.array([0.4, 1.0, 2.5]), STRENGTHS[0], STRENGTHS[-1]))
        return self.choose_strength(near, rounds=2)

    def question(self) -> float:
        """Choose `doubt`, with the strength, from held-out signals; for signals that scatter more than they should.

        What the predictor does not know of its own error becomes noise, so that the picture gets smoother and its uncertainty
        larger instead of both being wrong. The picture is settled anew. It costs as much as thirty pictures, so that it is not
        done again before there are half as many signals again.
        """
        if self.count < 1.5 * self._questioned:
            return self.doubt
        self._questioned = self.count
        large = self.pixels > 32
        found = []
        for doubt in DOUBTS[::2] if large else DOUBTS:
            self._doubted(doubt)
            self.inflation, self.picture = 1.0, np.full_like(self.picture, self._level())
            self.choose_strength(STRENGTHS[2:8:2] if large else STRENGTHS[::2], rounds=2)
            found.append((self._told, doubt, self.strength, self.inflation))
        _, doubt, self.strength, self.inflation = min(found)
        self._doubted(doubt)
        self.settle(4)
        return self.doubt

    def _doubted(self, doubt: float) -> None:
        """Weigh all signals anew."""
        if doubt != self.doubt:
            self.doubt = doubt
            self._gram[:] = 0
            self._seen = np.zeros_like(self._seen)
            self._absorbed, self._factor = 0, None

    # -- its uncertainty

    def spread(self, patterns: np.ndarray) -> np.ndarray:
        """``L^-1 p`` of each pattern, (pixels², n): their products are the posterior covariances of the patterns' signals."""
        flat = np.asarray(patterns).reshape(len(patterns), -1).astype(self.dtype)
        found = half_solved(self._ready(), flat.T, transposed=True)
        return np.asarray(found * self.dtype(np.sqrt(self.inflation)))

    def samples(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Pictures from the posterior, less its mean; shape (count, pixels²)."""
        normal = rng.standard_normal((self.pixels**2, count)).astype(self.dtype)
        found = half_solved(self._ready(), normal, transposed=False).T
        return np.asarray(found * self.dtype(np.sqrt(self.inflation)))

    def uncertainty(self, rng: np.random.Generator | None = None, count: int = 96) -> np.ndarray:
        """Standard deviation of each pixel, (pixels, pixels): exact up to 32 x 32, from samples beyond."""
        if self.pixels <= 32:
            inverse = self.spread(np.eye(self.pixels**2, dtype=self.dtype))
            deviation = np.sqrt((inverse**2).sum(axis=0))
        else:
            drawn = self.samples(count, rng or np.random.default_rng(0))
            deviation = np.sqrt((drawn**2).mean(axis=0))
        return np.asarray(deviation.reshape(self.pixels, self.pixels), dtype=float)

    def predicted(self, patterns: np.ndarray) -> np.ndarray:
        """Signals that the present picture would give."""
        return np.asarray(np.asarray(patterns).reshape(len(patterns), -1) @ self.picture.ravel())

    def fitted(self, patterns: np.ndarray) -> np.ndarray:
        """Signals of the Gaussian's mean, which may lie beyond 0 and 1 and whose residuals are those that the theory speaks of."""
        return np.asarray(np.asarray(patterns).reshape(len(patterns), -1) @ self._mean)

    def misfit(self, most: int = 128) -> float:
        """Mean squared residual of signals that were taken in, over what noise leaves of it; 1 where patterns are as predicted.

        A fitted signal leaves ``(1 - h)`` of the variance of its noise, h being how much the signal determines itself. At most
        `most` signals, spread over the run, are looked at.
        """
        patterns, signals, weights = self.patterns, self.signals, self.weights
        some = np.unique(np.linspace(0, len(signals) - 1, most).astype(int))
        itself = (self.spread(patterns[some]) ** 2).sum(axis=0) / self.inflation * weights[some]
        believed = np.concatenate(self._believed)[some]  # a doubt explains nothing: it says that something is wrong
        # of the picture and not of the Gaussian: what a wrong predictor drives beyond 0 and 1 is to be seen here
        apart = (self.predicted(patterns[some]) - signals[some]) ** 2 / believed
        return float(apart.sum() / np.maximum(1.0 - itself, 0.02).sum())

    def scatter(self) -> float | None:
        """`misfit`, or None before there are enough signals to judge by."""
        return self.misfit() if self.count >= LEAST_TO_JUDGE else None

    def remark(self, scatter: float | None = None) -> str:
        """One sentence where the signals scatter more than they should; empty where all is well, or `scatter` is not known."""
        scatter = self.scatter() if scatter is None else scatter
        if scatter is None or scatter <= LARGEST_MISFIT:
            return ""
        return (
            f"The signals scatter {scatter**0.5:.1f} times more than counting noise and the predictor's error explain; "
            "the patterns are probably not as predicted: calibrate anew, or trust the picture less."
        )

    # -- inside

    def _ready(self) -> np.ndarray:
        if self._factor is None:
            self._absorb()
            self._factor = self._factorised(self._gram, self.picture)
        return self._factor

    def _covariance_times(self, direction: np.ndarray) -> np.ndarray:
        return self._solved_by(self._ready(), direction)

    def _solved_by(self, factor: Any, direction: np.ndarray) -> np.ndarray:
        return np.asarray(solved(factor, direction) * self.dtype(self.inflation))

    def _factorised(self, gram: np.ndarray, picture: np.ndarray, jitter: float = 0.0) -> np.ndarray:
        """Upper Cholesky factor of the posterior's precision (times the inflation, which only scales it)."""
        precision = gram.copy()
        side = self.pixels
        index = np.arange(side * side).reshape(side, side)
        down, right = np.zeros((side, side)), np.zeros((side, side))
        down[:-1], right[:, :-1] = np.diff(picture, axis=0), np.diff(picture, axis=1)
        weight = self.strength / np.sqrt(down**2 + right**2 + EDGE**2)
        flat = precision.reshape(-1)
        diagonal = np.full((side, side), 1e-2 * self.strength)
        for here, there in ((index[:-1], index[1:]), (index[:, :-1], index[:, 1:])):
            a, b = here.ravel(), there.ravel()
            pull = weight.ravel()[a].astype(self.dtype)
            flat[a * side * side + b] -= pull
            flat[b * side * side + a] -= pull
            np.add.at(diagonal.reshape(-1), a, pull)
            np.add.at(diagonal.reshape(-1), b, pull)
        flat[:: side * side + 1] += diagonal.ravel().astype(self.dtype)
        flat[:: side * side + 1] *= self.dtype(1.0 + jitter)
        try:
            return factorised(precision)
        except np.linalg.LinAlgError:  # rounding made it indefinite: weigh the diagonal by a little more
            if jitter > 1e-2:
                raise
            return self._factorised(gram, picture, max(1e-6, 10 * jitter))

    def _unclipped(self, factor: np.ndarray, seen: np.ndarray) -> np.ndarray:
        pull = 1e-2 * self.strength * float(self._level())
        return np.asarray(solved(factor, seen + self.dtype(pull)), dtype=float)

    def _shown(self, mean: np.ndarray) -> np.ndarray:
        return np.asarray(np.clip(mean, 0.0, 1.0).reshape(self.pixels, self.pixels))

    def _level(self) -> float:
        """Mean transmission, as the signals tell it."""
        if not self._signals:
            return 0.5
        return float(
            np.clip(sum(s.sum() for s in self._signals) / max(sum(p.sum() for p in self._patterns), 1e-9), 0, 1)
        )
