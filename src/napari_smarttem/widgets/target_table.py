"""The table of targets: one row a target, sorted and filtered here (not in a proxy) so that 10,000 rows stay quick."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import (
    QAbstractTableModel,
    QItemSelection,
    QItemSelectionModel,
    QItemSelectionRange,
    QModelIndex,
    Qt,
    Signal,
)
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from ..schema import JudgedTarget, TargetState

COLUMNS = ("State", "Score", "Class", "Reason", "x (nm)", "y (nm)", "Id")
_NUMBERS = (1, 4, 5)
REASON = COLUMNS.index("Reason")
REASON_CHARACTERS, REASON_LEAST = 36, 12
_STATES = tuple(TargetState)


def state_icons() -> dict[TargetState, QIcon]:
    """Each state's glyph in its colour on a dark disc, readable on light and dark themes alike."""
    from .layers import STATE_STYLES

    icons = {}
    for state, style in STATE_STYLES.items():
        pixmap = QPixmap(32, 32)
        pixmap.fill(Qt.GlobalColor.transparent)
        painter = QPainter(pixmap)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor("#262930"))
        painter.drawEllipse(0, 0, 32, 32)
        painter.setPen(QColor(style.color))
        font = painter.font()
        font.setPixelSize(20)
        painter.setFont(font)
        painter.drawText(pixmap.rect(), Qt.AlignmentFlag.AlignCenter, style.glyph)
        painter.end()
        icons[state] = QIcon(pixmap)
    return icons


class TargetModel(QAbstractTableModel):
    """Targets with their verdicts.

    Rows are shown in the order `sort` made and only for the states `set_filter` allows. A verdict repaints only
    the rows it changes; rows move only when a person sorts or filters.
    """

    def __init__(self, parent: Any = None, icons: dict[TargetState, QIcon] | None = None) -> None:
        super().__init__(parent)
        self._items: list[JudgedTarget] = []
        self._index: dict[str, int] = {}
        self._visible = np.empty(0, dtype=np.intp)
        self._row_of = np.empty(0, dtype=np.intp)
        self._filter: frozenset[TargetState] = frozenset(_STATES)
        self._sort: tuple[int, Qt.SortOrder] | None = None
        self._icons = icons if icons is not None else state_icons()

    def set_items(self, items: Sequence[JudgedTarget]) -> str:
        """Show `items`; returns what it took: ``"nothing"``, ``"rows"`` repainted or ``"reset"`` (rows moved)."""
        same = len(items) == len(self._items) and all(
            new.target.target_id == old.target.target_id for new, old in zip(items, self._items, strict=True)
        )
        if not same:
            self.beginResetModel()
            self._items = list(items)
            self._index = {item.target.target_id: i for i, item in enumerate(items)}
            self._arrange()
            self.endResetModel()
            return "reset"
        changed = [
            i for i, (new, old) in enumerate(zip(items, self._items, strict=True)) if new is not old and new != old
        ]
        if not changed:
            return "nothing"
        filtered = len(self._filter) < len(_STATES) and any(
            (items[i].state in self._filter) != (self._items[i].state in self._filter) for i in changed
        )
        if filtered:
            self.beginResetModel()
            self._items = list(items)
            self._arrange()
            self.endResetModel()
            return "reset"
        self._items = list(items)
        rows = np.sort(self._row_of[changed])
        rows = rows[rows >= 0]
        for first, last in _runs(rows):
            self.dataChanged.emit(self.index(first, 0), self.index(last, len(COLUMNS) - 1))
        return "rows"

    def set_filter(self, states: Iterable[TargetState]) -> None:
        """Show only targets in these states."""
        self.beginResetModel()
        self._filter = frozenset(states)
        self._arrange()
        self.endResetModel()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; a column below zero gives back the order of the proposal."""
        self.beginResetModel()
        self._sort = (column, order) if column >= 0 else None
        self._arrange()
        self.endResetModel()

    def _arrange(self) -> None:
        n = len(self._items)
        order = np.arange(n, dtype=np.intp)
        if self._sort is not None and n:
            column, direction = self._sort
            order = np.argsort(self._keys(column), kind="stable")
            if direction == Qt.SortOrder.DescendingOrder:
                order = order[::-1]
        if len(self._filter) < len(_STATES):
            order = order[[self._items[i].state in self._filter for i in order]] if n else order
        self._visible = order
        self._row_of = np.full(n, -1, dtype=np.intp)
        self._row_of[order] = np.arange(len(order))

    def _keys(self, column: int) -> np.ndarray:
        items = self._items
        if column == 0:
            rank = {state: i for i, state in enumerate(_STATES)}
            return np.array([rank[item.state] for item in items])
        if column in _NUMBERS:
            name = {1: "score", 4: "x_nm", 5: "y_nm"}[column]
            return np.array([getattr(item.target, name) for item in items], dtype=float)
        name = {2: "label", 3: "reason", 6: "target_id"}[column]
        return np.array([getattr(item.target, name) for item in items])

    def item(self, row: int) -> JudgedTarget:
        """The target shown in `row`."""
        return self._items[int(self._visible[row])]

    def ids(self, rows: Iterable[int]) -> list[str]:
        """Target ids of some rows."""
        return [self.item(row).target.target_id for row in rows]

    def rows(self, ids: Iterable[str]) -> list[int]:
        """Rows of some targets, those that are shown, in ascending order."""
        found = [int(self._row_of[self._index[i]]) for i in ids if i in self._index]
        return sorted(row for row in found if row >= 0)

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Number of targets shown."""
        return 0 if parent is not None and parent.isValid() else len(self._visible)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        """Number of columns."""
        return 0 if parent is not None and parent.isValid() else len(COLUMNS)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Names of the columns."""
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return COLUMNS[section]
        return None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Text, colour, tooltip and alignment of a cell."""
        if not index.isValid():
            return None
        item, column = self.item(index.row()), index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(item, column)
        if role == Qt.ItemDataRole.DecorationRole and column == 0:
            return self._icons[item.state]
        if role == Qt.ItemDataRole.ToolTipRole:
            t = item.target
            return f"{t.target_id}: {t.label}, score {t.score:.2f}, {item.state}. {t.reason}"
        if role == Qt.ItemDataRole.TextAlignmentRole and column in _NUMBERS:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return None

    @staticmethod
    def _text(item: JudgedTarget, column: int) -> str:
        target = item.target
        if column == 0:
            return str(item.state)
        if column == 1:
            return f"{target.score:.2f}"
        if column in _NUMBERS:
            return f"{target.x_nm if column == 4 else target.y_nm:.1f}"
        return {2: target.label, 3: target.reason, 6: target.target_id}[column]


