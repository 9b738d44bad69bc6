"""Injects faults between client, server and fake GMS while points are measured, and counts what became of each point."""

from __future__ import annotations

import random
import socket
import threading
import time
from typing import Any

from ...backends.digitalmicrograph import connect
from ...backends.digitalmicrograph.fake_gms import FakeGMS, InstantWorld, Running
from ...backends.guard import Guard
from ...schema import InstrumentFault

NEVER = threading.Event()
TOKEN = "a token for the bench alone"  # noqa: S105 - it opens nothing
KINDS = (
    "cut in the reply", "cut in the request", "reply lost", "slow", "half-open", "reply twice", "restart",
    "operator takes the beam", "operator moves the beam", "camera fails",
)  # fmt: skip


class Proxy:
    """Sits between client and server, and does one harm when told to."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.server = server
        self.harm = ""
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End."""
        self._open = False
        self._listener.close()

    def _accept(self) -> None:
        while self._open:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self.server, timeout=5.0)
            except OSError:
                if self._open and "client" in locals():
                    client.close()
                continue
            server.settimeout(None)
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pass, args=(client, server, "request"), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, "reply"), daemon=True).start()

    def _take(self, way: str) -> str:
        with self._lock:
            harm = self.harm
            if not harm or (harm == "cut in the request") != (way == "request"):
                return ""
            self.harm = ""
            return harm

    def _pass(self, source: socket.socket, target: socket.socket, way: str) -> None:
        swallow = False
        try:
            while True:
                data = source.recv(1 << 16)
                if not data:
                    break
                harm = self._take(way)
                if harm in ("cut in the reply", "cut in the request"):
                    target.sendall(data[: len(data) // 2])
                    break
                if harm == "reply lost":
                    break
                swallow = swallow or harm == "half-open"
                if harm == "slow":
                    for at in range(0, len(data), max(1, len(data) // 20)):
                        target.sendall(data[at : at + max(1, len(data) // 20)])
                        time.sleep(0.002)
                elif not swallow:
                    target.sendall(data + data if harm == "reply twice" else data)
        except OSError:
            swallow = True  # the other direction has hung up
        finally:
            for sock in (source, target):
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    sock.close()  # hung up already


class Operator:
    """Somebody at the microscope, through a hook before every call of a DM function."""

    def __init__(self, gms: FakeGMS) -> None:
        self.gms, self.wish = gms, ""
        gms.before_call = self.interfere
        camera = gms.camera
        assert camera is not None
        self._expose = camera.AcquireInPlace
        camera.AcquireInPlace = self.expose  # type: ignore[method-assign,assignment]

    def interfere(self, name: str) -> None:
        """Do what is wished for, once, while the beam stands on the specimen."""
        scan = self.gms.digiscan
        if name != "ExecuteScriptString" or scan.beam == scan.safe:
            return
        wish, self.wish = self.wish, "" if self.wish.startswith("operator") else self.wish
        if wish == "operator takes the beam":
            scan.set_control(0)
        elif wish == "operator moves the beam":
            scan.set_ds(scan.beam[0] + 2000, scan.beam[1] - 1500)

    def expose(self, *arguments: Any) -> None:
        """A camera that fails once."""
        if self.wish == "camera fails":
            self.wish = ""
            raise RuntimeError("DMA error")
        self._expose(*arguments)


def faults(count: int, seed: int) -> dict[str, int]:
    """Measure points while `count` faults happen.

    Returns
    -------
    dict
        ``faults`` that were injected; ``points`` measured, ``lost`` ones, ``misattributed`` ones (a spectrum that was not
        recorded where its frame says), ``tried_again`` exposures, ``sentences`` that were shown to the person, and
        ``beam_left_on``: 1 where the beam was not parked in the end.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret
    gms = FakeGMS(InstantWorld())
    operator = Operator(gms)
    running = Running(gms, token=TOKEN)
    host, _, port = running.address.removeprefix("tcp://").rpartition(":")
    proxy = Proxy((host, int(port)))
    instrument = connect(proxy.address, TOKEN, settle_s=0.0, vertical_binning=100, overview_pixels=128)
    instrument.link.quiet_s = 0.25
    guard = Guard(instrument)
    scanner, spectrometer = guard.scanner, guard.spectrometer
    assert scanner is not None
    assert spectrometer is not None
    found = dict.fromkeys(("faults", "points", "lost", "misattributed", "tried_again", "sentences", "beam_left_on"), 0)
    side = scanner.field.height_nm

    def restart() -> None:
        nonlocal running
        running.stop()
        running = Running(gms, port=int(port), token=TOKEN)

    try:
        for number in range(count):
            kind = KINDS[number % len(KINDS)]
            place = (chance.uniform(5, side - 5), chance.uniform(5, side - 5))
            found["faults"] += 1
            found["points"] += 1
            if kind == "restart":
                timer = threading.Timer(chance.uniform(0.0, 0.002), restart)
                timer.start()
            elif kind.startswith(("operator", "camera")):
                operator.wish = kind
            else:
                proxy.harm = kind
            frame = None
            for attempt in range(6):
                try:
                    scanner.move_probe(*place)
                    frame = spectrometer.acquire_spectrum(1e-3, NEVER)
                    scanner.park_probe()
                    break
                except InstrumentFault as error:
                    found["tried_again"] += attempt < 5
                    found["sentences"] += str(error).endswith(".") and "\n" not in str(error)
                    frame = None
            if kind == "restart":
                timer.join()
            proxy.harm = operator.wish = ""
            if frame is None:
                found["lost"] += 1
                continue
            true = (float(frame.data[0]) - 1000 + side / 2, float(frame.data[1]) - 1000 + side / 2)
            pixel = side / 128
            wrong = max(abs(true[0] - place[0] + pixel / 2), abs(true[1] - place[1] + pixel / 2)) > 0.6 * pixel
            wrong = wrong or (frame.metadata["y_nm"], frame.metadata["x_nm"]) != place
            found["misattributed"] += wrong
    finally:
        guard.close()
        deadline = time.monotonic() + 5.0
        while gms.digiscan.beam != gms.digiscan.safe and time.monotonic() < deadline:
            time.sleep(0.05)
        found["beam_left_on"] = int(gms.digiscan.beam != gms.digiscan.safe or not gms.world.blanked)
        proxy.close()
        running.stop()
    found["misattributed"] += len(gms.violations)
    return found
