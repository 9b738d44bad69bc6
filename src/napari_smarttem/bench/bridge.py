"""What the DigitalMicrograph bridge costs, against the published server's way and a bare socket, and what it survives.

The instrument behind all three takes no time, so these are figures of the bridge alone. With a real dwell and exposure the
instrument takes nearly all of the time, whoever carries the bytes: the baselines ``end_to_end_*`` say so.
"""

from __future__ import annotations

import importlib.util
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..backends.digitalmicrograph import connect
from ..backends.digitalmicrograph.client import DigitalMicrograph
from .parts.bridge_faults import faults
from .parts.bridge_fuzz import fuzz
from .parts.bridge_peers import CHANNELS, ROWS, SIZE, exactly, receive_text, send_text
from .report import figure, report

NEVER = threading.Event()
DWELL_S, FLYBACK_S, EXPOSURE_S = 10e-6, 500e-6, 0.1


def run(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Measure; the figures of ``smarttem bench bridge``."""
    repeats = 3 if quick else 9
    kind = "published" if importlib.util.find_spec("Pyro5") is None else "pyro"
    with _peer("bridge") as ours, _peer(kind) as theirs, _peer("raw") as raw:
        times = _transfers(ours, theirs, raw, repeats)
    survived = faults(60 if quick else 1000, seed)
    fuzzed = fuzz(20_000 if quick else 1_000_000, seed)
    frame_s = SIZE * (SIZE * DWELL_S + FLYBACK_S)
    survey, visit, batch = times["survey"], times["visit"], times["batch"]
    figures = {
        "survey_512_ms": figure(
            survey[0], "<=", None, published=survey[1], raw_socket=survey[2],
            end_to_end_at_10_us=1e3 * frame_s + survey[0], end_to_end_published=1e3 * frame_s + survey[1],
        ),
        "survey_512_speedup": figure(survey[1] / survey[0], ">=", 300.0),
        "visit_ms": figure(
            visit[0], "<=", None, published=visit[1], raw_socket=visit[2],
            band_of_100_rows=times["visit_band"][0],
            end_to_end_at_0_1_s=1e3 * EXPOSURE_S + visit[0], end_to_end_published=1e3 * EXPOSURE_S + visit[1],
        ),
        "visit_speedup": figure(visit[1] / visit[0], ">=", 10.0),
        "batch_visit_ms": figure(
            batch[0], "<=", 0.1, one_by_one=visit[0], band_of_100_rows=times["batch_band"][0],
            at_1_ms_exposures=1.0 + batch[0], one_by_one_at_1_ms_exposures=1.0 + visit[0],
        ),
        "times_raw_socket": figure(
            max(survey[0] / survey[2], visit[0] / visit[2]), "<=", 2.5, survey=survey[0] / survey[2],
            visit=visit[0] / visit[2],
        ),
        "faults": figure(survived["faults"], ">=", None if quick else 1000.0, sentences=survived["sentences"]),
        "lost": figure(survived["lost"], "<=", 0.0, points=survived["points"], tried_again=survived["tried_again"]),
        "misattributed": figure(survived["misattributed"], "<=", 0.0, beam_left_on=survived["beam_left_on"]),
        "fuzz_cases": figure(fuzzed["cases"], ">=", None if quick else 1e6, through_sockets=fuzzed["through_sockets"]),
    }  # fmt: skip
    return report("bridge", seed, figures)


def _transfers(
    ours: tuple[str, str], theirs: tuple[str, str], raw: tuple[str, str], repeats: int
) -> dict[str, tuple[float, ...]]:
    """(ours, published, raw socket) in ms, medians, measured in turn so that a busy machine hits all alike."""
    bridge = connect(ours[0], ours[1], settle_s=0.0)
    binned = connect(ours[0], ours[1], settle_s=0.0, vertical_binning=ROWS)
    published, bare = _caller(theirs[0]), _socket(raw[0])
    points = [(50.0 + 0.01 * i, 60.0) for i in range(500)]
    ways: dict[str, tuple[Callable[[], Any], ...]] = {
        "survey": (
            lambda: _survey(bridge),
            lambda: np.array(published("get_ds", SIZE)[0], dtype=np.uint32),
            lambda: _raw(bare, 4 * SIZE * SIZE),
        ),
        "visit": (
            lambda: _visit(binned),
            lambda: (published("set_beam_pos", 1.0, 2.0), published("acquire_camera", 0.1),
                     np.array(published("get_eels")[0])),
            lambda: (_raw(bare, 128), _raw(bare, 128), _raw(bare, 4 * CHANNELS)),
        ),
        "visit_band": (lambda: _visit(bridge),),
        "batch": (lambda: sum(1 for _ in binned.visit(points, 1e-3)),),
        "batch_band": (lambda: sum(1 for _ in bridge.visit(points, 1e-3)),),
    }  # fmt: skip
    found: dict[str, tuple[float, ...]] = {}
    try:
        for name, callers in ways.items():
            often = repeats if name in ("survey", "batch", "batch_band") else repeats * 20
            times: list[list[float]] = [[] for _ in callers]
            for caller in callers:
                caller()
            for _ in range(often):
                for one, caller in zip(times, callers, strict=True):
                    for _ in range(1 if one and one[0] > 100 else 5):  # the slow one leaves the memory cold behind it
                        began = time.perf_counter()
                        caller()
                        one.append(1e3 * (time.perf_counter() - began))
            per = len(points) if name.startswith("batch") else 1
            found[name] = tuple(statistics.median(one) / per for one in times)
    finally:
        bridge.close()
        binned.close()
        bare.close()
    return found


def _survey(bridge: DigitalMicrograph) -> Any:
    assert bridge.scanner is not None
    return bridge.scanner.scan(
        field=bridge.scanner.field,
        shape=(SIZE, SIZE),
        dwell_s=DWELL_S,
        signals=bridge.scanner.signals[:1],
        cancel=NEVER,
    )


def _visit(bridge: DigitalMicrograph) -> Any:
    """Three round trips: the beam to its place, exposure and spectrum, the beam away."""
    assert bridge.scanner is not None
    assert bridge.spectrometer is not None
    bridge.scanner.move_probe(50.0, 60.0)
    frame = bridge.spectrometer.acquire_spectrum(EXPOSURE_S, NEVER)
    bridge.scanner.park_probe()
    return frame


def _caller(address: str) -> Callable[..., Any]:
    """What calls the published server: Pyro5 where it is installed, else the re-enactment."""
    if address.startswith("PYRO:"):
        proxy = importlib.import_module("Pyro5.api").Proxy(address)
        return lambda name, *arguments: getattr(proxy, name)(*arguments)
    sock = _socket(address)

    def call(*what: Any) -> Any:
        send_text(sock, what)
        return receive_text(sock)

    return call


def _raw(sock: socket.socket, size: int) -> bytearray:
    sock.sendall(struct.pack(">Q8x", size))
    return exactly(sock, size)


def _socket(address: str) -> socket.socket:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    sock = socket.create_connection((host, int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@contextmanager
def _peer(kind: str) -> Iterator[tuple[str, str]]:
    """A server in a process of its own; its address and token."""
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "napari_smarttem.bench.parts.bridge_peers", kind],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        address, _, token = process.stdout.readline().strip().partition(" ")
        yield address, token
    finally:
        process.communicate(timeout=20)
