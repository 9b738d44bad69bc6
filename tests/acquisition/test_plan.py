import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from napari_smarttem.acquisition.estimate import estimate, within_budget
from napari_smarttem.acquisition.plan import build
from napari_smarttem.acquisition.settings import parse
from napari_smarttem.schema import (
    Acquire,
    AwaitReview,
    BadInput,
    InstrumentFault,
    Note,
    ReviewOutcome,
    Scan,
    Target,
)

from .microscope import FakeMicroscope, approve_all, context

BASE = {"overview_shape": [128, 128], "points": 40, "exposure_s": 0.05}


def run(microscope=None, replay=(), **settings):
    microscope = microscope or FakeMicroscope()
    return microscope.run(build(BASE | settings, microscope.context), replay)


def acquired(results):
    return [r for r in results if isinstance(r.step, Acquire)]


def notes(results):
    return " ".join(r.step.text for r in results if isinstance(r.step, Note))


def test_a_run_goes_from_the_overview_over_the_review_to_the_spectra():
    results = run()
    ids = [r.step.step_id for r in results]
    assert ids[:4] == ["overview-0", "review-0", "go-0", "drift-0"]
    assert len(set(ids)) == len(ids)
    assert len(acquired(results)) == 40
    assert {r.step.target_id for r in acquired(results)} == {f"r0-{i:04d}" for i in range(40)}
    assert results[1].step.estimate.duration_s > 0


def test_replaying_the_results_leads_to_the_same_steps():
    microscope = FakeMicroscope(drift_nm_per_s=(0.5, -0.3), seed=3)
    whole = run(microscope)
    again = run(FakeMicroscope(seed=99), replay=whole)
    assert [r.step for r in again] == [r.step for r in whole]


@hypothesis_settings(max_examples=5)
@given(st.integers(1, 30))
def test_a_run_cut_anywhere_measures_the_same_targets_once(cut):
    whole = run(FakeMicroscope(seed=5), chooser="grid", points=20)
    # A new program: its clock begins at zero again.
    resumed = run(FakeMicroscope(seed=6), replay=whole[:cut], chooser="grid", points=20)
    targets = [r.step.target_id for r in acquired(resumed)]
    assert sorted(targets) == sorted(r.step.target_id for r in acquired(whole))
    assert len(set(targets)) == len(targets)


def test_a_clock_that_was_started_again_brings_a_drift_image_at_once():
    whole = run(drift_every=1000)
    scans = sum(isinstance(r.step, Scan) for r in whole)
    resumed = run(FakeMicroscope(), replay=whole[:15], drift_every=1000)
    assert sum(isinstance(r.step, Scan) for r in resumed) == scans + 1


def broken_off(whole, cut):
    """The first results of a run, as a journal gives them to the plan once the run was taken up again after them."""
    return [*whole[: cut - 1], whole[cut - 1].model_copy(update={"interrupted": True})]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("cut", [2, 4, 5, 14])
def test_the_first_point_after_a_break_is_where_the_specimen_is_by_then(cut, restarted):
    """Killed after the review, between a drift image and its note, after the note, and between two points."""
    drift, break_s = (0.04, -0.03), 120.0
    whole = run(FakeMicroscope(drift_nm_per_s=drift, seed=5), drift_every=20)
    kept = broken_off(whole, cut)
    stood = kept[-1].finished_s
    later = FakeMicroscope(drift_nm_per_s=drift, seed=6, drifted_s=(stood + break_s) if restarted else 0.0)
    later.now_s = 0.0 if restarted else stood + break_s
    resumed = run(later, replay=kept, drift_every=20)
    began = resumed[cut:]
    assert [r.step.target_id for r in acquired(resumed)] == [r.step.target_id for r in acquired(whole)]
    first = next(k for k, r in enumerate(began) if isinstance(r.step, Acquire))
    assert any(isinstance(r.step, Scan) for r in began[:first])
    for result in acquired(began):
        moved = np.array(drift) * (later.drifted_s + 0.5 * (result.started_s + result.finished_s))
        assert np.hypot(*(np.array(result.step.drift_nm) - moved)) < 0.5
    # and the whole of it, replayed after another break, asks for the same steps
    again = run(FakeMicroscope(drift_nm_per_s=drift, seed=9), replay=resumed, drift_every=20)
    assert [r.step for r in again] == [r.step for r in resumed]


