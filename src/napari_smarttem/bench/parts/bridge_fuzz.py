"""Throws malformed frames at both ends of the bridge: each must be understood or refused, none may crash or hang."""

from __future__ import annotations

import json
import random
import socket

from ...backends.digitalmicrograph import server, wire
from ...backends.digitalmicrograph.fake_gms import run

_SEEDS = (
    {"id": 1, "verb": "scan", "args": {"rows": 16, "columns": 16, "dwell_us": 1.0, "signals": ["HAADF"], "area": [0, 0, 9, 9]}},
    {"id": 2, "ok": True, "result": {"at": None}, "arrays": [["<f4", [2, 3]], ["|u1", [8]]]},
    {"protocol": 1, "session": "x" * 24, "nonce": "0" * 32, "proof": "f" * 64},
    {"id": 3, "verb": "visit", "args": {"exposure_s": 1e-3}, "arrays": [["<f8", [2, 2]]]},
)  # fmt: skip
_ODD = (
    b"[" * 40, b"{" * 3000, b'"\\', b"\xff\xfe", b"NaN", b"-Infinity", b"1e999", b"9" * 300, b"null", b'"<O"', b"[[[]]]",
    b'{"a":1,"a":2}', b'"\\ud800"', b"-1", b"2147483648", b'["<f4",[-1]]', b'["<f4",[1,2,3,4,5]]', b"\x00", b"[true]",
)  # fmt: skip


def one(chance: random.Random) -> tuple[bytes, bytes]:
    """Header and body of a frame that is nearly right."""
    text = bytearray(json.dumps(chance.choice(_SEEDS)).encode())
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text) + 1)
        action = chance.randrange(5)
        if action == 0 and text:
            text[min(at, len(text) - 1)] = chance.randrange(256)
        elif action == 1:
            text[at:at] = chance.choice(_ODD)
        elif action == 2:
            del text[at : at + chance.randint(1, 12)]
        elif action == 3:
            text[at:at] = text[max(0, at - chance.randint(1, 30)) : at]
        else:
            text[at:at] = str(chance.randint(-(2**40), 2**40)).encode()
    return bytes(text), chance.randbytes(chance.choice((0, 8, 32, 32, 64)))


def fuzz(cases: int, seed: int) -> dict[str, int]:
    """Survived cases; any other error than the wire's own is let through to the caller."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    through = min(2000, cases // 20)
    done = 0
    for _ in range(cases - 2 * through):
        text, body = one(chance)
        for unpack, refusal in ((server.unpack, server.WireError), (wire.unpack, wire.WireError)):
            try:
                unpack(text, body)
            except refusal:
                continue
        done += 1
    with run(instant=True, speed=None) as running:
        host, _, port = running.address.removeprefix("tcp://").rpartition(":")
        for _ in range(through):
            text, body = one(chance)
            prefix = bytearray(wire.PREFIX.pack(wire.MAGIC, len(text), len(body) if chance.random() < 0.2 else 0))
            if chance.random() < 0.3:
                prefix[chance.randrange(len(prefix))] = chance.randrange(256)
            with socket.create_connection((host, int(port)), timeout=10.0) as sock:
                sock.recv(4096)
                try:
                    sock.sendall(bytes(prefix) + text + body)
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(4096):
                        continue
                except TimeoutError as error:
                    raise RuntimeError(f"The server hangs on {text!r}.") from error
                except OSError:
                    done += 1  # hung up on us in mid-frame, as it should
                    continue
            done += 1
        done += _after_login(running.address, running.token, chance, through)
        wire_channel = wire.Channel(socket.create_connection((host, int(port)), timeout=10.0))
        wire_channel.receive(5.0)  # it still greets
        wire_channel.close()
    return {"cases": done, "through_sockets": 2 * through}


def _after_login(address: str, token: str, chance: random.Random, cases: int) -> int:
    """Requests of a client that knows the token, on one connection until the server ends it: each is answered or ends it."""
    channel, done = _logged_in(address, token), 0
    while done < cases:
        text, body = one(chance)
        try:
            channel.sock.sendall(wire.PREFIX.pack(wire.MAGIC, len(text), len(body)) + text + body)
            while "ok" not in channel.receive(10.0)[0]:
                continue  # a sign of life
        except (wire.WireError, OSError) as error:
            if "Nothing was heard" in str(error):
                raise RuntimeError(f"The server hangs on {text!r}.") from error
            channel.close()
            channel = _logged_in(address, token)
        done += 1
    channel.close()
    return done


def _logged_in(address: str, token: str) -> wire.Channel:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    channel = wire.Channel(socket.create_connection((host, int(port)), timeout=10.0))
    hello, _ = channel.receive(5.0)
    shown = wire.proof(token, "client", hello["nonce"], "0" * 32)
    channel.send({"protocol": wire.PROTOCOL, "session": "fuzzing client", "nonce": "0" * 32, "proof": shown})
    welcome, _ = channel.receive(5.0)
    assert welcome["ok"] is True
    return channel
