"""The closed loop on Ronchigrams when something goes wrong: a reason in words, the optics back, and a run that goes on later."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from napari_smarttem.alignment.targets.loop import controls_of  # noqa: E402
from napari_smarttem.backends.guard import Guard  # noqa: E402
from napari_smarttem.backends.registry import connect  # noqa: E402
from napari_smarttem.engine.execute import execute  # noqa: E402
from napari_smarttem.engine.session import Session  # noqa: E402
from napari_smarttem.schema import BadInput, PlanSpec, StepResult, TakeImage  # noqa: E402

from .test_ronchigram_loop import drive  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def instrument():
    guard = Guard(
        connect("simulator", seed=101, speed=None, high_tension_v=300e3, misalignment=1.0, optics_imperfection=1.0)
    )
    yield guard
    guard.close()


def spoiled(instrument, change):
    """Replaces every frame by `change` of it."""

    def spoil(step):
        if not isinstance(step, TakeImage):
            return None
        frame = execute(instrument, step, threading.Event()).frames[0]
        return StepResult(step=step, frames=(change(frame),))

    return spoil


def with_nan(frame):
    data = np.array(frame.data)
    data[3, 5] = np.nan
    return frame.with_data(data)


def test_frames_that_are_not_finite_end_it_with_the_optics_back(instrument):
    start = instrument.optics.get()
    outcome, _, notes = drive(instrument, {}, spoil=spoiled(instrument, with_nan))
    assert outcome.verdict == "cannot"
    assert "1 pixels are not finite" in notes[-1].text
    assert instrument.optics.get() == pytest.approx(start)


def test_a_frame_that_is_not_square_is_read_in_its_middle(instrument):
    wide = spoiled(
        instrument, lambda frame: frame.with_data(np.pad(np.asarray(frame.data), ((0, 0), (32, 32)), mode="reflect"))
    )
    outcome, _, notes = drive(instrument, {"frames": 1}, spoil=wide)
    assert outcome.frames == 1
    said = next(note for note in notes if note.step_id == "estimate-000")
    assert said.data["good"]
    assert said.data["half_angle_mrad"] == pytest.approx(30.0, rel=0.01)


def test_the_end_says_what_the_error_bars_let_expect(instrument):
    outcome, _, notes = drive(instrument, {"frames": 2})
    low, high = outcome.quarter_pi_range_mrad
    assert low < outcome.quarter_pi_mrad < high < 59.0
    assert f"{low:.0f} to {high:.0f}" in notes[-1].text
    assert notes[-1].data["quarter_pi_range_mrad"] == [low, high]


def started(session, folder, **camera):
    session.connect(
        "simulator", seed=102, speed=None, high_tension_v=300e3, misalignment=1.0, optics_imperfection=1.0
    ).result()
    microscope = session.instrument.unwrapped
    for name, value in camera.items():
        setattr(microscope.camera, name, value)
    settings = {"controls": controls_of(session.instrument.optics), "model": None, "frames": 2}
    return microscope, PlanSpec(kind="alignment", settings=settings), folder / "aligned.smarttem"


def test_a_camera_that_is_not_calibrated_is_refused_and_the_optics_put_back(tmp_path, monkeypatch):
    with Session(sync=False) as session:
        microscope, spec, path = started(session, tmp_path)
        acquire = microscope.camera.acquire_image

        def in_pixels(exposure_s, cancel, camera=None):
            frame = acquire(exposure_s, cancel, camera)
            axes = tuple(axis.model_copy(update={"units": "px"}) for axis in frame.axes)
            return frame.model_copy(update={"axes": axes}) if hasattr(frame, "model_copy") else replaced(frame, axes)

        def replaced(frame, axes):
            import dataclasses

            return dataclasses.replace(frame, axes=axes)

        monkeypatch.setattr(microscope.camera, "acquire_image", in_pixels)
        session.start(spec, path)
        session.wait()
        assert session.status.outcome == "failed"
        assert "not calibrated" in session.status.reason
        assert all(value == 0.0 for value in session.instrument.optics.get().values())


def test_a_run_that_was_interrupted_goes_on_with_the_frames_it_has(tmp_path, monkeypatch):
    with Session(sync=False) as session:
        microscope, spec, path = started(session, tmp_path)
        acquire, taken, hold = microscope.camera.acquire_image, [], threading.Event()

        def slowly(exposure_s, cancel, camera=None):
            taken.append(exposure_s)
            if len(taken) == 2:
                hold.set()
                while not cancel.is_set():
                    time.sleep(0.01)
            return acquire(exposure_s, cancel, camera)

        monkeypatch.setattr(microscope.camera, "acquire_image", slowly)
        session.start(spec, path)
        assert hold.wait(60)
        session.stop()
        session.wait()
        assert session.status.outcome == "stopped"
        assert all(value == 0.0 for value in session.instrument.optics.get().values())

        replayed = []
        session.step_finished.connect(lambda r: replayed.append(r.step.step_id) if r.replayed else None)
        session.resume(path)
        session.wait()
        assert session.status.outcome == "finished", session.status.reason
        assert "frame-000" in replayed
        assert len(taken) == 3  # the first again from the journal, the interrupted one anew
        with pytest.raises(BadInput, match="nothing to resume"):
            session.resume(path)
