"""What is known of the alignments of one viewer: readings, what was changed, how to take it back. Outlives the dock."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from ..alignment.reading import Reading, after_correction_mrad, tolerances
from ..engine.keep_good import PREFIX
from ..schema import Frame, StepResult
from .base import Relay, session_for
from .layers import unwrapped

FROM_WHERE_IT_LOOKED = frozenset({"measure", "apply"})
LEARNING_ENDS = frozenset({"aligned", "out of frames"})
"""Ends of a loop whose last word on the controls the next one may begin with."""


@dataclass(frozen=True)
class Entry:
    """A reading with where and when it was made.

    Attributes
    ----------
    target : str
    reading : Reading
    controls : dict of str to float
        As they stood.
    aim : dict of str to float
        Where a misalignment was meant to be, such as the defocus that was gone to; zero where nothing is said.
    came_back : bool
        Whether the controls went back to where they were once the picture was taken.
    at : str
        Wall-clock time.
    """

    target: str
    reading: Reading
    controls: dict[str, float]
    aim: dict[str, float] = field(default_factory=dict)
    came_back: bool = False
    at: str = field(default_factory=lambda: f"{datetime.now():%H:%M:%S}")


@dataclass(frozen=True)
class Moved:
    """A change of controls that a run has made: what it was, and the values before and after."""

    words: str
    target: str
    before: dict[str, float]
    after: dict[str, float]
    at: str = field(default_factory=lambda: f"{datetime.now():%H:%M:%S}")


@dataclass(frozen=True)
class Learned:
    """What a closed loop learned of the controls: their names, the response (misalignment, control), and its covariance."""

    controls: tuple[str, ...]
    response: Any
    covariance: Any


@dataclass
class Going:
    """The run that goes on now."""

    words: str
    target: str
    before: dict[str, float]
    now: dict[str, float]
    aims: tuple[dict[str, float], ...] = ()
    comes_back: bool = False
    undoes: int = 0
    readings: int = 0
    sets: int = 0


class AlignmentRecord(QObject):
    """Hears the runs that the Alignment dock began, and keeps what they found.

    Attributes
    ----------
    entries : list of Entry
    moved : list of Moved
        What can be undone, the newest last.
    responses : dict of str to dict
        What the controls of a target do, once learned: control -> misalignment -> slope.
    learned : dict of str to Learned
        The same as a closed loop left it, with how sure it is; for the next loop.
    focus : dict of str to float
        Target -> value of its control C1 at which C1 is believed to be zero.
    frames : dict of str to Frame
        The newest picture of each target.
    notes : list of (str, str, str)
        Target, time and words of what runs said besides.
    stale : set of str
        Targets whose controls were moved since the last reading.
    """

    read = Signal(object)
    """An `Entry`, or None where what is known of the controls has changed."""
    ended = Signal(str, str)
    """Outcome (``finished``, ``stopped``, ``failed``) and reason of a run that was begun here."""
    noted = Signal(str, str, str)
    """Level and text of what a run says besides, and the verdict where it is the end of a loop."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.entries: list[Entry] = []
        self.moved: list[Moved] = []
        self.notes: list[tuple[str, str, str]] = []
        self.responses: dict[str, dict[str, dict[str, float]]] = {}
        self.learned: dict[str, Learned] = {}
        self._in_check: list[Moved] = []
        self._check_frame: Frame | None = None
        self.focus: dict[str, float] = {}
        self.frames: dict[str, Frame] = {}
        self.stale: set[str] = set()
        self.going: Going | None = None
        self._relay = Relay(self)
        self._relay.listen(session.step_finished, self._steps_finished, every=True)
        self._relay.listen(session.status_changed, self._status_changed)
        self._relay.listen(session.instrument_changed, self._instrument_changed)

    # ------------------------------------------------------------------------------------------------- for the dock

    def begin(
        self,
        words: str,
        target: str,
        controls: Mapping[str, float],
        *,
        aims: tuple[dict[str, float], ...] = (),
        comes_back: bool = False,
        undoes: int = 0,
    ) -> None:
        """A run is about to start.

        Parameters
        ----------
        words : str
            What it is for.
        target : str
        controls : mapping
            Present values.
        aims : tuple of dict
            Where the misalignments are meant to be in each of its readings; the last goes for all that follow.
        comes_back : bool
            Whether it goes to a defocus to look, and back.
        undoes : int
            Number of changes that it takes back.
        """
        self.going = Going(words, target, dict(controls), dict(controls), aims, comes_back, undoes)

    def forget_run(self) -> None:
        """The run did not start."""
        self.going = None

    def newest(self, target: str) -> Entry | None:
        """The last reading of a target."""
        return next((entry for entry in reversed(self.entries) if entry.target == target), None)

    def of(self, target: str) -> list[Entry]:
        """All readings of a target, the oldest first."""
        return [entry for entry in self.entries if entry.target == target]

    def undoable(self, target: str) -> list[Moved]:
        """Changes of a target's controls that can be taken back, the newest last."""
        return [one for one in self.moved if one.target == target]

    # ------------------------------------------------------------------------------------------ what the session says

    def _steps_finished(self, results: list[StepResult]) -> None:
        going = self.going
        for result in results:
            step = result.step
            if going is None:
                if step.step_id.startswith(PREFIX):
                    self._checked(result)
                continue
            if step.kind == "take_image" and result.frames:
                self.frames[going.target] = result.frames[0]
            elif step.kind == "set_optics" and result.ok:
                self.stale.add(going.target)
                going.now.update({name: float(value) for name, value in step.values.items()})
                going.sets += 1
            elif step.kind == "note":
                self._noted(going, step)

    def _checked(self, result: StepResult) -> None:
        """A step of a check that an acquisition makes on its way."""
        step = result.step
        if step.kind == "take_image" and result.frames:
            self._check_frame = result.frames[0]
        if step.kind != "note" or "target" not in step.data:
            return
        target, found = str(step.data["target"]), reading_of(step.data)
        if found is not None:
            controls, aim = (dict(step.data.get(name) or {}) for name in ("controls", "aim"))
            entry = Entry(target, found, controls, aim, came_back=True)
            self.entries.append(entry)
            self.stale.discard(target)
            if self._check_frame is not None:
                self.frames[target] = self._check_frame
            self.read.emit(entry)
            return
        moved = step.data.get("moved")
        if isinstance(moved, Mapping):
            one = Moved("keep it good", target, dict(moved["before"]), dict(moved["after"]))
            self.moved.append(one)
            self._in_check.append(one)
            self.stale.add(target)
        self.notes.append((target, f"{datetime.now():%H:%M:%S}", step.text))
        self.noted.emit(step.level, step.text, "")

    def _noted(self, going: Going, step: Any) -> None:
        reading = reading_of(step.data)
        if reading is not None:
            aim = going.aims[min(going.readings, len(going.aims) - 1)] if going.aims else {}
            going.readings += 1
            entry = Entry(going.target, reading, dict(going.now), dict(aim), going.comes_back)
            self.entries.append(entry)
            self.stale.discard(going.target)
            if reading.good and "C1" in reading.names and "C1" in going.now:
                slope = self.responses.get(going.target, {}).get("C1", {}).get("C1", 1.0)
                self.focus[going.target] = going.now["C1"] - reading.value("C1") / slope
            self.read.emit(entry)
            return
        learned = response_of(step.data, self.newest(going.target))
        if learned:
            self.responses[going.target] = learned
            self.learned.pop(going.target, None)
            self.read.emit(None)
        if "response_covariance" in step.data and step.data.get("verdict") in LEARNING_ENDS:
            names = tuple(step.data["controls"])
            self.learned[going.target] = Learned(names, step.data["response"], step.data["response_covariance"])
            last = self.newest(going.target)
            slopes = response_of({"response": step.data["response"], "controls": list(names)}, last)
            if slopes:
                # looks from a defocus, and checks on the way of an acquisition, need them to say what is so in focus
                self.responses[going.target] = slopes
                self.read.emit(None)
        newest = self.newest(going.target)
        words = last_words(step, newest.reading.figures.get("high_tension_v") if newest is not None else None)
        self.notes.append((going.target, f"{datetime.now():%H:%M:%S}", words))
        self.noted.emit(step.level, words, str(step.data.get("verdict", "")))

    def _status_changed(self, status: Any) -> None:
        going = self.going
        over = not status.active and str(status.state) in {"finished", "failed"}
        if over and going is None and self._in_check:
            self._relay.flush()
            if status.outcome != "finished":  # the engine has put the optics back to where they were before the run
                self.moved = [one for one in self.moved if one not in self._in_check]
            self._in_check = []
        if going is None or not over:
            return
        self._relay.flush()  # the last steps first
        self.going = None
        if status.outcome == "finished":
            self._keep(going)
        self.ended.emit(status.outcome or str(status.state), status.reason)

    def _keep(self, going: Going) -> None:
        changed = {name for name, value in going.now.items() if value != going.before.get(name)}
        if going.words in FROM_WHERE_IT_LOOKED:
            self.stale.discard(going.target)  # what was set since only leads back from the defocus of the look
        if going.undoes:
            mine = self.undoable(going.target)[-going.undoes :]
            now = f"{datetime.now():%H:%M:%S}"
            self.notes += [
                (one.target, one.at, f"{one.words}: {said_changes(one.before, one.after)}; taken back at {now}")
                for one in mine
            ]
            self.moved = [one for one in self.moved if one not in mine]
        elif changed:
            before = {name: going.before[name] for name in changed if name in going.before}
            self.moved.append(Moved(going.words, going.target, before, {name: going.now[name] for name in changed}))

    def _instrument_changed(self, *_: Any) -> None:
        """Another instrument, or none: nothing that was done to the last one can be taken back on this one."""
        self.entries.clear()
        self.moved.clear()
        self.notes.clear()
        self.responses.clear()
        self.learned.clear()
        self._in_check = []
        self.focus.clear()
        self.frames.clear()
        self.stale.clear()
        self.read.emit(None)


