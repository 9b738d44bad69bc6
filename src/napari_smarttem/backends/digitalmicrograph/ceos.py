"""A CEOS aberration corrector through its gateway: measures a tableau or C1 and A1, and corrects.

The gateway speaks JSON-RPC 2.0, one object per netstring (``b"12:{...},"``), on port 7072. Lengths are in m there, and in nm
(C3 and the like in um) here. It says nothing of present values except by measuring, so `CeosOptics.get` gives what was last
measured or set.
"""

from __future__ import annotations

import itertools
import json
import math
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from ...schema import BadInput, ControlInfo, InstrumentFault, LimitExceeded
from .link import parse_address

LARGEST_REPLY = 1 << 22
QUICK_S, TABLEAU_S = 30.0, 3000.0
ROUND = frozenset({"C1", "C3", "C5"})
"""Aberrations without a direction: one number; all others have two."""
UNITS = {"C1": ("nm", 1e9), "A1": ("nm", 1e9), "A2": ("nm", 1e9), "B2": ("nm", 1e9),
         "C3": ("um", 1e6), "A3": ("um", 1e6), "S3": ("um", 1e6)}  # fmt: skip
REACH = {"C1": (4000.0, 1000.0), "A1": (2000.0, 300.0), "A2": (20000.0, 3000.0), "B2": (20000.0, 3000.0),
         "C3": (1000.0, 20.0), "A3": (1000.0, 20.0), "S3": (1000.0, 20.0)}  # fmt: skip
"""Limit, and largest step without a person's yes, in the units above."""
TABLEAUX = ("Fast", "Standard", "Enhanced")


class CeosGateway:
    """The gateway's methods. Each call has a connection of its own, as the gateway allows.

    Parameters
    ----------
    address : str
        ``tcp://HOST:7072``.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._where = parse_address(address)
        self._ids = itertools.count(1)
        self._lock = threading.Lock()

    def call(self, method: str, params: Mapping[str, Any] | None = None, within_s: float = QUICK_S) -> Any:
        """Result of a method; `InstrumentFault` with the gateway's own words where it fails."""
        with self._lock:
            number = next(self._ids)
            request = {"jsonrpc": "2.0", "id": number, "method": method, "params": dict(params or {})}
            text = json.dumps(request, allow_nan=False).encode()
            try:
                with socket.create_connection(self._where, timeout=10.0) as sock:
                    sock.sendall(b"%d:%s," % (len(text), text))
                    reply = _netstring(sock, time.monotonic() + within_s)
            except OSError as error:
                raise InstrumentFault(
                    f"The corrector gateway at {self.address} did not answer {method} ({error}); check that it is running.",
                    transient=isinstance(error, TimeoutError),
                ) from error
        try:
            answer = json.loads(reply)
        except (ValueError, RecursionError) as error:
            raise InstrumentFault(f"The corrector gateway answered {method} with something that is no JSON.") from error
        if not isinstance(answer, dict) or answer.get("id") != number:
            raise InstrumentFault(f"The corrector gateway's answer belongs to another question than {method}.")
        if answer.get("error") is not None:
            raise InstrumentFault(f"The corrector refused {method}: {_reason(answer['error'])}.", transient=True)
        return answer.get("result")

    def info(self) -> dict[str, Any]:
        """Who it is: mode, version, setting, measurement range."""
        found = self.call("getInfo")
        if not isinstance(found, dict):
            raise InstrumentFault("The corrector gateway does not say who it is.")
        return found

    def tableau(self, kind: str = "Fast", outer_mrad: float = 18.0) -> dict[str, tuple[float, float]]:
        """Aberrations by a Zemlin tableau, (x, y) in m (WD in rad); takes from seconds to minutes, the beam on the specimen."""
        if kind not in TABLEAUX:
            raise BadInput(f"A tableau is {', '.join(TABLEAUX)}, got {kind!r}.")
        if not 1.0 <= outer_mrad <= 60.0:
            raise BadInput(f"The outer angle of a tableau must lie between 1 and 60 mrad, got {outer_mrad:g} mrad.")
        return _aberrations(self.call("acquireTableau", {"tabType": kind, "angle": float(outer_mrad)}, TABLEAU_S))

    def c1a1(self) -> dict[str, tuple[float, float]]:
        """C1 and A1, (x, y) in m."""
        return _aberrations(self.call("measureC1A1", within_s=TABLEAU_S))

    def correct(self, name: str, value_m: tuple[float, float], select: str = "fine") -> None:
        """Take `value_m` (x, y) away from aberration `name`: what a measurement gave removes what it measured."""
        x, y = float(value_m[0]), float(value_m[1])
        if not (math.isfinite(x) and math.isfinite(y)):
            raise BadInput(f"A correction of {name} must be finite, got ({x}, {y}) m.")
        self.call("correctAberration", {"name": name, "value": [x, y], "select": select}, within_s=120.0)


