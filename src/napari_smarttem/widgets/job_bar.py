"""The bar every long job has: how far, how long still, pause, stop, and why it ended."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from .progress_bar import ProgressBar
from .tones import set_tone

_SENTENCES = {
    "idle": "Nothing is running.",
    "running": "Running.",
    "paused": "Paused; the beam is blanked.",
    "awaiting_review": "Waiting for your decision; the beam is blanked.",
    "stopping": "Stopping …",
    "finished": "Finished.",
    "failed": "Failed.",
}
_GOING = frozenset({"running", "paused", "awaiting_review", "stopping"})


def duration_text(seconds: float | None) -> str:
    """Seconds as a person says them: ``"8 s"``, ``"2 min 05 s"``, ``"1 h 20 min"``; empty for None."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class JobBar(QWidget):
    """Progress, time left, Pause, Stop and the reason, fed with the run's status by `show_status`.

    Signals
    -------
    pause_requested, unpause_requested, stop_requested
        The person's intents; the widget does nothing by itself unless made with a session.
    """

    pause_requested = Signal()
    unpause_requested = Signal()
    stop_requested = Signal()

    def __init__(self, parent: QWidget | None = None, *, session: Any = None) -> None:
        super().__init__(parent)
        self._state = "idle"
        self.progress = ProgressBar()
        self.progress.setTextVisible(True)
        self.progress.setFormat("")
        self.pause_button = QPushButton("Pause")
        self.stop_button = QPushButton("Stop")
        self.reason = QLabel(_SENTENCES["idle"])
        self.reason.setWordWrap(True)
        row = QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.progress, 1)
        row.addWidget(self.pause_button)
        row.addWidget(self.stop_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        column.addLayout(row)
        column.addWidget(self.reason)
        self.pause_button.clicked.connect(self._pause_clicked)
        self.stop_button.clicked.connect(self.stop_requested)
        self._session = session
        if session is not None:
            self.pause_requested.connect(self._pause_session)
            self.unpause_requested.connect(self._unpause_session)
            self.stop_requested.connect(self._stop_session)
        self._enable()

    def show_status(self, status: Any) -> None:
        """Show a `RunStatus`: state, steps done of how many, time left, and the reason where the run has ended."""
        self._state = str(status.state)
        total = status.steps_total
        if total:
            # an estimate: checks on the way make a run longer, and one that has nothing left to do is over earlier
            over = self._state == "finished" and status.outcome == "finished"
            done = int(status.steps_done)
            total = done if over and done else max(int(total), done)
            self.progress.setRange(0, total)
            self.progress.setValue(done)
            self.progress.setFormat(f"{status.steps_done} of {total}")
        elif self._state in {"running", "stopping"}:
            self.progress.setRange(0, 0)
        else:
            self.progress.setRange(0, 1)
            self.progress.setValue(1 if self._state == "finished" else 0)
            count = status.steps_done
            self.progress.setFormat(f"{count} step{'s' if count > 1 else ''}" if count else "")
        sentence = _SENTENCES.get(self._state, self._state)
        if self._state == "running" and status.remaining_s is not None and status.remaining_s >= 0.5:
            sentence = f"Running; {duration_text(status.remaining_s)} left."
        elif self._state == "finished" and status.outcome == "stopped":
            sentence = "Stopped."
        if status.reason and self._state not in {"running", "idle"}:
            sentence = f"{sentence} {_as_sentence(status.reason)}"
        self.reason.setText(sentence)
        set_tone(self.reason, "bad" if self._state == "failed" else "")
        self._enable()

    def _enable(self) -> None:
        pausable = self._state in {"running", "paused"}
        self.pause_button.setEnabled(pausable)
        self.pause_button.setText("Go on" if self._state == "paused" else "Pause")
        self.pause_button.setToolTip(
            "Stop after the present step with the beam blanked, until you go on"
            if pausable
            else "Nothing is running that could be paused"
        )
        self.stop_button.setEnabled(self._state in _GOING - {"stopping"})
        self.stop_button.setToolTip(
            "End the run now: the beam is blanked, everything measured so far is kept"
            if self.stop_button.isEnabled()
            else "Nothing is running"
        )

    def _pause_clicked(self) -> None:
        (self.unpause_requested if self._state == "paused" else self.pause_requested).emit()

    def _pause_session(self) -> None:
        self._session.pause()

    def _unpause_session(self) -> None:
        self._session.unpause()

    def _stop_session(self) -> None:
        self._session.stop()


def _as_sentence(text: str) -> str:
    text = text.strip()
    return (text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "…")) else ".")) if text else ""
