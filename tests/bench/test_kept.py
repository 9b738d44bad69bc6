"""What a long bench keeps of itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_smarttem.bench.parts.kept import Kept
from napari_smarttem.schema import BadInput


def test_results_are_there_after_the_writer_was_killed_in_the_middle_of_a_line(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    first = Kept(file, "this")
    first.put("a", np.arange(6.0).reshape(2, 3))
    first.put("b", True)
    with file.open("ab") as torn:
        torn.write(b'{"task": "c", "resu')
    again = Kept(file, "this")
    assert again["a"] == [[0, 1, 2], [3, 4, 5]]
    assert again["b"] == 1.0
    assert "c" not in again
    again.put("c", (1.0, 2))
    assert Kept(file, "this")["c"] == [1.0, 2.0]


def test_a_file_of_other_weights_and_a_file_of_something_else_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    Kept(file, "weights 1").put("a", 1.0)
    with pytest.raises(BadInput, match="weights 1, not weights 2"):
        Kept(file, "weights 2")
    picture = tmp_path / "picture.tif"
    picture.write_bytes(b"II*\x00\xff\xff")
    with pytest.raises(BadInput, match="does not hold results of a bench"):
        Kept(picture, "weights 1")
    assert picture.read_bytes() == b"II*\x00\xff\xff"
