"""Measures many points in virtual time and looks for what is left behind: images, parameter sets, tags, threads, memory."""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path
from typing import Any

from ...backends.digitalmicrograph import connect
from ...backends.digitalmicrograph.fake_gms import run
from ...backends.guard import Guard

NEVER = threading.Event()


def soak(points: int, *, scan_every: int = 100, exposure_s: float = 0.8) -> dict[str, Any]:
    """Move, expose, park `points` times, with a drift image now and then.

    Returns
    -------
    dict
        ``points``, virtual ``hours``, ``leaks`` of the fake GMS while connected (two reference images are meant to be there)
        and after; in percent of what it was after a tenth of the points, ``growth_blocks`` of the memory blocks Python has
        allocated and ``growth_resident`` of the memory the process has (None where Linux does not say; client and server
        are one process here); ``threads`` more than then; ``violations`` of the thread rule.
    """
    with run(instant=True, speed=None) as running:
        instrument = connect(running.address, running.token, settle_s=0.0, vertical_binning=100, overview_pixels=64)
        guard = Guard(instrument)
        scanner, spectrometer = guard.scanner, guard.spectrometer
        assert scanner is not None
        assert spectrometer is not None
        side = scanner.field.height_nm
        first, threads, before = _memory(), 0, running.gms.leaks()
        for number in range(points):
            if number == points // 10:
                first, threads, before = _memory(), threading.active_count(), running.gms.leaks()
            if number % scan_every == 0:
                scanner.scan(field=scanner.field, shape=(32, 32), dwell_s=1e-5, signals=(), cancel=NEVER)
            scanner.move_probe((number * 0.618 % 1) * side, (number * 0.414 % 1) * side)
            spectrometer.acquire_spectrum(exposure_s, NEVER)
            scanner.park_probe()
        last = _memory()
        during, hours = running.gms.leaks(), guard.now_s() / 3600
        more = threading.active_count() - threads
        guard.close()
    return {
        "points": points,
        "hours": hours,
        "before": before,
        "during": during,
        "after": running.gms.leaks(),
        "growth_blocks": 100.0 * (last[0] / first[0] - 1),
        "growth_resident": None if not first[1] else 100.0 * (last[1] / first[1] - 1),
        "threads": more,
        "violations": len(running.gms.violations),
    }


def _memory() -> tuple[int, int]:
    """Memory blocks of Python, and bytes of the process (0 where they are not known)."""
    gc.collect()
    statistics = Path("/proc/self/statm")
    resident = int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statistics.exists() else 0
    return sys.getallocatedblocks(), resident
