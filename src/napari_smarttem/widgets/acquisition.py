"""The *Acquisition* dock: overview, choose, review, acquire. Four pages of one run; every button does or says why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QStackedWidget,
    QToolButton,
    QVBoxLayout,
)

from ..engine.keep_good import PREFIX
from ..schema import AwaitReview, PlanSpec, SmartTEMError, TargetState
from .acquisition_files import RunFiles
from .acquisition_form import ChoosePage, OverviewPage, cost_text
from .acquisition_review import ReviewPage
from .acquisition_run import RunPage
from .base import JobBar, SessionWidget, remember, remembered
from .instrument import scrolled
from .live_view import live_view_for
from .run_plan import plan_of

if TYPE_CHECKING:
    from napari import Viewer

PAGES = ("Overview", "Choose", "Review", "Acquire")
KIND = "acquisition"
_REMEMBERED = "acquisition.settings"


class AcquisitionDock(SessionWidget, RunFiles):
    """From an overview to spectra only where they matter, with a person's yes in between.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        The dock shows the session of this viewer; closing it stops nothing.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.live = live_view_for(napari_viewer)
        self._state = ""
        self._starting = False
        self._kind = KIND
        self._build()
        self._restore()
        self._wire()
        self._instrument_changed()
        self._review_changed()
        self._status_changed(self.session.status)
        if self.session.run_folder is not None:
            self._run_started(self.session.run_folder)
        if self.live.newest is not None:
            self._show_spectrum(*self.live.newest)

    # ---------------------------------------------------------------------------------------------------- building

    def _build(self) -> None:
        self.mark = QLabel("SIMULATED")
        self.mark.setObjectName("simulated_mark")
        self.mark.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.mark.setStyleSheet(
            "background: #E69F00; color: black; font-weight: 700; letter-spacing: 3px; padding: 2px;"
        )
        self.overview = OverviewPage()
        self.choose = ChoosePage()
        self.review = ReviewPage(self.session.review)
        self.run = RunPage(self.live.windows)
        self.pages = QStackedWidget()
        for page in (scrolled(self.overview), scrolled(self.choose), self.review, scrolled(self.run)):
            self.pages.addWidget(page)
        self.steps: list[QToolButton] = []
        row = QHBoxLayout()
        row.setSpacing(2)
        for i, name in enumerate(PAGES):
            button = QToolButton()
            button.setText(f"{i + 1} {name}")
            button.setCheckable(True)
            button.setAutoExclusive(True)
            button.setSizePolicy(button.sizePolicy().horizontalPolicy().Expanding, button.sizePolicy().verticalPolicy())
            button.setStyleSheet(
                "QToolButton { padding: 5px 2px; border: none; border-bottom: 3px solid transparent; }"
                "QToolButton:checked { font-weight: 600; border-bottom: 3px solid #1a87d3; }"
            )
            button.clicked.connect(lambda _=False, page=i: self.show_page(page))
            self.steps.append(button)
            row.addWidget(button)
        self.steps[0].setChecked(True)
        self.bar = JobBar(session=self.session)
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 4, 4, 4)
        column.setSpacing(4)
        column.addWidget(self.mark)
        column.addLayout(row)
        column.addWidget(self.pages, 1)
        column.addWidget(self.bar)

    def _wire(self) -> None:
        self.overview.shown_field = self.live.shown_field
        self.overview.button.clicked.connect(self.take_overview)
        self.choose.button.clicked.connect(self.propose)
        self.choose.find_regions.clicked.connect(self.find_regions)
        self.choose.drop_regions.clicked.connect(self._forget_regions)
        self.review.start_button.clicked.connect(self.start)
        self.run.start_button.clicked.connect(self.start)
        self.run.open_folder.clicked.connect(self._open_folder)
        self.run.resume.clicked.connect(self._ask_resume)
        self.run.export.clicked.connect(self._ask_export)
        self.run.copy.clicked.connect(self.copy_as_python)
        self._settings_timer = QTimer(self)
        self._settings_timer.setSingleShot(True)
        self._settings_timer.setInterval(200)
        self._settings_timer.timeout.connect(self._settings_changed)
        for page in (self.overview, self.choose, self.run):
            page.changed.connect(self._settings_timer.start)
        self.review.selection_changed.connect(self._table_selected)
        self.review.acted.connect(self.relay.flush)
        self.live.targets.selection_changed.connect(self._canvas_selected)
        self.live.spectrum_changed.connect(self._show_spectrum)
        self.run.background.setChecked(self.live.maps.subtract_background)
        self.run.background.toggled.connect(self._background_toggled)
        self.live.noted.connect(self._noted)
        session = self.session
        self.listen(session.instrument_changed, self._instrument_changed)
        self.listen(session.status_changed, self._status_changed)
        self.listen(session.run_started, self._run_started)
        self.listen(session.review.changed, self._review_changed)
        self.listen(session.review.opened, self._review_opened)
        self.listen(session.review.closed, self._review_closed)
        self._clock = QTimer(self)
        self._clock.setInterval(500)
        self._clock.timeout.connect(self._tick)
        self._clock.start()

    def sizeHint(self) -> Any:
        """As wide as a dock should be beside a canvas that matters more."""
        hint = super().sizeHint()
        hint.setWidth(370)
        return hint

    def _restore(self) -> None:
        kept = remembered(_REMEMBERED, {})
        if isinstance(kept, dict):
            for page in (self.overview, self.choose, self.run):
                page.put(kept)

    # ------------------------------------------------------------------------------------------- what a person does

    def settings(self) -> dict[str, Any]:
        """Settings of the acquisition plan as the pages show them, edited regions included."""
        values = self.overview.values() | self.choose.values() | self.run.values()
        if values["chooser"] == "regions":
            labels = self.live.regions.labels(self.live.overview)
            if labels is not None:
                from ..acquisition.regions import encode_labels

                values["chooser_settings"] = values["chooser_settings"] | {"labels": encode_labels(labels)}
        return values

    def show_page(self, page: int) -> None:
        """Show one of the four pages."""
        self.pages.setCurrentIndex(page)
        self.steps[page].setChecked(True)
        if page == 2 and self.live.targets.layer is not None:
            self.live.targets.activate()

    def take_overview(self) -> None:
        """Begin a run with its overview; in a run that waits, take the overview anew."""
        if self.session.review.is_open:
            self._submit("repropose", self.settings() | {"rescan": True})
            return
        guard = self.session.instrument
        spec = PlanSpec(kind=KIND, settings=self.settings() | {"propose_first": False})
        budget = guard.dose_budget_e_per_a2 if guard is not None else None
        self._remember()
        self._starting = True
        self._enable()
        # A new run folder is forced to the disk before anything moves, which may take longer than a window should wait.
        self.in_background(
            lambda _: self.session.start(spec, dose_budget_e_per_a2=budget), self._started, self._not_started
        )

    def _started(self, _: Path) -> None:
        self._starting = False
        self.relay.flush()
        self._enable()

    def _not_started(self, error: BaseException) -> None:
        self._starting = False
        self.bar.reason.setText(str(error))
        self.complain(error)
        self._enable()

    def propose(self) -> None:
        """Ask the chooser for points on the present overview."""
        self._submit("repropose", self.settings())

    def start(self) -> None:
        """Measure the approved points."""
        chosen = self.choose.values()
        late = ("order", "settle_distance_nm", "rounds", "time_budget_s", "dose_budget_e_per_a2")
        self._submit("go", self.run.values() | {name: chosen[name] for name in late})

    def _submit(self, action: str, settings: dict[str, Any]) -> None:
        self._try(lambda: self.session.review.submit(action, settings))

    def _try(self, action: Any) -> None:
        self._remember()
        try:
            action()
        except SmartTEMError as error:
            self.complain(error)
            self.bar.reason.setText(str(error))
        self.relay.flush()

    def _remember(self) -> None:
        remember(_REMEMBERED, self.overview.form.values() | self.choose.values() | self.run.values())

    def find_regions(self) -> None:
        """Find regions on the overview, in the background, and put them on the canvas for editing."""
        from ..acquisition.regions import RegionOptions, segment

        overview = self.live.overview
        if overview is None:
            return
        chosen = {k: v for k, v in self.choose.options.values().items() if k in RegionOptions.model_fields}
        self.choose.find_regions.setEnabled(False)
        self.in_background(
            lambda _: segment(overview, RegionOptions(**chosen)),
            lambda labels: self._show_regions(labels, overview),
            self._regions_failed,
        )

    def _show_regions(self, labels: Any, overview: Any) -> None:
        if self.viewer is not None:
            self.live.regions.show(labels, overview)
            found = int(labels.max())
            self.say("info", f"{found} regions. Paint or erase them on the canvas, then propose.")
        self._enable()

    def _regions_failed(self, error: BaseException) -> None:
        self.complain(error)
        self._enable()

    def _forget_regions(self) -> None:
        self.live.regions.forget()
        self._enable()

    def _background_toggled(self, on: bool) -> None:
        self.live.maps.subtract_background = on

    # ---------------------------------------------------------------------------------------- what the session says

    def _instrument_changed(self, *_: Any) -> None:
        self.mark.setVisible(self.live.simulated)
        self.overview.show_context(self.session.context)
        self._enable()

    def _status_changed(self, status: Any) -> None:
        self._show_progress(status)
        state = str(status.state)
        if state != self._state:
            self._state = state
            self._enable()

    def _tick(self) -> None:
        """Time left runs down between two steps as well."""
        if self.session.status.active and self.isVisible():
            self._show_progress(self.session.status)

    def _show_progress(self, status: Any) -> None:
        """Progress in points, which is what a person counts, once there are any to be measured."""
        counts = self.session.review.counts()
        over = counts[TargetState.DONE] + counts[TargetState.FAILED]
        if over or counts[TargetState.ACQUIRING]:
            total = over + counts[TargetState.ACQUIRING]
            total += counts[TargetState.APPROVED] if status.active else 0
            status = replace(status, steps_done=over, steps_total=total)
        self.bar.show_status(status)

    def _run_started(self, folder: Path) -> None:
        spec = plan_of(folder)
        self._kind = KIND if spec is None else spec.kind
        self.run.folder.setText(str(folder))
        self.run.folder.setCursorPosition(len(str(folder)))
        self.run.plot.set_spectrum(None)
        self.run.note.setText("")
        self._enable()

    def _review_opened(self, step: AwaitReview) -> None:
        self.show_page(2 if step.targets else 1)
        self._review_changed()
        self.review.table.show_first(TargetState.PROPOSED)

    def _review_closed(self, outcome: Any) -> None:
        if outcome.action == "go" and not self.session.review.is_open:
            self.show_page(3)
        self._review_changed()

    def _review_changed(self, *_: Any) -> None:
        self.review.refresh()
        self._settings_changed()

    def _settings_changed(self) -> None:
        """What the approved points cost with the settings shown now."""
        count = self.session.review.counts()[TargetState.APPROVED]
        context = self.session.context
        duration = dose = None
        if count and context is not None:
            from ..acquisition.estimate import estimate
            from ..acquisition.settings import AcquisitionSettings

            try:
                cost = estimate(
                    count, AcquisitionSettings.model_validate(self.run.values() | self.overview.form.values()), context
                )
            except ValueError as error:
                self.run.cost.setText(str(error))
            else:
                duration, dose = cost.duration_s, cost.dose_e_per_a2
        self.review.show_estimate(count, duration, dose)
        text = (
            f"{count} approved: {cost_text(duration, dose or 0.0)}" if duration is not None else "Nothing is approved."
        )
        self.run.cost.setText(text)
        words = f"Start: {count} points, {cost_text(duration, dose or 0.0)}" if duration is not None else "Start"
        if self._asks_of_optics():
            words = "Correct, and go on"
        for button in (self.review.start_button, self.run.start_button):
            button.setText(words)
        self._enable()

    def _asks_of_optics(self) -> bool:
        """True while a check of the optics, on the way of an acquisition, waits for a yes or no."""
        step = self.session.review.step
        return bool(self.session.review.is_open and step is not None and step.step_id.startswith(PREFIX))

    def _enable(self) -> None:
        """Each button is enabled where it does something; otherwise its tooltip says why it is not."""
        review, status = self.session.review, self.session.status
        connected = self.session.instrument is not None
        waiting = review.is_open
        busy = self._starting or (status.active and not waiting)
        counts = review.counts()
        no_instrument = "" if connected else "Connect an instrument first (Instrument dock)"
        going = "The run is busy; wait, pause or stop it" if busy else ""
        no_overview = "" if waiting else "Take an overview first"
        nothing = "" if counts[TargetState.APPROVED] else "Approve at least one point first"
        # What is asked for then is another thing than points: a click here would be taken for its answer.
        elsewhere = (
            "A run of another kind waits for you; answer in its own dock" if waiting and self._kind != KIND else ""
        )
        asked, measure = "", "Measure the approved points"
        if self._asks_of_optics():
            asked, nothing = (
                "Say first whether the alignment is corrected: here under Review, or in the Alignment dock",
                "",
            )
            measure = "Correct the alignment and measure on; to leave it as it is, answer in the Alignment dock"
        again = waiting or (connected and status.active)
        self.overview.button.setText(
            "Take a new overview and propose" if again and self.live.overview else "Take overview"
        )
        for button, why, tip in (
            (
                self.overview.button,
                no_instrument or going or elsewhere or asked,
                "One scan of the field of view, then you decide",
            ),
            (
                self.choose.button,
                no_instrument or going or no_overview or elsewhere or asked,
                "Let the chooser look at the overview",
            ),
            (self.review.start_button, no_instrument or going or no_overview or elsewhere or nothing, measure),
            (self.run.start_button, no_instrument or going or no_overview or elsewhere or nothing, measure),
            (
                self.choose.find_regions,
                "" if self.live.overview is not None else "Take an overview first",
                "Regions as a Labels layer that you can paint on",
            ),
            (
                self.choose.drop_regions,
                "" if self.live.regions.layer is not None else "There are no regions",
                "Take the regions off the canvas; the chooser finds its own",
            ),
            (self.run.open_folder, self._no_run(), "Show the run folder"),
            (self.run.export, self._no_run(), "As a hyperspy file, OME-Zarr or a table"),
            (
                self.run.resume,
                "A run is going on; stop it first" if status.active else "",
                "Go on with a run that was stopped or killed; nothing acknowledged is measured again",
            ),
        ):
            button.setEnabled(not why)
            button.setToolTip(why or tip)
        for button, done in zip(
            self.steps,
            (
                self.live.overview is not None,
                bool(review.items()),
                bool(counts[TargetState.DONE]),
                status.outcome == "finished",
            ),
            strict=True,
        ):
            button.setToolTip("done" if done else "")

    def _no_run(self) -> str:
        return "" if self.session.run_folder is not None else "There is no run yet"

    def _noted(self, level: str, text: str) -> None:
        self.run.note.setText(text)
        if level == "warning":
            self.say("info", text)
            self.review.prompt.setText(text)

    # ------------------------------------------------------------------------------------------------- selections

    def _table_selected(self, ids: frozenset[str]) -> None:
        self.live.targets.select(ids)
        self._show_selected(ids)

    def _canvas_selected(self, ids: Any) -> None:
        self.review.table.select(ids)
        self.review.refresh_buttons()
        self._show_selected(ids)

    def _show_selected(self, ids: Any) -> None:
        ids = tuple(ids)
        if len(ids) == 1:
            self.live.show_target(ids[0])

    def _show_spectrum(self, frame: Any, label: str) -> None:
        self.run.plot.set_spectrum(frame, label)
