"""The optics kept good during an acquisition: a Ronchigram before an image, a correction where it is asked for, dose and record."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest

from napari_smarttem import headless
from napari_smarttem.alignment import reading
from napari_smarttem.alignment.check import worst_deviation
from napari_smarttem.engine.journal import Journal
from napari_smarttem.engine.session import Session
from napari_smarttem.engine.status import RunState
from napari_smarttem.physics.aberrations import ESTIMATED
from napari_smarttem.schema import BadInput, InstrumentFault, KeepGood, MissingCapability, Note, PlanSpec, Scan

from ..engine.test_runner import until
from ..widgets.alignment_column import SIGMA, START, TinyEstimator, microscope
from .test_click import a_reading

SETTINGS = {
    "overview_shape": [32, 32], "chooser": "grid", "points": 6, "exposure_s": 0.01, "drift_every": 0,
    "image_nm": 20.0, "image_pixels": 16,
}  # fmt: skip


@pytest.fixture
def column(monkeypatch):
    monkeypatch.setattr(reading, "_estimator", TinyEstimator)
    return microscope()


@pytest.fixture
def session(tmp_path, column):
    with Session(tmp_path) as session:
        session.use(column)
        yield session


def spec(keep=None, **settings):
    return PlanSpec(kind="acquisition", settings=SETTINGS | settings, keep_good=keep)


def keep(mode="correct", every=2, before="image", **settings):
    return KeepGood(before=before, every=every, settings={"mode": mode, **settings})


def finished(session, wanted, **options):
    path = session.start(wanted, **({"policy": "approve_all"} | options))
    assert session.wait(60)
    with Journal.open(path, read_only=True) as journal:
        return journal, [journal.result(step_id) for step_id in journal.steps]


def of_checks(results):
    return [one for one in results if one.step.step_id.startswith("keep-good-")]


def test_a_ronchigram_before_every_second_image_and_what_is_off_is_corrected(session, column):
    journal, results = finished(session, spec(keep()))
    assert session.status.outcome == "finished", session.status.reason
    images = [one for one in results if isinstance(one.step, Scan) and one.step.purpose == "image"]
    assert len(images) == 6
    assert column.camera.pictures == 3
    order = [one.step.step_id for one in results]
    firsts = [order.index(f"keep-good-{n:04d}-picture-reading-0") for n in range(3)]
    assert [order.index(images[k].step.step_id) for k in (0, 2, 4)] > firsts
    assert all(a < b for a, b in zip(firsts, [order.index(images[k].step.step_id) for k in (0, 2, 4)], strict=True))
    left = column.camera.aberrations()
    assert np.all(np.abs(left[1:]) < 6 * SIGMA[1:])
    assert column.optics.get()["C1"] == 0.0  # the focus is a person's
    words = [one.step.text for one in of_checks(results) if isinstance(one.step, Note)]
    assert any("times its limit" in one for one in words)
    assert words[-1] == "The alignment was checked and is still good."
    assert journal.start.plan.keep_good.settings["controls"]["C1"]["value"] == 0.0


def test_without_the_option_no_ronchigram_is_taken_and_without_images_none_is_due(session, column):
    finished(session, spec())
    finished(session, spec(keep(), image_nm=None))
    assert column.camera.pictures == 0


def test_the_dose_of_the_checks_counts_in_the_budget_and_in_the_estimate(session, column):
    _, plain = finished(session, spec())
    _, results = finished(session, spec(keep(every=1)))
    looks = sum(one.dose_e_per_a2 for one in of_checks(results))
    assert looks > 0
    assert session.status.dose_e_per_a2 == pytest.approx(sum(one.dose_e_per_a2 for one in plain) + looks)

    def foretold(of):
        return next(one.step.estimate.dose_e_per_a2 for one in of if one.step.step_id == "go-0")

    assert foretold(results) - foretold(plain) == pytest.approx(looks, rel=1e-2)  # a camera takes a moment longer
    # a budget for four of the six points, checks included: the plan itself stops, at most one check beyond it
    budget = foretold(results) * 4.4 / 6 + plain[0].dose_e_per_a2
    _, short = finished(session, spec(keep(every=1), dose_budget_e_per_a2=budget))
    assert session.status.outcome == "finished"
    assert sum(one.dose_e_per_a2 for one in short) <= budget + 1.01 * looks / 6
    assert 0 < sum(one.step.kind == "acquire" for one in short) < 6


def test_asked_first_a_no_leaves_the_optics_and_the_points_stay_approved(session, column):
    session.start(spec(keep("ask", every=3)))
    until(lambda: session.status.state is RunState.AWAITING_REVIEW)
    session.review.approve([one.target.target_id for one in session.review.items()])
    session.review.submit("go")
    answers = iter(("finish", "go"))
    for answer in answers:
        until(lambda: session.status.state is RunState.AWAITING_REVIEW and "Correct" in session.status.reason)
        assert len(session.review.items()) == 6
        assert {str(one.state) for one in session.review.items()} <= {"approved", "done"}
        before = column.optics.get()
        assert before["A1.x"] == 0.0
        session.review.submit(answer)
        until(lambda: not session.review.is_open)
        until(lambda: session.status.state is not RunState.AWAITING_REVIEW or "Correct" not in session.status.reason)
    assert session.wait(60)
    assert session.status.outcome == "finished"
    assert column.optics.get()["A1.x"] == pytest.approx(-START[1], abs=5 * SIGMA[1])
    assert all(str(one.state) == "done" for one in session.review.items())


def test_a_camera_that_gives_nothing_costs_the_check_and_not_the_run(session, column, monkeypatch):
    def silent(*_, **__):
        raise InstrumentFault("the camera gives no picture", transient=True)

    monkeypatch.setattr(column.camera, "acquire_image", silent)
    _, results = finished(session, spec(keep()))
    assert session.status.outcome == "finished"
    words = [one.step.text for one in of_checks(results) if isinstance(one.step, Note)]
    assert len(words) == 3
    assert all("could not be checked: the camera gives no picture" in one for one in words)
    assert all(value == 0.0 for value in column.optics.get().values())
    assert sum(one.step.kind == "acquire" for one in results) == 6


def test_a_camera_that_dies_ends_the_run_with_the_optics_back(session, column, monkeypatch):
    def dead(*_, **__):
        raise InstrumentFault("the camera is gone")

    monkeypatch.setattr(column.camera, "acquire_image", dead)
    finished(session, spec(keep()))
    assert session.status.outcome == "failed"
    assert "camera is gone" in session.status.reason
    assert all(value == 0.0 for value in column.optics.get().values())


def test_a_run_stopped_after_a_correction_goes_on_with_it(session, column):
    spectra = []

    def stop_after_two_spectra(result):
        spectra.extend([result] if result.step.kind == "acquire" else [])
        if len(spectra) == 2:
            session.stop()

    session.step_finished.connect(stop_after_two_spectra)
    path = session.start(spec(keep()), policy="approve_all")
    assert session.wait(60)
    session.step_finished.disconnect(stop_after_two_spectra)
    assert session.status.outcome == "stopped"
    assert all(value == 0.0 for value in column.optics.get().values())  # as it was before the run
    pictures = column.camera.pictures
    session.resume(path, policy="approve_all")
    assert session.wait(60)
    assert session.status.outcome == "finished", session.status.reason
    assert 0 < column.camera.pictures - pictures < 3  # what the journal holds is not looked at again
    assert np.all(np.abs(column.camera.aberrations()[1:]) < 6 * SIGMA[1:])


def test_the_session_keeps_every_acquisition_good_where_it_was_told_to(session, column):
    session.keep_good = keep(before="point", every=4, place_nm=[10.0, 20.0])
    journal, results = finished(session, spec(image_nm=None))
    assert column.camera.pictures == 2
    assert journal.start.plan.keep_good.every == 4
    looked = [one.step for one in of_checks(results) if one.step.kind == "take_image"]
    assert [(one.y_nm, one.x_nm) for one in looked] == [(10.0, 20.0)] * 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"mode": "hope"}, "mode"), ({"expected_c1_nm": -1e9}, "smaller defocus"), ({"place_nm": [1.0]}, "place_nm")],
)
def test_a_check_that_cannot_be_is_refused_before_anything_moves(session, column, settings, words):
    with pytest.raises(BadInput, match=words):
        session.start(spec(KeepGood(settings=settings)))
    assert column.camera.pictures == 0


def test_an_instrument_without_a_camera_says_so(session, column):
    column.camera = None
    session.use(column)
    with pytest.raises(MissingCapability, match="camera"):
        session.start(spec(keep()))


def test_noise_is_no_deviation_and_what_was_aimed_at_is_none():
    values = np.zeros(8)
    values[0], values[1] = 50.0, 3.0
    found = a_reading(values, sigma=np.full(8, 2.0)).model_copy(update={"tolerance": (1.0,) * 8})
    assert worst_deviation(found, {"C1": 0.0}) == ("", 0.0)
    assert worst_deviation(found, {}) == ("C1", 50.0)
    sharp = a_reading(values, sigma=np.full(8, 1.0)).model_copy(update={"tolerance": (1.0,) * 8})
    assert worst_deviation(sharp, {"C1": 0.0}) == (ESTIMATED[1], 3.0)


def test_the_command_line_checks_before_images_or_else_before_spectra():
    options = Namespace(keep_good=3)
    with_images, without = headless.kept_good(options, {"image_nm": 20.0}), headless.kept_good(options, {})
    assert (with_images.before, without.before, without.every) == ("image", "point", 3)
    assert without.settings["mode"] == "correct"
    assert headless.kept_good(Namespace(keep_good=None), {}) is None
    with pytest.raises(BadInput, match="from 1 on"):
        headless.kept_good(Namespace(keep_good=0), {})
