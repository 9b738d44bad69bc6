"""Lets napari-smarttem drive this microscope: copy this one file to the GMS computer and execute it in DigitalMicrograph.

In the script window of GMS choose *Python*, tick *Execute on background thread*, press *Execute*. The address and the token
that appear in the output window go into the Instrument dock of napari-smarttem. To stop, see `STOP_TAG` below.

Only what is in the table `VERBS` can be asked for; nothing a client sends is ever executed as a script. Every call of a DM
function is made by one thread, the one this script runs on; sockets are on helper threads, and commands come from them through
a queue. Only between two commands that follow one another at once does the owner of DM look at the client's socket itself, for
`LINGER_S` at most: that saves the way over two threads, which takes longer than the commands. Whatever ends a client's work (it
says good-bye, it vanishes, it falls silent, this script is stopped) blanks and parks a beam that it had put on the specimen.

Needs Python 3.7 or newer and NumPy, as they come with GMS 3.4 and later; nothing else. It imports nothing of napari-smarttem.
"""

from __future__ import annotations

import collections
import functools
import hmac
import json
import math
import queue
import re
import secrets
import select
import socket
import struct
import sys
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

# --- what a laboratory may change --------------------------------------------------------------------------------------
HOST = "127.0.0.1"
"""Leave it: another computer comes through an SSH tunnel. Anything else needs a TOKEN of your own, 16 characters or more."""
PORT = 9471
TOKEN = ""
"""Empty: a new one is made up, and printed, each time."""
ALLOW_DISPERSION = False
"""True lets a client switch the dispersion (IFCSetActiveDispersions, which not every filter has)."""
ALLOW_STAGE = True
"""False keeps clients from moving the stage."""
STOP_TAG = "smarttem stop"
"""Set this persistent tag to 1 to stop: ``GetPersistentTagGroup().TagGroupSetTagAsBoolean("smarttem stop", 1)``."""

# --- rules of the wire; the client's file wire.py says what they mean --------------------------------------------------
PROTOCOL = 1
MAGIC = b"STEB"
PREFIX = struct.Struct(">4sII")
LOGIN_CAP, HEADER_CAP, BODY_CAP = 1024, 1 << 16, 1 << 24
DEEPEST, MOST_ARRAYS = 16, 16
DTYPES = frozenset({"|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<i8", "<u8", "<f4", "<f8"})
BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|([\[{])|([\]}])')
LOGIN_S, FRAME_S, BEAT_S, SILENCE_S = 5.0, 20.0, 0.5, 10.0
MOST_CONNECTIONS, MOST_SESSIONS, REPLIES_KEPT = 16, 16, 2
LARGEST_REPLY = 1 << 28
STRIP_S = 0.5
LINGER_S = 1e-3
AWAKE_S, MOST_ASLEEP = 3e-4, 64


class WireError(Exception):
    """The peer broke the rules, or went away: the connection ends."""


class Refusal(Exception):
    """A command that is not carried out, or failed; told to the client in one sentence.

    `code` is ``bad`` (it makes no sense), ``limit``, ``missing``, ``cancelled``, ``transient`` (try again) or ``fault``.
    """

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def pack(header: Dict[str, Any], arrays: List[np.ndarray]) -> List[Any]:
    """A frame in pieces; small ones in one."""
    if not arrays:
        text = ENCODER.encode(header).encode()
        return [PREFIX.pack(MAGIC, len(text), 0) + text]
    ready = [_as_sent(a) for a in arrays]
    header = dict(header, arrays=[[a.dtype.str, list(a.shape)] for a in ready])
    text = ENCODER.encode(header).encode()
    size = sum(a.nbytes for a in ready)
    head = PREFIX.pack(MAGIC, len(text), size) + text
    if size <= 1 << 15:
        return [b"".join([head] + [a.data for a in ready])]
    return [head, *(memoryview(a.data).cast("B") for a in ready if a.nbytes)]


def _as_sent(array: np.ndarray) -> np.ndarray:
    """In C order and little-endian; itself where it is so already."""
    if array.dtype.str in DTYPES and array.flags.c_contiguous:
        return array
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def unpack(text: bytes, body: Any) -> Tuple[Dict[str, Any], List[np.ndarray]]:
    """Header and arrays of a frame, or `WireError`."""
    if text.count(b"[") + text.count(b"{") > DEEPEST:
        depth = 0
        for match in BRACKETS.finditer(text):
            depth += (match.group(1) is not None) - (match.group(2) is not None)
            if depth > DEEPEST:
                raise WireError("nested too deeply")
    try:
        header = DECODER.decode(text.decode("utf-8"))
        if not isinstance(header, dict):
            raise ValueError("no object")
        described, arrays, at = header.pop("arrays", []), [], 0
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
    except (ValueError, TypeError, RecursionError) as error:
        raise WireError("malformed: %s" % error)
    return header, arrays


def _no_constant(name: str) -> float:
    raise ValueError(name + " is no number")


def _done(number: int, clock: float) -> List[Any]:
    """The answer to a command that has nothing to tell, the most frequent one."""
    text = b'{"id":%d,"ok":true,"result":{},"clock":%s}' % (number, repr(float(clock)).encode())
    return [PREFIX.pack(MAGIC, len(text), 0) + text]


ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
DECODER = json.JSONDecoder(parse_constant=_no_constant)


def proof(token: str, who: str, server_nonce: str, client_nonce: str) -> str:
    """What shows that `who` knows the token."""
    text = "smarttem-%d|%s|%s|%s" % (PROTOCOL, who, server_nonce, client_nonce)
    return hmac.new(token.encode(), text.encode(), "sha256").hexdigest()


