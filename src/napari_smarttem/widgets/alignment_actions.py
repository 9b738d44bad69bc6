"""What a person does in the Alignment dock: every click becomes a run of the session, begun without holding up the window."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from ..alignment.proposal import Change, carried, nominal, propose
from ..alignment.settings import OFFSETS_NM
from ..alignment.targets.steering import ControlState
from ..schema import BadInput, PlanSpec, controls_of
from .alignment_record import Entry
from .alignment_targets import IMAGE, LOOP, RONCHIGRAM, SEARCHED_NM, TARGET_LOOP, Alignable
from .base import remember

SEARCH_IMAGES = 25
MEASURE_FIRST = "Measure first"


class AlignmentActions:
    """Mixin of the dock: measure, propose, apply, undo, focus, learn, align."""

    # ------------------------------------------------------------------------------------------------------ clicks

    def measure(self) -> None:
        """Take a picture and read it; where it is looked at a defocus, go there and come back."""
        self._begin("measure", self._look_spec, aims=(self._aim(),), comes_back=self._comes_back())

    def propose(self) -> None:
        """Work out the change of each control from the newest reading, and show it."""
        target = self.target
        entry = self.record.newest(target.name) if target is not None else None
        if target is None or entry is None or not entry.reading.good:
            raise BadInput("There is no good measurement to propose from; measure first.")
        if target.name in self.record.stale:
            raise BadInput("The controls were moved since the last measurement; measure again.")
        guard = self.session.instrument
        self.in_background(
            lambda _: controls_of(guard.optics, target.controls),
            lambda states: self._proposed(target, entry, states),
        )

    def _proposed(self, target: Alignable, entry: Entry, states: Mapping[str, Any]) -> None:
        if target is not self.target:
            return
        changes = self._changes(target, entry, states)
        if not changes:
            self.complain(
                BadInput(
                    "What the controls do is not known yet; press Learn controls, or Auto-align, which learns them first."
                )
            )
            return
        limits = {n: (s["minimum"], s["maximum"], s["largest_step"]) for n, s in states.items()}
        self.proposal.show_changes(changes, limits)
        self._proposed_from = entry
        self.show_page(1)
        self._enable()

    def _changes(self, target: Alignable, entry: Entry, states: Mapping[str, Any]) -> tuple[Change, ...]:
        checked = {name: ControlState.model_validate(state) for name, state in states.items()}
        response = self.record.responses.get(target.name) or nominal(entry.reading, target.controls)
        if not entry.came_back:
            return propose(entry.reading, checked, target.controls, response, entry.aim)
        moved = {name: state.value - entry.controls.get(name, state.value) for name, state in checked.items()}
        return propose(carried(entry.reading, response, moved), checked, target.controls, response)

    def apply(self) -> None:
        """Set what is ticked, and measure again."""
        accepted = self.proposal.accepted()
        if not accepted:
            raise BadInput("Nothing is ticked; tick at least one line, or measure again.")
        verdicts = {
            row.change.control: {
                "now": row.change.now,
                "proposed": row.change.then,
                "verdict": "rejected" if not row.accepted else "edited" if row.edited else "accepted",
                "then": row.then if row.accepted else row.change.now,
            }
            for row in self.proposal.rows()
        }
        target = self._require_target()

        def spec(states: Mapping[str, Any]) -> PlanSpec:
            there = self._to_defocus(target, states)
            back = {name: accepted.get(name, states[name]["value"]) for name in there}
            return target.click(states, values=accepted | there, after=back, proposal=verdicts, **self._camera())

        self._begin("apply", spec, aims=(self._aim(),), comes_back=self._comes_back())

    def reject(self) -> None:
        """Take every tick away."""
        self.proposal.reject_all()

    def undo(self) -> None:
        """Put the controls back to where they were before the last change."""
        self._undo(1)

    def undo_all(self) -> None:
        """Put every control back to where it was before the first change of this instrument."""
        self._undo(len(self.record.undoable(self._require_target().name)))

    def _undo(self, count: int) -> None:
        target = self._require_target()
        moved = self.record.undoable(target.name)[-count:] if count else []
        if not moved:
            raise BadInput("Nothing was changed that could be undone.")
        values: dict[str, float] = {}
        for one in reversed(moved):  # the oldest has the last word
            values.update(one.before)

        def spec(states: Mapping[str, Any]) -> PlanSpec:
            return target.click(states, values=values, look=False)

        self._begin("undo", spec, undoes=count)

    def focus(self) -> None:
        """Bring C1 to where the newest reading says that it is zero."""
        target = self._require_target()
        place = self.record.focus.get(target.name)
        if place is None:
            raise BadInput("Where focus is, is not known yet; measure first.")

        def spec(states: Mapping[str, Any]) -> PlanSpec:
            return target.click(states, values={"C1": _inside(place, states["C1"])}, look=False)

        self._begin("focus", spec)

    def learn(self) -> None:
        """Move each control by a little and back, to see what it does."""
        target = self._require_target()

        def spec(states: Mapping[str, Any]) -> PlanSpec:
            there = self._to_defocus(target, states)
            return target.click(states, values=there, after=_back(there, states), learn=True, **self._camera())

        self._begin("learn controls", spec, aims=(self._aim(),), comes_back=self._comes_back())

    def auto_align(self) -> None:
        """Close the loop: picture, estimate, correction, until it is good, or until it says why it cannot be."""
        target = self._require_target()
        aims = tuple({"C1": offset} for offset in OFFSETS_NM) if target.name == RONCHIGRAM else ()
        self._begin("auto-align", lambda states: self._loop_spec(target, states), aims=aims)

    # ------------------------------------------------------------------------------------------------------- specs

    def _look_spec(self, states: Mapping[str, Any]) -> PlanSpec:
        target = self._require_target()
        there = self._to_defocus(target, states)
        return target.click(states, values=there, after=_back(there, states), **self._camera())

    def _to_defocus(self, target: Alignable, states: Mapping[str, Any]) -> dict[str, float]:
        """Where C1's control is set to look; empty where one looks as it is."""
        if not self._comes_back() or "C1" not in states:
            return {}
        slope = self.record.responses.get(target.name, {}).get("C1", {}).get("C1", 1.0)
        # before the first reading the column is taken to be near focus
        focus = self.record.focus.setdefault(target.name, states["C1"]["value"])
        wanted = _inside(focus + self.settings_box.defocus.number() / slope, states["C1"])
        return {} if abs(wanted - states["C1"]["value"]) < 1e-9 else {"C1": wanted}

    def _camera(self) -> dict[str, Any]:
        box, target = self.settings_box, self._require_target()
        guard = self.session.instrument
        tension = guard.info.high_tension_v if guard is not None else None
        settings: dict[str, Any] = {"exposure_s": box.exposure.number()}
        if target.name == RONCHIGRAM:
            settings["high_tension_v"] = box.kilovolts.number() * 1e3 or tension
            settings["expected_c1_nm"] = box.defocus.number()
        return settings

    def check_settings(self) -> dict[str, Any]:
        """For the check that acquisitions make on their way: how it looks, and what is known of the controls."""
        target = self._require_target()
        known = {"response": self.record.responses.get(target.name), "focus_c1": self.record.focus.get(target.name)}
        if target.name == RONCHIGRAM and target.name in self.record.learned:
            # from where the loop looked last: what C1's control moves besides grows with the way, and is known to there
            known["expected_c1_nm"] = OFFSETS_NM[-1]
        return {
            "target": target.name,
            "target_settings": dict(target.settings),
            "camera": target.camera,
            **self._camera(),
            **{name: value for name, value in known.items() if value is not None},
        }

    def answer(self, action: str) -> None:
        """End of a search: ``"go"`` keeps the best, ``"repropose"`` searches on, ``"finish"`` puts everything back."""
        self.session.review.submit(action)
        self.relay.flush()

    def _loop_spec(self, target: Alignable, states: Mapping[str, Any]) -> PlanSpec:
        if target.name == IMAGE:
            settings = {
                "method": "image-quality",
                "controls": {name: dict(state) for name, state in states.items()},
                "control_names": list(target.controls),
                "search_nm": dict(SEARCHED_NM),
                "frames": SEARCH_IMAGES,
                "exposure_s": self.settings_box.exposure.number(),
                "ask": True,
            }
            return PlanSpec(kind=LOOP, settings=settings)
        response = self._response_matrix(target)
        exposure = self.settings_box.exposure.number()
        if target.name != RONCHIGRAM:
            return PlanSpec(
                kind=TARGET_LOOP,
                settings={
                    "target": target.name,
                    "target_settings": dict(target.settings),
                    "controls": {name: dict(state) for name, state in states.items()},
                    "exposure_s": exposure,
                    "response": response,
                },
            )
        camera = self._camera()
        focus = self.record.focus.get(target.name)
        away = abs(states["C1"]["value"] - focus) if focus is not None and "C1" in states else 0.0
        if away > 0.3 * abs(OFFSETS_NM[0]):
            raise BadInput(f"C1 is set {away:.0f} nm from focus, where the loop starts; press To focus first.")
        return PlanSpec(
            kind=LOOP,
            settings={
                "controls": {name: dict(state) for name, state in states.items()},
                "control_names": list(target.controls),
                "units_known": "C1" in target.controls,
                "exposure_s": exposure,
                "camera": target.camera,
                "high_tension_v": camera["high_tension_v"],
                "wanted_mrad": self.settings_box.wanted.number(),
                "offsets_nm": list(OFFSETS_NM),
                "model": _model(),
                **(self._learned(target) or ({"response": response} if response is not None else {})),
            },
        )

    def _response_matrix(self, target: Alignable) -> list[list[float]] | None:
        """What was learned of the controls, in the order of the loops; None where nothing was."""
        learned = self.record.responses.get(target.name)
        if learned is None or any(name not in learned for name in target.controls):
            return None
        from ..physics.aberrations import ESTIMATED

        names = [name for name, _, _ in target.parameters] or list(ESTIMATED)
        return [[learned[control].get(name, 0.0) for control in target.controls] for name in names]

    def _learned(self, target: Alignable) -> dict[str, Any]:
        """Response and covariance as the last loop left them, where nothing was learned anew since; empty otherwise."""
        learned = self.record.learned.get(target.name)
        if learned is None or learned.controls != tuple(target.controls):
            return {}
        return {"response": learned.response, "response_covariance": learned.covariance}

    def _comes_back(self) -> bool:
        """Whether a look goes to the defocus and back."""
        return self.target is not None and self.target.defocused and self.settings_box.go_to_defocus.isChecked()

    def _aim(self) -> dict[str, float]:
        target = self.target
        return {"C1": self.settings_box.defocus.number()} if target is not None and target.defocused else {}

    # -------------------------------------------------------------------------------------------------------- runs

    def _require_target(self) -> Alignable:
        if self.target is None:
            raise BadInput("There is nothing to align on this instrument.")
        return self.target

    def _begin(
        self,
        words: str,
        make: Callable[[Mapping[str, Any]], PlanSpec],
        *,
        aims: tuple[dict[str, float], ...] = (),
        comes_back: bool = False,
        undoes: int = 0,
    ) -> None:
        """Ask the controls where they are, build the run and start it; all of it off the window's thread."""
        why = self.busy_because()
        target = self.target
        if why or target is None:
            self.complain(BadInput(f"{why or 'There is nothing to align on this instrument'}."))
            return
        guard, session, record = self.session.instrument, self.session, self.record
        budget = guard.dose_budget_e_per_a2
        self._starting = True
        self._enable()
        remember("alignment.settings", self.settings_box.values())

        def work(_: Any) -> None:
            states = controls_of(guard.optics, target.controls)
            spec = make(states)
            present = {name: state["value"] for name, state in states.items()}
            record.begin(words, target.name, present, aims=aims, comes_back=comes_back, undoes=undoes)
            try:
                session.start(spec, dose_budget_e_per_a2=budget)
            except BaseException:
                record.forget_run()
                raise

        self.in_background(work, self._started, self._not_started)

    def _started(self, _: Any) -> None:
        self._starting = False
        self.relay.flush()
        self._enable()

    def _not_started(self, error: BaseException) -> None:
        self._starting = False
        self.bar.reason.setText(str(error) or type(error).__name__)
        self.keep.run_over(False)
        self.complain(error)
        self._enable()


def _back(there: Mapping[str, float], states: Mapping[str, Any]) -> dict[str, float]:
    return {name: states[name]["value"] for name in there}


def _inside(value: float, state: Mapping[str, float]) -> float:
    return min(max(value, state["minimum"]), state["maximum"])


def _model() -> str | None:
    """The network's name where it can be asked; without it the loop searches."""
    from ..alignment.estimator import MODEL
    from ..nn.registry import available

    return MODEL if importlib.util.find_spec("torch") is not None and MODEL in available() else None
