"""The demonstration: it does the whole job, what it claims is in its figures, and its page stands by itself."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from napari_smarttem import cli
from napari_smarttem.demo import near_boundary, run_demo
from napari_smarttem.schema import BadInput, image_frame


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    said = []
    page = run_demo(out, seed=7, points=110, window=False, say=said.append)
    return out, page, said


def test_everything_is_there(shown):
    out, page, said = shown
    assert page == out / "index.html"
    for name in ("metrics.json", "particles.smarttem/run.jsonl", "particles.hspy", "particles.csv"):
        assert (out / name).stat().st_size > 0, name
    for name in ("overview", "spectra", "maps", "drift"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name
    assert said[0].startswith("1/6")


def test_figures_are_what_the_page_claims(shown):
    m = json.loads((shown[0] / "metrics.json").read_text())
    assert m["simulated"] is True
    assert m["lost_by_kill"] == 0
    assert m["measured_twice"] == 0
    assert m["verify_ok"] is True
    assert 0 < m["acknowledged_before_kill"] < m["points_measured"] + 20
    assert m["near_boundary_fraction"] > 2 * m["near_boundary_fraction_of_random_points"]
    assert m["drift_residual_nm_rms"] < 0.5 * m["drift_uncorrected_nm_rms"]
    assert m["correlation_Ti"] > 0.9
    assert m["correlation_Cu"] > 0.9


def test_killed_run_says_so_in_its_record(shown):
    documents = [
        json.loads(line)["doc"] for line in (shown[0] / "particles.smarttem/run.jsonl").read_text().splitlines()
    ]
    kinds = [document["kind"] for document in documents]
    assert kinds.count("resumed") == 1
    assert "run_stop" not in kinds[: kinds.index("resumed")], "a killed program has no last word"
    assert documents[-1]["outcome"] == "finished"


def test_page_is_self_contained_and_marked_as_simulated(shown):
    text = shown[1].read_text(encoding="utf-8")

    class Page(HTMLParser):
        def __init__(self):
            super().__init__()
            self.sources, self.open, self.words = [], [], []

        def handle_starttag(self, tag, attributes):
            self.sources += [value for name, value in attributes if name in ("src", "href")]
            if tag not in ("img", "meta", "br"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

        def handle_data(self, data):
            self.words.append(data)

    page = Page()
    page.feed(text)
    assert page.open == []
    assert len(page.sources) == 4
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    words = " ".join(page.words)
    assert "SIMULATED" in words
    assert "smarttem resume particles.smarttem" in words
    assert not re.search(r"\b(nan|None|inf)\b", words.replace("are NaN", "")), "a figure is missing"


def test_second_demonstration_replaces_the_first_but_nothing_else(shown, tmp_path, capsys):
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter1.txt").write_text("precious")
    with pytest.raises(BadInput, match="something else"):
        run_demo(mine, say=lambda line: None)
    assert (mine / "chapter1.txt").read_text() == "precious"
    assert cli.main(["demo", "--out", str(mine)]) == 2
    assert "something else" in capsys.readouterr().err


def test_near_boundary_is_a_distance_in_nm():
    labels = np.zeros((20, 40), dtype=int)
    labels[:, 20:] = 1
    overview = image_frame(np.zeros((20, 40)), pixel_nm=0.5, signal="HAADF")
    near = near_boundary(labels, overview, 1.0)
    assert near[:, 17:23].all()
    assert not near[:, :17].any()
    assert not near[:, 23:].any()


def test_colours_are_those_of_the_window():
    from napari_smarttem.demo_pictures import STATE_COLORS
    from napari_smarttem.widgets.layers import STATE_STYLES

    assert {state: style.color for state, style in STATE_STYLES.items()} == STATE_COLORS
