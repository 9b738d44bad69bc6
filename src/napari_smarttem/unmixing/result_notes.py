"""What a person should read beside a result."""

from __future__ import annotations

import numpy as np

from ..schema.frame import Frame
from .prepare import FEW_NEGATIVES
from .result import UnmixingResult
from .spatial_filter import FEWEST_PIXELS

NOISY = 0.1
"""Maps of which so much of the variance is noise correlate with those of another measurement by less than 0.9."""


def _noisy(result: UnmixingResult) -> str:
    """A sentence on maps whose differences between pixels are noise for a good part, by their error bars."""
    k = result.components
    if result.maps[0].size < FEWEST_PIXELS or result.provenance.get("smooth_maps", {}).get("used"):
        return ""
    variance = result.maps.reshape(k, -1).var(axis=1)
    part = (result.map_errors.reshape(k, -1) ** 2).mean(axis=1) / np.maximum(variance, 1e-30)
    if result.method in ("svd", "ica", "clusters", "labels", "autoencoder") or not part.max() > NOISY:
        return ""
    worst = int(np.argmax(part))
    name, percent = result.names[worst], 100 * min(float(part[worst]), 1.0)
    return f"Of the differences between pixels in the map of {name}, {percent:.0f} % are noise (of their variance)."


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
        Sentences: the warnings, channels in which nothing was counted, maps that are mostly noise, and what to do about a few
        negative values.
    """
    found = list(result.warnings)
    silent = int((result.endmembers == 0).all(axis=0).sum())
    if silent:
        words = "channel holds" if silent == 1 else "channels hold"
        channels = result.endmembers.shape[1]
        found.append(f"{silent} of {channels} {words} no counts in any pixel, and play no part in the answer.")
    noisy = _noisy(result)
    if noisy:
        found.append(
            f"{noisy} There are few counts a pixel: take noise out of the maps (smooth_maps) or bin pixels, 2 x 2 has four times"
            " the counts."
        )
    if frame is not None and not frame.is_lazy and result.provenance.get("noise") == "uniform":
        negative = int(np.count_nonzero(np.asarray(frame.data) < 0))
        total = int(np.prod(frame.shape))
        if 0 < negative <= FEW_NEGATIVES * total:
            found.append(
                f"Only {negative} of {total} values are negative, as read-out noise leaves them: set them to zero first, and"
                " the noise of counting can be used, which tells components from noise much better."
            )
    return tuple(found)
