"""What a focused probe would have told at the same dose: the comparison that structured illumination has to stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .posterior import STRENGTHS, Posterior


@dataclass(frozen=True)
class Raster:
    """A calculated raster scan.

    Attributes
    ----------
    picture : ndarray, shape (pixels, pixels)
        Reconstructed as the run's own picture is, with the same kind of prior.
    error : float
        ``|picture - specimen| / |specimen|``.
    electrons_per_px : float
    """

    picture: np.ndarray
    error: float
    electrons_per_px: float


def ideal_raster(specimen: np.ndarray, electrons: float, *, seed: int = 0) -> Raster:
    """A pencil beam without blur, probe tails or dead time, which gives every pixel the same share of `electrons`.

    Parameters
    ----------
    specimen : ndarray, shape (pixels, pixels)
        Transmission, 0 to 1. On an instrument nobody knows it: the run's own picture takes its place.
    electrons : float
        Of the whole scan.
    """
    each = electrons / specimen.size
    counted = np.random.default_rng([seed, 65]).poisson(each * specimen.ravel()) / each
    picture = reconstructed_raster(counted, each)
    error = float(np.linalg.norm(picture - specimen) / np.linalg.norm(specimen))
    return Raster(picture, error, each)


def reconstructed_raster(
    counted: np.ndarray, electrons_per_px: float, *, left: float = 1.0, read_noise_e: float = 0.0
) -> np.ndarray:
    """Picture from one signal a pixel (fractions of the beam), by the estimate that is used for patterns, (pixels, pixels).

    `left` is the share of the opacity that a pixel's exposure left on average; the picture is that of the fresh specimen.
    """
    posterior = Posterior(round(counted.size**0.5), electrons_per_px, read_noise_e=read_noise_e)
    patterns, faded = np.eye(counted.size, dtype=np.float32) * np.float32(left), np.full(counted.size, 1.0 - left)
    posterior.add(patterns, counted.ravel(), faded)
    posterior.choose_strength(STRENGTHS[::2], rounds=2)
    posterior.retune()
    posterior.settle(4)
    return posterior.picture


def expected_error(picture: np.ndarray, uncertainty: np.ndarray) -> float:
    """Relative error that the uncertainty lets expect: ``rms(uncertainty) / rms(picture)``."""
    return float(np.linalg.norm(uncertainty) / max(float(np.linalg.norm(picture)), 1e-12))


def expected_raster_error(picture: np.ndarray, electrons: float, strength: float) -> float:
    """`expected_error` of the ideal raster of a specimen that looks like `picture`, with a prior of the same strength."""
    each = electrons / picture.size
    posterior = Posterior(picture.shape[0], each, strength=strength)
    posterior.add(np.eye(picture.size, dtype=np.float32), np.clip(picture.ravel(), 0.0, 1.0))
    posterior.picture = np.array(picture, dtype=float)
    posterior.settle(1)
    return expected_error(picture, posterior.uncertainty())
