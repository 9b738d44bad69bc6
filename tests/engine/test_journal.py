"""What was acknowledged is there, whole, whatever happened afterwards."""

from __future__ import annotations

import errno
import os
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_smarttem.engine.journal import Journal
from napari_smarttem.engine.verify import verify
from napari_smarttem.schema import (
    Acquire,
    BadInput,
    Field2D,
    InstrumentInfo,
    JournalError,
    Note,
    PlanContext,
    PlanSpec,
    RunStart,
    StepResult,
    image_frame,
    spectrum_frame,
)

START = RunStart(
    run_id="1",
    plan=PlanSpec(kind="measure"),
    context=PlanContext(field=Field2D(y_nm=0, x_nm=0, height_nm=10, width_nm=10)),
    instrument=InstrumentInfo(backend="instant", name="instant", simulated=True),
)


def spectrum_result(index: int, channels: int = 16, value: float | None = None) -> StepResult:
    counts = np.full(channels, index if value is None else value, dtype=np.float32)
    step = Acquire(step_id=f"p{index}", y_nm=1.0, x_nm=2.0, exposure_s=0.1)
    frame = spectrum_frame(counts, dispersion_ev=0.5, offset_ev=100.0, signal="EELS", metadata={"n": index})
    return StepResult(step=step, frames=(frame,), started_s=index, finished_s=index + 0.1, dose_e_per_a2=0.25)


@pytest.fixture
def folder(tmp_path):
    with Journal.create(tmp_path / "run", START) as journal:
        for index in range(5):
            journal.write_result(spectrum_result(index))
    return journal.path


def test_what_was_written_is_read_back_whole(folder):
    with Journal.open(folder, read_only=True) as journal:
        assert list(journal.steps) == [f"p{i}" for i in range(5)]
        result = journal.result("p3")
        assert result.replayed
        assert result.dose_e_per_a2 == 0.25
        frame = result.frame("EELS")
        np.testing.assert_array_equal(frame.data, np.full(16, 3, np.float32))
        assert (frame.axes[0].scale, frame.axes[0].offset, frame.axes[0].units) == (0.5, 100.0, "eV")
        assert frame.metadata["n"] == 3
        assert not journal.torn_tail


def test_a_name_without_suffix_gets_one_and_an_existing_folder_is_left_alone(folder):
    assert folder.name == "run.smarttem"
    before = (folder / "run.jsonl").read_bytes()
    with pytest.raises(BadInput, match="exists already"):
        Journal.create(folder, START)
    assert (folder / "run.jsonl").read_bytes() == before


def test_frames_of_any_shape_and_type_share_a_journal(tmp_path):
    frames = (
        image_frame(np.arange(12, dtype=np.uint16).reshape(3, 4), pixel_nm=0.5, signal="HAADF"),
        image_frame(np.zeros((3, 4), np.uint16), pixel_nm=0.5, signal="BF"),
        spectrum_frame(np.array([-1, 2, 3], ">i4"), dispersion_ev=1, offset_ev=0, signal="EDS"),
    )
    result = StepResult(step=Note(step_id="n", text="three kinds"), frames=frames)
    with Journal.create(tmp_path / "run", START) as journal:
        journal.write_result(result)
    with Journal.open(journal.path, read_only=True) as again:
        for written, read in zip(frames, again.result("n").frames, strict=True):
            np.testing.assert_array_equal(written.data, read.data)
            assert (written.signal, written.axes) == (read.signal, read.axes)
    assert verify(journal.path).ok


def test_more_frames_than_the_first_arrays_hold(tmp_path):
    with Journal.create(tmp_path / "run", START, sync=False) as journal:
        for index in range(150):
            journal.write_result(spectrum_result(index, channels=4))
    report = verify(journal.path)
    assert (report.ok, report.steps, report.frames) == (True, 150, 150)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(cut=st.floats(0.0, 1.0))
