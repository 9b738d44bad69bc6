"""Pictures and curves of the Single-pixel dock."""

from __future__ import annotations

import numpy as np
import pyqtgraph
from qtpy.QtCore import QRectF, Qt
from qtpy.QtWidgets import QGridLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from .single_pixel_record import Imaging

BLUE, ORANGE, GREEN, PALE = "#56B4E9", "#E69F00", "#009E73", "#8a8d94"
SHOWN_SIGNALS = 400
SMALLEST = 96


class SmallPicture(QWidget):
    """A square picture with a title and its range in words."""

    def __init__(self, title: str, colormap: str, tip: str, levels: tuple[float, float] | None = None) -> None:
        super().__init__()
        self._title, self._levels = title, levels
        self.head = QLabel(title)
        self.head.setToolTip(tip)
        self.view = pyqtgraph.PlotWidget()
        self.view.setBackground(None)
        self.view.setToolTip(tip)
        self.view.setMouseEnabled(x=False, y=False)
        self.view.setMenuEnabled(False)
        self.view.hideButtons()
        for axis in ("left", "bottom"):
            self.view.hideAxis(axis)
        self.view.setAspectLocked(True)
        self.view.getPlotItem().invertY(True)
        self.view.setMinimumSize(SMALLEST, SMALLEST)
        self.view.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.image = pyqtgraph.ImageItem(axisOrder="row-major")
        self.image.setColorMap(pyqtgraph.colormap.get(colormap))
        self.view.addItem(self.image)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.head)
        column.addWidget(self.view, 1)
        self.shown: np.ndarray | None = None
        self.view.getViewBox().sigResized.connect(self._fit)

    def show_picture(self, data: np.ndarray | None, words: str = "") -> None:
        """Show a picture, or nothing; what is shown already is not drawn again."""
        self.head.setText(f"{self._title} <span style='color:{PALE}'>{words}</span>" if words else self._title)
        if data is self.shown:
            return
        self.shown = data
        if data is None:
            self.image.clear()
            return
        low, high = self._levels if self._levels is not None else (float(np.min(data)), float(np.max(data)))
        self.image.setImage(np.asarray(data, dtype=np.float32), levels=(low, high if high > low else low + 1e-9))
        height, width = data.shape
        self.image.setRect(QRectF(0, 0, width, height))
        self._fit()

    def _fit(self, *_: object) -> None:
        """All of the picture, whatever shape the room for it has got."""
        if self.shown is not None:
            height, width = self.shown.shape
            self.view.setRange(xRange=(0, width), yRange=(0, height), padding=0)


