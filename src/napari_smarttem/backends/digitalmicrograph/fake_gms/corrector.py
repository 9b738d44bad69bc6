"""A CEOS corrector's gateway in front of the simulated column: one netstring of JSON-RPC a connection, lengths in m.

What it corrects are the column's controls, with all that is wrong with them: a correction of one aberration changes others.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from ....schema import SmartTEMError
from ...simulator.microscope import SimulatedMicroscope

METRES = {"C1": 1e-9, "A1": 1e-9, "A2": 1e-9, "B2": 1e-9, "C3": 1e-6}
"""What it measures and corrects, and how many m one unit of the column's control is."""
ROUND = frozenset({"C1", "C3"})
ERRORS_M = {"C1": 2e-9, "A1": 2e-9, "A2": 2e-8, "B2": 2e-8, "C3": 1e-6}
"""Standard errors of its measurements."""
LARGEST_REQUEST = 1 << 16
PATIENCE_S = 5.0


class FakeCorrector:
    """The gateway; serves one call after another until `stop`.

    Parameters
    ----------
    microscope : SimulatedMicroscope
        Whose aberrations it measures and corrects.
    seed : int
        Of its errors of measurement.

    Attributes
    ----------
    address : str
        ``tcp://127.0.0.1:PORT``.
    calls : list of (str, dict)
        Methods that were called, with their parameters.
    """

    def __init__(self, microscope: SimulatedMicroscope, *, port: int = 0, seed: int = 0) -> None:
        self._microscope = microscope
        self._chance = np.random.default_rng(seed)
        self._measured: dict[str, list[float]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, name="fake-corrector", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Serve nobody any more."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            self._thread.join(0.0)  # Windows does not shut listeners down: closing it ends `accept` there
        self._listener.close()
        self._thread.join(5.0)

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(PATIENCE_S)
                try:
                    reply = json.dumps(self._reply(_request(sock))).encode()
                    sock.sendall(b"%d:%s," % (len(reply), reply))
                except (OSError, ValueError):
                    continue  # whoever sends no netstring, or hangs up, gets no answer

    def _reply(self, request: Any) -> dict[str, Any]:
        number = request.get("id") if isinstance(request, dict) else None
        try:
            if number is None:
                raise ValueError("no request")
            method, params = str(request.get("method")), dict(request.get("params") or {})
            self.calls.append((method, params))
            return {"jsonrpc": "2.0", "id": number, "result": self._call(method, params)}
        except (ValueError, TypeError, SmartTEMError) as error:
            data = {"type": str(type(error)), "message": str(error)}
            return {"jsonrpc": "2.0", "id": number, "error": {"code": -32000, "message": "Server error", "data": data}}

    def _call(self, method: str, params: Mapping[str, Any]) -> Any:
        if method == "getInfo":
            return {"mode": "STEM", "version": "fake", "correctorType": "simulated", "currentSetting": "SIMULATED"}
        if method == "acquireTableau":
            if params.get("tabType") not in ("Fast", "Standard", "Enhanced"):
                raise ValueError("Unknown type of tableau.")
            return {"aberrations": self._measure(tuple(METRES), 20.0)}
        if method == "measureC1A1":
            return {"aberrations": self._measure(("C1", "A1"), 2.0)}
        if method == "correctAberration":
            return self._correct(params)
        raise ValueError(f"Unknown method {method}.")

    def _measure(self, names: tuple[str, ...], seconds: float) -> dict[str, list[float]]:
        column = self._microscope.column
        column.clock.sleep(seconds)
        with column.lock:
            true = column.true_aberrations(column.clock.now_s())
        found = {}
        for name in names:
            parts = [true[name], 0.0] if name in ROUND else [true[f"{name}.x"], true[f"{name}.y"]]
            errors = self._chance.normal(0.0, ERRORS_M[name], 2) * ([1.0, 0.0] if name in ROUND else [1.0, 1.0])
            found[name] = [float(value * METRES[name] + error) for value, error in zip(parts, errors, strict=True)]
        self._measured.update(found)
        return found

    def _correct(self, params: Mapping[str, Any]) -> None:
        name = params.get("name")
        if name not in METRES:
            raise ValueError(f"Unknown aberration {name}.")
        value = params.get("value", self._measured.get(name))
        if value is None:
            raise ValueError(f"No value for aberration {name} available")
        optics = self._microscope.optics
        if optics is None:
            raise ValueError("The corrector is off.")
        names = (name,) if name in ROUND else (f"{name}.x", f"{name}.y")
        present = optics.get()
        optics.set(
            {n: present[n] - float(excess) / METRES[name] for n, excess in zip(names, value, strict=len(names) == 2)}
        )


def _request(sock: socket.socket) -> Any:
    """The JSON of one netstring, read by its length; `ValueError` for anything else."""
    head = b""
    while not head.endswith(b":"):
        byte = sock.recv(1)
        if not byte or len(head) > 6:
            raise ValueError("no netstring")
        head += byte
    length = int(head[:-1])
    if not 0 <= length <= LARGEST_REQUEST:
        raise ValueError("too long")
    text = b""
    while len(text) < length + 1:
        some = sock.recv(length + 1 - len(text))
        if not some:
            raise ValueError("hung up")
        text += some
    if text[-1:] != b",":
        raise ValueError("no netstring")
    return json.loads(text[:-1])
