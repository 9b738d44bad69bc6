"""What the surroundings of a pixel look like, as numbers."""

from __future__ import annotations

import numpy as np

from .overview import Overview


def patches(overview: Overview, size: int) -> np.ndarray:
    """The `size` x `size` surroundings of every pixel in units of the noise, shape ``(y * x, size * size)``, float32.

    A Gaussian weight makes what is near the middle count more, so that a place is told by itself rather than by its neighbour.
    """
    half = size // 2
    # One scale for the whole image keeps a patch what it looks like; the noise makes the unit, so that 1 is one sigma.
    scaled = (overview.image - np.median(overview.image)) / float(np.sqrt(np.mean(overview.noise**2)))
    padded = np.pad(scaled.astype(np.float32), half, mode="reflect" if min(overview.shape) > half else "edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size))
    along = np.exp(-0.5 * ((np.arange(size) - half) / (0.3 * size)) ** 2)
    return np.asarray((windows * np.outer(along, along).astype(np.float32)).reshape(-1, size * size))


def texture(overview: Overview, scales_px: tuple[float, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Brightness, gradient and roughness at several scales.

    Returns
    -------
    features : array, shape (y * x, 3 * len(scales_px))
        Each in units of its own robust spread over the image.
    names : tuple of str
        ``"brightness at 1 px"`` ...
    """
    from scipy import ndimage

    image = overview.image
    columns: list[np.ndarray] = []
    names: list[str] = []
    for sigma in scales_px:
        smooth = ndimage.gaussian_filter(image, sigma, mode="reflect")
        gradient = sigma * ndimage.gaussian_gradient_magnitude(image, sigma, mode="reflect")
        square = ndimage.gaussian_filter(image**2, 2.0 * sigma, mode="reflect")
        mean = ndimage.gaussian_filter(image, 2.0 * sigma, mode="reflect")
        rough = np.sqrt(np.maximum(square - mean**2, 0.0))
        columns += [smooth.ravel(), gradient.ravel(), rough.ravel()]
        names += [f"{word} at {sigma:g} px" for word in ("brightness", "gradient", "roughness")]
    features = np.stack(columns, axis=1)
    centre = np.median(features, axis=0)
    spread = np.quantile(features, 0.95, axis=0) - np.quantile(features, 0.05, axis=0)
    spread[spread <= 0] = np.maximum(features.std(axis=0), 1e-300)[spread <= 0]
    return (features - centre) / spread, tuple(names)


def principal_components(data: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean ``(m,)``, axes ``(k, m)`` and variances ``(k,)`` of ``(n, m)`` data, the largest variance first."""
    mean = data.mean(axis=0)
    centred = data - mean
    covariance = centred.T.astype(float) @ centred.astype(float) / max(len(data) - 1, 1)
    values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(-values)[:wanted]
    return mean, vectors[:, order].T, np.maximum(values[order], 0.0)
