"""What survives: runs killed with SIGKILL at random moments, a disk that fills up, and every fault of `backends.faults`.

Each run is a program of its own (`parts.run_to_kill`): an acquisition on the simulated microscope, single-pixel imaging on its
phase plate, an acquisition through a socket to a fake GMS. It says when a step begins and when it is acknowledged; after the
kill, the run folder is compared with what was said, resumed, and compared with what was planned and with what an uninterrupted run
has. At the end the plan is made once more and sent what the folder holds: it must ask for exactly these steps.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ..backends.faults import FaultKind
from ..engine.journal import Journal
from ..engine.verify import verify
from ..schema import StepDone
from .parts.kill_scenes import Scene, asks_otherwise, essence, scene
from .parts.run_to_kill import KINDS
from .report import figure, report

PLANNED_POINTS = 120
KILLS, QUICK_KILLS = (
    {"acquisition": 50, "single_pixel": 30, "bridge": 30},
    {"acquisition": 5, "single_pixel": 1, "bridge": 1},
)
SEEDS = 5
"""Microscopes that the runs of a kind take place on, in turn; each has a run that nobody kills, to compare with."""
_CHILD_TIMEOUT_S = 120.0
_SMALL_DISK_BYTES = 700_000
_LARGEST_FILE_BYTES = 60_000
"""Where no small disk can be mounted: files that may not grow further, the same refusal by the system under another name."""


@dataclass
class Told:
    """What a program said before it ended."""

    began: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    replayed: list[str] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)
    too_slow: bool = False
    """It was ended because it took longer than a run may."""

    def take(self, line: bytes) -> None:
        """Take in one line; one that was cut off by the kill says nothing."""
        try:
            said = json.loads(line)
        except ValueError:
            return
        if "began" in said:
            self.began.append(said["began"])
        elif "outcome" in said:
            self.end = said
        elif said["replayed"]:
            self.replayed.append(said["acknowledged"])
        else:
            self.acknowledged.append(said["acknowledged"])


@dataclass
class Verdict:
    """One killed run, after its resume."""

    lost: int = 0
    duplicates: int = 0
    resumed: bool = False
    killed: bool = False
    problem: str = ""


def run(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Measure; the figures of ``smarttem bench crash``."""
    rng = np.random.default_rng(seed)
    kills = QUICK_KILLS if quick else KILLS
    with tempfile.TemporaryDirectory(prefix="smarttem-crash-") as scratch:
        by_kind = {kind: kills_of(kind, kills[kind], Path(scratch), seed, rng) for kind in KINDS}
        faults = {
            kind: fault_and_resume(Path(scratch) / f"fault-{kind}", kind, seed=seed) for kind in get_args(FaultKind)
        }
        disk = full_disk_and_resume(Path(scratch), seed=seed)
    verdicts = [verdict for found in by_kind.values() for verdict in found]
    for kind, problem in (faults | {"full disk": disk}).items():
        if problem:
            print(f"{kind}: {problem}", file=sys.stderr)
    killed = sum(v.killed for v in verdicts)
    safe = sum(not problem for problem in (*faults.values(), disk))
    wanted = sum(kills.values())
    of_each = {kind: sum(v.killed and v.resumed for v in found) for kind, found in by_kind.items()}
    figures = {
        "kills": figure(killed, ">=", wanted),
        "lost_acknowledged": figure(sum(v.lost for v in verdicts), "<=", 0),
        "resumed": figure(sum(v.resumed for v in verdicts), ">=", wanted, **of_each),
        "duplicates": figure(sum(v.duplicates for v in verdicts), "<=", 0),
        "faults_survived": figure(safe, ">=", len(faults) + 1),
        "full_disk_survived": figure(float(not disk), ">=", 1),
    }
    return report("crash", seed, figures)


