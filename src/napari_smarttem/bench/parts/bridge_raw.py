"""A bare socket, as the least that moving bytes can cost: fixed lengths, one thread, no names, no checks of the wire.

With an instrument behind it, it has DigitalMicrograph do for each request what our server has it do, by the same code: what
our server then takes longer is the bridge alone. Without one it answers zeros at once, which no server can that measures.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import numpy as np

SIZE, CHANNELS, ROWS = 512, 2048, 100
POINTS = np.column_stack([np.full(500, 149.5), 124.5 + 0.025 * np.arange(500)])
"""(x, y) of the batch, in pixels of the reference."""
REQUEST, HEAD = 128, 96
"""Bytes of a request, and of an answer before its array: about what the bridge's own are."""
ANSWERS = {
    "move": 0, "park": 0, "spectrum": 4 * CHANNELS, "binned": 4 * CHANNELS, "survey": 4 * SIZE * SIZE,
    "batch": 4 * CHANNELS * len(POINTS), "batch_binned": 4 * CHANNELS * len(POINTS),
}  # fmt: skip
"""Bytes of the array of each answer; a request's first byte is its number here."""
NUMBERS = {name: number for number, name in enumerate(ANSWERS)}


def ask(sock: socket.socket, name: str) -> np.ndarray:
    """Send a request; the array of its answer."""
    sock.sendall(bytes([NUMBERS[name]]) + bytes(REQUEST - 1 + (16 * len(POINTS) if name.startswith("batch") else 0)))
    answer = exactly(sock, HEAD + ANSWERS[name])
    return np.frombuffer(answer, np.uint32 if name == "survey" else np.float32, offset=HEAD)


def talker(dm: Any) -> Callable[[socket.socket], None]:
    """What answers the requests of one connection; `dm` None: with nothing behind it."""
    names = tuple(ANSWERS)
    zeros = {name: np.zeros(size, np.uint8) for name, size in ANSWERS.items()}
    work = {name: (lambda name=name: zeros[name]) for name in names} if dm is None else _work(dm)
    head = bytes(HEAD)

    def talk(sock: socket.socket) -> None:
        while True:
            name = names[exactly(sock, REQUEST)[0]]
            if name.startswith("batch"):
                exactly(sock, POINTS.nbytes)
            data = work[name]()
            if data is None or data.nbytes <= 1 << 15:
                sock.sendall(head if data is None else head + data.tobytes())
            else:
                sock.sendall(head)
                sock.sendall(data.data.cast("B"))

    return talk


def _work(dm: Any) -> dict[str, Callable[[], np.ndarray | None]]:
    """What each request has the instrument do."""
    from ...backends.digitalmicrograph.server import Microscope

    microscope = Microscope(dm)
    ref = microscope.reference({"size": SIZE, "rotation": 0.0})["ref"]
    move = {"x": 149.5, "y": 124.5, "settle_s": 0.0, "ref": ref}
    scan = {"rows": SIZE, "columns": SIZE, "dwell_us": 10.0, "signals": [microscope.signals[0][0]], "ref": ref}
    exposure = {"exposure_s": 0.1, "frames": 1, "processing": 3, "ref": ref, "at": [149.5, 124.5], "settle_s": 0.0}

    def moved() -> None:
        microscope.move_probe(move)

    def parked() -> None:
        microscope.park({})

    def spectrum(rows: int) -> Callable[[], np.ndarray]:
        return lambda: microscope.spectrum({**exposure, "binning": [1, rows]})[1][0]

    def batch(rows: int) -> Callable[[], np.ndarray]:
        return lambda: microscope.visit({**exposure, "binning": [1, rows]}, POINTS, lambda _done: None)[1][0]

    return {
        "move": moved, "park": parked, "spectrum": spectrum(1), "binned": spectrum(ROWS),
        "survey": lambda: microscope.scan(scan)[1][0], "batch": batch(1), "batch_binned": batch(ROWS),
    }  # fmt: skip


def exactly(sock: socket.socket, size: int) -> np.ndarray:
    """`size` bytes."""
    data = np.empty(size, np.uint8)
    view = data.data
    while view:
        count = sock.recv_into(view)
        if count == 0:
            raise ConnectionError("the other side hung up")
        view = view[count:]
    return data