@pytest.mark.parametrize("drift", [(1.0, 0.0), (-0.6, 0.8)])
def test_drift_is_followed_to_a_third_of_a_pixel(drift):
    microscope = FakeMicroscope(drift_nm_per_s=drift, seed=1)
    results = run(microscope, points=150, exposure_s=0.1)
    overview = results[0]
    residuals = []
    for r in acquired(results):
        chosen = np.array([r.step.y_nm, r.step.x_nm]) - r.step.drift_nm
        seen_s = overview.started_s + chosen[0] / 128 * (overview.finished_s - overview.started_s)
        middle = r.started_s + 1e-3 + 0.05
        residuals.append(np.array(r.step.drift_nm) - microscope.drift * (middle - seen_s))
    assert len(residuals) >= 120
    assert np.sqrt(np.mean(np.sum(np.square(residuals), axis=1))) <= 0.3
    assert np.hypot(*acquired(results)[-1].step.drift_nm) >= 10
    corrections = [r.step for r in results if isinstance(r.step, Note) and "velocity_y_nm_per_s" in r.step.data]
    assert corrections[-1].data["velocity_y_nm_per_s"] == pytest.approx(drift[0], abs=0.1)


def test_what_drifts_out_of_the_field_is_left_out_and_said():
    results = run(
        FakeMicroscope(drift_nm_per_s=(0.0, 2.0), seed=1),
        chooser="grid",
        points=196,
        exposure_s=0.1,
        drift_rate_nm_per_s=2.0,
    )
    assert "drifted out of the field" in notes(results)
    field = context().field
    assert all(field.contains(r.step.y_nm, r.step.x_nm) for r in acquired(results))
    for r in results:
        if isinstance(r.step, Scan) and r.step.field:
            far = (r.step.field.y_nm + r.step.field.height_nm, r.step.field.x_nm + r.step.field.width_nm)
            assert field.contains(r.step.field.y_nm, r.step.field.x_nm)
            assert field.contains(*far)


def test_without_drift_correction_there_is_one_scan_and_no_shift():
    results = run(drift_every=0)
    assert sum(isinstance(r.step, Scan) for r in results) == 1
    assert all(r.step.drift_nm == (0.0, 0.0) for r in acquired(results))


def test_a_refused_drift_image_keeps_the_prediction_and_says_so():
    microscope = FakeMicroscope(seed=2)
    microscope.fails = lambda step: "no scan came back" if getattr(step, "purpose", "") == "drift" else ""
    results = run(microscope)
    assert "the prediction is kept: no scan came back" in notes(results)
    assert len(acquired(results)) == 40


