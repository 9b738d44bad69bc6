"""The energy windows as rows: colour, name, edges in eV, counts, remove."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QColorDialog,
    QDoubleSpinBox,
    QGridLayout,
    QLabel,
    QLineEdit,
    QToolButton,
    QWidget,
)

from ..schema import BadInput
from .energy_windows import EnergyWindow, EnergyWindows


class _Row:
    """The editors of one window."""

    def __init__(self) -> None:
        self.color = QToolButton()
        self.color.setToolTip("Colour of this window and of its map")
        self.name = QLineEdit()
        self.name.setMinimumWidth(50)
        self.name.setToolTip("Name of this window and of its map")
        self.low = self._edge("Lower edge in eV")
        self.high = self._edge("Upper edge in eV")
        self.counts = QLabel("")
        self.counts.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.counts.setToolTip("Sum of the counts of the spectrum on show inside this window")
        self.remove = QToolButton()
        self.remove.setText("✕")
        self.remove.setToolTip("Remove this window")

    @staticmethod
    def _edge(tip: str) -> QDoubleSpinBox:
        box = QDoubleSpinBox()
        box.setRange(-1e6, 1e6)
        box.setDecimals(1)
        box.setMinimumWidth(64)
        box.setKeyboardTracking(False)
        box.setButtonSymbols(QDoubleSpinBox.ButtonSymbols.NoButtons)
        box.setToolTip(tip)
        return box

    @property
    def widgets(self) -> tuple[QWidget, ...]:
        return self.color, self.name, self.low, self.high, self.counts, self.remove

    def show(self, window: EnergyWindow) -> None:
        self.color.setStyleSheet(f"background: {window.color}; border: none; min-width: 14px; min-height: 14px;")
        self.name.setText(window.name)
        for box, value in ((self.low, window.low_ev), (self.high, window.high_ev)):
            box.blockSignals(True)
            box.setValue(value)
            box.blockSignals(False)


class WindowList(QWidget):
    """Editors for all windows of an `EnergyWindows`; empty and without height where there is none."""

    def __init__(self, windows: EnergyWindows, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._windows = windows
        self._fits: Callable[[EnergyWindow], bool] = lambda _window: True
        self._rows: list[_Row] = []
        self._names: list[str] = []
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(3)
        self._grid.setColumnStretch(1, 1)
        windows.changed.connect(self._show)
        self._show()

    def show_only(self, fits: Callable[[EnergyWindow], bool]) -> None:
        """Leave out the windows that belong to other spectra."""
        self._fits = fits
        self._show()

    def show_counts(self, counts: Mapping[str, float | None]) -> None:
        """Show the counts inside each window; None as a dash."""
        for row, name in zip(self._rows, self._names, strict=True):
            value = counts.get(name)
            row.counts.setText("–" if value is None else f"{value:,.0f}".replace(",", " "))

    def _show(self) -> None:
        windows = [window for window in self._windows if self._fits(window)]
        while len(self._rows) < len(windows):
            self._add_row(len(self._rows))
        while len(self._rows) > len(windows):
            for widget in self._rows.pop().widgets:
                self._grid.removeWidget(widget)
                widget.deleteLater()
        self._names = [w.name for w in windows]
        for row, window in zip(self._rows, windows, strict=True):
            row.show(window)

    def _add_row(self, index: int) -> None:
        row = _Row()
        row.color.clicked.connect(lambda _=False: self._choose_color(index))
        row.name.editingFinished.connect(lambda: self._change(index, name=row.name.text().strip()))
        row.low.valueChanged.connect(lambda value: self._change(index, low_ev=value))
        row.high.valueChanged.connect(lambda value: self._change(index, high_ev=value))
        row.remove.clicked.connect(lambda _=False: self._windows.remove(self._names[index]))
        for column, widget in enumerate(row.widgets):
            self._grid.addWidget(widget, index, column)
        self._rows.append(row)

    def _change(self, index: int, **changes: object) -> None:
        if index >= len(self._names):
            return  # the editor of a row that is being removed lost the focus
        try:
            self._windows.change(self._names[index], **changes)
        except BadInput as error:
            self._show()
            self._rows[index].name.setToolTip(str(error))

    def _choose_color(self, index: int) -> None:
        window = self._windows.get(self._names[index])
        color = QColorDialog.getColor(QColor(window.color), self, f"Colour of {window.name}")
        if color.isValid():
            self._windows.change(window.name, color=color.name())
