"""Camera, energy filter and column of the fake GMS."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .images import Image, Images
from .world import World

READOUT_S = 2e-3
DRIFT_EV, DRIFT_PERIOD_S, DRIFT_STEP_EV = 0.1, 1800.0, 0.02


class EnergyFilter:
    """A GIF with a drift tube: takes its time to settle, drifts a little, refuses what the tube cannot do."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.energy_ev = self._from_ev = 0.0
        self.settling_until = 0.0
        self.range_ev = (-200.0, 2000.0)
        self.dispersions = {5: 0.5, 6: 1.0, 2: 0.1, 4: 0.25}
        self.index = 5
        self.settle_s = 0.2
        self.eels_mode = True

    def set_energy(self, value: float) -> None:
        """Begin to go to an energy loss."""
        if not self.range_ev[0] <= value <= self.range_ev[1]:
            raise RuntimeError("Drift tube voltage out of range.")
        self._from_ev, self.energy_ev = self.actual_ev(), value
        self.settling_until = self.world.now_s() + self.settle_s

    def wait(self) -> None:
        """Until it has settled."""
        self.world.sleep(max(0.0, self.settling_until - self.world.now_s()))

    def actual_ev(self) -> float:
        """Energy loss that reaches channel 0 now: on its way to what was set, and a little beside it."""
        now = self.world.now_s()
        share = min(1.0, max(0.0, self.settling_until - now) / self.settle_s)
        drift = DRIFT_EV * math.sin(2 * math.pi * now / DRIFT_PERIOD_S)
        return (
            round((self.energy_ev + share * (self._from_ev - self.energy_ev) + drift) / DRIFT_STEP_EV) * DRIFT_STEP_EV
        )

    @property
    def dispersion_ev(self) -> float:
        """Present dispersion, which GMS itself knows as an index only."""
        return self.dispersions[self.index]


