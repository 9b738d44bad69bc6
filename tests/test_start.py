"""The one-file set-up: what it decides, what it says, what it survives. Needs no network."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
PYPROJECT = """\
[project]
name = "napari-smarttem"
[dependency-groups]
test = ["pytest>=8", "hypothesis"]
dev = [{ include-group = "test" }, "ruff"]
"""


@pytest.fixture
def start():
    spec = importlib.util.spec_from_file_location("smarttem_start", CHECKOUT / "start.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    return tmp_path


@pytest.fixture
def offline(start, monkeypatch):
    """Set-ups without pip and without venv: records what was made and installed, and writes what pip would leave."""
    made, installed = [], []

    def make_venv(venv):
        made.append(venv)
        venv.mkdir(exist_ok=True)
        (venv / start.STAMP).write_text("{}")

    def install(venv, groups, pyproject):
        installed.append(set(groups))
        stamp = {"groups": sorted(groups), "fingerprint": start.fingerprint(pyproject), "python": "3"}
        (venv / start.STAMP).write_text(json.dumps(stamp))

    monkeypatch.setattr(start, "make_venv", make_venv)
    monkeypatch.setattr(start, "install", install)
    monkeypatch.setattr(start, "works", lambda venv: venv.exists())
    return SimpleNamespace(made=made, installed=installed)


def test_second_set_up_does_nothing(start, checkout, offline):
    start.set_up((), checkout)
    start.set_up((), checkout)
    assert len(offline.made) == 1
    assert offline.installed == [set()]


def test_groups_are_added_and_kept(start, checkout, offline):
    start.set_up((), checkout)
    start.set_up({"test"}, checkout)
    start.set_up((), checkout)
    assert offline.installed == [set(), {"test"}]
    assert len(offline.made) == 1, "adding a group does not make the environment afresh"


def test_changed_project_file_updates_without_making_afresh(start, checkout, offline):
    start.set_up((), checkout)
    (checkout / "pyproject.toml").write_text(PYPROJECT + "# changed\n")
    start.set_up((), checkout)
    assert offline.installed == [set(), set()]
    assert len(offline.made) == 1


def test_moved_checkout_is_installed_again(start, checkout, offline, tmp_path_factory):
    start.set_up((), checkout)
    moved = tmp_path_factory.mktemp("elsewhere") / "moved"
    checkout.rename(moved)
    start.set_up((), moved)
    assert len(offline.installed) == 2, "an editable install points at the old place"


@pytest.mark.parametrize("content", ["", "{", '{"groups": 3}', "[]", "\x00"])
def test_unreadable_stamp_means_set_up_again(start, checkout, offline, content):
    start.set_up((), checkout)
    (checkout / ".venv" / start.STAMP).write_text(content)
    start.set_up((), checkout)
    assert len(offline.installed) == 2


def test_interrupted_install_is_made_afresh(start, checkout, offline):
    start.set_up((), checkout)
    (checkout / ".venv" / start.UNFINISHED).touch()
    start.set_up((), checkout)
    assert len(offline.made) == 2


def test_two_set_ups_of_one_folder_take_turns(start, checkout, offline, monkeypatch):
    inside, overlaps = [], []
    make = start.make_venv

    def slow_make(venv):
        overlaps.append(len(inside))
        inside.append(venv)
        threading.Event().wait(0.2)
        inside.pop()
        make(venv)

    monkeypatch.setattr(start, "make_venv", slow_make)
    threads = [threading.Thread(target=start.set_up, args=((), checkout)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert overlaps == [0], "the second one found everything done"


def test_foreign_environment_is_set_aside_not_deleted(start, checkout, monkeypatch, capsys):
    theirs = checkout / ".venv"
    theirs.mkdir()
    (theirs / "precious").write_text("mine")
    monkeypatch.setattr(start, "works", lambda venv: True)
    monkeypatch.setattr(start.subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=0, stdout="", stderr=""))
    start.make_venv(theirs)
    assert (checkout / ".venv-before-1" / "precious").read_text() == "mine"
    assert "setting it aside" in capsys.readouterr().out
    assert (theirs / start.STAMP).exists()


def test_own_broken_environment_is_replaced(start, checkout, monkeypatch):
    venv = checkout / ".venv"
    venv.mkdir()
    (venv / start.STAMP).write_text("{}")
    (venv / "half").write_text("made")
    monkeypatch.setattr(start, "works", lambda venv: True)
    monkeypatch.setattr(start.subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=0, stdout="", stderr=""))
    start.make_venv(venv)
    assert not (venv / "half").exists()
    assert not list(checkout.glob(".venv-before-*"))


def test_python_without_ensurepip_is_one_sentence(start, checkout, monkeypatch):
    monkeypatch.setattr(start, "_has_ensurepip", lambda: False)
    monkeypatch.setattr(start, "_apt_install", lambda packages: False)
    with pytest.raises(start.SetupError, match=r"ensurepip is missing; install it .*-venv"):
        start.make_venv(checkout / ".venv")


def test_no_network_is_one_sentence_and_leaves_the_environment_usable(start, checkout, monkeypatch):
    """A real virtual environment and a real pip, whose index nobody answers."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(start.SetupError, match="check the network"):
        start.set_up((), checkout)
    venv = checkout / ".venv"
    assert start.works(venv)
    assert not (venv / start.UNFINISHED).exists(), "pip cleaned up after itself: no need to make it afresh"
    assert start.installed_groups(venv, checkout / "pyproject.toml") is None, "the next start installs"