def kills_of(kind: str, count: int, scratch: Path, seed: int, rng: np.random.Generator) -> list[Verdict]:
    """So many runs of a kind, each killed once and taken up again, and compared with one that was not."""
    whole: dict[int, tuple[dict[str, Any], int]] = {}
    verdicts = []
    for number in range(count):
        on = seed + number % min(SEEDS, count)
        if on not in whole:
            folder = scratch / f"{kind}-{on}-whole.smarttem"
            with scene(kind, scratch, on) as place:
                told = _run_program(folder, on, place=place)
            if told.end.get("outcome") != "finished":
                raise RuntimeError(f"the run that nobody kills did not finish: {_last_words(told)}")
            whole[on] = essence(folder), len(told.began) + len(told.acknowledged)
        verdict = Verdict(problem="no run was killed")
        for attempt in range(5):  # a moment drawn too late is drawn again
            with scene(kind, scratch, on) as place:
                folder = scratch / f"{kind}-{number}-{attempt}"
                verdict = kill_and_resume(
                    folder, seed=on, rng=rng, place=place, lines=whole[on][1], expected=whole[on][0]
                )
            if verdict.killed or verdict.lost:
                break
        if verdict.problem:
            print(f"{kind} {number}: {verdict.problem}", file=sys.stderr)
        verdicts.append(verdict)
    return verdicts


def kill_and_resume(
    folder: Path,
    *,
    seed: int,
    rng: np.random.Generator,
    place: Scene | None = None,
    lines: int = 2 * PLANNED_POINTS,
    expected: dict[str, Any] | None = None,
) -> Verdict:
    """Kill a run at a random moment between its first and about its last step, then let it end, and compare.

    `lines` is about how many lines the program says in the whole run, `expected` the `essence` of an uninterrupted one.
    """
    folder = folder.with_name(folder.name + ".smarttem")
    place = place or Scene()
    verdict = Verdict()
    # A moment is a number of lines heard and a fraction of a step after that: evenly spread over the whole run.
    heard, delay_s = int(rng.integers(1, lines)), float(rng.uniform(0.0, 0.006))
    told = _run_program(folder, seed, kill_after=(heard, delay_s), place=place)
    verdict.lost = len(set(told.acknowledged) - _whole_steps(folder))
    # A record that is complete although the program died before it said so leaves nothing to take up: the kill came too late.
    verdict.killed = not told.end and not _is_complete(folder)
    if not verdict.killed:
        verdict.problem = "the run ended before it was killed"
        return verdict
    left_on = place.beam_left_on()
    again = _run_program(folder, seed, resume=True, place=place)
    verdict.resumed, verdict.duplicates, verdict.problem = _compare(folder, told, again)
    if verdict.resumed:
        verdict.problem = left_on or asks_otherwise(folder)
        # what a server measures anew after a kill has other noise: its points are those of its own overview
        same_overview = place.kind != "bridge" or "overview-0" in told.acknowledged
        if not verdict.problem and expected is not None and same_overview and essence(folder) != expected:
            verdict.problem = "it has not what an uninterrupted run has"
        verdict.resumed = not verdict.problem
    return verdict


def fault_and_resume(folder: Path, kind: str, *, seed: int) -> str:
    """A run during which one fault befalls the instrument; the sentence says what was not as promised, or is empty."""
    folder = folder.with_name(folder.name + ".smarttem")
    told = _run_program(folder, seed, fault=kind, at=30)
    return _judge_end(folder, told, seed)


def full_disk_and_resume(scratch: Path, *, seed: int) -> str:
    """A run on a disk that fills up half-way, resumed once there is room again; empty where all is as promised."""
    with _small_disk(scratch) as (disk, make_room):
        folder = disk / "run.smarttem"
        told = _run_program(folder, seed, largest_file=None if make_room else _LARGEST_FILE_BYTES)
        if told.end.get("outcome") != "failed":
            return f"the disk did not fill up: {told.end}"
        if make_room:
            make_room()
        return _judge_end(folder, told, seed)


def _judge_end(folder: Path, told: Told, seed: int) -> str:
    if not told.end.get("reason", "").strip():
        return f"no reason was given: {told.end}"
    if not told.end.get("blanked"):
        return f"the beam was left on: {told.end}"
    lost = set(told.acknowledged) - _whole_steps(folder)
    if lost:
        return f"{len(lost)} acknowledged steps are gone"
    if told.end["outcome"] == "finished":  # a passing fault, mastered in the run itself
        return "" if verify(folder).ok else "the run folder is damaged"
    again = _run_program(folder, seed, resume=True)
    _, _, problem = _compare(folder, told, again)
    return problem


