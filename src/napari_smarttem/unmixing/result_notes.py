"""What a person should read beside a result."""

from __future__ import annotations

import numpy as np

from .result import UnmixingResult


def notes(result: UnmixingResult) -> tuple[str, ...]:
    """The result's warnings, and what can be seen in its spectra: channels in which nothing was counted."""
    silent = int((result.endmembers == 0).all(axis=0).sum())
    if not silent:
        return result.warnings
    channels = result.endmembers.shape[1]
    words = "channel holds" if silent == 1 else "channels hold"
    return (*result.warnings, f"{silent} of {channels} {words} no counts in any pixel, and play no part in the answer.")
