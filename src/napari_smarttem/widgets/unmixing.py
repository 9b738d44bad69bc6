"""The *Unmixing* dock: drop a spectrum image, press *Unmix*, see what it is made of, where, how sure, and on which assumption."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt, QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QStackedWidget,
    QToolButton,
    QVBoxLayout,
)

from ..schema import BadInput
from .base import SessionWidget, remember, remembered, stay_on_screen
from .instrument import scrolled
from .launch import dock_of
from .layers import METADATA_KEY
from .progress_bar import ProgressBar
from .tones import set_tone
from .unmixing_bench import Bench, Unmixed, bench_for
from .unmixing_choose import NOTHING, InputActions
from .unmixing_compare import CompareActions, ComparePage
from .unmixing_files import ResultFiles
from .unmixing_input import Choice, Spectra
from .unmixing_known import KnownActions
from .unmixing_library import PAINTED
from .unmixing_lines import can_name_elements
from .unmixing_live import LiveActions, LiveSpectra
from .unmixing_pages import ComponentsPage, PixelPage, PreparePage, UnmixPage
from .unmixing_prepare import PrepareActions
from .unmixing_result_view import ResultView
from .unmixing_work import methods, unmix_spectra

if TYPE_CHECKING:
    from napari import Viewer

PAGES = ("Prepare", "Unmix", "Components", "Pixel", "Compare")
PREPARE, UNMIX, COMPONENTS, PIXEL, COMPARE = range(5)
PROGRESS_MS = 80
DOCK_WIDTH = 430


class UnmixingDock(
    SessionWidget, InputActions, KnownActions, PrepareActions, ResultView, CompareActions, ResultFiles, LiveActions
):
    """Input, preparation, method, result; nothing in it holds up the window.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        What lies on the bench belongs to this viewer; closing the dock loses nothing.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.bench: Bench = bench_for(self.viewer)
        self.live = LiveSpectra()
        self._choices: list[Choice] = []
        self._chosen: Choice | None = None
        self._job: Any = None
        self._loading: Any = None
        self._told = (0.0, "")
        self._began = 0.0
        self._wants_run = False
        self._joined = False
        self.setAcceptDrops(True)
        self._build()
        self._wire()
        self._methods_known({})
        self.in_background(methods, self._methods_known)
        self._list_choices()
        self._show_input()
        self._show_prepared()
        self._show_result()

    # ------------------------------------------------------------------------------------------------- for others

    def offer(self, path: str | Path) -> None:
        """Take a file as input unless something is being worked on already; it can be chosen in any case."""
        path = Path(path)
        if path not in self.bench.files:
            self.bench.files.append(path)
        self._list_choices()
        if self._job is None and self.bench.unmixed is None:
            self.choose_file(path)

    def choose_file(self, path: str | Path) -> None:
        """Take a file (or run folder) as input and read it in the background."""
        path = Path(path)
        if path not in self.bench.files:
            self.bench.files.append(path)
            self._list_choices()
        for choice in self._choices:
            if choice.path == path:
                self._choose(choice)
                return
        self._choose(Choice(path.stem, "file", path))

    def settings(self) -> dict[str, Any]:
        """Arguments of `unmix` as the page *Unmix* has them."""
        page = self.unmixing
        count = page.components.value()
        extras = {"elements": page.elements.isChecked(), "smooth_maps": page.smooth.currentData()}
        spectra = self.bench.spectra
        if spectra is not None and (spectra.frame.shape[0] == 1 or spectra.places_nm is not None):
            extras.pop("smooth_maps")  # smoothing takes an image of neighbours
        return {
            "method": page.method.currentData() or "auto",
            "components": count if count else "auto",
            "seed": page.seed.value(),
        } | {name: value for name, value in extras.items() if value}

    def unmix(self) -> None:
        """Unmix what is prepared, on another thread; a click while it works is ignored."""
        if self._job is not None:
            return
        spectra = self.bench.prepared()
        if spectra is None:
            self._fail(BadInput(NOTHING if self._loading is None else "The data are still being read."))
            return
        settings = self.settings()
        try:
            if spectra.frame.metadata.get("preparation", [{}])[-1].get("step") == "sum_painted":
                raise BadInput("Sums of painted pixels have no places to map; take that step back on the page Prepare.")
            known = self.add_knowledge(settings, spectra)
        except BadInput as error:
            self._fail(error)
            return
        remember("unmixing.method", settings["method"])
        if not can_name_elements(spectra.frame.signal):
            settings.pop("elements", None)
        steps = tuple(self.bench.preparation.steps) if self.bench.preparation is not None else ()
        self._run(
            lambda cancel: unmix_spectra(spectra, steps, settings, report=self._report, cancel=cancel, known=known),
            self._unmixed,
            "Unmixing …",
        )

    def cancel(self) -> None:
        """Stop the work that is going on; what was shown before stays."""
        if self._job is not None:
            self._job.cancel.set()
            self._ended()
            self._say("Stopped; nothing was changed.")

    @property
    def busy(self) -> bool:
        """True while something is being worked out, or a result is not on show yet."""
        return self._job is not None or self._loading is not None or self.bench.layers.drawing

    # --------------------------------------------------------------------------------------------------- building

    def _build(self) -> None:
        self.input = QComboBox()
        self.input.setToolTip("What is unmixed: a spectrum image of a layer, a file, or the spectra of the run")
        self.input.setMinimumContentsLength(12)
        self.input.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.open_button = QPushButton("Open …")
        self.open_button.setToolTip("Open a file with a spectrum image")
        self.facts = QLabel(NOTHING)
        self.facts.setWordWrap(True)
        self.prepare, self.unmixing = PreparePage(), UnmixPage()
        self.components, self.pixel, self.compare = ComponentsPage(), PixelPage(), ComparePage()
        self.pages = QStackedWidget()
        for page in (self.prepare, self.unmixing, self.components, self.pixel, self.compare):
            self.pages.addWidget(scrolled(page))
        tabs = QHBoxLayout()
        tabs.setSpacing(2)
        self.tabs: list[QToolButton] = []
        for number, name in enumerate(PAGES):
            tab = QToolButton()
            tab.setText(name)
            tab.setCheckable(True)
            tab.setAutoExclusive(True)
            tab.setSizePolicy(tab.sizePolicy().horizontalPolicy().Expanding, tab.sizePolicy().verticalPolicy())
            tab.setStyleSheet(
                "QToolButton { padding: 5px 2px; border: none; border-bottom: 3px solid transparent; }"
                "QToolButton:checked { font-weight: 600; border-bottom: 3px solid #1a87d3; }"
            )
            tab.clicked.connect(lambda _=False, page=number: self.show_page(page))
            self.tabs.append(tab)
            tabs.addWidget(tab)
        self.tabs[PREPARE].setChecked(True)
        self.progress = ProgressBar()
        self.progress.setRange(0, 100)
        self.stop = QPushButton("Cancel")
        self.stop.setToolTip("Stop the work; what was shown before stays")
        self.message = QLabel()
        self.message.setWordWrap(True)
        top = QHBoxLayout()
        top.addWidget(self.input, 1)
        top.addWidget(self.open_button)
        last = QHBoxLayout()
        last.addWidget(self.progress, 1)
        last.addWidget(self.stop)
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 4, 4, 4)
        column.setSpacing(4)
        column.addLayout(top)
        column.addWidget(self.facts)
        column.addLayout(tabs)
        column.addWidget(self.pages, 1)
        column.addLayout(last)
        column.addWidget(self.message)
        self.setMinimumWidth(300)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        self.pages.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        self._ended()

    def _wire(self) -> None:
        self.input.activated.connect(self._input_activated)
        self.open_button.clicked.connect(self._open_clicked)
        self.stop.clicked.connect(self.cancel)
        self.unmixing.run.clicked.connect(self.unmix)
        self.unmixing.method.currentIndexChanged.connect(self._method_changed)
        self._wire_known()
        self._wire_preparation()
        self._wire_result()
        self._wire_compare()
        self._wire_files()
        self._wire_live()
        for event in (self.viewer.layers.events.inserted, self.viewer.layers.events.removed):
            event.connect(self._layers_changed)
        self._listing = QTimer(self)
        self._listing.setSingleShot(True)
        self._listing.setInterval(50)
        self._listing.timeout.connect(self._list_choices)
        self._clock = QTimer(self)
        self._clock.setInterval(PROGRESS_MS)
        self._clock.timeout.connect(self._show_progress)
        self.listen(self.session.dataset_added, self._dataset_added)

    def sizeHint(self) -> QSize:
        """Narrow enough to leave the maps the larger part of the window."""
        return QSize(400, 640)

    def showEvent(self, event: Any) -> None:
        """Napari puts a new dock below the others: there is no room for this one there."""
        super().showEvent(event)
        if not self._joined:
            QTimer.singleShot(0, self.join_tabs)

    def join_tabs(self) -> None:
        """Become a tab beside another of our docks on the same side of the window, once; a person may move it afterwards."""
        from qtpy.compat import isalive

        mine = dock_of(self) if isalive(self) and not self._joined else None
        if mine is None or mine.isFloating():
            return
        main = self.viewer.window._qt_window
        others = [dock_of(one) for one in main.findChildren(SessionWidget) if one is not self]
        side = main.dockWidgetArea(mine)
        beside = [one for one in others if one is not None and one.isVisible() and main.dockWidgetArea(one) == side]
        if mine.width() < DOCK_WIDTH:
            main.resizeDocks([mine], [DOCK_WIDTH], Qt.Orientation.Horizontal)
        if not beside:
            return
        self._joined = True
        if beside[0] not in main.tabifiedDockWidgets(mine):
            main.tabifyDockWidget(beside[0], mine)
        stay_on_screen(main)
        mine.raise_()

    def settle_in(self, in_front: bool) -> None:
        """Become a tab, in front of the others or behind them."""
        from qtpy.compat import isalive

        if not isalive(self) or dock_of(self) is None:
            return
        self.join_tabs()
        main = self.viewer.window._qt_window
        beside = main.tabifiedDockWidgets(dock_of(self))
        if in_front:
            dock_of(self).raise_()
        elif beside:
            spectrum = [one for one in beside if one.windowTitle().startswith("Spectrum")]
            (spectrum or beside)[0].raise_()

    def show_page(self, number: int) -> None:
        """Turn to a page."""
        self.pages.setCurrentIndex(number)
        self.tabs[number].setChecked(True)

    # ------------------------------------------------------------------------------------------------------ input

    def dragEnterEvent(self, event: Any) -> None:
        """Files may be dropped on the dock too."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        """Take the first file."""
        for url in event.mimeData().urls()[:1]:
            self.choose_file(url.toLocalFile())
        event.acceptProposedAction()

    # ----------------------------------------------------------------------------------------------------- method

    def _methods_known(self, methods: dict[str, Any]) -> None:
        for box in (self.unmixing.method, self.compare.method):
            present = box.currentData() or (
                remembered("unmixing.method", "auto") if box is self.unmixing.method else None
            )
            box.blockSignals(True)
            box.clear()
            for name, (title, summary) in (methods or {"auto": ("Automatic", "")}).items():
                box.addItem(title, name)
                box.setItemData(box.count() - 1, summary, Qt.ItemDataRole.ToolTipRole)
            box.setCurrentIndex(max(0, box.findData(present)))
            box.blockSignals(False)
        if self.compare.method.currentIndex() == 0 and self.compare.method.count() > 1:
            self.compare.method.setCurrentIndex(1)
        self._method_changed()

    def _method_changed(self, _index: int = 0) -> None:
        box = self.unmixing.method
        self.unmixing.summary.setText(box.currentData(Qt.ItemDataRole.ToolTipRole) or "")
        self.unmixing.ask_for(box.currentData() or "", painted=self.unmixing.library.currentData() == PAINTED)

    # ----------------------------------------------------------------------------------------------------- running

    def _run(self, work: Any, on_done: Any, words: str) -> None:
        """One job at a time, with progress and a way to stop it."""
        self._told = (0.0, words)
        self._began = time.monotonic()
        self._job = self.in_background(work, on_done, self._job_failed)
        self.progress.setRange(0, 100)
        self.progress.setValue(0)
        self.stop.setEnabled(True)
        self.unmixing.run.setEnabled(False)
        self.compare.run.setEnabled(False)
        self._say(words)
        self._clock.start()

    def _report(self, fraction: float, word: str) -> None:
        """Called on the worker's thread: only notes what the timer will show."""
        self._told = (fraction, word)

    def _show_progress(self) -> None:
        fraction, word = self._told
        self.progress.setValue(round(100 * fraction))
        self.progress.setFormat(f"{word} %p %")

    def _ended(self) -> None:
        self._job = None
        if hasattr(self, "_clock"):
            self._clock.stop()
        self.progress.setValue(0)
        self.progress.setFormat("")
        self.stop.setEnabled(False)
        self.unmixing.run.setEnabled(self.bench.spectra is not None)
        self.compare.run.setEnabled(self.bench.result is not None)

    def _job_failed(self, error: BaseException) -> None:
        self._ended()
        self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """One sentence, in the dock and as a notification."""
        self._say(str(error) or type(error).__name__, bad=True)
        self.complain(error)

    def _say(self, sentence: str, *, bad: bool = False) -> None:
        self.message.setText(sentence)
        set_tone(self.message, "bad" if bad else "")

    def _unmixed(self, found: tuple[Any, Unmixed]) -> None:
        result, unmixed = found
        self._ended()
        self.bench.found(result, unmixed)
        self._show_result(below=self._overview_layer(unmixed.spectra), fresh=True)
        count = f"{result.components} component{'s' if result.components > 1 else ''}"
        self._say(f"{count} in {time.monotonic() - self._began:.2g} s.")

    def _overview_layer(self, spectra: Spectra) -> Any:
        for layer in self.viewer.layers:
            about = layer.metadata.get(METADATA_KEY, {})
            if about.get("kind") in {"spectrum_image", "run_overview"} and about.get("path") == str(spectra.path):
                return layer
        return None


def is_in_front(viewer: Any) -> bool:
    """True where a person has the dock before them."""
    return any(not one.visibleRegion().isEmpty() for one in viewer.window._qt_window.findChildren(UnmixingDock))


def offer_file(viewer: Any, path: str | Path, *, in_front: bool | None = None) -> UnmixingDock:
    """Open the dock with a file that can be unmixed: a tab behind the others, unless it was in front already.

    Parameters
    ----------
    viewer : napari.Viewer
    path : str or Path
    in_front : bool, optional
        Whether it was in front before other docks were opened for the same file; looked at now where it is not given.
    """
    from .base import open_dock

    in_front = is_in_front(viewer) if in_front is None else in_front
    dock = open_dock(viewer, "Unmixing")
    dock.offer(path)
    QTimer.singleShot(0, lambda: dock.settle_in(in_front))
    return dock
