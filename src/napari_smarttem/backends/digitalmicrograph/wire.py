"""How client and server talk: length-prefixed frames, a JSON header and raw array bytes, and a challenge before anything else.

A frame is ``magic (4 bytes) | header length (uint32, big-endian) | body length (uint32) | header | body``. The header is a
JSON object in UTF-8; its ``arrays`` says ``[[dtype, shape], ...]`` of the arrays that follow one another in the body, in C
order and little-endian. Nothing of a peer is ever executed or unpickled; what does not fit these rules ends the connection.

Login: the server sends ``{"protocol", "boot", "nonce"}``; the client answers with a nonce of its own and
``HMAC-SHA256(token, "client" | server nonce | client nonce)``; the server shows with ``"server"`` in its place that it knows
the token too. The token itself is never sent, and a recorded login is of no use, since the nonces are new every time.

`server.py` carries its own copy of these rules, because it must be one file; `tests/bridge` holds the two together.
"""

from __future__ import annotations

import hmac
import json
import re
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ...schema import InstrumentFault

PROTOCOL = 1
MAGIC = b"STEB"
PREFIX = struct.Struct(">4sII")
HEADER_CAP = 1 << 20
REPLY_BODY_CAP = 1 << 30
DEEPEST = 16
MOST_ARRAYS = 16
DTYPES = frozenset({"|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<i8", "<u8", "<f4", "<f8"})
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|([\[{])|([\]}])')
AWAKE_S, MOST_ASLEEP = 3e-4, 64
"""How long an answer is waited for awake, and how many at most are waited for asleep after that was in vain."""
_TOGETHER = 1 << 15
"""Bodies up to this size go into one packet with their header; larger ones are not copied for it."""


class WireError(InstrumentFault):
    """The peer broke the rules of the wire, or the connection broke: it cannot be used any further."""

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=False)


def proof(token: str, who: str, server_nonce: str, client_nonce: str) -> str:
    """What shows that `who` (``"client"`` or ``"server"``) knows `token`, as 64 hexadecimal digits."""
    text = f"smarttem-{PROTOCOL}|{who}|{server_nonce}|{client_nonce}"
    return hmac.new(token.encode(), text.encode(), "sha256").hexdigest()


def pack(header: Mapping[str, Any], arrays: Iterable[np.ndarray] = ()) -> list[bytes | memoryview]:
    """A frame, as pieces to be sent one after another."""
    ready = [
        a
        if a.dtype.str in DTYPES and a.flags.c_contiguous
        else np.ascontiguousarray(a, dtype=a.dtype.newbyteorder("<"))
        for a in arrays
    ]
    if not ready:
        text = _ENCODER.encode(header).encode()
        return [PREFIX.pack(MAGIC, len(text), 0) + text]
    header = {**header, "arrays": [[a.dtype.str, list(a.shape)] for a in ready]}
    text = _ENCODER.encode(header).encode()
    size = sum(a.nbytes for a in ready)
    head = PREFIX.pack(MAGIC, len(text), size) + text
    if size <= _TOGETHER:
        return [b"".join([head, *(a.tobytes() for a in ready)])]
    return [head, *(memoryview(a.data).cast("B") for a in ready if a.nbytes)]


def check_prefix(prefix: bytes | memoryview, header_cap: int, body_cap: int) -> tuple[int, int]:
    """Lengths of header and body; `WireError` for anything but a frame of ours within the caps."""
    magic, header, body = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise WireError("What answered does not speak the bridge's language; check the address and the port.")
    if not 2 <= header <= header_cap or body > body_cap:
        raise WireError(f"A frame of {header} + {body} bytes is larger than allowed here; the connection is closed.")
    return header, body


