"""The durable record of a run: a folder ``NAME.smarttem`` that survives ``kill -9`` and full disks.

``run.jsonl`` holds one document a line, in the envelope ``{"seq", "crc", "doc"}``; ``data.zarr`` holds the frames, one chunk each.
The order of writing is the promise: first the frame's bytes, forced to disk, then the line that acknowledges them, forced to
disk. A line that is torn (the last one, when the power went) acknowledges nothing and is dropped; everything before it counts.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from ..schema import (
    BadInput,
    Decision,
    Document,
    Frame,
    FrameRecord,
    JournalError,
    Resumed,
    RunStart,
    RunStop,
    StepDone,
    StepResult,
)
from .frame_store import FrameStore

log = logging.getLogger(__name__)

SUFFIX = ".smarttem"
_LINES = "run.jsonl"
_LOCK = "lock"
_DOCUMENT: TypeAdapter[Any] = TypeAdapter(Document)


def now_iso() -> str:
    """Wall-clock time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Journal:
    """Append-only record of one run. One process writes, any number read.

    Use `create` for a new run, `open` for one that exists.

    Attributes
    ----------
    path : Path
        The run folder.
    steps : dict of str to StepDone
        Acknowledged steps by id, in the order of their completion.
    stop : RunStop or None
        How the run ended, None while it has not (or was killed).
    interrupted : set of str
        Ids of the steps after which the run was taken up again, and the plan is told of it.
    torn_tail : bool
        True where the last line had been cut off when the journal was opened.
    """

    def __init__(self, path: Path, lock: FileLock | None, *, sync: bool) -> None:
        self.path = path
        self.steps: dict[str, StepDone] = {}
        self.stop: RunStop | None = None
        self.interrupted: set[str] = set()
        self.torn_tail = False
        self._documents: list[Any] = []
        self._lock_file = lock
        self._sync = sync
        self._guard = threading.RLock()
        self._lines: int | None = None
        self._size = 0
        self._frames = FrameStore(path / "data.zarr", sync=sync)

    # -- opening and closing

    @classmethod
    def create(cls, path: str | Path, start: RunStart, *, sync: bool = True) -> Self:
        """Make a new run folder.

        Parameters
        ----------
        path : str or Path
            The folder; ``.smarttem`` is added where it is missing.
        start : RunStart
            First line.
        sync : bool
            Force every acknowledged step to the disk. Without it a power cut may lose the last seconds; a killed program loses
            nothing either way.

        Raises
        ------
        BadInput
            The folder exists.
        JournalError
            The folder cannot be made or written.
        """
        path = _with_suffix(Path(path))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
        except FileExistsError:
            raise BadInput(f"{path} exists already; choose another name, or resume it.") from None
        except OSError as error:
            raise JournalError(f"The run folder {path} cannot be made: {error.strerror or error}.") from error
        journal = cls(path, _acquire_lock(path), sync=sync)
        try:
            journal._open_lines()
            journal._frames.create()
            journal.append(start)
        except BaseException:
            journal.close()
            raise
        return journal

    @classmethod
    def open(cls, path: str | Path, *, read_only: bool = False, sync: bool = True) -> Self:
        """Open a run folder, to go on with it or to read it.

        Raises
        ------
        BadInput
            Not a run folder.
        JournalError
            Another program is writing it, or its record is damaged before its end.
        """
        path = Path(path)
        if not (path / _LINES).is_file():
            raise BadInput(
                f"{path} is not a run folder (it has no {_LINES}); give one that a run has written, NAME{SUFFIX}, copied whole."
            )
        journal = cls(path, None if read_only else _acquire_lock(path), sync=sync)
        try:
            good_bytes = journal._read_lines()
            if not journal._documents or not isinstance(journal._documents[0], RunStart):
                raise JournalError(
                    f"{path / _LINES} does not begin with a run's start; it was never a complete record."
                )
            if not read_only:
                journal._open_lines()
                journal._truncate(good_bytes)
        except BaseException:
            journal.close()
            raise
        return journal

    def close(self) -> None:
        """Force everything to disk and let other programs write. May be called twice."""
        with self._guard:
            if self._lines is not None:
                try:
                    os.fsync(self._lines)
                finally:
                    os.close(self._lines)
                    self._lines = None
            if self._lock_file is not None:
                self._lock_file.release()
                self._lock_file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- reading

    @property
    def start(self) -> RunStart:
        """The first document."""
        start: RunStart = self._documents[0]
        return start

    def documents(self) -> Iterator[Any]:
        """Every document so far, oldest first."""
        with self._guard:
            return iter(tuple(self._documents))

    def load(self, record: FrameRecord) -> Frame:
        """Read a frame back; `JournalError` where its bytes are not those that were written."""
        return self._frames.load(record)

    def result(self, step_id: str) -> StepResult:
        """An acknowledged step's result as the plan saw it, marked ``replayed``; KeyError for a step not there."""
        done = self.steps[step_id]
        return StepResult(
            step=done.step,
            status=done.status,
            reason=done.reason,
            frames=tuple(self.load(record) for record in done.frames),
            started_s=done.started_s,
            finished_s=done.finished_s,
            dose_e_per_a2=done.dose_e_per_a2,
            review=done.review,
            replayed=True,
            interrupted=step_id in self.interrupted,
        )

    def decisions(self, step_id: str) -> tuple[Decision, ...]:
        """What people decided in the review of a step, oldest first."""
        return tuple(d for d in self.documents() if isinstance(d, Decision) and d.step_id == step_id)

    # -- writing

    def write_end(self, outcome: Literal["finished", "stopped", "failed"], reason: str) -> str:
        """Write how the run ended and let the folder go; the sentence says why that was not possible, or is empty."""
        try:
            self.append(RunStop(outcome=outcome, reason=reason, steps_done=len(self.steps)))
            self.close()
        except (JournalError, OSError) as error:
            log.error("the end of the run could not be written: %s", error)
            return str(error)
        return ""

    def write_result(self, result: StepResult) -> StepDone:
        """Acknowledge a step: its frames first, then its line. Returns once both are safe.

        Raises
        ------
        JournalError
            The disk is full or gone; nothing was acknowledged.
        """
        try:
            records = tuple(self._frames.append(frame) for frame in result.frames)
        except OSError as error:
            raise JournalError(_disk_sentence(self.path, error)) from error
        done = StepDone(
            at=now_iso(),
            step=result.step,
            status=result.status,
            reason=result.reason,
            frames=records,
            started_s=result.started_s,
            finished_s=result.finished_s,
            dose_e_per_a2=result.dose_e_per_a2,
            review=result.review,
        )
        self.append(done)
        return done

    def append(self, document: Any, *, sync: bool | None = None) -> None:
        """Append one document. A document without a time gets the present one.

        With ``sync=False`` the line is handed to the operating system (it survives a killed program) and reaches the disk
        with the next forced line; that is for a person's clicks, which must not wait for a disk.
        """
        if not document.at:
            document = document.model_copy(update={"at": now_iso()})
        text = document.model_dump_json()
        with self._guard:
            if self._lines is None:
                raise JournalError(f"The journal {self.path} is closed; nothing can be written to it.")
            head = f'{{"seq":{len(self._documents)},"crc":{zlib.crc32(text.encode())},"doc":'
            line = f"{head}{text}}}\n".encode()
            lines = self._lines
            try:
                _write_all(lines, line)
            except OSError as error:
                self._truncate(self._size)
                raise JournalError(_disk_sentence(self.path, error)) from error
            self._size += len(line)
            self._remember(document)
        if self._sync if sync is None else sync:
            try:
                os.fsync(lines)
            except OSError as error:
                raise JournalError(_disk_sentence(self.path, error)) from error

    # -- inside

    def _remember(self, document: Any) -> None:
        self._documents.append(document)
        if isinstance(document, StepDone):
            self.steps[document.step.step_id] = document
            for record in document.frames:
                self._frames.claim(record)
        if isinstance(document, RunStop):
            self.stop = document
        elif isinstance(document, Resumed):
            self.stop = None
            if document.told and self.steps:
                self.interrupted.add(next(reversed(self.steps)))

    def _open_lines(self) -> None:
        path = self.path / _LINES
        try:
            self._lines = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
        except OSError as error:
            raise JournalError(_disk_sentence(self.path, error)) from error

    def _truncate(self, size: int) -> None:
        if self._lines is not None:
            os.ftruncate(self._lines, size)
            self._size = size

    def _read_lines(self) -> int:
        """Take in every good line; the number of bytes they fill."""
        good_bytes = 0
        content = (self.path / _LINES).read_bytes()
        lines = content.split(b"\n")
        tail = lines.pop()
        for number, line in enumerate(lines):
            try:
                document = parse_line(line, number)
            except JournalError:
                if number == len(lines) - 1 and not tail and _holds_one(line, number):
                    self.torn_tail = True
                    return good_bytes
                raise self._damaged(number) from None
            good_bytes += len(line) + 1
            self._remember(document)
        if not _holds_one(tail, len(lines)):
            raise self._damaged(len(lines))
        self.torn_tail = bool(tail)
        return good_bytes

    def _damaged(self, number: int) -> JournalError:
        return JournalError(
            f"Line {number + 1} of {self.path / _LINES} is damaged; the {number} lines before it are good. "
            f"Copy the folder, then run `smarttem verify` on it."
        )


