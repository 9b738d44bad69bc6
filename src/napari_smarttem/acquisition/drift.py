"""Where the specimen has gone: register images of the same place, and predict between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..schema import BadInput


@dataclass(frozen=True)
class Registration:
    """How far an image has moved.

    Attributes
    ----------
    shift_px : tuple of float
        (rows, columns) by which features of the image lie beyond those of the reference.
    error_px : float
        Standard deviation of each of the two to be expected from the noise.
    quality : float
        Height of the correlation peak in units of the correlation's own fluctuations.
    problem : str
        Empty, or why the result must not be used, in one sentence.
    """

    shift_px: tuple[float, float]
    error_px: float
    quality: float
    problem: str = ""

    @property
    def ok(self) -> bool:
        """True where the shift may be used."""
        return not self.problem


def register(
    reference: np.ndarray,
    image: np.ndarray,
    *,
    expected_px: tuple[float, float] = (0.0, 0.0),
    search_px: float | None = None,
    minimum_quality: float = 7.0,
) -> Registration:
    """Shift of `image` against `reference` to a few hundredths of a pixel.

    Hann window and high-pass; correlation by phase with the weight that maximises the likelihood under white noise (Knapp &
    Carter, IEEE Trans. ASSP 24 (1976) 320); the peak is looked for within `search_px` of `expected_px`, which keeps a
    lattice from being matched one spacing off; then the overlapping parts are cut out and the rest is measured by refining
    the peak on a matrix Fourier transform (Guizar-Sicairos et al., Opt. Lett. 33 (2008) 156).

    Parameters
    ----------
    reference, image : array, shape (y, x)
        Same shape, at least 8 x 8 pixels.
    expected_px : tuple of float
        Predicted shift.
    search_px : float or None
        Largest distance from it; None: a third of the shorter side.
    minimum_quality : float
        Below this `quality` the result carries a `problem`.

    Raises
    ------
    BadInput
        Where shapes differ or are too small.
    """
    reference, image = np.asarray(reference, dtype=float), np.asarray(image, dtype=float)
    if reference.shape != image.shape or reference.ndim != 2 or min(reference.shape) < 8:
        raise BadInput(
            f"Two images of one shape, at least 8 x 8 pixels, are needed to measure drift, got {reference.shape} and {image.shape}."
        )
    expected = np.array(expected_px, dtype=float)
    search = search_px if search_px is not None else min(reference.shape) / 3.0
    first, second = _filled(reference), _filled(image)
    if first is None or second is None:
        return _refused(expected, "the image is empty, flat or has many pixels without a value")
    shift, bound, taper = expected, search, 1.0
    for attempt in range(3):
        whole = np.rint(shift).astype(int)
        one, other = _overlap(first, second, whole)
        if min(*one.shape, *other.shape) < max(8, min(reference.shape) // 4):
            return _refused(expected, "the specimen has moved almost out of the image")
        rest, quality, error, at_bound = _phase_shift(one, other, shift - whole, bound, taper)
        if attempt == 0 and at_bound:
            return _refused(expected, "the best match lies at the bound of what drift can have done", quality)
        shift = whole + rest
        # The images are cut to the same place now: the window may be wider, and what is left to find is small.
        bound, taper = min(search, 2.5) + 0.5, 0.25
        if attempt > 0 and np.all(np.rint(shift).astype(int) == whole):
            break
    problem = ""
    if quality < minimum_quality:
        problem = f"the images do not match clearly (peak {quality:.1f}x the fluctuations, {minimum_quality:g}x needed)"
    elif math.hypot(*(shift - expected)) > search + 1.0:
        problem = "the best match lies beyond what drift can have done"
    return Registration((float(shift[0]), float(shift[1])), error, quality, problem)


def _refused(expected: np.ndarray, problem: str, quality: float = 0.0) -> Registration:
    return Registration((float(expected[0]), float(expected[1])), math.inf, quality, problem)


def _filled(picture: np.ndarray) -> np.ndarray | None:
    finite = np.isfinite(picture)
    if finite.mean() < 0.5:
        return None
    if not finite.all():
        picture = np.where(finite, picture, np.median(picture[finite]))
    return picture if np.ptp(picture) > 0 else None


def _overlap(first: np.ndarray, second: np.ndarray, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parts of both images that show the same place, were the shift `whole`."""
    dy, dx = int(whole[0]), int(whole[1])
    rows, columns = first.shape
    if abs(dy) >= rows or abs(dx) >= columns:
        return first[:0], second[:0]
    one = first[max(0, -dy) : rows - max(0, dy), max(0, -dx) : columns - max(0, dx)]
    other = second[max(0, dy) : rows + min(0, dy), max(0, dx) : columns + min(0, dx)]
    return one, other