def test_a_record_cut_anywhere_keeps_every_whole_line_and_can_be_continued(folder, tmp_path, cut):
    copy = tmp_path / "cut.smarttem"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    lines = copy / "run.jsonl"
    content = lines.read_bytes()
    kept = content[: round(cut * len(content))]
    lines.write_bytes(kept)
    whole = kept.count(b"\n")
    if whole == 0:
        with pytest.raises(JournalError, match="never a complete record"):
            Journal.open(copy)
        return
    with Journal.open(copy) as journal:
        assert len(journal.steps) == whole - 1
        assert journal.torn_tail == (not kept.endswith(b"\n"))
        journal.write_result(spectrum_result(99))
    report = verify(copy)
    assert report.ok, report.problems
    assert report.steps == whole
    assert not report.torn_tail


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(where=st.floats(0.0, 0.999), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(folder, tmp_path, where, bit):
    copy = tmp_path / "flip.smarttem"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    lines = copy / "run.jsonl"
    content = bytearray(lines.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    lines.write_bytes(content)
    report = verify(copy)
    # damage in the last line cannot be told from a torn one: then that step is not acknowledged any more
    assert not report.ok or (report.torn_tail and report.steps == 4)


@pytest.mark.parametrize("cut", [0, 1, 20], ids=["whole", "without its end", "torn"])
def test_a_damaged_line_end_does_not_pass_for_a_torn_line(folder, cut):
    """Two records in the last line: dropping them would lose a step that was acknowledged."""
    lines = folder / "run.jsonl"
    content = bytearray(lines.read_bytes())
    ends = [place for place, byte in enumerate(content) if byte == ord("\n")]
    content[ends[-2]] ^= 1
    lines.write_bytes(content[: len(content) - cut])
    report = verify(folder)
    assert not report.ok
    with pytest.raises(JournalError, match="damaged; the 4 lines before it are good"):
        Journal.open(folder)
    assert len(lines.read_bytes()) == len(content) - cut, "a damaged record was changed"


def test_changed_data_is_found_and_named(folder):
    chunk = next((folder / "data.zarr").glob("EELS*/c.2.0"))
    content = bytearray(chunk.read_bytes())
    content[0] ^= 1
    chunk.write_bytes(content)
    report = verify(folder)
    assert len(report.problems) == 1
    assert "p2" in report.problems[0]
    assert "checksum" in report.problems[0]


def test_a_second_program_is_refused_and_readers_are_not(tmp_path):
    with Journal.create(tmp_path / "run", START) as journal:
        with pytest.raises(JournalError, match="another program"):
            Journal.open(journal.path)
        with Journal.open(journal.path, read_only=True) as reader:
            assert reader.start.run_id == "1"
        journal.write_result(spectrum_result(0))
    with Journal.open(journal.path) as again:
        assert list(again.steps) == ["p0"]


@pytest.mark.parametrize("bytes_before_full", [0, 1, 150])
def test_a_full_disk_acknowledges_nothing_and_loses_nothing(folder, monkeypatch, bytes_before_full):
    real = os.write

    def full(descriptor, content):
        if bytes_before_full:
            real(descriptor, bytes(content)[:bytes_before_full])
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal.open(folder) as journal:
        monkeypatch.setattr("napari_smarttem.engine.journal.os.write", full)
        with pytest.raises(JournalError, match="No space left"):
            journal.write_result(spectrum_result(7))
        assert "p7" not in journal.steps
        monkeypatch.undo()
        journal.write_result(spectrum_result(8))
    report = verify(folder)
    assert report.ok, report.problems
    assert report.steps == 6


def test_a_frame_that_could_not_be_written_leaves_its_place_to_the_next(folder, monkeypatch):
    with Journal.open(folder) as journal:
        monkeypatch.setattr(
            "napari_smarttem.engine.frame_store._sync_path",
            lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")),
        )
        with pytest.raises(JournalError, match="I/O error"):
            journal.write_result(spectrum_result(7))
        monkeypatch.undo()
        journal.write_result(spectrum_result(8))
    assert verify(folder).ok


def test_not_a_run_folder(tmp_path):
    with pytest.raises(BadInput, match="not a run folder"):
        Journal.open(tmp_path)


def test_a_closed_journal_refuses(tmp_path):
    journal = Journal.create(tmp_path / "run", START)
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        journal.append(START)
