"""Where a run stands: changed under one lock, told outside of it, in the order of the changes.

A listener may ask where the run stands, pause it or stop it, on whatever thread it hears; so nobody is told anything while the
lock is held. Two threads that change the status at the same time (the instrument's, and a person's who stops) leave the telling
to the one that has begun with it, so that the states arrive in order and neither waits for the other's listeners.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from psygnal import SignalInstance

from ..schema import PlanEstimate
from .status import ALLOWED, RunState, RunStatus
from .telling import tell

SHARE_TO_EXTRAPOLATE = 0.02
"""From this part of the steps on, what is left is told by the pace so far and not by the plan's estimate."""


class Standing:
    """The status of one run after another.

    Parameters
    ----------
    changed : SignalInstance
        Told each `RunStatus`.
    budget : callable
        The dose budget now, in e/Å², None for no limit.

    Attributes
    ----------
    lock : RLock
        Held for every change; whoever changes more than the status at once holds it too, and calls `announce` after.
    """

    def __init__(self, changed: SignalInstance, budget: Callable[[], float | None]) -> None:
        self.lock = threading.RLock()
        self._changed = changed
        self._budget = budget
        self._status = RunStatus()
        self._untold: deque[tuple[RunStatus, threading.Event | None]] = deque()
        self._teller: int | None = None
        self._over = threading.Event()
        self._over.set()
        self._began = 0.0
        self._estimate: tuple[PlanEstimate, int, float] | None = None

    @property
    def status(self) -> RunStatus:
        """The status now, with the times and the budget while a run goes on."""
        with self.lock:
            status = self._status
            if not status.active:
                return status
            now = time.monotonic()
            return replace(
                status,
                elapsed_s=now - self._began,
                remaining_s=self._remaining_s(now),
                dose_budget_e_per_a2=self._budget(),
            )

    @property
    def active(self) -> bool:
        """True while a run goes on."""
        return self._status.active

    @property
    def state(self) -> RunState:
        """Its state."""
        return self._status.state

    @property
    def step(self) -> Any:
        """What is being done, None where nothing is."""
        return self._status.step

    @property
    def over(self) -> threading.Event:
        """Set once the present or last run has ended and its end was told."""
        return self._over

    # -- changes; they only take note, and `announce` tells

    def begin(self, run_id: str, dose_e_per_a2: float) -> None:
        """A run begins, for which `dose_e_per_a2` was delivered before."""
        with self.lock:
            self._over = threading.Event()
            self._estimate = None
            self._began = time.monotonic()
            self.enter(
                RunState.RUNNING, outcome="", reason="", run_id=run_id, step=None, steps_total=None, steps_done=0,
                dose_e_per_a2=dose_e_per_a2,
            )  # fmt: skip

    def enter(self, state: RunState, **changes: Any) -> None:
        """Go to `state`. A person's stop is not overtaken by what the run was about to do: then nothing happens.

        Raises
        ------
        AssertionError
            No run may go there from where it stands.
        """
        with self.lock:
            now = self._status.state
            if state is not now and state not in ALLOWED[now]:
                if now is RunState.STOPPING:
                    return
                raise AssertionError(f"a run cannot go from {now} to {state}")
            self._status = replace(self._status, state=state, **changes)
            self._untold.append((self.status, None))

    def begin_step(self, step: Any) -> None:
        """A step begins; this is not told (`step_started` is)."""
        with self.lock:
            self._status = replace(self._status, step=step)

    def expect(self, estimate: PlanEstimate) -> None:
        """The plan has said what follows from here."""
        with self.lock:
            self._estimate = (estimate, self._status.steps_done, time.monotonic())

    def end_step(self, steps: int, dose_e_per_a2: float) -> None:
        """A step has ended that counts as `steps` (none or one) and delivered a dose."""
        with self.lock:
            done = self._status.steps_done + steps
            total = None if self._estimate is None else self._estimate[1] + self._estimate[0].steps
            dose = self._status.dose_e_per_a2 + dose_e_per_a2
            self._status = replace(self._status, steps_done=done, steps_total=total, dose_e_per_a2=dose)
            self._untold.append((self.status, None))

    def end(self, state: RunState, outcome: str, reason: str) -> None:
        """The run ends; whoever waits goes on once that is told."""
        with self.lock:
            elapsed = time.monotonic() - self._began
            self._status = replace(self._status, step=None, elapsed_s=elapsed, remaining_s=None)
            if outcome == "stopped" and self._status.state is not RunState.STOPPING:
                self.enter(RunState.STOPPING, reason=reason)
            self.enter(state, outcome=outcome, reason=reason)
            self._untold.append((self._untold.pop()[0], self._over))

    def announce(self) -> None:
        """Tell what is not told yet, unless another thread is at it: then that one does. Call it without the lock."""
        while True:
            with self.lock:
                if self._teller is not None or not self._untold:
                    return
                self._teller = threading.get_ident()
                status, over = self._untold.popleft()
            try:
                tell(self._changed, status)
            finally:
                with self.lock:
                    self._teller = None
                if over is not None:
                    over.set()

    def wait(self, timeout: float | None) -> bool:
        """Wait for the run's end and its telling; False where `timeout` seconds did not suffice.

        A listener that hears of the end and waits for it would wait for itself; it is not made to.
        """
        with self.lock:
            over = self._over
            if not self._status.active and self._teller == threading.get_ident():
                return True
        return over.wait(timeout)

    # -- inside

    def _remaining_s(self, now: float) -> float | None:
        if self._estimate is None:
            return None
        estimate, first_step, since = self._estimate
        done = self._status.steps_done - first_step
        share = min(1.0, done / estimate.steps) if estimate.steps else 1.0
        return estimate.duration_s if share < SHARE_TO_EXTRAPOLATE else (now - since) * (1.0 - share) / share
