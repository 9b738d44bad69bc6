"""Settings of a backend before it is connected: the simulator's, a recording's, those of another package's backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, create_model
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QFormLayout, QHBoxLayout, QLineEdit, QPushButton, QStackedWidget, QWidget

from ..schema import BadInput
from .setting_editors import WholeBox
from .settings_form import SettingsForm

RECORDINGS = "Recorded spectrum images (*.hspy *.zspy *.dm3 *.dm4 *.emd *.bcf *.h5);;All files (*)"


class _Simulator(SettingsForm):
    """Which specimen, which seed, and whether time passes as on a microscope."""

    def __init__(self, takes: tuple[str, ...]) -> None:
        from ..backends.simulator import SPECIMENS

        model = create_model(
            "SimulatorSettings",
            __config__=ConfigDict(frozen=True),
            specimen=(
                Literal[tuple(SPECIMENS)],  # type: ignore[valid-type]
                Field(
                    default=next(iter(SPECIMENS)),
                    description="What lies in the simulated microscope; its truth is known",
                ),
            ),
            seed=(int, Field(default=0, ge=0, description="Same seed, same specimen, same noise")),
            time=(
                Literal["real time", "as fast as possible"],
                Field(
                    default="real time",
                    description="Whether a second of exposure takes a second; as fast as possible is for trying out",
                ),
            ),
            optics=(
                Literal["aligned", "misaligned", "misaligned, with OAM sorter", "aligned, with phase plate"],
                Field(
                    default="aligned",
                    description="Misaligned: something to do for the Alignment dock, with controls as imperfect as real ones. "
                    "With phase plate: for the Single-pixel dock",
                ),
            ),
        )
        super().__init__(model)
        self._takes = takes

    def settings(self) -> dict[str, Any]:
        """Keywords for `registry.connect`."""
        values = self.values()
        values["speed"] = 1.0 if values.pop("time") == "real time" else None
        optics = values.pop("optics")
        if optics.startswith("misaligned"):
            values |= {"misalignment": 1.0, "optics_imperfection": 1.0}
        if "sorter" in optics:
            values["sorter"] = True
        if "phase plate" in optics:
            values["phase_plate"] = True
        return values

    def show_settings(self, settings: dict[str, Any]) -> None:
        """Show the settings an instrument was connected with."""
        values = dict(settings)
        if "speed" in values:
            values["time"] = "real time" if values["speed"] == 1.0 else "as fast as possible"
        sorter = ", with OAM sorter" if values.get("sorter") else ""
        plate = ", with phase plate" if values.get("phase_plate") else ""
        values.setdefault("optics", f"misaligned{sorter}" if values.get("misalignment") else f"aligned{plate}")
        self.put(values)


class _Replay(QWidget):
    """Which file, and which spectrum image in it."""

    changed = Signal()

    def __init__(self, takes: tuple[str, ...]) -> None:
        super().__init__()
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        self.file = QLineEdit()
        self.file.setObjectName("replay_file")
        self.file.setPlaceholderText("drop a file on the window, or browse")
        self.file.setToolTip("A recorded EELS or EDS spectrum image: .hspy .zspy .dm3 .dm4 .emd .bcf")
        self.browse = QPushButton("Browse…")
        row = QHBoxLayout()
        row.addWidget(self.file, 1)
        row.addWidget(self.browse)
        form.addRow("File", row)
        self.dataset = WholeBox()
        self.dataset.setRange(-1, 999)
        self.dataset.setSpecialValueText("the first spectrum image")
        self.dataset.setValue(-1)
        self.dataset.setToolTip("Number of the dataset within the file, where it holds several")
        form.addRow("Dataset", self.dataset)
        self.browse.clicked.connect(self._browse)
        self.file.textChanged.connect(lambda *_: self.changed.emit())

    def _browse(self) -> None:
        start = str(Path(self.file.text()).parent) if self.file.text() else ""
        path, _ = QFileDialog.getOpenFileName(self, "A recorded spectrum image", start, RECORDINGS)
        if path:
            self.file.setText(path)

    def settings(self) -> dict[str, Any]:
        """Keywords for `registry.connect`; raises `BadInput` where no file was named."""
        text = self.file.text().strip()
        if not text:
            raise BadInput("No recording was chosen; browse for a file, or drop one on the window.")
        chosen: dict[str, Any] = {"file": text}
        if self.dataset.value() >= 0:
            chosen["dataset"] = self.dataset.value()
        return chosen

    def show_settings(self, settings: dict[str, Any]) -> None:
        """Show the settings an instrument was connected with."""
        self.file.setText(str(settings.get("file", "")))
        dataset = settings.get("dataset")
        self.dataset.setValue(dataset if isinstance(dataset, int) else -1)


class _AnyBackend(QWidget):
    """A line of text per setting of a backend nothing is known about; an empty line is the default."""

    changed = Signal()

    def __init__(self, takes: tuple[str, ...]) -> None:
        super().__init__()
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        self._lines = {name: QLineEdit() for name in takes}
        for name, line in self._lines.items():
            line.setPlaceholderText("default")
            line.textChanged.connect(lambda *_: self.changed.emit())
            form.addRow(name.replace("_", " ").capitalize(), line)

    def settings(self) -> dict[str, Any]:
        """Keywords for `registry.connect`; numbers and true/false are understood, anything else is text."""
        chosen: dict[str, Any] = {}
        for name, line in self._lines.items():
            text = line.text().strip()
            if text:
                try:
                    chosen[name] = json.loads(text)
                except json.JSONDecodeError:
                    chosen[name] = text
        return chosen

    def show_settings(self, settings: dict[str, Any]) -> None:
        """Show the settings an instrument was connected with."""
        for name, value in settings.items():
            if name in self._lines:
                self._lines[name].setText(value if isinstance(value, str) else json.dumps(value))


class BackendForm(QStackedWidget):
    """The settings of the backend chosen last; each backend's form is made when it is first shown and then kept."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._forms: dict[str, Any] = {}

    def show_backend(self, name: str, takes: tuple[str, ...]) -> None:
        """Show the form of a backend that takes these settings."""
        if name not in self._forms:
            kind: Any = {"simulator": _Simulator, "replay": _Replay}.get(name, _AnyBackend)
            form = kind(takes)
            form.changed.connect(self.changed.emit)
            self._forms[name] = form
            self.addWidget(form)
        self.setCurrentWidget(self._forms[name])

    def settings(self) -> dict[str, Any]:
        """Keywords for `registry.connect`; raises `BadInput` where something is missing."""
        form = self.currentWidget()
        return form.settings() if form is not None else {}

    def show_settings(self, settings: dict[str, Any]) -> None:
        """Show settings in the form that is shown."""
        form = self.currentWidget()
        if form is not None:
            form.show_settings(settings)

    def sizeHint(self) -> Any:
        """That of the form shown, not of the largest one."""
        form = self.currentWidget()
        return form.sizeHint() if form is not None else super().sizeHint()

    def minimumSizeHint(self) -> Any:
        """See `sizeHint`."""
        form = self.currentWidget()
        return form.minimumSizeHint() if form is not None else super().minimumSizeHint()
