"""The components of a result as rows: visible, colour, name, elements, share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QColorDialog, QHeaderView, QTableWidget, QTableWidgetItem

if TYPE_CHECKING:
    from ..unmixing import UnmixingResult

HEADINGS = ("", "", "Name", "Elements", "Share")
SHOWN, COLOR, NAME, ELEMENTS, SHARE = range(5)


class ComponentTable(QTableWidget):
    """What a person does to components; it changes nothing by itself.

    Signals
    -------
    renamed : int, str
    elements_typed : int, str
    shown : int, bool
    colored : int, str
    chosen : int
        The current row changed.
    """

    renamed = Signal(int, str)
    elements_typed = Signal(int, str)
    shown = Signal(int, bool)
    colored = Signal(int, str)
    chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__(0, len(HEADINGS))
        self._filling = False
        self.setHorizontalHeaderLabels(HEADINGS)
        self.verticalHeader().hide()
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        header = self.horizontalHeader()
        for column in (SHOWN, COLOR, SHARE):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        for column in (NAME, ELEMENTS):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
        self.setToolTip("Double click a name or the elements to change them, a colour to choose another")
        self.itemChanged.connect(self._changed)
        self.cellDoubleClicked.connect(self._double_clicked)
        self.currentCellChanged.connect(self._current_changed)
        self.setMinimumHeight(110)

    def fill(self, result: UnmixingResult | None, colors: Sequence[str], visible: Sequence[bool]) -> None:
        """Show the components of a result; None empties the table."""
        self._filling = True
        try:
            chosen = max(0, self.currentRow())
            count = result.components if result is not None else 0
            self.setRowCount(count)
            if result is None:
                return
            found = result.elements or ((),) * count
            for row, share in enumerate(_shares(result)):
                self._put(row, SHOWN, "", checked=visible[row])
                self._put(row, COLOR, "").setData(Qt.ItemDataRole.DecorationRole, QColor(colors[row]))
                self._put(row, NAME, result.names[row], editable=True)
                self._put(row, ELEMENTS, ", ".join(found[row]), editable=True)
                self._put(row, SHARE, f"{100 * share:.0f} %")
            self.setCurrentCell(min(chosen, count - 1), NAME)
        finally:
            self._filling = False

    def selected_components(self) -> list[int]:
        """Rows a person has selected, in order."""
        return sorted({index.row() for index in self.selectionModel().selectedRows()})

    def _put(
        self, row: int, column: int, text: str, *, editable: bool = False, checked: bool | None = None
    ) -> QTableWidgetItem:
        item = self.item(row, column)
        if item is None:
            item = QTableWidgetItem()
            self.setItem(row, column, item)
        item.setText(text)
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        if editable:
            flags |= Qt.ItemFlag.ItemIsEditable
        if checked is not None:
            flags |= Qt.ItemFlag.ItemIsUserCheckable
            item.setCheckState(Qt.CheckState.Checked if checked else Qt.CheckState.Unchecked)
        item.setFlags(flags)
        return item

    def _changed(self, item: QTableWidgetItem) -> None:
        if self._filling:
            return
        if item.column() == SHOWN:
            self.shown.emit(item.row(), item.checkState() == Qt.CheckState.Checked)
        elif item.column() == NAME:
            self.renamed.emit(item.row(), item.text())
        elif item.column() == ELEMENTS:
            self.elements_typed.emit(item.row(), item.text())

    def _double_clicked(self, row: int, column: int) -> None:
        if column == COLOR:
            present = self.item(row, COLOR).data(Qt.ItemDataRole.DecorationRole)
            color = QColorDialog.getColor(present, self, "Colour of the component")
            if color.isValid():
                self.colored.emit(row, color.name())

    def _current_changed(self, row: int, *_: Any) -> None:
        if not self._filling and row >= 0:
            self.chosen.emit(row)


def _shares(result: UnmixingResult) -> np.ndarray:
    """Part of all counts that each component explains, ``(k,)``; sizes only, where maps have signs."""
    counts = np.abs(result.maps).sum(axis=(1, 2), dtype=np.float64) * np.abs(result.endmembers).sum(axis=1)
    return np.asarray(counts / max(float(counts.sum()), 1e-300))
