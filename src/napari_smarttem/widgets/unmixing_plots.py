"""The dock's pictures: spectra of endmembers with their lines, one pixel with its model, and why so many components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QEvent, QSize, Qt, Signal
from qtpy.QtGui import QPalette
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

from . import spectrum_plot  # noqa: F401  (before pyqtgraph: it says which Qt binding is in use)
from .unmixing_picture import free_rows

import pyqtgraph  # isort: skip

if TYPE_CHECKING:
    from ..unmixing import Scree
    from .unmixing_lines import Line

NOT_CHOSEN = 110
"""Opacity (of 255) of the spectra of components that are not selected."""
LABEL_ROWS = 7
"""Names of lines that would lie over each other are put below each other, in so many rows at most."""
MARGINS = (1, 1, 12, 7)
"""Around a plot: without it pyqtgraph cuts off the last number of an axis and the descenders of its title."""


class DecadeAxis(pyqtgraph.AxisItem):
    """A logarithmic axis with plain numbers at 1, 2 and 5 of each decade."""

    def logTickStrings(self, values: Any, scale: float, spacing: float) -> list[str]:
        """Texts at powers of ten."""
        texts = []
        for value in values:
            leading = round(float(10 ** (value - np.floor(value + 1e-9))))
            texts.append(f"{10**value:.6g}" if leading in {1, 2, 5} else "")
        return texts


class Graph(pyqtgraph.PlotWidget):
    """A plot in the window's colours, content with little room."""

    def __init__(self, bottom: str, left: str, height: int = 150, **options: Any) -> None:
        super().__init__(background=None, **options)
        self._height = height
        self.plain: list[Any] = []  # curves in the colour of the text, whatever the theme
        self.setMinimumHeight(min(height, 110))
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.showGrid(x=True, y=True, alpha=0.15)
        self.setMenuEnabled(False)
        self.hideButtons()
        self.setLabel("bottom", bottom)
        self.setLabel("left", left)
        self.getPlotItem().layout.setContentsMargins(*MARGINS)
        if bottom:
            self.getAxis("bottom").setHeight(38)
        for side in ("bottom", "left"):
            self.getAxis(side).enableAutoSIPrefix(False)
        self._take_text_color()

    def sizeHint(self) -> QSize:
        """Narrow enough for a dock."""
        return QSize(300, self._height)

    @property
    def text_color(self) -> Any:
        """Colour of text in the present theme."""
        return self.palette().color(QPalette.ColorRole.WindowText)

    def changeEvent(self, event: QEvent) -> None:
        """The theme may have changed."""
        super().changeEvent(event)
        if event.type() in {QEvent.Type.PaletteChange, QEvent.Type.StyleChange} and hasattr(self, "_height"):
            self._take_text_color()

    def showEvent(self, event: QEvent) -> None:
        """Napari's style reaches a widget only once it is in the window."""
        super().showEvent(event)
        self._take_text_color()

    def _take_text_color(self) -> None:
        for side in ("bottom", "left"):
            axis = self.getAxis(side)
            axis.setTextPen(self.text_color)
            axis.setPen(pyqtgraph.mkPen(self.text_color, width=1))
        for curve in self.plain:
            curve.setPen(pyqtgraph.mkPen(self.text_color, width=1))


