"""Is a run folder whole? Every line against its checksum, every frame against the line that acknowledged it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..schema import JournalError, SmartTEMError
from .journal import Journal


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found.

    Attributes
    ----------
    path : Path
    steps, frames : int
        Acknowledged ones that were looked at.
    torn_tail : bool
        The last line was cut off, as when a program is killed while it writes; it acknowledged nothing, so nothing is lost.
    outcome : str
        How the run ended, ``"interrupted"`` where it did not say.
    problems : tuple of str
        One sentence each; empty where all is well.
    """

    path: Path
    steps: int
    frames: int
    torn_tail: bool
    outcome: str
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True where every acknowledged step is whole."""
        return not self.problems


def verify(path: str | Path) -> VerifyReport:
    """Check a run folder without changing it; works while another program writes it.

    Raises
    ------
    BadInput
        Not a run folder at all.
    """
    path = Path(path)
    try:
        journal = Journal.open(path, read_only=True)
    except JournalError as error:
        return VerifyReport(path, 0, 0, False, "damaged", (str(error),))
    problems: list[str] = []
    frames = 0
    for step_id, done in journal.steps.items():
        for record in done.frames:
            frames += 1
            try:
                journal.load(record)
            except SmartTEMError as error:
                problems.append(f"Step {step_id}: {error}")
    outcome = "interrupted" if journal.stop is None else journal.stop.outcome
    return VerifyReport(path, len(journal.steps), frames, journal.torn_tail, outcome, tuple(problems))
