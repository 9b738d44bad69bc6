"""Verdicts: what a person says is kept, can be taken back, and never changes what was measured."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_smarttem.engine.policy import parse_policy
from napari_smarttem.engine.review import Review
from napari_smarttem.schema import AwaitReview, BadInput, Decision, Field2D, Proposal, Target, TargetState

FIELD = Field2D(y_nm=0, x_nm=0, height_nm=100, width_nm=100)


def opened(count: int = 4, record=None) -> Review:
    review = Review(record)
    review.clear(FIELD)
    targets = tuple(Target(target_id=f"t{i}", y_nm=i, x_nm=i, score=i / max(1, count - 1)) for i in range(count))
    review.open(AwaitReview(step_id="review-0", targets=targets))
    return review


def states(review: Review) -> dict[str, str]:
    return {j.target.target_id: str(j.state) for j in review.items()}


def test_verdicts_undo_and_redo():
    review = opened()
    review.approve(["t0", "t1"])
    review.reject(["t1", "t2"])
    assert states(review) == {"t0": "approved", "t1": "rejected", "t2": "rejected", "t3": "proposed"}
    assert review.undo()
    assert states(review)["t1"] == "approved"
    assert review.redo()
    assert states(review)["t1"] == "rejected"
    review.undo()
    review.undo()
    assert set(states(review).values()) == {"proposed"}
    assert not review.undo()
    review.reset(["t0"])
    assert not review.can_undo, "a verdict that changes nothing is no action"


def test_added_and_moved_targets_go_with_the_approved():
    review = opened(1)
    added = review.add(50.0, 60.0)
    review.move("t0", 5.0, 6.0)
    review.approve(["t0"])
    outcome = review.submit()
    assert {(t.target_id, t.y_nm, t.x_nm) for t in outcome.approved} == {
        ("t0", 5.0, 6.0),
        (added.target_id, 50.0, 60.0),
    }
    assert not review.is_open
    with pytest.raises(BadInput, match="No review is waiting"):
        review.submit()


def test_a_target_proposed_again_keeps_its_verdict():
    review = opened(3)
    review.approve(["t0"])
    review.reject(["t1"])
    review.submit("repropose")
    again = tuple(Target(target_id=name, y_nm=1.0, x_nm=1.0) for name in ("t0", "t2", "new"))
    review.open(AwaitReview(step_id="review-1", targets=again))
    assert states(review) == {"t0": "approved", "t2": "proposed", "new": "proposed"}


def test_undo_of_an_addition_removes_it():
    review = opened(1)
    added = review.add(1.0, 1.0)
    review.undo()
    assert added.target_id not in states(review)
    review.redo()
    assert states(review)[added.target_id] == "approved"


@pytest.mark.parametrize("place", [(-1.0, 5.0), (5.0, 100.1)])
def test_places_outside_the_field_are_refused(place):
    review = opened(1)
    with pytest.raises(BadInput, match="outside the field of view"):
        review.move("t0", *place)
    with pytest.raises(BadInput, match="outside the field of view"):
        review.add(*place)
    assert review.get("t0").target.y_nm == 0.0


def test_what_was_measured_stays_measured():
    review = opened(2)
    review.approve(["t0", "t1"])
    review.mark("t0", TargetState.DONE)
    review.reject(["t0", "t1"])
    assert states(review) == {"t0": "done", "t1": "rejected"}
    review.undo()
    review.undo()
    assert states(review) == {"t0": "done", "t1": "proposed"}
    with pytest.raises(BadInput, match="stays where it was measured"):
        review.move("t0", 1.0, 1.0)


def test_each_action_is_recorded_beside_the_proposal_before_listeners_hear_of_it():
    record: list = []
    review = opened(2, record.append)
    heard: list[int] = []
    review.changed.connect(lambda _ids: heard.append(len(record)))
    review.approve(["t0"])
    review.move("t0", 9.0, 9.0)
    review.undo()
    assert isinstance(record[0], Proposal)
    assert [d.action for d in record[1:]] == ["verdict", "move", "undo"]
    assert record[1].before[0].state is TargetState.PROPOSED
    assert record[1].after[0].state is TargetState.APPROVED
    assert heard == [2, 3, 4]


_ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["approve", "reject", "reset"]), st.lists(st.sampled_from(["t0", "t1", "t2"]), max_size=3)
        ),
        st.tuples(st.just("move"), st.tuples(st.floats(0, 100), st.floats(0, 100))),
        st.tuples(st.sampled_from(["undo", "redo", "add"]), st.none()),
    ),
    max_size=25,
)


def _do(review: Review, action) -> None:
    name, argument = action
    if name in ("approve", "reject", "reset"):
        getattr(review, name)(argument)
    elif name == "move":
        review.move("t1", *argument)
    elif name == "add":
        review.add(3.0, 4.0)
    else:
        getattr(review, name)()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_ACTIONS)
def test_the_record_alone_rebuilds_the_review(actions):
    record: list = []
    review = opened(3, record.append)
    for action in actions:
        _do(review, action)
    again = Review()
    again.clear(FIELD)
    decisions = [Decision.model_validate_json(d.model_dump_json()) for d in record if isinstance(d, Decision)]
    again.open(
        review.step, decisions or [Decision(step_id="review-0", action="verdict", target_ids=(), before=(), after=())]
    )
    assert again.items() == review.items()
    assert (again.can_undo, again.can_redo) == (review.can_undo, review.can_redo)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_ACTIONS)
def test_undoing_everything_returns_to_the_proposals(actions):
    review = opened(3)
    before = review.items()
    for action in actions:
        if action[0] not in ("undo", "redo"):
            _do(review, action)
    after = review.items()
    steps = 0
    while review.undo():
        steps += 1
    assert review.items() == before
    for _ in range(steps):
        assert review.redo()
    assert sorted(review.items(), key=lambda j: j.target.target_id) == sorted(after, key=lambda j: j.target.target_id)


def test_ten_thousand_verdicts_are_quick():
    review = opened(10_000)
    began = time.thread_time()  # of this thread alone: the machine may be busy with something else
    review.approve([f"t{i}" for i in range(10_000)])
    assert time.thread_time() - began < 0.5
    assert review.counts()[TargetState.APPROVED] == 10_000


def test_policies_judge_and_sign():
    record: list = []
    review = opened(5, record.append)
    parse_policy("approve_above:0.5").judge(review)
    assert states(review) == {"t0": "rejected", "t1": "rejected", "t2": "approved", "t3": "approved", "t4": "approved"}
    assert {d.who for d in record[1:]} == {"policy approve_above:0.5"}
    everything = opened(3)
    parse_policy("approve_all").judge(everything)
    assert set(states(everything).values()) == {"approved"}
    assert parse_policy("ask").judge is None


def test_verdicts_from_a_file(tmp_path):
    path = tmp_path / "verdicts.json"
    path.write_text(json.dumps({"t0": "approved", "t1": "rejected", "elsewhere": "approved"}))
    review = opened(3)
    parse_policy(f"file:{path}").judge(review)
    assert states(review) == {"t0": "approved", "t1": "rejected", "t2": "rejected"}


@pytest.mark.parametrize("content", ["[]", "{", '{"t0": "maybe"}', '{"t0": "done"}', ""])
def test_a_file_of_nonsense_is_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "verdicts.json"
    path.write_text(content)
    with pytest.raises(BadInput, match="holds no verdicts"):
        parse_policy(f"file:{path}")


@pytest.mark.parametrize(
    "text", ["", "yes", "approve_above", "approve_above:2", "approve_above:nan", "file:nowhere.json"]
)
def test_unusable_policies(text):
    with pytest.raises(BadInput):
        parse_policy(text)
