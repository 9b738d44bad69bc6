"""What every method gives, and how a menu shows a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .engine import Problem


@dataclass(frozen=True)
class Found:
    """What a method found.

    Parameters
    ----------
    corners : ndarray
        ``(k, r)`` endmembers as scores: ``corners @ vectors.T * channel_scale`` is the spectrum.
    assumption : str
        The sentence on which the answer rests.
    warnings : tuple of str
        Sentences.
    amounts : ndarray, optional
        ``(pixels, k)`` in units of scores; None: non-negative least squares is to find them.
    used : str
        The method that was used in the end, where it differs from the one asked for.
    sort : bool
        Whether components may be put in the order of how much there is of them.
    extra : dict
        What only this method has.
    spectra : ndarray, optional
        ``(k, channels)`` endmembers in data units, where they are known better than by `corners`.
    errors : ndarray, optional
        ``(k,)`` or ``(pixels, k)`` standard errors of `amounts`, where they do not follow from `corners`.
    names : tuple of str
        Of the components, where the method knows them; in the order of `corners`, with ``sort=False``.
    """

    corners: np.ndarray
    assumption: str
    warnings: tuple[str, ...] = ()
    amounts: np.ndarray | None = None
    used: str = ""
    sort: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)
    spectra: np.ndarray | None = None
    errors: np.ndarray | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """A method as a menu shows it."""

    name: str
    title: str
    summary: str
    find: Callable[[Problem], Found]
