"""What the engine costs: per step, to stop, and on the thread of the window.

The steps are measured on an instrument that takes no time, so that what is left is ours. What needs a window runs in programs of
its own (`parts.window`); without a display those figures are None.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.session import Session
from ..schema import PlanSpec
from .parts.instant import InstantInstrument
from .report import figure, report

STEPS, CHANNELS = 1000, 2048
_WINDOW_TIMEOUT_S = 300.0


def run(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Measure; the figures of ``smarttem bench engine``."""
    rng = np.random.default_rng(seed)
    steps = STEPS // 5 if quick else STEPS
    plain, synced = step_overhead_ms(steps, sync=False), step_overhead_ms(steps, sync=True)
    cancels = [cancel_ms(float(rng.uniform(0.0, 0.05))) for _ in range(5 if quick else 20)]
    window = _window_figures(300 if quick else 1000, repeats=1 if quick else 3)
    figures = {
        "step_overhead_ms": figure(float(np.median(plain)), "<=", 2.0, p95=float(np.percentile(plain, 95))),
        "step_overhead_synced_ms": figure(float(np.median(synced)), "<=", 8.0, p95=float(np.percentile(synced, 95))),
        "cancel_ms": figure(max(cancels), "<=", 200.0, median=float(np.median(cancels))),
        "gui_longest_block_ms": figure(
            window.get("longest_ours_ms"),
            "<=",
            50.0,
            drawing_and_others_ms=window.get("longest_other_ms"),
            first_layers_ms=window.get("first_look_ms"),
        ),
        "gui_updates_per_s": figure(window.get("updates_per_s"), ">=", 10.0, points_per_s=window.get("points_per_s")),
        "points_restyle_10k_ms": figure(window.get("restyle_ms"), "<=", 60.0),
        "window_drag_ms": figure(
            window.get("own_ms"),
            "<=",
            50.0,
            sums_ms=window.get("map_ms"),
            canvas_painted_ms=window.get("painted_ms"),
            maps_per_s=window.get("maps_per_s"),
            last_position_wins=window.get("last_wins"),
        ),
        "startup_added_s": figure(
            window.get("startup_added_s"), "<=", 1.5, napari_alone_s=window.get("napari_alone_s")
        ),
    }
    return report("engine", seed, figures)


def step_overhead_ms(steps: int, *, sync: bool) -> list[float]:
    """Milliseconds from one spectrum's acknowledgement to the next, over a run of `steps` of them."""
    with tempfile.TemporaryDirectory(prefix="smarttem-bench-") as folder, Session(Path(folder), sync=sync) as session:
        session.use(InstantInstrument(channels=CHANNELS))
        times: list[float] = []
        session.step_finished.connect(lambda _result: times.append(time.perf_counter()))
        settings = {"chooser": "random", "points": steps, "spacing_nm": 0.1, "exposure_s": 1e-3, "drift_every": 0}
        session.start(PlanSpec(kind="acquisition", settings=settings), policy="approve_all")
        session.wait()
        if session.status.outcome != "finished":
            raise RuntimeError(f"the bench's run ended otherwise: {session.status.reason}")
    return [1e3 * float(d) for d in np.diff(times)[-steps + 1 :]]


def cancel_ms(after_s: float) -> float:
    """Milliseconds from `stop` to the end of the run, from inside a long exposure."""
    with tempfile.TemporaryDirectory(prefix="smarttem-bench-") as folder, Session(Path(folder)) as session:
        instrument = InstantInstrument(channels=CHANNELS)
        session.use(instrument)
        session.step_finished.connect(lambda _result: setattr(instrument, "seconds_per_exposure", 30.0))
        settings = {"chooser": "random", "points": 20, "exposure_s": 30.0, "drift_every": 0}
        session.start(PlanSpec(kind="acquisition", settings=settings), policy="approve_all")
        while getattr(session.status.step, "kind", "") != "acquire":
            time.sleep(0.001)
        time.sleep(after_s)
        began = time.perf_counter()
        session.stop()
        session.wait()
        return 1e3 * (time.perf_counter() - began)


def _window_figures(points: int, repeats: int) -> dict[str, float]:
    """Figures from programs with a window; empty without a display."""
    prefix = _display()
    if prefix is None:
        return {}
    alone = [_window_program(prefix, "startup", "--plain")["seconds"] for _ in range(repeats)]
    ours = [_window_program(prefix, "startup")["seconds"] for _ in range(repeats)]
    restyle = _window_program(prefix, "restyle", "--points", "10000")
    acquire = _window_program(prefix, "acquire", "--points", str(points))
    return {
        "napari_alone_s": float(np.median(alone)),
        "startup_added_s": float(np.median(ours) - np.median(alone)),
        "restyle_ms": restyle["milliseconds"],
        **acquire,
        **_window_program(prefix, "drag"),
    }


def _display() -> list[str] | None:
    """What to put before a program that needs a window: nothing with a screen, xvfb-run without, None where neither is there."""
    if sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return []
    xvfb = shutil.which("xvfb-run")
    return None if xvfb is None else [xvfb, "-a", "-s", "-screen 0 1600x1000x24 +extension GLX"]


def _window_program(prefix: list[str], *arguments: str) -> dict[str, float]:
    command = [*prefix, sys.executable, "-m", "napari_smarttem.bench.parts.window", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_WINDOW_TIMEOUT_S)  # noqa: S603
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
