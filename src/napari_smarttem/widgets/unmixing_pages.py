"""The pages of the *Unmixing* dock: their controls, without what the controls do."""

from __future__ import annotations

from typing import Any

import pyqtgraph
from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from .acquisition_form import hint, primary
from .tones import set_tone
from .unmixing_layers import component_color
from .unmixing_plots import EndmemberPlot, Graph, PixelPlot, ScreePlot
from .unmixing_table import ComponentTable


def button(text: str, tip: str, kind: type = QPushButton) -> Any:
    """A button that says what it does."""
    made = kind()
    made.setText(text)
    made.setToolTip(tip)
    return made


class Sentences(QLabel):
    """Text in as many lines as it needs: a plain label with wrapped words is cut where a page in a scroll area runs short."""

    def __init__(self, text: str = "", tone: str = "") -> None:
        super().__init__(text)
        self.setWordWrap(True)
        if tone:
            set_tone(self, tone)

    def setText(self, text: str) -> None:
        """Show another text."""
        super().setText(text)
        self._fit()

    def resizeEvent(self, event: Any) -> None:
        """Another width takes another number of lines."""
        super().resizeEvent(event)
        if event.oldSize().width() != event.size().width():
            self._fit()

    def _fit(self) -> None:
        self.setMinimumHeight(0)  # the height for a width is never less than this
        self.setMinimumHeight(self.heightForWidth(self.width()) if self.text() else 0)


class PreparePage(QWidget):
    """The summed spectrum with a range to drag, and the steps done."""

    def __init__(self) -> None:
        super().__init__()
        self.plot = Graph("Energy (eV)", "Counts, summed", 200)
        self.band = (self.plot.plot([], []), self.plot.plot([], []))
        shade = pyqtgraph.FillBetweenItem(*self.band, brush=pyqtgraph.mkBrush(230, 150, 40, 110))
        self.plot.addItem(shade, ignoreBounds=True)  # empty it would stretch the plot to 0 eV
        self.curve = self.plot.plot([], [])
        self.plot.plain.append(self.curve)
        self._parts: list[Any] = []
        self.region = pyqtgraph.LinearRegionItem(brush=pyqtgraph.mkBrush(26, 135, 211, 50))
        self.region.setZValue(-5)
        self.region.hide()
        self.plot.addItem(self.region, ignoreBounds=True)
        self.range = hint("Drag the edges of the blue range.")
        self.crop_energy = button("Keep this range", "Leave out the channels outside the blue range")
        self.crop_area = button(
            "Keep drawn area", "Leave out the pixels outside the rectangle drawn in the selected Shapes layer"
        )
        self.pixels = QSpinBox()
        self.channels = QSpinBox()
        for box, suffix in ((self.pixels, " px"), (self.channels, " ch")):
            box.setRange(1, 64)
            box.setSuffix(suffix)
        self.pixels.setToolTip("Pixels taken together along y and x")
        self.channels.setToolTip("Energy channels taken together")
        self.bin = button("Bin", "Sum pixels and channels")
        self.more = QComboBox()
        self.more.setToolTip("Further steps; those that need a range take the blue one")
        self.more.setMinimumContentsLength(12)  # its longest title would make the page wider than the dock
        self.more.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.apply_more = button("Do it", "Apply the step on the left")
        self.steps = QListWidget()
        self.steps.setMaximumHeight(90)
        self.steps.setWordWrap(True)
        self.steps.setToolTip("The steps done, in order; they are written into the result and the Python copy")
        self.undo = button("Undo", "Take the last step back")
        self.next = primary("Next: unmix")
        grid = QGridLayout()
        grid.addWidget(self.crop_energy, 0, 0, 1, 2)
        grid.addWidget(self.crop_area, 0, 2, 1, 2)
        grid.addWidget(self.pixels, 1, 0)
        grid.addWidget(self.channels, 1, 1)
        grid.addWidget(self.bin, 1, 2, 1, 2)
        grid.addWidget(self.more, 2, 0, 1, 3)
        grid.addWidget(self.apply_more, 2, 3)
        last = QHBoxLayout()
        last.addWidget(self.undo)
        last.addWidget(self.next, 1)
        column = QVBoxLayout(self)
        column.addWidget(self.plot, 1)
        column.addWidget(self.range)
        column.addLayout(grid)
        column.addWidget(self.steps)
        column.addLayout(last)

    def show_parts(self, energy_ev: Any, spectra: Any) -> None:
        """Draw the sums of painted pixels, each in a colour of its own; nothing takes them away."""
        while self._parts:
            self.plot.removeItem(self._parts.pop())
        self.curve.setVisible(not len(spectra))
        for number, counts in enumerate(spectra):
            pen = pyqtgraph.mkPen(component_color(number), width=1)
            self._parts.append(self.plot.plot(energy_ev, counts, pen=pen))


