"""Two methods side by side: each component's maps and spectra in one row, matched in order, sign and scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QVBoxLayout, QWidget

from ..schema import BadInput
from .acquisition_form import hint
from .unmixing_pages import Sentences, button
from .unmixing_plots import Graph  # noqa: F401  (first: it says which Qt binding pyqtgraph is to use)
from .unmixing_work import unmix_spectra

import pyqtgraph  # isort: skip

if TYPE_CHECKING:
    from ..unmixing import Match, UnmixingResult

ROW_HEIGHT = 130
COMPONENTS_PAGE = 2


class ComparePage(QWidget):
    """Choose a second method, see it beside the first, take it over if it is better."""

    def __init__(self) -> None:
        super().__init__()
        self.method = QComboBox()
        self.method.setToolTip("The method to compare with; it gets the same data, number of components and seed")
        self.run = button("Compare", "Unmix the same data with this method and match the maps")
        self.take = button("Take the second", "Go on with the second method's result")
        self.take.setEnabled(False)
        self.verdict = Sentences()
        self.view = pyqtgraph.GraphicsLayoutWidget()
        self.view.setBackground(None)
        self.note = hint(
            "Maps of a pair have the same contrast; the second is brought to the sign and scale of the first."
        )
        row = QHBoxLayout()
        row.addWidget(self.method, 1)
        row.addWidget(self.run)
        row.addWidget(self.take)
        column = QVBoxLayout(self)
        column.addLayout(row)
        column.addWidget(self.verdict)
        column.addWidget(self.view, 1)
        column.addWidget(self.note)

    def clear(self) -> None:
        """Nothing to compare yet."""
        self.view.clear()
        self.verdict.setText("")
        self.take.setEnabled(False)

    def show_match(
        self, first: UnmixingResult, second: UnmixingResult, match: Match, colors: Sequence[str], names: Sequence[str]
    ) -> None:
        """Draw matched pairs.

        Parameters
        ----------
        first, second : UnmixingResult
        match : Match
            Of the second to the first.
        colors : sequence of str
            Of the first's components.
        names : sequence of str
            Titles of the two methods.
        """
        self.view.clear()
        for row, (i, j) in enumerate(match.pairs):
            brought = match.signs[row] * match.scales[row]
            one, other = first.maps[i], second.maps[j] * brought
            low = float(min(np.nanmin(one), 0.0))
            high = float(np.nanpercentile(one, 99.8))
            high = high if high > low else low + 1.0
            table = pyqtgraph.ColorMap([0.0, 1.0], [(0, 0, 0), pyqtgraph.mkColor(colors[i])]).getLookupTable()
            titles = (first.names[i], f"r = {match.correlations[row]:.3f}")
            for column, (values, title) in enumerate(zip((one, other), titles, strict=True)):
                box = self.view.addPlot(row=row, col=column)
                box.setTitle(title, size="8pt")
                box.hideAxis("left")
                box.hideAxis("bottom")
                box.setMouseEnabled(False, False)
                box.hideButtons()
                box.setMenuEnabled(False)
                box.invertY(True)
                box.setAspectLocked(values.shape[0] > 1)
                image = pyqtgraph.ImageItem(np.asarray(values, dtype=np.float32), axisOrder="row-major")
                image.setLookupTable(table)
                image.setLevels((low, high))
                box.addItem(image)
            spectra = self.view.addPlot(row=row, col=2)
            spectra.setTitle(f"{match.angles_deg[row]:.2f}° apart", size="8pt")
            spectra.hideButtons()
            spectra.setMenuEnabled(False)
            spectra.hideAxis("left")
            spectra.getAxis("bottom").enableAutoSIPrefix(False)
            if row == len(match.pairs) - 1:
                spectra.setLabel("bottom", "eV")
            spectra.plot(first.energy_ev, first.endmembers[i], pen=pyqtgraph.mkPen(colors[i], width=2))
            scaled = second.endmembers[j] / brought if brought else second.endmembers[j]
            spectra.plot(second.energy_ev, scaled, pen=pyqtgraph.mkPen("#E8E8E8", width=1))
        for column in range(3):
            self.view.ci.layout.setColumnStretchFactor(column, 1)
            self.view.ci.layout.setColumnPreferredWidth(column, 100)
        self.view.setMinimumHeight(ROW_HEIGHT * max(1, len(match.pairs)))
        self.verdict.setText(self._words(first, second, match, names))
        self.take.setEnabled(True)

    @staticmethod
    def _words(first: UnmixingResult, second: UnmixingResult, match: Match, names: Sequence[Any]) -> str:
        unmatched = abs(first.components - second.components)
        text = (
            f"Left {names[0]}, middle {names[1]}, right their spectra ({names[1]} in white). Mean correlation of the maps"
            f" {match.mean_correlation:.3f}, median angle of the spectra {float(np.median(match.angles_deg)):.2f}°;"
            f" χ² per channel {first.chi2:.3f} and {second.chi2:.3f}."
        )
        return text + (f" {unmatched} without a partner." if unmatched else "")


class CompareActions:
    """The part of the dock that unmixes with a second method."""

    bench: Any
    compare: Any
    unmixing: Any

    def _wire_compare(self) -> None:
        self.compare.run.clicked.connect(self.compare_methods)
        self.compare.take.clicked.connect(self.take_second)
        self._second_unmixed: Any = None

    def _suggest_second(self, first: str) -> None:
        """The method to compare with is another one than the first."""
        box = self.compare.method
        if box.currentData() in {first, "auto"}:
            other = next((n for n in ("nmf", "vca", "ica") if n != first and box.findData(n) >= 0), None)
            if other is not None:
                box.setCurrentIndex(box.findData(other))

    def compare_methods(self) -> None:
        """Unmix the same data with a second method and show the two side by side."""
        if self.bench.result is None or self._job is not None:
            return
        first, unmixed = self.bench.result, self.bench.unmixed
        method = self.compare.method.currentData()
        settings = {k: v for k, v in unmixed.settings.items() if k in {"seed", "elements"}}
        settings |= {"method": method, "components": first.components}
        try:
            known = self.add_knowledge(settings, unmixed.spectra)
        except BadInput as error:
            self._fail(error)
            return

        def work(cancel: Any) -> Any:
            from ..unmixing import match
            from ..unmixing.live import in_order_of

            second, other = unmix_spectra(
                unmixed.spectra,
                unmixed.steps,
                settings,
                report=self._report,
                cancel=cancel,
                known=known,
                sums=unmixed.sums,
            )
            second = in_order_of(first, second)
            return second, match(first, second), other

        self._run(work, self._compared, f"Unmixing with {self.compare.method.currentText()} …")

    def _compared(self, outcome: Any) -> None:
        second, matched, self._second_unmixed = outcome
        self._ended()
        self.bench.second = second
        names = (self._title_of(self.bench.result.method), self._title_of(second.method))
        self.compare.show_match(self.bench.result, second, matched, self.bench.shown.colors, names)
        self._say("Compared.")

    def take_second(self) -> None:
        """Go on with the second method's result, its components in the order of the first's."""
        if self.bench.second is None:
            return
        self.bench.found(self.bench.second, self._second_unmixed)
        self._show_result(fresh=True)
        self.show_page(COMPONENTS_PAGE)
