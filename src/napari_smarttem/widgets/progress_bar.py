"""A progress bar that does not hold up the window."""

from __future__ import annotations

from qtpy.QtWidgets import QProgressBar


class ProgressBar(QProgressBar):
    """Qt's, but a new value is drawn with the next drawing of the window.

    Qt's own draws each new value at once, and with it all that waits to be drawn: in a window with napari's canvas that is the
    canvas, several times a second and in the middle of whatever the program was doing.
    """

    def setValue(self, value: int) -> None:
        """Show a value, soon."""
        self.setUpdatesEnabled(False)
        super().setValue(value)
        self.setUpdatesEnabled(True)
