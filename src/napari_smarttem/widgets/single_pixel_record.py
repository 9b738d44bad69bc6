"""What is known of a viewer's single-pixel runs: the plate, the run that goes on, those before. Outlives the dock."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from psygnal import Signal as ThreadSignal
from qtpy.QtCore import QObject, Signal

from ..schema import BadInput, StepResult
from ..single_pixel import live
from ..single_pixel.predict import Decoder
from .base import Relay, run_in_background, session_for
from .layers import unwrapped
from .run_plan import plan_of

KIND = "single_pixel"
PLATE_FILE = "plate.npz"


@dataclass
class Imaging:
    """A run as it has been seen so far; arrays are (pixels, pixels)."""

    settings: Mapping[str, Any]
    folder: Path
    at: str = field(default_factory=lambda: f"{datetime.now():%H:%M:%S}")
    pattern: np.ndarray | None = None
    pattern_words: str = ""
    picture: np.ndarray | None = None
    settled: np.ndarray | None = None
    """The picture at the end of the last batch."""
    uncertainty: np.ndarray | None = None
    dose: np.ndarray | None = None
    unheard: int = 0
    """Values measured before those in `signals`: of a run taken up again, they are in its record."""
    signals: list[float] = field(default_factory=list)
    expected: list[float] = field(default_factory=list)
    spent: list[float] = field(default_factory=list)
    """Dose after each batch whose error is known, averaged over the field of view, e/Å²."""
    errors: list[float] = field(default_factory=list)
    """Expected relative error after each batch."""
    patterns: int = 0
    electrons: float = 0.0
    strength: float = 10.0
    misfit: float | None = None
    pixel_nm: float = 0.0
    origin_nm: tuple[float, float] = (0.0, 0.0)
    words: str = ""
    remark: str = ""
    fitted: float | None = None
    """How far the fit of the plate is, 0 to 1; None while none goes on."""
    recorded: int = 0
    """Calibration patterns recorded."""
    over: bool = False

    @property
    def way(self) -> str:
        """How the patterns were made and chosen, in a word or two."""
        generator = str(self.settings.get("generator", "predicted"))
        rule = str(self.settings.get("rule", "information"))
        return {"spot": "raster of the spot", "measured": f"measured, {rule}"}.get(generator, f"predicted, {rule}")


class SinglePixelRecord(QObject):
    """Hears the session's single-pixel runs and the values they tell.

    Attributes
    ----------
    run : Imaging or None
        The present or last run.
    earlier : list of Imaging
        Runs before it that gave a picture, the oldest first.
    calibration : Path or None
        A calibrated plate of this instrument.
    quality : str
        What is known of it, in words.
    vetting : live.Vetting or None
        Patterns put before the person last.
    notes : list of (str, str)
        Level and text.
    """

    changed = Signal()
    """Anything that is shown has changed."""
    noted = Signal(str, str)
    """Level and text of what a run says."""
    ended = Signal(str, str)
    """Outcome and reason."""

    _told = ThreadSignal(object)

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.run: Imaging | None = None
        self.earlier: list[Imaging] = []
        self.calibration: Path | None = None
        self.quality = ""
        self.good = False
        self.vetting: live.Vetting | None = None
        self.notes: list[tuple[str, str]] = []
        self.simulated = False
        self._session = weakref.ref(session)
        self._going = False
        self._newest: Any = None
        session.step_finished.connect(self._step_finished)
        session.step_started.connect(self._step_started)
        self._leave = live.listen(_weakly(self))
        self.destroyed.connect(self._leave)
        self._relay = Relay(self)
        # First: a run taken up in a new window connects its own instrument just before it starts, and both are heard at once.
        self._relay.listen(session.instrument_changed, self._instrument_changed)
        self._relay.listen(session.run_started, self._run_started)
        self._relay.listen(session.step_finished, self._steps_finished, every=True)
        self._relay.listen(self._told, self._values_told, every=True)
        self._relay.listen(session.status_changed, self._status_changed)

    # -------------------------------------------------------------------------------------------- the run's thread

    def _step_finished(self, result: StepResult) -> None:
        self._newest = result.step

    def _step_started(self, step: Any) -> None:
        self._newest = step

    def _hear(self, what: live.Seen | live.Vetting) -> None:
        if isinstance(what, live.Vetting):
            self.vetting = what  # another session's is never asked for: `shown` looks at the step
        elif what.step is self._newest:
            self._told.emit(what)

    # --------------------------------------------------------------------------------------------------- for docks

    def flush(self) -> None:
        """Hear now what is waiting."""
        self._relay.flush()

    def vetted_pattern(self, target_id: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Pattern and the dose it adds (e/Å²) of a target that waits; None where it is not known."""
        session, vetting = self._session(), self.vetting
        if session is None or vetting is None or session.review.step is not vetting.step:
            return None
        if target_id not in vetting.patterns:
            return None
        return vetting.patterns[target_id], vetting.dose_e_per_a2[target_id]

    def use_calibration(self, file: Path) -> None:
        """Take a calibrated plate from a file; `BadInput` where it holds none."""
        decoder = Decoder.load(file)
        self.calibration, self.good = file, True
        self.quality = f"From {file.name}: error {decoder.error:.1%} when it was made."
        self.changed.emit()

    # ------------------------------------------------------------------------------------------ what the session says

    def _run_started(self, folder: Path) -> None:
        spec = plan_of(folder)
        self._going = spec is not None and spec.kind == KIND
        if spec is None or not self._going:
            return
        if self.run is not None and self.run.settled is not None and self.run.folder != folder:
            self.earlier.append(self.run)
        self.run = Imaging(spec.settings, folder)
        self.notes.clear()
        plate = spec.settings.get("calibration_file")
        if self.calibration is None and plate and Path(plate).is_file():
            self.use_calibration(Path(plate))  # taken up in a new window: the next run need not calibrate it again
        self.changed.emit()

    def _steps_finished(self, results: list[StepResult]) -> None:
        if not self._going or self.run is None:
            return
        for result in results:
            step = result.step
            if step.kind == "note":
                self._noted(step)
            elif step.kind == "take_image" and result.frames and result.frames[0].shape[0] > 1:
                self._recorded(self.run, step, result.frames[0])
        self.changed.emit()

    def _recorded(self, run: Imaging, step: Any, frame: Any) -> None:
        run.pattern = np.asarray(frame.data, dtype=float)
        self.simulated = bool(frame.metadata.get("simulated", False))
        if step.step_id.startswith("cal-"):
            run.recorded += 1
            run.pattern_words = f"recorded, {run.recorded} of {run.settings.get('calibration_patterns', 200)}"
        else:
            run.pattern_words = "recorded to check the predictor"

    def _values_told(self, values: list[live.Seen]) -> None:
        run = self.run
        if run is None or not self._going:
            return
        if not run.signals:
            run.unheard = values[0].patterns - 1
        for value in values:
            run.signals.append(value.signal)
            run.expected.append(value.expected)
        last = values[-1]
        if last.patterns > run.patterns:
            run.pattern, run.picture, run.dose = last.pattern, last.picture, last.dose_e_per_a2
            run.pattern_words = f"number {last.patterns}"
        self.changed.emit()

    def _noted(self, step: Any) -> None:
        run, data = self.run, step.data
        assert run is not None
        run.words = step.text
        if "fitted" in data:
            run.fitted = float(data["fitted"])
            return
        if "decoder" in data:
            self._keep_plate(run, data["decoder"])
            return
        if "picture" in data:
            self._settled(run, data, step)
        else:
            self.notes.append((step.level, step.text))
            self.noted.emit(step.level, step.text)
        if step.step_id == "calibrated":
            run.fitted = None
            self.quality, self.good = step.text, step.level == "info"

    def _settled(self, run: Imaging, data: Mapping[str, Any], step: Any) -> None:
        run.picture = run.settled = np.asarray(data["picture"], dtype=float)
        run.uncertainty = np.asarray(data["uncertainty"], dtype=float)
        run.dose = np.asarray(data["dose_e_per_a2"], dtype=float)
        run.patterns = int(data["patterns"])
        if data["expected_error"] is not None:
            run.spent.append(float(data["spent_e_per_a2"]))
            run.errors.append(float(data["expected_error"]))
        run.electrons, run.strength = float(data["electrons"]), float(data["strength"])
        run.misfit = data.get("misfit")
        run.pixel_nm = float(data["pixel_nm"])
        y, x = data["origin_nm"]
        run.origin_nm = (float(y), float(x))
        before, run.remark = run.remark, step.text if step.level == "warning" else ""
        if run.remark and not before:
            self.notes.append(("warning", step.text))
            self.noted.emit("warning", step.text)

    def _keep_plate(self, run: Imaging, mapping: Mapping[str, Any]) -> None:
        """Beside the run's record, as a file that later runs start from."""
        file = run.folder / PLATE_FILE

        def save(_: Any) -> Path:
            Decoder.from_mapping(mapping).save(file)
            return file

        run_in_background(save, self._plate_kept, lambda error: self.noted.emit("error", str(error)), owner=self)

    def _plate_kept(self, file: Path) -> None:
        self.calibration = file
        self.changed.emit()

    def _status_changed(self, status: Any) -> None:
        if status.active or not self._going or str(status.state) not in {"finished", "failed"}:
            return
        self._relay.flush()  # the last steps first
        self._going = False
        if self.run is not None:
            if self.run.fitted is not None:  # stopped while the plate was fitted: what it said of that goes on no more
                self.run.words = ""
            self.run.over, self.run.fitted = True, None
        self.ended.emit(status.outcome or str(status.state), status.reason)
        self.changed.emit()

    def _instrument_changed(self, *_: Any) -> None:
        """Another instrument has another plate."""
        self.calibration, self.quality, self.good = None, "", False
        self.run, self.vetting = None, None
        self.earlier.clear()
        self.notes.clear()
        session = self._session()
        guard = session.instrument if session is not None else None
        self.simulated = bool(guard is not None and guard.info.simulated)
        self.changed.emit()


