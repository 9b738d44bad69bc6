"""A specimen that fades while it is measured: signals stay linear in the picture of the *fresh* specimen.

Where a pixel's opacity is ``a exp(-D / Dc)`` after a dose D, with a critical dose Dc (what leaves 1/e; Egerton, Li & Malac,
*Micron* 35 (2004) 399), a signal ``sum p (1 - a exp(-D / Dc))`` is that of the pattern ``p exp(-D / Dc)`` on the fresh
transmission, plus what comes through where matter was, ``sum p (1 - exp(-D / Dc))``. A pattern on what is burnt away tells
nothing, and is not chosen.
"""

from __future__ import annotations

import numpy as np


def as_seen(patterns: np.ndarray, dose: np.ndarray, critical: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Patterns as they act on the fresh specimen, and the part of their signals that the picture has no part in.

    Parameters
    ----------
    patterns : ndarray, shape (n, pixels²) or (n, pixels, pixels)
        Fractions of the beam.
    dose : ndarray, shape (pixels²,) or (n, pixels²)
        Of each pixel when the pattern is shown, in the unit of `critical`.
    critical : float or None
        Dose that leaves 1/e of the opacity; None: nothing fades.

    Returns
    -------
    acting : ndarray, shape (n, pixels²)
    background : ndarray, shape (n,)
    """
    if critical is None:
        return patterns, np.zeros(len(patterns))
    patterns = patterns.reshape(len(patterns), -1)
    left = np.exp(-np.asarray(dose, dtype=float) / critical).astype(np.float32)
    acting = patterns * left
    return acting, np.asarray(patterns.sum(axis=1) - acting.sum(axis=1), dtype=float)
