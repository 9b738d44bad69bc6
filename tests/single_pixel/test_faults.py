"""What a run says and does when something is wrong: detector, plate, predictor, a killed program, a stopped fit."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from napari_smarttem.backends.faults import Fault, Faulty
from napari_smarttem.backends.registry import connect
from napari_smarttem.engine.journal import Journal
from napari_smarttem.engine.session import Session
from napari_smarttem.physics.caustics import CAPACITANCE_F
from napari_smarttem.physics.caustics_basis import coefficients
from napari_smarttem.schema import Note, PlanSpec
from napari_smarttem.single_pixel import live
from napari_smarttem.single_pixel.plan import build
from napari_smarttem.single_pixel.posterior import LARGEST_MISFIT
from napari_smarttem.single_pixel.predict import Decoder

STILL = {"drift_nm_per_s": (0.0, 0.0), "drift_walk_nm": 0.0, "contamination": False}
SETTINGS = {"pixels": 16, "patterns": 32, "batch": 16, "pool": 200, "check_every": 0, "check_patterns": 4}
CHECKED = 4


@pytest.fixture(scope="module")
def decoder():
    """Of the simulator's own plate (seed 3), as a perfect calibration would find it."""
    instrument = connect("simulator", seed=3, speed=None, phase_plate=True)
    caustics = instrument.phase_plate.caustics
    instrument.close()
    o = caustics.optics
    values = np.array([0.0, np.log(o.source_px), o.stretch, o.shear, o.barrel, o.falloff])
    return Decoder(coefficients(caustics.plate, o), values, error=0.01)


@pytest.fixture
def run(tmp_path, decoder):
    """Run the plan in a session; gives the session, the notes and the run folder."""
    sessions = []

    def go(*faults, plate=None, before=None, hear=None, decoder=decoder, calibrated=True, **settings):
        session = Session(tmp_path / str(len(sessions)), sync=False)
        sessions.append(session)
        instrument = connect("simulator", seed=3, speed=None, phase_plate=True, **STILL)
        if before is not None:
            before(instrument.phase_plate)
        session.use(Faulty(instrument, faults) if faults else instrument)
        notes = {}

        def heard(result):
            if isinstance(result.step, Note):
                notes[result.step.step_id] = result.step
            if hear is not None:
                hear(result, session, instrument.phase_plate)

        session.step_finished.connect(heard)
        if calibrated:
            file = tmp_path / f"plate-{len(sessions)}.npz"
            decoder.save(file)
            settings["calibration_file"] = str(file)
        folder = session.start(PlanSpec(kind="single_pixel", settings={**SETTINGS, **settings}), policy="approve_all")
        assert session.wait(200)
        truth = instrument.phase_plate.transmission(0.0).reshape(16, 4, 16, 4).mean(axis=(1, 3))
        session.truth = truth
        return session, notes, folder

    yield go
    for session in sessions:
        session.close()


def picture_of(notes):
    last = max(name for name in notes if name.startswith("picture"))
    return np.array(notes[last].data["picture"]), notes[last]


def error(picture, truth):
    return np.linalg.norm(picture - truth) / np.linalg.norm(truth - truth.mean())


def undisturbed(run, patterns):
    """Error of the same run where nothing is wrong: so few patterns leave most of it, whatever the plate does."""
    session, notes, _ = run(patterns=patterns)
    return error(picture_of(notes)[0], session.truth)


def test_a_signal_that_is_no_number_is_measured_again(run):
    session, notes, _ = run(Fault("nan", calls=("acquire_image",), at=(CHECKED + 3, CHECKED + 9)))
    assert session.status.outcome == "finished"
    picture, last = picture_of(notes)
    assert last.data["patterns"] == 32
    assert np.isfinite(picture).all()


@pytest.mark.slow
def test_a_detector_that_stays_blind_ends_the_run_with_a_sentence(run):
    session, notes, _ = run(Fault("nan", calls=("acquire_image",), at=tuple(range(CHECKED + 6, 400))), patterns=64)
    assert session.status.outcome == "finished"
    assert notes["end"].level == "warning"
    assert "10 patterns failed one after the other (the last: The bucket image has 1 values that are not finite" in (
        notes["end"].text
    )
    assert picture_of(notes)[1].data["patterns"] == 6


