"""The instrument behind the server: nm on the specimen, eV, and calibrated frames that keep GMS's tags."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import JsonValue

from ...schema import (
    Axis,
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
from ..base import CAPABILITIES, Camera, CancelToken, Scanner, Spectrometer
from .link import Link, ProbeLost, ServerRestarted

NM_PER = {"nm": 1.0, "µm": 1e3, "μm": 1e3, "um": 1e3, "å": 0.1, "a": 0.1, "pm": 1e-3, "mm": 1e6, "m": 1e9}
MRAD_PER_DEGREE = math.radians(1.0) * 1e3
NEVER = threading.Event()
LARGEST_SIDE = 4096
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What `connect` takes, apart from the token; see there."""

    address: str
    overview_pixels: int
    rotation_deg: float
    beam_current_pa: float | None
    nm_per_pixel: float | None
    camera_band: tuple[int, int, int, int] | None
    vertical_binning: int
    dispersion_ev: float | None
    zero_loss_channel: float | None
    dispersion_table: Mapping[str, float] | None
    energy_range_ev: tuple[float, float]
    settle_s: float
    longest_frame_s: float
    camera_mrad_per_pixel: float | None
    reconnect_s: float


class DigitalMicrograph:
    """A microscope driven through Gatan's GMS; made by `connect`."""

    def __init__(self, settings: Settings, token: str) -> None:
        self.settings = settings
        self.link = Link(settings.address, token, settings.reconnect_s)
        try:
            self.described, _ = self.link.call("describe")
            self.geometry: dict[str, Any] = {}
            self.set_up_field()
            self.scanner: Scanner | None = BridgeScanner(self)
            self.spectrometer: Spectrometer | None = (
                BridgeSpectrometer(self) if self.described["camera"] is not None else None
            )
        except BaseException:
            self.link.close()
            raise
        self.optics = None
        self.stage = BridgeStage(self) if self.described["stage"] and self.described["allow"]["stage"] else None
        self.blanker = BridgeBlanker(self) if self.described["blanker"] else None
        self.camera: Camera | None = (
            BridgeCamera(self) if self.described["camera"] is not None and settings.camera_mrad_per_pixel else None
        )
        fake = "fake" in str(self.described["microscope"])
        connect_with: dict[str, JsonValue] = {
            name: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
            for name, value in vars(settings).items()
        }
        self.info = InstrumentInfo(
            backend="digitalmicrograph",
            name=("SIMULATED " if fake else "") + f"{self.described['microscope']} through DigitalMicrograph",
            simulated=fake,
            high_tension_v=self.described["high_tension_v"],
            capabilities=tuple(name for name in CAPABILITIES if getattr(self, name) is not None),
            settings=connect_with,
            details={
                "gms": self.described["software"],
                "signals": self.described["signals"],
                "tags": self.geometry["tags"],
            },
        )

    @property
    def beam_current_pa(self) -> float | None:
        """As the settings say; GMS does not know it."""
        return self.settings.beam_current_pa

    def now_s(self) -> float:
        """The clock of the GMS computer."""
        return self.link.now_s()

    def plan_context(self) -> PlanContext:
        """The field and the detectors."""
        assert self.scanner is not None
        return PlanContext(
            field=self.scanner.field,
            signals=self.scanner.signals,
            beam_current_pa=self.beam_current_pa,
            settle_s=self.settings.settle_s,
            flyback_s=float(self.described["flyback_us"]) * 1e-6,
        )

    def visit(
        self, points_nm: Sequence[tuple[float, float]], exposure_s: float, cancel: CancelToken = NEVER
    ) -> Iterator[Frame]:
        """A spectrum at each place (y, x) in nm, without a round trip for each: for many short exposures.

        What was recorded before something went wrong is given, then the reason is raised.
        """
        assert isinstance(self.scanner, BridgeScanner)
        if not isinstance(self.spectrometer, BridgeSpectrometer):
            raise BadInput("There is no camera, so no spectra can be recorded.")
        spectrometer = self.spectrometer
        pixels = np.array([self.scanner.pixel(y, x)[::-1] for y, x in points_nm], dtype=np.float64).reshape(-1, 2)
        args = {**spectrometer.exposure(exposure_s), "settle_s": self.settings.settle_s, "ref": self.geometry["ref"]}
        head, (counts, times) = self.link.call("visit", args, [pixels], cancel)
        for (y, x), spectrum, (started, finished) in zip(points_nm, counts, times, strict=False):
            yield spectrometer.frame(spectrum, float(started), float(finished), exposure_s, (y, x))
        if head["reason"]:
            text = f"{head['done']} of {len(points_nm)} points were recorded: {head['reason']}"
            raise Cancelled(text) if head["code"] == "cancelled" else InstrumentFault(text, transient=True)

    def tags(self) -> dict[str, Any]:
        """GMS's tags of the reference scan."""
        return dict(self.link.call("tags")[0]["tags"])

    def close(self) -> None:
        """Let go; the server parks the beam where this program left it on the specimen."""
        self.link.close()

    def set_up_field(self) -> None:
        """Have the reference scanned, the beam blanked where it can be; `InstrumentFault` where the field has changed."""
        args = {"size": self.settings.overview_pixels, "rotation": self.settings.rotation_deg}
        geometry, _ = self.link.call("reference", args)
        unit = str(geometry["unit"]).strip().lower()
        scale = self.settings.nm_per_pixel or float(geometry["scale"]) * NM_PER.get(unit, math.nan)
        if not math.isfinite(scale) or scale <= 0:
            raise InstrumentFault(
                f"GMS gives no calibration in nm for its scans (unit {geometry['unit']!r}); calibrate it, or give nm_per_pixel."
            )
        before = self.geometry.get("nm")
        if before is not None and not math.isclose(before, scale, rel_tol=1e-6):
            raise InstrumentFault("The magnification is another than before the server was restarted; connect again.")
        self.geometry = {**geometry, "nm": scale}

    def again(self, action: Callable[[], T]) -> T:
        """`action`, once more after a restart of the server if it did nothing that could not be repeated."""
        try:
            return action()
        except ServerRestarted:
            self.set_up_field()
            raise


