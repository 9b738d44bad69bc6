"""Carries out plans: one instrument thread, an explicit state machine, and a journal that is written before anybody is told.

A run ends in one of three ways: finished, stopped by a person, failed with a reason. On each of them the beam is blanked; where it
did not finish, the optics go back to where they were.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Literal

from psygnal import Signal

from ..schema import (
    AwaitReview,
    BadInput,
    Cancelled,
    DoseBudgetExceeded,
    InstrumentFault,
    JournalError,
    Note,
    Plan,
    PlanContext,
    SetOptics,
    SmartTEMError,
    StepResult,
    TargetState,
    estimate_duration,
)
from .execute import execute
from .journal import Journal
from .policy import Policy
from .review import Review
from .standing import Standing
from .status import RunState, RunStatus
from .telling import tell
from .watchdog import Watchdog

log = logging.getLogger(__name__)

TRANSIENT_RETRIES = 2
LONG_EXPOSURE_S = 1.0
"""Exposures longer than this are broken off by a pause and made anew; shorter ones are let finish."""


class Runner:
    """Runs one plan at a time on a guarded instrument.

    Parameters
    ----------
    instrument : Guard
    review : Review
        Where `AwaitReview` steps go.
    watchdog_s : float
        A step that takes five times its estimate, and at least this long, is given up: the beam is blanked and the run fails.
    launch : callable
        Runs a function on the instrument thread.
    """

    status_changed = Signal(object)
    """`RunStatus`, in order; on the instrument thread or on that of who stopped the run."""
    step_started = Signal(object)
    """Step."""
    step_finished = Signal(object)
    """`StepResult`, once it is in the journal."""

    def __init__(
        self,
        instrument: Any,
        review: Review,
        *,
        launch: Callable[[Callable[[], None]], object],
        watchdog_s: float = 30.0,
    ) -> None:
        self.instrument = instrument
        self.review = review
        self.watchdog_s = watchdog_s
        self._launch = launch
        self._standing = Standing(self.status_changed, lambda: instrument.dose_budget_e_per_a2)
        self._lock = self._standing.lock
        # The token detectors look at: set when the run stops, or when a long exposure is to make way for a pause.
        self._interrupt = threading.Event()
        self._wake = threading.Event()
        self._stop_reason: str | None = None
        self._pause = threading.Event()
        self._abandoned = False
        self._returned = threading.Event()
        self._journal: Journal | None = None
        # before any listener that may fail: the run waits for this one
        review.closed.connect(self._on_review_closed, priority=1)

    # -- what a person does

    @property
    def status(self) -> RunStatus:
        """Where the run stands now."""
        return self._standing.status

    def start(self, plan: Plan, journal: Journal, *, context: PlanContext, policy: Policy) -> None:
        """Begin to carry out `plan`, taking steps that are in `journal` from there.

        Raises
        ------
        BadInput
            A run is going on.
        """
        with self._lock:
            if self._standing.active:
                raise BadInput("A run is going on; stop it first.")
            if self.stuck:
                raise BadInput(
                    "The instrument has not come back from its last command; disconnect it, look at it, and connect again."
                )
            self._interrupt.clear()
            self._wake.clear()
            self._stop_reason = None
            self._pause.clear()
            self._abandoned = False
            self._returned.clear()
            self._journal = journal
            self._standing.begin(journal.start.run_id, sum(step.dose_e_per_a2 for step in journal.steps.values()))
        self._standing.announce()
        self._launch(lambda: self._run(plan, journal, context, policy))

    def pause(self) -> None:
        """Pause at the next step, or inside a long exposure, which is then made anew. The beam is blanked meanwhile."""
        with self._lock:
            # while paused too: who has just said to go on may think better of it before the run has noticed
            if not self._standing.active or self._stop_reason is not None:
                return
            self._pause.set()
            if getattr(self._standing.step, "exposure_s", 0.0) > LONG_EXPOSURE_S:
                self._interrupt.set()
            self._wake.set()

    def unpause(self) -> None:
        """Go on after a pause."""
        with self._lock:
            self._pause.clear()
            self._wake.set()

    def stop(self, reason: str = "stopped by a person") -> None:
        """Stop as soon as the detector lets go. What was acknowledged stays; the run can be resumed."""
        with self._lock:
            if not self._standing.active or self._stop_reason is not None:
                return
            self._stop_reason = reason
            self._interrupt.set()
            self._wake.set()
            self._standing.enter(RunState.STOPPING, reason=reason)
        self._standing.announce()

    @property
    def stuck(self) -> bool:
        """True while the instrument thread has not come back from a run that was given up."""
        return self._abandoned and not self._returned.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no run goes on; False where `timeout` seconds did not suffice."""
        return self._standing.wait(timeout)

    # -- the instrument thread

    def _run(self, plan: Plan, journal: Journal, context: PlanContext, policy: Policy) -> None:
        outcome: Literal["finished", "stopped", "failed"] = "failed"
        reason = "the run ended without saying why"
        over = self._standing.over
        watchdog = Watchdog(lambda step_id, waited_s: self._on_stuck(over, step_id, waited_s))
        snapshot = None
        try:
            snapshot = self.instrument.snapshot()
            watchdog.start()
            self._drive(plan, journal, context, policy, watchdog)
            outcome, reason = "finished", "the plan is complete"
        except Cancelled as error:
            outcome, reason = "stopped", self._stop_reason or str(error)
        except DoseBudgetExceeded as error:
            outcome, reason = "stopped", str(error)
        except SmartTEMError as error:
            reason = str(error)
        except Exception as error:
            log.exception("the plan failed")
            reason = f"The plan itself failed ({type(error).__name__}: {error}); the microscope is not at fault."
        finally:
            watchdog.stop()
            self._returned.set()
            if not self._abandoned:
                plan.close()
                self._end(journal, outcome, reason, snapshot)

    def _drive(self, plan: Plan, journal: Journal, context: PlanContext, policy: Policy, watchdog: Watchdog) -> None:
        seen: set[str] = set()
        set_before: list[SetOptics] = []
        try:
            step = next(plan)
            while True:
                if step.step_id in seen:
                    raise BadInput(f"The plan gave two steps the id {step.step_id}; ids must be unique within a run.")
                seen.add(step.step_id)
                if step.step_id in journal.steps:
                    result = self._replay(step, journal)
                    if isinstance(step, SetOptics) and result.ok:
                        set_before.append(step)
                else:
                    self._checkpoint()
                    while set_before:  # the optics went back when the run was interrupted
                        execute(self.instrument, set_before.pop(0), self._interrupt)
                    result = self._perform(step, journal, context, policy, watchdog)
                self._after(result)
                step = plan.send(result)
        except StopIteration:
            return

    def _perform(
        self, step: Any, journal: Journal, context: PlanContext, policy: Policy, watchdog: Watchdog
    ) -> StepResult:
        self._standing.begin_step(step)
        tell(self.step_started, step)
        if isinstance(step, AwaitReview):
            result = self._await_review(step, journal, policy)
        else:
            result = self._measure(step, context, watchdog)
        journal.write_result(result)
        return result

    def _measure(self, step: Any, context: PlanContext, watchdog: Watchdog) -> StepResult:
        target_id = getattr(step, "target_id", None)
        for attempt in range(TRANSIENT_RETRIES + 1):
            if target_id is not None:
                if self.review.is_rejected(target_id):
                    return StepResult(step=step, status="skipped", reason="rejected by a person during the run")
                self.review.mark(target_id, TargetState.ACQUIRING)
            allowed_s = max(self.watchdog_s, 5.0 * estimate_duration(step, context))
            try:
                with watchdog.watching(step.step_id, allowed_s):
                    return execute(self.instrument, step, self._interrupt)
            except InstrumentFault as error:
                self._unmark(target_id)
                if not error.transient:
                    raise
                if attempt == TRANSIENT_RETRIES:
                    tried = f"{error} (tried {attempt + 1} times)"
                    return StepResult(step=step, status="failed", reason=tried)
                log.warning("%s: %s; trying again", step.step_id, error)
            except Cancelled:
                self._unmark(target_id)
                if not self._made_way():
                    raise
                self._checkpoint()
                return self._measure(step, context, watchdog)
            except BaseException:
                self._unmark(target_id)
                raise
            self._checkpoint()
        raise AssertionError("the loop above returns or raises")

    def _await_review(self, step: AwaitReview, journal: Journal, policy: Policy) -> StepResult:
        """Wait with the beam off the specimen; the person's verdicts go to the journal as they are given."""
        self.instrument.make_safe()
        started = self.instrument.now_s()
        earlier = journal.decisions(step.step_id)
        self.review.open(step, earlier)
        self._enter(RunState.AWAITING_REVIEW, reason=step.prompt)
        if policy.judge is not None:
            policy.judge(self.review)
            self.review.submit("go")
        try:
            while self.review.is_open:
                self._wake.wait()
                self._wake.clear()
                self._checkpoint()
                if self.review.is_open and self._standing.state is RunState.RUNNING:
                    self._enter(RunState.AWAITING_REVIEW, reason=step.prompt)
        except Cancelled:
            self.review.abandon()
            raise
        self._checkpoint()
        self._enter(RunState.RUNNING, reason="")
        outcome = self.review.outcome
        return StepResult(step=step, review=outcome, started_s=started, finished_s=self.instrument.now_s())

    def _replay(self, step: Any, journal: Journal) -> StepResult:
        result = journal.result(step.step_id)
        if type(result.step) is not type(step):
            raise JournalError(
                f"Step {step.step_id} is a {step.kind} in the plan but a {result.step.kind} in {journal.path}; "
                f"this run was made with other settings or another version, and cannot be resumed."
            )
        if isinstance(step, AwaitReview) and result.review is not None:
            self.review.close_replayed(step, result.review, journal.decisions(step.step_id))
            self._wake.clear()
        return result

    def _after(self, result: StepResult) -> None:
        """Everything that follows once a result is safe: progress, targets, listeners."""
        step = result.step
        if isinstance(step, Note) and step.estimate is not None:
            self._standing.expect(step.estimate)
        target_id = getattr(step, "target_id", None)
        # a note costs nothing and is in no estimate; what was replayed was counted at the start
        counts = 0 if isinstance(step, Note) else 1
        self._standing.end_step(counts, 0.0 if result.replayed else result.dose_e_per_a2)
        if target_id is not None:
            self.review.mark(target_id, TargetState.DONE if result.ok else _unmeasured(result))
        tell(self.step_finished, result)
        self._standing.announce()

    def _checkpoint(self) -> None:
        """Between steps: stop if that was asked for, wait while paused."""
        self._raise_if_stopped()
        if not self._pause.is_set():
            return
        self.instrument.make_safe()
        self._enter(RunState.PAUSED, reason="paused by a person")
        while self._pause.is_set():
            self._raise_if_stopped()
            self._wake.wait()
            self._wake.clear()
        self._made_way()
        self._raise_if_stopped()
        # a pause may have hidden the end of a review
        self._wake.set()
        self._enter(RunState.RUNNING, reason="")

    def _made_way(self) -> bool:
        """Take back the interruption that a pause asked for; False where there was none, or the run is to stop.

        A person may have gone on before the detector let go: that exposure is made anew all the same.
        """
        with self._lock:
            if self._stop_reason is not None or not self._interrupt.is_set():
                return False
            self._interrupt.clear()
            return True

    def _raise_if_stopped(self) -> None:
        if self._stop_reason is not None:
            raise Cancelled(self._stop_reason)

    def _end(
        self, journal: Journal, outcome: Literal["finished", "stopped", "failed"], reason: str, snapshot: Any
    ) -> None:
        self.review.abandon()
        problems = list(self.instrument.make_safe())
        if outcome != "finished" and snapshot is not None:
            try:
                self.instrument.restore(snapshot)
            except SmartTEMError as error:
                problems.append(f"The optics could not be put back: {error}")
        if problems:
            reason = " ".join([reason, *problems])
        unwritten = journal.write_end(outcome, reason)
        if unwritten and outcome == "finished":
            outcome, reason = "failed", unwritten
        self._settle(outcome, reason)

    def _settle(self, outcome: str, reason: str, *, abandoned: bool = False) -> None:
        with self._lock:
            if self._abandoned is not abandoned:
                return  # it was given up in this very moment, and that is how it ended
            self._standing.end(RunState.FAILED if outcome == "failed" else RunState.FINISHED, outcome, reason)
        self._standing.announce()

    def _on_stuck(self, over: threading.Event, step_id: str, waited_s: float) -> None:
        """The watchdog's thread: the instrument has not come back from a step."""
        reason = f"The instrument has not answered for {waited_s:.0f} s (step {step_id}); the run was given up."
        with self._lock:
            if not self._standing.active or self._standing.over is not over:
                return
            self._stop_reason = self._stop_reason or reason
        self._interrupt.set()
        problems = self.instrument.make_safe()
        # A detector that looks at the token gets a moment to come back by itself; one that never returns is left behind.
        if over.wait(2.0):
            return
        with self._lock:
            if not self._standing.active or self._standing.over is not over:
                return
            self._abandoned = True
        self.review.abandon()
        reason = " ".join([reason, *problems])
        log.error("%s", reason)
        if self._journal is not None:
            self._journal.write_end("failed", reason)
        self._settle("failed", reason, abandoned=True)

    # -- inside

    def _on_review_closed(self, _outcome: object) -> None:
        self._wake.set()

    def _unmark(self, target_id: str | None) -> None:
        if target_id is not None:
            self.review.mark(target_id, TargetState.APPROVED)

    def _enter(self, state: RunState, reason: str) -> None:
        self._standing.enter(state, reason=reason)
        self._standing.announce()


def _unmeasured(result: StepResult) -> TargetState:
    return TargetState.FAILED if result.status == "failed" else TargetState.REJECTED
