"""The bench's quick version reaches what it is to reach; the page about the sorter runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from napari_smarttem.engine.journal import Journal

PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/align-the-oam-sorter.md"


def test_page_runs_and_ends_aligned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    room: dict[str, object] = {"__name__": "example"}
    exec(compile(code, PAGE.name, "exec"), room)
    journal = Journal.open(tmp_path / "sorter.smarttem", read_only=True)
    try:
        ends = [done for name, done in journal.steps.items() if name == "end"]
        assert len(ends) == 1
        assert "aligned after" in str(ends[0])
        assert "response" in journal.steps
    finally:
        journal.close()


@pytest.mark.slow
def test_quick_bench_reaches_its_figures(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="the network needs torch")
    from napari_smarttem.bench.oam import PICTURES, run
    from napari_smarttem.bench.report import reached

    monkeypatch.setenv(PICTURES, str(tmp_path))
    report = run(quick=True)
    missed = [name for name, one in report["figures"].items() if reached(one) is False]
    assert missed == []
    assert (tmp_path / "oam-sorter.png").stat().st_size > 10_000
