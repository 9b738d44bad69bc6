"""Maps with less noise by what repeats itself: places of the specimen that look alike, taken together.

Particles, edges and films come many times in one image, turned and mirrored. For each small patch of the scores the patches most
like it, in eight orientations, are found; what they vary by is structure plus noise, and the estimate of least error of each of
them follows from both covariances (NL-Bayes: Lebrun, Buades and Morel, SIAM J. Imaging Sci. 6, 2013, 1665). Here all components
are one vector, so that a component of few counts is helped by the places that one of many counts shows; and the noise, which
counting makes different in every pixel, is measured where the patches are, by two halves of the counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

WIDTHS = (5, 7)
"""Pixels; which of them the counts decide."""
STRENGTHS = (1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
"""Factors on the noise in the last round; the first is that of least error."""
SIMILAR = 300
"""Patches taken together, at least; more for wide ones, whose covariance has more numbers in it."""
CANDIDATES = 2**17
"""Patches among which similar ones are looked for, drawn by chance from larger images: each is seen in eight orientations."""
LARGEST_TABLE = 2**26
"""Numbers in all candidates together; there are fewer of them where patches are large."""
ROUNDS = 3
"""Each finds similar patches in, and takes structure from, what the round before made."""
LARGEST = 250
"""Numbers in a patch; wider patches are not tried beyond."""
LEVELS = 3
"""Sizes of the image, each of half as many pixels a side as the one before."""
SMALLEST = 32
"""Pixels of the shorter side below which an image is not made smaller."""
LONG = 0.4
"""Waves taken from the next smaller image, over the shortest that it holds."""
FLOOR = 1e-3
"""Variance of noise, of that of the mean pixel, where nothing was counted."""
BATCH = 2**23
"""Numbers gathered at once."""


@dataclass(frozen=True)
class _Patches:
    """All patches of an image with a margin: views that are copied where they are used.

    Parameters
    ----------
    views : tuple of ndarray
        ``(y, x, n, width, width)``, one an orientation.
    """

    views: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, image: np.ndarray, width: int) -> _Patches:
        """Patches around every pixel of `image` ``(y, x, n)``, mirrored at its edges."""
        margin = width // 2
        wide = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(wide, (width, width), axis=(0, 1))
        return cls(tuple(_turned(windows)))

    def take(self, orientation: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Flat patches, float32, ``(len(y), n * width * width)``."""
        _, _, n, width, _ = self.views[0].shape
        out = np.empty((len(y), n, width, width), dtype=np.float32)
        for number, view in enumerate(self.views):
            here = orientation == number
            out[here] = view[y[here], x[here]]
        return out.reshape(len(y), -1)


@dataclass(frozen=True)
class _Candidates:
    """Patches among which similar ones are looked for.

    Parameters
    ----------
    orientation, y, x : ndarray
        ``(n,)``; orientation 0 is upright.
    values, noise : ndarray
        ``(n, r * width**2)`` noisy scores; ``(n, r (r + 1) / 2 * width**2)`` products of their noise.
    """

    orientation: np.ndarray
    y: np.ndarray
    x: np.ndarray
    values: np.ndarray
    noise: np.ndarray


def similar_places(
    whole: np.ndarray,
    one: np.ndarray,
    other: np.ndarray,
    pilot: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    rng: np.random.Generator,
    *,
    width: int,
    strengths: Sequence[float] = (1.0,),
    report: Callable[[float], None] = lambda _fraction: None,
) -> list[np.ndarray]:
    """Scores freed of noise by what similar places share, in images of half, and of a quarter as many pixels a side too.

    Patches cannot tell structure wider than they are from noise; the smaller images can, and long waves are taken from there.

    Parameters
    ----------
    whole : ndarray
        ``(y, x, r)`` scores of all counts.
    one, other : ndarray
        Those of two independent halves of the counts; `whole` is their sum.
    pilot : callable
        A first estimate of what is in `whole`, from the three.
    rng : numpy Generator
        Draws candidates from large images.
    width : int
        Of a patch in pixels, odd.
    strengths : sequence of float
        Factors on the noise; 1 is the estimate of least error, more of them keep less of what could be noise.
    report : callable
        Told the fraction done; raises to stop.

    Returns
    -------
    list of ndarray
        ``(y, x, r)``, one a strength.
    """
    images = [(whole, one, other)]
    while len(images) < LEVELS and min(images[-1][0].shape[:2]) >= 2 * SMALLEST:
        images.append(tuple(_long_waves(image) for image in images[-1]))  # type: ignore[arg-type]
    sizes = np.array([0.0, *(float(image[0].size) for image in images)]).cumsum()
    found: list[list[np.ndarray]] = []
    for level, (every, half, rest) in enumerate(images):

        def part(fraction: float, level: int = level) -> None:
            report(float((sizes[level] + fraction * (sizes[level + 1] - sizes[level])) / sizes[-1]))

        guess = pilot(every, half, rest)
        found.append(_one_size(every, half, rest, guess, rng, width=width, strengths=strengths, report=part))
    made = found.pop()
    while found:
        made = [_joined(fine, long) for fine, long in zip(found.pop(), made, strict=True)]
    return made


