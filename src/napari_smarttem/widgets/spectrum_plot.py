"""A spectrum with its energy axis, energy windows, a crosshair, and a way out to CSV."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import qtpy
from qtpy.QtCore import QEvent, QSize, Qt, Signal
from qtpy.QtGui import QPalette
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QSizePolicy, QToolButton, QVBoxLayout, QWidget

from ..schema import BadInput, Frame
from .energy_windows import EnergyWindow, EnergyWindows
from .window_list import WindowList

os.environ.setdefault("PYQTGRAPH_QT_LIB", qtpy.API_NAME)  # pyqtgraph must draw with the binding napari uses
import pyqtgraph

_AXIS_NAMES = {"energy_loss": "Energy loss", "energy": "Energy"}
HINT = "No spectrum yet. Drop a spectrum image, or start an acquisition."


class _Canvas(pyqtgraph.PlotWidget):
    """Pyqtgraph's plot, content with less room than the 640 by 480 it asks for."""

    def sizeHint(self) -> QSize:
        return QSize(300, 200)


class SpectrumPlot(QWidget):
    """One spectrum, drawn in counts against eV; linear or logarithmic; with energy windows that can be dragged.

    Parameters
    ----------
    windows : EnergyWindows, optional
        Shared with other plots (`energy_windows.windows_of`); its own set where it is not given.
    compact : bool
        Without the list of windows below the plot, for a place inside another dock.

    Signals
    -------
    windows_changed
        The person (or another plot) changed an energy window.
    """

    windows_changed = Signal()

    def __init__(
        self, parent: QWidget | None = None, *, windows: EnergyWindows | None = None, compact: bool = False
    ) -> None:
        super().__init__(parent)
        self._frame: Frame | None = None
        self._label = ""
        self._energies = np.empty(0)
        self._counts = np.empty(0)
        self._regions: dict[str, pyqtgraph.LinearRegionItem] = {}
        self._in_sight: set[str] = set()
        self._known: set[str] = set()
        self.energy_windows = windows if windows is not None else EnergyWindows()
        self._build(compact)
        self.energy_windows.changed.connect(self._show_windows)
        self._show_windows()

    # ------------------------------------------------------------------------------------------------ for others

    def set_spectrum(self, frame: Frame | None, label: str = "") -> None:
        """Show a spectrum; None empties the plot.

        Parameters
        ----------
        frame : Frame, (energy,)
            Its only axis is the energy, in eV.
        label : str
            Where it comes from, shown above the plot.

        Raises
        ------
        BadInput
            Where the frame is not one-dimensional.
        """
        if frame is not None and len(frame.axes) != 1:
            raise BadInput(
                f"a spectrum has one axis, but {frame.signal} has {len(frame.axes)}; choose one of its pixels."
            )
        first = self._frame is None and frame is not None
        other_axis = frame is not None and self._frame is not None and frame.axes != self._frame.axes
        other_kind = frame is not None and self._frame is not None and frame.signal != self._frame.signal
        self._frame, self._label = frame, label
        if frame is None:
            self._energies = self._counts = np.empty(0)
        else:
            self._counts = np.asarray(frame.data, dtype=float)
            self._energies = frame.axes[0].coordinates(len(self._counts))
            axis = frame.axes[0]
            quantity = "Counts" if frame.quantity == "counts" else frame.quantity
            self.plot.setLabel("bottom", f"{_AXIS_NAMES.get(axis.name, axis.name)} ({axis.units})")
            self.plot.setLabel("left", quantity)
        self.title.setText(label if frame is not None else HINT)
        if first or other_axis or other_kind:
            self._in_sight = {window.name for window in self.shown_windows()}
            self.window_list.show_only(self._is_listed)
            self._show_windows()
        self._draw()
        if first or other_axis:
            self.fit()

    @property
    def frame(self) -> Frame | None:
        """The spectrum on show."""
        return self._frame

    def windows(self) -> list[EnergyWindow]:
        """The energy windows, in order."""
        return list(self.energy_windows)

    def shown_windows(self) -> list[EnergyWindow]:
        """Those that belong to the spectrum on show; all while there is none."""
        return [window for window in self.energy_windows if self._fits(window)]

    def _fits(self, window: EnergyWindow) -> bool:
        if self._frame is None or not self._energies.size:
            return True
        ends = sorted((float(self._energies[0]), float(self._energies[-1])))
        return window.fits(self._frame.signal, *ends)

    def _is_listed(self, window: EnergyWindow) -> bool:
        """A window that a person moves beside the spectrum, or makes there, stays in the list until there is another spectrum."""
        return self._fits(window) or window.name in self._in_sight or window.name not in self._known

    def set_windows(self, windows: list[EnergyWindow]) -> None:
        """Replace all energy windows."""
        self.energy_windows.set_all(windows)

    def add_window(self, name: str = "", low_ev: float | None = None, high_ev: float | None = None) -> EnergyWindow:
        """Add an energy window; without edges, in the middle of what is visible."""
        if low_ev is None or high_ev is None:
            (left, right), _ = self.plot.getViewBox().viewRange()
            if self._energies.size > 1:
                left, right = max(left, float(self._energies[0])), min(right, float(self._energies[-1]))
                if not left < right:  # looking beside the spectrum, or not drawn yet
                    left, right = float(self._energies[0]), float(self._energies[-1])
            middle, width = (left + right) / 2, (right - left) / 12
            low_ev, high_ev = middle - width / 2, middle + width / 2
        return self.energy_windows.add(low_ev, high_ev, name, signal="" if self._frame is None else self._frame.signal)

    def fit(self) -> None:
        """Show all of the spectrum, and keep doing so while it changes."""
        self.plot.enableAutoRange()

    def set_logarithmic(self, on: bool) -> None:
        """Counts on a logarithmic axis; what is not positive is drawn at half of the smallest positive value."""
        self.log_button.setChecked(on)

    def counts_in(self, window: EnergyWindow) -> float | None:
        """Sum of the counts of the spectrum on show in a window, edges included; None without a channel there."""
        inside = (self._energies >= window.low_ev) & (self._energies <= window.high_ev)
        return float(np.nansum(self._counts[inside])) if inside.any() else None

    def save_csv(self, path: str | Path) -> Path:
        """Write the spectrum on show as two columns, energy in eV and counts, with its origin in comment lines."""
        if self._frame is None:
            raise BadInput("there is no spectrum to save yet; show one first.")
        path = Path(path)
        axis = self._frame.axes[0]
        with path.open("w", newline="", encoding="utf-8") as file:
            file.write(f"# {self._frame.signal}: {self._label}\n")
            if self._frame.metadata.get("simulated"):
                file.write("# SIMULATED\n")
            writer = csv.writer(file)
            writer.writerow([f"{axis.name}_{axis.units}", self._frame.quantity])
            writer.writerows(zip((f"{e:.6g}" for e in self._energies), (f"{c:.9g}" for c in self._counts), strict=True))
        return path

    # --------------------------------------------------------------------------------------------------- building

    def _build(self, compact: bool) -> None:
        self.title = QLabel(HINT)
        self.title.setWordWrap(True)
        self.plot = _Canvas(background=None)
        self.plot.setMinimumHeight(130)
        self.plot.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.plot.showGrid(x=True, y=True, alpha=0.15)
        self.plot.setMenuEnabled(False)
        self.plot.hideButtons()
        self.plot.setLabel("bottom", "Energy (eV)")
        self.plot.setLabel("left", "Counts")
        for side in ("bottom", "left"):
            self.plot.getAxis(side).enableAutoSIPrefix(False)
        self.curve = self.plot.plot([], [], pen=pyqtgraph.mkPen("#e8e8e8", width=1))
        self.curve.setDownsampling(auto=True, method="peak")
        self.curve.setClipToView(True)
        self._cross = pyqtgraph.InfiniteLine(angle=90, pen=pyqtgraph.mkPen("#9a9a9a", style=Qt.PenStyle.DashLine))
        self._cross.setZValue(5)
        self._cross.hide()
        self.plot.addItem(self._cross, ignoreBounds=True)
        self.plot.scene().sigMouseMoved.connect(self._cursor_moved)
        self.readout = QLabel("")
        self.readout.setMinimumWidth(10)
        self.log_button = self._button("Log", "Counts on a logarithmic axis", checkable=True)
        self.log_button.toggled.connect(self._log_toggled)
        self.fit_button = self._button("Fit", "Show the whole spectrum and follow it")
        self.fit_button.clicked.connect(self.fit)
        self.window_button = self._button("+ Window", "Add an energy window; drag it, or type its edges")
        self.window_button.clicked.connect(self._window_clicked)
        self.save_button = self._button("Save …", "Save the spectrum on show as CSV")
        self.save_button.clicked.connect(self._save_clicked)
        self.buttons = QHBoxLayout()
        self.buttons.setContentsMargins(0, 0, 0, 0)
        self.buttons.addWidget(self.readout, 1)
        for button in (self.log_button, self.fit_button, self.window_button, self.save_button):
            self.buttons.addWidget(button)
        self.window_list = WindowList(self.energy_windows)
        self.window_list.setVisible(not compact)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        column.addWidget(self.title)
        column.addWidget(self.plot, 1)
        column.addLayout(self.buttons)
        column.addWidget(self.window_list)

    @staticmethod
    def _button(text: str, tip: str, *, checkable: bool = False) -> QToolButton:
        button = QToolButton()
        button.setText(text)
        button.setToolTip(tip)
        button.setCheckable(checkable)
        return button

    # ---------------------------------------------------------------------------------------------------- drawing

    def changeEvent(self, event: QEvent) -> None:
        """The theme may have changed from dark to light: the curve takes the colour of the text."""
        super().changeEvent(event)
        if event.type() in {QEvent.Type.PaletteChange, QEvent.Type.StyleChange}:
            self._take_text_color()

    def showEvent(self, event: QEvent) -> None:
        """Napari's style sheet reaches a widget only once it is in the window."""
        super().showEvent(event)
        self._take_text_color()

    def _take_text_color(self) -> None:
        if not hasattr(self, "curve"):
            return  # an event from before the plot was built
        color = self.title.palette().color(QPalette.ColorRole.WindowText)
        self.curve.setPen(pyqtgraph.mkPen(color, width=1))
        for side in ("bottom", "left"):
            axis = self.plot.getAxis(side)
            axis.setTextPen(color)
            axis.setPen(pyqtgraph.mkPen(color, width=1))

    def _draw(self) -> None:
        counts = self._counts
        if self.log_button.isChecked() and counts.size:
            positive = counts[np.isfinite(counts) & (counts > 0)]
            floor = float(positive.min()) / 2 if positive.size else 0.5
            counts = np.log10(np.maximum(np.nan_to_num(counts, nan=floor), floor))
        finite = bool(np.isfinite(counts).all())
        self.curve.setData(self._energies, counts, connect="all" if finite else "finite")
        self.window_list.show_counts({w.name: self.counts_in(w) for w in self.shown_windows()})
        self.save_button.setEnabled(self._frame is not None)

    def _log_toggled(self, on: bool) -> None:
        # The values are transformed here, so that zeros are drawn on the floor instead of tearing the curve.
        self.plot.getAxis("left").setLogMode(on)
        self._draw()
        self.plot.enableAutoRange(axis="y")

    def _cursor_moved(self, position: Any) -> None:
        box = self.plot.getViewBox()
        if self._frame is None or not self._energies.size or not box.sceneBoundingRect().contains(position):
            self._cross.hide()
            self.readout.setText("")
            return
        channel = round(self._frame.axes[0].index(box.mapSceneToView(position).x()))
        if not 0 <= channel < len(self._counts):
            self._cross.hide()
            self.readout.setText("")
            return
        self._cross.setPos(self._energies[channel])
        self._cross.show()
        self.readout.setText(f"{self._energies[channel]:.1f} eV: {self._counts[channel]:.5g} {self._frame.quantity}")

    def _show_windows(self) -> None:
        present = {w.name: w for w in self.shown_windows()}
        names = {window.name for window in self.energy_windows}
        self._in_sight = (self._in_sight | set(present) | (names - self._known)) & names
        self._known = names
        for name in [n for n in self._regions if n not in present]:
            self.plot.removeItem(self._regions.pop(name))
        for name, window in present.items():
            region = self._regions.get(name)
            color = pyqtgraph.mkColor(window.color)
            fill = pyqtgraph.mkColor(window.color)
            fill.setAlpha(55)
            if region is None:
                region = pyqtgraph.LinearRegionItem(values=(window.low_ev, window.high_ev))
                pyqtgraph.InfLineLabel(region.lines[0], name, position=0.92, anchors=[(0, 0.5), (0, 0.5)], color=color)
                region.setZValue(-5)
                region.sigRegionChangeFinished.connect(lambda _=None, n=name: self._region_dragged(n))
                self.plot.addItem(region, ignoreBounds=True)
                self._regions[name] = region
            region.setBrush(fill)
            for line in region.lines:
                line.setPen(pyqtgraph.mkPen(color, width=1.5))
            if not np.allclose(region.getRegion(), (window.low_ev, window.high_ev)):
                region.blockSignals(True)
                region.setRegion((window.low_ev, window.high_ev))
                region.blockSignals(False)
        self.window_list.show_counts({w.name: self.counts_in(w) for w in self.shown_windows()})
        self.windows_changed.emit()

    def _region_dragged(self, name: str) -> None:
        low, high = (float(v) for v in self._regions[name].getRegion())
        if high > low:
            self.energy_windows.change(name, low_ev=low, high_ev=high)

    def _window_clicked(self) -> None:
        self.add_window()

    def _save_clicked(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the spectrum", "spectrum.csv", "CSV (*.csv)")
        if path:
            try:
                self.save_csv(path)
            except OSError as error:
                self.title.setText(f"The spectrum could not be saved: {error.strerror or error}.")
