"""The Spectrum dock: the spectrum under the cursor, of the run, or of the selected target, and its file as an instrument."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt, QTimer
from qtpy.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QSlider, QVBoxLayout

from ..schema import Frame, StepResult
from .base import SessionWidget, remember, remembered, when_done
from .energy_windows import EnergyWindow, EnergyWindows, windows_of
from .relay import PERIOD_MS
from .spectrum_plot import SpectrumPlot
from .spectrum_sources import SpectrumSource, open_spectra

if TYPE_CHECKING:
    from napari import Viewer

__all__ = ["EnergyWindow", "EnergyWindows", "SpectrumDock", "SpectrumPlot", "windows_of"]

CURSOR, NEWEST, SELECTED = "Under the cursor", "Newest of the run", "Selected target"
_KEPT_SPECTRA = 500
_KEPT_FILES = 4


class SpectrumDock(SessionWidget):
    """Shows one spectrum at a time, at most 15 times a second.

    A dropped spectrum image follows the cursor; during a run the newest spectrum is shown; a selected target shows its own.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self._sources: OrderedDict[Path, SpectrumSource] = OrderedDict()
        self._opening: set[Path] = set()
        self._refused: set[Path] = set()
        self._shown: tuple[Path, int] | None = None
        self._wanted: tuple[SpectrumSource, int] | None = None
        self._reading = False
        self._by_target: OrderedDict[str, tuple[Frame, str]] = OrderedDict()
        self._cursor_place: tuple[float, ...] | None = None
        self._current: SpectrumSource | None = None
        self._build()
        self.listen(self.session.step_finished, self._steps_finished, every=True)
        self.listen(self.session.run_started, self._run_started)
        self.listen(self.session.dataset_added, self._dataset_added)
        self.viewer.mouse_move_callbacks.append(_weak_mouse_callback(self))
        self._timer = QTimer(self)
        self._timer.setInterval(PERIOD_MS)
        self._timer.timeout.connect(self._follow_cursor)
        self._timer.start()
        from .review_layer import review_layer_for

        self._targets = review_layer_for(self.viewer)
        self._targets.selection_changed.connect(self._selection_changed)
        self._show_source(None)

    # ------------------------------------------------------------------------------------------------ for others

    def show_file(self, path: str | Path) -> None:
        """Read a file or run folder in the background and show it: its summed spectrum first, then the cursor's."""
        path = Path(path)
        self.mode.setCurrentText(CURSOR)
        self._refused.discard(path)
        if path in self._sources and path.suffix.lower() != ".smarttem":
            self._opened(path, self._sources[path])
            return
        self._open(path)

    @property
    def file(self) -> Path | None:
        """The file or run folder on show."""
        return None if self._current is None else self._current.path

    def use_as_instrument(self) -> None:
        """Connect to the file on show as an instrument that plays it back."""
        if self._current is None:
            return
        path = self._current.path
        self.say("info", f"Connecting to {path.name} …")
        settings: dict[str, Any] = {"file": str(path)}
        if self._current.dataset is not None:
            settings["dataset"] = self._current.dataset
        when_done(self.session.connect("replay", **settings), self._connected, self.complain, owner=self)

    # --------------------------------------------------------------------------------------------------- building

    def _build(self) -> None:
        self.mode = QComboBox()
        self.mode.addItems([CURSOR, NEWEST, SELECTED])
        self.mode.setToolTip("Which spectrum is shown")
        self.mode.currentTextChanged.connect(self._mode_changed)
        self.open_button = QPushButton("Open …")
        self.open_button.setToolTip("Open a spectrum image, a spectrum or a run folder's file")
        self.open_button.clicked.connect(self._open_clicked)
        self.instrument_button = QPushButton("Use as instrument")
        self.instrument_button.clicked.connect(self.use_as_instrument)
        self.file_label = QLabel()
        self.file_label.setWordWrap(True)
        self.number = QSlider(Qt.Orientation.Horizontal)
        self.number.setToolTip("Which spectrum of the file")
        self.number.valueChanged.connect(self._number_changed)
        windows = windows_of(self.viewer)
        if not len(windows):
            windows.set_all([EnergyWindow(**w) for w in remembered("spectrum.windows", [])])
        self.plot = SpectrumPlot(windows=windows)
        self.plot.windows_changed.connect(self._remember_windows)
        self.plot.set_logarithmic(bool(remembered("spectrum.logarithmic", False)))
        self.plot.log_button.toggled.connect(self._remember_logarithmic)
        top = QHBoxLayout()
        top.addWidget(self.mode, 1)
        top.addWidget(self.open_button)
        top.addWidget(self.instrument_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(6, 6, 6, 6)
        column.addLayout(top)
        column.addWidget(self.file_label)
        column.addWidget(self.number)
        column.addWidget(self.plot, 1)
        self.setMinimumWidth(260)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)

    def _remember_windows(self) -> None:
        remember("spectrum.windows", self.plot.energy_windows.as_json())

    def _remember_logarithmic(self, on: bool) -> None:
        remember("spectrum.logarithmic", on)

    def sizeHint(self) -> QSize:
        """Narrow enough to leave the specimen the larger part of the window."""
        return QSize(340, 420)

    # ------------------------------------------------------------------------------------------------------ files

    def _open_clicked(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Open spectra", "", "Spectra (*.hspy *.dm3 *.dm4 *.emd *.bcf *.msa *.emsa *.spx);;All files (*)"
        )
        if path:
            self.show_file(path)

    def _open(self, path: Path) -> None:
        if path in self._opening:
            return
        self._opening.add(path)
        self.file_label.setText(f"Reading {path.name} …")

        def refused(error: BaseException) -> None:
            self._opening.discard(path)
            self._refused.add(path)
            self._show_source(self._current)
            self.complain(error)

        self.in_background(lambda _cancel: open_spectra(path), lambda source: self._opened(path, source), refused)

    def _opened(self, path: Path, source: SpectrumSource) -> None:
        self._opening.discard(path)
        self._sources[path] = source
        self._sources.move_to_end(path)
        while len(self._sources) > _KEPT_FILES:
            self._sources.popitem(last=False)[1].close()
        self._show_source(source)
        self._shown = None
        if source.on_canvas or source.count == 1:
            self.in_background(lambda _cancel: source.summed(), lambda shown: self._show_sum(source, shown))
        else:
            self._want(source, 0)

    def _show_sum(self, source: SpectrumSource, shown: tuple[Frame, str]) -> None:
        if self._current is source and self._shown is None and self.mode.currentText() == CURSOR:
            self.plot.set_spectrum(*shown)

    def _show_source(self, source: SpectrumSource | None) -> None:
        self._current = source
        by_number = source is not None and not source.on_canvas and source.count > 1
        self.number.setVisible(by_number)
        if by_number:
            self.number.blockSignals(True)
            self.number.setRange(0, source.count - 1)
            self.number.blockSignals(False)
        replayable = source is not None and source.dataset is not None
        self.instrument_button.setEnabled(replayable)
        self.instrument_button.setToolTip(
            "Connect to this recording as an instrument (replay): its image is the overview, its pixels are what a probe records"
            if replayable
            else "Open a recorded spectrum image first; a run folder or a single spectrum cannot be played back"
        )
        self.file_label.setText("" if source is None else f"{source.path.name} · {source.count} spectra")
        self.file_label.setToolTip("" if source is None else str(source.path))
        self.file_label.setVisible(source is not None)

    def _dataset_added(self, dataset: Any) -> None:
        self.show_file(dataset.path)

    def _connected(self, info: Any) -> None:
        self.say("info", f"Connected to {info.name}.")

    # ------------------------------------------------------------------------------------------- under the cursor

    def _mouse_moved(self, event: Any) -> None:
        self._cursor_place = tuple(float(p) for p in event.position)

    def _follow_cursor(self) -> None:
        place, self._cursor_place = self._cursor_place, None
        if place is None or self.mode.currentText() != CURSOR or self.viewer is None:
            return
        for layer in reversed(self.viewer.layers):
            about = layer.metadata.get("smarttem", {})
            if not layer.visible or about.get("kind") not in {"spectrum_image", "run_overview"} or "path" not in about:
                continue
            path = Path(about["path"])
            pixel = layer.world_to_data(place)[-2:]
            if not all(-0.5 <= p < n - 0.5 for p, n in zip(pixel, layer.data.shape[-2:], strict=True)):
                continue
            source = self._sources.get(path)
            if source is None:
                if path not in self._refused:
                    self._open(path)
                return
            if source.dataset is not None and about.get("dataset", source.dataset) != source.dataset:
                continue
            number = source.number_at((float(pixel[0]), float(pixel[1])), (place[-2], place[-1]))
            if number is not None:
                if source is not self._current:
                    self._show_source(source)
                self._want(source, number)
            return

    def _number_changed(self, number: int) -> None:
        if self._current is not None:
            self._want(self._current, number)

    def _want(self, source: SpectrumSource, number: int) -> None:
        """Show a spectrum of a source; one that must be read is read in the background, the newest wish next."""
        if self._shown == (source.path, number):
            return
        if source.is_quick:
            self._show_number(source, number, source.spectrum(number))
            return
        self._wanted = (source, number)
        self._read_wanted()

    def _read_wanted(self) -> None:
        if self._reading or self._wanted is None:
            return
        (source, number), self._wanted = self._wanted, None
        self._reading = True

        def read(shown: tuple[Frame, str]) -> None:
            self._reading = False
            self._show_number(source, number, shown)
            self._read_wanted()

        def failed(error: BaseException) -> None:
            self._reading = False
            self._refused.add(source.path)
            self.complain(error)

        self.in_background(lambda _cancel: source.spectrum(number), read, failed)

    def _show_number(self, source: SpectrumSource, number: int, shown: tuple[Frame, str]) -> None:
        if source is self._current and self.mode.currentText() == CURSOR:
            self._shown = (source.path, number)
            self.plot.set_spectrum(*shown)

    # -------------------------------------------------------------------------------------------------- of the run

    def _run_started(self, _folder: Any) -> None:
        self._by_target.clear()
        self.mode.setCurrentText(NEWEST)

    def _steps_finished(self, results: list[StepResult]) -> None:
        newest = None
        for result in results:
            for frame in result.frames:
                if len(frame.axes) == 1 and frame.axes[0].units == "eV":
                    name = getattr(result.step, "target_id", None) or result.step.step_id
                    newest = self._by_target[name] = (frame, f"{frame.signal} of {name}")
                    self._by_target.move_to_end(name)
        while len(self._by_target) > _KEPT_SPECTRA:
            self._by_target.popitem(last=False)
        if newest is not None and self.mode.currentText() == NEWEST:
            self.plot.set_spectrum(*newest)

    def _mode_changed(self, mode: str) -> None:
        self._shown = None
        if mode == NEWEST and self._by_target:
            self.plot.set_spectrum(*next(reversed(self._by_target.values())))
        elif mode == SELECTED:
            self._selection_changed(self._targets.selected_ids())

    def _selection_changed(self, target_ids: tuple[str, ...]) -> None:
        if self.mode.currentText() != SELECTED:
            return
        if not target_ids:
            self.plot.set_spectrum(None)
            self.plot.title.setText("Select a target on the canvas.")
            return
        name = target_ids[-1]
        if name in self._by_target:
            self.plot.set_spectrum(*self._by_target[name])
            return
        folder = self.session.run_folder
        if folder is None:
            self._not_measured(name)
            return
        self.in_background(
            lambda _cancel: _spectrum_of_target(folder, name), lambda shown: self._show_target(name, shown)
        )

    def _show_target(self, name: str, shown: tuple[Frame, str] | None) -> None:
        if self.mode.currentText() != SELECTED or self._targets.selected_ids()[-1:] != (name,):
            return
        if shown is None:
            self._not_measured(name)
        else:
            self._by_target[name] = shown
            self.plot.set_spectrum(*shown)

    def _not_measured(self, name: str) -> None:
        self.plot.set_spectrum(None)
        self.plot.title.setText(f"{name} has not been measured.")


def _spectrum_of_target(folder: Path, target_id: str) -> tuple[Frame, str] | None:
    """A target's spectrum from its run folder, None where it has not been measured."""
    from ..schema import BadInput
    from .spectrum_sources import MeasuredTargets

    try:
        source = MeasuredTargets(folder)
    except BadInput:
        return None  # nothing measured yet in this run
    try:
        number = source.number_of(target_id)
        return None if number is None else source.spectrum(number)
    finally:
        source.close()


def _weak_mouse_callback(dock: SpectrumDock) -> Any:
    """A callback for the viewer's list that does not keep the dock alive, and leaves the list once the dock has gone."""
    reference = weakref.ref(dock)

    def moved(viewer: Any, event: Any) -> None:
        from qtpy.compat import isalive

        dock = reference()
        if dock is None or not isalive(dock):
            viewer.mouse_move_callbacks.remove(moved)
        else:
            dock._mouse_moved(event)

    return moved
