"""Listeners: what they hear, in which order, and that none of them can hold up, lock or end a run."""

from __future__ import annotations

import logging
import threading

from napari_smarttem.bench.parts.instant import InstantInstrument
from napari_smarttem.engine.journal import Journal
from napari_smarttem.engine.session import Session
from napari_smarttem.engine.status import RunState
from napari_smarttem.schema import TargetState

from .test_runner import states_of, until


def test_a_listener_hears_only_of_what_is_on_disk(session, measure):
    missing: list[str] = []

    def look(result):
        with Journal.open(session.run_folder, read_only=True) as journal:
            if result.step.step_id not in journal.steps:
                missing.append(result.step.step_id)

    session.step_finished.connect(look)
    session.start(measure(points=5), policy="approve_all")
    assert session.wait(20)
    assert session.status.steps_done == 7
    assert missing == []


def test_a_listeners_error_never_stops_a_run(session, measure, caplog):
    def fail(_value):
        raise RuntimeError("a broken plot")

    for signal in (session.step_finished, session.step_started, session.status_changed):
        signal.connect(fail)
    with caplog.at_level(logging.ERROR):
        session.start(measure(points=3), policy="approve_all")
        assert session.wait(20)
    assert session.status.outcome == "finished"
    assert "a listener failed" in caplog.text


def test_a_stop_while_a_listener_looks_at_the_status_locks_nobody_out(session, measure):
    """The listener wants to know where the run stands; the person who stops is changing just that."""
    heard, stopping = threading.Event(), threading.Event()

    def look(status):
        if status.steps_done == 1 and not heard.is_set():
            heard.set()
            assert stopping.wait(20)
            assert session.status.run_id

    session.status_changed.connect(look)
    session.start(measure(points=4))
    assert heard.wait(20)
    # the person's thread: it must not wait for the listener, which waits for it
    stopper = threading.Thread(target=lambda: (session.stop(), stopping.set()), daemon=True)
    stopper.start()
    stopper.join(20)
    assert stopping.is_set()
    assert session.wait(20)
    assert session.status.outcome == "stopped"


def test_states_are_told_in_order_and_before_the_wait_ends(session, measure):
    """Also where the stop is told by the thread that asked for it."""
    for _ in range(10):
        seen = states_of(session)
        session.start(measure(points=4))
        session.stop()
        assert session.wait(20)
        assert seen[-2:] == [RunState.STOPPING, RunState.FINISHED]
        session.status_changed.disconnect()
        session._runner.status_changed.disconnect()
        session._runner.status_changed.connect(session._pass_status)


def test_a_listener_of_the_end_may_wait_for_it_and_start_the_next_run(session, instrument, measure):
    again = []

    def go_on(status):
        if status.state is RunState.FINISHED and not again:
            assert session.wait(20)
            again.append(session.start(measure(points=2), policy="approve_all"))

    session.status_changed.connect(go_on)
    session.start(measure(points=3), policy="approve_all")
    until(lambda: again and session.status.outcome == "finished")
    assert session.wait(20)
    assert len(instrument.visited) == 5


def test_a_failing_listener_of_the_review_neither_ends_the_run_nor_keeps_it_waiting(tmp_path, plans, measure, caplog):
    def fail(_value):
        raise RuntimeError("a broken table")

    with Session(tmp_path / "runs") as session, caplog.at_level(logging.ERROR):
        # before the runner is there to listen
        for signal in (session.review.changed, session.review.opened, session.review.closed):
            signal.connect(fail)
        session.use(InstantInstrument(channels=8))
        session.start(measure(points=3))
        until(lambda: session.status.state is RunState.AWAITING_REVIEW)
        session.review.approve(["r0-0001"])
        session.review.submit("go")
        assert session.wait(20)
        assert session.status.outcome == "finished", session.status.reason
        assert session.review.state("r0-0001") is TargetState.DONE
    assert "a broken table" in caplog.text


def test_a_verdict_while_a_listener_looks_at_the_targets_locks_nobody_out(session, measure):
    """The run marks a target and a listener looks it up; meanwhile a person judges another one."""
    heard, judged = threading.Event(), threading.Event()

    def look(ids):
        if session.review.state("r0-0000") is TargetState.ACQUIRING and not heard.is_set():
            heard.set()
            judged.wait(1)
            assert session.review.get("r0-0000").target.target_id in ids

    session.review.changed.connect(look)
    session.start(measure(points=4), policy="approve_all")
    assert heard.wait(20)
    person = threading.Thread(target=lambda: session.review.reject(["r0-0003"]), daemon=True)
    person.start()
    until(lambda: session.review.state("r0-0003") is TargetState.REJECTED)
    judged.set()
    person.join(20)
    assert not person.is_alive()
    assert session.wait(20)
    assert session.review.state("r0-0003") is TargetState.REJECTED
    assert session.status.outcome == "finished"
