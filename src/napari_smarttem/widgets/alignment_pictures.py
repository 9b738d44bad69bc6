"""What a reading looks like: phase plate and probe, the sorter's spectrum, and how the alignment converges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyqtgraph
from qtpy.QtCore import QRectF, Qt, Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QStackedWidget, QVBoxLayout, QWidget

from ..alignment.pictures import ThroughAperture, through_aperture
from ..alignment.reading import WANTED_MRAD, Reading
from ..schema import Frame
from .alignment_record import Entry
from .background import BackgroundJob, run_in_background
from .setting_editors import NumberBox

VIEWS = ("refocused (C1 = 0)", "as measured")
COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#BBBBBB")
"""Okabe and Ito's colours, which those who see fewer colours can tell apart."""


class _Picture(pyqtgraph.PlotWidget):
    """A square picture with axes in its own units."""

    def __init__(self, colormap: str, units: str) -> None:
        super().__init__()
        self.setBackground(None)
        self.image = pyqtgraph.ImageItem(axisOrder="row-major")
        self.image.setColorMap(pyqtgraph.colormap.get(colormap))
        self.addItem(self.image)
        self.setAspectLocked(True)
        self.setMouseEnabled(x=False, y=False)
        self.hideButtons()
        self.setMenuEnabled(False)
        self.getPlotItem().invertY(True)
        self.setLabel("bottom", units)
        self.getAxis("bottom").enableAutoSIPrefix(False)
        self.getAxis("left").setStyle(showValues=False)
        self.setMinimumSize(150, 170)

    def show_picture(self, data: np.ndarray | None, half: float, levels: tuple[float, float]) -> None:
        if data is None:
            self.image.clear()
            return
        self.image.setImage(data, levels=levels)
        self.image.setRect(QRectF(-half, -half, 2 * half, 2 * half))
        self.setRange(xRange=(-half, half), yRange=(-half, half), padding=0)


class ProbePictures(QWidget):
    """Phase plate within the aperture, and the probe that it makes: worked out beside the window, shown when it is there."""

    drawn = Signal()
    """What the newest reading means is shown. `quarter_pi_mrad` is the angle of the circle and `in_focus_mrad` what it would be in
    focus; None while they are worked out, or where there is nothing to show."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.view = QComboBox()
        self.view.addItems(VIEWS)
        self.view.setToolTip("A Ronchigram is taken out of focus; the probe that one works with is in focus")
        self.aperture = NumberBox(units="mrad")
        self.aperture.set_limits(1.0, 60.0)
        self.aperture.set_number(WANTED_MRAD)
        self.aperture.setToolTip("Half-angle of the aperture that the probe is formed with")
        self.plate = _Picture("CET-C1", "θ (mrad)")
        self.plate.setToolTip("Phase χ, one turn of the colours is 2π; the circle is where χ reaches π/4")
        self.spot = _Picture("inferno", "nm")
        self.circle = pyqtgraph.PlotCurveItem(pen=pyqtgraph.mkPen("#56B4E9", width=2))
        self.plate.addItem(self.circle)
        self.words = QLabel()
        self.words.setWordWrap(True)
        pictures = QHBoxLayout()
        pictures.setSpacing(2)
        pictures.addWidget(self.plate, 1)
        pictures.addWidget(self.spot, 1)
        row = QHBoxLayout()
        row.addWidget(self.view, 1)
        row.addWidget(QLabel("Aperture"))
        row.addWidget(self.aperture)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addLayout(row)
        column.addLayout(pictures, 1)
        column.addWidget(self.words)
        self._reading: Reading | None = None
        self._job: BackgroundJob | None = None
        self._again = False
        self.quarter_pi_mrad: float | None = None
        self.in_focus_mrad: float | None = None
        self.view.currentIndexChanged.connect(self._draw)
        self.aperture.valueChanged.connect(self._draw)

    def show_reading(self, reading: Reading | None) -> None:
        """Show what a good reading of aberrations means; None, or one that is not good, shows nothing."""
        usable = reading is not None and reading.good and "high_tension_v" in reading.figures
        shown = reading if usable else None
        if shown is None or shown is not self._reading:
            self._reading = shown
            self._draw()

    @property
    def waiting(self) -> bool:
        """True while what is shown is not yet that of the newest reading."""
        return self._job is not None

    def _draw(self, *_: Any) -> None:
        """Work out what the reading means beside the window; one after the other, and only the newest wish."""
        self.quarter_pi_mrad = self.in_focus_mrad = None
        reading = self._reading
        if reading is None:
            self.plate.show_picture(None, 1.0, (0, 1))
            self.spot.show_picture(None, 1.0, (0, 1))
            self.circle.setData([], [])
            self.words.setText("")
        if self._job is not None:
            self._again = True
            return
        if reading is None:
            self.drawn.emit()
            return
        tension, alpha = reading.figures["high_tension_v"], self.aperture.number()
        aberrations = reading.as_mapping()
        if self.view.currentIndex() == 0:
            aberrations["C1"] = 0.0
        self._job = run_in_background(
            lambda _: through_aperture(aberrations, convergence_mrad=alpha, high_tension_v=tension),
            self._show_work,
            self._failed,
            owner=self,
        )

    def _show_work(self, seen: ThroughAperture) -> None:
        self._job = None
        if self._again:
            self._again = False
            self._draw()
            return
        angle, half, field = seen.quarter_pi_mrad, seen.plate_half_mrad, seen.field_nm
        self.quarter_pi_mrad, self.in_focus_mrad = angle, seen.in_focus_mrad
        self.plate.show_picture(seen.plate, half, (-np.pi, np.pi))
        turn = np.linspace(0, 2 * np.pi, 121)
        self.circle.setData(angle * np.cos(turn), angle * np.sin(turn))
        peak = float(seen.spot.max())
        self.spot.show_picture(seen.spot, field / 2, (0.0, peak))
        self.words.setText(f"The circle, χ = π/4, is at {angle:.1f} mrad; peak of the probe {peak:.2g} of the ideal.")
        self.drawn.emit()

    def _failed(self, error: BaseException) -> None:
        self._job, self._again = None, False
        self.words.setText(f"What was measured cannot be drawn: {str(error) or type(error).__name__}")
        self.drawn.emit()


class SpectrumPicture(QWidget):
    """The sorter's picture summed across the sorting direction: electrons against orbital angular momentum."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.plot = pyqtgraph.PlotWidget()
        self.plot.setBackground(None)
        self.plot.setLabel("bottom", "Orbital angular momentum (ħ)")
        self.plot.setLabel("left", "Electrons")
        self.plot.setMenuEnabled(False)
        self.curve = self.plot.plot([], [], pen=pyqtgraph.mkPen("#56B4E9", width=2), stepMode=None)
        self.words = QLabel()
        self.words.setWordWrap(True)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.plot, 1)
        column.addWidget(self.words)

    def show_frame(self, frame: Frame | None, reading: Reading | None) -> None:
        """Show the spectrum of a picture, and the resolution and merit that the reading of it says."""
        per_hbar = frame.metadata.get("mrad_per_hbar") if frame is not None else None
        if frame is None or not isinstance(per_hbar, (int, float)) or not per_hbar > 0:
            self.curve.setData([], [])
            self.words.setText("")
            return
        hbar = frame.axes[1].coordinates(frame.shape[1]) / per_hbar
        self.curve.setData(hbar, np.asarray(frame.data, dtype=float).sum(axis=0))
        said = []
        figures = reading.figures if reading is not None and reading.good else {}
        if "resolution_hbar" in figures:
            said.append(f"Resolution {figures['resolution_hbar']:.2f} ħ.")
        if "merit" in figures:
            said.append(f"{figures['merit']:.0%} of the aligned sorter's power in the right bin.")
        self.words.setText(" ".join(said))


