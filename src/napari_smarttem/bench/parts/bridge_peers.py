"""Servers the bridge is measured against, each in a process of its own, in front of the same instrument that takes no time.

``python -m napari_smarttem.bench.parts.bridge_peers KIND`` prints a port (and a token) and serves until its input ends:

``bridge``
    Our server.
``published``
    The published server's way, re-enacted: arrays become nested lists, lists become Python literals in text, one connection,
    one call after another; the other side parses the literals. Where the package Pyro5 is installed its own remote objects
    are used, as the published server uses them; the re-enactment without them is faster and flatters it.
``bare``, ``raw``
    A bare socket that moves as many bytes in as many round trips, without and with the instrument; see `bridge_raw`.
"""

from __future__ import annotations

import ast
import importlib
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

SIZE, CHANNELS, ROWS = 512, 2048, 100
_PLACE = re.compile(r"DSPositionBeam\(ref, ([-\d.e]+), ([-\d.e]+)\)")


class InstantDM:
    """As much of ``DigitalMicrograph`` as the server calls, answering at once: what is left is the bridge."""

    def __init__(self) -> None:
        self.answers: dict[str, float] = {}
        self.texts = {"smarttem text": "HAADF"}
        self.at = (0.0, 0.0)
        self.images: dict[int, InstantImage] = {}
        self.frame = InstantImage(np.random.default_rng(0).integers(0, 4000, (SIZE, SIZE), dtype=np.uint32))

    def ExecuteScriptString(self, script: str) -> None:
        """Know the few scripts there are by a word of theirs."""
        self.answers = {}
        match = _PLACE.search(script)
        if match is not None:
            self.at = float(match[1]), float(match[2])
        if "DSCalcImageCoordFromDS" in script:
            self.answers = dict(
                zip(("smarttem answer 0", "smarttem answer 1", "smarttem answer 2"), (*self.at, 1.0), strict=True)
            )
        elif "answer 0" in script:
            asked = next(line for line in script.split("\n") if "answer 0" in line)
            ones = ("DSCountSignals", "DSIsValidDSImage", "DSGetMinPixelTime", "DSHasScanControl")
            self.answers["smarttem answer 0"] = float(any(name in asked for name in ones))

    def GetPersistentTagGroup(self) -> InstantDM:
        """Its own tags."""
        return self

    def GetTagAsFloat(self, name: str) -> tuple[bool, float]:
        """The last answer."""
        return (True, self.answers[name]) if name in self.answers else (False, 0.0)

    def GetTagAsString(self, name: str) -> tuple[bool, str]:
        """The only text there is."""
        return (True, self.texts[name]) if name in self.texts else (False, "")

    GetTagAsText = GetTagAsString
    GetTagAsBoolean = GetTagAsFloat

    def DeleteTagWithLabel(self, name: str) -> bool:
        """Forget an answer."""
        return self.answers.pop(name, None) is not None

    def CreateImage(self, data: np.ndarray) -> InstantImage:
        """The frame that is always the same, so that no time goes into making it."""
        image = self.frame if data.shape == (SIZE, SIZE) else InstantImage(data)
        self.images[image.GetID()] = image
        return image

    def DS_CreateParameters(self, *_arguments: Any) -> int:
        """Always the same."""
        return 1

    def DS_SetParametersSignal(self, *_arguments: Any) -> bool:
        """Yes."""
        return True

    def DS_StartAcquisition(self, *_arguments: Any) -> None:
        """Done."""

    def DS_DeleteParameters(self, _number: int) -> None:
        """Done."""

    def GetActiveCamera(self) -> InstantCamera:
        """The camera."""
        return _CAMERA

    def Py_Microscope(self) -> InstantColumn:
        """The column."""
        return _COLUMN

    def IsScriptOnMainThread(self) -> bool:
        """No."""
        return False

    def Sleep(self, _seconds: float) -> None:
        """Over at once."""


