"""A recorded spectrum image as an instrument: its overview is what was recorded, its spectrum that of the pixel.

Nothing is invented. An exposure shorter than the recorded one is thinned as counting statistics thins it; a longer one
is refused. Survey images and summed counts are played back as they were recorded, whatever dwell time is asked for.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import (
    BadInput,
    Cancelled,
    Field2D,
    Frame,
    InstrumentFault,
    InstrumentInfo,
    LimitExceeded,
    PlanContext,
    image_frame,
)
from .base import Blanker, Camera, CancelToken, Optics, Scanner, Spectrometer, Stage
from .playback import PlaybackClock, thin
from .recording import Recording, open_recording


def connect(
    file: str,
    *,
    dataset: int | str | None = None,
    survey: str | None = None,
    exposure_s: float | None = None,
    beam_current_pa: float | None = None,
    counts_per_unit: float = 1.0,
    speed: float | None = None,
    drift_nm_per_s: tuple[float, float] = (0.0, 0.0),
    seed: int = 0,
    lazy: bool | None = None,
) -> Replay:
    """A recorded spectrum image (EELS or EDS: .hspy .zspy .dm3 .dm4 .emd .bcf) played back as an instrument.

    Parameters
    ----------
    file : str
        The recording.
    dataset : int, str or None
        Number or title of the spectrum image where the file holds several; None takes the largest.
    survey : str or None
        Another file with an image of the same field, used as the overview.
    exposure_s : float or None
        Exposure of one recorded spectrum, where the file does not say or is wrong.
    beam_current_pa : float or None
        Beam current, where the file does not say; needed for doses.
    counts_per_unit : float
        Detected counts one stored unit stands for (1 / gain); sets how noisy a thinned spectrum is.
    speed : float or None
        1 is real time; None plays back as fast as possible.
    drift_nm_per_s : (float, float)
        Synthetic drift (dy, dx) of the specimen, for trying out drift correction.
    seed : int
        Of the thinning.
    lazy : bool or None
        True reads pixel by pixel from disk, False loads the file, None decides by its size.

    Raises
    ------
    BadInput
        The file cannot be read or holds no spectrum image, or a setting makes no sense; one sentence.
    """
    for name, value in (("exposure_s", exposure_s), ("beam_current_pa", beam_current_pa)):
        if value is not None and not _positive(value):
            raise BadInput(f"{name} must be a number above 0, got {value!r}.")
    if not _positive(counts_per_unit):
        raise BadInput(f"counts_per_unit must be a number above 0, got {counts_per_unit!r}.")
    try:
        drift = (float(drift_nm_per_s[0]), float(drift_nm_per_s[1]))
    except (TypeError, ValueError, IndexError):
        raise BadInput(f"drift_nm_per_s must be two numbers (dy, dx) in nm/s, got {drift_nm_per_s!r}.") from None
    if not all(map(math.isfinite, drift)):
        raise BadInput(f"drift_nm_per_s must be finite, got {drift_nm_per_s!r}.")
    clock = PlaybackClock(speed)
    path = Path(file).expanduser().absolute()
    recording = open_recording(
        path,
        dataset=dataset,
        survey=None if survey is None else Path(survey).expanduser().absolute(),
        exposure_s=exposure_s,
        lazy=lazy,
    )
    settings: dict[str, Any] = {
        "file": str(path),
        "dataset": recording.spectra.metadata.get("dataset", 0),
        "survey": None if survey is None else str(Path(survey).expanduser().absolute()),
        "exposure_s": exposure_s,
        "beam_current_pa": beam_current_pa,
        "counts_per_unit": counts_per_unit,
        "speed": clock.speed,
        "drift_nm_per_s": list(drift),
        "seed": seed,
        "lazy": lazy,
    }
    return Replay(recording, clock, settings)


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


class Replay:
    """The instrument; see `connect`."""

    def __init__(self, recording: Recording, clock: PlaybackClock, settings: dict[str, Any]) -> None:
        self.recording: Recording | None = recording
        self.clock = clock
        facts = recording.spectra.metadata
        stated = facts.get("beam_current_pa")
        self._current: float | None = settings["beam_current_pa"] or (float(stated) if _positive(stated) else None)  # type: ignore[arg-type]
        tension = facts.get("high_tension_v")
        simulated = bool(facts.get("simulated", False))  # a recording of a simulation stays a simulation
        self.info = InstrumentInfo(
            backend="replay",
            name=f"{'SIMULATED recording' if simulated else 'Recording'} {recording.path.name}",
            simulated=simulated,
            high_tension_v=float(tension) if _positive(tension) else None,  # type: ignore[arg-type]
            capabilities=("scanner", "spectrometer"),
            settings=settings,
            details={
                "recorded": True,
                "file": recording.path.name,
                "title": facts.get("title", ""),
                "microscope": facts.get("microscope", ""),
                "date": facts.get("date", ""),
                "recorded_shape": list(recording.spectra.shape),
                "recorded_exposure_s": recording.exposure_s,
                "assumptions": list(recording.assumptions),
            },
        )
        self.drift_nm_per_s: tuple[float, float] = (settings["drift_nm_per_s"][0], settings["drift_nm_per_s"][1])
        self.scanner: Scanner | None = RecordedScanner(self)
        self.spectrometer: Spectrometer | None = RecordedSpectrometer(
            self, settings["seed"], settings["counts_per_unit"]
        )
        self.camera: Camera | None = None
        self.optics: Optics | None = None
        self.stage: Stage | None = None
        self.blanker: Blanker | None = None
        self._context = PlanContext(
            field=recording.field,
            signals=tuple(recording.images),
            beam_current_pa=self._current,
            native_shape=recording.grid,
        )

    @property
    def beam_current_pa(self) -> float | None:
        """Beam current in pA: what was given at connection, else what the file says, else None."""
        return self._current

    def now_s(self) -> float:
        """Virtual time of the playback."""
        return self.clock.now_s()

    def plan_context(self) -> PlanContext:
        """Field and signals; moving and reading out take no time in a recording."""
        return self._context

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        self.recording = None

    def opened(self) -> Recording:
        """The recording; `InstrumentFault` once it was closed."""
        if self.recording is None:
            raise InstrumentFault(f"{self.info.name} was disconnected; connect to it again.")
        return self.recording

    def drift_nm(self, at_s: Any) -> tuple[Any, Any]:
        """How far the specimen has moved (dy, dx) at a time or at an array of times, in nm."""
        return self.drift_nm_per_s[0] * at_s, self.drift_nm_per_s[1] * at_s

    def stamps(self, started_s: float, exposure_s: float) -> dict[str, Any]:
        """Metadata that every frame carries."""
        recording = self.opened()
        dy, dx = self.drift_nm((started_s + self.now_s()) / 2)
        return {
            "exposure_started_s": started_s,
            "exposure_finished_s": self.now_s(),
            "exposure_s": exposure_s,
            "beam_current_pa": self._current,
            "high_tension_v": self.info.high_tension_v,
            "simulated": self.info.simulated,
            "recorded": {
                "file": recording.path.name,
                "dataset": recording.spectra.metadata.get("dataset", 0),
                "exposure_s": recording.exposure_s,
            },
            "assumptions": list(recording.assumptions),
            "truth": {"drift_nm": [dy, dx]},
        }


class RecordedScanner:
    """Plays survey images and summed counts back."""

    def __init__(self, owner: Replay) -> None:
        self._owner = owner
        recording = owner.opened()
        self.signals: tuple[str, ...] = tuple(recording.images)
        self.field: Field2D = recording.field
        self.native_shape: tuple[int, int] | None = recording.grid
        self.probe_position_nm: tuple[float, float] | None = None

    def scan(
        self, *, field: Field2D, shape: tuple[int, int], dwell_s: float, signals: tuple[str, ...], cancel: CancelToken
    ) -> tuple[Frame, ...]:
        """The recorded pixels nearest to those asked for; see `Scanner.scan`."""
        recording = self._owner.opened()
        self.probe_position_nm = None
        names = tuple(signals) or self.signals[:1]
        unknown = [name for name in names if name not in self.signals]
        if unknown:
            raise BadInput(f"The recording has no {', '.join(unknown)}; it has {', '.join(self.signals)}.")
        rows, columns = shape
        if rows < 1 or columns < 1:
            raise BadInput(f"A scan needs at least 1 x 1 pixels, got {rows} x {columns}.")
        if not (math.isfinite(dwell_s) and dwell_s > 0):
            raise BadInput(f"The dwell time must be above 0 s, got {dwell_s}.")
        for y, x in ((field.y_nm, field.x_nm), (field.y_nm + field.height_nm, field.x_nm + field.width_nm)):
            _check_inside(self.field, y, x)
        started = self._owner.now_s()
        line_s = columns * dwell_s
        passed = self._owner.clock.run(rows * line_s, cancel)
        if cancel.is_set():
            raise Cancelled(f"The scan was stopped after {int(passed / line_s)} of {rows} lines.")
        pixel = (field.height_nm / rows, field.width_nm / columns)
        ys = field.y_nm + (np.arange(rows) + 0.5) * pixel[0]
        xs = field.x_nm + (np.arange(columns) + 0.5) * pixel[1]
        # Each line is scanned at its own time: drift shears the image, as it does on a microscope.
        dy, dx = self._owner.drift_nm(started + (np.arange(rows) + 0.5) * line_s)
        metadata = self._owner.stamps(started, line_s * rows) | {"dwell_s": dwell_s, "as_recorded": True}
        frames = []
        for name in names:
            image = recording.image(name)
            i = _nearest(ys - dy, self.field.y_nm, self.field.height_nm, image.shape[0])
            j = _nearest(xs[None, :] - dx[:, None], self.field.x_nm, self.field.width_nm, image.shape[1])
            origin = (float(ys[0]), float(xs[0]))
            frames.append(
                image_frame(image[i[:, None], j], pixel_nm=pixel, origin_nm=origin, signal=name, metadata=metadata)
            )
        return tuple(frames)

    def move_probe(self, y_nm: float, x_nm: float) -> None:
        """Choose the place whose spectrum is asked for next."""
        self._owner.opened()
        _check_inside(self.field, y_nm, x_nm)
        self.probe_position_nm = (float(y_nm), float(x_nm))

    def park_probe(self) -> None:
        """Choose no place."""
        self.probe_position_nm = None


class RecordedSpectrometer:
    """Gives the recorded spectrum of the pixel under the probe, thinned to the exposure asked for."""

    def __init__(self, owner: Replay, seed: int, counts_per_unit: float) -> None:
        self._owner = owner
        self._seed, self._counts_per_unit = seed, counts_per_unit
        self._visits: dict[tuple[int, int], int] = {}
        self._lock = threading.Lock()
        recording = owner.opened()
        axis = recording.spectra.axes[-1]
        self._axis = axis
        self.signal: str = recording.spectra.signal
        self.channels: int = recording.spectra.shape[-1]
        self.energy_offset_ev: float = axis.offset
        self.dispersion_ev: float = axis.scale
        self.dispersions_ev: tuple[float, ...] = (axis.scale,)
        self.energy_offset_range_ev: tuple[float, float] = (axis.offset, axis.offset)
        self.exposure_range_s: tuple[float, float] = (0.0, recording.exposure_s * (1 + 1e-6))
        """What a guard refuses before anything moves."""

    def set_energy_offset_ev(self, value: float) -> None:
        """Refused, unless it is what was recorded."""
        if not math.isclose(value, self.energy_offset_ev, rel_tol=1e-9, abs_tol=1e-9):
            raise LimitExceeded(f"The recording begins at {self.energy_offset_ev:g} eV; another offset cannot be set.")

    def set_dispersion_ev(self, value: float) -> None:
        """Refused, unless it is what was recorded."""
        if not math.isclose(value, self.dispersion_ev, rel_tol=1e-9):
            raise LimitExceeded(f"The recording has {self.dispersion_ev:g} eV/channel; another cannot be set.")

    def acquire_spectrum(self, exposure_s: float, cancel: CancelToken) -> Frame:
        """The spectrum under the probe; see `Spectrometer.acquire_spectrum`.

        Raises
        ------
        LimitExceeded
            A longer exposure than the recorded one.
        InstrumentFault
            The probe is parked (permanent), or nothing was measured at this pixel (transient: another point may do).
        """
        recording = self._owner.opened()
        assert self._owner.scanner is not None
        position = self._owner.scanner.probe_position_nm
        if position is None:
            raise InstrumentFault("The probe is parked, so there is no spectrum to record; move it to a place first.")
        if not (math.isfinite(exposure_s) and exposure_s > 0):
            raise BadInput(f"The exposure must be above 0 s, got {exposure_s}.")
        fraction = exposure_s / recording.exposure_s
        if fraction > 1 + 1e-6:
            raise LimitExceeded(
                f"An exposure of {exposure_s:g} s is longer than the {recording.exposure_s:g} s this recording holds "
                f"for each spectrum; ask for {recording.exposure_s:g} s at most."
            )
        started = self._owner.now_s()
        passed = self._owner.clock.run(exposure_s, cancel)
        if cancel.is_set():
            raise Cancelled(f"The exposure was stopped after {passed:.3g} of {exposure_s:.3g} s.")
        dy, dx = self._owner.drift_nm((started + self._owner.now_s()) / 2)
        field, (rows, columns) = recording.field, recording.grid
        row = int(_nearest(np.array(position[0] - dy), field.y_nm, field.height_nm, rows))
        column = int(_nearest(np.array(position[1] - dx), field.x_nm, field.width_nm, columns))
        recorded = recording.spectrum(row, column)
        if recorded.dtype.kind in "fc" and not np.isfinite(recorded).all():
            raise InstrumentFault(
                f"The recording holds no spectrum at row {row}, column {column} (values that are not finite).",
                transient=True,
            )
        with self._lock:
            visit = self._visits[row, column] = self._visits.get((row, column), -1) + 1
        # Seeded by place and visit, not by order: a resumed run gets the same spectra as an undisturbed one.
        rng = np.random.default_rng((self._seed, row, column, visit))
        metadata = self._owner.stamps(started, exposure_s) | {
            "pixel": [row, column],
            "y_nm": position[0],
            "x_nm": position[1],
        }
        return Frame(
            data=thin(recorded, min(fraction, 1.0), rng, counts_per_unit=self._counts_per_unit),
            axes=(self._axis,),
            signal=self.signal,
            quantity=recording.spectra.quantity,
            metadata=metadata,
        )


def _nearest(positions: np.ndarray, edge: float, extent: float, size: int) -> np.ndarray:
    """Index of the recorded pixel at each position; drift beyond the edge stays on the last pixel."""
    return np.clip(np.floor((positions - edge) / extent * size + 1e-9), 0, size - 1).astype(np.int64)


def _check_inside(field: Field2D, y_nm: float, x_nm: float) -> None:
    slack = 1e-6
    if not (
        field.y_nm - slack <= y_nm <= field.y_nm + field.height_nm + slack
        and field.x_nm - slack <= x_nm <= field.x_nm + field.width_nm + slack
    ):
        raise LimitExceeded(
            f"(y {y_nm:.4g}, x {x_nm:.4g}) nm lies outside the recorded field, y {field.y_nm:.4g} to "
            f"{field.y_nm + field.height_nm:.4g} and x {field.x_nm:.4g} to {field.x_nm + field.width_nm:.4g} nm."
        )
