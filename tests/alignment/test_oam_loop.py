"""The closed loop on the simulated sorter, without a network: it aligns, learns, refuses, and leaves things as they were."""

from __future__ import annotations

import numpy as np
import pytest

from napari_smarttem.alignment.targets import available
from napari_smarttem.alignment.targets import target as target_called
from napari_smarttem.alignment.targets.base import AlignmentTarget, Guess, Parameter
from napari_smarttem.alignment.targets.fit import refine, search
from napari_smarttem.alignment.targets.loop import build, controls_of
from napari_smarttem.alignment.targets.oam_sorter import OamSorterTarget
from napari_smarttem.backends.registry import connect
from napari_smarttem.engine.session import Session
from napari_smarttem.physics.oam import PARAMETERS, frames
from napari_smarttem.physics.oam_range import HALF_RANGES, draw
from napari_smarttem.physics.oam_states import petals
from napari_smarttem.schema import BadInput, PlanContext, PlanSpec, ReviewOutcome, SetOptics, TakeImage

from .toy_optics import SorterBench, ToyOptics, drive, notes


@pytest.fixture(scope="module")
def target():
    return OamSorterTarget(network=False)


def known_response(bench, error=0.03, seed=0):
    """As learned on another day: a few percent off."""
    noise = np.random.default_rng(seed).normal(size=(5, 5))
    return (bench.part.response * (1 + error * noise)).tolist()


def is_aligned(target, bench):
    resolution, power = target.quality(bench.part.misalignment())
    return resolution <= 1.1 * target.aligned[0] and power >= 0.95 * target.aligned[1]


@pytest.mark.parametrize(("seed", "exposure_s"), [(1, 0.1), (2, 0.1), (3, 1.0)])
def test_aligned_within_five_pictures_and_held(target, seed, exposure_s):
    bench = SorterBench(seed)
    assert not is_aligned(target, bench)
    good = []
    outcome, _ = drive(
        target, bench, response=known_response(bench), exposure_s=exposure_s, hold=3,
        spoil=lambda step, frame: good.append(is_aligned(target, bench)) or frame,
    )  # fmt: skip
    assert outcome.verdict == "aligned"
    assert all(good[4:])
    assert is_aligned(target, bench)


def test_controls_nobody_has_calibrated_are_learned(target):
    bench = SorterBench(4)
    outcome, steps = drive(target, bench)
    assert outcome.verdict == "aligned"
    assert is_aligned(target, bench)
    learned, truth = np.array(outcome.response), bench.part.response
    assert np.linalg.norm((learned - truth) / HALF_RANGES[:, None]) < 0.2 * np.linalg.norm(truth / HALF_RANGES[:, None])
    assert np.array(notes(steps)["response"].data["response"]).shape == (5, 5)
    assert len({step.step_id for step in steps}) == len(steps)


def test_a_wrong_response_is_noticed_and_learned_anew(target):
    bench = SorterBench(12)
    outcome, steps = drive(target, bench, response=(-bench.part.response).tolist())
    assert any(name.startswith("worse") for name in notes(steps))
    names = [step.step_id for step in steps]
    assert len(names) == len(set(names))  # a resumed run finds its results by them
    assert outcome.verdict == "aligned"
    assert is_aligned(target, bench)


def test_steps_stay_within_the_largest_step_and_the_limits(target):
    bench = SorterBench(5, start=2.0 * HALF_RANGES * [1, -1, 1, 1, -1])
    _, steps = drive(target, bench, response=known_response(bench))
    last = dict.fromkeys(bench.optics.controls, 0.0)
    for step in steps:
        if isinstance(step, SetOptics):
            for name, value in step.values.items():
                info = bench.optics.controls[name]
                assert info.minimum <= value <= info.maximum
                assert abs(value - last[name]) <= info.largest_step
            last = {**last, **step.values}


def test_what_is_not_a_sorter_picture_moves_nothing(target):
    bench = SorterBench(6)
    rng = np.random.default_rng(0)
    outcome, steps = drive(
        target, bench, response=known_response(bench),
        spoil=lambda step, frame: frame.with_data(rng.poisson(2.0, frame.shape).astype(float)),
    )  # fmt: skip
    assert outcome.verdict == "cannot"
    assert not [step for step in steps if isinstance(step, SetOptics)]
    assert "back where it was" in notes(steps)["cannot"].text


