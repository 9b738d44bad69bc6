"""The connection to the server: survives a network that does not, and knows what became of a command whose answer was lost."""

from __future__ import annotations

import collections
import contextlib
import hmac
import itertools
import math
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ...schema import BadInput, Cancelled, InstrumentFault, LimitExceeded, MissingCapability, SmartTEMError
from ..base import CancelToken
from .wire import PROTOCOL, Channel, WireError, proof

QUIET_S = 5.0
"""A server at work is heard of twice a second; one that says nothing for this long is taken to be gone."""
PING_S = 2.0
CONNECT_S = 5.0
EXPOSING = frozenset({"scan", "spectrum", "image", "visit", "reference"})
"""Commands that put dose on the specimen: never repeated without knowing that they were not carried out."""
PLACED = frozenset({"scan", "spectrum", "visit", "move_probe"})
"""Commands that name places of a scan field, which a server that was restarted does not know."""
URGENT = frozenset({"blank", "park", "live", "blanked", "probe_at"})


class ProbeLost(InstrumentFault):
    """The probe was parked, or moved, since it was put on its place; nothing was recorded."""

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=True)


class ServerRestarted(InstrumentFault):
    """The server is another one than before: it knows neither the scan field nor what became of the last command."""

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=True)


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of ``tcp://HOST:PORT``; `BadInput` otherwise."""
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or ("://" in address and not address.startswith("tcp://")):
        raise BadInput(f"An address looks like tcp://127.0.0.1:9471, got {address!r}.")
    return host, port


