"""Opening the command line, the plugin or a room must cost nothing that is not needed yet."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "hyperspy", "exspy", "sklearn", "skimage", "rsciio", "dask", "matplotlib", "numba")
WINDOWS = ("napari", "qtpy", "PyQt6", "PySide6", "magicgui", "superqt", "pyqtgraph", "vispy")
ROOMS = (
    "schema",
    "physics",
    "backends",
    "backends.simulator",
    "backends.replay",
    "engine.session",
    "acquisition.plan",
    "io",
)


def imported_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `statement`."""
    code = f"import json, sys; {statement}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_brings_no_window_and_no_heavy_library(room):
    found = imported_by(f"import napari_smarttem.{room}")
    assert not found & set(WINDOWS)
    assert not found & set(HEAVY)


def test_the_command_line_needs_only_the_standard_library_until_a_command_is_chosen():
    found = imported_by("from napari_smarttem.cli import build_parser; build_parser()")
    ours = {"napari_smarttem"}
    third_party = {name for name in found if name not in sys.stdlib_module_names and not name.startswith("_")} - ours
    assert third_party <= {"sitecustomize", "usercustomize", "__main__"} | {n for n in third_party if "editable" in n}


def test_nothing_needs_torch():
    """The default installation runs without the networks' libraries, which would bring gigabytes."""
    rooms = ", ".join(f"napari_smarttem.{room}" for room in ROOMS)
    code = f"import sys; sys.modules['torch'] = None; import {rooms}"
    subprocess.run([sys.executable, "-c", code], check=True)
