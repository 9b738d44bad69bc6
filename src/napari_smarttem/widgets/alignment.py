"""The *Alignment* dock: read the optics from one picture, see how sure, propose, approve, correct, verify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QPushButton,
    QSplitter,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from ..alignment.proposal import Change
from ..engine.keep_good import PREFIX
from ..schema import BadInput
from .alignment_actions import MEASURE_FIRST, AlignmentActions
from .alignment_keep import KeepBox, KeepGood
from .alignment_pictures import ConvergencePlot, Pictures
from .alignment_record import AlignmentRecord, Entry, record_for
from .alignment_settings import SettingsBox
from .alignment_tables import FAIR, GOOD, POOR, ProposalTable, ReadingTable
from .alignment_targets import Alignable, alignable
from .alignment_view import AlignmentView
from .angle_plane import AnglePlaneDock
from .base import JobBar, SessionWidget, remembered
from .tabs import join_tabs

if TYPE_CHECKING:
    from napari import Viewer

PAGES = ("Measured", "Proposed", "History")
MEASURED, PROPOSED, HISTORY = range(3)
DOCK_WIDTH = 430
SEARCHED = "Nothing is measured here: Auto-align varies C1 and A1 and looks for the sharpest scan, then you keep it or put it back."
NOTHING = "Connect an instrument with a camera and optics that can be set (Instrument dock)."


class AlignmentDock(SessionWidget, AlignmentActions, AlignmentView):
    """Measure, propose, apply, undo, auto-align.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        What was measured and changed belongs to this viewer; closing the dock stops nothing and forgets nothing.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.record: AlignmentRecord = record_for(self.viewer)
        self.target: Alignable | None = None
        self._targets: list[Alignable] = []
        self._starting = False
        self._listing: Any = None
        self._proposed_from: Entry | None = None
        self._last_word: tuple[str, str] | None = None
        self._angle_awaited = False
        self._joined = False
        self._build()
        self.settings_box.put(remembered("alignment.settings", {}) or {})
        self._wire()
        self._instrument_changed()
        self.bar.show_status(self.session.status)

    # --------------------------------------------------------------------------------------------------- building

    def _build(self) -> None:
        self.mark = QLabel("SIMULATED")
        self.mark.setObjectName("simulated_mark")
        self.mark.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.mark.setStyleSheet(
            "background: #E69F00; color: black; font-weight: 700; letter-spacing: 3px; padding: 2px;"
        )
        self.chooser = QComboBox()
        self.chooser.setToolTip("What is to be aligned")
        self.settings_box = SettingsBox()
        self.measure_button = QPushButton("Measure")
        self.propose_button = QPushButton("Propose")
        self.apply_button = QPushButton("Apply")
        self.undo_button = QPushButton("Undo")
        self.auto_button = QPushButton("Auto-align")
        self.focus_button = QPushButton("To focus")
        self.learn_button = QPushButton("Learn controls")
        self.reject_button = QPushButton("Reject all")
        self.undo_all_button = QPushButton("Undo everything")
        self.verdict = QLabel(NOTHING)
        self.verdict.setObjectName("verdict")
        self.verdict.setWordWrap(True)
        self.verdict.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.table = ReadingTable()
        self.pictures = Pictures()
        self.proposal = ProposalTable()
        self.plot = ConvergencePlot()
        self.history = QListWidget()
        self.history.setWordWrap(True)
        measured = QSplitter(Qt.Orientation.Vertical)
        measured.addWidget(self.table)
        measured.addWidget(self.pictures)
        measured.setSizes([215, 230])
        history = QSplitter(Qt.Orientation.Vertical)
        history.addWidget(self.plot)
        history.addWidget(_column(self.history, self.undo_all_button))
        row = QWidget()
        line = QHBoxLayout(row)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.reject_button)
        line.addWidget(self.learn_button)
        self.pages = QTabWidget()
        for page, title in zip((measured, _column(self.proposal, row), history), PAGES, strict=True):
            self.pages.addTab(page, title)
        self.answers = QWidget()
        replies = QHBoxLayout(self.answers)
        replies.setContentsMargins(0, 0, 0, 0)
        for words, action in (("Keep the best", "go"), ("Search on", "repropose"), ("Put back", "finish")):
            button = QPushButton(words)
            button.clicked.connect(lambda _=False, reply=action: self._try(lambda: self.answer(reply)))
            replies.addWidget(button)
        self.answers.hide()
        self.keep_answers = QWidget()
        replies = QHBoxLayout(self.keep_answers)
        replies.setContentsMargins(0, 0, 0, 0)
        for words, action in (("Correct, and go on", "go"), ("Leave it, and go on", "finish")):
            button = QPushButton(words)
            button.clicked.connect(lambda _=False, reply=action: self._try(lambda: self.answer(reply)))
            replies.addWidget(button)
        self.keep_answers.hide()
        self.keep_box = KeepBox()
        self.keep = KeepGood(self, self.keep_box)
        self.bar = JobBar(session=self.session)
        buttons = QGridLayout()
        buttons.setSpacing(3)
        order = (self.measure_button, self.propose_button, self.apply_button, self.undo_button)
        for place, button in enumerate(order):
            buttons.addWidget(button, 0, place)
        buttons.addWidget(self.auto_button, 1, 0, 1, 3)
        buttons.addWidget(self.focus_button, 1, 3)
        self.auto_button.setStyleSheet("font-weight: 600;")
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 4, 4, 4)
        column.setSpacing(4)
        column.addWidget(self.mark)
        column.addWidget(self.chooser)
        column.addWidget(self.settings_box)
        column.addLayout(buttons)
        column.addWidget(self.verdict)
        column.addWidget(self.answers)
        column.addWidget(self.keep_answers)
        column.addWidget(self.pages, 1)
        column.addWidget(self.keep_box)
        column.addWidget(self.bar)

    def sizeHint(self) -> Any:
        """As wide as two small pictures beside each other need."""
        hint = super().sizeHint()
        hint.setWidth(DOCK_WIDTH)
        return hint

    def _wire(self) -> None:
        for button, action in (
            (self.measure_button, self.measure),
            (self.propose_button, self.propose),
            (self.apply_button, self.apply),
            (self.undo_button, self.undo),
            (self.auto_button, self.auto_align),
            (self.focus_button, self.focus),
            (self.learn_button, self.learn),
            (self.reject_button, self.reject),
            (self.undo_all_button, self.undo_all),
        ):
            button.clicked.connect(lambda _=False, do=action: self._try(do))
        self.chooser.activated.connect(self._target_chosen)
        self.proposal.changed.connect(self._enable)
        self.proposal.refused.connect(self._refused)
        self.pictures.probe.drawn.connect(self._drawn)
        self.settings_box.changed.connect(self.keep.tell_session)
        self.record.read.connect(self._read)
        self.record.noted.connect(self._noted)
        self.record.ended.connect(self._ended)
        self.listen(self.session.instrument_changed, self._instrument_changed)
        self.listen(self.session.status_changed, self._status_changed)

    # ------------------------------------------------------------------------------------------------- for others

    def show_page(self, page: int) -> None:
        """Show one of `PAGES`."""
        self.pages.setCurrentIndex(page)

    def choose(self, name: str) -> None:
        """Choose what is to be aligned by its name, such as ``"ronchigram"`` or ``"oam-sorter"``."""
        row = self.chooser.findData(name)
        if row < 0:
            raise BadInput(
                f"This instrument has no {name!r} to align; it has {', '.join(t.name for t in self._targets)}."
            )
        self.chooser.setCurrentIndex(row)
        self._target_chosen()

    def busy_because(self) -> str:
        """Why no run can be begun now; empty where one can."""
        if self.session.instrument is None:
            return "Connect an instrument first (Instrument dock)"
        if self._starting:
            return "A run is being started"
        if self.session.status.active:
            return "A run is going on; wait for it or stop it"
        return ""

    def correct_quietly(self, entry: Entry) -> None:
        """Correct what a reading found without asking; the focus, which a person sets for the picture at hand, is left alone."""
        target = self._require_target()

        def spec(states: Any) -> Any:
            changes = self._changes(target, entry, states)
            if not changes:
                raise BadInput("What the controls do is not known yet; press Learn controls.")
            return target.click(states, values=_without_focus(changes, entry.aim), look=False)

        self._begin("keep it good", spec)

    # ------------------------------------------------------------------------------------- what the session says

    def _instrument_changed(self, *_: Any) -> None:
        guard = self.session.instrument
        self.mark.setVisible(bool(guard is not None and guard.info.simulated))
        self._targets, self.target = [], None
        self.chooser.clear()
        self.verdict.setText(NOTHING if guard is None else "Looking what can be aligned …")
        if self._listing is not None:
            self._listing.cancel.set()
        self._listing = self.in_background(lambda _: alignable(guard), self._targets_known)
        self._show()

    def _targets_known(self, targets: list[Alignable]) -> None:
        self._listing = None
        self._targets = targets
        for one in targets:
            self.chooser.addItem(one.title, one.name)
        if targets:
            self.verdict.setText("")
            self._target_chosen()
        elif self.session.instrument is not None:
            info = self.session.instrument.info
            self.verdict.setText(
                f"{info.name} offers nothing to align: it needs a camera and optics that can be set. "
                "The simulator's camera needs torch (see docs/how-to/install.md)."
            )
        self._enable()

    def _target_chosen(self, *_: Any) -> None:
        name = self.chooser.currentData()
        self.target = next((one for one in self._targets if one.name == name), None)
        guard = self.session.instrument
        self.settings_box.show_target(self.target, guard.info.high_tension_v if guard is not None else None)
        self.proposal.show_changes((), {})
        self._proposed_from = None
        searched = self.target is not None and not self.target.measured
        self._say_verdict(SEARCHED if searched else "Nothing measured yet.", "")
        self._show()
        self.keep.tell_session()

    def _status_changed(self, status: Any) -> None:
        self.bar.show_status(status)
        self._enable()

    def _read(self, _entry: Entry | None) -> None:
        self._show()
        self.keep.tell_session()  # what is known of the controls goes into the checks of the next acquisition

    def _noted(self, level: str, text: str, verdict: str) -> None:
        self.history.addItem(text)
        self.history.scrollToBottom()
        self.say(level, text)
        if self.record.going is None:  # a check on the way of an acquisition: what it says last is what is so
            self._say_verdict(text, POOR if level == "warning" else FAIR)
        elif level == "warning" or verdict:
            self._last_word = (text, GOOD if verdict == "aligned" else POOR if level == "warning" else FAIR)
            self._say_verdict(*self._last_word)
        self._enable()  # a check during an acquisition may have moved something that can be undone

    def _ended(self, outcome: str, reason: str) -> None:
        self.bar.show_status(self.session.status)
        word, self._last_word = self._last_word, None
        entry = self.record.newest(self.target.name) if self.target is not None else None
        if word is not None:
            self._say_verdict(*word)
        elif entry is not None:
            self._show_verdict(entry)
        if outcome == "failed":
            # the engine's reason says where something could not be put back
            restored = "" if "could not" in reason else " The controls are back where they were."
            sentence = f"{reason.rstrip('.')}.{restored}"
            self._say_verdict(sentence, POOR)
            self.say("error", sentence)
        self.proposal.show_changes((), {})
        self._show_history()
        self._enable()
        self.keep.run_over(outcome == "finished")

    def _refused(self, sentence: str) -> None:
        self.say("warning", sentence)

    def _try(self, action: Any) -> None:
        try:
            action()
        except BadInput as error:
            self.complain(error)

    def showEvent(self, event: Any) -> None:
        """Napari puts a new dock below the others: there is no room for this one there."""
        super().showEvent(event)
        if not self._joined:
            QTimer.singleShot(0, self._join_tabs)

    def _join_tabs(self) -> None:
        if isalive(self) and not self._joined:
            self._joined = join_tabs(self, DOCK_WIDTH, apart=(AnglePlaneDock,))

    def _enable(self) -> None:
        """Each button is enabled where it does something; otherwise its tooltip says why it is not."""
        busy = self.busy_because() or (
            "" if self.target is not None else "There is nothing to align on this instrument"
        )
        entry = self.record.newest(self.target.name) if self.target is not None else None
        good = entry is not None and entry.reading.good
        stale = self.target is not None and self.target.name in self.record.stale
        moved = self.target is not None and bool(self.record.undoable(self.target.name))
        accepted = self.proposal.accepted()
        count = len(accepted)
        asked = self.session.review.is_open and self.record.going is not None and self.session.status.active
        self.answers.setVisible(asked)
        step = self.session.review.step
        checked = self.session.review.is_open and step is not None and step.step_id.startswith(PREFIX)
        self.keep_answers.setVisible(checked)
        if checked:
            self._say_verdict(step.prompt, POOR)
        measured = busy or (
            "" if self.target is None or self.target.measured else "Nothing is measured here; press Auto-align"
        )
        self.apply_button.setText(f"Apply ({count})" if count else "Apply")
        self.focus_button.setVisible(self.target is None or self.target.defocused)
        nothing = "" if moved else "Nothing was changed yet"
        for button, why, tip in (
            (self.measure_button, measured, "Take one picture and read it"),
            (self.propose_button, busy or ("" if good and not stale else MEASURE_FIRST), "Work out the change of each control"),
            (self.apply_button, busy or ("" if count else "Propose first, and tick what to change"),
             "Set what is ticked, within limits, and measure again"),
            (self.undo_button, busy or nothing, "Put the controls back to where they were before the last change"),
            (self.undo_all_button, busy or nothing, "Put every control back to where it was at the start"),
            (self.auto_button, busy, "Measure and correct in a closed loop until it is good; Stop puts the controls back"),
            (self.focus_button, busy or ("" if good else MEASURE_FIRST), "Set C1 to zero, as the last measurement says"),
            (self.learn_button, measured, "Move each control by a little and back, and see what it does"),
            (self.reject_button, "" if count else "Nothing is ticked", "Take every tick away"),
        ):  # fmt: skip
            button.setEnabled(not why)
            button.setToolTip(f"{why}." if why else tip)


def _column(*widgets: QWidget) -> QWidget:
    page = QWidget()
    column = QVBoxLayout(page)
    column.setContentsMargins(0, 2, 0, 0)
    for index, widget in enumerate(widgets):
        column.addWidget(widget, 0 if index else 1)
    return page


def _without_focus(changes: tuple[Change, ...], aim: dict[str, float]) -> dict[str, float]:
    return {one.control: one.then for one in changes if one.control not in aim}
