"""What the DigitalMicrograph bridge costs, against the published server's way and a bare socket, and what it survives.

The instrument behind all of them takes no time, so these are figures of the bridge alone. With a real dwell and exposure the
instrument takes nearly all of the time, whoever carries the bytes: the baselines ``end_to_end_*`` say so.

All do the same: place the beam, expose a band of 100 rows of the camera, sum it to 2048 channels, take the beam away (the
published server leaves it), in three round trips each. The baselines ``*_binned`` have the chip sum the rows, as is advised
for ours. The bare socket stands in front of the same instrument and has it do the same; ``*_no_instrument`` is a socket with
nothing behind it, which answers zeros. Points are visited one after another, as in a run.

Half of a round trip is the time in which a sleeping thread is woken. Ours stays awake for a moment, which helps where a core is
free; with all cores busy the visits take as long as without it.
"""

from __future__ import annotations

import functools
import importlib.util
import socket
import statistics
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
from .parts.bridge_peers import ROWS, SIZE, receive_text, send_text
from .parts.bridge_raw import POINTS, ask
from .report import figure, report

NEVER = threading.Event()
DWELL_S, FLYBACK_S, EXPOSURE_S = 10e-6, 500e-6, 0.1


def run(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Measure; the figures of ``smarttem bench bridge``."""
    repeats = 3 if quick else 9
    kind = "published" if importlib.util.find_spec("Pyro5") is None else "pyro"
    with _peer("bridge") as ours, _peer(kind) as theirs, _peer("raw") as raw, _peer("bare") as bare:
        times = _transfers(ours, theirs, raw, bare, repeats)
    survived = faults(60 if quick else 1000, seed)
    fuzzed = fuzz(20_000 if quick else 1_000_000, seed)
    frame_s = SIZE * (SIZE * DWELL_S + FLYBACK_S)
    survey, visit, batch = times["survey"], times["visit"], times["batch"]
    binned, batch_binned = times["visit_binned"], times["batch_binned"]
    against = {name: one["ours"] / one["raw"] for name, one in times.items()}
    figures = {
        "survey_512_ms": figure(
            survey["ours"], "<=", None, published=survey["published"], raw_socket=survey["raw"],
            end_to_end_at_10_us=1e3 * frame_s + survey["ours"], end_to_end_published=1e3 * frame_s + survey["published"],
        ),
        "survey_512_speedup": figure(survey["published"] / survey["ours"], ">=", 300.0),
        "visit_ms": figure(
            visit["ours"], "<=", None, published=visit["published"], raw_socket=visit["raw"], binned=binned["ours"],
            cpu_of_this_process=visit["cpu"], end_to_end_at_0_1_s=1e3 * EXPOSURE_S + visit["ours"],
            end_to_end_published=1e3 * EXPOSURE_S + visit["published"],
        ),
        "visit_speedup": figure(
            visit["published"] / visit["ours"], ">=", 10.0, binned=visit["published"] / binned["ours"],
        ),
        "batch_visit_ms": figure(
            batch["ours"], "<=", 0.1, one_by_one=visit["ours"], binned=batch_binned["ours"],
            cpu_of_this_process=batch["cpu"], at_1_ms_exposures=1.0 + batch["ours"],
            one_by_one_at_1_ms_exposures=1.0 + visit["ours"],
        ),
        "times_raw_socket": figure(
            max(against.values()), "<=", 2.5, **against,
            **{f"{name}_no_instrument": one["ours"] / one["bare"] for name, one in times.items()},
        ),
        "faults": figure(survived["faults"], ">=", None if quick else 1000.0, sentences=survived["sentences"]),
        "lost": figure(survived["lost"], "<=", 0.0, points=survived["points"], tried_again=survived["tried_again"]),
        "misattributed": figure(survived["misattributed"], "<=", 0.0, beam_left_on=survived["beam_left_on"]),
        "fuzz_cases": figure(fuzzed["cases"], ">=", None if quick else 1e6, through_sockets=fuzzed["through_sockets"]),
    }  # fmt: skip
    return report("bridge", seed, figures)


def _transfers(
    ours: tuple[str, str], theirs: tuple[str, str], raw: tuple[str, str], bare: tuple[str, str], repeats: int
) -> dict[str, dict[str, float]]:
    """Milliseconds of each way, and ``cpu`` of this process in ours: medians, in turn, so that load hits all alike."""
    whole = connect(ours[0], ours[1], settle_s=0.0)
    binned = connect(ours[0], ours[1], settle_s=0.0, vertical_binning=ROWS)
    published, sockets = _caller(theirs[0]), {"raw": _socket(raw[0]), "bare": _socket(bare[0])}
    nm = float(whole.geometry["nm"])
    points = [((y + 0.5) * nm, (x + 0.5) * nm) for x, y in POINTS.tolist()]

    def asked(*names: str) -> dict[str, Callable[[], Any]]:
        return {kind: functools.partial(_asked, sock, names) for kind, sock in sockets.items()}

    ways: dict[str, dict[str, Callable[[], Any]]] = {
        "survey": {
            "ours": lambda: _survey(whole), "published": lambda: np.array(published("get_ds", SIZE)[0], dtype=np.uint32),
            **asked("survey"),
        },
        "visit": {
            "ours": lambda: _visit(whole),
            "published": lambda: (published("set_beam_pos", 1.0, 2.0), published("acquire_camera", 0.1),
                                  np.array(published("get_eels")[0])),
            **asked("move", "spectrum", "park"),
        },
        "visit_binned": {"ours": lambda: _visit(binned), **asked("move", "binned", "park")},
        "batch": {"ours": lambda: sum(1 for _ in whole.visit(points, 1e-3)), **asked("batch")},
        "batch_binned": {"ours": lambda: sum(1 for _ in binned.visit(points, 1e-3)), **asked("batch_binned")},
    }  # fmt: skip
    found: dict[str, dict[str, float]] = {}
    try:
        for name, callers in ways.items():
            per, often = (1, repeats * 6) if name.startswith("visit") else (1, repeats)
            per = len(points) if name.startswith("batch") else per
            times: dict[str, list[float]] = {kind: [] for kind in (*callers, "cpu")}
            for caller in callers.values():
                caller()
            for _ in range(often):
                for kind, caller in callers.items():
                    slow = bool(times[kind]) and times[kind][0] > 100
                    # A run visits one point after another; what came in between leaves the memory cold behind it.
                    for _ in range(1 if slow else 25 if name.startswith("visit") else 5):
                        cpu, began = time.process_time(), time.perf_counter()
                        caller()
                        times[kind].append(1e3 * (time.perf_counter() - began))
                        if kind == "ours":
                            times["cpu"].append(1e3 * (time.process_time() - cpu))
            found[name] = {kind: statistics.median(some) / per for kind, some in times.items()}
    finally:
        whole.close()
        binned.close()
        for sock in sockets.values():
            sock.close()
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


def _asked(sock: socket.socket, names: tuple[str, ...]) -> None:
    for name in names:
        ask(sock, name)


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
