"""Is the optics still good? One picture, a judgement, and, where it is not, a correction after asking or without.

Kind ``alignment-check``: what the engine puts before the images of an acquisition (`schema.KeepGood`). The focus, which a person
sets for the picture at hand, is left alone: a Ronchigram is looked at from a defocus, and C1 goes back to where it was.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Literal

from pydantic import Field

from ..schema import AwaitReview, BadInput, InstrumentFault, Note, Plan, PlanContext, SetOptics, StepResult
from . import reading
from .click import Click, ClickSettings, even_steps, parse
from .proposal import Change, carried, nominal, propose
from .reading import Reading
from .targets.steering import ControlState

FOCUS = "C1"


class CheckSettings(ClickSettings):
    """Settings of the plan, beside those of a click.

    Parameters
    ----------
    mode : {"ask", "correct"}
        Where it is not good any more: show what would be corrected and wait, or do it.
    units : dict of str to str
        Of the controls.
    response : dict, optional
        Control -> misalignment -> change per unit, as it was learned; None takes a control that bears the name and units of an
        aberration at its word.
    focus_c1 : float, optional
        Value of the control C1 at which C1 is zero; None: the column is taken to be in focus.
    """

    mode: Literal["ask", "correct"] = "ask"
    units: dict[str, str] = Field(default_factory=dict)
    response: dict[str, dict[str, float]] | None = None
    focus_c1: float | None = None


def build(settings: Mapping[str, Any], context: PlanContext) -> Plan:
    """The plan; `BadInput` at once where the settings cannot be used."""
    checked = parse(CheckSettings, settings)
    check = _Check(
        checked,
        reading.reader(checked.target, checked.target_settings, checked.high_tension_v, checked.expected_c1_nm),
    )
    check.there()
    return check.steps()


class _Check(Click):
    def __init__(self, settings: CheckSettings, read: reading.Reader) -> None:
        super().__init__(settings, read)
        self.settings: CheckSettings = settings
        self.before = {name: state.value for name, state in settings.controls.items()}
        self.at = dict(self.before)

    def there(self) -> dict[str, float]:
        """Where C1's control is set to look; nothing for a target that is looked at as it is."""
        settings = self.settings
        if settings.target != reading.RONCHIGRAM:
            return {}
        state = settings.controls.get(FOCUS)
        if state is None:
            raise BadInput("a check on Ronchigrams needs a control of C1 to defocus with; the instrument offers none.")
        slope = (settings.response or {}).get(FOCUS, {}).get(FOCUS, 1.0)
        focus = state.value if settings.focus_c1 is None else settings.focus_c1
        wanted = focus + settings.expected_c1_nm / slope
        if not state.minimum <= wanted <= state.maximum:
            raise BadInput(
                f"a check looks from C1 = {wanted:g}, outside {state.minimum:g} to {state.maximum:g}; "
                "look from a smaller defocus."
            )
        return {FOCUS: wanted}

    def _facts(self) -> dict[str, Any]:
        settings = self.settings
        aim = {FOCUS: settings.expected_c1_nm} if settings.target == reading.RONCHIGRAM else {}
        return {"target": settings.target, "controls": dict(self.at), "aim": aim}

    def steps(self) -> Generator[Any, StepResult, dict[str, Any]]:
        """All of it; the value at the end are the settings that the next check needs anew."""
        there = self.there()
        found, why = None, ""
        try:
            yield from self._to(there)
            found = yield from self._look("reading")
        except InstrumentFault as error:
            why = str(error).rstrip(".")
        # where a control refuses even to go back, the run ends, and the engine puts everything back
        yield from self._to({name: self.before[name] for name in there})
        if found is None or not found.good:
            why = why or (found.verdict if found is not None else "no picture came")
            text = f"The alignment could not be checked: {why}. Nothing was corrected."
            yield Note(step_id="unchecked", level="warning", text=text, data={"target": self.settings.target})
            return self._next()
        yield from self._judge(found, there)
        return self._next()

    def _judge(self, found: Reading, there: Mapping[str, float]) -> Generator[Any, StepResult, None]:
        settings = self.settings
        response = settings.response or nominal(found, settings.units)
        seen = carried(found, response, {name: self.before[name] - value for name, value in there.items()})
        aim = {FOCUS: 0.0} if there else {}
        worst, times = worst_deviation(seen, aim)
        data = {"target": settings.target, "worst": worst, "times_its_limit": times}
        if times <= 1.0:
            yield Note(step_id="checked", text="The alignment was checked and is still good.", data=data)
            return
        controls = {
            name: state.model_copy(update={"value": self.at[name]}) for name, state in settings.controls.items()
        }
        changes = [one for one in propose(seen, controls, settings.units, response) if one.control not in aim]
        text = f"{worst} is {times:.1f} times its limit"
        if not changes:
            text = f"{text}, but what the controls do is not known; learn them first."
            yield Note(step_id="checked", level="warning", text=text, data=data)
            return
        data["proposed"] = {one.control: one.then for one in changes}
        yield Note(step_id="checked", level="warning", text=f"{text}.", data=data)
        wanted = {one.control: one.then for one in changes}
        if settings.mode == "ask":
            wanted = yield from self._ask(f"{text}: {_words(changes)}. Correct, and go on?", wanted)
        if not wanted:
            yield Note(step_id="left", text="Left as it is.", data={"target": settings.target})
            return
        before = {name: self.at[name] for name in wanted}
        yield from self._to(wanted)
        yield Note(
            step_id="corrected",
            text=f"Corrected: {_words([one for one in changes if one.control in wanted])}.",
            data={"target": settings.target, "moved": {"before": before, "after": wanted}},
        )

    def _ask(self, prompt: str, wanted: dict[str, float]) -> Generator[Any, StepResult, dict[str, float]]:
        """What a person leaves of the correction; nothing where the answer is no."""
        result = yield AwaitReview(step_id="ask", targets=(), prompt=prompt)
        outcome = result.review
        if outcome is None or outcome.action != "go":
            return {}
        rejected = outcome.settings.get("reject", [])
        names = rejected if isinstance(rejected, (list, tuple)) else []
        return {name: value for name, value in wanted.items() if name not in names}

    def _to(self, wanted: Mapping[str, float]) -> Generator[Any, StepResult, None]:
        """Set controls, in as many even steps as the longest way needs; what was reached is remembered."""
        for values in even_steps(self.at, wanted, self.settings.controls):
            self.sets += 1
            result = yield SetOptics(step_id=f"set-{self.sets:03d}", values=values)
            if not result.ok:
                raise InstrumentFault(result.reason)
            self.at.update(values)
            self.changed_s, self.resumed = result.finished_s, result.replayed

    def _next(self) -> dict[str, Any]:
        states: dict[str, ControlState] = self.settings.controls
        return {"controls": {name: {**state.model_dump(), "value": self.at[name]} for name, state in states.items()}}


def worst_deviation(found: Reading, aim: Mapping[str, float]) -> tuple[str, float]:
    """The misalignment that is farthest beyond its limit, and how many times; deviations within two sigma count as none.

    What is named in `aim` is left out: a defocus is gone to by a control that lands where it can; focus is found by eye or by the
    loop.
    """
    worst, times = "", 0.0
    for name, value, sigma, limit in zip(found.names, found.values, found.sigma, found.tolerance, strict=False):
        off = abs(value)
        if name not in aim and off > 2 * sigma and off / limit > times:
            worst, times = name, float(off / limit)
    return worst, times


def _words(changes: list[Change]) -> str:
    return ", ".join(f"{one.control} {one.now:.4g} -> {one.then:.4g} {one.units}".rstrip() for one in changes)
