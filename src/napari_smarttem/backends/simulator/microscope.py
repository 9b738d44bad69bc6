"""The simulated microscope, put together."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import JsonValue

from ...schema import BadInput, Field2D, InstrumentInfo, PlanContext
from ..base import CAPABILITIES, Blanker, Camera, Optics, Scanner, Spectrometer, Stage
from .camera import RonchigramCamera
from .clock import Clock
from .column import Column
from .controls import SimulatedBlanker, SimulatedOptics, SimulatedStage
from .phase_plate import PlateCamera, PlateControls, SimulatedPhasePlate
from .scanner import FLYBACK_S, SETTLE_S, SIGNALS, SimulatedScanner
from .sorter import SorterCamera, SorterControls, SorterPart
from .specimens import GroundTruth, build
from .spectrometer import READOUT_S, SimulatedSpectrometer

RANGES = {
    "field_nm": (20.0, 1000.0, "nm"),
    "beam_current_pa": (0.1, 5000.0, "pA"),
    "high_tension_v": (30e3, 300e3, "V"),
    "convergence_mrad": (1.0, 60.0, "mrad"),
    "collection_mrad": (1.0, 200.0, "mrad"),
    "energy_resolution_ev": (0.01, 5.0, "eV"),
    "drift_walk_nm": (0.0, 100.0, "nm"),
    "line_jitter_nm": (0.0, 10.0, "nm"),
    "counts_per_electron": (1e-3, 1e4, "counts"),
    "read_noise_counts": (0.0, 1e4, "counts"),
    "misalignment": (0.0, 3.0, "times the usual"),
    "optics_imperfection": (0.0, 10.0, "times the usual"),
    "camera_half_angle_mrad": (5.0, 60.0, "mrad"),
}


@dataclass(frozen=True)
class Settings:
    """Everything `connect` takes; see there."""

    specimen: str
    seed: int
    speed: float | None
    field_nm: float
    beam_current_pa: float
    high_tension_v: float
    convergence_mrad: float
    collection_mrad: float
    energy_resolution_ev: float
    drift_nm_per_s: tuple[float, float]
    drift_walk_nm: float
    line_jitter_nm: float
    contamination: bool
    counts_per_electron: float
    read_noise_counts: float
    misalignment: float = 0.0
    optics_imperfection: float = 0.0
    camera_half_angle_mrad: float = 30.0
    camera_pixels: int = 512
    sorter: bool = False
    phase_plate: bool = False

    @classmethod
    def checked(cls, **values: Any) -> Settings:
        """Settings within `RANGES`, or `BadInput` naming the one that is not."""
        for name, (low, high, units) in RANGES.items():
            value = values[name]
            if not _is_finite(value) or not low <= value <= high:
                raise BadInput(f"the simulator's {name} must lie between {low:g} and {high:g} {units}, got {value!r}.")
        seed = values["seed"]
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise BadInput(f"the simulator's seed must be a whole number from 0 on, got {seed!r}.")
        values["seed"] = int(seed)
        if not isinstance(values["phase_plate"], bool):
            raise BadInput(f"the simulator's phase_plate must be true or false, got {values['phase_plate']!r}.")
        if not isinstance(values["contamination"], bool):
            raise BadInput(f"the simulator's contamination must be true or false, got {values['contamination']!r}.")
        if not isinstance(values.get("sorter", False), bool):
            raise BadInput(f"the simulator's sorter must be true or false, got {values['sorter']!r}.")
        pixels = values["camera_pixels"]
        if isinstance(pixels, bool) or pixels not in (128, 256, 512, 1024):
            raise BadInput(f"the simulator's camera_pixels must be 128, 256, 512 or 1024, got {pixels!r}.")
        drift = values["drift_nm_per_s"]
        if not isinstance(drift, (list, tuple)) or len(drift) != 2 or not all(_is_finite(v) for v in drift):
            raise BadInput(f"the simulator's drift_nm_per_s must be two finite numbers (y, x), got {drift!r}.")
        values["drift_nm_per_s"] = (float(drift[0]), float(drift[1]))
        speed = values["speed"]
        if speed is not None and math.isinf(speed) and speed > 0:
            values["speed"] = None  # JSON knows no infinity
        return cls(**values)

    def provenance(self) -> dict[str, JsonValue]:
        """What every frame says of how it was made."""
        return {
            "simulated": True,
            "specimen": self.specimen,
            "seed": self.seed,
            "beam_current_pa": self.beam_current_pa,
            "high_tension_v": self.high_tension_v,
        }


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


class SimulatedMicroscope:
    """A scanning transmission electron microscope that exists only in numbers.

    Parameters
    ----------
    settings : Settings

    Attributes
    ----------
    column : Column
        Beam, specimen and dose; parts added later (a camera, say) are built on it.
    """

    scanner: Scanner | None
    spectrometer: Spectrometer | None
    camera: Camera | None
    optics: Optics | None
    stage: Stage | None
    blanker: Blanker | None

    def __init__(self, settings: Settings) -> None:
        clock = Clock(settings.speed)
        side = settings.field_nm
        field = Field2D(y_nm=0.0, x_nm=0.0, height_nm=side, width_nm=side)
        # the specimen is three fields wide, so that stage and drift have somewhere to go
        extent = Field2D(y_nm=-side, x_nm=-side, height_nm=3 * side, width_nm=3 * side)
        specimen = build(settings.specimen, extent, settings.seed)
        self.settings = settings
        self.column = Column(settings, specimen, field, clock)
        self.scanner = SimulatedScanner(self.column)
        self.spectrometer = SimulatedSpectrometer(self.column)
        self.optics = SimulatedOptics(self.column)
        self.stage = SimulatedStage(self.column)
        self.blanker = SimulatedBlanker(self.column)
        # without torch there is nothing that could make a Ronchigram
        self.camera = (
            RonchigramCamera(
                self.column, pixels=settings.camera_pixels, half_angle_mrad=settings.camera_half_angle_mrad
            )
            if importlib.util.find_spec("torch")
            else None
        )
        self.sorter = SorterPart(clock, settings.seed) if settings.sorter else None
        if self.sorter is not None:
            self.camera = SorterCamera(self.sorter, self.column, self.camera, settings.high_tension_v)
            self.optics = SorterControls(self.sorter, self.optics)
        self.phase_plate = SimulatedPhasePlate(self.column) if settings.phase_plate else None
        if self.phase_plate is not None:
            self.camera = PlateCamera(self.phase_plate, self.column, self.camera)
            self.optics = PlateControls(self.phase_plate, self.optics)
        self._closed = False
        connect_with: dict[str, JsonValue] = {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()
        }
        self.info = InstrumentInfo(
            backend="simulator",
            name=f"SIMULATED microscope ({settings.specimen})",
            simulated=True,
            high_tension_v=settings.high_tension_v,
            capabilities=tuple(name for name in CAPABILITIES if getattr(self, name) is not None),
            settings=connect_with,
            details={
                "specimen": specimen.description,
                "elements": list(specimen.elements),
                "labels": list(specimen.label_names),
                "beam_current_pa": settings.beam_current_pa,
            },
        )

    @property
    def beam_current_pa(self) -> float | None:
        """Beam current in pA."""
        return self.settings.beam_current_pa

    def now_s(self) -> float:
        """Virtual time in s."""
        return self.column.clock.now_s()

    def plan_context(self) -> PlanContext:
        """What a plan may know before it starts."""
        return PlanContext(
            field=self.column.field,
            signals=SIGNALS,
            beam_current_pa=self.settings.beam_current_pa,
            settle_s=SETTLE_S,
            flyback_s=FLYBACK_S,
            spectrum_readout_s=READOUT_S,
        )

    def truth(self, y_nm: float, x_nm: float) -> dict[str, object]:
        """What is at a place of the undrifted, undamaged specimen; see `Specimen.truth`."""
        return self.column.specimen.truth(y_nm, x_nm)

    def ground_truth(self, field: Field2D | None = None, shape: tuple[int, int] = (256, 256)) -> GroundTruth:
        """Labels, boundaries, composition and thickness on the pixels of an image; None is the whole field of view."""
        return self.column.specimen.ground_truth(field or self.column.field, shape)

    def dose_e_per_a2(self) -> np.ndarray:
        """A copy of the dose map of the specimen, in e/Å²; its area is ``column.dose.extent``."""
        with self.column.lock:
            self.column.settle_dose(self.now_s())
            return self.column.dose.e_per_a2.copy()

    def close(self) -> None:
        """Blank and park; may be called twice."""
        if not self._closed:
            self.column.place_probe(None)
            self.column.set_blanked(True)
            self._closed = True