def said_changes(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Values of controls before and after, as the history writes them."""
    return ", ".join(f"{name} {before[name]:.4g} → {value:.4g}" for name, value in after.items() if name in before)


def reading_of(data: Mapping[str, Any]) -> Reading | None:
    """The reading in a note's data: as clicks write it, or as the loops do; None where there is none."""
    if isinstance(data.get("reading"), Mapping):
        return Reading.model_validate(data["reading"])
    if isinstance(data.get("aberrations"), Mapping) and "half_angle_mrad" in data:
        return _measured(data)
    values, sigma = data.get("parameters"), data.get("sigma")
    if not isinstance(values, Mapping) or not isinstance(sigma, Mapping) or "trusted" not in data:
        return None
    names, good = tuple(values), bool(data["trusted"])
    return Reading(
        names=names,
        units=("",) * len(names),
        values=tuple(float(values[name]) for name in names),
        covariance=_diagonal([float(sigma[name]) for name in names]),
        good=good,
        verdict="good" if good else f"the model explains only {float(data.get('explained') or 0):.0%} of the picture",
        figures={key: float(data[key]) for key in ("merit", "explained", "electrons") if data.get(key) is not None},
    )


def _measured(data: Mapping[str, Any]) -> Reading:
    """A measurement of aberrations as `Measurement.as_dict` writes it."""
    rows = data["aberrations"]
    names = tuple(rows)
    good = bool(data.get("good", data["verdict"] == "good")) and bool(names)
    figures = {key: float(data[key]) for key in ("quarter_pi_mrad", "high_tension_v") if data.get(key) is not None}
    sigma = [float(rows[name]["sigma"]) for name in names]
    tension = figures.get("high_tension_v")
    known = good and tension is not None
    if known:
        figures |= expected_angles(sigma, tension, names)
    return Reading(
        names=names,
        units=tuple(str(rows[name].get("units", "")) for name in names),
        values=tuple(float(rows[name]["value"]) for name in names),
        covariance=_diagonal(sigma),
        good=good,
        verdict=str(data["verdict"]),
        tolerance=tolerances(tension, names) if known else (),
        figures=figures,
    )


def expected_angles(sigma: list[float], high_tension_v: float, names: tuple[str, ...]) -> dict[str, float]:
    """The pi/4 angle to expect where nothing but errors of these sizes is left."""
    low, middle, high = after_correction_mrad(np.diag(np.square(sigma)), high_tension_v, names)
    return {"corrected_mrad_16": low, "corrected_mrad": middle, "corrected_mrad_84": high}


def last_words(step: Any, high_tension_v: float | None) -> str:
    """What the note that ends a loop says; an angle is what the errors left over let expect, not what their mean would be."""
    data = step.data
    sigma, verdict = data.get("sigma"), str(data.get("verdict", ""))
    if not verdict or not isinstance(sigma, Mapping) or "quarter_pi_mrad" not in data or high_tension_v is None:
        return str(step.text)
    angles = expected_angles([float(one) for one in sigma.values()], high_tension_v, tuple(sigma))
    return (
        f"{verdict[:1].upper()}{verdict[1:]} after {data.get('frames')} Ronchigrams; the phase should stay under π/4 to "
        f"{angles['corrected_mrad']:.0f} ({angles['corrected_mrad_16']:.0f} to {angles['corrected_mrad_84']:.0f}) mrad."
    )


def _diagonal(sigma: list[float]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, row)) for row in np.diag(np.square(sigma)))


def response_of(data: Mapping[str, Any], newest: Entry | None) -> dict[str, dict[str, float]]:
    """What a note says of the controls: control -> misalignment -> slope; empty where it says nothing."""
    response = data.get("response")
    if isinstance(response, Mapping):
        return {str(name): {str(k): float(v) for k, v in slopes.items()} for name, slopes in response.items()}
    controls = data.get("controls")
    names = data.get("parameters") or (newest.reading.names if newest is not None else ())
    matrix = np.asarray(response if response is not None else [], dtype=float)
    if not isinstance(controls, (list, tuple)) or matrix.shape != (len(names), len(controls)):
        return {}
    return {
        str(control): {str(name): float(matrix[row, column]) for row, name in enumerate(names)}
        for column, control in enumerate(controls)
    }


_records: weakref.WeakKeyDictionary[Any, AlignmentRecord] = weakref.WeakKeyDictionary()


def record_for(viewer: Any) -> AlignmentRecord:
    """The record of a viewer, made at the first call."""
    viewer = unwrapped(viewer)
    if viewer not in _records:
        _records[viewer] = AlignmentRecord(session_for(viewer))
    return _records[viewer]
