"""*Keep it good*: measure again every so many minutes, and ask or correct where it is not good any more."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import QObject, QTimer
from qtpy.QtGui import QValidator
from qtpy.QtWidgets import QCheckBox, QComboBox, QHBoxLayout, QLabel, QSpinBox, QVBoxLayout, QWidget

from ..alignment.check import worst_deviation
from ..schema import KeepGood as KeepGoodInRuns
from .base import duration_text
from .setting_editors import NumberBox

MODES = ("ask", "correct")
TICK_MS = 500


class _Every(QSpinBox):
    """*every*, *every 2nd*, *every 3rd* …"""

    def textFromValue(self, value: int) -> str:
        if value == 1:
            return "every"
        ending = "th" if value % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
        return f"every {value}{ending}"

    def valueFromText(self, text: str | None) -> int:
        digits = "".join(one for one in text or "" if one.isdigit())
        return int(digits) if digits else 1

    def validate(self, text: str | None, pos: int) -> tuple[QValidator.State, str, int]:
        return QValidator.State.Acceptable, text or "", pos


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
        self.in_runs = QCheckBox("and in acquisitions, before")
        self.in_runs.setToolTip(
            "One Ronchigram before each so many-th image of a point, or spectrum, of acquisitions that are begun from now on"
        )
        self.every = _Every()
        self.every.setRange(1, 10_000)
        self.before = QComboBox()
        for words, value in (("image", "image"), ("spectrum", "point")):
            self.before.addItem(words, value)
        second = QHBoxLayout()
        second.setContentsMargins(0, 0, 0, 0)
        second.addWidget(self.in_runs)
        second.addWidget(self.every)
        second.addWidget(self.before, 1)
        column.addLayout(row)
        column.addLayout(second)
        column.addWidget(self.words)

    def show_keep(self, keep: KeepGoodInRuns | None) -> None:
        """Show what acquisitions do already."""
        if keep is not None:
            self.every.setValue(keep.every)
            self.before.setCurrentIndex(self.before.findData(keep.before))
            self.mode.setCurrentIndex(MODES.index(str(keep.settings.get("mode", MODES[0]))))
        self.in_runs.setChecked(keep is not None)

    def keep(self, exposure_s: float, settings: Mapping[str, Any]) -> KeepGoodInRuns | None:
        """What acquisitions are to do: the check's exposure and other settings are the dock's."""
        if not self.in_runs.isChecked():
            return None
        return KeepGoodInRuns(
            before=self.before.currentData(),
            every=self.every.value(),
            exposure_s=exposure_s,
            settings={"mode": MODES[self.mode.currentIndex()], **settings},
        )


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
        box.show_keep(dock.session.keep_good)
        for signal in (box.in_runs.toggled, box.every.valueChanged, box.before.currentIndexChanged,
                       box.mode.currentIndexChanged):  # fmt: skip
            signal.connect(self.tell_session)
        box.on.toggled.connect(self._toggled)
        box.minutes.valueChanged.connect(self._toggled)

    def _toggled(self, *_: Any) -> None:
        on = self.box.on.isChecked()
        self.box.words.setVisible(on)
        self._due = time.monotonic() + 60.0 * self.box.minutes.number()
        self._timer.start() if on else self._timer.stop()
        self._say()

    def tell_session(self, *_: Any) -> None:
        """Acquisitions begun from now on check the optics as the dock says, with what it knows of the controls."""
        keep = None
        if self._dock.target is not None and self._dock.target.measured:
            settings = self._dock.check_settings()
            keep = self.box.keep(settings.pop("exposure_s"), settings)
        self._dock.session.keep_good = keep

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
