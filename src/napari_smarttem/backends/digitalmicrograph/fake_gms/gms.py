"""The fake ``DigitalMicrograph`` module, put together: harder on its users than the real one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from .digiscan import DigiScan
from .hardware import Camera, Column, EnergyFilter
from .images import Image, Images, TagGroup
from .script import Interpreter, ScriptError, Variable
from .world import World

MODELS = {
    "GIF": frozenset(
        {"ifsetenergyloss", "ifgetenergyloss", "ifwaitforfilter", "ifcgetactivedispersion", "ifisineelsmode"}
    ),
    "GIF with settable dispersion": frozenset(
        {
            "ifsetenergyloss",
            "ifgetenergyloss",
            "ifwaitforfilter",
            "ifcgetactivedispersion",
            "ifcsetactivedispersions",
            "ifisineelsmode",
        }
    ),
    "offset only": frozenset({"ifsetenergyoffset", "ifgetenergyoffset", "ifwaitforfilter"}),
    "no filter": frozenset(),
}
"""Filter functions by model: names differ, and some are not there at all."""


class FakeGMS:
    """Has the functions of Python's ``DigitalMicrograph`` module, and counts what is done wrong.

    Parameters
    ----------
    world : World
    model : str
        One of `MODELS`.
    arguments : {"five", "six", "absent"}
        What ``DS_CreateParameters`` takes: revisions of GMS differ.
    blanker : bool
    one_thread : bool
        True: only the thread that calls first may ever call; any other raises.
    rotation_offset, zoom, flip
        Of DigiScan.

    Attributes
    ----------
    violations : list of str
        Calls from two threads at once, or from a wrong thread.
    calls : Counter
        How often each function was called.
    """

    def __init__(
        self, world: World, *, model: str = "GIF", arguments: str = "five", blanker: bool = True, one_thread: bool = True,
        rotation_offset: float = 180.0, zoom: float = 0.7, flip: bool = False, on_main_thread: bool = False,
    ) -> None:  # fmt: skip
        self.world = world
        self.model = model
        self.arguments = arguments
        self.one_thread = one_thread
        self.on_main_thread = on_main_thread
        self.images = Images()
        self.persistent = TagGroup()
        self.digiscan = DigiScan(world, self.images, zoom=zoom, rotation_offset=rotation_offset, flip=flip)
        self.filter = EnergyFilter(world)
        self.camera: Camera | None = Camera(world, self.images, self.filter)
        self.column = Column(world, blanker=blanker)
        self.violations: list[str] = []
        self.calls: Counter[str] = Counter()
        self.before_call: Callable[[str], None] | None = None
        """Called with the name of every function before it does anything: an operator who interferes, a fault."""
        self._owner: int | None = None
        self._busy = threading.Lock()
        self._script = Interpreter(self._functions(), frozenset({"dsgetbeamdsposition", "dscalcimagecoordfromds"}))

    # -- who calls

    def _enter(self, name: str) -> None:
        self.calls[name] += 1
        me = threading.get_ident()
        if self._owner is None:
            self._owner = me
        if me != self._owner and self.one_thread:
            self.violations.append(f"{name} from a second thread")
            raise RuntimeError("DigitalMicrograph was called from a wrong thread.")
        if not self._busy.acquire(blocking=False):
            self.violations.append(f"{name} while another call was going on")
        else:
            self._busy.release()
        if self.before_call is not None:
            self.before_call(name)

    def free_the_thread(self) -> None:
        """A new script may run on another thread."""
        self._owner = None

    def leaks(self) -> dict[str, int]:
        """What is still there: images, parameter sets, persistent tags."""
        return {
            "images": len(self.images),
            "parameters": len(self.digiscan.parameters),
            "tags": len(self.persistent.tags),
        }

    # -- the module's functions

    def GetPersistentTagGroup(self) -> TagGroup:
        """Tags that outlive GMS."""
        self._enter("GetPersistentTagGroup")
        return self.persistent

    def ExecuteScriptString(self, script: str) -> None:
        """Execute DM-script; gives nothing back."""
        self._enter("ExecuteScriptString")
        with self._busy:
            self._script.execute(script)

    def CreateImage(self, data: np.ndarray) -> Image:
        """An image that is not shown."""
        self._enter("CreateImage")
        if not data.flags.c_contiguous:
            raise RuntimeError("The array is not contiguous.")
        return self.images.add(data)

    def FindImageByID(self, number: int) -> Image:
        """The image with this number."""
        self._enter("FindImageByID")
        return self.images.find(number)

    def DS_CreateParameters(self, *arguments: float) -> int:
        """Five arguments, or six in another order, or not there, as `arguments` says."""
        self._enter("DS_CreateParameters")
        if self.arguments == "absent":
            raise AttributeError("module 'DigitalMicrograph' has no attribute 'DS_CreateParameters'")
        if len(arguments) != (5 if self.arguments == "five" else 6):
            raise TypeError("Python argument types did not match C++ signature")
        width, height, rotation, dwell_us = (
            arguments[:4] if len(arguments) == 5 else (*arguments[1::-1], *arguments[3:5])
        )
        return self.digiscan.create(width, height, rotation, dwell_us)

    def DS_SetParametersSignal(
        self,
        number: int,
        signalIndex: int,
        dataType: int,
        selected: bool,
        imageID: int,
    ) -> bool:
        """Put a signal into a parameter set."""
        self._enter("DS_SetParametersSignal")
        return self.digiscan.add_signal(number, signalIndex, dataType, selected, imageID)

    def DS_StartAcquisition(self, number: int, continuous: bool, synchronous: bool) -> None:
        """Start a frame."""
        self._enter("DS_StartAcquisition")
        if continuous and synchronous:
            raise RuntimeError("GMS would hang for ever here.")
        self.digiscan.start(number)
        if synchronous:
            self._until_scanned()

    def DS_DeleteParameters(self, number: int) -> None:
        """Forget a parameter set."""
        self._enter("DS_DeleteParameters")
        self.digiscan._of(number)
        del self.digiscan.parameters[int(number)]

    def DS_GetScanControl(self) -> bool:
        """Take the beam; DigiScan loses it again with its next scan."""
        self._enter("DS_GetScanControl")
        self.digiscan.set_control(1)
        return True

    def DS_MoveBeamTo(self, dsx: float, dsy: float) -> None:
        """In DigiScan's units; nothing happens, and nothing is said, where DigiScan has not the beam."""
        self._enter("DS_MoveBeamTo")
        self.digiscan.set_ds(dsx, dsy)

    def DS_GetBeamDSPosition(self) -> tuple[float, float]:
        """In DigiScan's units."""
        self._enter("DS_GetBeamDSPosition")
        return self.digiscan.beam

    def DS_IsAcquisitionActive(self) -> bool:
        """Whether a scan is under way."""
        self._enter("DS_IsAcquisitionActive")
        return self.digiscan.is_active()

    def GetActiveCamera(self) -> Camera:
        """The camera; raises where none is active."""
        self._enter("GetActiveCamera")
        if self.camera is None:
            raise RuntimeError("No active camera.")
        return self.camera

    def Py_Microscope(self) -> Column:
        """The column."""
        self._enter("Py_Microscope")
        return self.column

    def IsScriptOnMainThread(self) -> bool:
        """Whether GMS waits for this script."""
        self._enter("IsScriptOnMainThread")
        return self.on_main_thread

    def DoEvents(self) -> None:
        """Let GMS breathe."""
        self._enter("DoEvents")

    def Sleep(self, seconds: float) -> None:
        """Wait."""
        self._enter("Sleep")
        self.world.sleep(seconds)

    # -- DM-script

    def _functions(self) -> dict[str, Callable[..., Any]]:
        scan, energy = self.digiscan, self.filter
        names = self.world.signals
        known: dict[str, Callable[..., Any]] = {
            "getpersistenttaggroup": lambda: self.persistent,
            "taggroupsettagasfloat": lambda tags, path, value: tags.SetTagAsFloat(path, float(value)),
            "taggroupsettagasstring": lambda tags, path, value: tags.SetTagAsString(path, value),
            "taggroupsettagasboolean": lambda tags, path, value: tags.SetTagAsBoolean(path, bool(value)),
            "doesfunctionexist": lambda name: float(name.lower() in self._script.functions),
            "findimagebyid": self.images.find,
            "delay": lambda ticks: self.world.sleep(ticks / 60),
            "dscountsignals": lambda: float(len(names)),
            "dsgetsignalname": lambda index: names[int(index)],
            "dsgetflybacktime": lambda: scan.flyback_us,
            "dsgetminpixeltime": lambda _depth, _signals: scan.shortest_us,
            "dsgetrotationoffset": lambda: scan.rotation_offset,
            "dshasscancontrol": lambda: float(scan.control),
            "dssetscancontrol": scan.set_control,
            "dsisvaliddsimage": lambda image: float(image.GetTagGroup().GetTagAsFloat("DigiScan:Image Height")[0]),
            "dsisacquisitionactive": lambda: float(scan.is_active()),
            "dsstopacquisition": lambda _number: scan.stop(),
            "dscreateparameters": lambda w, h, rotation, us, _sync: float(scan.create(w, h, rotation, us)),
            "dsscansubregion": self._scan_part,
            "dspositionbeam": scan.position,
            "dsgetbeamdsposition": self._beam,
            "dssetbeamdsposition": scan.set_ds,
            "dscalcimagecoordfromds": self._to_pixel,
            "dssetbeamtosafeposition": scan.park,
            "emsetbeamblanked": lambda blanked: self.column.SetBeamBlanked(bool(blanked)),
            "emgetmagnification": self.column.GetMagnification,
            "emgethightension": self.column.GetHighTension,
        }
        filter_functions: dict[str, Callable[..., Any]] = {
            "ifsetenergyloss": energy.set_energy,
            "ifgetenergyloss": lambda *_: energy.energy_ev,
            "ifsetenergyoffset": lambda _which, value: energy.set_energy(value),
            "ifgetenergyoffset": lambda _which: energy.energy_ev,
            "ifwaitforfilter": energy.wait,
            "ifcgetactivedispersion": lambda: float(energy.index),
            "ifcsetactivedispersions": self._set_dispersion,
            "ifisineelsmode": lambda: float(energy.eels_mode),
        }
        return known | {name: f for name, f in filter_functions.items() if name in MODELS[self.model]}

    def _set_dispersion(self, index: float) -> None:
        if int(index) not in self.filter.dispersions:
            raise ScriptError("Unknown dispersion.")
        self.filter.index = int(index)

    def _scan_part(
        self, ref: Image, target: Image, top: float, left: float, bottom: float, right: float, us: float
    ) -> None:
        self.digiscan.start_part(ref, target, (top, left, bottom, right), us)
        self._until_scanned()  # "the function returns after the data has completely been acquired"

    def _until_scanned(self) -> None:
        while self.digiscan.is_active():
            scan = self.digiscan.active
            assert scan is not None
            self.world.sleep(max(1e-4, min(0.02, scan.started_s + scan.duration_s - self.world.now_s())))

    def _beam(self, x: Variable, y: Variable) -> None:
        x.value, y.value = self.digiscan.beam

    def _to_pixel(self, ref: Image, dsx: Any, dsy: Any, px: Variable, py: Variable) -> None:
        values = [v.value if isinstance(v, Variable) else v for v in (dsx, dsy)]
        if isinstance(ref, Variable):
            ref = ref.value
        px.value, py.value = self.digiscan.geometry_of(ref).to_pixel(values[0], values[1])