class Link:
    """Requests and answers, one after another, over a connection that is made again when it breaks.

    Parameters
    ----------
    address, token : str
    reconnect_s : float
        How long to try before the server is given up.

    Notes
    -----
    Commands go over one connection. A second one of the same session carries what cannot wait (blanking, parking,
    cancelling) and a sign of life every two seconds: where it stops, the server parks the beam.
    """

    def __init__(self, address: str, token: str, reconnect_s: float = 10.0) -> None:
        self.address, self._token, self.reconnect_s = address, token, reconnect_s
        self._where = parse_address(address)
        self._session = secrets.token_hex(12)
        self._ids = itertools.count(1)
        self._lock = threading.RLock()
        self._control_lock = threading.RLock()
        self._main: Channel | None = None
        self._control: Channel | None = None
        self._closed = threading.Event()
        self._offsets: collections.deque[float] = collections.deque(maxlen=64)
        self._latest_s = -math.inf
        self._clock_lock = threading.Lock()
        self.boot = ""
        self.virtual_time = False
        self.reconnections = 0
        self.quiet_s = QUIET_S
        with self._lock:
            self._main = self._connect()
        self._pinging = threading.Thread(target=self._ping, name="smarttem-dm-alive", daemon=True)
        self._pinging.start()

    # -- asking

    def call(
        self,
        verb: str,
        args: Mapping[str, Any] | None = None,
        arrays: Iterable[np.ndarray] = (),
        cancel: CancelToken | None = None,
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Have a command carried out; result and arrays.

        Raises
        ------
        SmartTEMError
            What the server refuses with; `InstrumentFault` where the connection cannot be had again; `ServerRestarted`
            where nobody can know any more whether the command was carried out.
        """
        if self._closed.is_set():
            raise InstrumentFault("The connection to DigitalMicrograph has been closed.")
        if verb in URGENT and not self._lock.acquire(blocking=False):
            return self._urgent(verb, args or {})
        if verb not in URGENT:
            self._lock.acquire()
        try:
            return self._ask(verb, dict(args or {}), list(arrays), cancel)
        finally:
            self._lock.release()

    def _ask(
        self, verb: str, args: dict[str, Any], arrays: list[np.ndarray], cancel: CancelToken | None
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        number = next(self._ids)
        request = {"id": number, "verb": verb, "args": args}
        known = False
        for attempt in range(4):
            try:
                channel = self._main
                if channel is None:
                    known = self._again(verb, number, may_have_run=attempt > 0) and attempt > 0
                    channel = self._main
                    assert channel is not None
                if not known:
                    channel.send(request, arrays)
                return self._answer(channel, number, cancel)
            except WireError:
                if self._main is not None:
                    self._main.close()
                    self._main = None
                known = False
        raise InstrumentFault(
            f"The connection to {self.address} breaks again and again; check the network and the server."
        )

    def _answer(
        self, channel: Channel, number: int, cancel: CancelToken | None
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        asked = False

        def look() -> None:
            nonlocal asked
            if cancel is not None and not asked and cancel.is_set():
                asked = True
                self._tell_cancel(number)

        channel.look = look
        try:
            while True:
                header, arrays = channel.receive(self.quiet_s)
                if cancel is not None:
                    look()
                if header.get("id") == number and "ok" in header:  # neither a sign of life nor an answer given twice
                    break
        finally:
            channel.look = None
        self._note_clock(header.get("clock"))
        if header["ok"] is not True:
            raise _error(header)
        result = header.get("result")
        if not isinstance(result, dict):
            raise WireError("The server's answer has no result; the connection is closed.")
        return result, arrays

    def _again(self, verb: str, number: int, *, may_have_run: bool) -> bool:
        """A new connection; True where the command is known to the server, which then answers it."""
        before = self.boot
        self._main = channel = self._connect_patiently()
        self.reconnections += 1
        if before != self.boot:
            if verb in EXPOSING and may_have_run:
                raise ServerRestarted(
                    "The server was restarted while it worked, so nobody knows whether this was carried out; "
                    "what it recorded is not used."
                )
            if verb in PLACED:
                raise ServerRestarted("The server was restarted; the scan field is set up again.")
        if not may_have_run:
            return False
        question = next(self._ids)
        channel.send({"id": question, "verb": "outcome", "args": {"job": number}})
        result, _ = self._answer(channel, question, None)
        return bool(result.get("known"))

    def _urgent(self, verb: str, args: Mapping[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Over the second connection, while a long command is under way on the first."""
        with self._control_lock:
            for last in (False, True):
                try:
                    if self._control is None:
                        self._control = self._connect(remember=False)
                    number = next(self._ids)
                    self._control.send({"id": number, "verb": verb, "args": dict(args)})
                    return self._answer(self._control, number, None)
                except WireError:
                    if self._control is not None:
                        self._control.close()
                        self._control = None
                    if last:
                        raise
        raise AssertionError("unreachable")

    def _tell_cancel(self, number: int) -> None:
        # where the connection is gone the command ends with it, one way or the other
        with contextlib.suppress(SmartTEMError):
            self._urgent("cancel", {"job": number})

    # -- connecting

    def _connect(self, *, remember: bool = True) -> Channel:
        try:
            sock = socket.create_connection(self._where, timeout=CONNECT_S)
        except OSError as error:
            reason = (error.strerror or str(error) or type(error).__name__).rstrip(".").lower()
            raise WireError(
                f"Nothing answers at {self.address} ({reason}); execute server.py in DigitalMicrograph, and check address and port."
            ) from None
        channel = Channel(sock)
        try:
            hello, _ = channel.receive(CONNECT_S, header_cap=1024, body_cap=0)
            if hello.get("protocol") != PROTOCOL or not isinstance(hello.get("nonce"), str):
                raise BadInput(
                    f"The server at {self.address} speaks version {hello.get('protocol')!r} of the bridge and this program "
                    f"version {PROTOCOL}; copy the server.py of this version into DigitalMicrograph."
                )
            nonce = secrets.token_hex(16)
            shown = proof(self._token, "client", hello["nonce"], nonce)
            channel.send({"protocol": PROTOCOL, "session": self._session, "nonce": nonce, "proof": shown})
            welcome, _ = channel.receive(CONNECT_S, header_cap=1024, body_cap=0)
            if welcome.get("ok") is not True:
                raise BadInput(
                    f"The server at {self.address} refuses the token; paste the one it printed when it was started."
                )
            right = proof(self._token, "server", hello["nonce"], nonce)
            if not hmac.compare_digest(right, str(welcome.get("proof"))):
                raise BadInput(
                    f"What answers at {self.address} does not know the token: it is not the server it says it is."
                )
        except BaseException:
            channel.close()
            raise
        if remember:
            self.boot = str(hello.get("boot"))
            self.virtual_time = bool(welcome.get("virtual_time"))
        self._note_clock(welcome.get("clock"))
        return channel

    def _connect_patiently(self) -> Channel:
        ends = time.monotonic() + self.reconnect_s
        while True:
            try:
                return self._connect()
            except WireError as error:
                if time.monotonic() > ends or self._closed.wait(0.1):
                    raise InstrumentFault(f"The connection was lost and could not be had again. {error}") from error

    def _ping(self) -> None:
        while not self._closed.wait(PING_S):
            try:
                self._urgent("ping", {})
            except (SmartTEMError, AssertionError):
                continue  # the next command finds out, and says so

    # -- time

    def _note_clock(self, clock: Any) -> None:
        if isinstance(clock, (int, float)) and math.isfinite(clock):
            with self._clock_lock:
                self._offsets.append(clock - time.monotonic())
                self._latest_s = max(self._latest_s, float(clock))

    def now_s(self) -> float:
        """The server's clock; never ahead of it, and never behind a time it has stamped."""
        if self.virtual_time:
            self._urgent("ping", {})
        with self._clock_lock:
            if not self.virtual_time:
                self._latest_s = max(self._latest_s, time.monotonic() + max(self._offsets))
            return self._latest_s

    def close(self) -> None:
        """Say good-bye and hang up."""
        if self._closed.is_set():
            return
        self._closed.set()
        for channel, lock in ((self._main, self._lock), (self._control, self._control_lock)):
            if channel is not None and lock.acquire(timeout=1.0):
                try:
                    channel.send({"id": 0, "verb": "goodbye"}, within_s=1.0)
                except WireError:
                    self.boot = ""  # gone already
                finally:
                    lock.release()
                    channel.close()


def _error(header: Mapping[str, Any]) -> SmartTEMError:
    sentence = " ".join(str(header.get("error") or "The server refused without a reason.").split())
    sentence = sentence if sentence.endswith(".") else f"{sentence}."
    kinds: dict[str, type[SmartTEMError]] = {
        "bad": BadInput,
        "limit": LimitExceeded,
        "missing": MissingCapability,
        "cancelled": Cancelled,
        "parked": ProbeLost,
    }
    code = header.get("code")
    kind = kinds.get(str(code))
    if kind is not None:
        return kind(sentence)
    return InstrumentFault(sentence, transient=code == "transient")
