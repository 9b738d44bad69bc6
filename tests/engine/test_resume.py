"""Runs that were interrupted and taken up again: what the plan hears of it, and hears again."""

from __future__ import annotations

from napari_smarttem.engine.journal import Journal
from napari_smarttem.engine.status import RunState
from napari_smarttem.schema import MoveProbe, PlanSpec, Resumed

from .test_runner import until


def test_the_plan_is_told_where_the_run_was_interrupted_each_time_it_is_replayed(session, plans):
    told: list[list[str]] = []

    def plan(_settings, _context):
        told.append([])
        for number in range(7):
            result = yield MoveProbe(step_id=f"s{number}", y_nm=1.0 + number, x_nm=2.0)
            if result.interrupted:
                told[-1].append(result.step.step_id)
            if len(told) == result.step.y_nm // 2 and not result.replayed:
                session.stop()

    plans["probe"] = plan
    path = session.start(PlanSpec(kind="probe"))
    assert session.wait(20)
    for _ in range(2):
        assert session.status.outcome == "stopped"
        session.resume(path)
        assert session.wait(20)
    assert session.status.outcome == "stopped"
    session.resume(path)
    assert session.wait(20)
    assert session.status.outcome == "finished"
    assert told == [[], ["s1"], ["s1", "s3"], ["s1", "s3", "s5"]]


def test_a_record_of_a_version_that_told_no_plan_of_breaks_is_replayed_as_it_was(session, measure):
    path = session.start(measure(points=4))
    until(lambda: session.status.state is RunState.AWAITING_REVIEW)
    session.stop()
    assert session.wait(20)
    with Journal.open(path) as journal:
        journal.append(Resumed(instrument=session.instrument.info, steps_done=1))
    with Journal.open(path, read_only=True) as journal:
        assert not journal.result("overview-0").interrupted
