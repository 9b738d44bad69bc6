"""The *Single-pixel* dock: calibrate the plate, choose, illuminate, judge, watch the picture come, compare honestly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QPushButton,
    QSplitter,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from ..schema import BadInput, PlanSpec, SmartTEMError
from ..single_pixel.compare import Raster, expected_raster_error, ideal_raster
from ..single_pixel.settings import SinglePixelSettings, parse
from .angle_plane import AnglePlaneDock
from .base import JobBar, SessionWidget, remember, remembered
from .instrument import scrolled
from .progress_bar import ProgressBar
from .settings_form import SettingsForm
from .single_pixel_compare import ComparePage
from .single_pixel_layers import PictureLayers
from .single_pixel_plots import ErrorPlot, Pictures, SignalPlot
from .single_pixel_record import KIND, Imaging, SinglePixelRecord, raster_settings, record_for
from .single_pixel_veto import VetoPage
from .tabs import join_tabs
from .tones import set_tone

if TYPE_CHECKING:
    from napari import Viewer

PAGES = ("Live", "Judge", "Compare", "Record")
LIVE, JUDGE, COMPARE, RECORD = range(4)
DOCK_WIDTH = 430
_REMEMBERED = "single_pixel.settings"
_MAIN = ("generator", "rule", "pixels", "patterns", "exposure_s", "dose_budget_e_per_a2", "pixel_dose_limit_e_per_a2")
_MORE = (
    "batch", "pool", "defocus_rad", "exploration", "least_gain_nats", "critical_dose_e_per_a2", "bucket_noise_e",
    "calibration_patterns", "pattern_exposure_s", "check_every", "check_patterns", "seed",
)  # fmt: skip
_LABELS = {
    "rule": "Choose by",
    "dose_budget_e_per_a2": "Dose budget (mean)",
    "pixel_dose_limit_e_per_a2": "Ask above (pixel)",
    "pattern_exposure_s": "Exposure of the pattern camera",
    "defocus_rad": "Largest defocus",
    "critical_dose_e_per_a2": "Critical dose (1/e)",
    "bucket_noise_e": "Noise of the bucket",
}
NO_PLATE = (
    "This instrument has no phase plate (controls needle.1 …, pattern camera, bucket); the simulator has one where its Optics "
    "are 'aligned, with phase plate'."
)


class _Squeezed(QVBoxLayout):
    """Pictures shrink before anything has to be scrolled; a scroll area gives a layout with wrapped words all it would like."""

    def hasHeightForWidth(self) -> bool:
        return False


class SinglePixelDock(SessionWidget):
    """Structured illumination and one number a pattern.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        What was calibrated and measured belongs to this viewer; closing the dock stops nothing.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.record: SinglePixelRecord = record_for(self.viewer)
        self.layers = PictureLayers(self.viewer)
        self._starting = False
        self._joined = False
        self._ideal: tuple[Imaging, Raster] | None = None
        self._raster: tuple[list[float], list[float]] = ([], [])
        self._raster_of: Imaging | None = None
        self._calculating = False
        self._missing = ""
        self._build()
        kept = remembered(_REMEMBERED, {})
        self.put_settings(kept if isinstance(kept, dict) else {})
        self._wire()
        self._instrument_changed()
        self._review_changed()
        self.bar.show_status(self.session.status)
        self._show()

    # --------------------------------------------------------------------------------------------------- building

    def _build(self) -> None:
        self.mark = QLabel("SIMULATED")
        self.mark.setObjectName("simulated_mark")
        self.mark.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.mark.setStyleSheet(
            "background: #E69F00; color: black; font-weight: 700; letter-spacing: 3px; padding: 2px;"
        )
        self.form = SettingsForm(SinglePixelSettings, _MAIN, labels=_LABELS)
        self.more = SettingsForm(SinglePixelSettings, _MORE, labels=_LABELS)
        further = QCollapsible("More about batches, calibration and checks")
        further.addWidget(self.more)
        self.quality = QLabel()
        self.quality.setObjectName("quality")
        self.quality.setWordWrap(True)
        self.fit = ProgressBar()
        self.fit.setRange(0, 100)
        self.fit.hide()
        self.calibrate_button = QPushButton("Calibrate")
        self.load_button = QPushButton("Load…")
        self.start_button = QPushButton("Start")
        self.start_button.setStyleSheet("font-weight: 600;")
        self.resume_button = QPushButton("Resume…")
        self.words = QLabel()
        self.words.setObjectName("words")
        self.words.setWordWrap(True)
        self.pictures = Pictures()
        self.signal = SignalPlot()
        self.error = ErrorPlot()
        self.misfit = QLabel()
        self.misfit.setWordWrap(True)
        live = QSplitter(Qt.Orientation.Vertical)
        live.addWidget(self.pictures)
        live.addWidget(self.signal)
        live.addWidget(self.error)
        live.setSizes([360, 90, 130])
        self.veto = VetoPage(self.session.review, self.record)
        self.compare = ComparePage()
        self.notes = QListWidget()
        self.notes.setWordWrap(True)
        self.pages = QTabWidget()
        for page, title in zip((live, self.veto, self.compare, self.notes), PAGES, strict=True):
            self.pages.addTab(page, title)
        self.bar = JobBar(session=self.session)
        buttons = QGridLayout()
        buttons.setSpacing(3)
        for place, button in enumerate(
            (self.calibrate_button, self.load_button, self.start_button, self.resume_button)
        ):
            buttons.addWidget(button, 0, place)
        top = QWidget()
        head = QVBoxLayout(top)
        head.setContentsMargins(0, 0, 0, 0)
        head.setSpacing(4)
        for one in (self.form, further, self.quality, self.fit):
            head.addWidget(one)
        row = QHBoxLayout()
        row.addWidget(self.words, 1)
        inner = QWidget()
        column = _Squeezed(inner)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(top)
        column.addLayout(buttons)
        column.addLayout(row)
        column.addWidget(self.misfit)
        column.addWidget(self.pages, 1)
        area = scrolled(inner)  # all of it together is higher than a laptop's screen
        area.setMinimumWidth(inner.minimumSizeHint().width())
        whole = QVBoxLayout(self)
        whole.setContentsMargins(4, 4, 4, 4)
        whole.setSpacing(4)
        whole.addWidget(self.mark)
        whole.addWidget(area, 1)
        whole.addWidget(self.bar)

    def sizeHint(self) -> Any:
        """As wide as two small pictures beside each other need."""
        hint = super().sizeHint()
        hint.setWidth(DOCK_WIDTH)
        return hint

    def _wire(self) -> None:
        self.calibrate_button.clicked.connect(lambda: self._try(self.calibrate))
        self.start_button.clicked.connect(lambda: self._try(self.start))
        self.load_button.clicked.connect(self._ask_plate)
        self.resume_button.clicked.connect(self._ask_run)
        self.compare.calculate_requested.connect(lambda: self._try(self.calculate_raster))
        self.compare.measure_requested.connect(lambda: self._try(self.measure_raster))
        self.veto.acted.connect(self.relay.flush)
        self.form.changed.connect(self._show)
        self.record.changed.connect(self._show)
        self.record.noted.connect(self._noted)
        self.record.ended.connect(self._ended)
        session = self.session
        self.listen(session.instrument_changed, self._instrument_changed)
        self.listen(session.status_changed, self._status_changed)
        self.listen(session.review.changed, self._review_changed)
        self.listen(session.review.opened, self._review_opened)
        self.listen(session.review.closed, self._review_changed)

    # ------------------------------------------------------------------------------------------- what a person does

    def settings(self) -> dict[str, Any]:
        """Settings of the plan as the dock shows them."""
        return self.form.values() | self.more.values()

    def put_settings(self, values: dict[str, Any]) -> None:
        """Show settings of the plan."""
        self.form.put(values)
        self.more.put(values)

    def show_page(self, page: int) -> None:
        """Show one of `PAGES`."""
        self.pages.setCurrentIndex(page)

    def calibrate(self) -> None:
        """Record patterns of the plate and fit its model; the specimen is out of the way."""
        self._begin(self.settings() | {"generator": "predicted", "calibrate_only": True})

    def start(self) -> None:
        """Measure; where the plate is not calibrated yet, the run begins with that."""
        self._begin(self._with_plate(self.settings()))

    def measure_raster(self) -> None:
        """Measure the same field with the plate's smallest spot, with as many electrons as the last run took."""
        self._begin(self._with_plate(raster_settings(self.settings(), self.record.run)))

    def resume(self, folder: Path) -> None:
        """Go on with a run that was stopped or killed; its picture is rebuilt from its record."""
        self._launch(lambda _: self.session.resume(folder))

    def calculate_raster(self) -> None:
        """Work out what an ideal raster scan of the same dose would have shown."""
        run = self.record.run
        if run is None or run.settled is None:
            raise BadInput("There is no picture to compare with; measure one first.")
        picture, electrons = run.settled, run.electrons
        self._calculating = True
        self._enable()
        self.in_background(
            lambda _: ideal_raster(picture, electrons),
            lambda raster: self._calculated(run, raster),
            self._not_calculated,
        )

    def _calculated(self, run: Imaging, raster: Raster) -> None:
        self._calculating = False
        self._ideal = (run, raster)
        self._show()

    def _not_calculated(self, error: BaseException) -> None:
        self._calculating = False
        self.complain(error)
        self._enable()

    def _with_plate(self, settings: dict[str, Any]) -> dict[str, Any]:
        if self.record.calibration is not None and settings["generator"] != "measured":
            return settings | {"calibration_file": str(self.record.calibration)}
        return settings

    def _begin(self, settings: dict[str, Any]) -> None:
        remember(_REMEMBERED, self.settings())
        parse(settings)  # one sentence at once, before a folder is made
        self._launch(lambda _: self.session.start(PlanSpec(kind=KIND, settings=settings)))

    def _launch(self, work: Any) -> None:
        self._starting = True
        self._enable()
        # a new run folder is forced to the disk first, which may take longer than a window should wait
        self.in_background(work, self._started, self._not_started)

    def _started(self, _: Path) -> None:
        self._starting = False
        self.show_page(JUDGE if self.veto.waiting else LIVE)  # a run may be there sooner than this word of it
        self.relay.flush()
        self._enable()

    def _not_started(self, error: BaseException) -> None:
        self._starting = False
        self.bar.reason.setText(str(error))
        self.complain(error)
        self._enable()

    def _ask_plate(self) -> None:
        name, _ = QFileDialog.getOpenFileName(
            self, "A calibrated phase plate", str(self.session.folder), "Plate (*.npz)"
        )
        if name:
            self._try(lambda: self.record.use_calibration(Path(name)))

    def _ask_run(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Run folder (NAME.smarttem)", str(self.session.folder))
        if name:
            self.resume(Path(name))

    def _try(self, action: Any) -> None:
        try:
            action()
        except SmartTEMError as error:
            self.complain(error)
            self.bar.reason.setText(str(error))
        self.relay.flush()

    # ---------------------------------------------------------------------------------------- what the session says

    def _instrument_changed(self, *_: Any) -> None:
        guard = self.session.instrument
        self.mark.setVisible(bool(guard is not None and guard.info.simulated))
        self._missing = "Connect an instrument first (Instrument dock)" if guard is None else ""
        if guard is not None and (guard.optics is None or "needle.1" not in guard.optics.controls):
            self._missing = NO_PLATE
        self._ideal = None
        self._show()

    def _status_changed(self, status: Any) -> None:
        self.bar.show_status(status)
        self._enable()

    def _review_opened(self, *_: Any) -> None:
        self._review_changed()
        if self.veto.waiting:
            self.show_page(JUDGE)

    def _review_changed(self, *_: Any) -> None:
        self.veto.refresh()
        waiting = len(self.veto.ids())
        self.pages.setTabText(JUDGE, f"Judge ({waiting})" if waiting else "Judge")
        self._enable()

    def _noted(self, level: str, text: str) -> None:
        self.notes.addItem(text if level == "info" else f"⚠ {text}")
        self.notes.scrollToBottom()
        self.say(level, text)

    def _ended(self, outcome: str, reason: str) -> None:
        self.bar.show_status(self.session.status)
        if outcome == "failed":
            self.say("error", reason)
        self._review_changed()

    # ------------------------------------------------------------------------------------------------------ showing

    def _show(self) -> None:
        """Everything that depends on the record; cheap enough for every value."""
        record, run = self.record, self.record.run
        self.quality.setText(
            record.quality or "The plate is not calibrated yet: Calibrate, or Start, which does it first."
        )
        fitting = run is not None and run.fitted is not None
        self.fit.setVisible(fitting)
        if run is not None and run.fitted is not None:
            self.fit.setValue(round(100 * run.fitted))
            self.fit.setFormat("fitting the plate, %p%")
        self.words.setText("" if run is None else run.words)
        self.misfit.setVisible(run is not None and run.misfit is not None)
        if run is not None and run.misfit is not None:
            self.misfit.setText(
                f"Signals against prediction: χ² {run.misfit:.2f} a signal. {'' if run.remark else 'As it should be.'}"
            )
            set_tone(self.misfit, "bad" if run.remark else "")
        self.pictures.show_run(run)
        self.signal.show_run(run)
        before = record.earlier[-1] if record.earlier else None
        budget = self.form.values().get("dose_budget_e_per_a2")
        self.error.show_run(run, before, self._raster if self._raster_of is run else ([], []), budget)
        self._follow_raster(run)
        ideal = self._ideal[1] if self._ideal is not None and self._ideal[0] is run else None
        self.compare.show_runs(run, record.earlier, ideal)
        if self.viewer is not None:
            self.layers.show_run(run, simulated=record.simulated)
        self._enable()

    def _follow_raster(self, run: Imaging | None) -> None:
        """The dashed curve, one point a batch, worked out beside the window."""
        if run is None or run.settled is None or not run.spent or self._calculating:
            return
        if self._raster_of is not run:
            self._raster, self._raster_of = ([], []), run
        if self._raster[0] and self._raster[0][-1] >= run.spent[-1]:
            return
        picture, electrons, spent, strength = run.settled, run.electrons, run.spent[-1], run.strength
        self._calculating = True

        def keep(error: float) -> None:
            self._calculating = False
            if self._raster_of is run:
                self._raster = ([*self._raster[0], spent], [*self._raster[1], error])
            self._show()

        self.in_background(lambda _: expected_raster_error(picture, electrons, strength), keep, self._not_calculated)

    def showEvent(self, event: Any) -> None:
        """Napari puts a new dock below the others: there is no room for this one there."""
        super().showEvent(event)
        if not self._joined:
            QTimer.singleShot(0, self._join_tabs)

    def _join_tabs(self) -> None:
        if isalive(self) and not self._joined:
            self._joined = join_tabs(self, DOCK_WIDTH, apart=(AnglePlaneDock,))

    def busy_because(self) -> str:
        """Why no run can be begun now; empty where one can."""
        if self._missing:
            return self._missing
        if self._starting:
            return "A run is being started"
        return "A run is going on; wait for it or stop it" if self.session.status.active else ""

    def _enable(self) -> None:
        """Each button is enabled where it does something; otherwise its tooltip says why it is not."""
        busy = self.busy_because()
        running = "A run is going on; stop it first" if self.session.status.active else ""
        run = self.record.run
        nothing = "" if run is not None and run.settled is not None else "There is no picture yet"
        for button, why, tip in (
            (self.calibrate_button, busy, "Record patterns of the plate and fit its model to them"),
            (self.load_button, running, "Use a plate that was calibrated before (plate.npz in its run folder)"),
            (self.start_button, busy, "Illuminate, count, reconstruct, choose the next patterns"),
            (self.resume_button, running, "Go on with a run that was stopped or killed"),
            (self.compare.calculate_button, nothing, "A pencil beam without blur and as many electrons"),
            (
                self.compare.measure_button,
                busy or nothing,
                "The plate's smallest spot, moved over the field, as many electrons",
            ),
        ):
            button.setEnabled(not why)
            button.setToolTip(why or tip)
