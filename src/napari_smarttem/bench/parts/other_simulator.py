"""Ronchigrams that another program has made: abTEM's multislice of films of single atoms, with the aberrations it was given.

``docs/crosscheck/ronchigram_abtem.py`` made the file in ``data``; it holds no shot noise, and every intensity to 3 % of the mean,
which is less than half of the noise of 200 electrons a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...physics.ronchigram import Film, Geometry

FILE = Path(__file__).parent / "data" / "ronchigrams_abtem.npz"
DOSE_E_PER_PX = 200.0


def frames(pixels: int, seed: int, file: Path = FILE) -> Iterator[tuple[Geometry, np.ndarray, np.ndarray, Film]]:
    """Geometry, coefficients (8,), counts (pixels, pixels) of 200 electrons a pixel, and the film, of each frame.

    Parameters
    ----------
    pixels : int
        512, or a size to which they are binned.
    seed : int
        Of the shot noise.

    Yields
    ------
    Geometry, ndarray, ndarray, Film
        The film is this package's that comes nearest to the spectrum of the atoms' phase.
    """
    with np.load(file, allow_pickle=False) as kept:
        stored, step, coefficients = kept["frames"], float(kept["step"]), kept["coefficients"]
        phase_rms = kept["phase_rms"]
        shape = {name: float(kept[name]) for name in ("k0_per_nm", "ring", "ring_per_nm", "ring_width_per_nm")}
        geometry = Geometry(float(kept["high_tension_v"]), float(kept["half_angle_mrad"]), pixels)
    bins = stored.shape[-1] // pixels
    for number, (bytes_, truth, rms) in enumerate(zip(stored, coefficients, phase_rms, strict=True)):
        flux = bytes_.astype(float).reshape(pixels, bins, pixels, bins).sum(axis=(1, 3)) * step
        rng = np.random.default_rng([seed, 79, pixels, number])
        counts = rng.poisson(DOSE_E_PER_PX * flux / flux.mean())
        yield geometry, truth, counts.astype(np.float32), Film(phase_rms=float(rms), **shape)
