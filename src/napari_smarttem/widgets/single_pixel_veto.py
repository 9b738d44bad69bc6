"""Patterns above the dose limit, put before a person: what each would do, approve or veto, one by one or all."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from ..schema import TargetState
from .layers import STATE_STYLES
from .single_pixel_plots import SmallPicture
from .single_pixel_record import SinglePixelRecord

NOTHING = "No pattern waits for you. With a dose limit by pixel set, those above it are put here before they are used."
_OURS = ("dose-",)


class VetoPage(QWidget):
    """The table of the patterns that wait, the one that is selected as a picture, and the verdicts.

    Parameters
    ----------
    review : Review
    record : SinglePixelRecord
        Knows what the patterns look like.
    """

    acted = Signal()
    """A verdict was given."""

    def __init__(self, review: Any, record: SinglePixelRecord) -> None:
        super().__init__()
        self._review, self._record = review, record
        self.words = QLabel(NOTHING)
        self.words.setWordWrap(True)
        self.table = QTableWidget(0, 3)
        self.table.setHorizontalHeaderLabels(["", "Pattern", "What it would do"])
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.verticalHeader().hide()
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(2, QHeaderView.ResizeMode.Stretch)
        self.pattern = SmallPicture("Pattern", "inferno", "Where the pattern would put the beam")
        self.dose = SmallPicture("Its dose", "CET-L3", "Dose that this pattern would add, by pixel")
        self.approve_button = QPushButton("Approve")
        self.veto_button = QPushButton("Veto")
        self.approve_all_button = QPushButton("Approve all")
        self.veto_all_button = QPushButton("Veto all")
        self.go_button = QPushButton("Go on")
        self.go_button.setStyleSheet("font-weight: 600;")
        pictures = QHBoxLayout()
        pictures.addWidget(self.pattern)
        pictures.addWidget(self.dose)
        verdicts = QHBoxLayout()
        for button in (self.approve_button, self.veto_button, self.approve_all_button, self.veto_all_button):
            verdicts.addWidget(button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 4, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.words)
        column.addWidget(self.table, 1)
        column.addLayout(pictures, 1)
        column.addLayout(verdicts)
        column.addWidget(self.go_button)
        self.approve_button.clicked.connect(lambda: self._judge(self._review.approve, self.selected()))
        self.veto_button.clicked.connect(lambda: self._judge(self._review.reject, self.selected()))
        self.approve_all_button.clicked.connect(lambda: self._judge(self._review.approve, self.ids()))
        self.veto_all_button.clicked.connect(lambda: self._judge(self._review.reject, self.ids()))
        self.go_button.clicked.connect(self.go_on)
        self.table.itemSelectionChanged.connect(self._selected)
        self.refresh()

    @property
    def waiting(self) -> bool:
        """True while patterns of a single-pixel run wait for a verdict."""
        step = self._review.step
        return bool(self._review.is_open and step is not None and step.step_id.startswith(_OURS))

    def ids(self) -> list[str]:
        """Target ids of the patterns that wait, in the table's order."""
        step = self._review.step
        return [target.target_id for target in step.targets] if self.waiting and step is not None else []

    def selected(self) -> list[str]:
        """Ids of the selected rows."""
        rows = sorted({index.row() for index in self.table.selectedIndexes()})
        return [str(self.table.item(row, 1).data(Qt.ItemDataRole.UserRole)) for row in rows]

    def select(self, target_id: str) -> None:
        """Select one row."""
        ids = self.ids()
        if target_id in ids:
            self.table.selectRow(ids.index(target_id))

    def go_on(self) -> None:
        """The run goes on with what is approved; what was not judged is left out."""
        if self.waiting:
            self._review.submit("go")
            self.acted.emit()
            self.refresh()

    def _judge(self, verdict: Any, ids: list[str]) -> None:
        if ids:
            verdict(ids)
            self.acted.emit()
            self.refresh()

    def refresh(self) -> None:
        """Show the review as it stands."""
        ids = self.ids()
        keep = self.selected()
        self.table.blockSignals(True)
        self.table.setRowCount(len(ids))
        approved = 0
        for row, target_id in enumerate(ids):
            judged = self._review.get(target_id)
            approved += judged.state is TargetState.APPROVED
            style = STATE_STYLES[judged.state]
            cells = (f"{style.glyph} {judged.state}", target_id, judged.target.reason)
            for place, text in enumerate(cells):
                item = QTableWidgetItem(text)
                item.setToolTip(text)
                item.setData(Qt.ItemDataRole.UserRole, target_id)
                self.table.setItem(row, place, item)
        self.table.clearSelection()
        for row, target_id in enumerate(ids):
            if target_id in keep or (not keep and row == 0):
                self.table.selectRow(row)
        self.table.blockSignals(False)
        step = self._review.step
        self.words.setText(step.prompt if ids and step is not None else NOTHING)
        self.go_button.setText(f"Go on with {approved} of {len(ids)}" if ids else "Go on")
        for button in (
            self.approve_button,
            self.veto_button,
            self.approve_all_button,
            self.veto_all_button,
            self.go_button,
        ):
            button.setEnabled(bool(ids))
            button.setToolTip("" if ids else "No pattern waits")
        self._selected()

    def _selected(self) -> None:
        chosen = self.selected()
        known = self._record.vetted_pattern(chosen[0]) if chosen else None
        self.pattern.show_picture(None if known is None else known[0], chosen[0] if known is not None else "")
        most = "" if known is None else f"most {known[1].max():.3g} e/Å²"
        self.dose.show_picture(None if known is None else known[1], most)
