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
    BadInput,
    Cancelled,
    Frame,
    InstrumentFault,
    InstrumentInfo,
    PlanContext,
)
from ..base import CAPABILITIES, Blanker, Camera, CancelToken, Optics, Scanner, Spectrometer, Stage
from .detectors import BridgeCamera, BridgeSpectrometer, NoEnergies
from .link import Link, ServerRestarted
from .scanner import NM_PER, BridgeScanner

MRAD_PER_DEGREE = math.radians(1.0) * 1e3
NEVER = threading.Event()
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
    camera_binning: int
    corrector: str
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
            self.spectrometer: Spectrometer | None = self._spectrometer()
        except BaseException:
            self.link.close()
            raise
        self.optics: Optics | None = self._corrector()
        self.stage: Stage | None = (
            BridgeStage(self) if self.described["stage"] and self.described["allow"]["stage"] else None
        )
        self.blanker: Blanker | None = BridgeBlanker(self) if self.described["blanker"] else None
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

    def _spectrometer(self) -> Spectrometer | None:
        if self.described["camera"] is None:
            return None
        try:
            return BridgeSpectrometer(self)
        except NoEnergies:
            if self.settings.camera_mrad_per_pixel is None:
                raise
            return None  # the camera looks at the angle plane

    def _corrector(self) -> Optics | None:
        if not self.settings.corrector:
            return None
        from .ceos import CeosGateway, CeosOptics

        try:
            return CeosOptics(CeosGateway(self.settings.corrector))
        except BaseException:
            self.link.close()
            raise

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
        self.ensure_field()
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
        self._field_of = self.link.boot

    def ensure_field(self) -> None:
        """Set the field up again where the server is another one than the one that knew it."""
        if self._field_of != self.link.boot:
            self.set_up_field()

    def again(self, action: Callable[[], T]) -> T:
        """`action`; where the server was restarted meanwhile the field is set up before that is said."""
        self.ensure_field()
        try:
            return action()
        except ServerRestarted:
            self.ensure_field()
            raise


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
        self._link.call("blank", {"blanked": bool(blanked)})
