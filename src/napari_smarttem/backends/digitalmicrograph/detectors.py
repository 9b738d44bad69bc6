"""The camera behind the energy filter: as a spectrometer, and as a camera for the angle plane."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...schema import Axis, BadInput, Cancelled, Frame, InstrumentFault, LimitExceeded, spectrum_frame
from ..base import CancelToken
from .link import ProbeLost
from .scanner import BridgeScanner

if TYPE_CHECKING:
    from .client import DigitalMicrograph


class NoEnergies(InstrumentFault):
    """The camera's rows are no spectra that GMS could calibrate."""


class BridgeSpectrometer:
    """A camera behind an energy filter, summed over the rows of its band."""

    def __init__(self, instrument: DigitalMicrograph) -> None:
        self._instrument = instrument
        self._range = instrument.settings.energy_range_ev
        self._tags: dict[str, Any] = {}
        self._like: Frame | None = None
        self._learn()

    def _learn(self) -> None:
        """Channels and energy axis, from a short exposure with the beam parked."""
        instrument = self._instrument
        head, (counts,) = instrument.link.call("spectrum", {**self.exposure(0.01), "tags": True})
        self._channels = len(counts)
        self._tags, self._like = head["tags"], None
        origin, scale, unit = head["axis"]
        settings = instrument.settings
        calibrated = unit.strip().lower() == "ev" and scale > 0
        if settings.dispersion_ev is None and not calibrated:
            raise NoEnergies(
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
            self._instrument.ensure_field()
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
        """A calibrated spectrum.

        The first one of an energy axis is validated; the others are like it, and made without that: it would take longer
        than all the rest of a short exposure.
        """
        metadata: dict[str, Any] = {
            "simulated": self._instrument.info.simulated,
            "exposure_started_s": started,
            "exposure_finished_s": finished,
            "exposure_s": exposure_s,
            "y_nm": place[0],
            "x_nm": place[1],
            "beam_current_pa": self._instrument.beam_current_pa,
            "dm_tags": self._tags,
        }
        known, offset = self._like, self.energy_offset_ev
        axis = None if known is None else known.axes[0]
        if known is None or axis is None or (axis.scale, axis.offset) != (self._dispersion, offset) or counts.ndim != 1:
            frame = spectrum_frame(
                counts, dispersion_ev=self._dispersion, offset_ev=offset, signal=self.signal, metadata=metadata
            )
            self._like = frame
            return frame
        data = counts.view()
        data.flags.writeable = False
        return Frame.model_construct(
            data=data, axes=known.axes, signal=known.signal, quantity=known.quantity, metadata=metadata
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
        binning = self._instrument.settings.camera_binning
        args = {"exposure_s": exposure_s, "binning": [binning, binning]}
        head, (data,) = self._instrument.link.call("image", args, cancel=cancel)
        scale = self._instrument.settings.camera_mrad_per_pixel or 1.0
        axes = tuple(
            Axis(name=name, units="mrad", scale=scale, offset=-scale * (size - 1) / 2)
            for name, size in zip(("theta_y", "theta_x"), data.shape, strict=True)
        )
        metadata = {
            "simulated": self._instrument.info.simulated, "exposure_started_s": head["started"],
            "exposure_finished_s": head["finished"], "exposure_s": exposure_s, "dm_tags": head["tags"],
            "high_tension_v": self._instrument.info.high_tension_v,
        }  # fmt: skip
        return Frame(data=data, axes=axes, signal="Camera", metadata=metadata)