class Connection:
    """A socket that gives and takes whole frames. It never blocks by itself; every 0.1 s of waiting it looks around."""

    def __init__(self, sock: socket.socket, stopping: threading.Event) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setblocking(False)
        self.sock = sock
        self.stopping = stopping
        self.lock = threading.Lock()
        self.lent = (
            threading.Lock()
        )  # held while the owner thread answers, and perhaps reads, in the helper thread's place
        self.job: Optional[Job] = None
        self.again = False
        self.asleep, self.vain = (
            0,
            0,
        )  # requests still to be waited for asleep; as many the next time, where awake is in vain
        self.seen = b""  # what the owner thread has read of the next frame and leaves to the helper thread

    def receive(self, header_cap: int, body_cap: int, idle_s: float, frame_s: float) -> Tuple[Dict[str, Any], Any]:
        """The next frame; waits `idle_s` for it to begin and `frame_s` for it to end."""
        prefix = bytearray(PREFIX.size)
        ends = self._fill(memoryview(prefix), idle_s, frame_s)
        magic, header, body = PREFIX.unpack(prefix)
        if magic != MAGIC or not 2 <= header <= header_cap or body > body_cap:
            raise WireError("not a frame, or too large")
        whole = bytearray(header + body)
        self._fill(memoryview(whole), max(0.0, ends - time.monotonic()), 0.0)
        return unpack(bytes(whole[:header]), memoryview(whole)[header:])

    def _fill(self, view: memoryview, idle_s: float, frame_s: float) -> float:
        ends, begun = time.monotonic() + idle_s, False
        while len(view):
            count = min(len(view), len(self.seen))
            if count:
                view[:count], self.seen = self.seen[:count], self.seen[count:]
            else:
                if (begun or not frame_s) and time.monotonic() > ends:  # also where it comes, but byte by byte
                    raise WireError("came too slowly")
                try:
                    count = self.sock.recv_into(view)
                except BlockingIOError:
                    self._wait(ends, False)
                    continue
                except OSError as error:
                    raise WireError(str(error))
                if count == 0:
                    raise WireError("hung up")
            view = view[count:]
            if frame_s and not begun:
                begun, ends = True, time.monotonic() + frame_s
        return ends

    def _wait(self, ends: float, to_send: bool) -> None:
        """For the peer, a little; `WireError` where it has taken too long."""
        socks = [self.sock]
        try:
            ready = select.select([] if to_send else socks, socks if to_send else [], [], 0.1)
        except (OSError, ValueError) as error:
            raise WireError(str(error))
        if not ready[0] and not ready[1] and (time.monotonic() > ends or self.stopping.is_set()):
            raise WireError("takes nothing more" if to_send else "nothing came in time")

    def send(self, pieces: List[Any]) -> None:
        """Send a frame; a peer that takes nothing for `FRAME_S` seconds is given up."""
        ends = time.monotonic() + FRAME_S
        with self.lock:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    try:
                        view = view[self.sock.send(view) :]
                    except BlockingIOError:
                        self._wait(ends, True)
                    except OSError as error:
                        raise WireError(str(error))

    def send_at_once(self, piece: bytes) -> int:
        """How much of a small frame could be sent without waiting; for the thread that must never wait."""
        if not self.lock.acquire(False):  # a heartbeat is on its way
            return 0
        try:
            return self.sock.send(piece)
        except (OSError, ValueError):  # full, or hung up meanwhile: the helper thread of this connection finds out
            return 0
        finally:
            self.lock.release()

    def _at_once(self) -> bytes:
        """What comes within `LINGER_S`; empty where nothing does.

        To be woken takes longer than most commands do, so this thread stays awake for a moment. Where that was in vain, because
        the client thinks for longer or all cores are busy, it is tried again after the next request, then after two more, four...
        """
        ends = 0.0 if self.asleep else time.monotonic() + AWAKE_S
        while True:
            try:
                found = self.sock.recv(4096)
            except BlockingIOError:
                if time.monotonic() < ends:
                    continue
                break
            if not self.asleep:
                self.vain = 0
            return found
        if self.asleep:
            self.asleep -= 1
        else:
            self.asleep = self.vain = min(MOST_ASLEEP, 2 * self.vain + 1)
        return self.sock.recv(4096) if select.select([self.sock], [], [], LINGER_S)[0] else b""

    def request_at_once(self) -> Optional[Tuple[Dict[str, Any], List[np.ndarray]]]:
        """The next request, where a whole small one comes within `LINGER_S` and is a command; left unread otherwise.

        What is wrong, incomplete, or of another kind is met again, and dealt with, by the helper thread.
        """
        try:
            if not self.seen:
                self.seen = self._at_once()
                if not self.seen:
                    return None
            seen = self.seen
            if len(seen) < PREFIX.size:
                return None
            magic, text, body = PREFIX.unpack_from(seen)
            starts, ends = PREFIX.size + text, PREFIX.size + text + body
            if magic != MAGIC or len(seen) < ends:
                return None
            header, arrays = unpack(seen[PREFIX.size : starts], seen[starts:ends])
            verb = header.get("verb")
            if (
                verb not in COMMANDS
                or type(header.get("id")) is not int
                or not isinstance(header.get("args", {}), dict)
            ):
                return None
            self.seen = seen[ends:]
        except (OSError, ValueError, TypeError, WireError):
            return None
        return header, arrays


# --- the microscope: everything below is called by the owner thread only ------------------------------------------------


