"""``smarttem fake-gms`` and ``smarttem check``, as a person calls them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from napari_smarttem import cli
from napari_smarttem.backends.digitalmicrograph.doctor import examine
from napari_smarttem.backends.digitalmicrograph.fake_gms import run

from .conftest import TOKEN


@pytest.fixture(scope="module")
def running():
    with run(speed=None, seed=3, token=TOKEN) as found:
        yield found


def test_check_says_that_everything_works(running, capsys):
    assert cli.main(["check", running.address, "--token", TOKEN]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert all(" works " in line for line in lines)
    assert any("IFSetEnergyLoss" in line and "IFCSetActiveDispersions" not in line for line in lines)
    assert running.gms.world.blanked
    assert running.gms.digiscan.beam == running.gms.digiscan.safe


def test_check_moves_neither_stage_nor_filter_and_puts_no_dose_on_the_specimen(running):
    running.gms.world.blanked = True
    before = (
        dict(running.gms.column.stage),
        running.gms.filter.energy_ev,
        running.gms.world.microscope.dose_e_per_a2().sum(),
    )
    examine(running.address, TOKEN)
    after = (
        dict(running.gms.column.stage),
        running.gms.filter.energy_ev,
        running.gms.world.microscope.dose_e_per_a2().sum(),
    )
    assert after == before


def test_check_tells_what_is_absent_from_what_fails(capsys):
    gms = {"model": "no filter", "blanker": False}
    with run(speed=None, seed=3, token=TOKEN, gms=gms) as running:
        running.gms.camera.inserted = True
        assert cli.main(["check", running.address, "--token", TOKEN, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        status = {finding["what"]: finding["status"] for finding in report["findings"]}
        assert report["ok"] is True
        assert {what for what, state in status.items() if state == "absent"} == {"blanker", "energy filter"}


def test_check_fails_in_a_sentence(running, capsys):
    assert cli.main(["check", "tcp://127.0.0.1:9", "--token", TOKEN]) == 1
    assert "server.py" in capsys.readouterr().out
    assert cli.main(["check", running.address, "--token", "wrong"]) == 1
    assert "refuses the token" in capsys.readouterr().out


def started(*options):
    """What ``smarttem fake-gms`` prints in half a second."""
    done = subprocess.run(
        [sys.executable, "-m", "napari_smarttem", "fake-gms", "--port", "0", "--token", TOKEN, "--seconds", "0.5", *options],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_fake_gms_starts_and_stops():
    lines = started("--ronchigrams")
    assert lines[0].startswith("SIMULATED microscope; address  tcp://127.0.0.1:")
    assert lines[1].endswith(TOKEN)
    assert lines[2].startswith("SIMULATED corrector; address   tcp://127.0.0.1:")
    assert len(lines) == 3