class Pictures(QWidget):
    """What illuminates now, what came of it, how sure it is, and what it cost, pixel by pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.pattern = SmallPicture(
            "Pattern", "inferno", "Illumination of the last value: fraction of the beam by pixel"
        )
        self.picture = SmallPicture("Picture", "CET-L1", "Transmission of the specimen, 0 to 1", (0.0, 1.0))
        self.uncertainty = SmallPicture("Uncertainty", "viridis", "One standard deviation of the transmission")
        self.dose = SmallPicture("Dose", "CET-L3", "Dose of this run by pixel")
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        for place, one in enumerate((self.pattern, self.picture, self.uncertainty, self.dose)):
            grid.addWidget(one, place // 2, place % 2)

    def show_run(self, run: Imaging | None) -> None:
        """Show a run as it stands."""
        if run is None:
            for one in (self.pattern, self.picture, self.uncertainty, self.dose):
                one.show_picture(None)
            return
        self.pattern.show_picture(run.pattern, run.pattern_words)
        self.picture.show_picture(run.picture, f"{run.patterns} patterns" if run.patterns else "")
        mean = "" if run.uncertainty is None else f"mean ±{run.uncertainty.mean():.3f}"
        self.uncertainty.show_picture(run.uncertainty, mean)
        most = "" if run.dose is None else f"most {run.dose.max():.3g} e/Å²"
        self.dose.show_picture(run.dose, most)


def _plot(bottom: str, left: str, height: int = 96) -> pyqtgraph.PlotWidget:
    plot = pyqtgraph.PlotWidget()
    plot.setBackground(None)
    plot.setLabel("bottom", bottom)
    plot.setLabel("left", left)
    plot.setMenuEnabled(False)
    plot.hideButtons()
    plot.setMouseEnabled(x=False, y=False)
    plot.setMinimumHeight(height)
    for axis in ("left", "bottom"):
        plot.getAxis(axis).enableAutoSIPrefix(False)
    # low plots: more numbers than that would stand on each other
    plot.getAxis("left").setTickDensity(0.4)
    plot.getAxis("left").setStyle(maxTextLevel=0)
    return plot


def _key(*entries: tuple[str, str, str]) -> QLabel:
    """What the curves are, in one line above the plot: (mark, colour, words) of each. Inside a low plot it would hide data."""
    label = QLabel(
        "&nbsp;&nbsp; ".join(f"<span style='color:{color}'>{mark}</span> {words}" for mark, color, words in entries)
    )
    label.setAlignment(Qt.AlignmentFlag.AlignRight)
    small = label.font()
    small.setPointSizeF(max(7.0, 0.85 * small.pointSizeF()))
    label.setFont(small)
    return label


class SignalPlot(QWidget):
    """The bucket's last values, and what was expected of them."""

    def __init__(self) -> None:
        super().__init__()
        self.plot = _plot("Pattern", "Signal", 80)
        self.expected = self.plot.plot([], [], pen=pyqtgraph.mkPen(PALE, width=1))
        self.measured = self.plot.plot([], [], pen=None, symbol="o", symbolSize=4, symbolBrush=BLUE, symbolPen=None)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(_key(("●", BLUE, "bucket"), ("━", PALE, "expected")))
        column.addWidget(self.plot, 1)

    def show_run(self, run: Imaging | None) -> None:
        """Show the newest values of a run."""
        signals = [] if run is None else run.signals
        first = max(0, len(signals) - SHOWN_SIGNALS)
        number = np.arange(first + 1, len(signals) + 1) + (0 if run is None else run.unheard)
        self.measured.setData(number, np.array(signals[first:]))
        self.expected.setData(number, np.array([] if run is None else run.expected[first:]))


class ErrorPlot(QWidget):
    """Expected error against dose: this run, the ideal raster at the same dose, earlier runs, and the budget."""

    def __init__(self) -> None:
        super().__init__()
        self.plot = _plot("Dose, mean over the field of view (e/Å²)", "Error (%)")
        self.run = self.plot.plot(
            [], [], pen=pyqtgraph.mkPen(BLUE, width=2), symbol="o", symbolSize=4, symbolBrush=BLUE
        )
        dashed = pyqtgraph.mkPen(ORANGE, width=2, style=Qt.PenStyle.DashLine)
        self.raster = self.plot.plot([], [], pen=dashed)
        self.before = self.plot.plot([], [], pen=pyqtgraph.mkPen(GREEN, width=1))
        self.budget = pyqtgraph.InfiniteLine(0.0, angle=90, pen=pyqtgraph.mkPen("#D55E00", width=2), label="budget")
        self.budget.hide()
        self.plot.addItem(self.budget)
        self.plot.setToolTip(
            "Relative error to expect from the uncertainty, against dose. Dashed: a calculated raster scan with a beam as small as "
            "a pixel and the same electrons, the picture so far taken for the specimen"
        )
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(_key(("●", BLUE, "this run"), ("╍", ORANGE, "ideal raster"), ("━", GREEN, "run before")))
        column.addWidget(self.plot, 1)

    def show_run(
        self, run: Imaging | None, before: Imaging | None, raster: tuple[list[float], list[float]], budget: float | None
    ) -> None:
        """Show the curves; `raster` is (dose, error) of the calculated scan."""
        for curve, one in ((self.run, run), (self.before, before)):
            curve.setData(*(([], []) if one is None or not one.spent else (one.spent, [100 * e for e in one.errors])))
        self.raster.setData(raster[0], [100 * e for e in raster[1]])
        self.budget.setVisible(budget is not None and budget > 0)
        if budget is not None and budget > 0:
            self.budget.setValue(budget)
