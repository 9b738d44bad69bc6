"""The command line: what it asks of the engine, what it says, and its exit statuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from napari_smarttem import bench, cli
from napari_smarttem.bench.report import figure, reached, report
from napari_smarttem.headless import key_values, plan_settings, review_policy
from napari_smarttem.schema import BadInput

FAST = [
    "--backend",
    "simulator",
    "--specimen",
    "core-shell",
    "--points",
    "12",
    "--exposure",
    "0.01",
    "--set",
    "overview_shape=[64, 64]",
]


def smarttem(*arguments: str, cwd: Path | None = None, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "napari_smarttem", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=120, **options)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "trial"
    assert cli.main(["acquire", *FAST, "--seed", "3", "--no-sync", "--out", str(folder), "--json"]) == 0
    return folder.with_name("trial.smarttem")


# -- saying no ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["acquire", "--backend", "titan"], ["no backend 'titan'", "simulator"]),
        (["acquire", *FAST, "--choose", "oracle"], ["no chooser 'oracle'", "edges"]),
        (["acquire", *FAST, "--approve", "2"], ["between 0 and 1"]),
        (["acquire", *FAST, "--approve", "perhaps"], ["--approve", "'perhaps'"]),
        (["acquire", *FAST, "--chooser-setting", "nonsense"], ["KEY=VALUE"]),
        (["acquire", *FAST, "--set", "pionts=3"], ["pionts"]),
        (["acquire", *FAST, "--points", "0"], ["points"]),
        (["acquire", *FAST, "--dose-budget", "0"], ["dose_budget"]),
        (["acquire", "--backend", "simulator", "--specimen", "cheese"], ["no specimen 'cheese'"]),
        (["acquire", "--backend", "replay"], ["'file'"]),
        (["acquire", "--backend", "replay", "--file", "absent.hspy"], ["absent.hspy"]),
        (["resume", "absent.smarttem"], ["absent.smarttem"]),
        (["verify", "absent.smarttem"], ["absent.smarttem"]),
        (["export", "absent.smarttem", "--to", "a.hspy"], ["absent.smarttem"]),
        (["bench", "speed"], ["no bench 'speed'"]),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err.splitlines()
    complaint = said[-1]
    assert complaint.startswith("smarttem: ")
    for word in words:
        assert word in complaint
    assert "Traceback" not in "\n".join(said)
    assert not list(tmp_path.glob("*.smarttem")), "nothing was started"


def test_unknown_command_and_option_name_the_choice(capsys):
    with pytest.raises(SystemExit) as leaving:
        cli.main(["aquire"])
    assert leaving.value.code == 2
    assert "acquire" in capsys.readouterr().err


def test_a_fault_of_ours_is_a_sentence_and_debug_shows_the_traceback(monkeypatch, capsys):
    def broken(options):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(cli, "_backends", broken)
    assert cli.main(["backends"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(ZeroDivisionError):
        cli.main(["backends", "--debug"])


# -- options into settings ---------------------------------------------------------------------------------------------


def test_values_are_json_where_they_are_json():
    pairs = ["a=1", "b=0.5", "c=true", "d=[1, 2]", "e=gmm", "f=a=b", "g="]
    assert key_values(pairs, "--set") == {"a": 1, "b": 0.5, "c": True, "d": [1, 2], "e": "gmm", "f": "a=b", "g": ""}


@pytest.mark.parametrize(
    ("approve", "policy"), [("all", "approve_all"), ("0.5", "approve_above:0.5"), ("file:v.json", "file:v.json")]
)
def test_policies(approve, policy):
    assert review_policy(approve) == policy


def test_policy_of_neither_kind_is_refused():
    with pytest.raises(BadInput):
        review_policy("ask")  # nobody is there to ask


def test_only_what_was_given_reaches_the_plan():
    parser = cli.build_parser()
    assert plan_settings(parser.parse_args(["acquire"])) == {}
    given = parser.parse_args(
        ["acquire", "--choose", "clusters", "--points", "9", "--chooser-setting", "clusters=3", "--set", "rounds=2"]
    )
    assert plan_settings(given) == {
        "chooser": "clusters",
        "points": 9,
        "chooser_settings": {"clusters": 3},
        "rounds": 2,
    }


# -- doing it ----------------------------------------------------------------------------------------------------------


def test_acquire_verify_export(finished_run, tmp_path, capsys):
    assert cli.main(["verify", str(finished_run), "--json"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert checked["ok"] is True
    assert checked["outcome"] == "finished"
    assert checked["frames"] >= 12
    target = tmp_path / "trial.csv"
    assert cli.main(["export", str(finished_run), "--to", str(target)]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert len(target.read_text().splitlines()) == 13, "a head and a row a target"


def test_complete_run_is_not_resumed(finished_run, capsys):
    assert cli.main(["resume", str(finished_run)]) == 2
    assert "complete" in capsys.readouterr().err


def test_existing_run_is_not_overwritten(finished_run, capsys):
    before = (finished_run / "run.jsonl").read_bytes()
    assert cli.main(["acquire", *FAST, "--out", str(finished_run)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (finished_run / "run.jsonl").read_bytes() == before


def test_same_seed_same_points(finished_run, tmp_path):
    again = tmp_path / "again"
    assert cli.main(["acquire", *FAST, "--seed", "3", "--no-sync", "--out", str(again), "--json"]) == 0

    def acquired(folder: Path) -> list[tuple[str, float, float]]:
        steps = [json.loads(line)["doc"] for line in (folder / "run.jsonl").read_text().splitlines()]
        return [
            (s["step"]["step_id"], s["step"]["y_nm"], s["step"]["x_nm"])
            for s in steps
            if s.get("step", {}).get("kind") == "acquire"
        ]

    assert acquired(again.with_name("again.smarttem")) == acquired(finished_run)


def test_damage_is_found_and_status_1(finished_run, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy.smarttem"
    shutil.copytree(finished_run, copy)
    spectra = next(path for path in (copy / "data.zarr").rglob("c.5.*"))
    content = bytearray(spectra.read_bytes())
    content[7] ^= 0x40
    spectra.write_bytes(bytes(content))
    assert cli.main(["verify", str(copy)]) == 1
    assert "checksum" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--exposure", "nan"], "exposure_s cannot be nan"),
        (["--points", "0"], "points cannot be 0"),
        (["--choose", "dance"], "no chooser 'dance'"),
        (["--backend", "nowhere"], "no backend 'nowhere'"),
    ],
)
def test_unusable_settings_are_one_sentence_and_make_no_folder(tmp_path, capsys, options, says):
    assert cli.main(["acquire", *options, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another program")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_ends_cleanly_and_goes_on(tmp_path, number):
    slow = [
        *FAST[:4],
        "--points",
        "200",
        "--exposure",
        "0.05",
        "--speed",
        "1",
        "--drift-every",
        "0",
        "--set",
        "overview_shape=[64, 64]",
    ]
    program = subprocess.Popen(
        [sys.executable, "-m", "napari_smarttem", "acquire", *slow, "--seed", "1", "--out", "slow"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell's background job has SIGINT ignored and hands that on; the program under test must not inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no thread runs here
    )  # fmt: skip
    lines = tmp_path / "slow.smarttem" / "run.jsonl"
    deadline = time.monotonic() + 60
    while (
        program.poll() is None
        and time.monotonic() < deadline
        and not (lines.exists() and lines.read_text().count('"kind":"acquire"') >= 3)
    ):
        time.sleep(0.02)
    program.send_signal(number)
    out, said = program.communicate(timeout=30)
    assert program.returncode == 130, said
    assert "stopped" in out
    assert "smarttem resume" in said
    assert "Traceback" not in said
    last = json.loads(lines.read_text().splitlines()[-1])["doc"]
    assert (last["kind"], last["outcome"]) == ("run_stop", "stopped")
    done = lines.read_text().count('"kind":"acquire"')
    assert 3 <= done < 200


def test_killed_run_is_resumed_to_the_end(tmp_path):
    slow = [
        *FAST[:4],
        "--points",
        "30",
        "--exposure",
        "0.02",
        "--speed",
        "1",
        "--drift-every",
        "0",
        "--set",
        "overview_shape=[32, 32]",
    ]
    program = subprocess.Popen(
        [sys.executable, "-m", "napari_smarttem", "acquire", *slow, "--seed", "1", "--out", "killed"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    lines = tmp_path / "killed.smarttem" / "run.jsonl"
    deadline = time.monotonic() + 60
    while (
        program.poll() is None
        and time.monotonic() < deadline
        and not (lines.exists() and lines.read_text().count('"kind":"acquire"') >= 4)
    ):
        time.sleep(0.005)
    program.kill()
    program.wait()
    resumed = smarttem("resume", "killed.smarttem", "--json", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["outcome"] == "finished"
    documents = [json.loads(line)["doc"] for line in lines.read_text().splitlines()]
    measured = [d["step"]["step_id"] for d in documents if d["kind"] == "step" and d["step"]["kind"] == "acquire"]
    planned = {t["target_id"] for d in documents if d["kind"] == "proposal" for t in d["targets"]}
    assert len(measured) == len(set(measured)), "nothing was measured twice"
    assert set(measured) == planned
    assert any(d["kind"] == "resumed" for d in documents)


def test_run_begun_with_a_person_is_not_answered_for_them(tmp_path, capsys):
    """Without a person and without --approve a waiting run is stopped, not approved behind anybody's back."""
    from napari_smarttem.engine.session import Session
    from napari_smarttem.schema import PlanSpec

    with Session(sync=False) as session:
        session.connect("simulator", speed=None).result()
        spec = PlanSpec(kind="acquisition", settings={"points": 5, "overview_shape": [32, 32], "exposure_s": 0.01})
        opened = []
        session.review.opened.connect(opened.append)
        folder = session.start(spec, tmp_path / "asked", policy="ask")
        deadline = time.monotonic() + 30
        while not opened and time.monotonic() < deadline:
            time.sleep(0.01)
    assert cli.main(["resume", str(folder)]) == 1
    assert "waits for a person" in capsys.readouterr().err
    assert cli.main(["resume", str(folder), "--approve", "all"]) == 0