class Person:
    """Answers reviews one after the other."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def __call__(self, step: AwaitReview) -> ReviewOutcome:
        self.asked.append(step)
        answer = self.answers.pop(0)
        return answer(step) if callable(answer) else answer


def test_a_person_looks_first_then_asks_then_asks_again_and_goes():
    person = Person(
        ReviewOutcome(action="repropose", settings={"chooser": "grid", "points": 9}),
        lambda step: ReviewOutcome(
            action="repropose", approved=step.targets[:2], settings={"chooser": "random", "points": 5}
        ),
        approve_all,
    )
    results = run(FakeMicroscope(review=person), propose_first=False)
    first, second, third = (step.targets for step in person.asked)
    assert first == ()
    assert len(second) == 9
    assert third[:2] == second[:2], "what was approved already is kept"
    assert [t.target_id[:2] for t in third[2:]] == ["r1"] * 5
    assert len(acquired(results)) == 7


def test_a_new_overview_on_request_and_nothing_kept_from_the_old_one():
    person = Person(
        lambda step: ReviewOutcome(action="repropose", approved=step.targets, settings={"rescan": True, "points": 6}),
        approve_all,
    )
    results = run(FakeMicroscope(review=person))
    assert [r.step.step_id for r in results if isinstance(r.step, Scan)][:2] == ["overview-0", "overview-1"]
    assert {t.target_id[:2] for t in person.asked[1].targets} == {"r1"}
    assert len(acquired(results)) == 6


@pytest.mark.parametrize("bad", [{"chooser": "magic"}, {"points": -1}, {"overview_signals": ["SE"]}])
def test_settings_that_cannot_be_used_end_neither_run_nor_proposal(bad):
    person = Person(ReviewOutcome(action="repropose", settings=bad), approve_all)
    results = run(FakeMicroscope(review=person))
    assert "No new proposal:" in notes(results)
    assert person.asked[1].targets == person.asked[0].targets
    assert len(acquired(results)) == 40


def test_finish_measures_nothing():
    results = run(FakeMicroscope(review=Person(ReviewOutcome(action="finish"))))
    assert acquired(results) == []


def test_moved_and_added_targets_are_measured_where_a_person_put_them():
    def verdict(step):
        moved = step.targets[0].model_copy(update={"y_nm": 11.0, "x_nm": 12.0})
        return ReviewOutcome(approved=(moved, Target(target_id="hand-0001", y_nm=50.0, x_nm=60.0)))

    results = run(FakeMicroscope(review=Person(verdict)), drift_every=0)
    places = {r.step.target_id: (r.step.y_nm, r.step.x_nm) for r in acquired(results)}
    assert places == {"r0-0000": (11.0, 12.0), "hand-0001": (50.0, 60.0)}


def test_rounds_never_measure_a_place_twice():
    results = run(rounds=3, chooser="random", points=20, spacing_nm=5.0, drift_every=0)
    places = np.array([(r.step.y_nm, r.step.x_nm) for r in acquired(results)])
    assert len(places) == 60
    distance = np.hypot(*(places[:, None] - places[None, :]).transpose(2, 0, 1)) + np.eye(60) * 1e9
    assert distance.min() >= 4.99


@pytest.mark.parametrize("chooser", ["random", "edges", "regions", "clusters"])
def test_rounds_keep_as_far_apart_as_they_can_where_no_distance_is_asked_for(chooser):
    first = run(rounds=1, chooser=chooser, points=15, drift_every=0)
    results = run(rounds=2, chooser=chooser, points=15, drift_every=0)
    before = np.array([(r.step.y_nm, r.step.x_nm) for r in acquired(first)])
    after = np.array([(r.step.y_nm, r.step.x_nm) for r in acquired(results)])[len(before) :]
    assert len(before) == len(after) == 15
    among = np.hypot(*(before[:, None] - before[None, :]).transpose(2, 0, 1)) + np.eye(15) * 1e9
    apart = np.hypot(*(after[:, None] - before[None, :]).transpose(2, 0, 1))
    assert apart.min() >= 2.0, "of pixels of 1 nm"
    if chooser in ("random", "edges"):
        assert apart.min() > 0.4 * np.median(among.min(axis=1))


def test_failed_points_are_passed_over_but_not_for_ever():
    microscope = FakeMicroscope(fails=lambda step: "no counts" if step.step_id.endswith("3") else "")
    results = run(microscope)
    assert sum(r.status == "failed" for r in acquired(results)) == 4
    assert sum(r.ok for r in acquired(results)) == 36
    microscope = FakeMicroscope(fails=lambda step: "no counts" if isinstance(step, Acquire) else "")
    results = run(microscope, largest_failures=3)
    assert len(acquired(results)) == 3
    assert "3 points failed one after the other, the last one because: no counts" in notes(results)


def test_a_veto_is_no_failure():
    microscope = FakeMicroscope(fails=lambda step: "veto of a person" if isinstance(step, Acquire) else "")
    assert len(acquired(run(microscope, largest_failures=2))) == 40


def test_without_an_overview_the_run_fails_with_the_reason():
    with pytest.raises(InstrumentFault, match="The overview could not be recorded: beam gone"):
        run(FakeMicroscope(fails=lambda step: "beam gone" if isinstance(step, Scan) else ""))


BEYOND = {"overview_field": {"y_nm": -5, "x_nm": 0, "height_nm": 1e6, "width_nm": 50}}


@pytest.mark.parametrize("settings", [BEYOND, {"overview_signals": ["SE"]}])
def test_a_plan_that_the_instrument_cannot_do_is_refused_before_it_starts(settings):
    with pytest.raises(BadInput):
        build(BASE | settings, context())


@pytest.mark.parametrize("shape", [[1, 1], [1, 64], [3, 3], [17, 40]])
def test_small_overviews_run_through(shape):
    results = run(overview_shape=shape, chooser="grid", points=500)
    assert 1 <= len(acquired(results)) <= shape[0] * shape[1]


@hypothesis_settings(max_examples=12)
@given(st.floats(0.3, 4.0), st.integers(0, 10), st.floats(0.01, 0.2))
def test_the_time_budget_is_never_exceeded(budget, every, exposure):
    results = run(time_budget_s=max(budget, exposure), drift_every=every, exposure_s=exposure, chooser="grid")
    after = [r for r in results if isinstance(r.step, Acquire) or getattr(r.step, "purpose", "") == "drift"]
    assert sum(r.finished_s - r.started_s for r in after) <= max(budget, exposure) + 1e-9


@hypothesis_settings(max_examples=12)
@given(st.floats(150, 1500), st.integers(0, 10))
def test_the_dose_budget_is_never_exceeded(budget, every):
    results = run(dose_budget_e_per_a2=budget, drift_every=every, chooser="grid")
    assert sum(r.dose_e_per_a2 for r in results) <= max(budget, results[0].dose_e_per_a2) * (1 + 1e-9)


def test_a_budget_keeps_the_best_and_a_remark_says_which_budget():
    targets = tuple(Target(target_id=f"t{i}", y_nm=1, x_nm=1, score=i / 10) for i in range(10))
    settings = parse(BASE | {"drift_every": 0, "time_budget_s": 0.2})
    kept, remark = within_budget(targets, settings, context())
    assert [t.target_id for t in kept] == ["t7", "t8", "t9"]
    assert "time budget of 0.2 s allows 3 of 10" in remark
    assert estimate(kept, settings, context()).duration_s <= 0.2


def test_a_dose_budget_that_cannot_be_kept_is_said():
    results = run(FakeMicroscope(beam_current_pa=None), dose_budget_e_per_a2=1.0)
    assert "beam current is not known" in notes(results)


def test_the_estimate_covers_what_is_done():
    microscope = FakeMicroscope()
    results = run(microscope)
    begin = next(i for i, r in enumerate(results) if r.step.step_id == "go-0")
    promised = results[begin].step.estimate
    done = [r for r in results[begin:] if not isinstance(r.step, Note)]
    assert len(done) <= promised.steps <= len(done) + 2
    assert sum(r.dose_e_per_a2 for r in done) <= promised.dose_e_per_a2 * (1 + 1e-9)
    assert results[-1].finished_s - results[begin].finished_s <= promised.duration_s * (1 + 1e-9)


@pytest.mark.parametrize("order", ["path", "score", "raster", "proposed"])
def test_every_order_measures_everything_once(order):
    results = run(order=order, drift_every=0)
    targets = [r.step.target_id for r in acquired(results)]
    assert sorted(targets) == [f"r0-{i:04d}" for i in range(40)]
    places = np.array([(r.step.y_nm, r.step.x_nm) for r in acquired(results)])
    if order == "raster":
        assert (np.diff(places[:, 0]) >= 0).all()
    if order in ("score", "proposed"):
        assert targets == sorted(targets)