class Pictures(QStackedWidget):
    """Whichever picture fits the target."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.probe = ProbePictures()
        self.spectrum = SpectrumPicture()
        self.addWidget(self.probe)
        self.addWidget(self.spectrum)

    def show_reading(self, reading: Reading | None, frame: Frame | None) -> None:
        """Show the pictures of a reading."""
        sorted_ = frame is not None and "mrad_per_hbar" in frame.metadata
        self.setCurrentWidget(self.spectrum if sorted_ else self.probe)
        if sorted_:
            self.spectrum.show_frame(frame, reading)
        else:
            self.probe.show_reading(reading)


class ConvergencePlot(pyqtgraph.PlotWidget):
    """Every misalignment against the number of the picture, in units of the size that alone spoils the result."""

    def __init__(self) -> None:
        super().__init__()
        self.setBackground(None)
        self.setLabel("bottom", "Picture")
        self.setLabel("left", "Deviation / limit")
        self.setLogMode(y=True)
        self.setMenuEnabled(False)
        self.getAxis("bottom").setTickSpacing(5, 1)
        self.legend = self.addLegend(offset=(-5, 5), colCount=4, labelTextSize="7pt", verSpacing=-6)
        self.limit = pyqtgraph.InfiniteLine(0.0, angle=0, pen=pyqtgraph.mkPen("#8a8d94", style=Qt.PenStyle.DashLine))
        self.addItem(self.limit)
        self.curves: dict[str, pyqtgraph.PlotDataItem] = {}
        self.setMinimumHeight(180)

    def show_entries(self, entries: list[Entry], tolerance: dict[str, float]) -> None:
        """Show the good readings among `entries`; `tolerance` serves those that do not say theirs."""
        good = [(number, entry) for number, entry in enumerate(entries, 1) if entry.reading.good]
        names = good[-1][1].reading.names if good else ()
        for name in [name for name in self.curves if name not in names]:
            self.removeItem(self.curves.pop(name))
        for k, name in enumerate(names):
            points = [
                (number, max(abs(entry.reading.value(name) - entry.aim.get(name, 0.0)) / limit, 1e-3))
                for number, entry in good
                if name in entry.reading.names and (limit := _limit(entry.reading, name, tolerance))
            ]
            if name not in self.curves:
                color = COLORS[k % len(COLORS)]
                pen = pyqtgraph.mkPen(color, width=2)
                self.curves[name] = self.plot([], [], pen=pen, symbol="o", symbolSize=6, symbolBrush=color, name=name)
            x, y = zip(*points, strict=True) if points else ((), ())
            self.curves[name].setData(np.array(x, dtype=float), np.array(y, dtype=float))


def _limit(reading: Reading, name: str, tolerance: dict[str, float]) -> float:
    if reading.tolerance:
        return reading.tolerance[reading.names.index(name)]
    return tolerance.get(name, 0.0)