class CeosOptics:
    """The corrector's aberrations as controls for alignment: ``C1``, ``A1.x``, ``A1.y``, ``B2.x`` ... in nm and um.

    Parameters
    ----------
    gateway : CeosGateway
    select : str
        Which of an aberration's knobs: ``"fine"``, ``"coarse"`` or empty.

    Notes
    -----
    Values begin at 0, "as found", until `measure` is called; `set` asks for the difference to what is there.
    """

    def __init__(self, gateway: CeosGateway, select: str = "fine") -> None:
        self.gateway, self.select = gateway, select
        self.described = gateway.info()
        self.controls: Mapping[str, ControlInfo] = {
            info.name: info
            for base, (limit, step) in REACH.items()
            for info in (
                ControlInfo(name=name, units=UNITS[base][0], minimum=-limit, maximum=limit, largest_step=step)
                for name in ((base,) if base in ROUND else (f"{base}.x", f"{base}.y"))
            )
        }
        self._values = dict.fromkeys(self.controls, 0.0)

    def get(self) -> dict[str, float]:
        """What was last measured or set."""
        return dict(self._values)

    def set(self, values: Mapping[str, float]) -> None:
        """Correct by the difference; all names are checked before anything is changed."""
        wanted: dict[str, float] = {}
        for name, value in values.items():
            if name not in self.controls:
                raise BadInput(f"The corrector has no control {name!r}; it has {', '.join(self.controls)}.")
            info = self.controls[name]
            if not math.isfinite(value) or not info.minimum <= value <= info.maximum:
                raise LimitExceeded(
                    f"{name} = {value:g} {info.units} is outside {info.minimum:g} to {info.maximum:g} {info.units}; "
                    "nothing was moved."
                )
            wanted[name] = float(value)
        for base in dict.fromkeys(name.partition(".")[0] for name in wanted):
            factor = UNITS[base][1]
            names = (base,) if base in ROUND else (f"{base}.x", f"{base}.y")
            excess = [(self._values[name] - wanted.get(name, self._values[name])) / factor for name in names]
            if any(excess):
                self.gateway.correct(base, (excess[0], excess[1] if len(excess) > 1 else 0.0), self.select)
                for name in names:  # one by one: where a later correction fails, what was done is known
                    self._values[name] = wanted.get(name, self._values[name])

    def measure(self, kind: str = "", outer_mrad: float = 18.0) -> dict[str, float]:
        """Measure with the corrector's own means, C1 and A1 or a tableau, and take the values over.

        Returns
        -------
        dict
            Aberrations by the names of the controls, in their units; others in m, as the gateway gives them.
        """
        found = self.gateway.tableau(kind, outer_mrad) if kind else self.gateway.c1a1()
        measured: dict[str, float] = {}
        for base, (x, y) in found.items():
            factor = UNITS[base][1] if base in UNITS else 1.0
            if base in ROUND:
                measured[base] = x * factor
            else:
                measured |= {f"{base}.x": x * factor, f"{base}.y": y * factor}
        self._values |= {name: value for name, value in measured.items() if name in self._values}
        return measured


def _netstring(sock: socket.socket, ends: float) -> bytes:
    """The next netstring, read by its length: a reply may contain anything, and come in any pieces."""
    head = b""
    while not head.endswith(b":"):
        head += _some(sock, 1, ends)
        if len(head) > 9 or not head.rstrip(b":").isdigit():
            raise InstrumentFault("What answered is no corrector gateway: its answer does not begin with a length.")
    length = int(head[:-1])
    if length > LARGEST_REPLY:
        raise InstrumentFault(f"The corrector gateway announces an answer of {length} bytes, which is too long.")
    data = bytearray()
    while len(data) < length + 1:
        data += _some(sock, length + 1 - len(data), ends)
    if data[-1:] != b",":
        raise InstrumentFault("The corrector gateway's answer does not end where it should.")
    return bytes(data[:-1])


def _some(sock: socket.socket, size: int, ends: float) -> bytes:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    sock.settimeout(left)
    data = sock.recv(min(size, 1 << 16))
    if not data:
        raise ConnectionResetError("it hung up")
    return data


def _aberrations(result: Any) -> dict[str, tuple[float, float]]:
    found = result.get("aberrations") if isinstance(result, dict) else None
    if not isinstance(found, dict) or not found:
        raise InstrumentFault("The corrector gateway measured no aberrations; look at its own window.", transient=True)
    values: dict[str, tuple[float, float]] = {}
    for name, pair in found.items():
        numbers = [float(v) for v in pair] if isinstance(pair, list) and len(pair) == 2 else [math.nan]
        if not all(math.isfinite(v) for v in numbers):
            raise InstrumentFault(f"The corrector gateway gave no usable value of {name}.", transient=True)
        values[str(name)] = (numbers[0], numbers[1])
    return values


def _reason(error: Any) -> str:
    if isinstance(error, dict):
        data = error.get("data")
        text = data.get("message") if isinstance(data, dict) else None
        error = text or error.get("message") or "no reason given"
    return " ".join(str(error).split()).rstrip(".")[:300]
