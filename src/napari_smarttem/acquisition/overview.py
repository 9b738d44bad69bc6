"""An overview as the choosers see it: finite values, a mask of where points may go, and the noise of every pixel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ..schema import BadInput, Frame


@dataclass(frozen=True)
class Overview:
    """A ``(y, x)`` image ready for choosing.

    Attributes
    ----------
    image : array, shape (y, x), float64
        Values; pixels that were not finite hold the median.
    allowed : array, shape (y, x), bool
        Where a point may be put: finite, inside the margin, not measured before.
    noise : array, shape (y, x), float64
        Standard deviation of every pixel, see `noise_map`.
    origin_nm, pixel_nm : tuple of float
        Centre of pixel (0, 0) and step to the next pixel, (y, x) in nm.
    taken_nm : array, shape (n, 2), float64
        Places (y, x) measured before: new points keep away from them as they do from each other.
    """

    image: np.ndarray
    allowed: np.ndarray
    noise: np.ndarray
    origin_nm: tuple[float, float]
    pixel_nm: tuple[float, float]
    taken_nm: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.image.shape[0]), int(self.image.shape[1])

    @property
    def mean_pixel_nm(self) -> float:
        """Geometric mean of the pixel's sides in nm."""
        return float(np.sqrt(abs(self.pixel_nm[0] * self.pixel_nm[1])))

    @property
    def is_flat(self) -> bool:
        """True where nothing in the image differs from anything else."""
        return bool(np.ptp(self.image) == 0)

    def positions_nm(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Specimen coordinates, shape ``(n, 2)``, of (fractional) pixels."""
        y_nm = self.origin_nm[0] + self.pixel_nm[0] * np.asarray(rows, dtype=float)
        x_nm = self.origin_nm[1] + self.pixel_nm[1] * np.asarray(columns, dtype=float)
        return np.stack([y_nm, x_nm], axis=-1)


def prepare(
    frame: Frame,
    *,
    margin_nm: float = 0.0,
    exclude: Iterable[tuple[float, float]] = (),
    exclusion_nm: float | None = None,
) -> Overview:
    """Make an `Overview` of an image frame.

    Parameters
    ----------
    frame : Frame
        Shape ``(y, x)``.
    margin_nm : float
        No points nearer than this to the rim.
    exclude : iterable of (y_nm, x_nm)
        Places measured before.
    exclusion_nm : float or None
        No points nearer than this to them; None: half a pixel, and as far as the choosers can keep (`spacing.spread`).

    Raises
    ------
    BadInput
        Where the frame is not an image or holds no finite value.
    """
    if len(frame.shape) != 2 or 0 in frame.shape:
        raise BadInput(
            f"Points are chosen on an image of rows and columns, but {frame.signal} has shape {frame.shape}."
        )
    image = np.array(frame.data, dtype=float)
    finite = np.isfinite(image)
    if not finite.any():
        raise BadInput(f"The overview {frame.signal} holds no finite value; record it again.")
    if not finite.all():
        image[~finite] = np.median(image[finite])
    y, x = frame.axes
    origin, pixel = (y.offset, x.offset), (y.scale, x.scale)

    allowed = finite.copy()
    rows, columns = np.indices(image.shape)
    to_rim = np.minimum(
        (np.minimum(rows, image.shape[0] - 1 - rows) + 0.5) * abs(pixel[0]),
        (np.minimum(columns, image.shape[1] - 1 - columns) + 0.5) * abs(pixel[1]),
    )
    allowed &= to_rim >= margin_nm
    done = np.array(list(exclude), dtype=float).reshape(-1, 2)
    if len(done):
        from scipy.spatial import cKDTree

        radius = exclusion_nm if exclusion_nm is not None else 0.5 * max(abs(pixel[0]), abs(pixel[1]))
        places = np.stack([origin[0] + pixel[0] * rows, origin[1] + pixel[1] * columns], axis=-1).reshape(-1, 2)
        distance, _ = cKDTree(done).query(places, distance_upper_bound=radius * 1.0001)
        allowed &= ~np.isfinite(distance).reshape(image.shape)
    return Overview(image, allowed, noise_map(image), origin, pixel, done)


def noise_map(image: np.ndarray) -> np.ndarray:
    """Standard deviation of the noise at every pixel of a ``(y, x)`` image, its variance linear in brightness.

    The kernel ``[1 -2 1]`` in both directions removes everything smooth (Immerkær, Comput. Vis. Image Underst. 64 (1996)
    300); the median of its magnitude within bands of equal brightness, which edges hardly change, gives one variance a band,
    and a straight line through them is the read-out noise plus the counting noise.
    """
    from scipy import ndimage

    flat = np.full(image.shape, max(float(np.ptp(image)), 1.0) * 1e-9)
    if min(image.shape) < 3 or np.ptp(image) == 0:
        return flat
    second = np.array([1.0, -2.0, 1.0])
    residual = np.abs(ndimage.convolve(image, np.outer(second, second) / 6.0, mode="reflect"))
    brightness = ndimage.gaussian_filter(image, 2.0, mode="reflect")
    bands = int(np.clip(image.size // 200, 1, 12))
    rank = np.argsort(brightness, axis=None)
    levels, variances = [], []
    for band in np.array_split(rank, bands):
        levels.append(float(brightness.flat[band].mean()))
        variances.append(float(np.median(residual.flat[band]) / 0.6744897501960817) ** 2)
    level, variance = np.array(levels), np.array(variances)
    if bands < 3 or np.ptp(level) == 0:
        fitted = np.full(image.shape, variance.mean())
    else:
        # Least absolute deviations by re-weighting: a band full of edges must not pull the line.
        weight = np.ones(bands)
        slope, offset = 0.0, float(np.median(variance))
        for _ in range(20):
            slope, offset = np.polyfit(level, variance, 1, w=np.sqrt(weight))
            weight = 1.0 / np.maximum(np.abs(variance - slope * level - offset), 1e-3 * variance.mean() + 1e-300)
        fitted = slope * brightness + offset
        fitted = np.maximum(fitted, 0.25 * variance.min())
    return np.asarray(np.maximum(np.sqrt(np.maximum(fitted, 0.0)), flat))