def test_calibration_patterns_that_are_no_numbers_are_not_used(run):
    blind = Fault("nan", calls=("acquire_image",), at=tuple(range(45)))  # a frame is tried three times
    session, _, _ = run(blind, calibrated=False, calibration_patterns=30)
    assert session.status.outcome == "failed"
    assert "Only 15 of 30 calibration patterns could be recorded" in session.status.reason
    assert "not finite" in session.status.reason


def test_a_plate_that_is_not_as_calibrated_is_said_and_costs_little(run, decoder):
    rng = np.random.default_rng(1)
    away = decoder.coefficients * (1 + 0.02 * rng.standard_normal(decoder.coefficients.shape))
    session, notes, _ = run(decoder=replace(decoder, coefficients=away), patterns=64)
    assert session.status.outcome == "finished"
    said = notes["check-0-note"]
    assert said.level == "warning"
    assert "calibrate anew" in said.text
    assert error(picture_of(notes)[0], session.truth) < 1.2 * undisturbed(run, 64)


def test_charging_by_a_tenth_of_a_volt_is_followed(run):
    charge = 0.1 * np.array([1, -1, 1, 1, -1, 1, -1, 1])
    built = []
    session, notes, _ = run(
        before=lambda plate: (plate.charge(charge), built.append(plate.caustics.plate)), patterns=64
    )
    assert "The plate has charged" in notes["check-0-note"].text
    as_biases = np.linalg.solve(built[0].capacitance, CAPACITANCE_F * charge)
    np.testing.assert_allclose(notes["check-0-note"].data["bias_offset_v"], as_biases, atol=0.03)
    assert error(picture_of(notes)[0], session.truth) < 1.1 * undisturbed(run, 64)


def charged_on_the_way(result, _session, plate):
    if result.step.step_id == "picture-0001":
        plate.charge(0.3 * np.array([1, -1, 1, 1, -1, 1, -1, 1]))


@pytest.mark.slow
def test_signals_tell_of_charging_that_nobody_checks(run):
    session, notes, _ = run(hear=charged_on_the_way, patterns=160)
    picture, last = picture_of(notes)
    assert last.data["misfit"] > LARGEST_MISFIT
    assert last.level == "warning"
    assert "calibrate anew, or trust the picture less" in last.text
    assert error(picture, session.truth) < 1.0


def test_signals_that_scatter_ask_for_a_check_before_it_is_due(run):
    _, notes, _ = run(hear=charged_on_the_way, patterns=160, check_every=1000)
    assert "The plate has charged" in notes["check-1-note"].text
    assert any(name.startswith("ahead-") and note.estimate is not None for name, note in notes.items())


def test_measured_patterns_need_no_predictor(run):
    told = []
    leave = live.listen(told.append)
    session, notes, _ = run(
        calibrated=False, generator="measured", calibration_patterns=110, patterns=96, pattern_exposure_s=1e-2
    )
    leave()
    assert session.status.outcome == "finished"
    assert "will be used as they are" in notes["calibrated"].text
    assert "as recorded" in notes["check-0-note"].text
    picture, _ = picture_of(notes)
    first = np.array(notes["picture-0000"].data["picture"])
    # most of them reach far: with all of 110 in hand there is little to choose, but more is known than at first
    assert error(picture, session.truth) < min(0.8, 0.8 * error(first, session.truth))
    assert [one.patterns for one in told] == list(range(1, 97))
    assert all(one.picture.shape == (16, 16) for one in told)


@pytest.mark.slow
def test_measured_patterns_that_have_changed_are_said(run):
    def charge(result, _session, plate):
        if result.step.step_id == "calibrated":
            plate.charge(0.3 * np.array([1, -1, 1, 1, -1, 1, -1, 1]))

    _, notes, _ = run(
        calibrated=False, generator="measured", calibration_patterns=40, pattern_exposure_s=1e-2, hear=charge
    )
    assert "record them anew" in notes["check-0-note"].text
    assert notes["check-0-note"].level == "warning"


