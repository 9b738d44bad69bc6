"""How many electrons each place of the specimen has seen."""

from __future__ import annotations

import numpy as np

from ...schema import Field2D


class DoseMap:
    """Dose in e/Å² on a square grid of fixed size; every electron that hits the mapped area is counted exactly once.

    Parameters
    ----------
    extent : Field2D
        Mapped area of the specimen, in nm.
    size : int
        Pixels per side: memory does not grow with the run.
    """

    def __init__(self, extent: Field2D, size: int = 600) -> None:
        self.extent = extent
        self.size = size
        self.pixel_nm = (extent.height_nm / size, extent.width_nm / size)
        self._pixel_a2 = self.pixel_nm[0] * self.pixel_nm[1] * 100.0
        self.e_per_a2 = np.zeros((size, size), dtype=np.float32)

    def add_field(self, field: Field2D, electrons: float) -> None:
        """Spread `electrons` evenly over `field`; what falls outside the map is not counted."""
        rows, share_y = _overlap(field.y_nm, field.height_nm, self.extent.y_nm, self.pixel_nm[0], self.size)
        columns, share_x = _overlap(field.x_nm, field.width_nm, self.extent.x_nm, self.pixel_nm[1], self.size)
        self.e_per_a2[rows, columns] += (electrons / self._pixel_a2) * np.outer(share_y, share_x).astype(np.float32)

    def add_probe(self, y_nm: float, x_nm: float, covariance_nm2: np.ndarray, electrons: float) -> None:
        """Deposit `electrons` as a Gaussian spot; one smaller than a pixel fills the pixels it touches."""
        sigma = np.sqrt(np.diag(covariance_nm2))
        rows, share_y = _gaussian_share(y_nm, float(sigma[0]), self.extent.y_nm, self.pixel_nm[0], self.size)
        columns, share_x = _gaussian_share(x_nm, float(sigma[1]), self.extent.x_nm, self.pixel_nm[1], self.size)
        self.e_per_a2[rows, columns] += (electrons / self._pixel_a2) * np.outer(share_y, share_x).astype(np.float32)

    def at(self, y_nm: np.ndarray, x_nm: np.ndarray) -> np.ndarray:
        """Dose at places, in e/Å²; the value of the pixel they fall in, 0 outside."""
        i = np.floor((np.asarray(y_nm) - self.extent.y_nm) / self.pixel_nm[0]).astype(int)
        j = np.floor((np.asarray(x_nm) - self.extent.x_nm) / self.pixel_nm[1]).astype(int)
        inside = (i >= 0) & (i < self.size) & (j >= 0) & (j < self.size)
        return np.where(inside, self.e_per_a2[np.clip(i, 0, self.size - 1), np.clip(j, 0, self.size - 1)], 0.0)

    @property
    def electrons(self) -> float:
        """All electrons counted."""
        return float(self.e_per_a2.sum(dtype=float)) * self._pixel_a2


def _overlap(
    start_nm: float, length_nm: float, origin_nm: float, pixel_nm: float, size: int
) -> tuple[slice, np.ndarray]:
    """Pixels an interval covers, and the share of the interval in each."""
    first, last = (start_nm - origin_nm) / pixel_nm, (start_nm + length_nm - origin_nm) / pixel_nm
    low, high = max(0, int(np.floor(first))), min(size, int(np.ceil(last)))
    if high <= low:
        return slice(0, 0), np.zeros(0)
    edges = np.clip(np.arange(low, high + 1), first, last)
    return slice(low, high), np.diff(edges) / (last - first)


def _gaussian_share(
    centre_nm: float, sigma_nm: float, origin_nm: float, pixel_nm: float, size: int
) -> tuple[slice, np.ndarray]:
    """Pixels within 4 sigma of a Gaussian and the share of it in each."""
    from scipy.special import ndtr

    centre, sigma = (centre_nm - origin_nm) / pixel_nm, sigma_nm / pixel_nm
    low, high = int(np.floor(centre - 4 * sigma)), int(np.ceil(centre + 4 * sigma))
    share = np.diff(ndtr((np.arange(low, high + 1) - centre) / sigma))
    share /= share.sum()
    kept = slice(max(0, low), max(0, min(size, high)))
    return kept, share[max(0, -low) : max(0, -low) + max(0, kept.stop - kept.start)]