def test_controls_are_put_back_when_the_beam_goes_away(target):
    bench = SorterBench(7)
    taken = []

    def spoil(step, frame):
        taken.append(step)
        return frame if len(taken) < 2 else frame.with_data(np.zeros(frame.shape))

    outcome, _ = drive(target, bench, response=known_response(bench), spoil=spoil, frames=8, hold=3)
    assert outcome.verdict == "cannot"
    assert bench.optics.get() == dict.fromkeys(bench.optics.controls, 0.0)


def test_pictures_older_than_the_change_and_broken_ones_are_taken_again(target):
    bench = SorterBench(8)
    seen = []

    def spoil(step, frame):
        seen.append(step.step_id)
        if step.step_id == "picture-000":
            return frame.with_data(np.full(frame.shape, np.nan))
        if step.step_id == "picture-001":
            return frame.with_data(frame.data, metadata={**frame.metadata, "exposure_started_s": -1.0})
        return frame

    outcome, _ = drive(target, bench, response=known_response(bench), spoil=spoil)
    assert outcome.verdict == "aligned"
    assert {"picture-000-again-1", "picture-001-again-1"} <= set(seen)


def test_far_beyond_the_range_it_aligns_or_says_no_and_never_wanders_off(target):
    rng = np.random.default_rng(9)
    for k in range(2):
        bench = SorterBench(20 + k, start=HALF_RANGES * rng.uniform(1.5, 2.6, 5) * rng.choice((-1, 1), 5))
        before = np.abs(bench.part.misalignment() / HALF_RANGES).max()
        outcome, _ = drive(target, bench, response=known_response(bench))
        after = np.abs(bench.part.misalignment() / HALF_RANGES).max()
        assert is_aligned(target, bench) if outcome.verdict == "aligned" else after < 1.05 * before + 0.05


def test_a_person_decides_and_undoes(target):
    bench = SorterBench(10)
    answers = iter(
        [
            ReviewOutcome(action="repropose"),
            ReviewOutcome(action="go"),
            ReviewOutcome(action="go"),
            ReviewOutcome(action="finish", settings={"undo": True}),
        ]
    )
    outcome, steps = drive(target, bench, response=known_response(bench), ask=True, review=lambda step: next(answers))
    assert outcome.verdict == "ended by a person"
    assert [step.step_id for step in steps if isinstance(step, SetOptics)] == ["set-001", "set-002", "undo"]
    assert bench.optics.get() == dict.fromkeys(bench.optics.controls, 0.0)
    prompts = [step.prompt for step in steps if step.kind == "await_review"]
    assert "sorter focus" in prompts[0]
    assert "aligned" in prompts[3]


def test_same_results_lead_to_the_same_steps(target):
    first, second = (drive(target, SorterBench(11), response=known_response(SorterBench(11)))[1] for _ in range(2))
    assert first == second


def test_error_bars_are_honest_and_the_search_needs_no_guess(target):
    rng = np.random.default_rng(12)
    pulls = []
    for truth in draw(12, rng):
        counts = frames(target.picture(truth)[None], 2e4, rng)[0]
        fit = refine(target, counts, truth + 0.05 * HALF_RANGES)
        pulls.append((fit.values - truth) / fit.sigma)
    assert 0.55 < np.mean(np.abs(pulls) < 1) < 0.82
    assert np.sqrt(np.mean(np.square(pulls))) < 1.4
    truth = draw(1, np.random.default_rng(2))[0]
    found = search(target, frames(target.picture(truth)[None], 1e4, rng)[0], [], rng)
    assert found.trusted
    assert np.abs((found.values - truth) / HALF_RANGES).max() < 0.05


def test_fewer_electrons_mean_larger_error_bars(target):
    rng = np.random.default_rng(13)
    few, many = (
        refine(target, frames(target.picture(0.3 * HALF_RANGES)[None], n, rng)[0], 0.3 * HALF_RANGES).sigma
        for n in (1e3, 1e5)
    )
    assert np.all(few > 4 * many)


class Mirror(AlignmentTarget):
    """A spot whose width tells how far out it is, and never to which side: the worst degeneracy there is."""

    name, camera, controls = "mirror", "toy", ("knob",)
    parameters = (Parameter("p", "1", 1.0),)

    def picture(self, parameters):
        x = np.arange(32) - 15.5
        width = 2.0 + 4.0 * parameters[0] ** 2
        spot = np.exp(-0.5 * (x[:, None] ** 2 + x[None] ** 2) / width**2)
        return spot / spot.sum()

    def merit(self, parameters):
        return float(np.exp(-4 * parameters[0] ** 2))