class InstantImage:
    """A ``Py_Image``."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data

    def GetID(self) -> int:
        """A number."""
        return id(self) & 0xFFFFFF

    def GetNumArray(self) -> np.ndarray:
        """The pixels."""
        return self.data

    def GetDimensionCalibration(self, _dimension: int, _form: int) -> tuple[float, float, Any]:
        """0.4 nm, or eV."""
        return (0.0, 0.0004, b"\xb5m") if self.data.shape == (SIZE, SIZE) else (0.0, 0.5, "eV")

    def GetTagGroup(self) -> InstantImage:
        """No tags."""
        return self

    def GetTagAsFloat(self, _name: str) -> tuple[bool, float]:
        """None."""
        return False, 0.0

    def GetTagAsText(self, _name: str) -> tuple[bool, str]:
        """None."""
        return False, ""


class InstantCamera:
    """A ``Py_Camera`` whose picture is there already: a band of 100 rows, or one row where the chip bins them."""

    images: ClassVar[dict[tuple[int, int], InstantImage]] = {}

    def PrepareForAcquire(self) -> None:
        """Ready."""

    def GetName(self) -> str:
        """A name."""
        return "instant camera"

    def GetDefaultParameters(self) -> tuple[float, int, int, int, int, int, int, int]:
        """The band the published server uses."""
        return (0.1, 1, 1, 3, 974, 0, 974 + ROWS, CHANNELS)

    def CreateImageForAcquire(self, xbin: int, ybin: int, _processing: int, *area: int) -> InstantImage:
        """An image of the right size."""
        shape = ((area[2] - area[0]) // ybin, (area[3] - area[1]) // xbin)
        if shape not in self.images:
            self.images[shape] = InstantImage(np.random.default_rng(1).integers(0, 4000, shape, dtype=np.int32))
        return self.images[shape]

    def AcquireInPlace(self, *_arguments: Any) -> None:
        """Done."""


class InstantColumn:
    """A ``Py_Microscope`` without a blanker."""

    def HasBeamBlanker(self) -> bool:
        """No."""
        return False

    def GetMagnification(self) -> float:
        """Always the same."""
        return 1e6


_CAMERA, _COLUMN = InstantCamera(), InstantColumn()


# --- the published way ---------------------------------------------------------------------------------------------------


def literal(value: Any, out: list[str]) -> None:
    """`value` as a Python literal, element by element, appended to `out`."""
    if isinstance(value, list):
        out.append("[")
        for element in value:
            literal(element, out)
            out.append(",")
        out.append("]")
    elif isinstance(value, tuple):
        out.append("(")
        for element in value:
            literal(element, out)
            out.append(",")
        out.append(")")
    else:
        out.append(repr(value))


def send_text(sock: socket.socket, value: Any) -> None:
    """One message of the re-enacted protocol."""
    out: list[str] = []
    literal(value, out)
    text = "".join(out).encode()
    sock.sendall(struct.pack(">I", len(text)) + text)


def receive_text(sock: socket.socket) -> Any:
    """The next message, its literals parsed."""
    (length,) = struct.unpack(">I", exactly(sock, 4))
    return ast.literal_eval(exactly(sock, length).decode())


def exactly(sock: socket.socket, size: int) -> bytearray:
    """`size` bytes."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = sock.recv_into(view)
        if count == 0:
            raise ConnectionError("the other side hung up")
        view = view[count:]
    return data


def _published(sock: socket.socket) -> None:
    dm = InstantDM()
    frame, band = dm.frame.GetNumArray(), _CAMERA.CreateImageForAcquire(1, 1, 3, 974, 0, 974 + ROWS, CHANNELS)
    while True:
        call = receive_text(sock)
        if call[0] == "get_ds":
            send_text(sock, (frame.tolist(), frame.shape, str(frame.dtype)))
        elif call[0] == "get_eels":
            spectrum = band.GetNumArray().sum(axis=0)
            send_text(sock, (spectrum.tolist(), spectrum.shape, str(spectrum.dtype)))
        else:
            send_text(sock, None)


class ArrayServer:
    """The published server's calls, for Pyro5."""

    def __init__(self) -> None:
        self._frame = InstantDM().frame.GetNumArray()
        self._band = _CAMERA.CreateImageForAcquire(1, 1, 3, 974, 0, 974 + ROWS, CHANNELS).GetNumArray()

    def get_ds(self, _size: int) -> tuple[list[Any], tuple[int, ...], str]:
        """A scan, as nested lists."""
        return self._frame.tolist(), self._frame.shape, str(self._frame.dtype)

    def set_beam_pos(self, _x: float, _y: float) -> None:
        """Done."""

    def acquire_camera(self, _exposure: float) -> None:
        """Done."""

    def get_eels(self) -> tuple[list[Any], tuple[int, ...], str]:
        """The sum over the rows, as a list."""
        spectrum = self._band.sum(axis=0)
        return spectrum.tolist(), spectrum.shape, str(spectrum.dtype)


def _accepted(listener: socket.socket) -> Iterator[socket.socket]:
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


def _serve(listener: socket.socket, talk: Callable[[socket.socket], None]) -> None:
    for sock in _accepted(listener):
        try:
            talk(sock)
        except (ConnectionError, struct.error):
            sock.close()


def main(kind: str) -> int:
    """Serve until standard input ends."""
    if kind == "bridge":
        from ...backends.digitalmicrograph.server import Bridge

        bridge = Bridge(InstantDM(), port=0)
        threading.Thread(target=bridge.serve, daemon=True).start()
        print(bridge.address, bridge.token, flush=True)
        sys.stdin.read()
        bridge.stop()
        return 0
    if kind == "pyro":
        pyro = importlib.import_module("Pyro5.api")
        daemon = pyro.Daemon(host="127.0.0.1")
        print(daemon.register(pyro.expose(ArrayServer), objectId="array.server"), "-", flush=True)
        threading.Thread(target=daemon.requestLoop, daemon=True).start()
        sys.stdin.read()
        return 0
    if kind == "published":
        talk: Callable[[socket.socket], None] = _published
    else:
        from .bridge_raw import talker

        talk = talker(InstantDM() if kind == "raw" else None)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(listener, talk), daemon=True).start()
    print(f"tcp://127.0.0.1:{listener.getsockname()[1]} -", flush=True)
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