def _weakly(record: SinglePixelRecord) -> live.Listener:
    """The run's thread must not keep a record alive whose viewer has gone."""
    reference = weakref.ref(record)

    def hear(what: live.Seen | live.Vetting) -> None:
        found = reference()
        if found is not None:
            found._hear(what)

    return hear


def raster_settings(settings: Mapping[str, Any], run: Imaging | None) -> dict[str, Any]:
    """Settings of a raster of the plate's smallest spot with as many electrons as a run has used."""
    if run is None or run.settled is None:
        raise BadInput("There is no picture to compare with; measure one first.")
    exposure = float(run.settings.get("exposure_s", settings["exposure_s"]))
    same = {name: run.settings[name] for name in ("pixels", "seed") if name in run.settings}
    return {**settings, **same, "generator": "spot", "exposure_s": exposure, "patterns": max(16, run.patterns)}


_records: weakref.WeakKeyDictionary[Any, SinglePixelRecord] = weakref.WeakKeyDictionary()


def record_for(viewer: Any) -> SinglePixelRecord:
    """The record of a viewer, made at the first call."""
    viewer = unwrapped(viewer)
    if viewer not in _records:
        _records[viewer] = SinglePixelRecord(session_for(viewer))
        _records[viewer]._instrument_changed()
    return _records[viewer]
