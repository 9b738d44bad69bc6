"""The comparison that structured illumination has to stand: a raster scan of the same dose, calculated and measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from ..single_pixel.compare import Raster, expected_error
from .single_pixel_plots import SmallPicture
from .single_pixel_record import Imaging
from .tones import set_tone

HEAD = ("Way", "Patterns", "Electrons", "Most e/Å²", "Error")
TIPS = (
    "How the patterns were made and chosen",
    "Values counted; for a raster, its pixels or places",
    "On the field altogether, transmitted or not",
    "Dose of the most exposed pixel",
    "Relative error: expected from the uncertainty; that of the calculated raster is against the picture it was made from",
)
HONEST = (
    "The ideal raster is calculated: a beam as small as a pixel, the same electrons, no dead time, the run's own picture taken for "
    "the specimen. Where it has the smaller error, a focused probe is the better choice, if the specimen bears its dose rate."
)


class ComparePage(QWidget):
    """Both pictures beside each other, and a line for every run."""

    calculate_requested = Signal()
    measure_requested = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.calculate_button = QPushButton("Calculate the ideal raster")
        self.measure_button = QPushButton("Measure a raster of the spot")
        self.ours = SmallPicture("This run", "CET-L1", "The run's picture at the end of its last batch", (0.0, 1.0))
        self.raster = SmallPicture("Raster", "CET-L1", "What a raster scan of the same dose shows", (0.0, 1.0))
        self.table = QTableWidget(0, len(HEAD))
        self.table.setHorizontalHeaderLabels(list(HEAD))
        for place, tip in enumerate(TIPS):
            self.table.horizontalHeaderItem(place).setToolTip(tip)
        self.table.verticalHeader().hide()
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.table.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.verdict = QLabel()
        self.verdict.setWordWrap(True)
        self.words = QLabel(HONEST)
        self.words.setWordWrap(True)
        set_tone(self.words, "quiet")
        buttons = QHBoxLayout()
        buttons.addWidget(self.calculate_button)
        buttons.addWidget(self.measure_button)
        pictures = QHBoxLayout()
        pictures.addWidget(self.ours)
        pictures.addWidget(self.raster)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 4, 0, 0)
        column.setSpacing(4)
        column.addLayout(buttons)
        column.addLayout(pictures, 2)
        column.addWidget(self.table, 1)
        column.addWidget(self.verdict)
        column.addWidget(self.words)
        self.calculate_button.clicked.connect(self.calculate_requested)
        self.measure_button.clicked.connect(self.measure_requested)

    def show_runs(self, run: Imaging | None, earlier: list[Imaging], ideal: Raster | None) -> None:
        """Show what there is to compare; `ideal` belongs to `run`."""
        runs = [
            one
            for one in (*earlier, run)
            if one is not None and one.settled is not None and one.uncertainty is not None
        ]
        rows = [_row(one) for one in runs]
        if ideal is not None and run is not None:
            dose = ideal.electrons_per_px / (run.pixel_nm * 10) ** 2 if run.pixel_nm else float("nan")
            electrons = ideal.electrons_per_px * ideal.picture.size
            rows.append(
                (
                    "ideal raster, calculated",
                    str(ideal.picture.size),
                    f"{electrons:.3g}",
                    f"{dose:.3g}",
                    f"{ideal.error:.1%}",
                )
            )
        self.table.setRowCount(len(rows))
        for i, row in enumerate(rows):
            for k, text in enumerate(row):
                self.table.setItem(i, k, QTableWidgetItem(text))
        self.ours.show_picture(None if run is None else run.settled, "" if run is None else run.way)
        spot = next((one for one in reversed(runs[:-1]) if one.settings.get("generator") == "spot"), None)
        if ideal is not None:
            self.raster.show_picture(ideal.picture, "ideal, calculated")
        else:
            self.raster.show_picture(None if spot is None else spot.settled, "" if spot is None else spot.way)
        self.verdict.setText(_verdict(run, ideal))


def _row(run: Imaging) -> tuple[str, ...]:
    assert run.settled is not None
    assert run.uncertainty is not None
    most = "" if run.dose is None else f"{np.max(run.dose):.3g}"
    error = expected_error(run.settled, run.uncertainty)
    return (run.way, str(run.patterns), f"{run.electrons:.3g}", most, f"{error:.1%}")


def _verdict(run: Imaging | None, ideal: Raster | None) -> str:
    if run is None or ideal is None or run.settled is None or run.uncertainty is None:
        return ""
    ours = expected_error(run.settled, run.uncertainty)
    most = float(np.max(run.dose)) if run.dose is not None and run.pixel_nm else None
    each = ideal.electrons_per_px / (run.pixel_nm * 10) ** 2 if run.pixel_nm else None
    said = f"At the same electrons the ideal raster has {ideal.error / max(ours, 1e-9):.2g} times the error of this run"
    if most is not None and each:
        said += f"; its pixels get {each:.3g} e/Å² each, this run's most exposed one {most:.3g}"
    misfit: Any = run.misfit
    if run.remark and misfit is not None:
        wrong = f"scatter {misfit**0.5:.1f} times too much" if misfit > 1.0 else "do not fit what was predicted"
        said += f". Mind that this run's signals {wrong}: its own error is understated"
    return said + "."
