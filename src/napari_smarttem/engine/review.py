"""Proposals before a person: verdicts on single targets, with undo, each written down beside the proposal it judged.

The review is the truth about targets; layers and tables are views of it. It is used from several threads (the person's and the
instrument's) and knows no window. Nobody is told anything with its lock held: a listener may look things up in it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from psygnal import Signal

from ..schema import (
    AwaitReview,
    BadInput,
    Decision,
    Field2D,
    JudgedTarget,
    Proposal,
    ReviewOutcome,
    Target,
    TargetState,
)
from .telling import tell

_VERDICTS = (TargetState.PROPOSED, TargetState.APPROVED, TargetState.REJECTED)
_MEASURED = (TargetState.ACQUIRING, TargetState.DONE, TargetState.FAILED)


@dataclass(frozen=True)
class _Action:
    """One thing a person did: what was, what is. None stands for a target that was not there."""

    before: dict[str, JudgedTarget | None]
    after: dict[str, JudgedTarget | None]


class Review:
    """Targets with their states, in the order they came, and the history of a person's actions.

    Parameters
    ----------
    record : callable or None
        Called with each `Proposal` and `Decision` before anybody is told of it; the journal's place.
    """

    changed = Signal(object)
    """frozenset of the ids of targets added, removed, moved or judged."""
    opened = Signal(object)
    """The `AwaitReview` step that now waits."""
    closed = Signal(object)
    """The `ReviewOutcome`."""

    def __init__(self, record: Callable[[Any], None] | None = None) -> None:
        self.record = record
        self.field: Field2D | None = None
        self._lock = threading.RLock()
        self._targets: dict[str, JudgedTarget] = {}
        self._undo: list[_Action] = []
        self._redo: list[_Action] = []
        self._step: AwaitReview | None = None
        self._is_open = False
        self._outcome: ReviewOutcome | None = None
        self._added = 0

    # -- what there is

    @property
    def is_open(self) -> bool:
        """True while a run waits for `submit`."""
        return self._is_open

    @property
    def step(self) -> AwaitReview | None:
        """The step that waits, or the last one that did."""
        return self._step

    @property
    def outcome(self) -> ReviewOutcome | None:
        """How the last review ended; None while it is open."""
        return self._outcome

    @property
    def can_undo(self) -> bool:
        """True where `undo` would do something."""
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        """True where `redo` would do something."""
        return bool(self._redo)

    def items(self) -> tuple[JudgedTarget, ...]:
        """All targets with their states, in the order they came."""
        with self._lock:
            return tuple(self._targets.values())

    def get(self, target_id: str) -> JudgedTarget:
        """One target; KeyError where there is none of that id."""
        with self._lock:
            return self._targets[target_id]

    def state(self, target_id: str) -> TargetState:
        """State of one target."""
        return self.get(target_id).state

    def is_rejected(self, target_id: str) -> bool:
        """True where a person rejected the target; False for one that is not known."""
        with self._lock:
            judged = self._targets.get(target_id)
            return judged is not None and judged.state is TargetState.REJECTED

    def counts(self) -> dict[TargetState, int]:
        """Number of targets in each state, zeros included."""
        counts = dict.fromkeys(TargetState, 0)
        for judged in self.items():
            counts[judged.state] += 1
        return counts

    # -- what a person does

    def approve(self, target_ids: Iterable[str], who: str = "person") -> None:
        """Approve some targets; those already measured stay as they are."""
        self._judge(target_ids, TargetState.APPROVED, who)

    def reject(self, target_ids: Iterable[str], who: str = "person") -> None:
        """Reject some targets. During a run this is a veto: a rejected target that was not measured yet is skipped."""
        self._judge(target_ids, TargetState.REJECTED, who)

    def reset(self, target_ids: Iterable[str], who: str = "person") -> None:
        """Take verdicts back: the targets are proposals again."""
        self._judge(target_ids, TargetState.PROPOSED, who)

    def move(self, target_id: str, y_nm: float, x_nm: float, who: str = "person") -> None:
        """Put a target elsewhere. Only before it is measured.

        Raises
        ------
        BadInput
            The place is outside the field of view, or the target is being or has been measured.
        """
        with self._lock:
            judged = self.get(target_id)
            if judged.state in _MEASURED:
                raise BadInput(f"Target {target_id} is {judged.state} and stays where it was measured.")
            self._check_place(y_nm, x_nm)
            moved = judged.target.model_copy(update={"y_nm": float(y_nm), "x_nm": float(x_nm)})
            changed = self._act("move", {target_id: JudgedTarget(target=moved, state=judged.state)}, who)
        tell(self.changed, changed)

    def add(
        self, y_nm: float, x_nm: float, label: str = "manual", reason: str = "added by hand", who: str = "person"
    ) -> Target:
        """Add a target; it is approved, since a person put it there.

        Raises
        ------
        BadInput
            The place is outside the field of view.
        """
        with self._lock:
            self._check_place(y_nm, x_nm)
            self._added += 1
            while f"hand-{self._added:04d}" in self._targets:
                self._added += 1
            target = Target(
                target_id=f"hand-{self._added:04d}", y_nm=float(y_nm), x_nm=float(x_nm), label=label, reason=reason
            )
            changed = self._act("add", {target.target_id: JudgedTarget(target=target, state=TargetState.APPROVED)}, who)
        tell(self.changed, changed)
        return target

    def undo(self) -> bool:
        """Take the last action back; False where there is none. A target measured since keeps its state."""
        return self._travel(self._undo, self._redo, "undo")

    def redo(self) -> bool:
        """Do again what was undone last; False where there is nothing."""
        return self._travel(self._redo, self._undo, "redo")

    def submit(self, action: str = "go", settings: Mapping[str, Any] | None = None) -> ReviewOutcome:
        """End the review that waits.

        Parameters
        ----------
        action : {"go", "repropose", "finish"}
            Measure the approved; ask the chooser again with `settings`; or measure nothing more.

        Raises
        ------
        BadInput
            No review waits.
        """
        with self._lock:
            if not self._is_open:
                raise BadInput("No review is waiting; take an overview first.")
            items = self.items()
            outcome = ReviewOutcome.model_validate(
                {
                    "action": action,
                    "approved": tuple(j.target for j in items if j.state is TargetState.APPROVED),
                    "rejected": tuple(j.target for j in items if j.state is TargetState.REJECTED),
                    "settings": dict(settings or {}),
                }
            )
            self._outcome = outcome
            self._is_open = False
        tell(self.closed, outcome)
        return outcome

    # -- what the runner does

    def clear(self, field: Field2D | None = None) -> None:
        """Forget everything: a new run begins, over `field`."""
        with self._lock:
            gone = frozenset(self._targets)
            self._targets.clear()
            self._undo.clear()
            self._redo.clear()
            self._step = None
            self._is_open = False
            self._outcome = None
            self._added = 0
            self.field = field
        if gone:
            tell(self.changed, gone)

    def open(self, step: AwaitReview, decisions: Iterable[Decision] = ()) -> None:
        """Put a step's targets before the person, with the `decisions` a journal holds for it already made.

        Targets that were measured, and those a person added by hand, stay; a target that is proposed again keeps its verdict;
        other old proposals give way to the new ones.
        """
        with self._lock:
            kept = {
                key: judged
                for key, judged in self._targets.items()
                if judged.state in _MEASURED or key.startswith("hand-")
            }
            changed = set(self._targets) | {t.target_id for t in step.targets}
            proposed = {
                t.target_id: JudgedTarget(target=t, state=self._known_verdict(t.target_id)) for t in step.targets
            }
            self._targets = kept | {key: judged for key, judged in proposed.items() if key not in kept}
            self._undo.clear()
            self._redo.clear()
            self._step = step
            self._outcome = None
            resumed = tuple(decisions)
            if not resumed and self.record is not None:
                self.record(Proposal(step_id=step.step_id, targets=step.targets))
            for decision in resumed:
                self._replay(decision)
                changed.update(decision.target_ids)
            self._is_open = True
        tell(self.changed, frozenset(changed))
        tell(self.opened, step)

    def close_replayed(self, step: AwaitReview, outcome: ReviewOutcome, decisions: Iterable[Decision]) -> None:
        """Restore a review that ended before a crash, without asking anybody."""
        self.open(step, tuple(decisions) or (_nothing(step),))
        with self._lock:
            self._outcome = outcome
            self._is_open = False
        tell(self.closed, outcome)

    def abandon(self) -> None:
        """The run stopped while it waited: no outcome, and nothing more to submit."""
        with self._lock:
            self._is_open = False

    def mark(self, target_id: str, state: TargetState) -> None:
        """Say what the run does with a target; not a person's action, so it is neither recorded nor undone."""
        with self._lock:
            judged = self._targets.get(target_id)
            if judged is None or judged.state is state:
                return
            self._targets[target_id] = JudgedTarget(target=judged.target, state=state)
        tell(self.changed, frozenset({target_id}))

    # -- inside

    def _judge(self, target_ids: Iterable[str], state: TargetState, who: str) -> None:
        with self._lock:
            after: dict[str, JudgedTarget | None] = {}
            for target_id in target_ids:
                judged = self._targets[target_id]
                if judged.state in _VERDICTS and judged.state is not state:
                    after[target_id] = JudgedTarget(target=judged.target, state=state)
            changed = self._act("verdict", after, who) if after else None
        if changed is not None:
            tell(self.changed, changed)

    def _act(self, action: str, after: dict[str, JudgedTarget | None], who: str) -> frozenset[str]:
        """Write an action down and carry it out, with the lock held; the ids of the targets that others are to hear of."""
        before = {key: self._targets.get(key) for key in after}
        self._write(action, before, after, who)
        self._undo.append(_Action(before, after))
        self._redo.clear()
        return frozenset(after)

    def _travel(self, source: list[_Action], destination: list[_Action], action: str) -> bool:
        with self._lock:
            if not source:
                return False
            last = source.pop()
            wanted = last.before if action == "undo" else last.after
            # what was measured since cannot be unmeasured
            after = {
                key: value
                for key, value in wanted.items()
                if (now := self._targets.get(key)) is None or now.state in _VERDICTS
            }
            self._write(action, {key: self._targets.get(key) for key in after}, after, "person")
            destination.append(last)
        tell(self.changed, frozenset(after))
        return True

    def _write(
        self, action: str, before: dict[str, JudgedTarget | None], after: dict[str, JudgedTarget | None], who: str
    ) -> None:
        if self.record is not None and self._step is not None:
            self.record(
                Decision.model_construct(
                    version=1,
                    at="",
                    kind="decision",
                    step_id=self._step.step_id,
                    action=action,  # type: ignore[arg-type]
                    target_ids=tuple(after),
                    before=tuple(before.values()),
                    after=tuple(after.values()),
                    who=who,
                )
            )
        self._put(after)

    def _put(self, after: Mapping[str, JudgedTarget | None]) -> None:
        for key, judged in after.items():
            if judged is None:
                self._targets.pop(key, None)
            else:
                self._targets[key] = judged

    def _replay(self, decision: Decision) -> None:
        before = dict(zip(decision.target_ids, decision.before, strict=True))
        after = dict(zip(decision.target_ids, decision.after, strict=True))
        current = {key: self._targets.get(key) for key in after}
        self._put({key: j for key, j in after.items() if (now := current[key]) is None or now.state in _VERDICTS})
        if decision.action == "undo" and self._undo:
            self._redo.append(self._undo.pop())
        elif decision.action == "redo" and self._redo:
            self._undo.append(self._redo.pop())
        elif after:
            self._undo.append(_Action(before, after))
            self._redo.clear()

    def _known_verdict(self, target_id: str) -> TargetState:
        judged = self._targets.get(target_id)
        return TargetState.PROPOSED if judged is None else judged.state

    def _check_place(self, y_nm: float, x_nm: float) -> None:
        if self.field is not None and not self.field.contains(y_nm, x_nm):
            raise BadInput(
                f"({y_nm:.1f}, {x_nm:.1f}) nm lies outside the field of view, which spans "
                f"{self.field.y_nm:g} to {self.field.y_nm + self.field.height_nm:g} nm in y and "
                f"{self.field.x_nm:g} to {self.field.x_nm + self.field.width_nm:g} nm in x."
            )


def _nothing(step: AwaitReview) -> Decision:
    """A decision on no targets: tells `Review.open` that the proposal is on record already."""
    return Decision(step_id=step.step_id, action="verdict", target_ids=(), before=(), after=())
