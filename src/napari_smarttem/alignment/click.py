"""One click of an alignment as a plan: perhaps set some controls, then look, and say what is seen.

Kind ``alignment-click``. A click is a run of its own, so that a person may do something else between two of them, and so that a
click that fails puts the controls back to where they were before it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..schema import BadInput, Frame, InstrumentFault, Note, Plan, PlanContext, SetOptics, StepResult, TakeImage
from . import reading
from .targets.steering import ControlState

TRIES = 3
Settings = TypeVar("Settings", bound=BaseModel)
LEARNING_STEP = 0.1
"""Of the largest step: what a control is moved by to see what it does."""


class ClickSettings(BaseModel):
    """Settings of the plan.

    Parameters
    ----------
    target : str
        ``"ronchigram"``, or the name of an installed alignment target.
    target_settings : dict
        For its builder.
    controls : dict of str to ControlState
        Present values and limits of the controls that may be moved.
    values : dict of str to float
        Where the controls are set first; absolute. A way longer than the largest step is gone in several.
    after : dict of str to float
        Where they are set once the picture is taken, such as back to focus; absolute.
    look : bool
        Take and read a picture afterwards.
    learn : bool
        Move each control by a little, look, and move it back: what it does becomes the note ``response``.
    camera : str, optional
    exposure_s : float
    high_tension_v : float, optional
        Where the frames do not say it.
    expected_c1_nm : float
        About where C1 is when it is looked.
    place_nm : (float, float), optional
        Where the probe is put to look, (y, x), such as an amorphous area; None leaves it where it is.
    proposal : dict
        What was proposed and what a person made of it, for the record.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    target: str = reading.RONCHIGRAM
    target_settings: dict[str, Any] = Field(default_factory=dict)
    controls: dict[str, ControlState] = Field(default_factory=dict)
    values: dict[str, float] = Field(default_factory=dict)
    after: dict[str, float] = Field(default_factory=dict)
    look: bool = True
    learn: bool = False
    camera: str | None = None
    exposure_s: float = Field(default=0.5, gt=0)
    high_tension_v: float | None = Field(default=None, gt=0)
    expected_c1_nm: float = -1500.0
    place_nm: tuple[float, float] | None = None
    proposal: dict[str, Any] = Field(default_factory=dict)


def build(settings: Mapping[str, Any], context: PlanContext) -> Plan:
    """The plan; `BadInput` at once where the settings cannot be used."""
    checked = parse(ClickSettings, settings)
    for name, value in (*checked.values.items(), *checked.after.items()):
        state = checked.controls.get(name)
        if state is None:
            raise BadInput(f"{name} cannot be set: its present value and limits are not among the settings.")
        if not state.minimum <= value <= state.maximum:
            raise BadInput(f"{name} = {value:g} is outside {state.minimum:g} to {state.maximum:g}; nothing was moved.")
    read = (
        reading.reader(checked.target, checked.target_settings, checked.high_tension_v, checked.expected_c1_nm)
        if checked.look or checked.learn
        else None
    )
    return Click(checked, read).steps()


def parse(kind: type[Settings], settings: Mapping[str, Any]) -> Settings:
    """Checked settings; `BadInput` in one sentence where they cannot be used."""
    try:
        return kind.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"the alignment's setting {place}: {first['msg']}.") from error


