"""Runs: their states, their ends, and what holds on every way out."""

from __future__ import annotations

import threading
import time

import pytest

from napari_smarttem.bench.parts.instant import InstantInstrument
from napari_smarttem.engine.journal import Journal
from napari_smarttem.engine.status import RunState
from napari_smarttem.engine.verify import verify
from napari_smarttem.schema import (
    BadInput,
    Cancelled,
    InstrumentFault,
    JournalError,
    MoveProbe,
    Note,
    PlanSpec,
    SetOptics,
    SetSpectrometer,
    TakeImage,
    TargetState,
)


def until(condition, timeout_s: float = 20.0) -> None:
    """Wait for something that comes soon; the time allowed is a crowded machine's."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def states_of(session) -> list[RunState]:
    seen: list[RunState] = []
    session.status_changed.connect(
        lambda status: seen.append(status.state) if not seen or seen[-1] is not status.state else None
    )
    return seen


def test_a_run_goes_from_overview_to_the_last_approved_point(session, instrument, measure):
    seen = states_of(session)
    path = session.start(measure(points=10), policy="approve_above:0.5")
    assert session.wait(20)
    assert session.status.outcome == "finished"
    assert seen == [RunState.RUNNING, RunState.AWAITING_REVIEW, RunState.RUNNING, RunState.FINISHED]
    assert instrument.visited == [(float(i), float(7 * i % 100)) for i in range(5, 10)]
    assert instrument.blanked
    assert instrument.probe_position_nm is None
    assert session.status.steps_done == session.status.steps_total == 7
    assert verify(path).ok
    assert session.review.counts()[TargetState.DONE] == 5


def test_the_beam_is_off_while_a_person_thinks(session, instrument, measure):
    session.start(measure(points=4))
    until(lambda: session.status.state is RunState.AWAITING_REVIEW)
    assert instrument.blanked
    assert instrument.probe_position_nm is None
    assert session.status.reason == "Which of these?"
    session.review.approve(["r0-0002"])
    session.review.submit("go")
    assert session.wait(20)
    assert instrument.visited == [(2.0, 14.0)]


def test_pause_in_a_review_and_go_on(session, measure):
    session.start(measure(points=4))
    until(lambda: session.status.state is RunState.AWAITING_REVIEW)
    session.pause()
    until(lambda: session.status.state is RunState.PAUSED)
    session.review.approve(["r0-0000"])
    session.review.submit("go")
    time.sleep(0.05)
    assert session.status.state is RunState.PAUSED
    session.unpause()
    assert session.wait(20)
    assert session.status.outcome == "finished"


def test_a_pause_inside_a_long_exposure_makes_it_anew(session, instrument, measure):
    instrument.seconds_per_exposure = 0.0
    session.start(measure(points=2, exposure_s=5.0))
    until(lambda: session.status.state is RunState.AWAITING_REVIEW)
    session.review.approve(["r0-0000", "r0-0001"])
    instrument.seconds_per_exposure = 60.0  # longer than anybody waits here: it must be broken off
    session.review.submit("go")
    until(lambda: instrument.probe_position_nm is not None)
    session.pause()
    until(lambda: session.status.state is RunState.PAUSED)
    assert instrument.blanked
    assert instrument.visited == []
    instrument.seconds_per_exposure = 0.0
    session.unpause()
    assert session.wait(20)
    assert len(instrument.visited) == 2


def test_stop_takes_effect_inside_an_exposure_and_the_run_can_be_resumed(session, instrument, measure):
    path = session.start(measure(points=6))
    until(lambda: session.status.state is RunState.AWAITING_REVIEW)
    session.review.approve([j.target.target_id for j in session.review.items()])
    reached = threading.Event()
    slow = {"r0-0003": 60.0}  # longer than anybody waits here: it must be broken off
    session.step_finished.connect(lambda r: reached.set() if r.step.step_id == "r0-0002" else None)
    session.step_started.connect(lambda step: setattr(instrument, "seconds_per_exposure", slow.get(step.step_id, 0.0)))
    session.review.submit("go")
    assert reached.wait(20)
    until(lambda: session.status.step is not None and session.status.step.step_id == "r0-0003")
    session.stop()
    assert session.wait(20)
    assert session.status.outcome == "stopped"
    assert session.status.reason == "stopped by a person"
    assert instrument.blanked
    assert session.review.state("r0-0003") is TargetState.APPROVED

    slow.clear()
    replayed: list[str] = []
    session.step_finished.connect(lambda r: replayed.append(r.step.step_id) if r.replayed else None)
    session.resume(path)
    assert session.wait(20)
    assert session.status.outcome == "finished"
    assert replayed == ["overview-0", "review-0", "go", "r0-0000", "r0-0001", "r0-0002"]
    assert len(instrument.visited) == 6
    assert len(set(instrument.visited)) == 6
    assert session.review.counts()[TargetState.DONE] == 6
    with pytest.raises(BadInput, match="nothing to resume"):
        session.resume(path)


def test_stopping_in_a_review_keeps_the_verdicts_for_the_resume(session, measure):
    path = session.start(measure(points=4))
    until(lambda: session.status.state is RunState.AWAITING_REVIEW)
    session.review.approve(["r0-0001"])
    session.review.reject(["r0-0002"])
    added = session.review.add(50.0, 50.0)
    session.stop()
    assert session.wait(20)
    session.resume(path)
    until(lambda: session.status.state is RunState.AWAITING_REVIEW)
    assert session.review.state("r0-0001") is TargetState.APPROVED
    assert session.review.state("r0-0002") is TargetState.REJECTED
    assert session.review.state(added.target_id) is TargetState.APPROVED
    session.review.undo()
    assert added.target_id not in {j.target.target_id for j in session.review.items()}
    session.review.submit("go")
    assert session.wait(20)
    with Journal.open(path, read_only=True) as journal:
        proposals = [d for d in journal.documents() if d.kind == "proposal"]
    assert len(proposals) == 1


def test_a_veto_during_the_run_skips_the_point(session, instrument, measure):
    session.step_finished.connect(lambda r: session.review.reject(["r0-0002"]) if r.step.step_id == "r0-0000" else None)
    path = session.start(measure(points=4), policy="approve_all")
    assert session.wait(20)
    assert len(instrument.visited) == 3
    assert session.review.state("r0-0002") is TargetState.REJECTED
    with Journal.open(path, read_only=True) as journal:
        assert journal.steps["r0-0002"].status == "skipped"
        assert "rejected by a person" in journal.steps["r0-0002"].reason


class Flaky(InstantInstrument):
    """Fails at chosen exposures."""

    def __init__(self, faults: dict[int, Exception]) -> None:
        super().__init__(channels=8)
        self.faults = faults
        self.exposures = 0

    def acquire_spectrum(self, exposure_s, cancel):
        self.exposures += 1
        if self.exposures in self.faults:
            raise self.faults[self.exposures]
        return super().acquire_spectrum(exposure_s, cancel)


def test_a_passing_fault_is_tried_again(session, measure):
    flaky = Flaky({2: InstrumentFault("time-out", transient=True)})
    session.use(flaky)
    session.start(measure(points=3), policy="approve_all")
    assert session.wait(20)
    assert session.review.counts()[TargetState.DONE] == 3
    assert flaky.exposures == 4


def test_a_point_that_keeps_failing_is_left_out_with_its_reason(session, measure):
    session.use(Flaky({n: InstrumentFault("The detector timed out", transient=True) for n in (2, 3, 4)}))
    path = session.start(measure(points=3), policy="approve_all")
    assert session.wait(20)
    assert session.status.outcome == "finished"
    assert session.review.state("r0-0001") is TargetState.FAILED
    with Journal.open(path, read_only=True) as journal:
        assert journal.steps["r0-0001"].reason == "The detector timed out (tried 3 times)"


def test_a_lost_connection_ends_the_run_safely_and_it_resumes(session, measure):
    flaky = Flaky({3: InstrumentFault("The connection to the microscope was lost.")})
    session.use(flaky)
    path = session.start(measure(points=4), policy="approve_all")
    assert session.wait(20)
    assert session.status.state is RunState.FAILED
    assert session.status.reason == "The connection to the microscope was lost."
    assert flaky.blanked
    session.resume(path)
    assert session.wait(20)
    assert session.status.outcome == "finished"
    assert len(flaky.visited) == 4


def test_the_dose_budget_ends_the_run_and_more_budget_lets_it_go_on(session, instrument, measure):
    path = session.start(measure(points=50, exposure_s=1.0), policy="approve_all", dose_budget_e_per_a2=1000.0)
    assert session.wait(20)
    assert (session.status.state, session.status.outcome) == (RunState.FINISHED, "stopped")
    assert "used up" in session.status.reason
    assert 900.0 < session.status.dose_e_per_a2 <= 1000.0
    first = len(instrument.visited)
    session.resume(path)
    assert session.wait(20)
    assert len(instrument.visited) == first, "what the first part delivered counts"
    session.resume(path, dose_budget_e_per_a2=1e6)
    assert session.wait(20)
    assert session.status.outcome == "finished"
    assert len(instrument.visited) == 50


def test_a_dose_budget_of_zero_lets_nothing_through(session, instrument, measure):
    session.start(measure(points=5), policy="approve_all", dose_budget_e_per_a2=0.0)
    assert session.wait(20)
    assert "budget is zero" in session.status.reason
    assert instrument.visited == []


def test_optics_go_back_after_a_failure(session, instrument, plans):
    def plan(_settings, _context):
        yield SetOptics(step_id="a", values={"C1": 100.0})
        yield SetSpectrometer(step_id="b", dispersion_ev=1.0, energy_offset_ev=50.0)
        yield MoveProbe(step_id="c", y_nm=5.0, x_nm=5.0)
        yield MoveProbe(step_id="d")
        yield TakeImage(step_id="e", exposure_s=0.1)

    plans["optics"] = plan
    session.start(PlanSpec(kind="optics"))
    assert session.wait(20)
    assert session.status.state is RunState.FAILED
    assert "has no camera" in session.status.reason
    assert instrument.get() == {"C1": 0.0}
    assert (instrument.dispersion_ev, instrument.energy_offset_ev) == (0.5, 0.0)


def test_a_fault_of_the_plan_is_said_to_be_one(session, plans):
    def broken(_settings, _context):
        yield Note(step_id="a", text="so far so good")
        raise ZeroDivisionError("division by zero")

    def twins(_settings, _context):
        yield Note(step_id="a", text="one")
        yield Note(step_id="a", text="two")

    plans["broken"], plans["twins"] = broken, twins
    session.start(PlanSpec(kind="broken"))
    assert session.wait(20)
    assert "The plan itself failed (ZeroDivisionError" in session.status.reason
    session.start(PlanSpec(kind="twins"))
    assert session.wait(20)
    assert "two steps the id a" in session.status.reason


def test_a_disk_that_fills_up_ends_the_run_safely_and_it_resumes(session, instrument, measure, monkeypatch):
    real = Journal.write_result

    def full(self, result):
        if result.step.step_id == "r0-0002":
            raise JournalError("Nothing more can be written: No space left on device.")
        return real(self, result)

    monkeypatch.setattr(Journal, "write_result", full)
    session.start(measure(points=5), policy="approve_all")
    assert session.wait(20)
    assert session.status.state is RunState.FAILED
    assert "No space left" in session.status.reason
    assert instrument.blanked
    monkeypatch.undo()


def test_an_instrument_that_never_answers_is_given_up_and_can_be_replaced(session, measure):
    release = threading.Event()

    class Stuck(InstantInstrument):
        def acquire_spectrum(self, exposure_s, cancel):
            release.wait(20)
            return super().acquire_spectrum(exposure_s, cancel)

    stuck = Stuck(channels=8)
    session.use(stuck)
    session._runner.watchdog_s = 0.2
    path = session.start(measure(points=2), policy="approve_all")
    assert session.wait(20)
    assert session.status.state is RunState.FAILED
    assert "has not answered" in session.status.reason
    assert stuck.blanked
    with Journal.open(path) as journal:
        assert "has not answered" in journal.stop.reason
    with pytest.raises(BadInput, match="has not come back"):
        session.start(measure(points=2))
    session.disconnect().result(20)
    session.use(InstantInstrument(channels=8))
    session.resume(path)
    assert session.wait(20)
    assert session.status.outcome == "finished"
    release.set()


def test_one_run_at_a_time(session, measure):
    session.start(measure(points=4))
    with pytest.raises(BadInput, match="A run is going on"):
        session.start(measure(points=4))
    with pytest.raises(BadInput, match="A run is going on"):
        session.connect("simulator")
    session.stop()
    assert session.wait(20)


def test_who_goes_on_before_the_exposure_let_go_does_not_end_the_run(session, instrument, measure):
    session.start(measure(points=2, exposure_s=5.0))
    until(lambda: session.status.state is RunState.AWAITING_REVIEW)
    session.review.approve(["r0-0000", "r0-0001"])
    exposed, real = [], instrument.acquire_spectrum

    def late(exposure_s, cancel):
        exposed.append(exposure_s)
        if len(exposed) == 1:
            session.pause()
            session.unpause()
            assert cancel.is_set()
            raise Cancelled("The exposure made way.")
        return real(exposure_s, cancel)

    instrument.acquire_spectrum = late
    session.review.submit("go")
    assert session.wait(20)
    assert session.status.outcome == "finished", session.status.reason
    assert len(exposed) == 3
    assert len(instrument.visited) == 2


def test_a_second_pause_right_after_going_on_is_heeded(session, instrument, measure):
    session.start(measure(points=4))
    until(lambda: session.status.state is RunState.AWAITING_REVIEW)
    session.pause()
    until(lambda: session.status.state is RunState.PAUSED)
    with session._runner._lock:  # the run cannot notice in between
        session.unpause()
        session.pause()
    session.review.approve(["r0-0000"])
    session.review.submit("go")
    assert not session.wait(0.1)
    assert session.status.state is RunState.PAUSED
    assert instrument.visited == []
    session.unpause()
    assert session.wait(20)
    assert session.status.outcome == "finished"