class BridgeScanner:
    """DigiScan. Positions are nm from the upper left edge of the reference scan."""

    def __init__(self, instrument: DigitalMicrograph) -> None:
        self._instrument = instrument
        self._probe: tuple[float, float] | None = None
        side = instrument.geometry["size"] * instrument.geometry["nm"]
        self._field = Field2D(y_nm=0.0, x_nm=0.0, height_nm=side, width_nm=side)

    @property
    def signals(self) -> tuple[str, ...]:
        """Names as GMS has them."""
        return tuple(self._instrument.described["signals"])

    @property
    def field(self) -> Field2D:
        """What DigiScan reaches at this magnification."""
        return self._field

    @property
    def native_shape(self) -> tuple[int, int] | None:
        """None: any number of pixels can be asked for."""
        return None

    @property
    def probe_position_nm(self) -> tuple[float, float] | None:
        """(y, x) of the stationary probe."""
        return self._probe

    def pixel(self, y_nm: float, x_nm: float) -> tuple[float, float]:
        """(y, x) in pixels of the reference image, whose whole numbers are the places of its samples."""
        size, nm = self._instrument.geometry["size"], self._instrument.geometry["nm"]
        if not self._field.contains(y_nm, x_nm):
            raise LimitExceeded(
                f"(y {y_nm:.4g}, x {x_nm:.4g}) nm lies outside the scan field of {size * nm:.4g} nm; nothing was moved."
            )
        return min(max(y_nm / nm - 0.5, 0.0), float(size)), min(max(x_nm / nm - 0.5, 0.0), float(size))

    def move_probe(self, y_nm: float, x_nm: float) -> None:
        """See `base.Scanner`."""
        y, x = self.pixel(y_nm, x_nm)
        instrument = self._instrument
        args = {"x": x, "y": y, "settle_s": instrument.settings.settle_s, "ref": instrument.geometry["ref"]}
        try:
            instrument.link.call("move_probe", args)
        except ServerRestarted:
            instrument.set_up_field()
            instrument.link.call("move_probe", {**args, "ref": instrument.geometry["ref"]})
        self._probe = (float(y_nm), float(x_nm))

    def park_probe(self) -> None:
        """See `base.Scanner`; may be called from any thread."""
        try:
            self._instrument.link.call("park")
        except ServerRestarted:
            self._instrument.link.call("park")  # a server that ends parks by itself; make sure of it
        self._probe = None

    def scan(
        self, *, field: Field2D, shape: tuple[int, int], dwell_s: float, signals: tuple[str, ...], cancel: CancelToken
    ) -> tuple[Frame, ...]:
        """See `base.Scanner`.

        Pixels larger than those of the reference scan are made of several samples each, so that they stand for their
        area and lie where the axes say; the dwell time is shared among them. Over the whole field all detectors record in
        one pass; over a part GMS records one after another, and the dwell time is shared among them too.
        """
        instrument = self._instrument
        names = tuple(signals) or self.signals[:1]
        unknown = [name for name in names if name not in self.signals]
        if unknown:
            raise BadInput(f"There is no detector {', '.join(unknown)}; there is {', '.join(self.signals)}.")
        size, nm = instrument.geometry["size"], instrument.geometry["nm"]
        top, left = field.y_nm / nm, field.x_nm / nm
        height, width = field.height_nm / nm, field.width_nm / nm
        if min(top, left) < -1e-6 or top + height > size * (1 + 1e-6) or left + width > size * (1 + 1e-6):
            raise LimitExceeded("The scan leaves the field; nothing was scanned.")
        rows, columns = shape
        if not (1 <= rows <= LARGEST_SIDE and 1 <= columns <= LARGEST_SIDE):
            raise LimitExceeded(f"A scan has 1 to {LARGEST_SIDE} pixels along a side, got {rows} x {columns}.")
        if cancel.is_set():
            raise Cancelled("The scan was stopped before it began.")
        shortest_s = float(instrument.described["shortest_us"]) * 1e-6
        down, across = _samples(rows, height, columns, width, max(1, int(dwell_s / shortest_s * (1 + 1e-9))))
        whole = top < 1e-6 and left < 1e-6 and rows * down == size == columns * across
        passes = 1 if whole else len(names)
        args: dict[str, Any] = {
            "rows": rows * down, "columns": columns * across, "signals": list(names), "ref": instrument.geometry["ref"],
            "dwell_us": dwell_s * 1e6 / (down * across * passes),
        }  # fmt: skip
        if not whole:
            y0, y1 = _inside(top, height, height / (rows * down), size)
            x0, x1 = _inside(left, width, width / (columns * across), size)
            args["area"] = [y0, x0, y1, x1]
        self._probe = None
        head, arrays = instrument.again(lambda: instrument.link.call("scan", args, cancel=cancel))
        if len(arrays) != len(names):
            raise InstrumentFault("The scan came back incomplete; it is not used.", transient=True)
        self._check_scale(head, width / args["columns"], height / args["rows"])
        pixel = field.height_nm / rows, field.width_nm / columns
        metadata: dict[str, JsonValue] = {
            "simulated": instrument.info.simulated,
            "exposure_started_s": head["started"],
            "exposure_finished_s": head["finished"],
            "dwell_s": dwell_s,
            "samples_per_pixel": [down, across],
            "passes": passes,
            "beam_current_pa": instrument.beam_current_pa,
            "dm_tags": head["tags"],
        }
        return tuple(
            image_frame(
                _binned(data, down, across),
                pixel_nm=pixel,
                origin_nm=(field.y_nm + pixel[0] / 2, field.x_nm + pixel[1] / 2),
                signal=name,
                metadata=metadata,
            )
            for name, data in zip(names, arrays, strict=True)
        )

    def _check_scale(self, head: Mapping[str, Any], across: float, down: float) -> None:
        """GMS says how large the pixels it scanned are; another size than asked means another magnification."""
        found = float(head["scale"]) * NM_PER.get(str(head["unit"]).strip().lower(), math.nan)
        asked = self._instrument.geometry["nm"] * across
        square = math.isclose(across, down, rel_tol=1e-3)
        if square and self._instrument.settings.nm_per_pixel is None and not abs(found / asked - 1) < 0.05:
            raise InstrumentFault(
                f"GMS scanned with pixels of {found:.4g} nm where {asked:.4g} nm was meant: the magnification was changed; "
                "connect again."
            )


