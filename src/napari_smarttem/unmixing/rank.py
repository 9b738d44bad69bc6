"""How many components there really are: singular values that noise alone would not give."""

from __future__ import annotations

import numpy as np

from .result import Scree
from .spectra import SpectrumImage
from .subspace import Subspace

MARGIN = 1.02
LARGEST = 12


def noise_edge(subspace: Subspace) -> float:
    """Largest singular value of pure noise of this size (Marchenko and Pastur), in the scaled space.

    Counting noise has variance one there; where the residual says it is more, as after a gain, that is taken.
    """
    n, m = subspace.size
    return float(np.sqrt(subspace.noise) * (np.sqrt(n) + np.sqrt(m)))


def choose(
    image: SpectrumImage, subspace: Subspace, wanted: int | None = None, *, largest: int = LARGEST, seed: int = 0
) -> Scree:
    """Count the singular values above the noise, or take the `wanted` number and say how it compares."""
    threshold = MARGIN * noise_edge(subspace)
    above = int(np.count_nonzero(subspace.values > threshold))
    found = min(max(above, 1), largest, len(subspace.values))
    if wanted is None:
        reason = f"{found} singular values stand above {threshold:.4g}, the largest that noise alone would give."
        return Scree(subspace.values, threshold, found, reason)
    reason = f"{wanted} were asked for; {above} singular values stand above the noise ({threshold:.4g})."
    return Scree(subspace.values, threshold, wanted, reason)
