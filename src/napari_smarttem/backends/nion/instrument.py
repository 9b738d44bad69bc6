"""Nion's column as an `Instrument`: frames of the wire over a pipe to `host.py`."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydantic import JsonValue

from ...schema import (
    Axis,
    BadInput,
    Cancelled,
    ControlInfo,
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
from ..digitalmicrograph.pyautomic import overlap
from ..digitalmicrograph.wire import HEADER_CAP, PREFIX, REPLY_BODY_CAP, check_prefix, pack, unpack

PYTHON_VARIABLE = "SMARTTEM_NION_PYTHON"
HOST = Path(__file__).with_name("host.py")
ANSWER_S = 120.0
LONGEST_FRAME_S = 0.5
SIZES = (32, 64, 128, 256, 512, 1024)


class NionInstrument:
    """Scanner (HAADF, MAADF), EELS, Ronchigram camera and defocus of Nion's simulator."""

    signals = ("HAADF", "MAADF")
    native_shape = None
    signal = "EELS"
    cameras = ("Ronchigram",)

    def __init__(self, python: str, field_nm: float, sample: int, beam_current_pa: float | None) -> None:
        if not 10.0 <= field_nm <= 1000.0 or sample not in (0, 1, 2):
            raise BadInput(f"The field is 10 to 1000 nm and the sample 0, 1 or 2; got {field_nm:g} nm and {sample}.")
        command = [python or os.environ.get(PYTHON_VARIABLE) or sys.executable, str(HOST), str(field_nm), str(sample)]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the person's own interpreter and our own file
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise BadInput(
                f"{command[0]} could not be started ({error.strerror}); give the Python of Nion's environment."
            ) from error
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self.beam_current_pa = beam_current_pa
        self.field = Field2D(y_nm=0.0, x_nm=0.0, height_nm=field_nm, width_nm=field_nm)
        self.probe_position_nm: tuple[float, float] | None = None
        try:
            found, _ = self._call("describe")
        except InstrumentFault as error:
            self.close()
            raise BadInput(
                f"Nion's simulator could not be started with {command[0]}; install nionswift-usim there, or give another python."
            ) from error
        self.channels = int(found["channels"])
        self.energy_offset_ev, self.dispersion_ev = float(found["offset_ev"]), float(found["dispersion_ev"])
        self.dispersions_ev = (self.dispersion_ev,)
        self.energy_offset_range_ev = (-100.0, 1000.0)
        self._c1_nm = float(found["c1_nm"])
        self.controls: Mapping[str, ControlInfo] = {
            "C1": ControlInfo(name="C1", units="nm", minimum=-4000.0, maximum=4000.0, largest_step=1000.0)
        }
        self.scanner = self.spectrometer = self.camera = self.optics = self
        self.stage = self.blanker = None  # the simulator's blanker blanks neither spectra nor scans
        self.info = InstrumentInfo(
            backend="nion", name="SIMULATED Nion column (nionswift-usim)", simulated=True, high_tension_v=found["high_tension_v"],
            capabilities=("scanner", "spectrometer", "camera", "optics"),
            settings={"python": python, "field_nm": field_nm, "sample": sample, "beam_current_pa": beam_current_pa},
        )  # fmt: skip
        self.park_probe()

    def _call(self, verb: str, **args: Any) -> tuple[dict[str, Any], list[np.ndarray]]:
        with self._lock:
            source, target = self._process.stdout, self._process.stdin
            if self._process.poll() is not None or source is None or target is None:
                raise InstrumentFault("Nion's process has ended; connect again.")
            watch = threading.Timer(ANSWER_S, self._process.kill)
            watch.daemon = True
            watch.start()
            try:
                for piece in pack({"id": next(self._ids), "verb": verb, "args": args}):
                    target.write(piece)
                target.flush()
                header, body = check_prefix(_exactly(source, PREFIX.size), HEADER_CAP, REPLY_BODY_CAP)
                answer, arrays = unpack(_exactly(source, header), _exactly(source, body))
            except OSError as error:
                raise InstrumentFault(f"Nion's process broke off in {verb}; connect again.") from error
            finally:
                watch.cancel()
        if answer.get("ok") is not True:
            raise InstrumentFault(
                f"Nion's simulator failed in {verb} ({str(answer.get('error')).rstrip('.')}).", transient=True
            )
        return answer["result"], arrays

    # -- scanning

    def scan(
        self, *, field: Field2D, shape: tuple[int, int], dwell_s: float, signals: tuple[str, ...], cancel: CancelToken
    ) -> tuple[Frame, ...]:
        """See `base.Scanner`. The whole field is scanned always: only so the scan context is what positions refer to."""
        names = signals or self.signals[:1]
        if set(names) - set(self.signals):
            raise BadInput(f"There is no detector {', '.join(names)}; there is {', '.join(self.signals)}.")
        side = self.field.height_nm
        ends = field.y_nm + field.height_nm, field.x_nm + field.width_nm
        if min(field.y_nm, field.x_nm) < -1e-6 * side or max(ends) > side * (1 + 1e-6):
            raise LimitExceeded("The scan leaves the field; nothing was scanned.")
        if cancel.is_set():
            raise Cancelled("The scan was stopped before it began.")
        pixel = field.height_nm / shape[0], field.width_nm / shape[1]
        size = next((n for n in SIZES if side / n <= min(pixel) * 1.001), SIZES[-1])
        samples = pixel[0] * pixel[1] / (side / size) ** 2
        self.probe_position_nm = None
        head, arrays = self._call("scan", size=size, dwell_us=max(0.5, dwell_s * 1e6 / max(1.0, samples)))
        self.park_probe()
        down = overlap(size, side, field.y_nm, pixel[0], shape[0])
        across = overlap(size, side, field.x_nm, pixel[1], shape[1])
        metadata = {**self._stamps(head), "dwell_s": dwell_s, "scanned_pixels": size}
        return tuple(
            image_frame(
                (down @ arrays[self.signals.index(name)] @ across.T).astype(np.float32),
                pixel_nm=pixel,
                origin_nm=(field.y_nm + pixel[0] / 2, field.x_nm + pixel[1] / 2),
                signal=name,
                metadata=metadata,
            )
            for name in names
        )

    def move_probe(self, y_nm: float, x_nm: float) -> None:
        """See `base.Scanner`."""
        side = self.field.height_nm
        if not self.field.contains(y_nm, x_nm):
            raise LimitExceeded(
                f"(y {y_nm:.4g}, x {x_nm:.4g}) nm lies outside the field of {side:g} nm; nothing was moved."
            )
        self._call("move", y=y_nm / side, x=x_nm / side)
        self.probe_position_nm = (float(y_nm), float(x_nm))

    def park_probe(self) -> None:
        """See `base.Scanner`."""
        self._call("park")
        self.probe_position_nm = None

    # -- spectra and images

    def set_energy_offset_ev(self, value: float) -> None:
        """Set the energy of channel 0."""
        low, high = self.energy_offset_range_ev
        if not low <= value <= high:
            raise LimitExceeded(f"The energy offset must lie between {low:g} and {high:g} eV, got {value:g} eV.")
        self.energy_offset_ev = float(self._call("set_energy", shift_ev=float(value))[0]["offset_ev"])

    def set_dispersion_ev(self, value: float) -> None:
        """Only what it is."""
        if not math.isclose(value, self.dispersion_ev, rel_tol=1e-6):
            raise LimitExceeded(f"The dispersion is {self.dispersion_ev:g} eV/channel and cannot be set to {value:g}.")

    def acquire_spectrum(self, exposure_s: float, cancel: CancelToken) -> Frame:
        """See `base.Spectrometer`."""
        if self.probe_position_nm is None:
            raise InstrumentFault("The probe is parked; put it on a place before recording a spectrum.")
        y, x = self.probe_position_nm
        head, total = self._exposed("spectrum", exposure_s, cancel)
        return spectrum_frame(
            total, dispersion_ev=float(head["dispersion_ev"]), offset_ev=float(head["offset_ev"]), signal=self.signal,
            metadata={**self._stamps(head), "exposure_s": exposure_s, "y_nm": y, "x_nm": x},
        )  # fmt: skip

    def acquire_image(self, exposure_s: float, cancel: CancelToken, camera: str | None = None) -> Frame:
        """A Ronchigram; see `base.Camera`."""
        if camera not in (None, *self.cameras):
            raise BadInput(f"There is no camera {camera!r}; there is {', '.join(self.cameras)}.")
        head, total = self._exposed("image", exposure_s, cancel)
        scale = float(head["mrad"])
        axes = tuple(
            Axis(name=name, units="mrad", scale=scale, offset=-scale * (size - 1) / 2)
            for name, size in zip(("theta_y", "theta_x"), total.shape, strict=True)
        )
        return Frame(
            data=total, axes=axes, signal="Ronchigram", metadata={**self._stamps(head), "exposure_s": exposure_s}
        )

    def _exposed(self, verb: str, exposure_s: float, cancel: CancelToken) -> tuple[dict[str, Any], np.ndarray]:
        if not 1e-3 <= exposure_s <= 600.0:
            raise LimitExceeded(f"The exposure must lie between 0.001 and 600 s, got {exposure_s:g} s.")
        frames = max(1, math.ceil(exposure_s / LONGEST_FRAME_S - 1e-9))
        head: dict[str, Any] = {}
        total: np.ndarray | None = None
        for _ in range(frames):
            if cancel.is_set():
                raise Cancelled("The exposure was stopped before it was over.")
            found, (data,) = self._call(verb, exposure_s=exposure_s / frames)
            head = {**found, "started": head.get("started", found["started"])}
            total = data if total is None else total + data
        assert total is not None
        return head, total

    # -- optics

    def get(self) -> dict[str, float]:
        """The defocus."""
        return {"C1": self._c1_nm}

    def set(self, values: Mapping[str, float]) -> None:
        """Set the defocus; the frame that was under way is left aside by the next exposure."""
        for name, value in values.items():
            if name not in self.controls:
                raise BadInput(f"There is no optics control {name!r}; there is C1.")
            if not -4000.0 <= value <= 4000.0:
                raise LimitExceeded(f"C1 = {value:g} nm is outside -4000 to 4000 nm; nothing was moved.")
        if values:
            self._c1_nm = float(self._call("set_c1", c1_nm=float(values["C1"]))[0]["c1_nm"])

    # -- the rest

    def now_s(self) -> float:
        """The clock of this computer, which the other process has too."""
        return time.monotonic()

    def plan_context(self) -> PlanContext:
        """The field and the detectors."""
        return PlanContext(field=self.field, signals=self.signals, beam_current_pa=self.beam_current_pa)

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None and self._process.stdin is not None:
            self._process.stdin.close()
            try:
                self._process.wait(5.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(5.0)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _stamps(self, head: Mapping[str, Any]) -> dict[str, JsonValue]:
        return {
            "simulated": True, "exposure_started_s": head["started"], "exposure_finished_s": head["finished"],
            "beam_current_pa": self.beam_current_pa,
        }  # fmt: skip


def _exactly(source: IO[bytes], size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise BrokenPipeError("the other process has ended")
    return data
