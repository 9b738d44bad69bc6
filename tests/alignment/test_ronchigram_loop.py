"""The closed loop on the simulated column: it aligns, stays within limits, undoes, and gives up with a reason."""

from __future__ import annotations

import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from napari_smarttem.alignment.belief import Belief  # noqa: E402
from napari_smarttem.alignment.plan import build  # noqa: E402
from napari_smarttem.alignment.settings import LEARNING  # noqa: E402
from napari_smarttem.alignment.targets.loop import controls_of  # noqa: E402
from napari_smarttem.backends.guard import Guard  # noqa: E402
from napari_smarttem.backends.registry import connect  # noqa: E402
from napari_smarttem.engine.execute import execute  # noqa: E402
from napari_smarttem.physics.aberrations import quarter_pi_angle_mrad  # noqa: E402
from napari_smarttem.schema import (  # noqa: E402
    AwaitReview,
    BadInput,
    Note,
    ReviewOutcome,
    SetOptics,
    StepResult,
    TakeImage,
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def instrument():
    guard = Guard(
        connect("simulator", seed=100, speed=None, high_tension_v=300e3, misalignment=1.0, optics_imperfection=1.0)
    )
    yield guard
    guard.close()


def drive(instrument, settings, *, review=None, spoil=None):
    """Run a plan to its end; returns its value, its steps and its notes. `spoil` may replace a result, `review` answers."""
    instrument.blanker.set_blanked(False)
    plan = build({"controls": controls_of(instrument.optics), "model": None, **settings}, instrument.plan_context())
    result, steps, notes = None, [], []
    while True:
        try:
            step = plan.send(result)
        except StopIteration as end:
            return end.value, steps, notes
        steps.append(step)
        if isinstance(step, Note):
            notes.append(step)
            result = StepResult(step=step)
        elif isinstance(step, AwaitReview):
            result = StepResult(step=step, review=review(notes))
        else:
            result = spoil(step) if spoil else None
            result = result or execute(instrument, step, threading.Event())


def test_aligns_in_four_frames_within_limits_once_its_controls_are_learned(instrument):
    column = instrument.unwrapped.column
    taught, learning, _ = drive(instrument, dict(LEARNING))
    # the filter found the cross-talk it was not told: the defocus control's true gain
    assert taught.response[0][0] == pytest.approx(column.lenses.response[0, 0], abs=0.005)
    column.lenses.misalign_anew()
    before = quarter_pi_angle_mrad(column.true_aberrations(instrument.now_s()), 300e3)
    known = {"response": taught.response, "response_covariance": taught.response_covariance}
    outcome, steps, _ = drive(instrument, known)
    after = quarter_pi_angle_mrad(column.true_aberrations(instrument.now_s()), 300e3)
    assert before < 4.0
    assert after > 25.0
    assert outcome.frames <= 4
    for run in (learning, steps):
        assert len({step.step_id for step in run}) == len(run)
    # the guard would have refused; ask the steps themselves as well
    values = dict.fromkeys(instrument.optics.controls, 0.0)
    for step in learning + steps:
        if isinstance(step, SetOptics):
            for name, value in step.values.items():
                assert abs(value - values[name]) <= instrument.optics.controls[name].largest_step * (1 + 1e-9)
            values.update(step.values)


def test_a_person_edits_rejects_and_undoes(instrument):
    start = instrument.optics.get()
    answers = iter(
        [
            ReviewOutcome(action="go", settings={"reject": ["C3"], "edit": {"A1.x": 12.5}}),
            ReviewOutcome(action="go", settings={"undo": True}),
        ]
    )
    outcome, steps, notes = drive(instrument, {"ask": True}, review=lambda _notes: next(answers))
    proposal = next(note for note in notes if note.step_id.startswith("proposal"))
    assert set(proposal.data["controls"]) >= {"C1", "A1.x", "C3"}
    names = [step.step_id for step in steps]
    first = steps[names.index(next(n for n in names if n.startswith("review"))) + 1]
    assert first.step_id.startswith("set-")
    last_of_first = [s for s in steps if s.step_id.startswith(first.step_id.rsplit("-", 1)[0])][-1]
    assert last_of_first.values["A1.x"] == 12.5
    assert last_of_first.values["C3"] == start["C3"]
    assert outcome.verdict == "ended by a person"
    assert instrument.optics.get() == pytest.approx(start)


@pytest.mark.parametrize("fault", ["camera dies", "old frames", "vacuum"])
def test_gives_up_with_a_reason_and_everything_back(instrument, fault):
    start = instrument.optics.get()
    camera = instrument.unwrapped.camera
    old = None

    def spoil(step):
        nonlocal old
        if not isinstance(step, TakeImage):
            return None
        if fault == "camera dies":
            return StepResult(step=step, status="failed", reason="the camera does not answer")
        if fault == "vacuum":
            camera.under_beam = "vacuum"
            return None
        old = old or execute(instrument, step, threading.Event())
        stale = old.frames[0]
        stale = stale.with_data(stale.data, metadata={**stale.metadata, "exposure_started_s": -1.0})
        return StepResult(step=step, frames=(stale,))

    outcome, _, notes = drive(instrument, {}, spoil=spoil)
    assert outcome.verdict == "cannot"
    words = {"camera dies": "no frame came", "old frames": "begun after the optics", "vacuum": "no Thon rings"}[fault]
    assert words in notes[-1].text
    assert "back where it was" in notes[-1].text
    assert instrument.optics.get() == pytest.approx(start)


def test_a_control_that_refuses_stops_the_loop(instrument):
    start = instrument.optics.get()
    refused = []

    def spoil(step):
        if isinstance(step, SetOptics) and step.step_id.startswith("set-001"):
            refused.append(step.step_id)
            return StepResult(step=step, status="failed", reason="the lens supply is off")
        return None

    outcome, _, notes = drive(instrument, {}, spoil=spoil)
    assert refused
    assert outcome.verdict == "cannot"
    assert "lens supply is off" in notes[-1].text
    assert instrument.optics.get() == pytest.approx(start)


def test_settings_that_cannot_be_used(instrument):
    controls = controls_of(instrument.optics)
    with pytest.raises(BadInput, match="underfocused"):
        build({"controls": controls, "offsets_nm": [500.0]}, instrument.plan_context())
    with pytest.raises(BadInput, match="has no control tilt"):
        build({"controls": controls, "control_names": ["tilt"], "model": None}, instrument.plan_context())
    with pytest.raises(BadInput, match="search_nm"):
        build({"controls": controls, "method": "image-quality"}, instrument.plan_context())


def test_belief_learns_an_unknown_response():
    """Ten known changes, each seen with small noise, teach any mixing of the controls, units and axes included."""
    rng = np.random.default_rng(0)
    controls = {f"k{i}": {"value": 0.0, "minimum": -1000, "maximum": 1000, "largest_step": 500} for i in range(8)}
    from napari_smarttem.alignment.targets.steering import ControlState

    belief = Belief({n: ControlState(**c) for n, c in controls.items()}, tuple(controls), known=False)
    typical = np.array([50.0, 20, 20, 200, 200, 200, 200, 20])
    response = rng.normal(size=(8, 8)) * typical[:, None] / 300
    state = rng.normal(size=8) * typical
    noise = 0.001 * typical
    belief.seen(state + noise * rng.normal(size=8), np.diag(noise**2))
    values = np.zeros(8)
    for k in range(8):
        step = values + 100.0 * np.eye(8)[k]
        belief.moved(step, 1.0)
        values = step
        belief.seen(state + response @ values + noise * rng.normal(size=8), np.diag(noise**2))
    np.testing.assert_allclose(
        belief.response / response.std(axis=1, keepdims=True), response / response.std(axis=1, keepdims=True), atol=0.06
    )
    target = belief.controls_for(np.zeros(8))
    left = state + response @ target
    assert np.all(np.abs(left) < 0.2 * np.abs(state) + 0.1 * typical)


def test_image_search_finds_a_sharper_image():
    guard = Guard(
        connect("simulator", seed=5, speed=None, specimen="core-shell", contamination=False, drift_nm_per_s=(0, 0))
    )
    guard.blanker.set_blanked(False)
    guard.optics.set({"C1": 150.0})
    settings = {
        "method": "image-quality",
        "search_nm": {"C1": 200.0, "A1.x": 60.0},
        "frames": 14,
        "image_field_nm": 120.0,
    }
    outcome, _, notes = drive(guard, settings)
    merits = [note.data["merit"] for note in notes if note.step_id.startswith("merit")]
    assert max(merits) > merits[0]
    assert abs(outcome["controls"]["C1"]) < 100.0
    assert guard.optics.get()["C1"] == pytest.approx(outcome["controls"]["C1"])
    guard.close()