class EndmemberPlot(Graph):
    """Spectra of all components; the selected one in front, with the lines or edges of its elements named.

    Signals
    -------
    energy_clicked : float
        The person clicked at this energy (eV).
    """

    energy_clicked = Signal(float)

    def __init__(self) -> None:
        super().__init__("Energy (eV)", "Counts", 230, axisItems={"left": DecadeAxis("left")})
        self._logarithmic = False
        self._shown: tuple[Any, ...] | None = None
        self._errors: np.ndarray | None = None
        self._curves: list[Any] = []
        self._markers: list[Any] = []
        self._band = (self.plot([], []), self.plot([], []))
        self._sure = pyqtgraph.FillBetweenItem(*self._band)
        self.addItem(self._sure, ignoreBounds=True)
        self.getViewBox().sigRangeChanged.connect(self._arrange)
        self.getViewBox().sigResized.connect(self._arrange)
        self.scene().sigMouseClicked.connect(self._clicked)

    def show_spectra(
        self,
        energy_ev: np.ndarray,
        spectra: np.ndarray,
        colors: Sequence[str],
        visible: Sequence[bool],
        selected: int,
        *,
        errors: np.ndarray | None = None,
    ) -> None:
        """Draw ``(k, energy)`` spectra, the selected one with its standard errors where these are known."""
        self._shown = (energy_ev, spectra, colors, visible, selected)
        self._errors = errors
        while len(self._curves) > len(spectra):
            self.removeItem(self._curves.pop())
        while len(self._curves) < len(spectra):
            self._curves.append(self.plot([], []))
        for number, curve in enumerate(self._curves):
            color = pyqtgraph.mkColor(colors[number])
            chosen = number == selected
            color.setAlpha(255 if chosen else NOT_CHOSEN)
            curve.setPen(pyqtgraph.mkPen(color, width=2 if chosen else 1))
            curve.setZValue(1 if chosen else 0)
            curve.setVisible(bool(visible[number]) or chosen)
            curve.setData(energy_ev, self._scaled(spectra[number]))
        shade = pyqtgraph.mkColor(colors[selected])
        shade.setAlpha(70)
        self._sure.setBrush(pyqtgraph.mkBrush(shade))
        known = errors is not None and bool(np.isfinite(errors[selected]).all())
        self._sure.setVisible(known)
        for edge, sign in zip(self._band, (-1.0, 1.0), strict=True):
            around = self._scaled(spectra[selected] + sign * errors[selected]) if errors is not None and known else []
            edge.setData(energy_ev if known else [], around, pen=None)

    def set_logarithmic(self, on: bool) -> None:
        """Counts on a logarithmic axis; what is not positive is drawn on the floor, four decades below the largest."""
        self._logarithmic = on
        self.getAxis("left").setLogMode(on)
        if self._shown is not None:
            self.show_spectra(*self._shown, errors=self._errors)
        self.enableAutoRange()

    def _scaled(self, counts: np.ndarray) -> np.ndarray:
        if not self._logarithmic:
            return counts
        floor = 1e-4 * max(float(np.max(counts)), 1e-12)
        return np.log10(np.maximum(counts, floor))

    def show_lines(self, lines: Sequence[Line], color: str) -> None:
        """Name lines or edges where they lie."""
        for marker in self._markers:
            self.removeItem(marker)
        self._markers = []
        for line in lines:
            marker = pyqtgraph.InfiniteLine(
                pos=line.energy_ev,
                angle=90,
                pen=pyqtgraph.mkPen(color, width=1, style=Qt.PenStyle.DotLine),
                label=line.name,
                labelOpts={"color": self.text_color, "movable": False, "anchors": [(0, 0.5), (0, 0.5)]},
            )
            self.addItem(marker, ignoreBounds=True)
            self._markers.append(marker)
        self._arrange()

    def _arrange(self, *_: Any) -> None:
        """Put the names so that none lies over another: each in the highest row that is free where it stands."""
        view = self.getViewBox().viewRect()
        across = self.getViewBox().width() / max(view.width(), 1e-12)
        height = max(self.getViewBox().height(), 1.0)
        places = [(float(marker.value()) - view.left()) * across for marker in self._markers]
        boxes = [marker.label.boundingRect() for marker in self._markers]
        rows = free_rows(places, [box.width() for box in boxes], LABEL_ROWS)
        for marker, box, row in zip(self._markers, boxes, rows, strict=True):
            marker.label.setPosition(1.0 - (row + 0.6) * 0.8 * box.height() / height)

    @property
    def marked(self) -> list[str]:
        """Names of the lines on show."""
        return [marker.label.format for marker in self._markers]

    def _clicked(self, event: Any) -> None:
        box = self.getViewBox()
        if event.button() == Qt.MouseButton.LeftButton and box.sceneBoundingRect().contains(event.scenePos()):
            self.energy_clicked.emit(float(box.mapSceneToView(event.scenePos()).x()))


class ScreePlot(Graph):
    """Singular values, the largest that noise would give, and where the line was drawn."""

    def __init__(self) -> None:
        super().__init__("Component", "Singular value", 140, axisItems={"left": DecadeAxis("left")})
        self.setLogMode(y=True)
        self._points = pyqtgraph.ScatterPlotItem(size=7)
        self._line = self.plot([], [])
        self.plain.append(self._line)
        self.addItem(self._points)
        self._edge = pyqtgraph.InfiniteLine(
            angle=0,
            pen=pyqtgraph.mkPen("#D55E00", style=Qt.PenStyle.DashLine),
            label="noise",
            labelOpts={"position": 0.9, "color": "#D55E00"},
        )
        self._cut = pyqtgraph.InfiniteLine(
            angle=90,
            pen=pyqtgraph.mkPen("#00B583", width=2),
            label="",
            labelOpts={"position": 0.85, "color": "#00B583"},
        )
        for item in (self._edge, self._cut):
            item.hide()
            self.addItem(item, ignoreBounds=True)

    def show_scree(self, scree: Scree | None) -> None:
        """Draw the decision; None empties the plot."""
        for item in (self._edge, self._cut):
            item.setVisible(scree is not None)
        if scree is None:
            self._points.setData([], [])
            self._line.setData([], [])
            return
        values = np.maximum(np.asarray(scree.values, dtype=float), 1e-12)
        number = np.arange(1, len(values) + 1)
        taken = number <= scree.chosen
        self._line.setData(number, values, pen=pyqtgraph.mkPen(self.text_color, width=1))
        brushes = [pyqtgraph.mkBrush("#00B583" if one else "#808890") for one in taken]
        self._points.setData(number, np.log10(values), brush=brushes, pen=None)
        self._edge.setPos(float(np.log10(max(scree.threshold, 1e-12))))
        self._cut.setPos(scree.chosen + 0.5)
        self._cut.label.setFormat(f"{scree.chosen} taken")
        self.setToolTip(scree.reason)
        self.enableAutoRange()