class Microscope:
    """What DigitalMicrograph can do, as numbers, arrays and dictionaries.

    Parameters
    ----------
    dm : module
        ``DigitalMicrograph``.
    clock : callable
        Seconds, never backwards.
    """

    def __init__(self, dm: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self.dm = dm
        self.clock = clock
        self.attend: Callable[[], None] = _nothing
        self.column = self._or_none(dm, "Py_Microscope")
        self.known: Dict[str, bool] = {}
        self.references: Dict[str, Any] = {}
        self.shape = (0, 0)
        self.rotation = 0.0
        self.geometry: Dict[str, Any] = {}
        self.magnification: Any = None
        self.scanning: List[Tuple[str, Callable[[], np.ndarray]]] = []
        self.probe: Optional[Tuple[float, float]] = None
        self.placed = 0.0
        self.exposed = False
        self.had_control = bool(self.ask("DSHasScanControl()")[0])
        self.signals = self._signals()
        self.flyback_us = float(self.ask("DSGetFlyBackTime()")[0])
        self.shortest_us = float(self.ask("DSGetMinPixelTime(4, %d)" % max(1, len(self.signals)))[0])
        self.serial = 0

    # -- DM-script

    def run(self, script: str) -> None:
        """Execute DM-script text made of our own templates and of numbers."""
        self.dm.ExecuteScriptString(script)

    def ask(self, *expressions: str, before: str = "") -> List[float]:
        """Values of DM-script expressions, after the statements `before`; the way back is a tag, deleted again."""
        lines = [before, "TagGroup answer = GetPersistentTagGroup()"]
        for i, expression in enumerate(expressions):
            lines.append('answer.TagGroupSetTagAsFloat("smarttem answer %d", %s)' % (i, expression))
        tags = self.dm.GetPersistentTagGroup()
        values = []
        try:
            self.run("\n".join(lines))
            for i in range(len(expressions)):
                there, value = tags.GetTagAsFloat("smarttem answer %d" % i)
                if not there:
                    raise Refusal("fault", "DigitalMicrograph gave no answer to %s." % expressions[i])
                values.append(float(value))
        finally:
            for i in range(len(expressions)):
                tags.DeleteTagWithLabel("smarttem answer %d" % i)
        return values

    def ask_text(self, expression: str) -> str:
        """Text of a DM-script expression."""
        tags = self.dm.GetPersistentTagGroup()
        try:
            self.run(
                'TagGroup answer = GetPersistentTagGroup()\nanswer.TagGroupSetTagAsString("smarttem text", %s)'
                % expression
            )
            return _text(tags.GetTagAsString("smarttem text")[1])
        finally:
            tags.DeleteTagWithLabel("smarttem text")

    def exists(self, function: str) -> bool:
        """Whether this GMS, with the hardware it has, knows a DM-script function."""
        if function not in self.known:
            self.known[function] = bool(self.ask('DoesFunctionExist("%s")' % function)[0])
        return self.known[function]

    def _or_none(self, owner: Any, name: str) -> Any:
        try:
            return getattr(owner, name)()
        except Exception:  # GMS says in many ways that something is not there
            return None

    def _column(self, name: str, *values: Any) -> Any:
        """What a microscope function says, None where this microscope has it not."""
        try:
            return getattr(self.column, name)(*values)
        except Exception:  # absent on this column, or not calibrated: both are answers, not faults
            return None

    # -- who

    def describe(self, _args: Dict[str, Any]) -> Dict[str, Any]:
        """What there is and what it can do."""
        camera = self._camera(False)
        return {
            "software": {"python": ".".join(map(str, sys.version_info[:3])), "numpy": np.__version__},
            "microscope": _text(self._column("GetMicroscopeName") or "microscope"),
            "high_tension_v": _number(self._column("GetHighTension")),
            "signals": [name for name, _ in self.signals],
            "camera": None
            if camera is None
            else {"area": self._band(camera, None), "name": _text(self._or_none(camera, "GetName") or "camera")},
            "blanker": bool(self._column("HasBeamBlanker")),
            "stage": None if self._column("GetStageX") is None else self.stage({}),
            "filter": self.filter({}) if self.energy_getter() else None,
            "filter_functions": [name for name in FILTER_FUNCTIONS if self.exists(name)],
            "flyback_us": self.flyback_us,
            "shortest_us": self.shortest_us,
            "allow": {"dispersion": ALLOW_DISPERSION and self.exists("IFCSetActiveDispersions"), "stage": ALLOW_STAGE},
            "reference": self.geometry or None,
        }

    def _signals(self) -> List[Tuple[str, int]]:
        found = []
        for index in range(int(self.ask("DSCountSignals()")[0])):
            found.append((self.ask_text("DSGetSignalName(%d)" % index) or "signal %d" % index, index))
        return found

    def optics(self, _args: Dict[str, Any]) -> Dict[str, Any]:
        """How the column stands; raw units where it is not calibrated."""
        names = ("GetMagnification", "GetFocus", "GetCameraLength", "GetOperationMode", "GetIlluminationMode")
        return {name[3:]: _plain(self._column(name)) for name in names}

    # -- scanning

    def reference(self, args: Dict[str, Any]) -> Dict[str, Any]:
        """Scan the whole field once with every signal, the beam blanked where it can be: what positions refer to.

        GMS knows places as pixels of an image that DigiScan recorded. This image is kept; it is not shown, so nobody can
        close it by accident.
        """
        size = _whole(args, "size", 16, 4096)
        rotation = _real(args, "rotation", -360.0, 360.0)
        if not self.signals:
            raise Refusal("missing", "DigiScan has no signal; switch a detector on in its set-up.")
        blanked, exposed = self.is_blanked(), self.exposed
        if blanked is False:
            self.blank({"blanked": True})
        try:
            images = self._scan_whole(size, size, self.shortest_us, rotation, [name for name, _ in self.signals])
        finally:
            if blanked is False:
                self.blank({"blanked": False})
                self.exposed = exposed  # this was not the client's wish
        for image in images.values():
            valid = self.ask("DSIsValidDSImage(ref)", before="Image ref := FindImageByID(%d)" % image.GetID())[0]
            if not valid:
                raise Refusal(
                    "fault", "GMS does not take the scanned image for one of DigiScan's; positions cannot be set by it."
                )
        self.references, self.shape, self.rotation = images, (size, size), rotation
        first = next(iter(images.values()))
        _, scale, unit = first.GetDimensionCalibration(0, 0)
        self.magnification = self._column("GetMagnification")
        described = {
            "size": size,
            "rotation": rotation,
            "scale": float(scale),
            "unit": _text(unit),
            "tags": self._tags(first),
        }
        if described != {key: value for key, value in self.geometry.items() if key != "ref"}:
            self.geometry = dict(
                described, ref=self.geometry.get("ref", 0) + 1
            )  # places of an older one mean something else
        return self.geometry

    def scan(self, args: Dict[str, Any]) -> Tuple[Dict[str, Any], List[np.ndarray]]:
        """One pass over the whole field, all signals together, or over an area of it, one signal after another."""
        rows, columns = _whole(args, "rows", 1, 8192), _whole(args, "columns", 1, 8192)
        dwell_us = _real(args, "dwell_us", 0.01, 1e7)
        names = args.get("signals")
        if not isinstance(names, list) or not names or any(name not in dict(self.signals) for name in names):
            raise Refusal("bad", "There is no such detector; there is %s." % ", ".join(n for n, _ in self.signals))
        if rows * columns * 4 * len(names) > LARGEST_REPLY:
            raise Refusal("limit", "A scan of %d x %d pixels is too large; ask for fewer." % (rows, columns))
        area = args.get("area")
        self._check_reference(args)
        if int(self.ask("DSIsAcquisitionActive()")[0]):
            raise Refusal("transient", "DigiScan is scanning for somebody at the microscope; wait or stop that scan.")
        self.probe = None
        started = self.clock()
        if area is None:
            images = self._scan_whole(columns, rows, dwell_us, self.rotation, names)
            arrays, last = [image.GetNumArray().copy() for image in images.values()], next(iter(images.values()))
        else:
            box = area if isinstance(area, list) and len(area) == 4 else []
            numbers = all(type(v) in (int, float) and math.isfinite(v) for v in box)
            if not box or not numbers or box[2] <= box[0] or box[3] <= box[1]:
                raise Refusal("bad", "An area is [top, left, bottom, right] in pixels of the reference image.")
            top, left, bottom, right = box
            if min(top, left) < 0 or bottom > self.shape[0] or right > self.shape[1]:
                raise Refusal("limit", "The area leaves the scan field; nothing was scanned.")
            arrays, last = [], None
            for name in names:
                data, last = self._scan_area(name, rows, columns, (top, left, bottom, right), dwell_us)
                arrays.append(data)
        finished = self.clock()
        _, scale, unit = last.GetDimensionCalibration(0, 0)
        head = {
            "started": started,
            "finished": finished,
            "scale": float(scale),
            "unit": _text(unit),
            "tags": self._tags(last),
        }
        return head, arrays

    def _scan_whole(
        self, width: int, height: int, dwell_us: float, rotation: float, names: List[str]
    ) -> Dict[str, Any]:
        numbers = dict(self.signals)
        images = collections.OrderedDict()
        for name in names:
            images[name] = self.dm.CreateImage(np.zeros((height, width), dtype=np.uint32))
        parameters = self._parameters(width, height, rotation, dwell_us)
        try:
            for name, image in images.items():
                self.dm.DS_SetParametersSignal(parameters, numbers[name], 4, True, image.GetID())
            self.scanning = [(name, functools.partial(_pixels, image)) for name, image in images.items()]
            self.dm.DS_StartAcquisition(parameters, False, False)
            expected_s = height * (width * dwell_us + self.flyback_us) * 1e-6
            self._wait_for_scan(expected_s)
        finally:
            self.scanning = []
            self.dm.DS_DeleteParameters(parameters)
        return images

    def _parameters(self, width: int, height: int, rotation: float, dwell_us: float) -> int:
        try:
            return int(self.dm.DS_CreateParameters(width, height, rotation, dwell_us, False))
        except (TypeError, RuntimeError, AttributeError):  # other revisions of GMS take other arguments: ask DM-script
            script = "DSCreateParameters(%d, %d, %r, %r, 0)" % (width, height, float(rotation), float(dwell_us))
            return int(self.ask(script)[0])

    def _scan_area(
        self, name: str, rows: int, columns: int, area: Tuple[float, float, float, float], dwell_us: float
    ) -> Tuple[np.ndarray, Any]:
        """An area with one signal, in strips: GMS does not give the word back before such a scan is over.

        Gives the pixels and the image of the last strip, which knows calibration and tags.
        """
        top, left, bottom, right = area
        line_s = (columns * dwell_us + self.flyback_us) * 1e-6
        strip, pitch = max(1, min(rows, int(STRIP_S / line_s))), (bottom - top) / rows
        data = np.zeros((rows, columns), dtype=np.uint32)
        self.scanning = [(name, data.copy)]
        target = None
        try:
            for first in range(0, rows, strip):
                self.attend()
                last = min(rows, first + strip)
                if target is None or last - first != strip:
                    target = self.dm.CreateImage(np.zeros((last - first, columns), dtype=np.uint32))
                edges = (top + first * pitch, left, min(top + last * pitch, float(self.shape[0])), right)
                self.run(
                    "Image ref := FindImageByID(%d)\nImage target := FindImageByID(%d)\n"
                    "DSScanSubRegion(ref, target, %r, %r, %r, %r, %r)"
                    % (self.references[name].GetID(), target.GetID(), *edges, float(dwell_us))
                )
                self._wait_for_scan((last - first) * line_s)
                data[first:last] = target.GetNumArray()
        finally:
            self.scanning = []
        return data, target

    def _wait_for_scan(self, expected_s: float) -> None:
        """Until DigiScan has finished; urgent commands are attended to meanwhile, a cancelled scan is stopped."""
        ends = self.clock() + 3 * expected_s + 10.0
        while self.ask("DSIsAcquisitionActive()")[0]:
            try:
                self.attend()
                if self.clock() > ends:
                    raise Refusal("transient", "The scan did not end in time and was stopped.")
            except Refusal:
                self.run("DSStopAcquisition(-1)")
                raise
            self.dm.Sleep(min(0.02, max(0.0005, expected_s / 8)))

    def live(self, _args: Dict[str, Any]) -> Tuple[Dict[str, Any], List[np.ndarray]]:
        """The scan under way, as far as it has come."""
        return {"signals": [name for name, _ in self.scanning]}, [look() for _, look in self.scanning]

    # -- the stationary probe

    def move_probe(self, args: Dict[str, Any]) -> Dict[str, Any]:
        """Take scan control, put the beam on a place of the reference image, wait, and look where it is."""
        self._check_reference(args)
        x, y = _real(args, "x", 0.0, float(self.shape[1])), _real(args, "y", 0.0, float(self.shape[0]))
        self._place(x, y, _real(args, "settle_s", 0.0, 60.0))
        return {}

    def _place(self, x: float, y: float, settle_s: float) -> None:
        ref = self._need_reference()
        script = (
            "number dsx, dsy, px, py\nnumber had = DSHasScanControl()\nif (!had) DSSetScanControl(1)\nif (!had) Delay(1)\n"
            "Image ref := FindImageByID(%d)\nDSPositionBeam(ref, %r, %r)\n"
            "DSGetBeamDSPosition(dsx, dsy)\nDSCalcImageCoordFromDS(ref, dsx, dsy, px, py)" % (ref, x, y)
        )
        self.probe = None
        self.exposed = True
        px, py, control = self.ask("px", "py", "DSHasScanControl()", before=script)
        self._agree(x, y, px, py, control)
        if settle_s > 0:
            self.dm.Sleep(settle_s)
        self.probe, self.placed = (x, y), time.monotonic()

    def _agree(self, x: float, y: float, px: float, py: float, control: float) -> None:
        # The hardware moves in whole steps; an image pixel is many of them at any sensible zoom.
        if not control:
            self.probe = None
            raise Refusal(
                "transient",
                "Somebody at the microscope took the beam away from DigiScan; what was recorded is not used.",
            )
        if max(abs(px - x), abs(py - y)) > 0.6:
            self.probe = None
            raise Refusal(
                "transient",
                "The beam stands at pixel (%.1f, %.1f) and not at (%.1f, %.1f); it is not used." % (px, py, x, y),
            )

    def where(self) -> Tuple[float, float, float]:
        """Beam position in pixels of the reference image, and whether DigiScan controls the beam."""
        script = (
            "number dsx, dsy, px, py\nImage ref := FindImageByID(%d)\nDSGetBeamDSPosition(dsx, dsy)\n"
            "DSCalcImageCoordFromDS(ref, dsx, dsy, px, py)" % self._need_reference()
        )
        px, py, control = self.ask("px", "py", "DSHasScanControl()", before=script)
        return px, py, control

    def probe_at(self, _args: Dict[str, Any]) -> Dict[str, Any]:
        """Where the stationary probe is; null where it is parked."""
        return {"at": None if self.probe is None else list(self.probe)}

    def park(self, _args: Dict[str, Any]) -> Dict[str, Any]:
        """Beam to GMS's safe position."""
        self.run("if (!DSHasScanControl()) DSSetScanControl(1)\nDSSetBeamToSafePosition()")
        self.probe = None
        self.exposed = self.is_blanked() is False
        return {}

    def is_blanked(self) -> Optional[bool]:
        """None where there is no blanker."""
        return bool(self._column("GetBeamBlanked")) if self._column("HasBeamBlanker") else None

    def blank(self, args: Dict[str, Any]) -> Dict[str, Any]:
        """Blank or unblank, and look whether it is so."""
        wanted = args.get("blanked")
        if not isinstance(wanted, bool):
            raise Refusal("bad", "The beam can be blanked (true) or unblanked (false).")
        if not self._column("HasBeamBlanker"):
            raise Refusal("missing", "This microscope has no beam blanker that GMS can reach.")
        self.exposed = self.exposed or not wanted
        self.column.SetBeamBlanked(wanted)
        if bool(self.column.GetBeamBlanked()) != wanted:
            raise Refusal("fault", "The beam blanker did not obey; blank the beam by hand.")
        if wanted and self.probe is None:
            self.exposed = False
        return {"blanked": wanted}

    def blanked(self, _args: Dict[str, Any]) -> Dict[str, Any]:
        """Whether the beam is blanked; null where there is no blanker."""
        return {"blanked": self.is_blanked()}

    def make_safe(self) -> List[str]:
        """Blank and park what a client left on the specimen; says what could not be done."""
        failed: List[str] = []
        if not self.exposed:
            return failed
        for what, action in (("blanked", self._blank_if_possible), ("parked", lambda: self.park({}))):
            try:
                action()
            except Exception as error:  # the other way of making it safe must still be tried
                failed.append(
                    "The beam could not be %s: %s." % (what, _text(error).rstrip(".") or type(error).__name__)
                )
        self.exposed = bool(failed)
        return failed

    def _blank_if_possible(self) -> None:
        if self._column("HasBeamBlanker"):
            self.blank({"blanked": True})

    def let_go(self) -> None:
        """On the way out: safe, scan control as it was found, nothing left in memory."""
        for sentence in self.make_safe():
            print("smarttem: " + sentence)
        self.references = {}
        if not self.had_control:
            self.run("DSSetScanControl(0)")

    # -- camera and spectrometer

    def _camera(self, needed: bool) -> Any:
        camera = self._or_none(self.dm, "GetActiveCamera")
        if camera is None and needed:
            raise Refusal("missing", "GMS has no active camera; choose one in its Camera palette.")
        return camera

    def _band(self, camera: Any, band: Any) -> List[int]:
        """[top, left, bottom, right] in sensor pixels: as asked, else what GMS takes by default."""
        if band is None:
            return [int(v) for v in camera.GetDefaultParameters()[4:8]]
        if not isinstance(band, list) or len(band) != 4 or not all(type(v) is int and 0 <= v <= 1 << 16 for v in band):
            raise Refusal("bad", "A camera area is [top, left, bottom, right] in unbinned pixels of the sensor.")
        if band[2] <= band[0] or band[3] <= band[1]:
            raise Refusal("bad", "A camera area ends below and to the right of where it begins.")
        return band

    def _prepare(self, args: Dict[str, Any]) -> Tuple[Callable[[], np.ndarray], Callable[[], Any]]:
        """What exposes once and gives the array, and what gives the image's own information."""
        camera = self._camera(True)
        exposure = _real(args, "exposure_s", 1e-6, 600.0)
        binning = args.get("binning", [1, 1])
        if (
            not isinstance(binning, list)
            or len(binning) != 2
            or not all(type(v) is int and 1 <= v <= 4096 for v in binning)
        ):
            raise Refusal("bad", "A binning is [along x, along y], whole numbers from 1 on.")
        top, left, bottom, right = self._band(camera, args.get("band"))
        processing = args.get("processing", 3)
        if processing not in (1, 2, 3):
            raise Refusal("bad", "The processing is 1 (raw), 2 (dark subtracted) or 3 (gain normalised).")
        camera.PrepareForAcquire()
        settings = (binning[0], binning[1], processing, top, left, bottom, right)
        image = camera.CreateImageForAcquire(*settings)

        def expose() -> np.ndarray:
            camera.AcquireInPlace(image, exposure, *settings)
            data: np.ndarray = image.GetNumArray()
            return data

        return expose, lambda: image

    def spectrum(self, args: Dict[str, Any]) -> Tuple[Dict[str, Any], List[np.ndarray]]:
        """The sum over the rows of the camera's band, and over `frames` exposures, with the probe where it should be."""
        frames = _whole(args, "frames", 1, 100000)
        at = args.get("at")
        if at is not None:
            self._check_reference(args)
            self._need_probe(at)
        expose, image = self._prepare(args)
        started = self.clock()
        total = None
        for _ in range(frames):
            self.attend()
            summed = _summed(expose())
            total = summed if total is None else total + summed
        finished = self.clock()
        if at is not None:
            self._agree(*(self.probe or (math.nan, math.nan)), *self.where())
        head: Dict[str, Any] = {"started": started, "finished": finished}
        if args.get("tags") is True:  # they seldom change, and reading them takes longer than a short exposure
            head.update(tags=self._tags(image()), axis=self._axis(image()))
        return head, [np.asarray(total, dtype=np.float32)]

    def image(self, args: Dict[str, Any]) -> Tuple[Dict[str, Any], List[np.ndarray]]:
        """One camera image."""
        self.attend()
        expose, image = self._prepare(args)
        started = self.clock()
        data = expose().copy()
        head = {"started": started, "finished": self.clock(), "tags": self._tags(image())}
        head["axes"] = [self._axis(image(), 1), self._axis(image(), 0)]
        return head, [data]

    def visit(
        self, args: Dict[str, Any], points: np.ndarray, progress: Callable[[int], None]
    ) -> Tuple[Dict[str, Any], List[np.ndarray]]:
        """A spectrum at each of `points` (x, y), without a round trip in between; ends with the beam blanked and parked.

        What was recorded before something went wrong is given back, with the reason.
        """
        if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all() or not len(points):
            raise Refusal("bad", "Points are rows of x and y in pixels of the reference image.")
        if points.min() < 0 or points[:, 0].max() > self.shape[1] or points[:, 1].max() > self.shape[0]:
            raise Refusal("limit", "A point lies outside the scan field; nothing was recorded.")
        settle = _real(args, "settle_s", 0.0, 60.0)
        frames = _whole(args, "frames", 1, 1000)
        self._check_reference(args)
        blanker = bool(args.get("blank", True)) and self.is_blanked() is not None
        expose, image = self._prepare(args)
        spectra: List[np.ndarray] = []
        times: List[Tuple[float, float]] = []
        reason = code = ""
        try:
            for x, y in points.tolist():
                self.attend()
                self._place(x, y, settle)
                if blanker:
                    self.blank({"blanked": False})
                started = self.clock()
                total = _summed(expose())
                for _ in range(frames - 1):
                    self.attend()
                    total = total + _summed(expose())
                finished = self.clock()
                if blanker:
                    self.blank({"blanked": True})
                self._agree(x, y, *self.where())
                if (len(spectra) + 1) * total.shape[0] * 4 > LARGEST_REPLY:
                    raise Refusal("limit", "More spectra than fit one answer; ask for the other points separately.")
                spectra.append(np.asarray(total, dtype=np.float32))
                times.append((started, finished))
                progress(len(spectra))
        except Refusal as error:
            reason, code = str(error), error.code
        except Exception as error:  # what was recorded so far must not be lost with the exposure that failed
            reason, code = _sentence(error), "transient"
        finally:
            self.make_safe()
        head = {
            "done": len(spectra),
            "reason": reason,
            "code": code,
            "tags": self._tags(image()),
            "axis": self._axis(image()),
        }
        data = np.stack(spectra) if spectra else np.zeros((0, 0), dtype=np.float32)
        return head, [data, np.array(times, dtype=np.float64).reshape(-1, 2)]

    def _need_probe(self, at: Any) -> None:
        if self.probe is None:
            raise Refusal("parked", "The probe is parked; put it on a place before recording a spectrum.")
        if not isinstance(at, list) or len(at) != 2 or max(abs(a - p) for a, p in zip(at, self.probe)) > 1e-3:
            raise Refusal(
                "parked", "The probe is not where this spectrum was meant to be recorded; move it there first."
            )
        if time.monotonic() - self.placed > 0.2:  # it was looked at when it was put there, and is again afterwards
            self._agree(self.probe[0], self.probe[1], *self.where())

    def _check_reference(self, args: Dict[str, Any]) -> None:
        """Refuse places that were meant in another scan field than the present one."""
        self._need_reference()
        if args.get("ref") != self.geometry["ref"]:
            raise Refusal("fault", "The scan field was set up anew by another client; connect again.")
        if self._column("GetMagnification") != self.magnification:
            raise Refusal(
                "fault", "The magnification was changed at the microscope; connect again, so that places are right."
            )

    def _need_reference(self) -> int:
        if not self.references:
            raise Refusal("bad", "There is no reference scan yet; connect again.")
        return int(next(iter(self.references.values())).GetID())

    # -- energy filter

    def energy_getter(self) -> str:
        """The function that says the energy loss; its name differs from filter to filter."""
        return next((name for name in ("IFGetEnergyLoss", "IFGetEnergyOffset") if self.exists(name)), "")

    def filter(self, _args: Dict[str, Any]) -> Dict[str, Any]:
        """Energy loss in eV and index of the dispersion, as far as this filter says."""
        getter = self.energy_getter()
        if not getter:
            raise Refusal("missing", "This GMS knows no energy filter.")
        zero = "0" if getter == "IFGetEnergyOffset" else ""
        index = self.ask("IFCGetActiveDispersion()")[0] if self.exists("IFCGetActiveDispersion") else None
        eels = bool(self.ask("IFIsInEELSMode()")[0]) if self.exists("IFIsInEELSMode") else None
        return {"energy_ev": self.ask("%s(%s)" % (getter, zero))[0], "dispersion_index": index, "eels_mode": eels}

    def set_energy(self, args: Dict[str, Any]) -> Dict[str, Any]:
        """Set the energy loss and wait for the filter."""
        value = _real(args, "energy_ev", -5000.0, 10000.0)
        setter = next((name for name in ("IFSetEnergyLoss", "IFSetEnergyOffset") if self.exists(name)), "")
        if not setter:
            raise Refusal("missing", "This GMS knows no energy filter that can be set.")
        try:
            self.run("%s(%s%r)" % (setter, "0, " if setter == "IFSetEnergyOffset" else "", value))
        except Exception as error:
            raise Refusal(
                "limit", "The filter refused an energy loss of %g eV (%s)." % (value, _text(error).rstrip("."))
            )
        if self.exists("IFWaitForFilter"):
            self.run("IFWaitForFilter()")
        return self.filter({})

    def set_dispersion(self, args: Dict[str, Any]) -> Dict[str, Any]:
        """Choose a dispersion by its index, where the laboratory allows it."""
        if not ALLOW_DISPERSION or not self.exists("IFCSetActiveDispersions"):
            raise Refusal(
                "missing", "The dispersion cannot be set here; choose it in GMS (or see ALLOW_DISPERSION in server.py)."
            )
        self.run("IFCSetActiveDispersions(%d)" % _whole(args, "index", 0, 100))
        return self.filter({})

    # -- stage

    AXES = (("x", 1), ("y", 2), ("z", 4), ("alpha", 8), ("beta", 16))

    def stage(self, _args: Dict[str, Any]) -> Dict[str, Any]:
        """Stage position in um and degrees; axes the holder lacks are left out."""
        found = {name: _number(self._column("GetStage" + name.capitalize())) for name, _ in self.AXES}
        return {name: value for name, value in found.items() if value is not None}

    def move_stage(self, args: Dict[str, Any]) -> Dict[str, Any]:
        """Move some axes, in um and degrees, in one command."""
        if not ALLOW_STAGE:
            raise Refusal("missing", "The stage may not be moved from here (see ALLOW_STAGE in server.py).")
        present, flags, values = self.stage({}), 0, []
        unknown = [name for name in args if name not in present]
        if unknown or not args:
            raise Refusal(
                "bad", "The stage has no axis %s; it has %s." % (", ".join(map(repr, unknown)), ", ".join(present))
            )
        for name, flag in self.AXES:
            flags |= flag if name in args else 0
            values.append(_real(args, name, -5000.0, 5000.0) if name in args else 0.0)
        self.column.SetStagePositions(flags, *values)
        return self.stage({})

    # -- tags

    def tags(self, _args: Dict[str, Any]) -> Dict[str, Any]:
        """What GMS wrote into the reference image."""
        self._need_reference()
        return {"tags": self._tags(next(iter(self.references.values())))}

    def _tags(self, image: Any) -> Dict[str, Any]:
        found: Dict[str, Any] = {}
        group = image.GetTagGroup()
        for tag in KEPT_TAGS:
            there, value = group.GetTagAsFloat(tag)
            if there:
                found[tag] = _plain(value)
                continue
            there, value = group.GetTagAsText(tag)
            if there:
                found[tag] = _text(value)
        return found

    def _axis(self, image: Any, dimension: int = 0) -> List[Any]:
        origin, scale, unit = image.GetDimensionCalibration(dimension, 0)
        return [float(origin), float(scale), _text(unit)]


FILTER_FUNCTIONS = ("IFSetEnergyLoss", "IFSetEnergyOffset", "IFGetEnergyLoss", "IFGetEnergyOffset", "IFWaitForFilter",
                    "IFCGetActiveDispersion", "IFCSetActiveDispersions", "IFIsInEELSMode")  # fmt: skip
"""Which of them GMS knows depends on the model of the filter; it does not tell the model itself."""

KEPT_TAGS = tuple(
    "DigiScan:" + name
    for name in ("Sample Time (us)", "Rotation", "Rotation Offset", "Flip", "Flyback", "Image Width", "Image Height", "Zoom factor",
                 "Horizontal Spacing", "Signal Index")
) + tuple(
    "Microscope Info:" + name
    for name in ("Voltage", "Indicated Magnification", "Field of View (µm)", "STEM Camera Length", "Operation Mode",
                 "Illumination Mode", "Imaging Mode")
) + tuple(
    "EELS Spectrometer:" + name
    for name in ("Dispersion (eV/ch)", "Dispersion index", "Energy loss (eV)", "Drift tube voltage (V)", "Prism offset (V)",
                 "Slit inserted", "Aperture label", "Instrument name")
) + (
    "EELS:Acquisition:Exposure (s)",
    "EELS:Experimental Conditions:Collection semi-angle (mrad)",
    "EELS:Experimental Conditions:Convergence semi-angle (mrad)",
    "Acquisition:Device:Name",
)  # fmt: skip


def _pixels(image: Any) -> np.ndarray:
    """A copy of an image's pixels: the view itself dies with the image."""
    pixels: np.ndarray = image.GetNumArray().copy()
    return pixels


def _summed(rows: np.ndarray) -> np.ndarray:
    """The sum over the rows of a band, exact for whole numbers; quicker where 32 bits suffice for it, as they mostly do."""
    total: np.ndarray
    if rows.dtype == np.int32 and max(-int(rows.min()), int(rows.max())) * len(rows) < 1 << 31:
        total = np.add.reduce(rows, axis=0, dtype=np.int32).astype(np.int64)
    elif len(rows) == 1:
        total = rows[0].copy()
    else:
        total = rows.sum(axis=0)
    return total


def _nothing() -> None:
    """Attend to nobody."""


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _number(value: Any) -> Optional[float]:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _plain(value: Any) -> Any:
    return _number(value) if isinstance(value, (int, float)) else None if value is None else _text(value)


def _sentence(error: BaseException) -> str:
    return "DigitalMicrograph failed: %s." % (" ".join(_text(error).split()).rstrip(".")[:300] or type(error).__name__)


def _real(args: Dict[str, Any], name: str, low: float, high: float) -> float:
    value = args.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise Refusal("bad", "%s must be a finite number." % name)
    if not low <= value <= high:
        raise Refusal(
            "limit", "%s of %g is outside what is possible here, %g to %g; nothing was done." % (name, value, low, high)
        )
    return float(value)


def _whole(args: Dict[str, Any], name: str, low: int, high: int) -> int:
    value = _real(args, name, low, high)
    if value != int(value):
        raise Refusal("bad", "%s must be a whole number." % name)
    return int(value)


# --- sessions and threads -----------------------------------------------------------------------------------------------


class Job:
    """One command on its way through the owner thread."""

    def __init__(
        self, session: Session, number: int, verb: str, args: Dict[str, Any], arrays: List[np.ndarray]
    ) -> None:
        self.session, self.number, self.verb, self.args, self.arrays = session, number, verb, args, arrays
        self.pending = threading.Lock()  # held until the answer is there; quicker than an Event
        self.pending.acquire()
        self.connection: Optional[Connection] = None
        self.cancelled = False
        self.steps = 0
        self.reply: List[Any] = []
        self.sent = 0


class Session:
    """A client, over all its connections: what it asked last, so that a lost answer can be given again and nothing runs twice."""

    def __init__(self) -> None:
        self.jobs: Dict[int, Job] = collections.OrderedDict()
        self.connections = 0
        self.heard = time.monotonic()
        self.using_beam = False


DIRECT = ("ping", "cancel", "outcome", "goodbye")
URGENT = ("blank", "park", "live", "blanked", "probe_at")
OTHERS = ("describe", "reference", "scan", "move_probe", "spectrum", "image", "visit", "filter", "set_energy", "set_dispersion",
          "stage", "move_stage", "optics", "tags")  # fmt: skip
COMMANDS = frozenset(URGENT + OTHERS)
VERBS = frozenset(DIRECT) | COMMANDS


class Bridge:
    """The server: one thread per connection, one owner thread (`serve`) for the microscope.

    Parameters
    ----------
    dm, clock
        See `Microscope`.
    host, port, token : str, int, str
        See the top of this file.
    virtual_time : bool
        True for a simulation whose clock is not that of this computer.
    """

    def __init__(
        self,
        dm: Any,
        host: str = HOST,
        *,
        port: int = PORT,
        token: str = TOKEN,
        clock: Callable[[], float] = time.monotonic,
        virtual_time: bool = False,
    ) -> None:
        if host not in ("127.0.0.1", "::1", "localhost") and len(token) < 16:
            raise ValueError("To listen beyond this computer, give a TOKEN of your own of 16 characters or more.")
        self.token = token or "t-" + secrets.token_urlsafe(18)
        self.dm = dm
        self.clock = clock
        self.virtual_time = virtual_time
        self.boot = secrets.token_hex(8)
        self.stopping = threading.Event()
        self.queue: Any = queue.SimpleQueue()
        self.urgent: Any = collections.deque()
        self.lock = threading.Lock()
        self.sessions: Dict[str, Session] = {}
        self.connections = 0
        self.running: Optional[Job] = None
        self.owner: Optional[threading.Thread] = None
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows: nobody may take the port over
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.listener.bind((host, port))
            self.listener.listen(MOST_CONNECTIONS)
        except OSError:
            self.listener.close()
            raise
        self.listener.settimeout(0.1)
        self.address = "tcp://%s:%d" % (host, self.listener.getsockname()[1])

    # -- the owner thread

    def serve(self, ready: Optional[Callable[[], None]] = None) -> None:
        """Carry out commands until `stop`; call it on the thread that may call DM."""
        self.owner = threading.current_thread()
        self.microscope = Microscope(self.dm, self.clock)
        self.microscope.attend = self._attend
        on_main = bool(self.microscope._or_none(self.dm, "IsScriptOnMainThread"))
        listening = threading.Thread(target=self._listen, name="smarttem-listen", daemon=True)
        listening.start()
        if ready is not None:
            ready()
        looked = time.monotonic()
        lent: Optional[Connection] = None
        try:
            while not self.stopping.is_set():
                job = None
                if lent is not None:
                    job = self._next_of(lent)
                    if job is None:
                        lent.lent.release()
                        lent = None
                if job is None:
                    try:
                        job = self.queue.get(timeout=0.02 if on_main else 0.2)
                    except queue.Empty:
                        job = None
                if on_main:
                    self.dm.DoEvents()
                self._run_urgent()
                if job is not None:
                    lent = self._run(job)
                    job = None  # its arrays are not kept until the next one
                    if lent is not None and not self.queue.empty():  # somebody else waits
                        lent.lent.release()
                        lent = None
                if time.monotonic() - looked > 0.5:
                    looked = time.monotonic()
                    self._look_after()
        finally:
            self.stopping.set()
            self.listener.close()
            self.microscope.let_go()
            listening.join(2.0)

    def stop(self) -> None:
        """End `serve`, from any thread."""
        self.stopping.set()
        self.queue.put(None)

    def _look_after(self) -> None:
        """Make safe what a client left behind that fell silent; see whether the operator wants this script to end."""
        now = time.monotonic()
        with self.lock:
            lost = [
                s for s in self.sessions.values() if s.using_beam and (not s.connections or now - s.heard > SILENCE_S)
            ]
            for name in [n for n, s in self.sessions.items() if not s.connections and now - s.heard > 600.0]:
                del self.sessions[name]
        for session in lost:
            session.using_beam = False
            for sentence in self.microscope.make_safe():
                print("smarttem: " + sentence)
        there, value = self.dm.GetPersistentTagGroup().GetTagAsBoolean(STOP_TAG)
        if there and value:
            self.dm.GetPersistentTagGroup().DeleteTagWithLabel(STOP_TAG)
            self.stopping.set()

    def _run_urgent(self) -> None:
        while self.urgent:
            job = self.urgent.popleft()
            batch = self.running
            if batch is not None and batch.verb == "visit" and (job.verb == "park" or job.args.get("blanked") is True):
                batch.cancelled = True  # or it would put the beam on again at its next point
            connection = self._run(job)
            if connection is not None:
                connection.lent.release()

    def _next_of(self, connection: Connection) -> Optional[Job]:
        """The next command of a client that was answered just now, where it comes at once."""
        found = connection.request_at_once()
        if found is None:
            return None
        assert connection.job is not None
        header, arrays = found
        session = connection.job.session
        session.heard = time.monotonic()
        job, new = self._take(session, header["id"], header["verb"], header.get("args", {}), arrays)
        connection.job, connection.again = job, not new
        if not new:  # the helper thread gives the answer there is, or waits for it
            return None
        job.connection = connection
        return job

    def _attend(self) -> None:
        """Between two pieces of a long command: do what cannot wait, and break off where that was asked for."""
        self._run_urgent()
        job = self.running
        if job is not None and job.cancelled:
            raise Refusal("cancelled", "Stopped as asked.")
        if job is not None and not job.session.connections and time.monotonic() - job.session.heard > SILENCE_S:
            raise Refusal("cancelled", "The client has gone.")
        if self.stopping.is_set():
            raise Refusal("fault", "The server is being stopped.")

    def _run(self, job: Job) -> Optional[Connection]:
        """Carry a command out and answer it; gives its connection where nothing is left for the helper thread to send."""
        outer, self.running = self.running, job if job.verb not in URGENT else self.running
        header: Dict[str, Any] = {"id": job.number}
        arrays: List[np.ndarray] = []
        try:
            if job.cancelled:
                raise Refusal("cancelled", "Stopped before it began.")
            if job.verb in ("move_probe", "visit", "scan") or job.args.get("blanked") is False:
                job.session.using_beam = True
            action = getattr(self.microscope, job.verb)
            if job.verb == "visit":
                result = action(
                    job.args, job.arrays[0] if job.arrays else np.zeros((0, 2)), lambda n: setattr(job, "steps", n)
                )
            else:
                result = action(job.args)
            header["result"], arrays = result if isinstance(result, tuple) else (result, [])
            header["ok"] = True
        except Refusal as error:
            header.update(ok=False, code=error.code, error=str(error))
        except Exception as error:  # whatever DM raises becomes a sentence; the server lives on
            header.update(ok=False, code="transient", error=_sentence(error))
        finally:
            self.running = outer
        header["clock"] = self.clock()
        try:
            job.reply = _done(job.number, header["clock"]) if header.get("result") == {} else pack(header, arrays)
        except ValueError:
            job.reply = pack(
                {
                    "id": job.number,
                    "ok": False,
                    "code": "fault",
                    "error": "An answer held numbers that are not finite.",
                },
                [],
            )
        job.arrays = []
        connection = job.connection
        if connection is not None and len(job.reply) == 1:
            job.sent = connection.send_at_once(job.reply[0])
        job.pending.release()
        if connection is not None and job.sent < len(job.reply[0]):
            connection.lent.release()
            return None
        return connection

    # -- helper threads

    def _listen(self) -> None:
        while not self.stopping.is_set():
            try:
                sock, _ = self.listener.accept()
            except socket.timeout:
                continue
            except OSError:
                return
            with self.lock:
                full = self.connections >= MOST_CONNECTIONS
                self.connections += 0 if full else 1
            if full:
                sock.close()
            else:
                threading.Thread(target=self._talk, args=(sock,), name="smarttem-client", daemon=True).start()

    def _talk(self, sock: socket.socket) -> None:
        session = None
        try:
            connection = Connection(sock, self.stopping)
            session = self._login(connection)
            while not self.stopping.is_set():
                header, arrays = connection.receive(HEADER_CAP, BODY_CAP, 3600.0, FRAME_S)
                session.heard = time.monotonic()
                if not self._answer(connection, session, header, arrays):
                    break
        except WireError:
            return  # the `finally` below is what matters: whoever went away leaves nothing behind
        finally:
            sock.close()
            with self.lock:
                self.connections -= 1
                if session is not None:
                    session.connections -= 1
                    session.heard = time.monotonic()

    def _login(self, connection: Connection) -> Session:
        nonce = secrets.token_hex(16)
        connection.send(pack({"protocol": PROTOCOL, "boot": self.boot, "nonce": nonce}, []))
        header, _ = connection.receive(LOGIN_CAP, 0, LOGIN_S, LOGIN_S)
        theirs, shown, name = header.get("nonce"), header.get("proof"), header.get("session")
        right = proof(self.token, "client", nonce, theirs if isinstance(theirs, str) else "")
        # One comparison in constant time, and one sentence, whatever was wrong.
        known = hmac.compare_digest(
            right.encode(), (shown if isinstance(shown, str) else "").encode("utf-8", "replace")
        )
        if not (
            known
            and isinstance(theirs, str)
            and isinstance(name, str)
            and 8 <= len(name) <= 64
            and header.get("protocol") == PROTOCOL
        ):
            connection.send(
                pack({"ok": False, "code": "login", "error": "The token is not the one this server printed."}, [])
            )
            raise WireError("not logged in")
        with self.lock:
            if name not in self.sessions and len(self.sessions) >= MOST_SESSIONS:
                idle = [n for n, s in self.sessions.items() if not s.connections]
                if not idle:
                    raise WireError("too many sessions")
                del self.sessions[min(idle, key=lambda n: self.sessions[n].heard)]
            session = self.sessions.setdefault(name, Session())
            session.connections += 1
            session.heard = time.monotonic()
        virtual = {"virtual_time": True} if self.virtual_time else {}
        connection.send(
            pack(
                dict(
                    {"ok": True, "proof": proof(self.token, "server", nonce, theirs), "clock": self.clock()}, **virtual
                ),
                [],
            )
        )
        return session

    def _answer(
        self, connection: Connection, session: Session, header: Dict[str, Any], arrays: List[np.ndarray]
    ) -> bool:
        """Deal with one request; False where it was a good-bye."""
        number, verb, args = header.get("id"), header.get("verb"), header.get("args", {})
        if type(number) is not int or not isinstance(args, dict) or not isinstance(verb, str):
            raise WireError("not a request")
        if verb not in VERBS:
            connection.send(
                pack(
                    {"id": number, "ok": False, "code": "bad", "error": "This server knows no command %r." % verb[:40]},
                    [],
                )
            )
            return True
        if verb == "outcome":
            return self._outcome(connection, session, number, args)
        if verb in DIRECT:
            if verb == "cancel":
                for job in list(session.jobs.values()):
                    job.cancelled = job.cancelled or job.number == args.get("job")
            connection.send(pack({"id": number, "ok": True, "result": {}, "clock": self.clock()}, []))
            return verb != "goodbye"
        job, new = self._take(session, number, verb, args, arrays)
        if not new:
            self._deliver(connection, job)
            return True
        connection.lent.acquire()
        connection.job, connection.again = job, False
        job.connection = connection
        if verb in URGENT:
            self.urgent.append(job)
            self.queue.put(None)
        else:
            self.queue.put(job)
        self._wait_for_owner(connection)
        return True

    def _take(
        self, session: Session, number: int, verb: str, args: Dict[str, Any], arrays: List[np.ndarray]
    ) -> Tuple[Job, bool]:
        """The job that a request asks for, and whether it is a new one."""
        with self.lock:
            earlier = session.jobs.get(number) if verb not in URGENT else None
            if earlier is not None:
                return earlier, False
            job = Job(session, number, verb, args, arrays)
            if verb not in URGENT:  # those may be done twice
                session.jobs[number] = job
                while len(session.jobs) > REPLIES_KEPT:
                    oldest = next(iter(session.jobs))
                    if session.jobs[oldest].pending.locked():
                        break
                    del session.jobs[oldest]
            return job, True

    def _wait_for_owner(self, connection: Connection) -> None:
        """Until the owner thread gives the connection back; tells the client meanwhile that its command is in work."""
        while not connection.lent.acquire(True, BEAT_S):
            if self.stopping.is_set():
                raise WireError("stopping")
            job = connection.job
            if job is not None and job.pending.locked():
                connection.send(pack({"id": job.number, "alive": True, "steps": job.steps}, []))
        connection.lent.release()
        job, connection.job = connection.job, None
        assert job is not None
        if connection.again:  # what the owner met last had been asked before
            self._deliver(connection, job)
        else:
            pieces = job.reply
            connection.send([memoryview(pieces[0])[job.sent :]] if job.sent else pieces)

    def _deliver(self, connection: Connection, job: Job) -> None:
        """The answer to a command that was asked before, as soon as it is there."""
        while not job.pending.acquire(True, BEAT_S):
            if self.stopping.is_set():
                raise WireError("stopping")
            connection.send(pack({"id": job.number, "alive": True, "steps": job.steps}, []))
        job.pending.release()  # for whoever asks again
        connection.send(job.reply)

    def _outcome(self, connection: Connection, session: Session, number: int, args: Dict[str, Any]) -> bool:
        """What became of an earlier request whose answer was lost: the answer, or that it never arrived."""
        job = session.jobs.get(args.get("job", -1))
        if job is None:
            connection.send(pack({"id": number, "ok": True, "result": {"known": False}, "clock": self.clock()}, []))
        else:
            connection.send(pack({"id": number, "ok": True, "result": {"known": True}, "clock": self.clock()}, []))
            self._deliver(connection, job)
        return True


def main(dm: Any) -> None:
    """Run until stopped; says on the output window what to paste where."""
    bridge = Bridge(dm)
    print("smarttem: address  %s" % bridge.address)
    print("smarttem: token    %s" % bridge.token)
    print(
        "smarttem: paste both into the Instrument dock (backend digitalmicrograph). This window shows no more until it ends."
    )
    bridge.serve()
    print("smarttem: stopped; the beam is parked.")


try:
    import DigitalMicrograph  # type: ignore[import-not-found]
except ImportError:
    DigitalMicrograph = None

if DigitalMicrograph is not None and "napari_smarttem" not in __name__:
    main(DigitalMicrograph)
