"""Quiet words, warnings and errors can be read on napari's dark and on its light theme."""

from __future__ import annotations

import pytest
from qtpy.QtGui import QColor, QPalette
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from napari_smarttem.widgets.tones import set_tone

pytestmark = pytest.mark.gui

GROUNDS = {"dark": ("#262930", "#f0f1f2"), "light": ("#efebe9", "#3b3a39")}


def luminance(color):
    """Relative luminance (WCAG 2.2)."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in QColor(color).getRgbF()[:3]]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one, other):
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("tone", ["quiet", "good", "warning", "bad"])
def test_every_tone_follows_the_theme_and_can_be_read(qtbot, tone):
    window = QWidget()
    qtbot.addWidget(window)
    label = QLabel("words")
    set_tone(label, tone)
    QVBoxLayout(window).addWidget(label)
    seen = set()
    for ground, text in (GROUNDS["dark"], GROUNDS["light"], GROUNDS["dark"]):
        window.setStyleSheet(f"QWidget {{ background-color: {ground}; color: {text}; }}")
        with qtbot.waitExposed(window):
            window.show()
        color = label.palette().color(QPalette.ColorRole.WindowText)
        seen.add(color.name())
        assert contrast(color, ground) >= 4.5, (tone, ground, color.name())
    assert len(seen) == 2
    set_tone(label, "")
    assert label.palette().color(QPalette.ColorRole.WindowText).name() == QColor(GROUNDS["dark"][1]).name()
