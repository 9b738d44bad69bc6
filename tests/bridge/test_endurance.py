"""Faults, long runs, and a whole run of the acquisition plan through a real socket."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from napari_smarttem.backends.digitalmicrograph import connect
from napari_smarttem.backends.digitalmicrograph.fake_gms import run
from napari_smarttem.bench.parts.bridge_faults import KINDS, Proxy, faults
from napari_smarttem.bench.parts.bridge_soak import soak
from napari_smarttem.engine.session import Session
from napari_smarttem.engine.verify import verify
from napari_smarttem.schema import PlanSpec

from .conftest import TOKEN

NEVER = threading.Event()


def harmless(found):
    assert (found["lost"], found["misattributed"], found["beam_left_on"]) == (0, 0, 0)
    assert found["sentences"] == found["tried_again"]


def test_nothing_is_lost_or_mixed_up_by_faults():
    found = faults(3 * len(KINDS), seed=2)
    assert found["faults"] == found["points"] == 3 * len(KINDS)
    assert found["tried_again"] >= 3  # some faults are so bad that the point is measured again
    harmless(found)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_faults():
    harmless(faults(1000, seed=3))


def clean(found):
    assert found["before"] == found["during"] == {"images": 2, "parameters": 0, "tags": 0}
    assert found["after"] == {"images": 0, "parameters": 0, "tags": 0}
    assert found["growth_blocks"] < 1.0
    assert found["threads"] <= 1
    assert found["violations"] == 0


def test_nothing_is_left_behind():
    found = soak(300)
    clean(found)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nothing_is_left_behind_by_a_day():
    found = soak(100_000)
    assert found["hours"] > 22
    assert (found["growth_resident"] or 0.0) < 1.0
    clean(found)


def test_a_lost_answer_is_had_again_without_another_exposure():
    with run(instant=True, speed=None, token=TOKEN) as running:
        host, _, port = running.address.removeprefix("tcp://").rpartition(":")
        proxy = Proxy((host, int(port)))
        instrument = connect(proxy.address, TOKEN, overview_pixels=64)
        instrument.blanker.set_blanked(False)
        instrument.scanner.move_probe(50.0, 60.0)
        exposures = running.gms.camera.prepared
        proxy.harm = "reply lost"
        frame = instrument.spectrometer.acquire_spectrum(0.01, NEVER)
        assert running.gms.camera.prepared == exposures + 1
        assert instrument.link.reconnections == 1
        assert np.asarray(frame.data)[2] > 0
        instrument.close()
        proxy.close()


PLAN = {"points": 12, "drift_every": 6, "overview_shape": [128, 128]}


@pytest.mark.parametrize("harm", ["", "cut in the reply"])
def test_the_acquisition_plan_runs_through_the_socket(tmp_path, harm):
    settings = {key: value for key, value in PLAN.items() if key in _known_settings()}
    with run(speed=None, seed=3, token=TOKEN) as running, Session(tmp_path) as session:
        host, _, port = running.address.removeprefix("tcp://").rpartition(":")
        proxy = Proxy((host, int(port)))
        session.connect("digitalmicrograph", address=proxy.address, token=TOKEN, beam_current_pa=50.0).result()
        session.instrument.unwrapped.link.quiet_s = 1.0
        if harm:
            done = []

            def injure(_result):
                done.append(1)
                if len(done) % 3 == 0:
                    proxy.harm = harm

            session.step_finished.connect(injure)
        folder = session.start(PlanSpec(kind="acquisition", settings=settings), policy="approve_all")
        session.wait()
        assert session.status.outcome == "finished", session.status.reason
        assert running.gms.world.blanked
        assert running.gms.digiscan.beam == running.gms.digiscan.safe
        proxy.close()
    report = verify(folder)
    assert report.ok
    assert report.frames >= 13
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert not any(TOKEN.encode() in path.read_bytes() for path in files)
    assert running.gms.violations == []
    assert running.gms.leaks() == {"images": 0, "parameters": 0, "tags": 0}


def _known_settings():
    from napari_smarttem.acquisition.settings import AcquisitionSettings

    return AcquisitionSettings.model_fields