def _window(shape: tuple[int, ...], taper: float) -> tuple[np.ndarray, float]:
    """Cosine-tapered window (Tukey; `taper` 1 is Hann's) and how many neighbouring frequencies it makes one of."""
    from scipy.signal.windows import tukey

    window = np.outer(tukey(shape[0] + 2, taper)[1:-1], tukey(shape[1] + 2, taper)[1:-1])
    return window, float((window**4).mean() / (window**2).mean() ** 2)


def _spectrum(picture: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Fourier transform of the windowed image about its weighted mean."""
    level = (picture * window).sum() / window.sum()
    return np.asarray(np.fft.fft2((picture - level) * window))


def _frequencies(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None, :]


def _weights(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Likelihood weight of every frequency of two spectra; what is wider than a quarter of the image (shading) gets none."""
    from scipy import ndimage

    fy, fx = _frequencies(one.shape)
    radius = np.hypot(fy, fx)
    corner = radius > 0.42
    signal, expected = [], []
    for spectrum in (one, other):
        power = np.abs(spectrum) ** 2
        # The mean of an exponential variable is its median / ln 2; the median is blind to a few Bragg spots out there.
        noise = float(np.median(power[corner])) / math.log(2.0) if corner.any() else 0.0
        smooth = ndimage.gaussian_filter(power, 1.0, mode="wrap")
        excess = np.maximum(smooth - 1.5 * noise, 0.0)
        expected.append(smooth)
        signal.append(excess / np.maximum(excess + noise, 1e-300))
    coherence = np.clip(signal[0] * signal[1], 0.0, 0.999)
    highpass = 1.0 - np.exp(-0.5 * (radius * 0.35 * min(one.shape)) ** 2)
    # Divided by the expected power, not by its own: a frequency that happens to be faint here says little.
    relative = np.abs(one * other) / np.maximum(np.sqrt(expected[0] * expected[1]), 1e-300)
    weight = coherence / (1.0 - coherence) * highpass * np.minimum(relative, 10.0)
    # Above 0.45 cycles a pixel the beam's sampling aliases; a soft rim keeps the correlation from ringing.
    weight *= np.clip((0.5 - np.maximum(np.abs(fy), np.abs(fx))) / 0.05, 0.0, 1.0)
    weight[0, 0] = 0.0
    return np.asarray(weight)


def _phase_shift(
    one: np.ndarray, other: np.ndarray, centre: np.ndarray, search: float, taper: float
) -> tuple[np.ndarray, float, float, bool]:
    """Shift, quality, expected error, and whether the peak lies on the bound of the search."""
    window, correlated = _window(one.shape, taper)
    first, second = _spectrum(one, window), _spectrum(other, window)
    weight = _weights(first, second)
    if not weight.any():
        return np.array(centre, dtype=float), 0.0, math.inf, False
    # A few very bright frequencies (a lattice) must not be all there is: no weight above 50 times the mean.
    weight = np.minimum(weight, 50.0 * weight.mean())
    cross = second * np.conj(first)
    phase = cross / np.maximum(np.abs(cross), 1e-300)
    correlation = np.fft.ifft2(weight * phase).real * weight.size
    rows, columns = one.shape
    dy = _frequencies(one.shape)[0] * rows
    dx = _frequencies(one.shape)[1] * columns
    # Distance to the prediction on the torus of the transform, so that a bound may reach over its rim.
    away_y = np.abs((dy - centre[0] + rows / 2) % rows - rows / 2)
    away_x = np.abs((dx - centre[1] + columns / 2) % columns - columns / 2)
    away = np.hypot(away_y, away_x)
    reach = max(search, 1.5)
    inside = away <= reach
    place = int(np.where(inside, correlation, -np.inf).argmax())
    row, column = divmod(place, columns)
    peak = float(correlation[row, column])
    # Fluctuations of a sum of unit phasors with these weights.
    fluctuation = math.sqrt(float((weight**2).sum()) / 2.0 * correlated)
    neighbours = correlation[
        np.ix_([(row - 1) % rows, row, (row + 1) % rows], [(column - 1) % columns, column, (column + 1) % columns])
    ]
    at_bound = bool(away[row, column] > reach - 1.0 and neighbours.max() > peak)
    start = np.array([float(dy[row, 0]), float(dx[0, column])])
    for axis, size, middle in ((0, rows, centre[0]), (1, columns, centre[1])):
        start[axis] += size * round((middle - start[axis]) / size)
    shift, peak = _refine_peak(weight * phase, start)
    fy, fx = _frequencies(one.shape)
    mean_phase = max(peak / float(weight.sum()), 1e-6)
    # Spread of the phases around the plane that the shift is; the window correlates neighbouring frequencies.
    residual = np.angle(phase * np.exp(2j * np.pi * (fy * shift[0] + fx * shift[1])))
    information = 4.0 * np.pi**2 * (weight * (fy**2 + fx**2) / 2.0).sum()
    scatter = (weight**2 * residual**2 * (fy**2 + fx**2) / 2.0).sum() * 4.0 * np.pi**2
    error = math.sqrt(2.0 * correlated * float(scatter)) / max(float(information) * mean_phase, 1e-300)
    return shift, peak / fluctuation, error, at_bound


def _refine_peak(spectrum: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, float]:
    """Top of the correlation near `start`, by a matrix Fourier transform on ever finer 7 x 7 grids."""
    fy, fx = (f.ravel() for f in _frequencies(spectrum.shape))
    place, step, peak = start.astype(float), 0.5, 0.0
    offsets = np.arange(-3, 4)
    for _ in range(5):
        along_y = np.exp(2j * np.pi * np.outer(place[0] + step * offsets, fy))
        along_x = np.exp(2j * np.pi * np.outer(fx, place[1] + step * offsets))
        surface = (along_y @ spectrum @ along_x).real
        row, column = divmod(int(surface.argmax()), len(offsets))
        peak = float(surface[row, column])
        place = place + step * np.array([offsets[row], offsets[column]])
        step /= 4.0
    return place, peak


class DriftTracker:
    """Position and velocity of the specimen, each direction a Kalman filter of constant velocity with random acceleration.

    Parameters
    ----------
    rate_nm_per_s : float
        Drift to be expected at first, one standard deviation.
    acceleration_nm : float
        Strength of the random acceleration in nm / s^1.5.
    """

    def __init__(self, rate_nm_per_s: float, acceleration_nm: float | None = None) -> None:
        self._rate = rate_nm_per_s
        self._acceleration = acceleration_nm if acceleration_nm is not None else 0.03 * rate_nm_per_s
        self._time_s = 0.0
        self._mean = np.zeros((2, 2))
        self._covariance = np.diag([0.0, rate_nm_per_s**2])

    @property
    def velocity_nm_per_s(self) -> tuple[float, float]:
        """(y, x) of the present velocity."""
        return float(self._mean[0, 1]), float(self._mean[1, 1])

    def _ahead(self, time_s: float) -> tuple[np.ndarray, np.ndarray]:
        step = time_s - self._time_s
        forward = np.array([[1.0, step], [0.0, 1.0]])
        span = abs(step)
        growth = self._acceleration**2 * np.array([[span**3 / 3, span**2 / 2], [span**2 / 2, span]])
        return self._mean @ forward.T, forward @ self._covariance @ forward.T + growth

    def predict(self, time_s: float) -> tuple[tuple[float, float], float]:
        """(y, x) displacement in nm at a time, and its standard deviation."""
        mean, covariance = self._ahead(time_s)
        return (float(mean[0, 0]), float(mean[1, 0])), math.sqrt(max(float(covariance[0, 0]), 0.0))

    def update(self, time_s: float, displacement_nm: tuple[float, float], error_nm: float) -> None:
        """Take in a measured displacement."""
        mean, covariance = self._ahead(time_s)
        gain = covariance[:, 0] / (covariance[0, 0] + error_nm**2)
        residual = np.array(displacement_nm) - mean[:, 0]
        self._mean = mean + np.outer(residual, gain)
        left = np.eye(2) - np.outer(gain, [1.0, 0.0])
        self._covariance = left @ covariance @ left.T + error_nm**2 * np.outer(gain, gain)
        self._time_s = time_s

    def lost(self, uncertainty_nm: float) -> None:
        """Something unseen happened (the program was started again): the place is uncertain by this much, the rate unknown."""
        self._covariance = self._covariance + np.diag([uncertainty_nm**2, self._rate**2])
        self._mean[:, 1] = 0.0
