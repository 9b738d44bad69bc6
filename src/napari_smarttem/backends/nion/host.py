"""Runs Nion Swift's simulated instrument in a process of its own and answers frames of the wire on its standard streams.

Started by `nion.connect` with the Python of an environment that has ``nionswift-usim``; it imports nothing of napari-smarttem
but the file that holds the rules of the wire, so that it needs neither pydantic nor napari. Traps of that simulator that
are taken care of: the scan context is set by viewed frames only, so one is viewed before any spectrum; of a camera's two arrays
the last one is the spectrum; the first frame after a change is old; its blanker does not blank spectra, so there is none here.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import math
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

import numpy as np

RULES = pathlib.Path(__file__).resolve().parent.parent / "digitalmicrograph" / "server.py"


def _rules() -> Any:
    spec = importlib.util.spec_from_file_location("smarttem_wire_rules", RULES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Column:
    """Nion's simulated column: scan, EELS, Ronchigram."""

    def __init__(self, field_nm: float, sample: int) -> None:
        hardware = importlib.import_module("nion.instrumentation.HardwareSource")
        camera_base = importlib.import_module("nion.instrumentation.camera_base")
        scan_base = importlib.import_module("nion.instrumentation.scan_base")
        self._controller = importlib.import_module("nion.instrumentation.stem_controller")
        devices = importlib.import_module("nion.usim_device.DeviceConfiguration")
        self._geometry = importlib.import_module("nion.utils.Geometry")
        self.field_nm = field_nm
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        hardware.run()
        camera_base.run(pathlib.Path(tempfile.mkdtemp(prefix="smarttem-nion-")))
        scan_base.run(pathlib.Path(tempfile.mkdtemp(prefix="smarttem-nion-")))
        self._controller.register_event_loop(loop)
        configuration = devices.AcquisitionContextConfiguration(sample_index=sample, set_configuration_location=False)
        configuration.run()
        get = hardware.HardwareSourceManager().get_hardware_source_for_hardware_source_id
        self.scanner, self.eels = get("usim_scan_device"), get("usim_eels_camera")
        self.ronchigram, self.stem = get("usim_ronchigram_camera"), configuration.instrument
        for channel in range(self.scanner.channel_count):
            self.scanner.set_channel_enabled(channel, channel < 2)
        self.scan({"size": 32, "dwell_us": 1.0})

    def describe(self, _args: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Names, axes and the defocus."""
        head, (spectrum,) = self.spectrum({"exposure_s": 0.01})
        return {
            "signals": ["HAADF", "MAADF"], "channels": len(spectrum), "offset_ev": head["offset_ev"],
            "dispersion_ev": head["dispersion_ev"], "high_tension_v": 200000.0, "c1_nm": self._c1(),
        }, []  # fmt: skip

    def scan(self, args: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """A viewed frame over the whole field, both detectors."""
        parameters = self.scanner.get_frame_parameters(0)
        size = int(args["size"])
        parameters.pixel_size = self._geometry.IntSize(size, size)
        parameters.pixel_time_us = float(args["dwell_us"])
        parameters.fov_nm = self.field_nm
        started = time.monotonic()
        frames = _view(self.scanner, parameters)
        return _stamps(started), [np.asarray(frame.data, dtype=np.float32) for frame in frames[:2]]

    def move(self, args: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Probe to fractions of the scan context."""
        self.stem.probe_position = self._geometry.FloatPoint(y=float(args["y"]), x=float(args["x"]))
        return {}, []

    def park(self, _args: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Probe away."""
        self.stem.probe_position = None
        return {}, []

    def spectrum(self, args: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """The projected spectrum: the last array; the frame under way when it was asked for is left aside."""
        parameters = self.eels.get_frame_parameters(0)
        parameters.exposure_ms, parameters.binning = 1e3 * float(args["exposure_s"]), 1
        parameters.processing = "sum_project"
        started = time.monotonic()
        data = _view(self.eels, parameters, skip=1)[-1]
        axis = data.dimensional_calibrations[-1]
        head = {**_stamps(started), "offset_ev": float(axis.offset), "dispersion_ev": float(axis.scale)}
        return head, [np.asarray(data.data, dtype=np.float32).reshape(-1)]

    def image(self, args: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """A Ronchigram, binned by 4; its pixel in mrad."""
        parameters = self.ronchigram.get_frame_parameters(0)
        parameters.exposure_ms, parameters.binning = 1e3 * float(args["exposure_s"]), 4
        started = time.monotonic()
        data = _view(self.ronchigram, parameters, skip=1)[0]
        head = {**_stamps(started), "mrad": 1e3 * float(data.dimensional_calibrations[-1].scale)}
        return head, [np.asarray(data.data, dtype=np.float32)]

    def set_energy(self, args: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Shift the spectrum, and say where it begins now."""
        self.stem.SetVal("EELS_MagneticShift_Offset", float(args["shift_ev"]))
        head, _ = self.spectrum({"exposure_s": 0.01})
        return head, []

    def set_c1(self, args: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Defocus, in nm."""
        self.stem.SetVal("C10", 1e-9 * float(args["c1_nm"]))
        return {"c1_nm": self._c1()}, []

    def _c1(self) -> float:
        return 1e9 * float(self.stem.GetVal("C10"))


COMMANDS = ("describe", "scan", "move", "park", "spectrum", "image", "set_energy", "set_c1")


def _view(source: Any, parameters: Any, skip: int = 0) -> Any:
    source.set_current_frame_parameters(parameters)
    source.start_playing()
    try:
        for _ in range(skip):
            source.get_next_xdatas_to_finish(timeout=60.0)
        return source.get_next_xdatas_to_finish(timeout=60.0)
    finally:
        source.abort_playing(sync_timeout=5.0)


def _stamps(started: float) -> dict[str, Any]:
    return {"started": started, "finished": time.monotonic()}


def main(field_nm: float, sample: int) -> int:
    """Answer until the input ends."""
    rules = _rules()
    source, target = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what others print must not get into the frames
    column = Column(field_nm, sample)
    while True:
        prefix = source.read(rules.PREFIX.size)
        if len(prefix) < rules.PREFIX.size:
            return 0
        _, length, body = rules.PREFIX.unpack(prefix)
        header, _ = rules.unpack(source.read(length), source.read(body))
        arrays: list[np.ndarray] = []
        try:
            if header["verb"] not in COMMANDS:
                raise ValueError(f"unknown command {header['verb']!r}")
            result, arrays = getattr(column, header["verb"])(header.get("args", {}))
            bad = [name for name, value in result.items() if isinstance(value, float) and not math.isfinite(value)]
            answer = {"id": header["id"], "ok": not bad, "result": {n: v for n, v in result.items() if n not in bad}}
        except Exception as error:  # whatever it is, the other process is told, and this one lives on
            answer = {"id": header["id"], "ok": False, "error": f"{type(error).__name__}: {error}"}
        for piece in rules.pack(answer, arrays):
            target.write(piece)
        target.flush()


if __name__ == "__main__":
    sys.stdout.flush()
    code = main(float(sys.argv[1]), int(sys.argv[2]))
    # its acquisition threads are not all daemons, and everything has been said
    os._exit(code)