def _samples(rows: int, height: float, columns: int, width: float, most: int) -> tuple[int, int]:
    """Samples per pixel down and across: about the reference's own spacing, at most `most` of them."""
    down = max(1, min(round(height / rows), LARGEST_SIDE // rows))
    across = max(1, min(round(width / columns), LARGEST_SIDE // columns))
    while down * across > most:
        if down >= across:
            down -= 1
        else:
            across -= 1
    return down, across


def _inside(start: float, length: float, pitch: float, size: int) -> tuple[float, float]:
    """Edges GMS is given so that samples lie in the middle of their pixels: GMS puts the first one on the edge itself."""
    first = min(max(start + 0.5 * pitch - 0.5, 0.0), max(0.0, size - length))
    return first, min(first + length, float(size))


def _binned(data: np.ndarray, down: int, across: int) -> np.ndarray:
    rows, columns = data.shape[0] // down, data.shape[1] // across
    if down == across == 1:
        return data
    return np.asarray(data.reshape(rows, down, columns, across).sum(axis=(1, 3), dtype=np.float64).astype(np.float32))


class BridgeSpectrometer:
    """A camera behind an energy filter, summed over the rows of its band."""

    def __init__(self, instrument: DigitalMicrograph) -> None:
        self._instrument = instrument
        self._range = instrument.settings.energy_range_ev
        self._tags: dict[str, Any] = {}
        self._learn()

    def _learn(self) -> None:
        """Channels and energy axis, from a short exposure with the beam parked."""
        instrument = self._instrument
        head, (counts,) = instrument.link.call("spectrum", {**self.exposure(0.01), "tags": True})
        self._channels = len(counts)
        self._tags = head["tags"]
        origin, scale, unit = head["axis"]
        settings = instrument.settings
        calibrated = unit.strip().lower() == "ev" and scale > 0
        if settings.dispersion_ev is None and not calibrated:
            raise InstrumentFault(
                "GMS gives no energy calibration for its spectra; give dispersion_ev and zero_loss_channel when connecting."
            )
        self._dispersion = settings.dispersion_ev or float(scale)
        found = self._filter()
        self._loss = 0.0 if found is None else float(found["energy_ev"])
        if settings.zero_loss_channel is not None:
            self._first = -settings.zero_loss_channel * self._dispersion
        else:
            self._first = float(origin) - self._loss if calibrated else 0.0

    def _filter(self) -> dict[str, Any] | None:
        return None if self._instrument.described["filter"] is None else self._instrument.link.call("filter")[0]

    @property
    def signal(self) -> str:
        """``"EELS"``."""
        return "EELS"

    @property
    def channels(self) -> int:
        """Columns of the band."""
        return self._channels

    @property
    def energy_offset_ev(self) -> float:
        """Energy loss at channel 0."""
        return self._loss + self._first

    @property
    def dispersion_ev(self) -> float:
        """EV per channel."""
        return self._dispersion

    @property
    def dispersions_ev(self) -> tuple[float, ...]:
        """The present one, or those of the table where the server may switch."""
        table = self._instrument.settings.dispersion_table
        if table and self._instrument.described["allow"]["dispersion"]:
            return tuple(sorted(table.values()))
        return (self._dispersion,)

    @property
    def energy_offset_range_ev(self) -> tuple[float, float]:
        """As the settings say; the present value only, where there is no filter."""
        if self._instrument.described["filter"] is None:
            return self.energy_offset_ev, self.energy_offset_ev
        return self._range

    def set_energy_offset_ev(self, value: float) -> None:
        """Set the energy loss so that channel 0 lies at `value`."""
        low, high = self.energy_offset_range_ev
        if not low <= value <= high:
            raise LimitExceeded(f"The energy offset must lie between {low:g} and {high:g} eV, got {value:g} eV.")
        if value == self.energy_offset_ev:
            return
        instrument = self._instrument
        args = {"energy_ev": value - self._first}
        found = instrument.again(lambda: instrument.link.call("set_energy", args))[0]
        self._loss = float(found["energy_ev"])
        if abs(self.energy_offset_ev - value) > max(0.5, self._dispersion):
            raise InstrumentFault(
                f"The filter went to {self.energy_offset_ev:g} eV where {value:g} eV was asked for.", transient=True
            )

    def set_dispersion_ev(self, value: float) -> None:
        """Set one of `dispersions_ev`."""
        if not any(math.isclose(value, known, rel_tol=1e-6) for known in self.dispersions_ev):
            known_ones = ", ".join(f"{d:g}" for d in self.dispersions_ev)
            raise LimitExceeded(f"A dispersion of {value:g} eV/channel cannot be set here; {known_ones} can.")
        if math.isclose(value, self._dispersion, rel_tol=1e-6):
            return
        table = self._instrument.settings.dispersion_table or {}
        index = next(int(key) for key, ev in table.items() if math.isclose(ev, value, rel_tol=1e-6))
        self._instrument.link.call("set_dispersion", {"index": index})
        self._learn()

    def exposure(self, exposure_s: float) -> dict[str, Any]:
        """Arguments of an exposure; long ones are made of several, so that they can be stopped and do not saturate."""
        settings = self._instrument.settings
        frames = max(1, math.ceil(exposure_s / settings.longest_frame_s - 1e-9))
        args: dict[str, Any] = {
            "exposure_s": exposure_s / frames, "frames": frames, "binning": [1, settings.vertical_binning], "processing": 3,
        }  # fmt: skip
        if settings.camera_band is not None:
            args["band"] = list(settings.camera_band)
        return args

    def acquire_spectrum(self, exposure_s: float, cancel: CancelToken) -> Frame:
        """See `base.Spectrometer`. The server records only while the beam stands where this program put it."""
        if not 1e-6 <= exposure_s <= 600.0:
            raise LimitExceeded(f"The exposure must lie between 1e-06 and 600 s, got {exposure_s:g} s.")
        scanner = self._instrument.scanner
        assert isinstance(scanner, BridgeScanner)
        place = scanner.probe_position_nm
        if place is None:
            raise InstrumentFault("The probe is parked; put it on a place before recording a spectrum.")
        if cancel.is_set():
            raise Cancelled("The spectrum was stopped before it began.")
        y, x = scanner.pixel(*place)
        args = {**self.exposure(exposure_s), "at": [x, y]}
        for last in (False, True):
            args["ref"] = self._instrument.geometry["ref"]
            try:
                head, (counts,) = self._instrument.again(
                    lambda: self._instrument.link.call("spectrum", args, cancel=cancel)
                )
                break
            except ProbeLost:
                # The connection was gone for a moment, so the server parked the beam: put it back, once.
                if last:
                    raise
                scanner.move_probe(*place)
        return self.frame(counts, float(head["started"]), float(head["finished"]), exposure_s, place)

    def frame(
        self, counts: np.ndarray, started: float, finished: float, exposure_s: float, place: tuple[float, float]
    ) -> Frame:
        """A calibrated spectrum."""
        return spectrum_frame(
            counts,
            dispersion_ev=self._dispersion,
            offset_ev=self.energy_offset_ev,
            signal=self.signal,
            metadata={
                "simulated": self._instrument.info.simulated,
                "exposure_started_s": started,
                "exposure_finished_s": finished,
                "exposure_s": exposure_s,
                "y_nm": place[0],
                "x_nm": place[1],
                "beam_current_pa": self._instrument.beam_current_pa,
                "dm_tags": self._tags,
            },
        )


class BridgeCamera:
    """The same camera as images of the angle plane; its pixel in mrad is the laboratory's own calibration."""

    def __init__(self, instrument: DigitalMicrograph) -> None:
        self._instrument = instrument

    @property
    def cameras(self) -> tuple[str, ...]:
        """The one GMS has active."""
        return (str(self._instrument.described["camera"]["name"]),)

    def acquire_image(self, exposure_s: float, cancel: CancelToken, camera: str | None = None) -> Frame:
        """See `base.Camera`."""
        if camera not in (None, *self.cameras):
            raise BadInput(f"There is no camera {camera!r}; there is {', '.join(self.cameras)}.")
        if cancel.is_set():
            raise Cancelled("The image was stopped before it began.")
        head, (data,) = self._instrument.link.call("image", {"exposure_s": exposure_s}, cancel=cancel)
        scale = self._instrument.settings.camera_mrad_per_pixel or 1.0
        axes = tuple(
            Axis(name=name, units="mrad", scale=scale, offset=-scale * (size - 1) / 2)
            for name, size in zip(("theta_y", "theta_x"), data.shape, strict=True)
        )
        metadata = {
            "simulated": self._instrument.info.simulated, "exposure_started_s": head["started"],
            "exposure_finished_s": head["finished"], "exposure_s": exposure_s, "dm_tags": head["tags"],
        }  # fmt: skip
        return Frame(data=data, axes=axes, signal="Camera", metadata=metadata)


class BridgeStage:
    """The stage; GMS speaks um and degrees."""

    def __init__(self, instrument: DigitalMicrograph) -> None:
        self._link = instrument.link

    def position(self) -> dict[str, float]:
        """In nm and mrad."""
        return _from_stage(self._link.call("stage")[0])

    def move(self, values: Mapping[str, float]) -> None:
        """See `base.Stage`."""
        factors = {"nm": 1e-3, "mrad": 1 / MRAD_PER_DEGREE}
        args = {}
        for name, value in values.items():
            axis, _, unit = name.rpartition("_")
            if unit not in factors:
                raise BadInput(f"The stage has no axis {name!r}; it has {', '.join(self.position())}.")
            args[axis] = float(value) * factors[unit]
        if args:
            self._link.call("move_stage", args)


def _from_stage(found: Mapping[str, Any]) -> dict[str, float]:
    lengths = {f"{name}_nm": float(found[name]) * 1e3 for name in ("y", "x", "z") if name in found}
    return lengths | {
        f"{name}_mrad": float(found[name]) * MRAD_PER_DEGREE for name in ("alpha", "beta") if name in found
    }


class BridgeBlanker:
    """The beam blanker; may be called from any thread, also during a scan."""

    def __init__(self, instrument: DigitalMicrograph) -> None:
        self._link = instrument.link

    @property
    def blanked(self) -> bool:
        """As GMS says."""
        return bool(self._link.call("blanked")[0]["blanked"])

    def set_blanked(self, blanked: bool) -> None:
        """Blank or unblank; the server looks whether it is so."""
        try:
            self._link.call("blank", {"blanked": bool(blanked)})
        except ServerRestarted:
            self._link.call("blank", {"blanked": bool(blanked)})
