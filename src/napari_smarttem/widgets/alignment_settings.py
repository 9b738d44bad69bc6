"""How pictures for an alignment are taken: exposure, defocus, high tension, and what is wanted."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QFormLayout, QHBoxLayout, QLabel, QWidget

from ..alignment.reading import WANTED_MRAD
from ..schema import Frame
from .alignment_targets import PREFERRED_EXPOSURE_S, RONCHIGRAM, Alignable
from .setting_editors import NumberBox


class SettingsBox(QWidget):
    """Settings of the dock's runs; lines that a target has no use for are hidden.

    Signals
    -------
    changed
        A person changed something.
    """

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.exposure = _number("s", 1e-4, 60.0, 0.1, "Of one picture")
        self.kilovolts = _number("kV", 0.0, 1500.0, 0.0, "High tension; 0 takes what the instrument says")
        self.half_angle = QLabel("–")
        self.half_angle.setToolTip("From the optic axis to the middle of the frame's edge, as the camera is calibrated")
        self.defocus = _number(
            "nm", -20000.0, -50.0, -1500.0, "C1 at which the Ronchigram is taken; underfocus is below 0"
        )
        self.go_to_defocus = QCheckBox("go there to measure")
        self.go_to_defocus.setChecked(True)
        self.go_to_defocus.setToolTip(
            "Ticked: C1 is set before the picture is taken. Otherwise you have defocused by hand"
        )
        self.wanted = _number("mrad", 1.0, 60.0, WANTED_MRAD, "Auto-align stops when χ stays within ±π/4 to this angle")
        form = self._form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(2)
        beam = QHBoxLayout()
        beam.addWidget(self.kilovolts, 1)
        beam.addWidget(QLabel("Frame ±"))
        beam.addWidget(self.half_angle, 1)
        place = QHBoxLayout()
        place.addWidget(self.defocus, 1)
        place.addWidget(self.go_to_defocus)
        self._wanted_label = QLabel("Good to")
        first = QHBoxLayout()
        first.addWidget(self.exposure, 1)
        first.addWidget(self._wanted_label)
        first.addWidget(self.wanted, 1)
        form.addRow("Exposure", first)
        form.addRow("High tension", beam)
        form.addRow("Defocus", place)
        self._ronchigram_rows = (1, 2)
        for box in (self.exposure, self.kilovolts, self.defocus, self.wanted):
            box.valueChanged.connect(self.changed)
        self.go_to_defocus.toggled.connect(self.changed)

    def show_target(self, target: Alignable | None, high_tension_v: float | None) -> None:
        """Show what a target's pictures need, and the instrument's own high tension."""
        ronchigram = target is None or target.name == RONCHIGRAM
        for row in self._ronchigram_rows:
            self._form.setRowVisible(row, ronchigram)
        self._wanted_label.setVisible(ronchigram)
        self.wanted.setVisible(ronchigram)
        if target is not None:
            self.exposure.set_number(PREFERRED_EXPOSURE_S.get(target.name, 0.1))
            self.go_to_defocus.setEnabled(target.defocused)
        if high_tension_v:
            self.kilovolts.set_number(high_tension_v / 1e3)

    def show_frame(self, frame: Frame | None) -> None:
        """Show the half-angle of the newest frame."""
        if frame is None or len(frame.axes) != 2 or any(axis.units != "mrad" for axis in frame.axes):
            self.half_angle.setText("–" if frame is None else "not calibrated")
            return
        half = min(abs(axis.scale) * size / 2 for axis, size in zip(frame.axes, frame.shape, strict=True))
        self.half_angle.setText(f"{half:.3g} mrad")

    def values(self) -> dict[str, Any]:
        """What is worth remembering."""
        return {
            "exposure_s": self.exposure.number(),
            "defocus_nm": self.defocus.number(),
            "go_to_defocus": self.go_to_defocus.isChecked(),
            "wanted_mrad": self.wanted.number(),
        }

    def put(self, values: dict[str, Any]) -> None:
        """Show remembered values; what cannot be used is left as it is."""
        for name, box in (("defocus_nm", self.defocus), ("wanted_mrad", self.wanted)):
            if isinstance(values.get(name), (int, float)):
                box.set_number(float(values[name]))
        if isinstance(values.get("go_to_defocus"), bool):
            self.go_to_defocus.setChecked(values["go_to_defocus"])


def _number(units: str, low: float, high: float, value: float, tip: str) -> NumberBox:
    box = NumberBox(units=units)
    box.set_limits(low, high)
    box.set_number(value)
    box.setToolTip(tip)
    return box
