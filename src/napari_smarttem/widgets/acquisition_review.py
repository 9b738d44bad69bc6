"""The review page of the *Acquisition* dock: the table of targets, verdicts on many at once, and what they will cost."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from ..schema import TargetState
from .acquisition_form import cost_text, hint, primary
from .target_table import TargetModel, TargetTable, state_icons

_VERDICTS = (TargetState.PROPOSED, TargetState.APPROVED, TargetState.REJECTED)


class ReviewPage(QWidget):
    """A view of the session's review. Every change goes through the review, which canvas and table both show.

    Parameters
    ----------
    review : engine.review.Review
    """

    selection_changed = Signal(object)
    """frozenset of target ids selected in the table."""
    acted = Signal()
    """The person judged, undid or redid here."""

    def __init__(self, review: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.review = review
        self.model = TargetModel(self)
        self.table = TargetTable(self.model)
        self.prompt = hint("No proposal yet: take an overview, then propose.")
        self._build_filters()
        self._build_verdicts()
        self.estimate = QLabel()
        self.estimate.setWordWrap(True)
        self.start_button = primary("Start")
        column = QVBoxLayout(self)
        column.setSpacing(4)
        column.addWidget(self.prompt)
        column.addLayout(self._filters)
        column.addWidget(self.table, 1)
        column.addLayout(self._verdicts)
        column.addLayout(self._above)
        column.addWidget(self.estimate)
        column.addWidget(self.start_button)
        self.table.selection_changed.connect(self._selected)
        self.refresh()

    def _build_filters(self) -> None:
        self._filters = QHBoxLayout()
        self._filters.setSpacing(2)
        self.chips: dict[TargetState, QToolButton] = {}
        icons = state_icons()
        for state in TargetState:
            chip = QToolButton()
            chip.setIcon(icons[state])
            chip.setIconSize(QSize(16, 16))
            chip.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
            chip.setCheckable(True)
            chip.setChecked(True)
            chip.setToolTip(f"Show targets that are {state}")
            chip.setText("0")
            chip.toggled.connect(self._filtered)
            self.chips[state] = chip
            self._filters.addWidget(chip)
        self._filters.addStretch(1)

    def _build_verdicts(self) -> None:
        self._verdicts = QGridLayout()
        self._verdicts.setSpacing(4)
        self.approve = QPushButton("Approve")
        self.reject = QPushButton("Reject")
        self.reset = QPushButton("Reset")
        self.approve_all = QPushButton("Approve all")
        self.undo = QPushButton("Undo")
        self.redo = QPushButton("Redo")
        buttons = (self.approve, self.reject, self.reset, self.approve_all, self.undo, self.redo)
        for i, button in enumerate(buttons):
            self._verdicts.addWidget(button, i // 3, i % 3)
        self.approve.clicked.connect(lambda: self._judge(self.review.approve))
        self.reject.clicked.connect(lambda: self._judge(self.review.reject))
        self.reset.clicked.connect(lambda: self._judge(self.review.reset))
        self.approve_all.clicked.connect(self._approve_all)
        self.undo.clicked.connect(self._undo)
        self.redo.clicked.connect(self._redo)
        self._above = QHBoxLayout()
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, 100)
        self.slider.setValue(50)
        self.slider.setToolTip("Smallest score to approve")
        self.approve_above = QPushButton()
        self._above.addWidget(self.slider, 1)
        self._above.addWidget(self.approve_above)
        self.slider.valueChanged.connect(self._refresh_above)
        self.approve_above.clicked.connect(self._approve_above)
        for key, action in (("A", self.review.approve), ("R", self.review.reject), ("U", self.review.reset)):
            shortcut = QShortcut(QKeySequence(key), self.table)
            shortcut.setContext(Qt.ShortcutContext.WidgetShortcut)
            shortcut.activated.connect(lambda action=action: self._judge(action))
        for sequence, action in (
            (QKeySequence.StandardKey.Undo, self._undo),
            (QKeySequence.StandardKey.Redo, self._redo),
        ):
            shortcut = QShortcut(QKeySequence(sequence), self)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(action)

    def refresh(self) -> None:
        """Show the review as it is now."""
        items = self.review.items()
        self.model.set_items(items)
        counts = self.review.counts()
        for state, chip in self.chips.items():
            chip.setText(str(counts[state]))
        step = self.review.step
        if items:
            self.prompt.setText(
                (step.prompt if step is not None else "") or "Judge the points here or on the canvas (A, R, U)."
            )
        else:
            self.prompt.setText("No proposal yet: take an overview, then propose.")
        self._refresh_above()
        self._enable()

    def refresh_buttons(self) -> None:
        """What can be done with the present selection."""
        self._enable()

    def show_estimate(self, count: int, duration_s: float | None, dose_e_per_a2: float | None) -> None:
        """Say what the approved points will cost; None where it is being worked out."""
        if not count:
            self.estimate.setText("Nothing is approved yet.")
        elif duration_s is None:
            self.estimate.setText(f"{count} approved; working out the time …")
        else:
            self.estimate.setText(f"<b>{count} approved</b>: {cost_text(duration_s, dose_e_per_a2 or 0.0)} more.")

    def _enable(self) -> None:
        chosen = self.table.selected_ids()
        known = {j.target.target_id: j.state for j in self.review.items()} if chosen else {}
        judgeable = sum(1 for i in chosen if known.get(i) in _VERDICTS)
        why = "" if judgeable else "Select targets first, in the table or on the canvas"
        for button, what, key in (
            (self.approve, "Approve", "A"),
            (self.reject, "Reject", "R"),
            (self.reset, "Take back the verdict on", "U"),
        ):
            button.setEnabled(bool(judgeable))
            button.setToolTip(why or f"{what} the {judgeable} selected (key {key})")
        counts = self.review.counts()
        open_ones = counts[TargetState.PROPOSED]
        self.approve_all.setEnabled(bool(open_ones))
        self.approve_all.setToolTip(f"Approve the {open_ones} proposed" if open_ones else "No target is undecided")
        self.undo.setEnabled(self.review.can_undo)
        self.undo.setToolTip(
            "Take the last verdict, move or addition back" if self.review.can_undo else "Nothing to undo"
        )
        self.redo.setEnabled(self.review.can_redo)
        self.redo.setToolTip("Do it again" if self.review.can_redo else "Nothing to redo")

    def _above_ids(self) -> list[str]:
        least = self.slider.value() / 100
        return [
            j.target.target_id
            for j in self.review.items()
            if j.state is TargetState.PROPOSED and j.target.score >= least
        ]

    def _refresh_above(self, *_: Any) -> None:
        ids = self._above_ids()
        self.approve_above.setText(f"Approve ≥ {self.slider.value() / 100:.2f} ({len(ids)})")
        self.approve_above.setEnabled(bool(ids))
        self.approve_above.setToolTip(
            f"Approve the {len(ids)} undecided targets of this score or more"
            if ids
            else "No undecided target scores as much"
        )

    def _judge(self, action: Any) -> None:
        known = {j.target.target_id for j in self.review.items()}
        chosen = [i for i in self.table.selected_ids() if i in known]
        if chosen:
            action(chosen)
            self._acted()

    def _approve_all(self) -> None:
        self.review.approve([j.target.target_id for j in self.review.items() if j.state is TargetState.PROPOSED])
        self._acted()

    def _approve_above(self) -> None:
        self.review.approve(self._above_ids())
        self._acted()

    def _undo(self) -> None:
        self.review.undo()
        self._acted()

    def _redo(self) -> None:
        self.review.redo()
        self._acted()

    def _acted(self) -> None:
        self.refresh()
        self.acted.emit()

    def _filtered(self, *_: Any) -> None:
        self.model.set_filter(state for state, chip in self.chips.items() if chip.isChecked())

    def _selected(self, ids: frozenset[str]) -> None:
        self._enable()
        self.selection_changed.emit(ids)
