"""Results of a long bench's tasks in a file, so that one that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...schema import BadInput


class Kept:
    """Results by task, appended as they come, a line of JSON each.

    Parameters
    ----------
    path : Path or None
        The file; None keeps nothing.
    measured : str
        What the results are of: versions, weights, seed. A file that was begun with another is refused.

    Raises
    ------
    BadInput
        Where the file was not written by this class, or is of something else.
    """

    def __init__(self, path: Path | None, measured: str) -> None:
        self._path, self._found = path, dict[str, Any]()
        if path is None:
            return
        if path.exists() and path.stat().st_size:
            first, *others = list(_lines(path)) or [{}]
            if first.get("measured") != measured:
                raise BadInput(
                    f"{path} holds results of something else ({first.get('measured', 'unknown')}, not {measured}); "
                    "name another file."
                )
            self._found = {one["task"]: one["result"] for one in others if "task" in one}
            if not path.read_bytes().endswith(b"\n"):  # its writer was killed in the middle of a line
                self._append("\n")
        else:
            self._write({"measured": measured})

    def __contains__(self, task: str) -> bool:
        return task in self._found

    def __getitem__(self, task: str) -> Any:
        return self._found[task]

    def put(self, task: str, result: Any) -> None:
        """Keep the numbers (an array or what can become one) that a task gave."""
        plain = np.asarray(result, dtype=float).tolist()
        self._found[task] = plain
        if self._path is not None:
            self._write({"task": task, "result": plain})

    def _write(self, line: dict[str, Any]) -> None:
        self._append(json.dumps(line) + "\n")

    def _append(self, text: str) -> None:
        assert self._path is not None
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file; the last one may have been cut off when the writer was killed."""
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if isinstance(found, dict):
            yield found
        elif number == 0:
            raise BadInput(f"{path} does not hold results of a bench; name another file.")
