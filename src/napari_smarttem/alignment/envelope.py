"""The envelope of local spectra: its logarithm as a polynomial in q², of which only a few terms are ever needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

ENVELOPE = 8
"""Terms of the polynomial."""


def chebyshev(u: torch.Tensor, terms: int = ENVELOPE, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """The first Chebyshev polynomials of u, which runs from 0 to about 1: (terms, ...), in `out` where it is given."""
    import torch

    t = (2 * u - 1).clamp_(-1.2, 1.2)
    if out is None:
        out = torch.empty((terms, *t.shape), dtype=t.dtype)
    out[0] = 1.0
    out[1] = t
    t = 2 * t
    for k in range(2, terms):
        torch.sub(t * out[k - 1], out[k - 2], out=out[k])
    return out


def chebyshev_slope(u: torch.Tensor, weights: np.ndarray) -> torch.Tensor:
    """Derivative with respect to u of the polynomial with these weights."""
    from numpy.polynomial import chebyshev as series

    slope = series.cheb2poly(series.chebder(weights)) * 2.0
    t = (2 * u - 1).clamp(-1.1, 1.1)
    out = t * 0 + float(slope[-1])
    for one in slope[-2::-1]:
        out = out * t + float(one)
    return out
