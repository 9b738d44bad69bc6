"""The last page of the *Acquisition* dock: exposure, start, the newest spectrum, and what becomes of the data."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QGridLayout, QHBoxLayout, QLabel, QLineEdit, QPushButton, QVBoxLayout, QWidget
from superqt import QCollapsible

from .acquisition_form import hint, primary
from .settings_form import SettingsForm


class RunPage(QWidget):
    """How to measure, and the measurement as it goes.

    Parameters
    ----------
    windows : EnergyWindows
        Shared with the Spectrum dock and the live maps.
    """

    changed = Signal()

    def __init__(self, windows: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        from ..acquisition.settings import AcquisitionSettings
        from .spectrum_plot import SpectrumPlot

        self.form = SettingsForm(
            AcquisitionSettings, ("exposure_s", "drift_every"), labels={"drift_every": "Drift image every"}
        )
        every = self.form.editors["drift_every"].box
        every.setSuffix(" points")
        every.setSpecialValueText("never")
        self.more = SettingsForm(
            AcquisitionSettings,
            ("drift_fraction", "drift_dwell_s", "drift_rate_nm_per_s", "drift_minimum_quality", "largest_failures"),
        )
        further = QCollapsible("More about drift and failures")
        further.addWidget(self.more)
        self.image = SettingsForm(
            AcquisitionSettings,
            ("image_nm", "image_pixels", "image_dwell_s"),
            labels={"image_nm": "Side", "image_pixels": "Rows and columns", "image_dwell_s": "Dwell per pixel"},
        )
        image = QCollapsible("Image of each point before its spectrum")
        image.addWidget(self.image)
        self.cost = QLabel()
        self.cost.setWordWrap(True)
        self.start_button = primary("Start")
        self.plot = SpectrumPlot(windows=windows)
        self.plot.setMinimumHeight(150)
        self.background = QCheckBox("Live maps without background")
        self.background.setToolTip(
            "Energy losses only: a power law, fitted to what lies in front of each window, is subtracted from it"
        )
        self.no_windows = hint("Add an energy window to the spectrum (+ Window) to see a live map of it.")
        self.plot.windows_changed.connect(self._windows_changed)
        self.note = hint()
        self.folder = QLineEdit()
        self.folder.setReadOnly(True)
        self.folder.setPlaceholderText("no run yet")
        self.folder.setToolTip("The run folder: everything acknowledged is in it, whatever happens to this program")
        self.open_folder = QPushButton("Open folder")
        self.resume = QPushButton("Resume a run…")
        self.export = QPushButton("Export…")
        self.copy = QPushButton("Copy as Python")
        self.copy.setToolTip("The dozen lines that do the same without a window, on the clipboard")
        row = QHBoxLayout()
        row.addWidget(QLabel("Run"))
        row.addWidget(self.folder, 1)
        buttons = QGridLayout()
        buttons.setSpacing(4)
        for i, button in enumerate((self.open_folder, self.resume, self.export, self.copy)):
            buttons.addWidget(button, i // 2, i % 2)
        column = QVBoxLayout(self)
        column.setSpacing(4)
        column.addWidget(self.form)
        column.addWidget(image)
        column.addWidget(further)
        column.addWidget(self.cost)
        column.addWidget(self.start_button)
        column.addWidget(self.plot, 1)
        column.addWidget(self.background)
        column.addWidget(self.no_windows)
        column.addWidget(self.note)
        column.addLayout(row)
        column.addLayout(buttons)
        for form in (self.form, self.image, self.more):
            form.changed.connect(self.changed.emit)

        self._windows_changed()

    def _windows_changed(self) -> None:
        some = bool(self.plot.shown_windows())
        self.no_windows.setVisible(not some)
        self.background.setVisible(some)

    def values(self) -> dict[str, Any]:
        """Settings of the acquisition plan."""
        return self.form.values() | self.image.values() | self.more.values()

    def put(self, values: dict[str, Any]) -> None:
        """Show settings of the acquisition plan."""
        self.form.put(values)
        self.image.put(values)
        self.more.put(values)
