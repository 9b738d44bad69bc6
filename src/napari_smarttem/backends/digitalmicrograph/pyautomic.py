"""Talks to the published ``array.server`` (Pyro5) as it is installed in a laboratory, faults included; nothing is changed there.

That server scans square frames of one detector, sets the beam, exposes a fixed band of the camera and sets the energy loss. It
has no calibration, no blanker, no stage and no way to park, and one revision takes beam positions in pixels while others take
them in DigiScan's own units: two moves of a pixel show which. Turned columns (a rotation offset of 180 degrees) see every
position reflected through the middle: that has to be said once (``flip``), by looking where the beam is.

Needs the package Pyro5. The server needs the beam to be given to DigiScan before each move, as it loses it with every scan,
and forgets the camera with every connection; both are taken care of.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import JsonValue

from ...schema import (
    BadInput,
    Cancelled,
    Field2D,
    Frame,
    InstrumentFault,
    InstrumentInfo,
    LimitExceeded,
    PlanContext,
    image_frame,
    spectrum_frame,
)
from ..base import CancelToken

CHANNELS = 2048
SIDE = 32768.0
SIZES = (32, 64, 128, 256, 512, 1024, 2048)
NEEDED = ("get_ds", "get_beam_control", "get_beam_pos", "set_beam_pos", "activate_camera", "acquire_camera", "get_eels")


def connect(
    address: str = "PYRO:array.server@127.0.0.1:9091",
    *,
    field_nm: float,
    dispersion_ev: float,
    zero_loss_channel: float = 0.0,
    flip: bool | None = None,
    consent: bool = False,
    zoom: float = 1.0,
    energy_range_ev: tuple[float, float] = (-100.0, 2000.0),
    beam_current_pa: float | None = None,
    longest_frame_s: float = 1.0,
    timeout_s: float = 60.0,
) -> PyAutoMic:
    """Use a published pyAutoMic server that is already installed in GMS, unchanged.

    Parameters
    ----------
    address : str
        The URI the server printed.
    field_nm : float
        Side of the scan field, from GMS's scale bar: this server gives no calibration.
    dispersion_ev, zero_loss_channel : float
        The energy axis.
    flip : bool
        Whether positions are reflected through the middle of the field. Look once: put the beam near a corner and see.
    consent : bool
        True: on connecting, a scan of 64 x 64 pixels and three moves of the beam may be made, with a valve closed or over a
        part of the specimen that does not matter.
    zoom : float
        DigiScan's zoom, used where the server takes raw positions.
    energy_range_ev : (float, float)
        Smallest and largest energy offset.
    beam_current_pa : float, optional
        For counting the dose.
    longest_frame_s : float
        Longer exposures are sums of several.
    timeout_s : float
        For one call; scans take as long as they take.
    """
    if flip is None:
        raise BadInput(
            "Say flip=True or flip=False: whether this column turns DigiScan's positions by 180 degrees. Put the beam near "
            "the upper left corner once; if it appears at the lower right, it does."
        )
    if not consent:
        raise BadInput(
            "On connecting, this backend scans 64 x 64 pixels and moves the beam three times to learn how the server takes "
            "positions; close the valve or choose a place that does not matter, and connect with consent=True."
        )
    settings: dict[str, JsonValue] = {
        "address": address, "field_nm": float(field_nm), "dispersion_ev": float(dispersion_ev),
        "zero_loss_channel": float(zero_loss_channel), "flip": bool(flip), "consent": True, "zoom": float(zoom),
        "energy_range_ev": [float(energy_range_ev[0]), float(energy_range_ev[1])], "beam_current_pa": beam_current_pa,
        "longest_frame_s": float(longest_frame_s), "timeout_s": float(timeout_s),
    }  # fmt: skip
    return PyAutoMic(lambda: open_proxy(address, timeout_s), settings)


def open_proxy(address: str, timeout_s: float) -> Any:
    """A Pyro5 proxy, connected; the thread that calls it first owns it."""
    pyro = importlib.import_module("Pyro5.api")
    proxy = pyro.Proxy(address)
    proxy._pyroTimeout = timeout_s
    proxy._pyroBind()
    return proxy


class PyAutoMic:
    """Scanner and spectrometer on the published server.

    Parameters
    ----------
    dial : callable
        Gives a connected proxy; called again where the connection broke.
    settings : dict
        Those of `connect`.

    Attributes
    ----------
    raw : bool
        True where the server takes positions in DigiScan's units, False where in pixels of the last scan.
    """

    def __init__(self, dial: Callable[[], Any], settings: dict[str, JsonValue]) -> None:
        self._dial, self._settings = dial, settings
        self._field_nm = _positive(settings, "field_nm")
        self._dispersion = _positive(settings, "dispersion_ev")
        self._zoom = _positive(settings, "zoom")
        self._longest_s = _positive(settings, "longest_frame_s")
        current = settings["beam_current_pa"]
        self.beam_current_pa = None if current is None else float(str(current))
        self._sign = -1.0 if settings["flip"] else 1.0
        limits = settings["energy_range_ev"]
        if not isinstance(limits, list) or len(limits) != 2:
            raise BadInput(f"The setting energy_range_ev is two energies in eV, got {limits!r}.")
        self._range = (float(str(limits[0])), float(str(limits[1])))
        self._proxy: Any = None
        self._size = 64
        self._spacing = 1.0
        self.raw = True
        self.probe_position_nm: tuple[float, float] | None = None
        side = self._field_nm
        self.field = Field2D(y_nm=0.0, x_nm=0.0, height_nm=side, width_nm=side)
        methods = self._methods()
        lacking = [name for name in NEEDED if name not in methods]
        if lacking:
            raise InstrumentFault(f"What answers is not the published server: it lacks {', '.join(lacking)}.")
        self._sets_energy = "set_energy_Offset" in methods
        self._loss_ev = 0.0
        self._learn()
        if self._sets_energy:
            self.set_energy_offset_ev(self.energy_offset_ev)
        self.scanner = self.spectrometer = self
        self.camera = self.optics = self.stage = self.blanker = None
        self.info = InstrumentInfo(
            backend="pyautomic", name="pyAutoMic server in GMS", simulated=False, capabilities=("scanner", "spectrometer"),
            settings=settings, details={"positions": "DigiScan units" if self.raw else "pixels of the last scan"},
        )  # fmt: skip

    signals = ("DigiScan signal 1",)
    native_shape = None
    signal = "EELS"
    channels = CHANNELS

    # -- the connection

    def _methods(self) -> set[str]:
        self._connected()
        return set(self._proxy._pyroMethods)

    def _connected(self) -> None:
        if self._proxy is None:
            try:
                self._proxy = self._dial()
                self._proxy.activate_camera()  # the server forgets the camera with every connection
            except ImportError:
                raise
            except Exception as error:
                self._proxy = None
                raise InstrumentFault(f"The pyAutoMic server did not answer ({_reason(error)}).") from error

    def _call(self, name: str, *arguments: float | bool) -> Any:
        """A call with plain numbers; a broken connection is made anew, and the call is not repeated by itself."""
        self._connected()
        try:
            return getattr(self._proxy, name)(*arguments)
        except Exception as error:
            self.probe_position_nm = None
            broken = (
                "Communication" in type(error).__name__
                or "Closed" in type(error).__name__
                or isinstance(error, OSError)
            )
            if broken or "Timeout" in type(error).__name__:
                self._hang_up()
            raise InstrumentFault(
                f"The pyAutoMic server failed in {name} ({_reason(error)}).", transient=True
            ) from error

    def _hang_up(self) -> None:
        if self._proxy is not None:
            self._proxy._pyroRelease()
            self._proxy = None

    # -- positions

    def _learn(self) -> None:
        """Two places a pixel apart tell raw positions from pixels, and how long a pixel is."""
        self._scan_field(64, 1.0)
        found = []
        for place in (0.0, 1.0):
            self._call("get_beam_control")
            self._call("set_beam_pos", place, place)
            x, y = self._call("get_beam_pos")
            found.append((float(x), float(y)))
        self.raw = all(
            abs(x - place) <= 0.5 and abs(y - place) <= 0.5 for (x, y), place in zip(found, (0.0, 1.0), strict=True)
        )
        if not self.raw:
            spacing = found[1][0] - found[0][0]
            if not (abs(spacing) > 1 and math.isclose(found[0][0], -32 * spacing, rel_tol=0.05)):
                raise InstrumentFault(
                    f"The server's beam positions {found} fit neither pixels nor DigiScan units; drive the beam from GMS."
                )
            self._spacing = spacing
        self.park_probe()

    def _beam(self, y_nm: float, x_nm: float) -> None:
        """Put the beam on a place of the field and look whether it is there."""
        along = [self._sign * (v / self._field_nm - 0.5) for v in (x_nm, y_nm)]  # -0.5 to 0.5
        if self.raw:
            asked = expected = [v * SIDE * self._zoom for v in along]
        else:
            asked = [(v + 0.5) * self._size for v in along]
            expected = [v * self._size * self._spacing for v in along]
        self._call("get_beam_control")
        self._call("set_beam_pos", float(asked[0]), float(asked[1]))
        found = self._call("get_beam_pos")
        step = 2.0 + 0.002 * SIDE * self._zoom
        if max(abs(float(f) - e) for f, e in zip(found, expected, strict=True)) > step:
            raise InstrumentFault(
                f"The beam stands at {tuple(found)} and not at {tuple(expected)} in DigiScan's units.", transient=True
            )

    def move_probe(self, y_nm: float, x_nm: float) -> None:
        """See `base.Scanner`."""
        if not self.field.contains(y_nm, x_nm):
            raise LimitExceeded(
                f"(y {y_nm:.4g}, x {x_nm:.4g}) nm lies outside the field of {self._field_nm:g} nm; nothing was moved."
            )
        self._beam(y_nm, x_nm)
        self.probe_position_nm = (float(y_nm), float(x_nm))

    def park_probe(self) -> None:
        """To the upper left corner of the field: this server has nothing better, and no blanker."""
        self.probe_position_nm = None
        self._beam(0.0, 0.0)

    # -- scanning

    def _scan_field(self, size: int, dwell_us: float) -> np.ndarray:
        data, shape, kind = self._call("get_ds", int(size), float(dwell_us))
        image = np.array(data, dtype=np.dtype(str(kind)))
        if image.shape != (size, size) or tuple(shape) != (size, size):
            raise InstrumentFault(
                f"The server sent a scan of {image.shape} where {size} x {size} was asked for.", transient=True
            )
        self._size = size
        if not self.raw and self._spacing:
            self._spacing = math.copysign(SIDE * self._zoom / size, self._spacing)
        return image

    def scan(
        self, *, field: Field2D, shape: tuple[int, int], dwell_s: float, signals: tuple[str, ...], cancel: CancelToken
    ) -> tuple[Frame, ...]:
        """See `base.Scanner`. The server always scans the whole field; the part that was asked for is cut out and averaged."""
        if set(signals) - set(self.signals):
            raise BadInput(f"There is no detector {', '.join(signals)}; there is {self.signals[0]}.")
        end = field.y_nm + field.height_nm, field.x_nm + field.width_nm
        tolerance = 1e-6 * self._field_nm
        if min(field.y_nm, field.x_nm) < -tolerance or max(end) > self._field_nm + tolerance:
            raise LimitExceeded("The scan leaves the field; nothing was scanned.")
        if cancel.is_set():
            raise Cancelled("The scan was stopped before it began.")
        finest = min(field.height_nm / shape[0], field.width_nm / shape[1])
        size = next((n for n in SIZES if self._field_nm / n <= finest * 1.001), SIZES[-1])
        pixel = field.height_nm / shape[0], field.width_nm / shape[1]
        samples = pixel[0] * pixel[1] / (self._field_nm / size) ** 2
        self.probe_position_nm = None
        started = self.now_s()
        image = self._scan_field(size, max(0.5, dwell_s * 1e6 / max(1.0, samples)))
        finished = self.now_s()
        self.park_probe()
        down = overlap(size, self._field_nm, field.y_nm, pixel[0], shape[0])
        across = overlap(size, self._field_nm, field.x_nm, pixel[1], shape[1])
        metadata: dict[str, JsonValue] = {
            "simulated": False, "exposure_started_s": started, "exposure_finished_s": finished, "dwell_s": dwell_s,
            "scanned_pixels": size, "beam_current_pa": self.beam_current_pa,
        }  # fmt: skip
        return (
            image_frame(
                (down @ image @ across.T).astype(np.float32),
                pixel_nm=pixel,
                origin_nm=(field.y_nm + pixel[0] / 2, field.x_nm + pixel[1] / 2),
                signal=self.signals[0],
                metadata=metadata,
            ),
        )

    # -- spectra

    @property
    def energy_offset_ev(self) -> float:
        """As it was last set: this server cannot be asked."""
        return self._loss_ev - float(str(self._settings["zero_loss_channel"])) * self._dispersion

    @property
    def dispersion_ev(self) -> float:
        """As the settings say."""
        return self._dispersion

    @property
    def dispersions_ev(self) -> tuple[float, ...]:
        """It cannot be set."""
        return (self._dispersion,)

    @property
    def energy_offset_range_ev(self) -> tuple[float, float]:
        """As the settings say; fixed where the installed revision cannot set it."""
        return self._range if self._sets_energy else (self.energy_offset_ev, self.energy_offset_ev)

    def set_energy_offset_ev(self, value: float) -> None:
        """Set the energy loss so that channel 0 lies at `value`; the server waits for the filter."""
        low, high = self.energy_offset_range_ev
        if not low <= value <= high:
            raise LimitExceeded(f"The energy offset must lie between {low:g} and {high:g} eV, got {value:g} eV.")
        if self._sets_energy:
            loss = value + float(str(self._settings["zero_loss_channel"])) * self._dispersion
            self._call("set_energy_Offset", float(loss))
            self._loss_ev = float(loss)

    def set_dispersion_ev(self, value: float) -> None:
        """Only what it is."""
        if not math.isclose(value, self._dispersion, rel_tol=1e-6):
            raise LimitExceeded(f"The dispersion is {self._dispersion:g} eV/channel and cannot be set from here.")

    def acquire_spectrum(self, exposure_s: float, cancel: CancelToken) -> Frame:
        """See `base.Spectrometer`."""
        if not 1e-4 <= exposure_s <= 600.0:
            raise LimitExceeded(f"The exposure must lie between 0.0001 and 600 s, got {exposure_s:g} s.")
        place = self.probe_position_nm
        if place is None:
            raise InstrumentFault("The probe is parked; put it on a place before recording a spectrum.")
        frames = max(1, math.ceil(exposure_s / self._longest_s - 1e-9))
        total = np.zeros(CHANNELS)
        started = self.now_s()
        for _ in range(frames):
            if cancel.is_set():
                raise Cancelled("The spectrum was stopped before it was over.")
            self._call("acquire_camera", float(exposure_s / frames))
            data, _, _ = self._call("get_eels")
            counts = np.array(data, dtype=np.float64)
            if counts.shape != (CHANNELS,):
                raise InstrumentFault(
                    f"The server sent {counts.size} channels where {CHANNELS} were meant.", transient=True
                )
            total += counts
        return spectrum_frame(
            total.astype(np.float32), dispersion_ev=self._dispersion, offset_ev=self.energy_offset_ev, signal=self.signal,
            metadata={
                "simulated": False, "exposure_started_s": started, "exposure_finished_s": self.now_s(), "exposure_s": exposure_s,
                "y_nm": place[0], "x_nm": place[1], "beam_current_pa": self.beam_current_pa,
            },
        )  # fmt: skip

    # -- the rest

    def now_s(self) -> float:
        """Of this computer: the server has no clock."""
        return time.monotonic()

    def plan_context(self) -> PlanContext:
        """The field and the one detector."""
        return PlanContext(field=self.field, signals=self.signals, beam_current_pa=self.beam_current_pa)

    def close(self) -> None:
        """Park as far as it goes, and hang up."""
        if self._proxy is None:
            return
        try:
            self.park_probe()
        finally:
            self._hang_up()


def overlap(samples: int, length: float, start: float, pixel: float, pixels: int) -> np.ndarray:
    """Share of each scanned sample in each pixel asked for, shape (pixels, samples); rows sum to the samples in a pixel."""
    step = length / samples
    low = (np.arange(samples) * step)[None, :]
    edge = (start + np.arange(pixels) * pixel)[:, None]
    shared = np.minimum(low + step, edge + pixel) - np.maximum(low, edge)
    share: np.ndarray = np.clip(shared, 0.0, None) / step
    return share


def _positive(settings: dict[str, JsonValue], name: str) -> float:
    value = settings[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise BadInput(f"The setting {name} must be a positive number, got {value!r}.")
    return float(value)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".: ")[:300]