def _holds_one(line: bytes, number: int) -> bool:
    """Whether no later record follows in the same line.

    A record begins only after the one before it was written whole: where two share a line, the line's end was damaged
    after it was acknowledged, and the line is not what a power cut leaves.
    """
    # quotes inside a document's own texts are escaped, so this is found nowhere but at a record's head
    return f'{{"seq":{number + 1},"crc":'.encode() not in line


def parse_line(line: bytes, number: int) -> Any:
    """One line of ``run.jsonl`` as a document; `JournalError` where it is not what was written."""
    # The checksum is over the document's own characters, which lie between the envelope's head and its closing brace.
    head, _, rest = line.partition(b'"doc":')
    text = rest[:-1]
    try:
        envelope = json.loads(head + b'"doc":0}')
        sequence, crc = envelope["seq"], envelope["crc"]
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(f"line {number + 1} is not a journal line") from error
    if rest[-1:] != b"}" or sequence != number or zlib.crc32(text) != crc:
        raise JournalError(f"line {number + 1} does not match its checksum or its place")
    try:
        return _DOCUMENT.validate_json(text)
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise JournalError(f"line {number + 1} holds a document this version does not know: {why}") from error


def _with_suffix(path: Path) -> Path:
    return path if path.name.endswith(SUFFIX) else path.with_name(path.name + SUFFIX)


def _acquire_lock(path: Path) -> FileLock:
    lock = FileLock(path / _LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise JournalError(
            f"{path} is being written by another program; close that one first, or open a copy."
        ) from None
    except OSError as error:
        raise JournalError(_disk_sentence(path, error)) from error
    return lock


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _disk_sentence(path: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    return (
        f"Nothing more can be written to {path}: {reason}. Make room, then resume the run; what was recorded is safe."
    )
