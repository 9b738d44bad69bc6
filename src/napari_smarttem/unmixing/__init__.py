"""Spectrum unmixing: what a spectrum image is made of, where, how much, how sure, and on which assumption."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import unmix as unmix
    from .methods import METHODS as METHODS
    from .result import Match as Match
    from .result import Scree as Scree
    from .result import UnmixingResult as UnmixingResult
    from .result import match as match
    from .result_file import save as save

_WHERE = {
    "METHODS": "methods",
    "Match": "result",
    "Scree": "result",
    "UnmixingResult": "result",
    "match": "result",
    "save": "result_file",
    "unmix": "engine",
}
__all__ = ["METHODS", "Match", "Scree", "UnmixingResult", "match", "save", "unmix"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: compiled kernels and linear algebra wait until then."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value  # otherwise the module `save` would stand here from now on, where the function should
    return value