class Camera:
    """A ``Py_Camera``: 2048 x 2048 pixels behind the energy filter, which shows it the angle plane where it is not in EELS mode."""

    SIZE = 2048

    def __init__(self, world: World, images: Images, energy: EnergyFilter) -> None:
        self.world, self.images, self.energy = world, images, energy
        self.inserted = True
        self.viewing = False
        self.calibrated = True
        self.band = (974, 0, 1074, 2048)
        self.prepared = 0
        self._view: tuple[Any, ...] | None = None
        self._spread: dict[tuple[int, int, int], np.ndarray] = {}

    def GetName(self) -> str:
        """Its name."""
        return "US1000FTXP (fake)"

    def IsRetractable(self) -> bool:
        """Yes."""
        return True

    def GetInserted(self) -> bool:
        """Whether it is in the beam."""
        return self.inserted

    def SetInserted(self, inserted: bool) -> None:
        """Put it in, or take it out; it moves slowly."""
        if bool(inserted) != self.inserted:
            self.world.sleep(3.0)
        self.inserted = bool(inserted)

    def StartContinuousAcquisition(self, exposure: float, xbin: int, ybin: int, processing: int) -> None:
        """A live view; no exposure can be made beside it."""
        if self.viewing:
            raise RuntimeError("The camera is in use by a live view.")
        self.viewing, self._view = True, (exposure, xbin, ybin, processing)

    def GetFrameInContinuousMode(self, image: Image, timeout: float) -> bool:
        """The next frame of the live view; False where it takes longer than `timeout` seconds."""
        if self._view is None:
            raise RuntimeError("There is no live view.")
        exposure = self._view[0]
        if exposure + READOUT_S > timeout:
            self.world.sleep(timeout)
            return False
        self.viewing = False
        try:
            self.AcquireInPlace(image, *self._view)
        finally:
            self.viewing = True
        return True

    def StopContinuousAcquisition(self) -> None:
        """End of the live view."""
        self.viewing, self._view = False, None

    def PrepareForAcquire(self) -> None:
        """Get ready."""
        self.prepared += 1
        if not self.inserted:
            raise RuntimeError("The camera is not inserted.")

    def GetDefaultParameters(self) -> tuple[float, int, int, int, int, int, int, int]:
        """(exposure s, x binning, y binning, processing, top, left, bottom, right)."""
        return (0.1, 1, 1, 3, *(self.band if self.energy.eels_mode else (0, 0, self.SIZE, self.SIZE)))

    def CreateImageForAcquire(self, xbin: int, ybin: int, processing: int, *area: int) -> Image:
        """An image that fits an exposure."""
        return self.images.add(np.zeros(self._shape(xbin, ybin, area), self._kind(processing)))

    def AcquireInPlace(self, image: Image, exposure: float, xbin: int, ybin: int, processing: int, *area: int) -> None:
        """Expose, read, and write into `image`."""
        if self.viewing:
            raise RuntimeError("The camera is in use by a live view.")
        if not self.inserted:
            raise RuntimeError("The camera is not inserted.")
        if not 1e-4 <= exposure <= 600.0:
            raise RuntimeError("The exposure is out of range.")
        if image.data.shape != self._shape(xbin, ybin, area):
            raise RuntimeError("The image has the wrong size.")
        top, left, bottom, right = area or (0, 0, self.SIZE, self.SIZE)
        if not self.energy.eels_mode:
            frame = self._angle_plane(exposure)[top:bottom, left:right]
            self.world.sleep(exposure + READOUT_S)
            rows, columns = image.data.shape
            frame = frame[: rows * ybin, : columns * xbin].reshape(rows, ybin, columns, xbin).sum(axis=(1, 3))
            image.write(frame if image.data.dtype == np.float32 else np.clip(np.rint(frame), 0, 65535))
            return
        spectrum = self.world.spectrum(exposure, self.energy.actual_ev(), self.energy.dispersion_ev)
        self.world.sleep(exposure + READOUT_S)
        part = spectrum[left:right]
        if xbin > 1:
            part = part[: len(part) // xbin * xbin].reshape(-1, xbin).sum(axis=1)
        frame = self._rows(top, bottom, ybin)[:, None] * part[None, : image.data.shape[1]]
        image.write(frame if image.data.dtype == np.float32 else np.rint(frame))
        if self.calibrated:
            scale = self.energy.dispersion_ev * xbin
            image.SetDimensionCalibration(0, self.energy.energy_ev + left * self.energy.dispersion_ev, scale, "eV", 0)
            image.GetTagGroup().tags.update(
                {
                    "EELS Spectrometer:Energy loss (eV)": self.energy.energy_ev,
                    "EELS Spectrometer:Dispersion (eV/ch)": self.energy.dispersion_ev,
                    "EELS:Acquisition:Exposure (s)": exposure,
                }
            )

    def _angle_plane(self, exposure: float) -> np.ndarray:
        """What reaches each pixel of the sensor: each of the simulation's pixels is several of them."""
        coarse = np.asarray(self.world.ronchigram(exposure), dtype=np.float32)
        times = self.SIZE // len(coarse)
        return np.repeat(np.repeat(coarse / times**2, times, axis=0), times, axis=1)

    def AcquireImage(self, exposure: float, xbin: int, ybin: int, processing: int, *area: int) -> Image:
        """An exposure into a new image."""
        image = self.CreateImageForAcquire(xbin, ybin, processing, *area)
        self.AcquireInPlace(image, exposure, xbin, ybin, processing, *area)
        return image

    def _shape(self, xbin: int, ybin: int, area: tuple[int, ...]) -> tuple[int, int]:
        top, left, bottom, right = area or (0, 0, self.SIZE, self.SIZE)
        if not (0 <= top < bottom <= self.SIZE and 0 <= left < right <= self.SIZE):
            raise RuntimeError("The area lies outside the sensor.")
        return max(1, (bottom - top) // ybin), max(1, (right - left) // xbin)

    def _kind(self, processing: int) -> Any:
        return np.uint16 if processing == 1 else np.float32

    def _rows(self, top: int, bottom: int, ybin: int) -> np.ndarray:
        """Share of the light on each binned row: the spectrum is a narrow stripe in the middle of the band."""
        key = (top, bottom, ybin)
        if key not in self._spread:
            rows = np.arange(top, bottom)
            light = np.exp(-0.5 * ((rows - 1023.5) / 12.0) ** 2)
            light /= np.exp(-0.5 * ((np.arange(self.SIZE) - 1023.5) / 12.0) ** 2).sum()
            whole = max(1, len(rows) // ybin)
            self._spread[key] = light[: whole * ybin].reshape(whole, -1).sum(axis=1).astype(np.float32)
        return self._spread[key]


class Column:
    """A ``Py_Microscope``: stage in um and degrees, a blanker, raw units where nothing is calibrated."""

    def __init__(self, world: World, *, blanker: bool = True, beta: bool = False) -> None:
        self.world = world
        self.blanker = blanker
        self.beta = beta
        self.stuck = False
        self.stage = {"X": 12.5, "Y": -3.25, "Z": 0.5, "Alpha": 0.0}

    def GetMicroscopeName(self) -> str:
        """Its name."""
        return "fake GMS column"

    def GetHighTension(self) -> float:
        """In V."""
        return self.world.high_tension_v

    def GetMagnification(self) -> float:
        """As the column says."""
        return 910000.0

    def GetFocus(self) -> float:
        """Raw units."""
        return 1234.0

    def GetCalibratedFocus(self) -> float:
        """Raises, as on most columns."""
        raise RuntimeError("The focus is not calibrated.")

    def HasBeamBlanker(self) -> bool:
        """Whether there is one."""
        return self.blanker

    def GetBeamBlanked(self) -> int:
        """1 or 0."""
        self._need_blanker()
        return int(self.world.blanked)

    def SetBeamBlanked(self, blanked: bool) -> None:
        """Blank or unblank."""
        self._need_blanker()
        if not self.stuck:
            self.world.blanked = bool(blanked)

    def _need_blanker(self) -> None:
        if not self.blanker:
            raise RuntimeError("There is no beam blanker.")

    def GetStagePositions(self, flags: int) -> tuple[float, ...]:
        """Those of `flags`, as `SetStagePositions` counts them."""
        found = (self.GetStageX, self.GetStageY, self.GetStageZ, self.GetStageAlpha, self.GetStageBeta)
        return tuple(read() for index, read in enumerate(found) if int(flags) & 1 << index)

    def GetStageXY(self) -> tuple[float, float]:
        """In um."""
        return self.stage["X"], self.stage["Y"]

    def CanGetMagnification(self) -> bool:
        """Yes."""
        return True

    def GetCameraLength(self) -> float:
        """In mm."""
        return 29.5

    def GetOperationMode(self) -> str:
        """As GMS names it."""
        return "SCANNING"

    def GetIlluminationMode(self) -> str:
        """As GMS names it."""
        return "NANOPROBE"

    def SetFocus(self, value: float) -> None:
        """Raw units; this column's focus is not followed by the simulation, so it is refused rather than ignored."""
        raise RuntimeError(f"The focus cannot be set to {value:g} from here.")

    def GetStageX(self) -> float:
        """In um."""
        return self.stage["X"]

    def GetStageY(self) -> float:
        """In um."""
        return self.stage["Y"]

    def GetStageZ(self) -> float:
        """In um."""
        return self.stage["Z"]

    def GetStageAlpha(self) -> float:
        """In degrees."""
        return self.stage["Alpha"]

    def GetStageBeta(self) -> float:
        """In degrees; raises on a single tilt holder."""
        if not self.beta:
            raise RuntimeError("The holder has no beta tilt.")
        return 0.0

    def SetStagePositions(self, flags: int, *values: float) -> None:
        """Move the axes of `flags`: 1 x, 2 y, 4 z, 8 alpha, 16 beta."""
        for (name, flag), value in zip((("X", 1), ("Y", 2), ("Z", 4), ("Alpha", 8)), values[:4], strict=True):
            if int(flags) & flag:
                self.stage[name] = value
        self.world.sleep(0.3)
