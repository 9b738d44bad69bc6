"""Runs the bridge's server inside a fake GMS, on a thread of its own as GMS would."""

from __future__ import annotations

import math
import threading
import time
from types import TracebackType
from typing import Self

from ..server import Bridge
from .corrector import FakeCorrector
from .gms import FakeGMS
from .world import InstantWorld, SimulatedWorld


class Running:
    """A server that is up; a context manager that stops it.

    Attributes
    ----------
    gms : FakeGMS
    bridge : Bridge
    address, token : str
        What `connect` takes.
    corrector : FakeCorrector or None
        Stopped with the server.
    """

    def __init__(
        self, gms: FakeGMS, *, port: int = 0, token: str = "", virtual_time: bool = False,
        corrector: FakeCorrector | None = None,
    ) -> None:  # fmt: skip
        self.gms = gms
        self.corrector = corrector
        gms.free_the_thread()
        self.bridge = Bridge(
            gms,
            port=port,
            token=token,
            clock=gms.world.now_s if virtual_time else time.monotonic,
            virtual_time=virtual_time,
        )
        self.address, self.token = self.bridge.address, self.bridge.token
        ready = threading.Event()
        self.failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._serve, args=(ready,), name="fake-gms-script", daemon=True)
        self._thread.start()
        while not ready.wait(0.05):
            if self.failed:
                raise self.failed[0]

    def _serve(self, ready: threading.Event) -> None:
        try:
            self.bridge.serve(ready.set)
        except BaseException as error:
            self.failed.append(error)
            raise

    def stop(self) -> None:
        """Stop the server and wait until it has."""
        self.bridge.stop()
        self._thread.join(10.0)
        if self.corrector is not None:
            self.corrector.stop()

    def wait(self, seconds: float | None = None) -> None:
        """Until the server is stopped from elsewhere, or `seconds` are over."""
        ends = math.inf if seconds is None else time.monotonic() + seconds
        while self._thread.is_alive() and time.monotonic() < ends:
            self._thread.join(min(0.5, max(0.0, ends - time.monotonic())))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def run(
    *, speed: float | None = 1.0, port: int = 0, token: str = "", instant: bool = False, gms: dict[str, object] | None = None,
    ronchigrams: bool = False, **simulator: object,
) -> Running:  # fmt: skip
    """Start a fake GMS with the bridge in it.

    Parameters
    ----------
    speed : float or None
        Virtual seconds per second; None: as fast as the computer can.
    port : int
        0: any that is free.
    instant : bool
        True: a world without physics that takes no time.
    gms : dict
        Settings of `FakeGMS`.
    ronchigrams : bool
        True: the filter is not in EELS mode, so that the camera shows the angle plane, and a corrector's gateway is there too:
        what an alignment needs.
    **simulator
        Settings of the simulated microscope.
    """
    world = InstantWorld(virtual=speed is None) if instant else SimulatedWorld(speed, **simulator)
    virtual = speed != 1.0 if not instant else speed is None
    fake = FakeGMS(world, **(gms or {}))  # type: ignore[arg-type]
    fake.filter.eels_mode = not ronchigrams
    corrector = FakeCorrector(world.microscope) if ronchigrams and isinstance(world, SimulatedWorld) else None
    return Running(fake, port=port, token=token, virtual_time=virtual, corrector=corrector)
