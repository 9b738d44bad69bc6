"""The two tables of the Alignment dock: what was measured, and what is proposed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem, QWidget

from ..alignment.proposal import Change
from ..alignment.reading import Reading

GOOD, FAIR, POOR = "#00B583", "#E69F00", "#D55E00"
_WRITTEN = {"um": "µm", "1": "", "raw": ""}


def said_units(units: str) -> str:
    """Units as people write them."""
    return _WRITTEN.get(units, units)


def said_number(value: float, sigma: float | None = None) -> str:
    """A number to the digits its error bar leaves, or to four."""
    if not math.isfinite(value):
        return "–"
    if sigma is None or not sigma > 0 or not math.isfinite(sigma):
        return f"{value:.4g}"
    decimals = 1 - math.floor(math.log10(sigma))
    return f"{round(value, decimals):.{max(0, min(decimals, 9))}f}"


def _prepare(table: QTableWidget, headers: Sequence[str]) -> None:
    table.setHorizontalHeaderLabels(list(headers))
    table.verticalHeader().hide()
    table.verticalHeader().setDefaultSectionSize(22)
    table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
    table.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
    table.setFocusPolicy(Qt.FocusPolicy.StrongFocus)


def _cell(text: str, *, number: bool = False, editable: bool = False) -> QTableWidgetItem:
    item = QTableWidgetItem(text)
    flags = Qt.ItemFlag.ItemIsEnabled
    item.setFlags(flags | Qt.ItemFlag.ItemIsEditable if editable else flags)
    if number:
        item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    return item


class ReadingTable(QTableWidget):
    """Name, value, standard error, units, and how many times too large each is for the wanted angle."""

    HEADERS = ("Name", "Value", "± 1σ", "Units", "× limit")

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, len(self.HEADERS), parent)
        _prepare(self, self.HEADERS)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.horizontalHeaderItem(4).setToolTip(
            "How many times larger than the size that alone spoils the wanted result; below 1 is good enough"
        )

    def show_reading(self, reading: Reading | None, aim: dict[str, float] | None = None) -> None:
        """Show a reading; deviations count from `aim`, such as the defocus that was gone to on purpose."""
        rows = [] if reading is None or not reading.values else list(range(len(reading.names)))
        self.setRowCount(len(rows))
        for row in rows:
            value, sigma, name = reading.values[row], float(reading.sigma[row]), reading.names[row]
            cells = [
                _cell(name),
                _cell(said_number(value, sigma), number=True),
                _cell(f"{sigma:.2g}", number=True),
                _cell(said_units(reading.units[row])),
                _cell("", number=True),
            ]
            if reading.tolerance:
                times = abs(value - (aim or {}).get(name, 0.0)) / reading.tolerance[row]
                cells[4].setText(f"{times:.2g}" if times < 10 else f"{times:.0f}")
                cells[4].setForeground(QColor(GOOD if times <= 1 else FAIR if times <= 5 else POOR))
            for column, cell in enumerate(cells):
                if not reading.good:
                    cell.setForeground(QColor("#8a8d94"))
                self.setItem(row, column, cell)


@dataclass(frozen=True)
class Row:
    """One line of the proposal as a person left it."""

    change: Change
    accepted: bool
    then: float
    edited: bool


class ProposalTable(QTableWidget):
    """What each control would be set to: a tick to take it, two cells to write another value in.

    Signals
    -------
    changed
        A tick or a value was changed by a person.
    refused : str
        What was typed cannot be used, and why.
    """

    HEADERS = ("Control", "Now", "Change", "Then", "Remark")
    changed = Signal()
    refused = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, len(self.HEADERS), parent)
        _prepare(self, self.HEADERS)
        self.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        self.setEditTriggers(
            QAbstractItemView.EditTrigger.DoubleClicked
            | QAbstractItemView.EditTrigger.EditKeyPressed
            | QAbstractItemView.EditTrigger.AnyKeyPressed
        )
        self._rows: list[Row] = []
        self._limits: dict[str, tuple[float, float, float]] = {}
        self.itemChanged.connect(self._edited)

    # ------------------------------------------------------------------------------------------------- for the dock

    def show_changes(self, changes: Sequence[Change], limits: dict[str, tuple[float, float, float]]) -> None:
        """Put a proposal before the person, every line ticked.

        Parameters
        ----------
        changes : sequence of Change
        limits : dict of str to (float, float, float)
            Control -> smallest value, largest value, largest step.
        """
        self._limits = dict(limits)
        self._rows = [Row(change, True, change.then, False) for change in changes]
        self._draw()

    def rows(self) -> tuple[Row, ...]:
        """Every line as the person left it."""
        return tuple(self._rows)

    def accepted(self) -> dict[str, float]:
        """Control -> absolute value, of the ticked lines that would move something."""
        return {r.change.control: r.then for r in self._rows if r.accepted and r.then != r.change.now}

    def set_accepted(self, control: str, accepted: bool) -> None:
        """Tick a line, or take its tick away."""
        self._put(self._row_of(control), accepted=accepted)

    def set_then(self, control: str, value: float) -> None:
        """Write another value for a control; it is kept within its limits."""
        self._write(self._row_of(control), value)

    def reject_all(self) -> None:
        """Take every tick away."""
        self._rows = [replace(row, accepted=False) for row in self._rows]
        self._draw()
        self.changed.emit()

    # ------------------------------------------------------------------------------------------------------- inside

    def _row_of(self, control: str) -> int:
        for index, row in enumerate(self._rows):
            if row.change.control == control:
                return index
        raise KeyError(f"no change of {control} is proposed")

    def _put(self, index: int, **changes: object) -> None:
        self._rows[index] = replace(self._rows[index], **changes)
        self._draw()
        self.changed.emit()

    def _write(self, index: int, value: float) -> None:
        row = self._rows[index]
        low, high, largest = self._limits.get(row.change.control, (-math.inf, math.inf, math.inf))
        inside = min(max(value, low, row.change.now - largest), high, row.change.now + largest)
        if inside != value:
            self.refused.emit(
                f"{row.change.control} may go from {said_number(max(low, row.change.now - largest))} to "
                f"{said_number(min(high, row.change.now + largest))} {said_units(row.change.units)} in one step; "
                f"{said_number(value)} was cut to {said_number(inside)}."
            )
        self._put(index, then=inside, edited=inside != row.change.then, accepted=True)

    def _edited(self, item: QTableWidgetItem) -> None:
        index, column = item.row(), item.column()
        row = self._rows[index]
        if column == 0:
            accepted = item.checkState() == Qt.CheckState.Checked
            if accepted != row.accepted:
                self._put(index, accepted=accepted)
            return
        try:
            value = float(item.text().replace(",", ".").split()[0])
            if not math.isfinite(value):
                raise ValueError
        except (ValueError, IndexError):
            self.refused.emit(f"{item.text()!r} is not a number; {row.change.control} keeps what was proposed.")
            self._draw()
            return
        self._write(index, row.change.now + value if column == 2 else value)

    def _draw(self) -> None:
        self.blockSignals(True)
        self.setRowCount(len(self._rows))
        for index, row in enumerate(self._rows):
            change = row.change
            units = f" {said_units(change.units)}".rstrip()
            name = _cell(change.control)
            name.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable)
            name.setCheckState(Qt.CheckState.Checked if row.accepted else Qt.CheckState.Unchecked)
            name.setToolTip("Ticked: set with the next Apply")
            remark = "rejected" if not row.accepted else "edited" if row.edited else change.held
            cells = (
                name,
                _cell(f"{change.now:.4g}{units}", number=True),
                _cell(f"{row.then - change.now:+.4g}", number=True, editable=True),
                _cell(f"{row.then:.4g}", number=True, editable=True),
                _cell(remark),
            )
            for column, cell in enumerate(cells):
                if not row.accepted:
                    cell.setForeground(QColor("#8a8d94"))
                elif row.edited and column in {2, 3}:
                    cell.setForeground(QColor("#56B4E9"))
                self.setItem(index, column, cell)
        self.blockSignals(False)
        self.viewport().update()
