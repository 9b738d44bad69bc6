"""Programs with a window, for the engine bench: one figure each, as JSON on the last line of standard output."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .block_watch import BlockWatch
from .instant import InstantInstrument

DOCKS = ("Instrument", "Acquisition", "Spectrum", "Angle plane")


def main() -> None:
    """Measure what the first argument says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("startup", "restyle", "acquire", "drag"))
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--points", type=int, default=1000)
    options = parser.parse_args()
    if options.what == "startup":
        found = startup(plain=options.plain)
    elif options.what == "restyle":
        found = restyle(options.points)
    elif options.what == "drag":
        from .window_drag import drag

        found = drag()
    else:
        found = acquire(options.points)
    print(json.dumps(found))


def startup(*, plain: bool) -> dict[str, float]:
    """Seconds until a window with (or, `plain`, without) our docks has been drawn, imports of napari included."""
    began = time.perf_counter()
    viewer = _viewer()
    if not plain:
        _open_docks(viewer)
    _events(0.0)
    seconds = time.perf_counter() - began
    viewer.close()
    return {"seconds": seconds}


def restyle(points: int) -> dict[str, float]:
    """Milliseconds of our own time until `points` targets on the canvas show another verdict; the drawing comes after."""
    from ...engine.review import Review
    from ...schema import AwaitReview, Target
    from ...widgets.base import session_for
    from ...widgets.review_layer import ReviewLayer

    viewer = _viewer()
    session = session_for(viewer)
    review: Review = session.review
    targets = tuple(Target(target_id=f"t{i}", y_nm=i % 100, x_nm=i // 100, score=0.5) for i in range(points))
    review.open(AwaitReview(step_id="review-0", targets=targets))
    layer = ReviewLayer(viewer, session)
    _events(1.0)
    ids = [t.target_id for t in targets]
    took = []
    for judge in (review.approve, review.reject, review.reset, review.approve, review.reject):
        began = time.perf_counter()
        judge(ids)
        layer._relay.flush()
        took.append(time.perf_counter() - began)
        _events(0.3)
    viewer.close()
    return {"milliseconds": 1e3 * sorted(took)[len(took) // 2]}


def acquire(points: int) -> dict[str, float]:
    """A run of `points` spectra with all docks open: our longest call on the window's thread, and updates per second."""
    from ...schema import PlanSpec
    from ...widgets.base import bind_session, open_dock
    from ...widgets.spectrum_plot import SpectrumPlot

    updates: list[float] = []
    shown = SpectrumPlot.set_spectrum

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        updates.append(time.perf_counter())
        return shown(self, *args, **kwargs)

    SpectrumPlot.set_spectrum = counting  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory(prefix="smarttem-bench-") as folder:
        from ...engine.session import Session

        viewer = _viewer()
        session = Session(Path(folder))
        bind_session(viewer, session)
        _open_docks(viewer)
        open_dock(viewer, "Acquisition")
        # Real time passes as at a microscope: a few milliseconds an exposure, in which the window has the processor to itself.
        session.use(InstantInstrument(channels=2048, seconds_per_exposure=0.005))
        _events(1.0)
        settings = {"chooser": "random", "points": points, "spacing_nm": 0.1, "exposure_s": 0.005, "drift_every": 50}
        settings |= {"overview_shape": [256, 256]}
        # A person looks at the proposal before the points are acquired: napari builds the layers of overview and targets then.
        with BlockWatch() as first_look:
            session.start(PlanSpec(kind="acquisition", settings=settings))
            _live_until(lambda: session.review.is_open or not session.status.active)
            _events(2.0)
        session.review.approve([judged.target.target_id for judged in session.review.items()])
        _events(0.5)
        with BlockWatch() as watch:
            began = time.perf_counter()
            session.review.submit("go")
            _live_until(lambda: not session.status.active)
            took = time.perf_counter() - began
        outcome, steps = session.status.outcome, session.status.steps_done
        _events(0.2)
        viewer.close()
        session.close()
    if outcome != "finished" or steps < points:
        raise RuntimeError(f"the bench's run ended otherwise: {session.status.reason}")
    busy = [t for t in updates if began <= t <= began + took]
    return {
        "longest_ours_ms": 1e3 * watch.longest_ours_s,
        "longest_ours_where": watch.longest_ours_where,  # type: ignore[dict-item]
        "first_look_ms": 1e3 * first_look.longest_ours_s,
        "longest_other_ms": 1e3 * watch.longest_other_s,
        "longest_other_where": watch.longest_other_where,  # type: ignore[dict-item]
        "updates_per_s": len(busy) / took,
        "points_per_s": points / took,
    }


def _viewer() -> Any:
    import napari

    return napari.Viewer()


def _open_docks(viewer: Any) -> None:
    from ...widgets.base import open_dock

    for title in DOCKS:
        open_dock(viewer, title)


def _live_until(over: Callable[[], bool]) -> None:
    """Run Qt's own event loop, which sleeps while there is nothing to do, until `over` is true; looked at 20 times a second."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop, timer = QEventLoop(), QTimer()
    timer.timeout.connect(lambda: loop.quit() if over() else None)
    timer.start(50)
    loop.exec()
    timer.stop()


def _events(seconds: float) -> None:
    """Let the window live for a while; at least once through everything that waits."""
    from qtpy.QtWidgets import QApplication

    until = time.perf_counter() + seconds
    QApplication.processEvents()
    while time.perf_counter() < until:
        QApplication.processEvents()
        time.sleep(0.002)


if __name__ == "__main__":
    main()
