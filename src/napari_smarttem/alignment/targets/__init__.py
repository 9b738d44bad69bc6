"""Custom optics that can be aligned: each a forward model, a list of controls and a figure of merit.

A target is found by name through the entry points ``napari_smarttem.alignment_targets``, so that another package can add one.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from ...schema import BadInput
from .base import AlignmentTarget, Guess, Parameter
from .fit import Fit, refine, search

GROUP = "napari_smarttem.alignment_targets"

__all__ = ["AlignmentTarget", "Fit", "Guess", "Parameter", "available", "refine", "search", "target"]


def available() -> tuple[str, ...]:
    """Names of the targets that are installed."""
    return tuple(sorted(point.name for point in entry_points(group=GROUP)))


def target(name: str, **settings: Any) -> AlignmentTarget:
    """The target called `name`; `BadInput` names those there are."""
    for point in entry_points(group=GROUP, name=name):
        made: AlignmentTarget = point.load()(**settings)
        return made
    raise BadInput(f"there is no alignment target {name!r}; there are {', '.join(available()) or 'none'}.")
