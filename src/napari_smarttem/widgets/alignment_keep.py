"""*Keep it good*: measure again every so many minutes, and ask or correct where it is not good any more."""

from __future__ import annotations

import time
from typing import Any

from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QCheckBox, QComboBox, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from ..alignment.reading import Reading
from .base import duration_text
from .setting_editors import NumberBox

MODES = ("ask", "correct")
TICK_MS = 500


class KeepBox(QWidget):
    """The line of the dock: on or off, how often, ask or correct, and when the next measurement is due."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.on = QCheckBox("Keep it good, every")
        self.on.setToolTip("Measure again now and then while this dock is open; never while another run goes on")
        self.minutes = NumberBox(units="min")
        self.minutes.set_limits(0.01, 600.0)
        self.minutes.set_number(10.0)
        self.mode = QComboBox()
        self.mode.addItems(("then ask", "then correct"))
        self.mode.setToolTip("Ask: show what would be corrected. Correct: do it, within the limits of each control")
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.words.hide()
        row = QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.on)
        row.addWidget(self.minutes, 1)
        row.addWidget(self.mode)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(1)
        column.addLayout(row)
        column.addWidget(self.words)


class KeepGood(QObject):
    """Decides when to measure again, and what to do with what was found.

    Parameters
    ----------
    dock : AlignmentDock
    box : KeepBox
    """

    def __init__(self, dock: Any, box: KeepBox) -> None:
        super().__init__(dock)
        self._dock = dock
        self.box = box
        self.measuring = False
        self.correcting = False
        self._due = 0.0
        self._timer = QTimer(self)
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self.look)
        box.on.toggled.connect(self._toggled)
        box.minutes.valueChanged.connect(self._toggled)

    def _toggled(self, *_: Any) -> None:
        on = self.box.on.isChecked()
        self.box.words.setVisible(on)
        self._due = time.monotonic() + 60.0 * self.box.minutes.number()
        self._timer.start() if on else self._timer.stop()
        self._say()

    def look(self) -> None:
        """Measure where it is time to and nothing else goes on."""
        target = self._dock.target
        if not self.box.on.isChecked() or self.measuring or self.correcting or target is None or not target.measured:
            return
        if time.monotonic() >= self._due and not self._dock.busy_because():
            self._due = time.monotonic() + 60.0 * self.box.minutes.number()
            self.measuring = True
            self._dock.measure()
        self._say()

    def _say(self) -> None:
        left = self._due - time.monotonic()
        self.box.words.setText(
            f"Next measurement in {duration_text(left)}."
            if left > 0
            else f"Due; waiting: {self._dock.busy_because() or 'now'}."
        )

    def run_over(self, ok: bool) -> None:
        """A run of the dock has ended; where it was ours, judge what it found."""
        mine, self.measuring, corrected, self.correcting = self.measuring, False, self.correcting, False
        if corrected or not mine:
            return
        entry = self._dock.record.newest(self._dock.target.name) if ok and self._dock.target is not None else None
        if entry is None or not entry.reading.good:
            if ok:
                self._dock.say("warning", "The alignment could not be checked: the last picture gave no measurement.")
            return
        worst, times = worst_deviation(entry.reading, entry.aim)
        if times <= 1.0:
            self._dock.say("info", "The alignment was checked and is still good.")
        elif self.box.mode.currentIndex() == 1:
            self.correcting = True
            self._dock.correct_quietly(entry)
        else:
            self._dock.say("warning", f"{worst} is {times:.1f} times its limit; look at the proposal.")
            self._dock.propose()


def worst_deviation(reading: Reading, aim: dict[str, float]) -> tuple[str, float]:
    """The misalignment that is farthest beyond its limit, and how many times; deviations within two sigma count as none."""
    worst, times = "", 0.0
    for name, value, sigma, limit in zip(reading.names, reading.values, reading.sigma, reading.tolerance, strict=False):
        off = abs(value - aim.get(name, 0.0))
        if name in aim:
            continue  # a defocus is gone to by a control that lands where it can; focus is found by eye or by the loop
        if off > 2 * sigma and off / limit > times:
            worst, times = name, float(off / limit)
    return worst, times