class UnmixPage(QWidget):
    """Method, number of components, the button, and what the answer rests on."""

    def __init__(self) -> None:
        super().__init__()
        self.method = QComboBox()
        self.summary = Sentences(tone="quiet")
        self.components = QSpinBox()
        self.components.setRange(0, 64)
        self.components.setSpecialValueText("auto")
        self.components.setToolTip("How many components; auto counts what stands above the noise")
        self.seed = QSpinBox()
        self.seed.setRange(0, 2**31 - 1)
        self.seed.setToolTip("Of everything left to chance: the same seed gives the same answer")
        self.elements = QCheckBox("Name the elements")
        self.elements.setChecked(True)
        self.elements.setToolTip("Look for lines (EDS) or edges (EELS) of elements in each endmember")
        self.smooth = QComboBox()
        for words, goal in (("leave it", None), ("take it out", "least error"), ("take out more", "repeatable")):
            self.smooth.addItem(words, goal)
        self.smooth.setToolTip(
            "Take it out as far as halves of the counts agree on structure, which is as near to the truth as can be;\n"
            "or more than that, so that another measurement would give the same maps, at some cost in fine structure.\n"
            "It takes a while: some ten seconds for an image of 64 x 64 pixels"
        )
        self.labels = QComboBox()
        self.labels.setToolTip("The Labels layer in which a few pixels of each kind are painted")
        self.new_labels = button("New", "Add an empty Labels layer over the data; paint some pixels of each kind in it")
        row = QHBoxLayout()
        row.addWidget(self.labels, 1)
        row.addWidget(self.new_labels)
        self.labels_row = QWidget()
        self.labels_row.setLayout(row)
        row.setContentsMargins(0, 0, 0, 0)
        self.library = QComboBox()
        self.library.setToolTip("The known spectra that are fitted")
        self.library.addItem("Components on show", None)
        self.open_library = button("Open …", "Take the spectra of a file, such as the .csv that Save writes")
        row = QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.library, 1)
        row.addWidget(self.open_library)
        self.library_row = QWidget()
        self.library_row.setLayout(row)
        self.run = primary("Unmix")
        self.live = QCheckBox("Again while spectra arrive")
        self.live.setToolTip("During an acquisition: unmix again what has been measured so far, every few seconds")
        self.verdict = Sentences()
        self.warnings = Sentences(tone="warning")
        self.scree = ScreePlot()
        self.reason = Sentences(tone="quiet")
        self.form = QFormLayout()
        self.form.addRow("Method", self.method)
        self.form.addRow(self.summary)
        self.form.addRow("Components", self.components)
        self.form.addRow("Labels", self.labels_row)
        self.form.addRow("Library", self.library_row)
        self.form.addRow("Seed", self.seed)
        self.form.addRow(self.elements)
        self.form.addRow("Noise in maps", self.smooth)
        self.form.addRow(self.live)
        column = QVBoxLayout(self)
        column.addLayout(self.form)
        column.addWidget(self.run)
        column.addWidget(self.verdict)
        column.addWidget(self.warnings)
        column.addWidget(self.scree, 1)
        column.addWidget(self.reason)

    def ask_for(self, method: str, *, painted: bool = False) -> None:
        """Show the rows that a method needs; the means of `painted` pixels need the paint too."""
        for row, needed in (
            (self.labels_row, method == "labels" or (method == "reference" and painted)),
            (self.library_row, method == "reference"),
            (self.components, method not in {"labels", "reference"}),
        ):
            row.setVisible(needed)
            self.form.labelForField(row).setVisible(needed)


class ComponentsPage(QWidget):
    """What was found: table, spectra, edits, and ways out."""

    energy_picked = Signal(float)

    def __init__(self) -> None:
        super().__init__()
        self.table = ComponentTable()
        self.plot = EndmemberPlot()
        self.merge = button("Merge", "Make the selected components one")
        self.drop = button("Drop", "Leave the selected components out")
        self.undo = button("Undo", "Take the last change of the components back")
        self.log = button("Logarithmic", "Counts on a logarithmic axis", QCheckBox)
        self.hint = hint("Click a peak or an edge in the spectrum to say which element it is.")
        self.save = button("Save …", "As .hspy, which opens in HyperSpy as learning results, or as .csv tables")
        self.picture = button("Picture …", "Maps and spectra as one figure for a paper: PDF, SVG or PNG")
        self.copy = button("Copy as Python", "The lines that do the same without a window")
        edits = QHBoxLayout()
        for one in (self.merge, self.drop, self.undo):
            edits.addWidget(one)
        edits.addStretch(1)
        edits.addWidget(self.log)
        out = QHBoxLayout()
        for one in (self.save, self.picture, self.copy):
            out.addWidget(one)
        column = QVBoxLayout(self)
        column.addWidget(self.table, 1)
        column.addLayout(edits)
        column.addWidget(self.plot, 2)
        column.addWidget(self.hint)
        column.addLayout(out)


class PixelPage(QWidget):
    """One pixel, its model, what is left over; and the map of an energy window."""

    def __init__(self) -> None:
        super().__init__()
        self.title = Sentences("Point at a pixel of the maps; click to hold on to it.")
        self.plot = PixelPlot()
        self.legend = hint("Thin: measured; orange: model; dashed: 3 σ of the noise.")
        self.held = QCheckBox("Hold this pixel")
        self.held.setToolTip("A click on the maps holds a pixel; without it the cursor is followed")
        self.window = QCheckBox("Map of a window:")
        self.window.setToolTip("Show the counts inside the blue range on the canvas; drag it")
        self.of = QComboBox()
        self.of.addItems(["data", "model", "data − model"])
        self.of.setToolTip("What the map of the window shows")
        self.edges = hint()
        row = QHBoxLayout()
        row.addWidget(self.window)
        row.addWidget(self.of, 1)
        column = QVBoxLayout(self)
        column.addWidget(self.title)
        column.addWidget(self.held)
        column.addWidget(self.plot, 1)
        column.addWidget(self.legend)
        column.addLayout(row)
        column.addWidget(self.edges)
