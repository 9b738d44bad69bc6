"""Colours of words that can be read on napari's dark and on its light theme: quiet, warning, bad, good."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QEvent, QObject
from qtpy.QtGui import QPalette
from qtpy.QtWidgets import QLabel

_TONES = {
    "": ("", ""),
    "quiet": ("#9aa0a8", "#5f646b"),
    "good": ("#00B583", "#00694a"),
    "warning": ("#E69F00", "#8a5000"),
    "bad": ("#ff8a66", "#a8321a"),
}
"""On dark, on light."""
_EVENTS = frozenset({QEvent.Type.StyleChange, QEvent.Type.PaletteChange, QEvent.Type.Show, QEvent.Type.ParentChange})


class _Tone(QObject):
    """Follows the theme of the window that its label is in."""

    def __init__(self, label: QLabel) -> None:
        super().__init__(label)
        self.tone = ""
        self._style = ""
        label.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() in _EVENTS:
            self.paint()
        return super().eventFilter(watched, event)

    def paint(self) -> None:
        label: Any = self.parent()
        around = label.parentWidget() or label
        dark = around.palette().color(QPalette.ColorRole.WindowText).lightness() > 127
        color = _TONES[self.tone][0 if dark else 1]
        style = f"color: {color};" if color else ""
        if style != self._style:
            self._style = style
            label.setStyleSheet(style)


def set_tone(label: QLabel, tone: str) -> None:
    """Give the words of a label a tone that it keeps when the theme changes.

    Parameters
    ----------
    label : QLabel
        Its style sheet is taken for this.
    tone : str
        ``"quiet"``, ``"good"``, ``"warning"``, ``"bad"``, or empty for the colour of all other words.
    """
    kept = label.findChild(_Tone) or _Tone(label)
    kept.tone = tone
    kept.paint()
