"""A progress bar's new value is drawn with the next drawing of the window, not in the middle of what the program does."""

from __future__ import annotations

import pytest
from qtpy.QtWidgets import QProgressBar

from napari_smarttem.widgets.progress_bar import ProgressBar

pytestmark = pytest.mark.gui


def painted(kind):
    class Counting(kind):
        drawn = 0

        def paintEvent(self, event):
            self.drawn += 1
            super().paintEvent(event)

    return Counting()


@pytest.mark.parametrize(("kind", "at_once"), [(ProgressBar, 0), (QProgressBar, 5)])
def test_values_wait_for_the_window(qtbot, kind, at_once):
    bar = painted(kind)
    qtbot.addWidget(bar)
    bar.resize(300, 30)
    bar.setRange(0, 100)
    with qtbot.waitExposed(bar):
        bar.show()
    qtbot.waitUntil(lambda: bar.drawn > 0)
    qtbot.wait(50)
    before = bar.drawn
    for value in (20, 40, 60, 80, 100):
        bar.setValue(value)
    assert bar.drawn - before == at_once
    assert bar.value() == 100
    qtbot.waitUntil(lambda: bar.drawn > before)
    assert bar.updatesEnabled()
