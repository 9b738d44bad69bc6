"""A Points layer that describes the target under the cursor in the status bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari.layers import Points


class TargetPoints(Points):
    """Napari's Points, whose status is the description of the nearest target.

    Attributes
    ----------
    describe : callable or None
        Called with (y, x) in nm; returns a line of text, or "" where no target is near. napari asks on a thread of its own.
    """

    describe: Callable[[float, float], str] | None = None

    @property
    def _type_string(self) -> str:
        # what napari saves this layer as, and the icon it gives it
        return "points"

    def get_status(self, position: Any = None, **kwargs: Any) -> dict[str, str]:
        """Napari's status, with the target's description in place of bare numbers."""
        status = super().get_status(position, **kwargs)
        if position is not None and self.describe is not None:
            text = self.describe(float(position[-2]), float(position[-1]))
            if text:
                status["coordinates"] = status["value"] = f" {text}"
        return status
