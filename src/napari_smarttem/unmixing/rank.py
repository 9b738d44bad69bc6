"""How many components there really are: singular values that noise alone would not give, checked on data held out."""

from __future__ import annotations

import numpy as np

from .result import Scree
from .spectra import SpectrumImage, spectrum_image
from .subspace import Subspace, decompose

MARGIN = 1.02
LARGEST = 12
DOUBTFUL = (0.94, 1.10)
"""A singular value this near to the noise is checked on counts held out."""
DOUBTFUL_SPARSE = 1.5
"""The same, where most values are zero."""
HELD_OUT = 0.1
MORE = 4
"""Singular vectors of what is left that are made beyond those asked for."""
TOSSES = 2
"""So often a doubtful component must be seen."""
SURE = 4.0
"""Standard deviations above chance from which a component is there."""
MOST_VALUES = 2**25
"""Of a larger image a random part of the pixels is looked at."""


def noise_edge(subspace: Subspace, correlation: float = 0.0) -> float:
    """Largest singular value of pure noise of this size (Marchenko and Pastur), in the scaled space.

    Counts have variance one there (less in channels that hold next to nothing). Where the residual says it is more, as
    after a gain, that is taken; noise that neighbouring channels share, with correlation rho, has a spectrum that is
    ``(1 + rho) / (1 - rho)`` higher at its top.
    """
    n, m = subspace.size
    variance = max(subspace.noise, 1.0) if subspace.counts else subspace.noise
    top = (1.0 + correlation) / (1.0 - correlation)
    return float(
        np.sqrt(variance) * (np.sqrt(n) + np.sqrt(m * top)) * (1.0 if correlation == 0 else np.sqrt(top) ** 0.5)
    )


def residual_correlation(image: SpectrumImage, subspace: Subspace) -> float:
    """Correlation of the residuals of neighbouring channels, from a sample of pixels; zero for independent counts."""
    pixels = np.flatnonzero(subspace.pixel_scale > 0)
    pixels = pixels[:: max(1, len(pixels) // 64)][:64]
    if not image.addressable or len(pixels) < 4:
        return 0.0
    r = max(1, int(np.count_nonzero(subspace.values > MARGIN * noise_edge(subspace))))
    held = subspace.channel_scale > 0
    inverse = np.where(held, 1.0 / np.where(held, subspace.channel_scale, 1.0), 0.0)
    scaled = image.rows(pixels) * inverse / subspace.pixel_scale[pixels, None]
    left = scaled - subspace.scores[pixels, :r] @ subspace.vectors[:, :r].T
    left = left[:, held]
    power = float((left**2).sum())
    return 0.0 if power == 0 else float(np.clip((left[:, 1:] * left[:, :-1]).sum() / power, -0.9, 0.9))


def choose(
    image: SpectrumImage, subspace: Subspace, wanted: int | None = None, *, largest: int = LARGEST, seed: int = 0
) -> Scree:
    """Count the singular values above the noise, or take the `wanted` number and say how it compares."""
    correlation = residual_correlation(image, subspace)
    shared = correlation if correlation > 0.1 else 0.0
    threshold = MARGIN * noise_edge(subspace, shared)
    above = int(np.count_nonzero(subspace.values > threshold))
    n, m = subspace.size
    found = min(max(above, 1), largest, len(subspace.values), max(1, min(n, m) - 1))
    why = f"stand above {threshold:.4g}, the largest that noise alone would give"
    if shared:
        why += f" (neighbouring channels share their noise, correlation {shared:.2f})"
    if wanted is not None:
        reason = f"{wanted} were asked for; {above} singular values {why}."
        return Scree(subspace.values, threshold, wanted, reason, correlation)
    reason = f"{found} singular values {why}."
    ratio = subspace.values / threshold
    # a few lonely counts give singular values that noise of even size would not
    sparse = subspace.counts and subspace.total < n * m
    doubtful = DOUBTFUL[0], DOUBTFUL_SPARSE if sparse else DOUBTFUL[1]
    close = (ratio > doubtful[0]) & (ratio < doubtful[1])
    if close.any() and subspace.counts and image.addressable:
        low = max(1, int(np.count_nonzero(ratio >= doubtful[1])))
        high = min(int(np.count_nonzero(ratio > doubtful[0])), largest)
        found = low
        for turn in range(TOSSES):  # what one toss of the coins shows by chance another does not
            seen = held_out(image, high, seed=seed + 7919 * turn)
            found = low
            while found < high and seen[found] > SURE:
                found += 1
            high = found
            if found == low:
                break
        reason = f"{found} components are seen again in counts that were held out; more are not ({above} singular values {why})."
    return Scree(subspace.values, threshold, found, reason, correlation)


def held_out(image: SpectrumImage, largest: int, *, seed: int = 0) -> np.ndarray:
    """How surely component 1, 2 ... is seen again in counts held out, ``(largest,)`` in standard deviations of chance.

    Every count goes to the test by chance, one in ten: what is left and what is held out are independent Poisson counts. The
    rest is decomposed, and each of its components projected on the test: nothing but noise comes to zero on average.
    """
    rng = np.random.default_rng(seed)
    flat = image.data.reshape(-1, image.channels)
    most = max(MOST_VALUES // image.channels, 4 * largest)
    if len(flat) > most:
        flat = flat[np.sort(rng.choice(len(flat), most, replace=False))]
    counts = np.maximum(np.rint(np.asarray(flat)), 0).astype(np.int32)
    where = np.nonzero(counts)
    test = np.zeros(counts.shape, dtype=np.float32)
    test[where] = rng.binomial(counts[where], HELD_OUT)
    # some more than are looked at: the weakest of a sketch are the worst
    rest = decompose(spectrum_image((counts - test)[None].astype(np.float32)), largest + MORE, seed=seed)
    inverse_h, inverse_g = (
        np.where(scale > 0, 1.0 / np.where(scale > 0, scale, 1.0), 0.0)
        for scale in (rest.channel_scale, rest.pixel_scale)
    )
    seen = (test @ (rest.vectors * inverse_h[:, None]).astype(np.float32)) * inverse_g[:, None]
    along = np.einsum("ij,ij->j", seen, rest.scores.astype(np.float64))
    squares = (rest.scores.astype(np.float64) ** 2).sum(axis=0) * (rest.vectors**2).sum(axis=0)
    sure = along / np.sqrt(np.maximum(squares * HELD_OUT / (1.0 - HELD_OUT), 1e-300))
    return np.asarray(sure[:largest])


def warnings(subspace: Subspace, scree: Scree) -> tuple[str, ...]:
    """What is unusual about the noise, in sentences."""
    found = []
    correlation = scree.noise_correlation
    if correlation > 0.1:
        found.append(
            f"Neighbouring channels share their noise (correlation {correlation:.2f}), as after a scintillator or"
            " resampling: error bars are too small and chi² misleads."
        )
    if subspace.poisson and subspace.offset > 0:
        found.append(
            f"The noise is not that of counting: its variance is {subspace.noise:.3g} times the mean (the gain, in counts per"
            f" electron) and {subspace.read_out:.2g} squared without any signal (read-out, or a constant that was subtracted)."
            " Scaling and error bars follow that."
        )
    elif subspace.poisson and subspace.noise > 1.5:
        found.append(
            f"The noise is {np.sqrt(subspace.noise):.2g} times that of counting: the values are not counts (a gain, or"
            " read-out noise); error bars were scaled accordingly."
        )
    if not subspace.poisson:
        found.append(
            "There are negative values, or noise that does not grow with the mean, so these are not counts: the same noise was"
            " assumed everywhere."
        )
    return tuple(found)
