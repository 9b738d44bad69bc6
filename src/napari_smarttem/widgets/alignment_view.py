"""What the Alignment dock shows of the record: numbers, pictures, verdict, history, and the circle in the angle plane."""

from __future__ import annotations

from typing import Any

from .alignment_record import Entry, said_changes
from .alignment_tables import FAIR, GOOD, POOR
from .angle_plane import AnglePlaneDock
from .base import open_dock
from .launch import dock_of
from .tabs import place_below_canvas
from .tones import set_tone

CIRCLE = "χ = π/4"
ANGLE_PLANE_HEIGHT = 420
_TONES = {GOOD: "good", FAIR: "warning", POOR: "bad"}


class AlignmentView:
    """Mixin of the dock: everything that is drawn from the record."""

    def _show(self) -> None:
        """Everything anew from the record."""
        target = self.target
        entry = self.record.newest(target.name) if target is not None else None
        frame = self.record.frames.get(target.name) if target is not None else None
        reading = entry.reading if entry is not None else None
        self.settings_box.show_frame(frame)
        self.table.show_reading(reading, entry.aim if entry is not None else None)
        self.pictures.show_reading(reading, frame)
        if entry is not None and self._last_word is None:
            self._show_verdict(entry)
        tolerance = {name: limit for name, _, limit in target.parameters} if target is not None else {}
        self.plot.show_entries(self.record.of(target.name) if target is not None else [], tolerance)
        if frame is not None and frame.axes[0].units == "mrad" and self.isVisible():
            plane = self._angle_plane()
            if plane.frame is not frame:
                plane.show_frame(frame)
            if not self.pictures.probe.waiting:
                self._draw_circle()
        self._show_history()
        self._enable()

    def _drawn(self) -> None:
        """What depends on the angle that the pictures have worked out."""
        entry = self.record.newest(self.target.name) if self.target is not None else None
        if entry is not None and self._angle_awaited:
            self._show_verdict(entry)
        self._draw_circle()

    def _show_verdict(self, entry: Entry) -> None:
        reading, figures = entry.reading, entry.reading.figures
        if entry.target in self.record.stale and self.record.going is None:
            self._say_verdict(
                "The controls were moved since the last measurement; measure again to see where it stands.", FAIR
            )
            return
        if not reading.good:
            self._say_verdict(f"No measurement: {reading.verdict.rstrip('.')}.", POOR)
            return
        if "corrected_mrad" in figures:
            angle = self.pictures.probe.in_focus_mrad
            if angle is None:
                self._say_verdict("Measured.", FAIR)
                self._angle_awaited = True
                return
            wanted = self.settings_box.wanted.number()
            self._say_verdict(
                f"In focus χ stays within ±π/4 to {angle:.1f} mrad; wanted {wanted:g}. Correcting what was measured should give "
                f"{figures['corrected_mrad']:.0f} ({figures['corrected_mrad_16']:.0f} to {figures['corrected_mrad_84']:.0f}) mrad.",
                GOOD if angle >= wanted else FAIR,
            )
        elif "merit" in figures:
            merit = figures["merit"]
            more = f", resolution {figures['resolution_hbar']:.2f} ħ" if "resolution_hbar" in figures else ""
            self._say_verdict(f"Merit {merit:.1%} of the aligned{more}.", GOOD if merit >= 0.985 else FAIR)
        else:
            self._say_verdict("Measured.", FAIR)

    def _say_verdict(self, sentence: str, color: str) -> None:
        self._angle_awaited = False
        self.verdict.setText(sentence)
        set_tone(self.verdict, _TONES.get(color, ""))

    def _draw_circle(self, *_: Any) -> None:
        frame = self.record.frames.get(self.target.name) if self.target is not None else None
        if frame is None or frame.axes[0].units != "mrad" or not self.isVisible():
            return
        angle = self.pictures.probe.quarter_pi_mrad
        self._angle_plane().show_circle(round(angle, 2) if angle else None, CIRCLE)

    def _angle_plane(self) -> AnglePlaneDock:
        """The angle plane, opened under the canvas where a person has not put it elsewhere."""
        main = self.viewer.window._qt_window
        known = [one for one in main.findChildren(AnglePlaneDock) if dock_of(one) is not None]
        plane = open_dock(self.viewer, "Angle plane")
        if not known:
            place_below_canvas(plane, ANGLE_PLANE_HEIGHT)
        return plane

    def _show_history(self) -> None:
        if self.target is None:
            return
        name = self.target.name
        lines = [(one.at, f"read: {one.reading.words()}") for one in self.record.of(name)]
        lines += [(at, text) for target, at, text in self.record.notes if target == name]
        lines += [(one.at, f"{one.words}: {said_changes(one.before, one.after)}") for one in self.record.undoable(name)]
        self.history.clear()
        self.history.addItems([f"{at}  {text}" for at, text in sorted(lines, key=lambda line: line[0])])
        self.history.scrollToBottom()
