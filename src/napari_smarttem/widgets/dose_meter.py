"""How much of the dose the specimen can bear has been delivered."""

from __future__ import annotations

import math

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from .progress_bar import ProgressBar
from .setting_editors import NumberBox

_CALM, _NEAR, _SPENT = "#56B4E9", "#E69F00", "#D55E00"


def dose_text(dose_e_per_a2: float) -> str:
    """A dose with three significant digits: ``"0.0123"``, ``"12.3"``, ``"1230"``."""
    if dose_e_per_a2 == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(dose_e_per_a2))))
    return f"{dose_e_per_a2:.{min(digits, 6)}f}"


class DoseMeter(QWidget):
    """Delivered dose as a bar against an editable budget, both field-averaged in e/Å²."""

    budget_changed = Signal(object)
    """The new budget in e/Å², None for no limit; only where a person changed it."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.bar = ProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setFormat("no instrument")
        self.bar.setToolTip(
            "Electrons delivered by this instrument since it was connected, averaged over the field of view"
        )
        self.limited = QCheckBox("Stop at")
        self.limited.setToolTip("An exposure that would exceed the budget is not made; the run ends and says so")
        self.budget = NumberBox(units="e/Å²")
        self.budget.set_limits(1e-6, 1e9)
        self.budget.set_number(1000.0)
        self.budget.setEnabled(False)
        row = QHBoxLayout()
        row.addWidget(self.limited)
        row.addWidget(self.budget, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        head = QHBoxLayout()
        head.addWidget(QLabel("Dose"))
        head.addWidget(self.bar, 1)
        column.addLayout(head)
        column.addLayout(row)
        self._quiet = False
        self._color = ""
        self.limited.toggled.connect(self._changed)
        self.budget.valueChanged.connect(self._changed)

    def value(self) -> float | None:
        """The budget as it is shown, None for no limit."""
        return self.budget.number() if self.limited.isChecked() else None

    def show_dose(self, delivered: float | None, budget: float | None) -> None:
        """Show what was delivered (None: no instrument) and the budget in force."""
        if delivered is None:
            self.bar.setValue(0)
            self.bar.setFormat("no instrument")
            return
        if budget is None:
            self.bar.setValue(0)
            self.bar.setFormat(f"{dose_text(delivered)} e/Å², no budget")
            return
        part = min(1.0, delivered / budget) if budget > 0 else 1.0
        self.bar.setValue(round(1000 * part))
        self.bar.setFormat(f"{dose_text(delivered)} of {dose_text(budget)} e/Å²")
        color = _CALM if part < 0.8 else _NEAR if part < 1.0 else _SPENT
        if color != self._color:
            self._color = color
            self.bar.setStyleSheet(f"QProgressBar::chunk {{ background: {color}; }}")

    def show_budget(self, budget: float | None) -> None:
        """Show a budget set elsewhere, without telling `budget_changed`."""
        self._quiet = True
        try:
            self.limited.setChecked(budget is not None)
            if budget is not None:
                self.budget.set_number(budget)
            self.budget.setEnabled(budget is not None)
        finally:
            self._quiet = False

    def _changed(self, *_: object) -> None:
        self.budget.setEnabled(self.limited.isChecked())
        if not self._quiet:
            self.budget_changed.emit(self.value())
