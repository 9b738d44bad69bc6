"""The *Instrument* dock: which microscope, whether it is real, where the beam is, what it has cost so far, and STOP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QFrame,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from ..schema import SmartTEMError
from .backend_form import BackendForm
from .base import SessionWidget, remember, remembered, when_done
from .dose_meter import DoseMeter

if TYPE_CHECKING:
    from napari import Viewer

_STATE_WORDS = {
    "idle": ("●", "#8a8d94", "idle"),
    "running": ("●", "#00B583", "running"),
    "paused": ("●", "#E69F00", "paused"),
    "awaiting_review": ("●", "#56B4E9", "waiting for your decision"),
    "stopping": ("●", "#E69F00", "stopping"),
    "finished": ("●", "#8a8d94", "finished"),
    "failed": ("●", "#D55E00", "failed"),
}
_SENTENCE_COLORS = {"error": "#ff8a5c", "warning": "#f0b94a", "info": ""}


def scrolled(inner: QWidget) -> QScrollArea:
    """`inner` in a frameless area that scrolls vertically where the dock is too low, never sideways."""
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(inner)
    return area


def _value(name: str) -> QLabel:
    label = QLabel("–")
    label.setObjectName(name)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


class InstrumentDock(SessionWidget):
    """Connect to an instrument and watch it.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        The dock shows the session of this viewer; closing the dock disconnects nothing.
    """

    connected = Signal()
    """An instrument was connected from this dock."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self._connecting = False
        self._beam_job: Any = None
        self.setAcceptDrops(True)
        self._build()
        self._fill_backends()
        self.listen(self.session.instrument_changed, self._on_instrument)
        self.listen(self.session.status_changed, self._on_status)
        self.listen(self.session.message, self._on_messages, every=True)
        self._timer = QTimer(self)
        self._timer.setInterval(300)
        self._timer.timeout.connect(self._look)
        self._timer.start()
        self._on_instrument()
        self._on_status(self.session.status)

    def _build(self) -> None:
        self.mark = QLabel("SIMULATED")
        self.mark.setObjectName("simulated_mark")
        self.mark.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.mark.setToolTip("Nothing here is a measurement; every file of a simulated run says so")
        self.mark.setStyleSheet(
            "background: #E69F00; color: black; font-weight: 700; letter-spacing: 4px; padding: 5px; border-radius: 3px;"
        )
        self.mark.hide()

        self.backend = QComboBox()
        self.backend.setToolTip("Microscopes, simulations and recordings that are installed")
        self.form = BackendForm()
        self.connect_button = QPushButton("Connect")
        self.disconnect_button = QPushButton("Disconnect")
        buttons = QHBoxLayout()
        buttons.addWidget(self.connect_button, 1)
        buttons.addWidget(self.disconnect_button, 1)
        choose = QGroupBox("Microscope")
        box = QVBoxLayout(choose)
        box.addWidget(self.backend)
        box.addWidget(self.form)
        box.addLayout(buttons)

        state = QGroupBox("State")
        rows = QFormLayout(state)
        rows.setVerticalSpacing(5)
        self.identity = _value("identity")
        self.optics_line = _value("optics_line")
        self.field_line = _value("field_line")
        self.capabilities = _value("capabilities")
        self.run_line = _value("run_line")
        self.beam_line = _value("beam_line")
        for title, label in (
            ("Instrument", self.identity),
            ("Beam", self.beam_line),
            ("Source", self.optics_line),
            ("Field", self.field_line),
            ("Offers", self.capabilities),
            ("Run", self.run_line),
        ):
            rows.addRow(title, label)
        self.dose = DoseMeter()

        self.sentence = QLabel()
        self.sentence.setObjectName("sentence")
        self.sentence.setWordWrap(True)
        self.sentence.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.sentence.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)

        self.stop_button = QPushButton("STOP")
        self.stop_button.setObjectName("stop")
        self.stop_button.setMinimumHeight(44)
        self.stop_button.setStyleSheet(
            "QPushButton { background: #c62828; color: white; font-weight: 700; font-size: 17px; border-radius: 4px; }"
            "QPushButton:hover { background: #e53935; } QPushButton:pressed { background: #8e1b1b; }"
            "QPushButton:disabled { background: #5b3a3a; color: #a08c8c; }"
        )

        inner = QWidget()
        column = QVBoxLayout(inner)
        column.setContentsMargins(4, 4, 4, 4)
        column.addWidget(choose)
        column.addWidget(state)
        column.addWidget(self.dose)
        column.addWidget(self.sentence)
        column.addStretch(1)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(4, 4, 4, 4)
        whole.addWidget(self.mark)
        whole.addWidget(scrolled(inner), 1)
        whole.addWidget(self.stop_button)

        self.backend.currentIndexChanged.connect(self._backend_chosen)
        self.connect_button.clicked.connect(self._connect_clicked)
        self.disconnect_button.clicked.connect(self.disconnect_instrument)
        self.stop_button.clicked.connect(self.stop)
        self.dose.budget_changed.connect(self._budget_changed)
        self.form.changed.connect(self._refresh_buttons)

    def sizeHint(self) -> Any:
        """As wide as a dock should be beside a canvas that matters more."""
        hint = super().sizeHint()
        hint.setWidth(340)
        return hint

    def _fill_backends(self) -> None:
        from ..backends import registry

        self._entries = registry.available()
        names = sorted(self._entries, key=lambda name: (name != "simulator", name != "replay", name))
        for name in names:
            entry = self._entries[name]
            self.backend.addItem(name if entry.available else f"{name} (not available)", name)
            row = self.backend.count() - 1
            self.backend.setItemData(row, entry.description, Qt.ItemDataRole.ToolTipRole)
            if not entry.available:
                self.backend.model().item(row).setEnabled(False)
        unavailable = [f"{n}: {e.description}" for n, e in self._entries.items() if not e.available]
        if unavailable:
            self.backend.setToolTip("\n".join(unavailable))
        last = remembered("instrument.backend")
        usable = [n for n in names if self._entries[n].available]
        chosen = last if last in usable else (usable[0] if usable else None)
        self.backend.setCurrentIndex(max(0, self.backend.findData(chosen)))
        self._backend_chosen()
        kept = remembered(f"instrument.settings.{chosen}", {})
        if isinstance(kept, dict) and chosen:
            self.form.show_settings(kept)

    def choose(self, backend: str, **settings: Any) -> None:
        """Show a backend and its settings, as a click on *Connect* would use them."""
        row = self.backend.findData(backend)
        if row >= 0:
            self.backend.setCurrentIndex(row)
            self._backend_chosen()
            self.form.show_settings(settings)

    def _backend_chosen(self, *_: Any) -> None:
        entry = self._entries.get(self.backend.currentData())
        if entry is not None and entry.available:
            self.form.show_backend(entry.name, entry.settings)
        self.form.updateGeometry()
        self._refresh_buttons()

    def _connect_clicked(self) -> None:
        self.connect_instrument()

    def connect_instrument(self, also: dict[str, Any] | None = None) -> None:
        """Connect to what is chosen, without holding up the window; `also` holds settings that the form does not show."""
        backend = self.backend.currentData()
        try:
            settings = self.form.settings() | dict(also or {})
            future = self.session.connect(backend, **settings)
        except SmartTEMError as error:
            self.show_sentence("error", str(error))
            return
        self._connecting = True
        self.show_sentence("info", f"Connecting to {backend} …")
        self._refresh_buttons()
        remember("instrument.backend", backend)
        # a token opens a microscope: it is kept in no file
        remember(f"instrument.settings.{backend}", {key: value for key, value in settings.items() if key != "token"})
        when_done(future, self._connected, self._not_connected, owner=self)

    def _connected(self, info: Any) -> None:
        self._connecting = False
        self.show_sentence("info", f"Connected to {info.name}.")
        self._on_instrument()
        self.connected.emit()

    def _not_connected(self, error: BaseException) -> None:
        self._connecting = False
        self.show_sentence("error", str(error) or type(error).__name__)
        self._on_instrument()

    def disconnect_instrument(self) -> None:
        """Blank the beam and let go of the instrument."""
        try:
            future = self.session.disconnect()
        except SmartTEMError as error:
            self.show_sentence("error", str(error))
            return
        self._connecting = True
        self._refresh_buttons()
        when_done(future, self._disconnected, self._not_connected, owner=self)

    def _disconnected(self, _: Any) -> None:
        self._connecting = False
        self.show_sentence("info", "Disconnected.")
        self._on_instrument()

    def stop(self) -> None:
        """Stop the run and blank the beam; with no run going, park and blank all the same."""
        if self.session.status.active:
            self.session.stop(reason="stopped by a person")
            self.show_sentence("warning", "Stopping; the beam is blanked and what was measured is kept.")
            return
        guard = self.session.instrument
        if guard is not None:
            self.in_background(lambda _: guard.make_safe(), self._made_safe, self._not_connected)

    def _made_safe(self, failures: list[str]) -> None:
        if failures:
            self.show_sentence("error", " ".join(failures))
        else:
            self.show_sentence("info", "The probe is parked and the beam blanked.")
        self._look()

    def _budget_changed(self, budget: float | None) -> None:
        guard = self.session.instrument
        if guard is not None:
            guard.dose_budget_e_per_a2 = budget
            self._look()

    def show_sentence(self, level: str, sentence: str) -> None:
        """Say one sentence at the foot of the dock."""
        self.sentence.setText(sentence)
        self.sentence.setStyleSheet(f"color: {_SENTENCE_COLORS[level]};" if _SENTENCE_COLORS.get(level) else "")

    def _on_messages(self, messages: list[tuple[str, str]]) -> None:
        level, sentence = messages[-1]
        for earlier in messages:
            if earlier[0] == "error":
                level, sentence = earlier
        self.show_sentence(level, sentence)

    def _on_instrument(self, *_: Any) -> None:
        guard = self.session.instrument
        info = guard.info if guard is not None else None
        simulated = bool(info and info.simulated)
        self.mark.setVisible(simulated)
        self._mark_window(simulated, info)
        if guard is None or info is None:
            for label in (self.identity, self.optics_line, self.field_line, self.capabilities, self.beam_line):
                label.setText("–")
            self.identity.setText("not connected")
            self.dose.show_dose(None, None)
        else:
            self.identity.setText(info.name)
            parts = []
            if info.high_tension_v:
                parts.append(f"{info.high_tension_v / 1000:g} kV")
            current = guard.beam_current_pa
            parts.append(f"{current:.3g} pA" if current else "beam current not known")
            self.optics_line.setText(", ".join(parts))
            context = self.session.context
            if context is not None:
                field = context.field
                self.field_line.setText(f"{field.width_nm:g} × {field.height_nm:g} nm; {', '.join(context.signals)}")
            self.capabilities.setText(", ".join(info.capabilities) or "nothing")
            self.dose.show_budget(guard.dose_budget_e_per_a2)
            self._look()
        self._refresh_buttons()

    def _mark_window(self, simulated: bool, info: Any) -> None:
        viewer = self.viewer
        if viewer is None:
            return
        title = f"{info.name} – napari" if info is not None else "napari"
        if simulated and "SIMULATED" not in title:
            title = f"SIMULATED – {title}"
        if viewer.title != title:
            viewer.title = title

    def _on_status(self, status: Any) -> None:
        glyph, color, words = _STATE_WORDS[str(status.state)]
        if status.state == "finished" and status.outcome == "stopped":
            words = "stopped"
        reason = f": {status.reason}" if status.reason and not status.active else ""
        self.run_line.setText(f"<span style='color:{color}'>{glyph}</span> {words}{reason}")
        if status.state == "failed" and status.reason:
            self.show_sentence("error", status.reason)
        self._refresh_buttons()

    def _look(self) -> None:
        """Dose at once (it is a number of ours); the beam in the background, for a real column may take its time."""
        guard = self.session.instrument
        if guard is None or not self.isVisible():
            return
        self.dose.show_dose(guard.dose_e_per_a2, guard.dose_budget_e_per_a2)
        if self._beam_job is None or not self._beam_job.running:
            self._beam_job = self.in_background(lambda _: _beam(guard), self._show_beam, self._beam_unknown)

    def _show_beam(self, state: tuple[bool | None, tuple[float, float] | None]) -> None:
        blanked, place = state
        if blanked:
            text, color = "blanked", "#8a8d94"
        elif place is not None:
            text, color = f"on the specimen at y {place[0]:.1f}, x {place[1]:.1f} nm", "#00B583"
        elif blanked is None:
            text, color = "parked (no blanker)", "#E69F00"
        else:
            text, color = "not blanked, probe parked or scanning", "#E69F00"
        self.beam_line.setText(f"<span style='color:{color}'>●</span> {text}")

    def _beam_unknown(self, error: BaseException) -> None:
        self.beam_line.setText(f"not known: {error}")

    def _refresh_buttons(self, *_: Any) -> None:
        guard = self.session.instrument
        entry = self._entries.get(self.backend.currentData()) if hasattr(self, "_entries") else None
        running = self.session.status.active
        why = ""
        if self._connecting:
            why = "Connecting or disconnecting at this moment"
        elif running:
            why = "A run is going on; stop it first"
        elif entry is None or not entry.available:
            why = entry.description if entry else "No backend is installed"
        self.connect_button.setEnabled(not why)
        self.connect_button.setText("Connect" if guard is None else "Connect anew")
        self.connect_button.setToolTip(why or "Connect in the background; the window stays alive")
        self.disconnect_button.setEnabled(guard is not None and not self._connecting)
        self.disconnect_button.setToolTip(
            "Stops what runs, blanks the beam, lets go of the instrument"
            if guard is not None
            else "Nothing is connected"
        )
        self.stop_button.setEnabled(guard is not None or running)
        self.stop_button.setToolTip(
            "Stops the run, parks the probe and blanks the beam; what was measured is kept"
            if guard is not None
            else "Nothing is connected"
        )

    def dragEnterEvent(self, event: Any) -> None:
        """Take a recording that is dragged over the dock."""
        if len(event.mimeData().urls()) == 1 and event.mimeData().urls()[0].isLocalFile():
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        """Put a dropped recording into the replay form; the person connects."""
        path = Path(event.mimeData().urls()[0].toLocalFile())
        self.choose("replay", file=str(path))
        self.show_sentence("info", f"{path.name} is chosen; press Connect to use it as the instrument.")
        event.acceptProposedAction()


def _beam(guard: Any) -> tuple[bool | None, tuple[float, float] | None]:
    blanked = guard.blanker.blanked if guard.blanker is not None else None
    place = guard.scanner.probe_position_nm if guard.scanner is not None else None
    return blanked, place