class PixelPlot(QWidget):
    """One pixel's spectrum and its model above, what is left over below; an energy window that can be dragged.

    Signals
    -------
    window_dragged : float, float
        Edges of the window in eV, while it is dragged.
    """

    window_dragged = Signal(float, float)

    def __init__(self) -> None:
        super().__init__()
        self.above = Graph("", "Counts", 220)
        self.below = Graph("Energy (eV)", "Residual (σ)", 110)
        self.above.getAxis("bottom").setStyle(showValues=False)
        self.below.setXLink(self.above)
        for graph in (self.above, self.below):
            graph.getAxis("left").setWidth(72)
        self._data = self.above.plot([], [])
        self._model = self.above.plot([], [], pen=pyqtgraph.mkPen("#E69F00", width=2))
        self._left = self.below.plot([], [])
        self._span = self.below.plot([], [])
        self.above.plain.append(self._data)
        self.below.plain.append(self._left)
        for level in (-3, 3):
            self.below.addItem(
                pyqtgraph.InfiniteLine(pos=level, angle=0, pen=pyqtgraph.mkPen("#9a9a9a", style=Qt.PenStyle.DashLine)),
                ignoreBounds=True,
            )
        self.region = pyqtgraph.LinearRegionItem(brush=pyqtgraph.mkBrush(86, 180, 233, 60))
        self.region.setZValue(-5)
        self.region.hide()
        self.region.sigRegionChanged.connect(self._dragged)
        self.above.addItem(self.region, ignoreBounds=True)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addWidget(self.above, 2)
        column.addWidget(self.below, 1)

    def show_pixel(
        self, energy_ev: np.ndarray, data: np.ndarray | None, model: np.ndarray | None, *, excess: float = 1.0
    ) -> None:
        """Draw a pixel; without data (not read yet) only its model.

        `excess` is the variance of the noise over that of counting, where it was found to be larger.
        """
        first = self._data.xData is None or len(self._data.xData) != len(energy_ev)
        self._data.setData(
            energy_ev if data is not None else [],
            data if data is not None else [],
            pen=pyqtgraph.mkPen(self.above.text_color, width=1),
        )
        self._model.setData(energy_ev if model is not None else [], model if model is not None else [])
        if data is not None and model is not None:
            self._left.setData(
                energy_ev, residual_sigma(data, model, excess), pen=pyqtgraph.mkPen(self.above.text_color, width=1)
            )
            ends = np.array([energy_ev[0], energy_ev[-1]])
            self._span.setData(
                ends, [-4.0, 4.0], pen=pyqtgraph.mkPen(0, 0, 0, 0)
            )  # so that both lines at three sigma are always in sight
        else:
            self._left.setData([], [])
        if first:
            self.above.enableAutoRange()
            self.below.enableAutoRange()

    def show_window(self, low_ev: float, high_ev: float, on: bool) -> None:
        """Place the window without telling anybody."""
        self.region.blockSignals(True)
        self.region.setRegion((low_ev, high_ev))
        self.region.blockSignals(False)
        self.region.setVisible(on)

    def _dragged(self) -> None:
        low, high = (float(v) for v in self.region.getRegion())
        if high > low:
            self.window_dragged.emit(low, high)


def residual_sigma(data: np.ndarray, model: np.ndarray, excess: float = 1.0) -> np.ndarray:
    """Data minus model in standard deviations of the noise; where the data cannot be counts, of the residual itself.

    Parameters
    ----------
    data, model : ndarray
        ``(energy,)``.
    excess : float
        Variance of the noise over that of counting. Of whole numbers it is taken to be one at least.
    """
    left = data - model
    if (data >= 0).all():
        counts = bool((data == np.rint(data)).all())
        return np.asarray(left / np.sqrt(np.maximum(model, 1.0) * (max(excess, 1.0) if counts else excess)))
    deviation = float(np.std(left))
    return np.asarray(left / deviation if deviation > 0 else left)