def _pip_report(*names):
    report = {"install": [{"metadata": {"name": name}} for name in names]}
    return lambda command, **_: SimpleNamespace(returncode=0, stdout=json.dumps(report))


@pytest.fixture
def linux_without_torch(start, monkeypatch):
    monkeypatch.setattr(start.sys, "platform", "linux")
    monkeypatch.setattr(start.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(start, "has_nvidia_gpu", lambda: False)
    monkeypatch.setattr(start, "_has_module", lambda venv, name: False)


def test_a_machine_without_gpu_gets_no_cuda(start, checkout, monkeypatch, linux_without_torch):
    monkeypatch.setattr(start.subprocess, "run", _pip_report("torch", "nvidia-cublas", "triton"))
    commands = start.torch_commands(checkout / ".venv")
    assert commands[0][-1] == "uv"
    assert commands[1][-3:] == ["--torch-backend", "cpu", start.TORCH]
    assert len(commands) == 2


def test_a_torch_without_cuda_is_taken_from_where_pip_finds_it(start, checkout, monkeypatch, linux_without_torch):
    monkeypatch.setattr(start.subprocess, "run", _pip_report("torch", "sympy", "filelock"))
    assert [command[-1] for command in start.torch_commands(checkout / ".venv")] == [start.TORCH]


def test_with_a_gpu_or_elsewhere_pip_may_choose(start, checkout, monkeypatch, linux_without_torch):
    monkeypatch.setattr(start.subprocess, "run", _pip_report("torch", "nvidia-cublas"))
    monkeypatch.setattr(start, "has_nvidia_gpu", lambda: True)
    assert [command[-1] for command in start.torch_commands(checkout / ".venv")] == [start.TORCH]
    monkeypatch.setattr(start, "has_nvidia_gpu", lambda: False)
    monkeypatch.setattr(start.sys, "platform", "darwin")
    assert [command[-1] for command in start.torch_commands(checkout / ".venv")] == [start.TORCH]


def test_torch_that_is_there_is_left_alone(start, checkout, monkeypatch, linux_without_torch):
    monkeypatch.setattr(start, "_has_module", lambda venv, name: True)
    assert start.torch_commands(checkout / ".venv") == []


def test_a_pip_that_cannot_look_is_left_to_say_why(start, checkout, monkeypatch, linux_without_torch):
    monkeypatch.setattr(start.subprocess, "run", lambda command, **_: SimpleNamespace(returncode=1, stdout=""))
    assert [command[-1] for command in start.torch_commands(checkout / ".venv")] == [start.TORCH]


def test_requirements_spell_out_the_groups(start, checkout):
    lines = start.requirements({"dev"}, checkout / "pyproject.toml")
    assert lines == ["--editable", f"{checkout}[nn,pyqt6]", "pytest>=8", "hypothesis", "ruff"]


def test_project_requirements_of_this_checkout_are_readable(start):
    lines = start.requirements({"test", "dev"}, CHECKOUT / "pyproject.toml")
    assert len(lines) == len(set(lines))
    assert any(line.startswith("pytest") for line in lines)
    assert any(line.startswith("import-linter") for line in lines)


def test_children_see_no_other_python(start, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    monkeypatch.setenv("PYTHONHOME", "/somewhere/else")
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "https://example.org/simple")
    env = start.child_environment()
    assert "PYTHONPATH" not in env
    assert "PYTHONHOME" not in env
    assert env["PIP_USER"] == "0", "a --user default would break every virtual environment"
    assert env["PIP_INDEX_URL"] == "https://example.org/simple", "the person's own index is kept"


def test_qt_gets_a_locale_it_can_read(start, monkeypatch):
    monkeypatch.setattr(start.sys, "platform", "linux")
    monkeypatch.setenv("LC_ALL", "C")
    env = start.child_environment()
    assert "LC_ALL" not in env
    assert env["LANG"] == "C.UTF-8"
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert start.child_environment()["LC_ALL"] == "de_DE.UTF-8"


@pytest.mark.parametrize(
    ("platform", "environ", "screen"),
    [
        ("linux", {}, False),
        ("linux", {"DISPLAY": ""}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("darwin", {}, True),
        ("win32", {}, True),
    ],
)
def test_screen(start, platform, environ, screen):
    assert start.has_screen(environ, platform) is screen


def test_an_x_display_leaves_no_trace_of_wayland(start, monkeypatch):
    """PyOpenGL would look for EGL's context beside Qt's GLX one, and find none."""
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    monkeypatch.setenv("XDG_SESSION_TYPE", "wayland")
    monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)  # as these tests themselves are run
    env = start.child_environment({"DISPLAY": ":5", "QT_QPA_PLATFORM": "xcb"})
    assert not {"WAYLAND_DISPLAY", "XDG_SESSION_TYPE"} & set(env)
    assert start.child_environment()["WAYLAND_DISPLAY"] == "wayland-0"


def test_missing_system_libraries_are_named_for_debian_and_fedora(start, monkeypatch):
    monkeypatch.setattr(start.sys, "platform", "linux")
    lacking = {"libEGL.so.1", "libxcb-cursor.so.0"}
    found = start.missing_system_packages(True, loads=lambda lib: lib not in lacking, which=lambda name: None)
    assert found == [("libegl1", "libglvnd-egl"), ("libxcb-cursor0", "xcb-util-cursor"), start.XVFB_PACKAGES]
    monkeypatch.setattr(start, "missing_system_packages", lambda need: found)
    monkeypatch.setattr(start, "_apt_install", lambda packages: False)
    with pytest.raises(start.SetupError, match="sudo apt-get install libegl1 libxcb-cursor0 xvfb") as error:
        start.need_system_packages(True)
    assert "sudo dnf install libglvnd-egl" in str(error.value)


def test_only_linux_needs_system_packages(start, monkeypatch):
    monkeypatch.setattr(start.sys, "platform", "darwin")
    assert start.missing_system_packages(True, loads=lambda lib: False, which=lambda name: None) == []


def test_apt_is_used_only_by_root(start, monkeypatch):
    monkeypatch.setattr(start.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(start.os, "geteuid", lambda: 1000, raising=False)
    ran = []
    monkeypatch.setattr(start.subprocess, "run", lambda *a, **k: ran.append(a) or SimpleNamespace(returncode=0))
    assert start._apt_install(["xvfb"]) is False
    assert ran == []


def test_apt_refreshes_its_lists_once_when_they_are_empty(start, monkeypatch):
    monkeypatch.setattr(start.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(start.os, "geteuid", lambda: 0, raising=False)
    ran = []

    def run(command, **options):
        ran.append(command[1])
        return SimpleNamespace(returncode=0 if ran.count("install") == 2 or command[1] == "update" else 100)

    monkeypatch.setattr(start.subprocess, "run", run)
    assert start._apt_install(["xvfb"]) is True
    assert ran == ["install", "update", "install"]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("WARNING: Retrying ... NewConnectionError('...: Temporary failure in name resolution')", "check the network"),
        ("ERROR: Could not find a version that satisfies the requirement hatchling", "check the network"),
        ("ERROR: Failed building wheel for something", "Failed building wheel"),
    ],
)
def test_pip_failures_are_one_sentence(start, line, word):
    sentence = start.pip_failure(["Collecting something", line], Path("log"))
    assert word in sentence
    assert "\n" not in sentence


def test_unknown_command_is_refused_before_anything_is_set_up(start, monkeypatch, capsys):
    monkeypatch.setattr(start, "set_up", lambda *a: pytest.fail("set up for an unknown command"))
    assert start.main(["tests"]) == 2
    assert "gui, test, check, setup" in capsys.readouterr().out


def test_set_up_errors_are_sentences_not_tracebacks(start, monkeypatch, capsys):
    def fail(need_xvfb):
        raise start.SetupError("no room")

    monkeypatch.setattr(start, "need_system_packages", fail)
    assert start.main(["setup"]) == 1
    assert capsys.readouterr().out == "start.py: no room\n"


def test_tests_get_their_arguments_and_none_of_the_persons_settings(start, monkeypatch):
    seen = {}
    monkeypatch.setattr(start, "need_system_packages", lambda need_xvfb: None)
    monkeypatch.setattr(start, "set_up", lambda groups=(): Path("python"))
    monkeypatch.setattr(start.sys, "platform", "darwin")
    monkeypatch.setattr(start, "run", lambda command, env: seen.update(command=command, env=env) or 5)
    assert start.main(["test", "-k", "edges"]) == 5
    assert seen["command"] == ["python", "-m", "pytest", "-k", "edges"]
    assert seen["env"]["NAPARI_CONFIG"] == ""


def test_without_a_screen_the_first_command_runs_the_main_job(start, monkeypatch, capsys):
    seen = {}
    monkeypatch.setattr(start, "need_system_packages", lambda need_xvfb: seen.update(xvfb=need_xvfb))
    monkeypatch.setattr(start, "set_up", lambda groups=(): Path("python"))
    monkeypatch.setattr(start, "has_screen", lambda: False)
    monkeypatch.setattr(start, "virtual_display", lambda: start.contextlib.nullcontext({"DISPLAY": ":5"}))
    monkeypatch.setattr(start, "run", lambda command, env: seen.update(command=command, env=env) or 0)
    assert start.main([]) == 0
    assert seen["xvfb"] is True
    assert seen["command"][1:4] == ["-m", "napari_smarttem", "demo"]
    assert seen["env"]["DISPLAY"] == ":5"
    assert "smarttem-demo" in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Xvfb is for Linux")
def test_virtual_display_answers_and_goes_away(start):
    if start.shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed")
    with start.virtual_display() as env:
        socket = Path("/tmp/.X11-unix") / f"X{env['DISPLAY'][1:]}"
        assert socket.exists()
    assert not socket.exists(), "the display is gone with the block"


def test_old_python_gets_a_sentence(tmp_path):
    """The version check stands before anything that an old Python could not do."""
    old = "import sys; sys.version_info = (3, 8, 0); "
    done = subprocess.run(
        [sys.executable, "-c", old + f"exec(compile(open({str(CHECKOUT / 'start.py')!r}).read(), 'start.py', 'exec'))"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("napari-smarttem needs Python 3.11 or newer, and this is Python 3.8")
    assert "Traceback" not in done.stderr


def test_syntax_is_that_of_an_old_python():
    import ast

    ast.parse((CHECKOUT / "start.py").read_text(encoding="utf-8"), feature_version=(3, 7))