def _runs(rows: np.ndarray) -> list[tuple[int, int]]:
    """First and last of each run of neighbouring numbers in an ascending array."""
    if not len(rows):
        return []
    breaks = np.flatnonzero(np.diff(rows) > 1)
    first = np.concatenate(([0], breaks + 1))
    last = np.concatenate((breaks, [len(rows) - 1]))
    return [(int(rows[a]), int(rows[b])) for a, b in zip(first, last, strict=True)]


class TargetTable(QTableView):
    """The view; its selection is a set of target ids that outlives sorting, filtering and new rows."""

    selection_changed = Signal(object)
    """frozenset of target ids a person selected here (not those `select` set)."""

    def __init__(self, model: TargetModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.targets = model
        self._selected: frozenset[str] = frozenset()
        self._quiet = False
        self._scrolled = 0
        self.setModel(model)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        vertical = self.verticalHeader()
        vertical.setVisible(False)
        vertical.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        vertical.setDefaultSectionSize(self.fontMetrics().height() + 6)
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setStretchLastSection(False)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        if hasattr(header, "setSortIndicatorClearable"):
            header.setSortIndicatorClearable(True)
        self.setSortingEnabled(True)
        header.sectionResized.connect(self._column_dragged)
        self._fitting = False
        self._reason_by_hand = False
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        em = self.fontMetrics().averageCharWidth()
        for column, characters in enumerate((13, 5, 7, REASON_CHARACTERS, 7, 7, 9)):
            self.setColumnWidth(column, em * characters + 12)
        model.modelAboutToBeReset.connect(self._about_to_reset)
        model.modelReset.connect(self._reset)
        self.selectionModel().selectionChanged.connect(self._changed)

    def resizeEvent(self, event: Any) -> None:
        """*Reason* takes the room that there is: ended with dots at the edge of the table, not cut off."""
        super().resizeEvent(event)
        self._fit_reason()

    def _fit_reason(self) -> None:
        if self._reason_by_hand:
            return
        widths = [self.columnWidth(column) for column in range(len(COLUMNS))]
        before, after = sum(widths[:REASON]), sum(widths[REASON + 1 :])
        em, room = self.fontMetrics().averageCharWidth(), self.viewport().width() - before
        # what comes after it is a place and a number, which a narrow dock leaves to the scroll bar
        width = room - after if room - after > em * REASON_CHARACTERS else room
        self._fitting = True
        self.setColumnWidth(REASON, max(width, em * REASON_LEAST))
        self._fitting = False

    def _column_dragged(self, column: int, _old: int, _new: int) -> None:
        if self._fitting or not self.isVisible():
            return
        if column == REASON:
            self._reason_by_hand = True
        else:
            self._fit_reason()

    def selected_ids(self) -> frozenset[str]:
        """Ids of the selected targets, shown or filtered out."""
        return self._selected

    def select(self, ids: Iterable[str], *, scroll: bool = True) -> None:
        """Select these targets without telling `selection_changed`."""
        wanted = frozenset(ids)
        if wanted == self._selected:
            return
        self._selected = wanted
        rows = self._show_selection()
        if scroll and rows:
            self.scrollTo(self.targets.index(rows[0], 0))

    def _show_selection(self) -> list[int]:
        rows = self.targets.rows(self._selected)
        selection = QItemSelection()
        for first, last in _runs(np.asarray(rows, dtype=np.intp)):
            selection.append(
                QItemSelectionRange(self.targets.index(first, 0), self.targets.index(last, len(COLUMNS) - 1))
            )
        self._quiet = True
        try:
            self.selectionModel().select(selection, QItemSelectionModel.SelectionFlag.ClearAndSelect)
        finally:
            self._quiet = False
        return rows

    def show_first(self, state: TargetState) -> None:
        """Scroll to the first target in a state, such as the first one to be decided."""
        for row in range(self.targets.rowCount()):
            if self.targets.item(row).state is state:
                self.scrollTo(self.targets.index(row, 0), QAbstractItemView.ScrollHint.PositionAtTop)
                return

    def _about_to_reset(self) -> None:
        self._quiet = True
        self._scrolled = self.verticalScrollBar().value()

    def _reset(self) -> None:
        self._quiet = False
        if self._selected:
            self._show_selection()
        self.updateGeometries()
        self.verticalScrollBar().setValue(self._scrolled)

    def _changed(self, *_: Any) -> None:
        if self._quiet:
            return
        rows: list[int] = []
        for part in self.selectionModel().selection():
            rows.extend(range(part.top(), part.bottom() + 1))
        self._selected = frozenset(self.targets.ids(rows))
        self.selection_changed.emit(self._selected)
