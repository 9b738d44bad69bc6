"""A microscope with a bright box in the middle of its field: the smallest backend that can do the main job."""

import time

import numpy as np

from napari_smarttem.schema import BadInput, Cancelled, Field2D, InstrumentFault, InstrumentInfo, LimitExceeded
from napari_smarttem.schema import PlanContext, image_frame, spectrum_frame

FIELD = Field2D(y_nm=0.0, x_nm=0.0, height_nm=100.0, width_nm=100.0)
BOX = Field2D(y_nm=40.0, x_nm=30.0, height_nm=20.0, width_nm=40.0)


def connect(seed: int = 0):
    """A made-up microscope with a bright box in its field of view."""
    return BoxMicroscope(seed)


class BoxMicroscope:
    """Scanner and spectrometer in one object."""

    signals, field, native_shape, signal, channels = ("HAADF",), FIELD, None, "EELS", 512
    energy_offset_ev, dispersion_ev, dispersions_ev, energy_offset_range_ev = 0.0, 1.0, (1.0,), (0.0, 0.0)
    camera = optics = stage = blanker = beam_current_pa = probe_position_nm = None

    def __init__(self, seed):
        self.scanner = self.spectrometer = self
        self._random = np.random.default_rng(seed)
        self.info = InstrumentInfo(
            backend="box",
            name="SIMULATED box",
            simulated=True,
            capabilities=("scanner", "spectrometer"),
            settings={"seed": seed},
        )

    def now_s(self):
        return time.monotonic()

    def plan_context(self):
        return PlanContext(field=FIELD, signals=self.signals)

    def close(self):
        self.park_probe()

    def scan(self, *, field, shape, dwell_s, signals, cancel):
        if set(signals) - set(self.signals):
            raise BadInput(f"There is no detector {signals}; there is HAADF.")
        end = (field.y_nm + field.height_nm, field.x_nm + field.width_nm)
        if not (FIELD.contains(field.y_nm, field.x_nm) and FIELD.contains(*end)):
            raise LimitExceeded("The scan leaves the field; nothing was scanned.")
        pixel = field.height_nm / shape[0], field.width_nm / shape[1]
        origin = field.y_nm + pixel[0] / 2, field.x_nm + pixel[1] / 2
        places = [origin[axis] + pixel[axis] * np.arange(shape[axis]) for axis in (0, 1)]
        inside = np.array([[BOX.contains(y, x) for x in places[1]] for y in places[0]])
        stamps = self._expose(shape[0] * shape[1] * dwell_s, cancel) | {"dwell_s": dwell_s}
        self.park_probe()
        counts = self._random.poisson(np.where(inside, 100.0, 10.0))
        return (image_frame(counts, pixel_nm=pixel, origin_nm=origin, signal="HAADF", metadata=stamps),)

    def move_probe(self, y_nm, x_nm):
        if not FIELD.contains(y_nm, x_nm):
            raise LimitExceeded(f"({y_nm:g}, {x_nm:g}) nm lies outside the field of 100 nm; nothing was moved.")
        self.probe_position_nm = (y_nm, x_nm)

    def park_probe(self):
        self.probe_position_nm = None

    def set_energy_offset_ev(self, value):
        if value != 0:
            raise LimitExceeded(f"The energy offset is fixed at 0 eV and cannot be {value:g} eV.")

    def set_dispersion_ev(self, value):
        if value != 1:
            raise LimitExceeded(f"The dispersion is fixed at 1 eV per channel and cannot be {value:g} eV.")

    def acquire_spectrum(self, exposure_s, cancel):
        if self.probe_position_nm is None:
            raise InstrumentFault("The probe is parked; put it on a place before recording a spectrum.")
        if not 0 < exposure_s < 60:
            raise LimitExceeded(f"The exposure must lie between 0 and 60 s, got {exposure_s:g} s.")
        stamps = self._expose(exposure_s, cancel) | {"exposure_s": exposure_s}
        height = 1e5 * exposure_s * (1.0 + BOX.contains(*self.probe_position_nm))
        counts = self._random.poisson(height * np.exp(-np.arange(self.channels) / 80.0))
        return spectrum_frame(counts, dispersion_ev=1.0, offset_ev=0.0, signal="EELS", metadata=stamps)

    def _expose(self, seconds, cancel):
        started = self.now_s()
        if cancel.is_set() or cancel.wait(seconds):
            raise Cancelled("The exposure was stopped before it was over.")
        return {"simulated": True, "exposure_started_s": started, "exposure_finished_s": self.now_s()}
