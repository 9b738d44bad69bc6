"""Points on edges: where the brightness changes by more than noise can explain, at the finest scale that shows it."""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from .choosers import Choice, Chooser, Pick, Wanted
from .overview import Overview
from .settings import Options
from .spacing import spread


class EdgeOptions(Options):
    """Settings of the edge chooser."""

    finest_nm: float | None = Field(
        default=None,
        gt=0,
        description="Finest scale at which to look; none: one pixel.",
        json_schema_extra={"units": "nm"},
    )
    coarsest_nm: float | None = Field(
        default=None,
        gt=0,
        description="Coarsest scale at which to look; none: a sixteenth of the overview.",
        json_schema_extra={"units": "nm"},
    )
    false_alarms: float = Field(
        default=0.05, gt=0, lt=1e6, description="Points that noise alone may put into one overview, on average."
    )
    weakest: float = Field(
        default=0.15, ge=0, le=1, description="Edges weaker than this fraction of the strongest ones get no points."
    )


def choose_edges(overview: Overview, options: EdgeOptions, wanted: Wanted) -> Choice:
    """Ridges of the gradient, each at the smallest scale where it is significant.

    At every pixel the finest scale is taken at which the Gaussian gradient exceeds what noise does anywhere in the image
    (Elder & Zucker, IEEE PAMI 20 (1998) 699); the strength is the scale-normalised gradient (Lindeberg, IJCV 30 (1998) 117).
    """
    rows, columns = overview.shape
    if overview.is_flat or min(rows, columns) < 3:
        return Choice(
            remarks=("The overview shows no edges: it is flat or too small. Try the random or grid chooser.",)
        )
    from scipy import ndimage

    pixel = overview.mean_pixel_nm
    finest = max(options.finest_nm / pixel if options.finest_nm else 1.0, 0.7)
    coarsest = options.coarsest_nm / pixel if options.coarsest_nm else max(min(rows, columns) / 16.0, 1.0)
    scales = finest * math.sqrt(2.0) ** np.arange(1 + max(0, math.floor(2.0 * math.log2(max(coarsest / finest, 1.0)))))
    # The magnitude of a gradient of noise is Rayleigh distributed: P(g > t) = exp(-t^2 / 2) at each pixel and scale.
    threshold = math.sqrt(2.0 * math.log(max(overview.image.size * len(scales) / options.false_alarms, 2.0)))

    strength = np.zeros(overview.shape)
    significance = np.zeros(overview.shape)
    scale_at = np.zeros(overview.shape)
    ridge = np.zeros(overview.shape, dtype=bool)
    for sigma in scales:
        dy = ndimage.gaussian_filter(overview.image, sigma, order=(1, 0), mode="reflect")
        dx = ndimage.gaussian_filter(overview.image, sigma, order=(0, 1), mode="reflect")
        magnitude = np.hypot(dy, dx)
        noise = np.sqrt(ndimage.gaussian_filter(overview.noise**2, sigma, mode="reflect"))
        noise *= _gradient_noise(overview.shape, sigma)
        ratio = magnitude / noise
        here = (ratio >= threshold) & (scale_at == 0)
        ridge |= here & _is_ridge(magnitude, dy, dx)
        strength[here] = sigma * magnitude[here]
        significance[here] = ratio[here]
        scale_at[here] = sigma
    row, column = np.nonzero(ridge & overview.allowed)
    if len(row) == 0:
        return Choice(remarks=("No edge stands out from the noise; a longer dwell or a coarser scale may show some.",))
    # A gradient seen only at a coarse scale is shading rather than an edge: of two equal steps the sharper one counts more.
    worth = strength[row, column] * np.sqrt(finest / scale_at[row, column])
    score = np.clip(worth / max(float(np.quantile(worth, 0.98)), 1e-300), 0.0, 1.0)
    strong = score >= options.weakest
    row, column, score = row[strong], column[strong], score[strong]
    order = np.argsort(-score, kind="stable")
    row, column, score = row[order], column[order], score[order]
    places = overview.positions_nm(row, column)
    # Weak edges get fewer points a length than strong ones.
    stretch = np.clip(score, 0.1, 1.0) ** -0.5
    kept = spread(
        places,
        wanted.points,
        spacing_nm=wanted.spacing_nm,
        finest_nm=pixel,
        stretch=stretch,
        taken_nm=overview.taken_nm,
    )
    picks = []
    for index in kept:
        y, x = int(row[index]), int(column[index])
        reason = (
            f"gradient {significance[y, x]:.1f}x the noise at {scale_at[y, x] * pixel:.2g} nm scale, "
            f"step of {strength[y, x] * math.sqrt(2.0 * math.pi) / overview.noise[y, x]:.1f}x the pixel noise"
        )
        picks.append(Pick(float(y), float(x), float(score[index]), "edge", reason))
    return Choice(tuple(picks))


def _gradient_noise(shape: tuple[int, int], sigma: float) -> np.ndarray:
    """Standard deviation of the noisier component of the Gaussian gradient of white noise of unit variance, shape (y, x).

    At the rim the reflected image counts twice, which makes the gradient along it noisier.
    """
    from scipy import ndimage

    gains: list[list[np.ndarray]] = []
    for size in shape:
        middle = 2 * math.ceil(4.0 * sigma) + 3
        small = min(size, 3 * middle)
        one_side = []
        for order in (0, 1):
            response = ndimage.gaussian_filter1d(np.eye(small), sigma, axis=0, order=order, mode="reflect")
            gain = (response**2).sum(axis=1)
            one_side.append(
                np.concatenate([gain[: small // 2], np.full(size - small, gain[small // 2]), gain[small // 2 :]])
            )
        gains.append(one_side)
    (smooth_y, slope_y), (smooth_x, slope_x) = gains
    return np.asarray(np.sqrt(np.maximum(np.outer(slope_y, smooth_x), np.outer(smooth_y, slope_x))))


def _is_ridge(magnitude: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """True where the gradient is largest along its own direction (non-maximum suppression)."""
    from scipy import ndimage

    rows, columns = np.indices(magnitude.shape)
    length = np.maximum(magnitude, 1e-300)
    step_y, step_x = dy / length, dx / length
    ahead = ndimage.map_coordinates(magnitude, [rows + step_y, columns + step_x], order=1, mode="nearest")
    behind = ndimage.map_coordinates(magnitude, [rows - step_y, columns - step_x], order=1, mode="nearest")
    return np.asarray((magnitude >= ahead) & (magnitude > behind))


CHOOSER = Chooser(
    "edges",
    "Edges",
    "Where brightness changes by more than noise can explain, at the finest scale that shows it.",
    EdgeOptions,
    choose_edges,
)
