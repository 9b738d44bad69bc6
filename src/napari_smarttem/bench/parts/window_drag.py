"""How quickly the map of an energy window follows a hand that drags it: our own time, and the canvas's, apart."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

SHAPE = (128, 128, 2048)
SECONDS = 4.0
MOVE_MS = 10


def drag() -> dict[str, float]:
    """Drag the window of the *Unmixing* dock over 128 x 128 spectra of 2048 channels, a move of the mouse each 10 ms.

    Returns
    -------
    dict of str to float
        ``own_ms`` and ``map_ms``: processor time of the window's thread for one new map, and of summing the counts alone (medians).
        ``painted_ms``: clock from the new map to the canvas drawn (median). ``maps_per_s``: how many of the moves were drawn.
        ``last_wins``: 1 where the map at the end is that of the window at the end, one turn of the event loop after the last move.
    """
    import napari
    from qtpy.QtCore import QEventLoop, QTimer

    from ...unmixing import unmix
    from ...widgets.base import open_dock
    from ...widgets.unmixing_bench import Unmixed
    from ...widgets.unmixing_input import Spectra
    from ...widgets.unmixing_sums import WindowSums

    def live(milliseconds: int) -> None:
        loop = QEventLoop()
        QTimer.singleShot(milliseconds, loop.quit)
        loop.exec()

    frame = _spectrum_image()
    viewer = napari.Viewer()
    dock: Any = open_dock(viewer, "Unmixing")
    result = unmix(frame, method="spa", components=3)
    dock.bench.found(result, Unmixed(Spectra("large", frame), (), {}, WindowSums(np.asarray(frame.data))))
    dock._show_result(fresh=True)
    while dock.busy:
        live(50)
    dock.show_page(3)
    dock.pixel.window.setChecked(True)
    live(1000)
    own: list[float] = []
    summed: list[float] = []
    drawn: list[float] = []
    painted: list[float] = []
    _time(dock, "_draw_window", own, drawn)
    _time(dock.bench, "window_map", summed, [])
    canvas = viewer.window._qt_viewer.canvas.native
    canvas.frameSwapped.connect(lambda: painted.append(time.perf_counter()))
    region, moves = dock.pixel.plot.region, 0
    timer = QTimer()

    def move() -> None:
        nonlocal moves
        moves += 1
        low = 300.0 + (13 * moves) % 3000
        region.setRegion((low, low + 411.0))

    timer.timeout.connect(move)
    timer.start(MOVE_MS)
    live(round(1000 * SECONDS))
    timer.stop()
    live(0)
    low, high = region.getRegion()
    energy = frame.coordinates(frame.axes[-1].name)
    expected = np.asarray(frame.data)[:, :, (energy >= low) & (energy <= high)].sum(axis=-1)
    last = np.allclose(dock.bench.layers.window.data, expected, rtol=1e-5)
    waits = [min((at - began for at in painted if at >= began), default=np.nan) for began in drawn]
    viewer.close()
    return {
        "own_ms": 1e3 * float(np.median(own)),
        "map_ms": 1e3 * float(np.median(summed)),
        "painted_ms": 1e3 * float(np.nanmedian(waits)),
        "maps_per_s": len(own) / SECONDS,
        "last_wins": float(last),
    }


def _time(thing: Any, name: str, took: list[float], ended: list[float]) -> None:
    """Note the processor time of every call of a method, and when it ended."""
    method = getattr(thing, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.thread_time()
        result = method(*args, **kwargs)
        took.append(time.thread_time() - began)
        ended.append(time.perf_counter())
        return result

    setattr(thing, name, timed)


def _spectrum_image() -> Any:
    """Three spectra mixed in soft-edged regions, three counts a channel."""
    from ...schema import Axis, Frame

    rng = np.random.default_rng(0)
    energy = 200.0 + 2.0 * np.arange(SHAPE[2])
    spectra = np.array(
        [(energy / 200) ** -1.5 + 1.5 * (energy > edge) * (energy / edge) ** -3.0 for edge in (1000.0, 2000.0, 3000.0)]
    )
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE[:2]), indexing="ij")
    weight = np.exp(np.stack([-8 * x - 4 * y, 8 * x - 4 * y, 12 * y]))
    mean = np.tensordot(weight / weight.sum(axis=0), 3.0 * spectra / spectra.mean(), axes=(0, 0))
    axes = (
        Axis(name="y", units="nm"),
        Axis(name="x", units="nm"),
        Axis(name="energy_loss", units="eV", scale=2.0, offset=200.0),
    )
    return Frame(data=rng.poisson(mean).astype(np.float32), axes=axes, signal="EELS", metadata={"title": "drag"})