class Click:
    """Controls set and pictures read, in the words of one run.

    Parameters
    ----------
    settings : ClickSettings
    read : Reader or None
        None where nothing is looked at.
    """

    def __init__(self, settings: ClickSettings, read: reading.Reader | None) -> None:
        self.settings = settings
        self.read = read
        self.changed_s = -np.inf
        self.resumed = False  # the last change is read from a journal: the clock may be another one
        self.sets = self.looks = 0

    def steps(self) -> Generator[Any, StepResult, Any]:
        """All of it."""
        settings = self.settings
        if settings.values:
            present = {name: settings.controls[name].value for name in settings.values}
            yield from self._go(present, settings.values)
        if settings.learn:
            yield from self._learn()
        elif settings.look:
            yield from self._look("reading")
        if settings.after:
            there = {name: settings.values.get(name, settings.controls[name].value) for name in settings.after}
            yield from self._go(there, settings.after)

    # -- controls

    def _go(self, present: Mapping[str, float], wanted: Mapping[str, float]) -> Generator[Any, StepResult, None]:
        """All controls together, in as many even steps as the longest way needs."""
        for values in even_steps(present, wanted, self.settings.controls) or [{n: float(v) for n, v in wanted.items()}]:
            self.sets += 1
            result = yield SetOptics(step_id=f"set-{self.sets:03d}", values=values)
            if not result.ok:
                raise InstrumentFault(result.reason)
            self.changed_s, self.resumed = result.finished_s, result.replayed

    def _learn(self) -> Generator[Any, StepResult, None]:
        controls = self.settings.controls
        before = yield from self._look("before", must=True)
        assert before is not None
        response: dict[str, dict[str, float]] = {}
        for name, state in controls.items():
            now = self.settings.values.get(name, state.value)
            step = LEARNING_STEP * state.largest_step
            step = step if now + step <= state.maximum else -step
            yield from self._go({name: now}, {name: now + step})
            after = yield from self._look(f"with-{name}", must=True)
            assert after is not None
            yield from self._go({name: now + step}, {name: now})
            change = (np.asarray(after.values) - np.asarray(before.values)) / step
            # what is within three standard errors of nothing is taken for nothing
            error = np.sqrt(after.sigma**2 + before.sigma**2) / abs(step)
            response[name] = {
                what: float(slope)
                for what, slope, unsure in zip(before.names, change, error, strict=True)
                if abs(slope) > 3 * unsure
            }
        idle = [name for name, seen in response.items() if not seen]
        text = f"{len(response) - len(idle)} of {len(response)} controls are understood."
        text += f" Nothing was seen of {', '.join(idle)}." if idle else ""
        yield Note(
            step_id="response",
            text=text,
            level="warning" if idle else "info",
            data={"response": {name: dict(seen) for name, seen in response.items() if seen}},
        )

    # -- pictures

    def _look(self, name: str, *, must: bool = False) -> Generator[Any, StepResult, reading.Reading | None]:
        """A picture whose exposure began after the last change, read and reported."""
        frame = yield from self._fresh_frame(name)
        assert self.read is not None
        found = self.read(frame)
        if must and not found.good:
            raise BadInput(f"The picture {name} could not be read: {found.verdict}. Every control goes back.")
        yield Note(
            step_id=name,
            text=found.words(),
            level="info" if found.good else "warning",
            data={"reading": found.model_dump(mode="json"), **self._facts()},
        )
        return found

    def _facts(self) -> dict[str, Any]:
        """What else the record of a reading should say."""
        return {}

    def _fresh_frame(self, name: str) -> Generator[Any, StepResult, Frame]:
        for attempt in range(TRIES):
            self.looks += 1
            result = yield self._picture(f"picture-{name}-{attempt}")
            if not result.ok or not result.frames:
                raise InstrumentFault(result.reason or "The camera gave no picture.")
            frame = result.frames[0]
            began = frame.metadata.get("exposure_started_s", result.started_s)
            fresh = isinstance(began, (int, float)) and began >= self.changed_s
            if fresh or (self.resumed and not result.replayed):
                return frame
        raise InstrumentFault(
            f"{TRIES} pictures in a row began before the optics had settled; check the camera's clock."
        )

    def _picture(self, name: str) -> TakeImage:
        y_nm, x_nm = self.settings.place_nm or (None, None)
        return TakeImage(
            step_id=name, exposure_s=self.settings.exposure_s, camera=self.settings.camera, y_nm=y_nm, x_nm=x_nm
        )


def even_steps(
    present: Mapping[str, float], wanted: Mapping[str, float], limits: Mapping[str, ControlState]
) -> list[dict[str, float]]:
    """Settings on the way from `present` to `wanted`, in as many even steps as the longest way needs; none where all is there."""
    longest = max((abs(wanted[name] - present[name]) / limits[name].largest_step for name in wanted), default=0.0)
    count = int(np.ceil(longest - 1e-9))
    on_the_way = [
        {name: float(present[name] + (value - present[name]) * step / count) for name, value in wanted.items()}
        for step in range(1, count)
    ]
    return [*on_the_way, {name: float(value) for name, value in wanted.items()}] if count else []
