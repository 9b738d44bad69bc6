"""The bench compares like with like: the bare socket has the instrument do what the bridge has it do, and moves as many bytes."""

from __future__ import annotations

import socket
import threading

import numpy as np
import pytest

from napari_smarttem.backends.digitalmicrograph import connect
from napari_smarttem.backends.digitalmicrograph.server import Bridge
from napari_smarttem.bench import bridge as bench
from napari_smarttem.bench.parts import bridge_raw
from napari_smarttem.bench.parts.bridge_peers import ROWS, InstantDM
from napari_smarttem.bench.report import reached

NEVER = threading.Event()


class Counted(InstantDM):
    """Counts what is asked of it."""

    def __init__(self):
        super().__init__()
        self.scripts = 0

    def ExecuteScriptString(self, script):
        self.scripts += 1
        super().ExecuteScriptString(script)


@pytest.fixture
def bare():
    """(the instrument, a connection to the bare socket in front of it)"""
    dm = Counted()
    ours, theirs = socket.socketpair()

    def serve():
        try:
            bridge_raw.talker(dm)(theirs)
        except ConnectionError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield dm, ours
    ours.close()
    thread.join(5.0)


def test_the_bare_socket_does_the_same_as_the_bridge(bare):
    their_dm, sock = bare
    our_dm = Counted()
    bridge = Bridge(our_dm, port=0)
    thread = threading.Thread(target=bridge.serve)
    thread.start()
    instrument = connect(bridge.address, bridge.token, settle_s=0.0)
    binned = connect(bridge.address, bridge.token, settle_s=0.0, vertical_binning=ROWS)
    nm = instrument.geometry["nm"]
    points = [((y + 0.5) * nm, (x + 0.5) * nm) for x, y in bridge_raw.POINTS.tolist()]
    try:
        (image,) = bench._survey(instrument)
        assert (bridge_raw.ask(sock, "survey").reshape(512, 512) == image.data).all()
        for name, one in (("spectrum", instrument), ("binned", binned)):
            before = our_dm.scripts, their_dm.scripts
            frame = bench._visit(one)
            bridge_raw.ask(sock, "move")
            counts = bridge_raw.ask(sock, name)
            bridge_raw.ask(sock, "park")
            assert counts.dtype == np.float32
            assert (counts == frame.data).all()
            assert our_dm.scripts - before[0] == their_dm.scripts - before[1] > 0
        frames = list(instrument.visit(points, 0.1))
        batch = bridge_raw.ask(sock, "batch").reshape(len(points), -1)
        assert (batch == np.stack([frame.data for frame in frames])).all()
    finally:
        instrument.close()
        binned.close()
        bridge.stop()
        thread.join(5.0)


def test_a_socket_without_an_instrument_moves_as_many_bytes():
    ours, theirs = socket.socketpair()
    talk = bridge_raw.talker(None)

    def serve():
        try:
            talk(theirs)
        except ConnectionError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    for name, size in bridge_raw.ANSWERS.items():
        assert bridge_raw.ask(ours, name).nbytes == size
    ours.close()
    thread.join(5.0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_bench_prints_every_figure():
    figures = bench.run(quick=True)["figures"]
    assert set(figures) == {
        "survey_512_ms", "survey_512_speedup", "visit_ms", "visit_speedup", "batch_visit_ms", "times_raw_socket", "faults",
        "lost", "misattributed", "fuzz_cases",
    }  # fmt: skip
    assert reached(figures["lost"])
    assert reached(figures["misattributed"])
    assert figures["survey_512_ms"]["baselines"]["end_to_end_at_10_us"] > 2800
    assert figures["batch_visit_ms"]["baselines"]["at_1_ms_exposures"] > 1.0
