"""The crash bench measures what it says: a run that really is killed, and a comparison that finds what is missing."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest

from napari_smarttem.bench import crash

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")


def test_a_killed_run_loses_nothing_and_is_taken_up_again(tmp_path):
    (verdict,) = crash.kills_of("acquisition", 1, tmp_path, 3, np.random.default_rng(5))
    assert verdict.killed
    assert (verdict.lost, verdict.duplicates, verdict.resumed, verdict.problem) == (0, 0, True, "")


def test_a_kill_after_the_record_is_complete_comes_too_late(tmp_path, monkeypatch):
    """The program dies between the last line of its record and the line that says so: nothing is left to be taken up."""
    run = crash._run_program

    def cut_off(folder, seed, **options):
        told = run(folder, seed, **{**options, "kill_after": None})
        told.end = {}
        return told

    monkeypatch.setattr(crash, "_run_program", cut_off)
    verdict = crash.kill_and_resume(tmp_path / "run", seed=1, rng=np.random.default_rng(0))
    assert not verdict.killed
    assert (verdict.lost, verdict.problem) == (0, "the run ended before it was killed")


def test_a_program_that_is_too_slow_is_told_from_one_that_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(crash, "_CHILD_TIMEOUT_S", 0.05)
    told = crash._run_program(tmp_path / "run.smarttem", 1)
    assert told.too_slow
    finished, _, problem = crash._compare(tmp_path / "run.smarttem", told, told)
    assert not finished
    assert "0.05 s" in problem


def test_a_loss_would_be_seen(tmp_path):
    folder = tmp_path / "run.smarttem"
    told = crash._run_program(folder, 1)
    assert told.end["outcome"] == "finished"
    assert set(told.acknowledged) == crash._whole_steps(folder)
    damaged = tmp_path / "damaged.smarttem"
    shutil.copytree(folder, damaged)
    lines = (damaged / "run.jsonl").read_bytes().splitlines(keepends=True)
    (damaged / "run.jsonl").write_bytes(b"".join(lines[:-6]))
    assert len(set(told.acknowledged) - crash._whole_steps(damaged)) >= 4
    finished, _, problem = crash._compare(damaged, told, told)
    assert not finished
    assert "measured" in problem


def test_a_lost_connection_is_survived(tmp_path):
    assert crash.fault_and_resume(tmp_path / "dropped", "dropped", seed=2) == ""


def test_a_full_disk_is_survived(tmp_path):
    assert crash.full_disk_and_resume(tmp_path, seed=2) == ""


def test_a_line_cut_off_by_the_kill_says_nothing():
    told = crash.Told()
    told.take(b'{"began": "a"}\n')
    told.take(b'{"acknowl')
    told.take(json.dumps({"acknowledged": "a", "replayed": False}).encode())
    assert (told.began, told.acknowledged, told.end) == (["a"], ["a"], {})