def _compare(folder: Path, told: Told, again: Told) -> tuple[bool, int, str]:
    """Whether the run ended with exactly what was planned; how many acknowledged steps were made twice; what was wrong."""
    if again.end.get("outcome") != "finished":
        return False, 0, f"the resumed run ended otherwise: {_last_words(again)}"
    duplicates = len(set(again.began) & set(told.acknowledged))
    report_ = verify(folder)
    if not report_.ok:
        return False, duplicates, f"the run folder is damaged: {report_.problems[0]}"
    with Journal.open(folder, read_only=True) as journal:
        written = Counter(d.step.step_id for d in journal.documents() if isinstance(d, StepDone))
        planned = {
            target.target_id
            for d in journal.documents()
            if isinstance(d, StepDone) and d.review is not None
            for target in d.review.approved
        }
    twice = [step for step, count in written.items() if count > 1]
    measured = {step for step in written if step in planned}
    if twice:
        return False, duplicates + len(twice), f"{len(twice)} steps are in the journal twice"
    if measured != planned or not (planned or "end" in written):
        return False, duplicates, f"{len(planned)} points were planned, {len(measured)} measured"
    if not blanked(again):
        return False, duplicates, "the beam was left on"
    return True, duplicates, ""


def _last_words(told: Told) -> str:
    """How a program ended, for a complaint: what it said, or that it was too slow to say anything."""
    if told.too_slow:
        return f"it was ended after {_CHILD_TIMEOUT_S:g} s, which a run should never take; is the machine busy?"
    return str(told.end) if told.end else "it said nothing"


def _is_complete(folder: Path) -> bool:
    """True where a run folder holds a run that came to its end."""
    if not (folder / "run.jsonl").exists():
        return False
    with Journal.open(folder, read_only=True) as journal:
        return journal.stop is not None and journal.stop.outcome == "finished"


def blanked(told: Told) -> bool:
    """True where a program ended with the beam off the specimen."""
    return bool(told.end.get("blanked"))


def _whole_steps(folder: Path) -> set[str]:
    """Steps a run folder acknowledges and holds whole."""
    if not (folder / "run.jsonl").exists():
        return set()
    found = verify(folder)
    if not found.ok:
        return set()
    with Journal.open(folder, read_only=True) as journal:
        return set(journal.steps)


def _run_program(
    folder: Path,
    seed: int,
    *,
    resume: bool = False,
    kill_after: tuple[int, float] | None = None,
    fault: str = "",
    at: int = 0,
    largest_file: int | None = None,
    place: Scene | None = None,
) -> Told:
    place = place or Scene()
    command = [sys.executable, "-m", "napari_smarttem.bench.parts.run_to_kill", str(folder), "--seed", str(seed)]
    command += ["--points", str(PLANNED_POINTS)]
    command += ["--resume"] if resume else []
    command += ["--fault", fault, "--at", str(at)] if fault else []
    command += ["--largest-file", str(largest_file)] if largest_file else []
    command += place.arguments
    environment = dict(place.environment) or None
    told = Told()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as program:  # noqa: S603 (our own interpreter and module)
        assert program.stdout is not None

        def end_it() -> None:
            told.too_slow = True
            program.kill()

        watchdog = threading.Timer(_CHILD_TIMEOUT_S, end_it)
        watchdog.start()
        try:
            for number, line in enumerate(program.stdout, start=1):
                told.take(line)
                if kill_after is not None and number == kill_after[0]:
                    threading.Timer(kill_after[1], program.kill).start()
        finally:
            watchdog.cancel()
    return told


@contextlib.contextmanager
def _small_disk(scratch: Path) -> Iterator[tuple[Path, Callable[[], None] | None]]:
    """A folder on a disk that is soon full, and a function that makes room; a plain folder and None without the right to mount."""
    disk = scratch / "small-disk"
    disk.mkdir()
    mounted = sys.platform == "linux" and _quietly(
        "mount", "-t", "tmpfs", "-o", f"size={_SMALL_DISK_BYTES}", "tmpfs", str(disk)
    )
    try:
        yield disk, (lambda: _make_room(disk)) if mounted else None
    finally:
        if mounted:
            _quietly("umount", str(disk))


def _make_room(disk: Path) -> None:
    if not _quietly("mount", "-o", "remount,size=64m", str(disk)):
        raise RuntimeError(f"no room could be made on {disk}")


def _quietly(program: str, *arguments: str) -> bool:
    """Run a system program; True where it is there and did what it was asked."""
    path = shutil.which(program)
    return path is not None and subprocess.run([path, *arguments], check=False, capture_output=True).returncode == 0  # noqa: S603