def test_replay_takes_the_recorded_exposure(shared_data, tmp_path, capsys):
    run = tmp_path / "trial"
    file = str(shared_data / "core_shell.hspy")
    assert (
        cli.main(
            [
                "acquire",
                "--backend",
                "replay",
                "--file",
                file,
                "--points",
                "10",
                "--no-sync",
                "--out",
                str(run),
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["outcome"] == "finished"


# -- listing -----------------------------------------------------------------------------------------------------------


def test_backends_are_listed(capsys):
    assert cli.main(["backends", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"simulator", "replay"} <= set(listed)
    assert "file" in listed["replay"]["settings"]


def test_help_answers_at_once():
    """In a core's time: a busy machine's clock says nothing of the program."""
    pairs = [(_cost("-m", "napari_smarttem", "--help"), _cost("-c", "pass")) for _ in range(3)]
    answer, python = (min(costs) for costs in zip(*pairs, strict=True))
    assert answer < 0.3 + python, f"{answer:.2f} s"


def _cost(*arguments: str) -> float:
    """Seconds of a core that a Python program takes; those of the clock where the system does not count the others."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    counted = after.children_user - before.children_user + after.children_system - before.children_system
    return counted or after.elapsed - before.elapsed


def test_version():
    from napari_smarttem import __version__

    assert smarttem("--version").stdout.strip() == f"napari-smarttem {__version__}"


# -- benches -----------------------------------------------------------------------------------------------------------


def test_bench_report_has_the_one_shape(monkeypatch, tmp_path, capsys):
    (tmp_path / "trial.py").write_text(
        "from napari_smarttem.bench.report import figure, report\n"
        "def run(*, quick, seed):\n"
        "    good, bad = figure(1.5, '<=', 2.0, before=3.0), figure(0.1, '>=', 0.5)\n"
        "    return report('trial', seed, {'good_ms': good, 'bad_fraction': bad})\n"
    )
    monkeypatch.setattr(bench, "__path__", [*bench.__path__, str(tmp_path)])
    assert cli.main(["bench", "trial", "--json", "--quick", "--seed", "4"]) == 0, "whatever the figures"
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == {"bench", "version", "seed", "machine", "figures"}
    assert shown["seed"] == 4
    assert shown["figures"]["good_ms"] == {"value": 1.5, "rule": "<=", "target": 2.0, "baselines": {"before": 3.0}}
    assert {"python", "platform", "cpu_count", "cpu"} <= set(shown["machine"])
    assert cli.main(["bench", "trial"]) == 0
    table = capsys.readouterr().out
    assert "reached" in table
    assert "missed" in table
    sys.modules.pop("napari_smarttem.bench.trial")


def test_bench_names_are_listed(capsys):
    assert cli.main(["bench"]) == 0
    assert "report" not in capsys.readouterr().out.split()


def test_figures_are_plain_numbers():
    import numpy as np

    shown = report("x", np.int64(3), {"a": figure(np.float32(0.5), ">=", 1, grid=np.float64("nan"), none=None)})
    assert json.loads(json.dumps(shown))["figures"]["a"]["baselines"] == {"grid": None, "none": None}
    assert reached(figure(1, ">=", 1)) is True
    assert reached(figure(1.01, "<=", 1)) is False
    assert reached(figure(None, "<=", 1)) is None
    with pytest.raises(ValueError, match="rule"):
        figure(1, "<", 2)


def test_every_bench_can_be_called_the_one_way():
    import importlib
    import inspect

    for name in cli.bench_names():
        run = importlib.import_module(f"{bench.__name__}.{name}").run
        inspect.signature(run).bind(quick=True, seed=0)
