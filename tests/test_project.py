"""What the project promises about itself: metadata, rules and files that no other test would miss."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def test_default_installation_brings_no_torch_and_no_qt():
    names = {re.split(r"[^A-Za-z0-9_-]", line)[0].lower() for line in PROJECT["project"]["dependencies"]}
    assert not names & {
        "torch",
        "tensorflow",
        "jax",
        "cupy",
        "pyqt5",
        "pyqt6",
        "pyside2",
        "pyside6",
        "pyside6-essentials",
    }
    assert not any("napari[" in line for line in PROJECT["project"]["dependencies"])


def test_metadata_for_the_hub_and_for_packagers():
    project = PROJECT["project"]
    assert project["license"] == "GPL-3.0-or-later"
    assert "Framework :: napari" in project["classifiers"]
    assert project["requires-python"] == ">=3.11"
    assert (ROOT / "src/napari_smarttem/py.typed").exists()
    assert "GNU GENERAL PUBLIC LICENSE" in (ROOT / "LICENSE").read_text()[:200]


@pytest.mark.parametrize("table", ["napari_smarttem.backends", "napari_smarttem.plans", "napari.manifest"])
def test_declared_entry_points_can_be_loaded(table):
    declared = PROJECT["project"]["entry-points"][table]
    installed = {point.name: point for point in entry_points(group=table)}
    for name, value in declared.items():
        assert installed[name].value == value, "install again: the metadata is older than pyproject.toml"
        if table != "napari.manifest":
            assert callable(installed[name].load())


def test_version_is_in_the_changelog():
    from napari_smarttem import __version__

    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_set_up_script_needs_only_the_standard_library():
    import sys

    tree = ast.parse((ROOT / "start.py").read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_sources_hold_nothing_unsafe_or_unfinished(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not {name.split(".")[0] for name in names} & {"pickle", "cloudpickle", "marshal", "shelve", "dill"}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec"}, f"line {node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except in line {node.lineno}"
            assert not (len(node.body) == 1 and isinstance(node.body[0], ast.Pass)), (
                f"line {node.lineno} swallows an error"
            )
        if isinstance(node, ast.Name):
            assert node.id != "NotImplementedError", f"line {node.lineno}"


def test_continuous_integration_runs_the_second_command():
    script = ROOT / ".ci" / "run"
    assert 'start.py" test' in script.read_text() or "start.py test" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)
    tracked = subprocess.run(
        ["git", "ls-files", "-s", ".ci/run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.stdout:
        assert tracked.stdout.startswith("100755"), "it must be executable"


def test_workflows_are_yaml_with_every_platform_and_binding():
    import yaml

    flow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    qt = flow["jobs"]["qt"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in qt["os"]} == {"ubuntu", "macos", "windows"}
    assert set(qt["qt"]) == {"pyqt6", "pyside6"} <= set(PROJECT["project"]["optional-dependencies"])
    resolutions = {job["resolution"] for job in flow["jobs"]["dependencies"]["strategy"]["matrix"]["include"]}
    assert resolutions == {"lowest-direct", "highest"}


def test_no_place_of_anybodys_machine_is_in_the_repository():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    private = re.compile(r"(?<![\w.])/(?:home/\w+|Users/\w+|root)/")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if (
            path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".sh", ""}
            and path.is_file()
            and path != Path(__file__)
        ):
            assert not private.search(path.read_text(encoding="utf-8", errors="replace")), name