@pytest.mark.parametrize("start", [-0.7, 0.7])
@pytest.mark.parametrize("knob", [-0.4, 0.4])
def test_a_mirror_degeneracy_is_seen_and_resolved_by_the_known_step(start, knob):
    toy = ToyOptics(Mirror(), [start], [[knob]])
    outcome, steps = drive(Mirror(), toy, response=[[knob]], frames=8)
    assert notes(steps)["estimate-000"].data["ambiguous"]
    assert outcome.verdict == "aligned"
    assert abs(toy.misalignment[0]) < 0.1
    assert len([step for step in steps if isinstance(step, TakeImage)]) <= 5


def test_in_a_session_on_the_simulated_microscope(tmp_path):
    with Session(sync=False) as session:
        session.connect("simulator", seed=3, speed=None, sorter=True).result()
        assert session.instrument is not None
        microscope = session.instrument.unwrapped
        settings = {
            "controls": controls_of(session.instrument.optics, OamSorterTarget.controls),
            "target_settings": {"network": False},
            "response": microscope.sorter.response.tolist(),
        }
        session.start(PlanSpec(kind="target-alignment", settings=settings), tmp_path / "sorter.smarttem")
        session.wait()
        assert session.status.outcome == "finished"
        at = microscope.sorter.misalignment()
        assert OamSorterTarget(network=False).merit(at) > 0.95


def test_sorter_stands_in_the_column_only_when_asked_for():
    plain, fitted = connect("simulator", speed=None), connect("simulator", speed=None, sorter=True)
    assert "sorter focus" not in plain.optics.controls
    assert fitted.camera.cameras[-1] == "sorter"
    assert "sorter focus" in fitted.optics.controls
    assert set(plain.optics.controls) < set(fitted.optics.controls)
    assert connect("simulator", **fitted.info.settings).info == fitted.info


def test_plan_says_what_it_cannot_use():
    context = PlanContext(field={"y_nm": 0, "x_nm": 0, "height_nm": 1, "width_nm": 1})
    with pytest.raises(BadInput, match="controls"):
        build({}, context)
    with pytest.raises(BadInput, match="sorter focus"):
        build({"controls": {}, "target_settings": {"network": False}}, context)
    with pytest.raises(BadInput, match="oam-sorter"):
        build({"controls": {}, "target": "toaster"}, context)
    controls = controls_of(SorterBench().optics)
    with pytest.raises(BadInput, match="5 x 5"):
        build({"controls": controls, "response": [[1.0]], "target_settings": {"network": False}}, context)


def test_camera_of_another_size_is_refused_in_words(target):
    frame = SorterBench().picture(0.1)
    with pytest.raises(BadInput, match="64 x 64"):
        target.counts(frame.with_data(frame.data[:100, :100]))
    assert target.counts(frame).sum() == pytest.approx(np.sum(frame.data))


def test_registry_of_targets():
    assert "oam-sorter" in available()
    assert target_called("oam-sorter", network=False).name == "OAM sorter"


def test_guesses_are_kept_apart_from_facts(target):
    """A confident wrong guess must not survive the picture."""
    rng = np.random.default_rng(14)
    truth = 0.5 * HALF_RANGES
    counts = frames(target.picture(truth)[None], 1e4, rng)[0]
    wrong = Guess(-truth, np.diag((1e-3 * HALF_RANGES) ** 2))
    fit = search(target, counts, [wrong], rng)
    assert fit.trusted
    assert np.abs((fit.values - truth) / HALF_RANGES).max() < 0.1


def test_names_agree_everywhere():
    assert tuple(one.name for one in OamSorterTarget.parameters) == PARAMETERS
    assert set(OamSorterTarget.controls) == set(SorterBench().optics.controls)


def test_petals_can_be_sent_in_instead_of_a_plane_wave():
    target = OamSorterTarget(state=petals(4))
    assert not target.uses_network  # it knows plane waves only
    rng = np.random.default_rng(15)
    truth = 0.4 * HALF_RANGES * [1, -1, 1, 1, -1]
    counts = frames(target.picture(truth)[None], 3e4, rng)[0]
    fit = refine(target, counts, truth + 0.05 * HALF_RANGES)
    assert fit.trusted
    assert np.abs((fit.values - truth) / HALF_RANGES).max() < 0.05
