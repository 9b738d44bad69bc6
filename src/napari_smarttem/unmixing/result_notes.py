"""What a person should read beside a result."""

from __future__ import annotations

import numpy as np

from ..schema.frame import Frame
from .prepare import FEW_NEGATIVES
from .result import UnmixingResult


def notes(result: UnmixingResult, frame: Frame | None = None) -> tuple[str, ...]:
    """The result's warnings, and what can be seen beside them.

    Parameters
    ----------
    result : UnmixingResult
    frame : Frame, optional
        What was unmixed: looked at where a few negative values cost the noise of counting.

    Returns
    -------
    tuple of str
        Sentences: the warnings, channels in which nothing was counted, and what to do about a few negative values.
    """
    found = list(result.warnings)
    silent = int((result.endmembers == 0).all(axis=0).sum())
    if silent:
        words = "channel holds" if silent == 1 else "channels hold"
        channels = result.endmembers.shape[1]
        found.append(f"{silent} of {channels} {words} no counts in any pixel, and play no part in the answer.")
    if frame is not None and not frame.is_lazy and result.provenance.get("noise") == "uniform":
        negative = int(np.count_nonzero(np.asarray(frame.data) < 0))
        total = int(np.prod(frame.shape))
        if 0 < negative <= FEW_NEGATIVES * total:
            found.append(
                f"Only {negative} of {total} values are negative, as read-out noise leaves them: set them to zero first, and"
                " the noise of counting can be used, which tells components from noise much better."
            )
    return tuple(found)
