"""The session owns the instrument: connecting, letting go, and the end of the program."""

from __future__ import annotations

import gc
import weakref

import pytest

from napari_smarttem.bench.parts.instant import InstantInstrument
from napari_smarttem.engine.plans import build_plan
from napari_smarttem.engine.session import Session
from napari_smarttem.engine.status import RunState
from napari_smarttem.schema import BadInput, Field2D, PlanContext, PlanSpec, image_frame

from .test_runner import until


def test_connect_to_a_backend_that_is_not_there(tmp_path):
    with Session(tmp_path) as session:
        with pytest.raises(BadInput, match="nowhere"):
            session.connect("nowhere").result(20)
        assert session.instrument is None
        with pytest.raises(BadInput, match="No instrument is connected"):
            session.start(PlanSpec(kind="acquisition"))


def test_connecting_another_lets_the_first_go(session, instrument):
    told: list = []
    session.instrument_changed.connect(told.append)
    second = InstantInstrument(channels=4)
    session.use(second)
    assert instrument.closed == 1
    assert [None if info is None else info.backend for info in told] == [None, "instant"]
    session.disconnect().result(20)
    assert second.closed == 1
    assert session.instrument is None
    assert session.context is None


def test_close_in_the_middle_of_a_run_stops_blanks_and_saves(session, instrument, measure):
    path = session.start(measure(points=4))
    until(lambda: session.status.state is RunState.AWAITING_REVIEW)
    session.review.approve(["r0-0001"])
    session.close(timeout_s=60.0)  # it stops the review and does not wait for a person
    assert instrument.blanked
    assert instrument.closed == 1
    session.close()
    with Session(path.parent) as again:
        again.use(InstantInstrument(channels=32))
        again.resume(path)
        until(lambda: again.status.state is RunState.AWAITING_REVIEW)
        assert again.review.get("r0-0001").state == "approved"
    with pytest.raises(BadInput, match="closed"):
        session.start(measure())


def test_runs_get_folders_of_their_own(session, measure):
    folders = set()
    for _ in range(3):
        folders.add(session.start(measure(points=1), policy="approve_all"))
        assert session.wait(20)
    assert len(folders) == 3
    assert all(folder.name.endswith(".smarttem") for folder in folders)


def test_a_run_is_not_resumed_on_another_instrument(session, measure):
    path = session.start(measure(points=4))
    session.stop()
    assert session.wait(20)
    other = InstantInstrument(channels=4)
    other.info = other.info.model_copy(update={"backend": "other", "name": "another microscope"})
    session.use(other)
    with pytest.raises(BadInput, match="another microscope"):
        session.resume(path)
    session.use(InstantInstrument(channels=32))
    session.resume(path)
    session.stop()
    assert session.wait(20)


def test_what_differs_from_the_instrument_of_a_run_is_said(session, measure):
    """Two simulated microscopes bear one name."""

    def microscope(**settings):
        made = InstantInstrument(channels=32)
        made.info = made.info.model_copy(update={"settings": settings})
        return made

    session.use(microscope(seed=0, speed=None))
    path = session.start(measure(points=4))
    session.stop()
    assert session.wait(20)
    session.use(microscope(seed=99, speed=None))
    with pytest.raises(BadInput, match="seed 0, not 99; disconnect"):
        session.resume(path)
    session.use(microscope(seed=0, speed=None))
    session.resume(path)
    session.stop()
    assert session.wait(20)


def test_a_full_disk_is_announced(session, measure, monkeypatch):
    heard: list[tuple[str, str]] = []
    session.message.connect(lambda level, text: heard.append((level, text)))
    monkeypatch.setattr("napari_smarttem.engine.session.LOW_DISK_BYTES", 10**18)
    session.start(measure(points=1), policy="approve_all")
    assert session.wait(20)
    assert heard[0][0] == "warning"
    assert "MB are free" in heard[0][1]


def test_datasets_are_shared(session):
    heard: list = []
    session.dataset_added.connect(heard.append)
    import numpy as np

    frame = image_frame(np.zeros((2, 2)), pixel_nm=1.0, signal="HAADF")
    dataset = session.add_dataset("overview", "file.dm3", (frame,))
    assert heard == [dataset]
    assert session.datasets == [dataset]


def test_a_session_nobody_holds_is_forgotten(tmp_path):
    session = Session(tmp_path)
    session.use(InstantInstrument(channels=4))
    session.disconnect().result(20)
    reference = weakref.ref(session)
    session.close()
    del session
    # its thread lets go of it a moment later
    until(lambda: gc.collect() is not None and reference() is None)


def test_plans_are_found_by_name():
    context = PlanContext(field=Field2D(y_nm=0, x_nm=0, height_nm=10, width_nm=10))
    with pytest.raises(BadInput, match="no plan called 'dance'"):
        build_plan(PlanSpec(kind="dance"), context)