@pytest.mark.slow
def test_a_raster_of_the_spot_takes_as_many_electrons(run):
    _, notes, _ = run(generator="spot", patterns=150, rule="information")
    picture, last = picture_of(notes)
    assert last.data["patterns"] == 144
    session, notes, _ = run(rule="random", patterns=150)
    assert picture_of(notes)[1].data["electrons"] == pytest.approx(last.data["electrons"], rel=1e-6)
    assert error(picture, session.truth) < 0.6


def recomputed(folder):
    """Notes that the plan gives when it is fed what the record holds, beside those of the record."""
    with Journal.open(folder, read_only=True) as journal:
        plan = build(journal.start.plan.settings, journal.start.context)
        step, pairs = next(plan), []
        while True:
            result = journal.result(step.step_id)
            if isinstance(step, Note):
                pairs.append((step, result.step))
            try:
                step = plan.send(result)
            except StopIteration:
                return pairs


PROGRAM = """
import sys
from napari_smarttem.engine.session import Session
from napari_smarttem.schema import PlanSpec
from pathlib import Path

folder, plate, resume = Path(sys.argv[1]), sys.argv[2], len(sys.argv) > 3
with Session(folder.parent) as session:
    session.connect("simulator", seed=3, speed=None, phase_plate=True).result()
    session.step_finished.connect(lambda result: print(result.step.step_id, flush=True))
    settings = {"pixels": 16, "patterns": 96, "batch": 16, "pool": 200, "check_every": 2, "calibration_file": plate}
    if resume:
        session.resume(folder)
    else:
        session.start(PlanSpec(kind="single_pixel", settings=settings), folder, policy="approve_all")
    session.wait()
    sys.exit(session.status.outcome != "finished")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_run_is_resumed_with_the_same_posterior(tmp_path, decoder):
    plate, folder = tmp_path / "plate.npz", tmp_path / "run.smarttem"
    decoder.save(plate)
    first = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(plate)], stdout=subprocess.PIPE, text=True
    )
    for line in first.stdout:
        if line.startswith("b0003-"):
            first.send_signal(signal.SIGKILL)
            break
    first.wait(60)
    assert first.returncode == -signal.SIGKILL
    second = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(plate), "resume"],
        check=False,
        capture_output=True,
        timeout=200,
    )
    assert second.returncode == 0, second.stderr
    pairs = recomputed(folder)
    pictures = [(new, old) for new, old in pairs if new.step_id.startswith("picture")]
    assert len(pictures) == 6
    for new, old in pairs:
        assert new.text == old.text
        assert dict(new.data) == dict(old.data)


def test_a_fit_that_was_done_is_not_done_again(run):
    def stop(result, session, _plate):
        if result.step.step_id.startswith("b0000") and not result.replayed:
            session.stop("for the test")

    session, notes, folder = run(calibrated=False, calibration_patterns=20, hear=stop)
    assert session.status.outcome == "stopped"
    assert notes["fitted-0"].data["decoder"]["pixels"] == 64
    steps = []
    session.step_finished.connect(lambda result: steps.append((result.step.step_id, result.replayed)))
    notes.clear()
    session.step_finished.disconnect()
    session.step_finished.connect(lambda result: steps.append((result.step.step_id, result.replayed)))
    began = time.process_time()
    session.resume(folder)
    assert session.wait(100)
    assert session.status.outcome == "finished"
    assert ("fitted-0", True) in steps
    assert not any(name.startswith("fit-") for name, _ in steps)
    assert time.process_time() - began < 30


@pytest.mark.slow
def test_a_fit_that_was_stopped_is_made_again(run):
    def stop(result, session, _plate):
        if result.step.step_id == "fit-0-000":
            session.stop("for the test")

    session, notes, folder = run(calibrated=False, calibration_patterns=20, hear=stop)
    assert session.status.outcome == "stopped"
    assert "fitted-0" not in notes
    session.step_finished.disconnect()
    steps = []
    session.step_finished.connect(lambda result: steps.append(result.step))
    session.resume(folder)
    assert session.wait(100)
    assert session.status.outcome == "finished"
    by_id = {step.step_id: step for step in steps}
    assert "fit-1-000" in by_id
    assert by_id["fitted-1"].data["decoder"]["coefficients"]
    assert "calibrated" in by_id