def _one_size(
    whole: np.ndarray,
    one: np.ndarray,
    other: np.ndarray,
    pilot: np.ndarray,
    rng: np.random.Generator,
    *,
    width: int,
    strengths: Sequence[float],
    report: Callable[[float], None],
) -> list[np.ndarray]:
    rows, columns, r = whole.shape
    difference = one - other
    flat = difference.reshape(-1, r)
    covariance = flat.T @ flat / len(flat) + 1e-12 * np.eye(r) * float((flat**2).mean() + 1e-300)
    root = np.linalg.cholesky(covariance)
    whiten = np.linalg.inv(root).T
    noisy, rest, seen = (image @ whiten for image in (whole, difference, pilot))
    lower = np.tril_indices(r)
    spread = _Patches.of((rest[..., :, None] * rest[..., None, :])[..., lower[0], lower[1]], width)
    patches = _Patches.of(noisy, width)
    orientation, pixel = _drawn(rng, rows * columns, LARGEST_TABLE // (width**2 * (r + len(lower[0]))))
    places = (orientation, pixel // columns, pixel % columns)
    candidates = _Candidates(*places, patches.take(*places), spread.take(*places))
    found: list[np.ndarray] = []
    for turn in range(ROUNDS):
        last = turn == ROUNDS - 1
        one_round = _Round(r, width, tuple(strengths) if last else (1.0,))

        def part(fraction: float, turn: int = turn) -> None:
            report((turn + fraction) / ROUNDS)

        found = one_round.run(candidates, patches, _Patches.of(seen, width), part)
        seen = found[0]
    return [image @ root.T for image in found]


def _long_waves(image: np.ndarray) -> np.ndarray:
    """An image of half as many pixels a side, of the longer cosine waves of `image`; white noise stays white."""
    from scipy.fft import dctn, idctn

    rows, columns = ((count + 1) // 2 for count in image.shape[:2])
    waves = dctn(image, axes=(0, 1), norm="ortho")[:rows, :columns]
    return np.asarray(idctn(waves, axes=(0, 1), norm="ortho"))


def _joined(fine: np.ndarray, long: np.ndarray) -> np.ndarray:
    """`fine` with its longest waves from `long`, which has half as many pixels a side."""
    from scipy.fft import dctn, idctn

    waves, better = (dctn(image, axes=(0, 1), norm="ortho") for image in (fine, long))
    rows, columns = long.shape[:2]
    wave = np.maximum(np.arange(rows)[:, None] / rows, np.arange(columns)[None, :] / columns)
    part = np.clip((LONG - wave) / (LONG / 2.0) + 0.5, 0.0, 1.0)[..., None]
    waves[:rows, :columns] += part * (better - waves[:rows, :columns])
    return np.asarray(idctn(waves, axes=(0, 1), norm="ortho"))


@dataclass(frozen=True)
class _Round:
    r: int
    width: int
    strengths: tuple[float, ...]

    def run(
        self, candidates: _Candidates, patches: _Patches, guess: _Patches, report: Callable[[float], None]
    ) -> list[np.ndarray]:
        """One image a strength: `patches` freed of noise by candidates that look like them in `guess`."""
        rows, columns = guess.views[0].shape[:2]
        values, noise = candidates.values, candidates.noise
        looks = guess.take(candidates.orientation, candidates.y, candidates.x)
        squares = np.einsum("ij,ij->i", looks, looks)
        similar = min(max(SIMILAR, 10 * self.width**2), len(looks) // 2)
        sums = [_Sums(rows, columns, self.r, self.width) for _ in self.strengths]
        references = list(_batches(rows, columns, (self.width + 1) // 2, similar * looks.shape[1]))
        upright = candidates.orientation == 0  # these are given back; turned ones only lend their statistics
        for number, (y, x) in enumerate(references):
            report(number / len(references))
            straight = np.zeros_like(y)
            look, own = guess.take(straight, y, x), patches.take(straight, y, x)
            near = np.argpartition(squares[None] - 2.0 * (look @ looks.T), similar - 1, axis=1)[:, :similar]
            off = looks[near]
            off -= off.mean(axis=1, keepdims=True)
            structure = np.matmul(off.transpose(0, 2, 1), off) / np.float32(similar)
            covariance = self._noise(noise[near].mean(axis=1))
            mean = values[near].mean(axis=1)
            back = [one[upright[one]] for one in near]
            members = np.concatenate(back)
            above = values[members] - np.repeat(mean, [len(one) for one in back], axis=0)
            ends = np.cumsum([len(one) for one in back])[:-1]
            at = np.concatenate([candidates.y[members], y]) * columns + np.concatenate([candidates.x[members], x])
            for strength, into in zip(self.strengths, sums, strict=True):
                gains = np.linalg.solve(structure + np.float32(strength) * covariance, structure)
                estimates = [m + part @ gain for m, part, gain in zip(mean, np.split(above, ends), gains, strict=True)]
                into.add(np.concatenate([*estimates, mean + np.einsum("gi,gij->gj", own - mean, gains)]), at)
        return [into.mean() for into in sums]

    def _noise(self, lower: np.ndarray) -> np.ndarray:
        """Covariance matrices of patches from the lower triangles of those of their pixels, ``(g, n, n)``."""
        r, size = self.r, self.width**2
        per_pixel = np.zeros((len(lower), r, r, size), dtype=np.float32)
        rows, columns = np.tril_indices(r)
        per_pixel[:, rows, columns] = per_pixel[:, columns, rows] = lower.reshape(len(lower), -1, size)
        mean = per_pixel.mean(axis=3, keepdims=True)
        per_pixel = 0.9 * per_pixel + 0.1 * mean  # few patches may by chance show a pixel without noise
        per_pixel[:, range(r), range(r)] += FLOOR
        out = np.zeros((len(lower), r, size, r, size), dtype=np.float32)
        at = np.arange(size)
        out[:, :, at, :, at] = per_pixel.transpose(3, 0, 1, 2)
        return out.reshape(len(lower), r * size, r * size)


class _Sums:
    """Estimates of overlapping patches, to be averaged."""

    def __init__(self, rows: int, columns: int, r: int, width: int) -> None:
        self.columns, self.width = columns, width
        margin = 2 * (width // 2)
        self.total = np.zeros((rows + margin, columns + margin, r))
        self.times = np.zeros((rows + margin, columns + margin, 1))

    def add(self, patches: np.ndarray, at: np.ndarray) -> None:
        """Flat `patches` around the pixels `at`, flat too."""
        from scipy.sparse import csr_array

        pixels, which, times = np.unique(at, return_inverse=True, return_counts=True)
        choice = csr_array((np.ones(len(at), dtype=np.float32), (which, np.arange(len(at)))), (len(pixels), len(at)))
        sums = (choice @ patches).reshape(len(pixels), -1, self.width, self.width)
        y, x = pixels // self.columns, pixels % self.columns
        for i in range(self.width):
            for j in range(self.width):
                self.total[y + i, x + j] += sums[..., i, j]
                self.times[y + i, x + j, 0] += times

    def mean(self) -> np.ndarray:
        """``(y, x, r)``, without the margin."""
        inside = slice(self.width // 2, -(self.width // 2))
        return np.asarray(self.total[inside, inside] / self.times[inside, inside])


def _turned(windows: np.ndarray) -> Iterator[np.ndarray]:
    """Eight orientations of the last two axes, upright first."""
    for view in (windows, windows.swapaxes(-1, -2)):
        yield from (view, view[..., ::-1, :], view[..., ::-1], view[..., ::-1, ::-1])


def _drawn(rng: np.random.Generator, pixels: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Orientation and pixel of the candidates, `most` of them if need be."""
    every, most = 8 * pixels, min(CANDIDATES, most)
    chosen = np.arange(every) if every <= most else np.sort(rng.choice(every, most, replace=False))
    return chosen // pixels, chosen % pixels


def _batches(rows: int, columns: int, stride: int, each: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Middles of the patches that are estimated: every `stride` pixels, and the last ones."""
    ys, xs = (np.unique(np.append(np.arange(0, count, stride), count - 1)) for count in (rows, columns))
    y, x = (one.ravel() for one in np.meshgrid(ys, xs, indexing="ij"))
    size = max(1, BATCH // each)
    for first in range(0, len(y), size):
        yield y[first : first + size], x[first : first + size]
