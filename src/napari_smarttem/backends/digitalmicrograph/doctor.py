"""``smarttem check``: tries what a server offers, within safe limits, and says what works."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ...schema import SmartTEMError
from . import connect
from .client import DigitalMicrograph

NEVER = threading.Event()


@dataclass(frozen=True)
class Finding:
    """One thing that was tried.

    Attributes
    ----------
    what : str
    status : {"works", "absent", "fails"}
        ``"absent"`` is no fault: this microscope, or this GMS, has it not.
    note : str
        What was found, or the reason.
    ms : float
        How long it took.
    """

    what: str
    status: str
    note: str
    ms: float


def examine(address: str, token: str, say: Callable[[Finding], None] = lambda _finding: None) -> list[Finding]:
    """Connect and try each capability.

    The beam is blanked first and stays so where there is a blanker; without one it is on the specimen for about 0.1 s. The
    probe is parked in the end; the stage is read and not moved; filter settings are read and not changed.
    """
    findings: list[Finding] = []

    def attempt(what: str, action: Callable[[], str | None]) -> bool:
        began = time.perf_counter()
        try:
            note = action()
            status = "works" if note is not None else "absent"
        except SmartTEMError as error:
            status, note = "fails", str(error)
        findings.append(Finding(what, status, note or "", 1e3 * (time.perf_counter() - began)))
        say(findings[-1])
        return status != "fails"

    held: list[DigitalMicrograph] = []

    def open_it() -> str:
        held.append(connect(address, token, overview_pixels=256))
        return held[0].info.name

    if not attempt("connection", open_it):
        return findings
    instrument = held[0]
    try:
        for what, action in _trials(instrument).items():
            attempt(what, action)
    finally:
        instrument.close()
    return findings


def _trials(instrument: DigitalMicrograph) -> dict[str, Callable[[], str | None]]:
    described, scanner, spectrometer = instrument.described, instrument.scanner, instrument.spectrometer
    assert scanner is not None
    middle = scanner.field.height_nm / 2

    def round_trip() -> str:
        times = []
        for _ in range(20):
            began = time.perf_counter()
            instrument.link.call("probe_at")
            times.append(1e3 * (time.perf_counter() - began))
        return f"{statistics.median(times):.2f} ms there and back"

    def blanker() -> str | None:
        if instrument.blanker is None:
            return None
        instrument.blanker.set_blanked(True)
        return "the beam is blanked"

    def scan() -> str:
        side = min(64, int(instrument.geometry["size"]))
        frames = scanner.scan(
            field=scanner.field, shape=(side, side), dwell_s=1e-5, signals=scanner.signals, cancel=NEVER
        )
        return f"{', '.join(frame.signal for frame in frames)}; field {scanner.field.width_nm:.4g} nm"

    def probe() -> str:
        scanner.move_probe(middle, middle)
        found, _ = instrument.link.call("probe_at")
        scanner.park_probe()
        return f"set to pixel ({found['at'][0]:.1f}, {found['at'][1]:.1f}) of the reference, seen there, and parked"

    def spectrum() -> str | None:
        if spectrometer is None:
            return None
        scanner.move_probe(middle, middle)
        try:
            frame = spectrometer.acquire_spectrum(0.05, NEVER)
        finally:
            scanner.park_probe()
        (axis,) = frame.axes
        return f"{frame.shape[0]} channels of {axis.scale:g} eV from {axis.offset:g} eV"

    def energy_filter() -> str | None:
        if described["filter"] is None:
            return None
        found, _ = instrument.link.call("filter")
        index = "" if found["dispersion_index"] is None else f", dispersion index {found['dispersion_index']:g}"
        known = ", ".join(described["filter_functions"])
        return f"energy loss {found['energy_ev']:g} eV{index}; GMS knows {known}"

    def stage() -> str | None:
        if instrument.stage is None:
            return None
        return ", ".join(f"{name} {value:.5g}" for name, value in instrument.stage.position().items())

    def optics() -> str:
        found, _ = instrument.link.call("optics")
        known = {name: value for name, value in found.items() if value is not None}
        return ", ".join(f"{name} {value}" for name, value in known.items()) or "GMS says nothing"

    def tags() -> str:
        return f"{len(instrument.tags())} of GMS's tags are kept with every frame"

    return {
        "round trip": round_trip, "blanker": blanker, "scan": scan, "probe": probe, "spectrum": spectrum,
        "energy filter": energy_filter, "stage": stage, "optics": optics, "tags": tags,
    }  # fmt: skip


def as_report(address: str, findings: list[Finding]) -> dict[str, Any]:
    """The findings as plain values; ``ok`` is True where nothing fails."""
    return {
        "address": address,
        "ok": all(f.status != "fails" for f in findings),
        "findings": [asdict(f) for f in findings],
    }
