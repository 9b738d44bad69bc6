"""The documentation keeps its word: links lead somewhere, names are those of the program, Python blocks run."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from napari_smarttem import cli
from napari_smarttem.acquisition.choosers import choosers
from napari_smarttem.acquisition.settings import AcquisitionSettings
from napari_smarttem.schema import RunStart, documents

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"(?<!\\)\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^( *)```.*?^\1```", re.M | re.S)


def blocks(page: Path, language: str) -> list[str]:
    """Code blocks of `page` in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} in {page.name}"
        assert ROOT in target.parents, f"{link} leaves the repository"
        if anchor:
            assert anchor in anchors(target), f"{link} in {page.name}"


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists():
                waiting.append(target)
    assert set(PAGES) - reached == set()


def test_command_line_page_names_every_command_and_option():
    text = (ROOT / "docs/reference/command-line.md").read_text(encoding="utf-8")
    from napari_smarttem.widgets.launch import parser as window_parser

    parsers = {"gui": window_parser()}
    for action in cli.build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            parsers |= {name: parser for name, parser in action.choices.items() if name != "gui"}
    for name, parser in parsers.items():
        section = text.partition(f"## smarttem {name}")[2].partition("\n## ")[0]
        assert section, f"no section about {name}"
        for action in parser._actions:
            for option in action.option_strings:
                if option.startswith("--") and option not in ("--help", "--debug"):
                    assert option in section + text.partition("\n## ")[0], f"{option} of {name}"


def test_settings_page_names_every_setting_and_chooser_and_their_defaults():
    text = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    for name, field in AcquisitionSettings.model_fields.items():
        row = re.search(rf"^\| `{name}` \| ([^|]*) \|", text, re.M)
        assert row, name
        if isinstance(field.default, (bool, int, float)) and name != "overview_dwell_s":
            written = str(field.default).lower() if isinstance(field.default, bool) else f"{field.default:g}"
            assert row[1].strip() == written, name
    for name, chooser in choosers().items():
        row = re.search(rf"^\| `{name}` \|.*$", text, re.M)
        assert row, name
        for option in chooser.options.model_fields:
            assert f"`{option}`" in row[0], f"{option} of {name}"


def test_run_folder_page_names_every_document_and_field():
    text = (ROOT / "docs/reference/run-folder.md").read_text(encoding="utf-8")
    shapes = (
        RunStart,
        documents.Proposal,
        documents.Decision,
        documents.StepDone,
        documents.Resumed,
        documents.RunStop,
    )
    for shape in (*shapes, documents.FrameRecord):
        for name in shape.model_fields:
            assert f"`{name}`" in text, f"{name} of {shape.__name__}"
    for shape in shapes:
        assert f"`{shape.model_fields['kind'].default}`" in text


def test_notebook_page_runs(tmp_path, monkeypatch):
    """The dozen lines, as they stand, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    lines = blocks(ROOT / "docs/how-to/notebook.md", "python")
    assert len(lines) == 2
    room: dict[str, object] = {}
    for code in lines:
        exec(compile(code, "notebook.md", "exec"), room)
    assert (tmp_path / "particles.smarttem").is_dir()
    session = room["session"]
    assert session.status.outcome == "finished"
    assert room["frames"][0].shape[-1] == 2048
    assert session.status.steps_done > 5


def test_chooser_page_runs():
    """The example chooser proposes what it says: bright places."""
    import numpy as np

    from napari_smarttem.acquisition.choosers import Wanted
    from napari_smarttem.acquisition.overview import prepare
    from napari_smarttem.schema import image_frame

    room: dict[str, object] = {"__name__": "example"}
    exec(compile(blocks(ROOT / "docs/how-to/write-a-chooser.md", "python")[0], "write-a-chooser.md", "exec"), room)
    chooser = room["CHOOSER"]
    image = np.zeros((40, 40))
    image[10:13, 20:23] = 5.0
    view = prepare(image_frame(image, pixel_nm=1.0, signal="HAADF"))
    choice = chooser.choose(view, chooser.options(), Wanted(5, None, np.random.default_rng(0)))
    assert len(choice.picks) == 5
    assert all(10 <= pick.row < 13 and 20 <= pick.column < 23 for pick in choice.picks)


def test_commands_in_the_readme_are_commands():
    parser = cli.build_parser()
    for page in (ROOT / "README.md", *(ROOT / "docs/how-to").glob("*.md")):
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = line.partition("#")[0].split()
                if words[:1] == ["smarttem"] and words[1:2] != ["gui"]:
                    parser.parse_args(words[1:])  # leaves with status 2 where an option does not exist
