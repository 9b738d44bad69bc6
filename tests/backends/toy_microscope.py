"""The least microscope that has every capability: an own clock, a list of what was done to it, and nothing else."""

from __future__ import annotations

import threading

import numpy as np

from napari_smarttem.schema import (
    Axis,
    Cancelled,
    ControlInfo,
    Field2D,
    Frame,
    InstrumentFault,
    InstrumentInfo,
    PlanContext,
    image_frame,
    spectrum_frame,
)


class ToyMicroscope:
    """10 x 20 nm field, 16 pA."""

    def __init__(self, *, blanker=True, current=16.0):
        self.info = InstrumentInfo(backend="toy", name="Toy microscope", simulated=False)
        self.done: list[str] = []
        self.time = 0.0
        self.closed = 0
        self._current = current
        self.unblanked_s = 0.0
        self.during_exposure = lambda: None
        self.scanner, self.spectrometer, self.camera = ToyScanner(self), ToySpectrometer(self), ToyCamera(self)
        self.optics, self.stage = ToyOptics(self), ToyStage(self)
        self.blanker = ToyBlanker(self) if blanker else None

    @property
    def beam_current_pa(self):
        return self._current

    def now_s(self):
        return self.time

    def plan_context(self):
        return PlanContext(field=self.scanner.field, signals=self.scanner.signals, beam_current_pa=self._current)

    def close(self):
        self.closed += 1

    def expose(self, name, seconds, cancel):
        started = self.time
        self.done.append(name)
        for _ in range(10):
            if cancel.is_set():
                raise Cancelled(f"{name} was stopped.")
            self.time += seconds / 10
            if self.blanker is not None and not self.blanker.blanked:
                self.unblanked_s += seconds / 10
            self.during_exposure()
        return {"exposure_started_s": started, "exposure_finished_s": self.time, "exposure_s": seconds}


class ToyScanner:
    signals = ("HAADF", "BF")
    native_shape = None
    field = Field2D(y_nm=0, x_nm=0, height_nm=10, width_nm=20)

    def __init__(self, owner):
        self.owner, self.probe_position_nm = owner, None

    def scan(self, *, field, shape, dwell_s, signals, cancel):
        stamps = self.owner.expose("scan", shape[0] * shape[1] * dwell_s, cancel)
        return tuple(image_frame(np.ones(shape, np.float32), pixel_nm=1.0, signal=s, metadata=stamps) for s in signals)

    def move_probe(self, y_nm, x_nm):
        self.owner.done.append("move_probe")
        self.probe_position_nm = (y_nm, x_nm)

    def park_probe(self):
        self.owner.done.append("park_probe")
        self.probe_position_nm = None


class ToySpectrometer:
    signal, channels = "EELS", 32
    dispersions_ev = (0.1, 0.5)
    energy_offset_range_ev = (-100.0, 2000.0)

    def __init__(self, owner):
        self.owner, self.energy_offset_ev, self.dispersion_ev = owner, 0.0, 0.5

    def set_energy_offset_ev(self, value):
        self.energy_offset_ev = value

    def set_dispersion_ev(self, value):
        self.dispersion_ev = value

    def acquire_spectrum(self, exposure_s, cancel):
        stamps = self.owner.expose("acquire_spectrum", exposure_s, cancel)
        return spectrum_frame(
            np.ones(self.channels, np.float32), dispersion_ev=self.dispersion_ev, offset_ev=self.energy_offset_ev,
            signal=self.signal, metadata=stamps,
        )  # fmt: skip


class ToyCamera:
    cameras = ("ronchigram", "sorter")

    def __init__(self, owner):
        self.owner = owner

    def acquire_image(self, exposure_s, cancel, camera=None):
        stamps = self.owner.expose("acquire_image", exposure_s, cancel)
        axes = (Axis(name="theta_y", units="mrad"), Axis(name="theta_x", units="mrad"))
        return Frame(data=np.ones((8, 8)), axes=axes, signal=camera or self.cameras[0], metadata=stamps)


class ToyOptics:
    def __init__(self, owner):
        self.owner = owner
        self.controls = {
            "C1": ControlInfo(name="C1", units="nm", minimum=-1000, maximum=1000, largest_step=100),
            "A1.x": ControlInfo(name="A1.x", units="nm", minimum=-50, maximum=50, largest_step=20),
        }
        self.values = {"C1": 0.0, "A1.x": 0.0}
        self.stuck = False

    def get(self):
        return dict(self.values)

    def set(self, values):
        if self.stuck:
            raise InstrumentFault("The lens supply does not answer.")
        self.owner.done.append("set_optics")
        self.values.update(values)


class ToyStage:
    def __init__(self, owner):
        self.owner = owner
        self.values = {"y_nm": 0.0, "x_nm": 0.0, "alpha_mrad": 0.0}

    def position(self):
        return dict(self.values)

    def move(self, values):
        self.owner.done.append("move_stage")
        self.values.update(values)


class ToyBlanker:
    def __init__(self, owner):
        self.owner, self.blanked, self.stuck = owner, False, False
        self.lock = threading.Lock()

    def set_blanked(self, blanked):
        if self.stuck:
            raise InstrumentFault("The blanker does not answer.")
        self.owner.done.append("blank" if blanked else "unblank")
        self.blanked = blanked