def unpack(text: bytes, body: bytes | bytearray | memoryview) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Header and arrays of a frame; the arrays are views of `body`. `WireError` for anything malformed."""
    if text.count(b"[") + text.count(b"{") > DEEPEST:
        _check_depth(text)
    try:
        header = _DECODER.decode(text.decode())
        if not isinstance(header, dict):
            raise ValueError("the header is not an object")
        described = header.pop("arrays", [])
        arrays, at = [], 0
        if not isinstance(described, list) or len(described) > MOST_ARRAYS:
            raise ValueError("too many arrays")
        for dtype, shape in described:
            if dtype not in DTYPES or len(shape) > 4 or not all(type(n) is int and 0 <= n < 1 << 31 for n in shape):
                raise ValueError("an array that is not allowed")
            kind, count = np.dtype(dtype), 1
            for n in shape:
                count *= n
            if count * kind.itemsize > len(body) - at:
                raise ValueError("an array longer than the body")
            arrays.append(np.frombuffer(body, kind, count, at).reshape(shape))
            at += count * kind.itemsize
        if at != len(body):
            raise ValueError("a body longer than its arrays")
    except (ValueError, TypeError, RecursionError, UnicodeError) as error:
        raise WireError(f"A frame arrived that is malformed ({error}); the connection is closed.") from None
    return header, arrays


def _check_depth(text: bytes) -> None:
    depth = 0
    for match in _BRACKETS.finditer(text):
        depth += (match.group(1) is not None) - (match.group(2) is not None)
        if depth > DEEPEST:
            raise WireError("A frame arrived that is nested too deeply; the connection is closed.")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_DECODER = json.JSONDecoder(parse_constant=_no_constant)


class Channel:
    """One connection, read and written by one thread at a time.

    Parameters
    ----------
    sock : socket
    look : callable, optional
        Called about fifty times a second while waiting for the peer; it may raise to break off the waiting. A frame whose
        reading was broken off can be read on later.
    """

    def __init__(self, sock: socket.socket, look: Callable[[], None] | None = None) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self.sock = sock
        self.look = look
        self._seen = bytearray(_TOGETHER)
        self._buffer = memoryview(self._seen)
        self._filled = 0
        self._asleep = self._vain = 0
        self._sizes: tuple[int, int] | None = None

    def send(self, header: Mapping[str, Any], arrays: Iterable[np.ndarray] = (), within_s: float = 10.0) -> None:
        """Send a frame, within `within_s` seconds."""
        ends = time.monotonic() + within_s
        for piece in pack(header, arrays):
            view = memoryview(piece)
            while view:
                try:
                    view = view[self.sock.send(view) :]
                except BlockingIOError:
                    if not select.select([], [self.sock], [], 0.02)[1] and time.monotonic() > ends:
                        raise WireError("The other side takes nothing more; the connection is given up.") from None
                except OSError as error:
                    raise WireError(f"The connection broke while sending ({_reason(error)}).") from error

    def receive(
        self, within_s: float, header_cap: int = HEADER_CAP, body_cap: int = REPLY_BODY_CAP
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """The next frame; `WireError` where none has come `within_s` seconds after the last sign of life."""
        start = PREFIX.size
        if self._filled < start:
            self._fill(start, within_s)
        if self._sizes is None:
            self._sizes = check_prefix(self._buffer[:start], header_cap, body_cap)
            whole = start + sum(self._sizes)
            if whole > len(self._buffer):  # straight to where it stays, instead of through the small buffer
                grown = np.empty(whole, np.uint8).data
                grown[: self._filled] = self._buffer[: self._filled]
                self._buffer = grown
        header, body = self._sizes
        whole = start + header + body
        if self._filled < whole:
            self._fill(whole, within_s)
        text = bytes(self._buffer[start : start + header])
        if len(self._buffer) > len(self._seen):
            kept: bytes | memoryview = self._buffer[start + header :]
            self._buffer, self._filled = memoryview(self._seen), 0
        else:
            kept = bytes(self._buffer[start + header : whole])
            self._filled -= whole
            if self._filled:  # the beginning of the next frame came with this one
                self._seen[: self._filled] = self._seen[whole : whole + self._filled]
        self._sizes = None
        return unpack(text, kept)

    def close(self) -> None:
        """Hang up."""
        self.sock.close()

    def _comes(self) -> bool:
        """Whether something came within 0.02 s.

        To be woken takes longer than the server does for most commands, so this thread stays awake for a moment. Where that was
        in vain, because it takes longer or all cores are busy, it is tried again after the next wait, then after two more, four...
        """
        socks = [self.sock]
        if self._asleep:
            self._asleep -= 1
        else:
            ends = time.monotonic() + AWAKE_S
            while time.monotonic() < ends:
                if select.select(socks, [], [], 0.0)[0]:
                    self._vain = 0
                    return True
            self._asleep = self._vain = min(MOST_ASLEEP, 2 * self._vain + 1)
        return bool(select.select(socks, [], [], 0.02)[0])

    def _fill(self, size: int, within_s: float) -> None:
        ends = 0.0
        while self._filled < size:
            try:
                count = self.sock.recv_into(self._buffer[self._filled :])
            except BlockingIOError:
                if self._comes():
                    continue
                if self.look is not None:
                    self.look()
                now = time.monotonic()
                ends = ends or now + within_s
                if now > ends:
                    raise WireError(f"Nothing was heard for {within_s:g} s.") from None
                continue
            except OSError as error:
                raise WireError(f"The connection broke ({_reason(error)}).") from error
            if count == 0:
                raise WireError("The other side hung up.")
            self._filled += count
            ends = 0.0


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).rstrip(".").lower()
