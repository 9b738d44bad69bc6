"""Make the pictures of the documentation: the real window, on a simulated microscope with a fixed seed.

Run ``python docs/make_screenshots.py`` wherever a window can open (``xvfb-run`` will do); it writes ``docs/_static/*.png``.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

STATIC = Path(__file__).parent / "_static"
SIZE = (1600, 1000)
SEED = 5
FIRST_ROUND = 46
STAGES = ("choose", "components", "pixel", "compare", "figure")
ALIGNMENT_STAGES = ("measured", "proposed", "applied", "aligned")
SINGLE_PIXEL_STAGES = ("live", "judge", "compare")


def take(folder: Path, viewer: Any, session: Any, *, size: tuple[int, int] = SIZE) -> dict[str, Path]:
    """Do the main job in a window and take a picture of each stage.

    Parameters
    ----------
    folder : Path
        Where the pictures go.
    viewer : napari.Viewer
        Shown, and bound to `session`.
    session : Session
    size : (int, int)
        Of the window, in pixels.

    Returns
    -------
    dict of str to Path
        ``instrument``, ``choose``, ``review`` and ``acquisition`` (which is the README's).
    """
    from napari_smarttem.widgets import launch

    folder.mkdir(parents=True, exist_ok=True)
    viewer.window.resize(*size)
    instrument, dock = launch.arrange(viewer, ("simulator", {"specimen": "core-shell", "seed": SEED, "speed": None}))
    _until(lambda: session.instrument is not None)
    _settle()
    pictures = {}

    def picture(name: str) -> None:
        _settle()
        pictures[name] = folder / f"{name}.png"
        viewer.screenshot(str(pictures[name]), canvas_only=False, flash=False)

    review = session.review
    dock.run.put({"exposure_s": 0.1, "drift_every": 20})
    dock.choose.put({"chooser": "edges", "points": 90, "spacing_nm": 6.0, "rounds": 2})
    dock.take_overview()
    _until(lambda: review.is_open and dock.live.overview is not None)
    _dock_of(instrument).raise_()
    picture("instrument")
    _dock_of(dock).raise_()
    dock.show_page(1)
    picture("choose")

    dock.propose()
    _until(lambda: review.is_open and bool(review.items()))
    ids = [item.target.target_id for item in review.items()]
    review.approve(ids[:FIRST_ROUND])
    review.reject(ids[FIRST_ROUND : FIRST_ROUND + 6])
    picture("review")

    dock.start()
    # The first round is measured to its end, so that the picture is the same each time; then the plan proposes again.
    _until(lambda: review.is_open and any(item.target.target_id.startswith("r1") for item in review.items()), 60.0)
    _until(lambda: len(dock.live.spectra) == FIRST_ROUND)
    fresh = [item.target.target_id for item in review.items() if item.target.target_id.startswith("r1")]
    review.approve(fresh[:18])
    review.reject(fresh[18:26])
    dock.show_page(2)
    _until(lambda: bool(dock.live.maps.layers))
    _settle()  # what is selected must be on the canvas
    dock.live.targets.select(fresh[:1])
    _settle()
    picture("acquisition")

    dock.live.show_target(ids[0])
    dock.show_page(3)
    picture("spectrum")
    session.stop()
    session.wait(10)
    return pictures


def take_unmixing(
    folder: Path, viewer: Any, path: Path, name: str = "unmixing", *, stages: Sequence[str] = STAGES
) -> dict[str, Path]:
    """Unmix a spectrum image in a window and take a picture of each stage.

    Parameters
    ----------
    folder : Path
        Where the pictures go.
    viewer : napari.Viewer
        Shown, without layers.
    path : Path
        The spectrum image.
    name : str
        Pictures are called NAME-STAGE.
    stages : sequence of str
        Of `STAGES`: which pictures are wanted.

    Returns
    -------
    dict of str to Path
    """
    from napari_smarttem.widgets.base import open_dock
    from napari_smarttem.widgets.unmixing_steps import Step

    folder.mkdir(parents=True, exist_ok=True)
    viewer.open(str(path), plugin="napari-smarttem")
    _settle(2.0)
    dock = open_dock(viewer, "Unmixing")
    _until(lambda: not dock.busy and dock.bench.spectra is not None)
    _until(lambda: dock.unmixing.method.count() > 1)
    viewer.reset_view()
    pictures = {}

    def picture(stage: str) -> None:
        if stage not in stages:
            return
        _settle(0.8)
        pictures[stage] = folder / f"{name}-{stage}.png"
        viewer.screenshot(str(pictures[stage]), canvas_only=False, flash=False)

    if name == "unmixing":  # of a simulated camera, whose read-out noise leaves a few values below zero
        dock.do_step(Step("zero_negatives"))
        _until(lambda: not dock.busy)
    dock.show_page(1)
    dock.unmix()
    _until(lambda: not dock.busy and dock.bench.result is not None, 120.0)
    picture("choose")
    dock.show_page(2)
    named = [i for i, symbols in enumerate(dock.bench.result.elements) if symbols]
    dock.components.table.setCurrentCell(named[-1] if named else 0, 2)
    _until(lambda: bool(dock.components.plot.marked) or not named, 60.0)
    picture("components")
    maps = dock.bench.result.maps
    row, column = (int(i) for i in np.unravel_index(int(np.argmax(maps[len(maps) // 2])), maps.shape[1:]))
    dock.bench.layers.mark(row, column)
    dock.pixel.held.setChecked(True)
    dock._show_pixel(row, column)
    dock.show_page(3)
    picture("pixel")
    dock.show_page(4)
    if "compare" in stages:
        dock.compare_methods()
        _until(lambda: not dock.busy, 120.0)
        picture("compare")
    if "figure" in stages:
        pictures["figure"] = folder / f"{name}-figure.png"
        dock.save_picture(pictures["figure"])
        _until(lambda: not dock.busy, 60.0)
    return pictures


def take_alignment(
    folder: Path, viewer: Any, session: Any, target: str = "ronchigram", *, stages: Sequence[str] = ALIGNMENT_STAGES
) -> dict[str, Path]:
    """Align a target of the simulated column in a window and take a picture of each stage.

    Parameters
    ----------
    folder : Path
        Where the pictures go.
    viewer : napari.Viewer
        Shown, and bound to `session`.
    session : Session
        Connected to an instrument with something to align.
    target : str
        ``"ronchigram"`` or ``"oam-sorter"``.
    stages : sequence of str
        Of `ALIGNMENT_STAGES`: which pictures are wanted.

    Returns
    -------
    dict of str to Path
    """
    from napari_smarttem.widgets import launch
    from napari_smarttem.widgets.base import open_dock

    folder.mkdir(parents=True, exist_ok=True)
    launch.arrange(viewer)
    dock = open_dock(viewer, "Alignment")
    _until(lambda: dock.target is not None)
    dock.choose(target)
    pictures = {}

    def over() -> bool:
        going = dock._starting or session.status.active or dock.record.going is not None
        return not going and not dock.pictures.probe.waiting

    def picture(stage: str) -> None:
        if stage not in stages:
            return
        viewer.window.resize(*SIZE)
        _settle(0.8)
        pictures[stage] = folder / f"alignment-{target}-{stage}.png"
        viewer.screenshot(str(pictures[stage]), canvas_only=False, flash=False)

    if target != "ronchigram":
        dock.learn()
        _until(over, 300.0)
    dock.measure()
    _until(over, 300.0)
    picture("measured")
    dock.propose()
    _until(lambda: bool(dock.proposal.rows()))
    first, *_, last = (row.change for row in dock.proposal.rows())
    dock.proposal.set_then(last.control, round(last.then, 1))
    dock.proposal.set_accepted(first.control, target != "ronchigram")
    picture("proposed")
    dock.proposal.set_accepted(first.control, True)
    dock.apply()
    _until(over, 300.0)
    dock.show_page(0)
    picture("applied")
    dock.auto_align()
    _until(over, 300.0)
    dock.show_page(2)
    picture("aligned")
    return pictures


def take_single_pixel(
    folder: Path, viewer: Any, session: Any, *, settings: dict[str, Any] | None = None
) -> dict[str, Path]:
    """Calibrate the simulated phase plate, image with it, judge patterns, and take a picture of each stage.

    Parameters
    ----------
    folder : Path
        Where the pictures go.
    viewer : napari.Viewer
        Shown, and bound to `session`.
    session : Session
        Connected to an instrument with a phase plate.
    settings : dict, optional
        Of the plan, where they are not to be the defaults.

    Returns
    -------
    dict of str to Path
        Of `SINGLE_PIXEL_STAGES`.
    """
    from napari_smarttem.widgets import launch
    from napari_smarttem.widgets.base import open_dock

    folder.mkdir(parents=True, exist_ok=True)
    launch.arrange(viewer)
    dock = open_dock(viewer, "Single-pixel")
    dock.put_settings(settings or {})
    pictures = {}

    def over() -> bool:
        return (
            not dock._starting and not session.status.active and (dock.record.run is not None and dock.record.run.over)
        )

    def picture(stage: str) -> None:
        viewer.window.resize(*SIZE)
        viewer.reset_view()
        _settle(1.0)
        pictures[stage] = folder / f"single-pixel-{stage}.png"
        viewer.screenshot(str(pictures[stage]), canvas_only=False, flash=False)

    dock.calibrate()
    _settle()
    _until(lambda: over() and dock.record.calibration is not None, 400.0)
    dock.start()
    _settle()
    _until(over, 400.0)
    dock.show_page(0)
    picture("live")
    dock.calculate_raster()
    _until(lambda: dock._ideal is not None, 60.0)
    dock.show_page(2)
    picture("compare")
    most = float(dock.record.run.dose.max())
    dock.put_settings({"pixel_dose_limit_e_per_a2": round(0.08 * most, 3)})
    dock.start()
    _until(lambda: dock.veto.waiting and len(dock.veto.ids()) > 3, 200.0)
    ids = dock.veto.ids()
    session.review.approve(ids[:-2])
    session.review.reject(ids[-2:-1])
    dock.show_page(1)
    _settle()
    dock.veto.select(ids[-2])
    picture("judge")
    session.stop()
    session.wait(10)
    return pictures


def _dock_of(widget: Any) -> Any:
    from napari_smarttem.widgets.launch import dock_of

    return dock_of(widget)


def _settle(seconds: float = 0.4) -> None:
    """Let the window draw what is new."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    QTimer.singleShot(round(1000 * seconds), loop.quit)
    loop.exec()


def _until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"the window did not get so far within {seconds:g} s")
        _settle(0.03)


def _spectrum_images(scratch: Path) -> dict[str, Path]:
    """What is unmixed for the pictures: a simulated interface, and the core-shell particles where that file is there."""
    from napari_smarttem.io import write
    from napari_smarttem.widgets.sample_data import simulate_spectrum_image

    simulated = simulate_spectrum_image(shape=(32, 44), seed=SEED, exposure_s=0.05)
    found = {"unmixing": write(simulated, scratch / "interface.hspy")}
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    recorded = Path(os.environ.get("SMARTTEM_DATA", beside)) / "core_shell.hspy"
    return found | ({"unmixing-core-shell": recorded} if recorded.exists() else {})


def main() -> int:
    """Write the pictures; returns the exit status."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SMARTTEM_SETTINGS"] = str(Path(scratch) / "settings.json")
        os.environ.setdefault("NAPARI_CONFIG", "")
        import napari

        from napari_smarttem.engine.session import Session
        from napari_smarttem.widgets.base import bind_session

        viewer = napari.Viewer(show=True)
        with Session(folder=Path(scratch) / "runs", sync=False) as session:
            bind_session(viewer, session)
            for path in take(STATIC, viewer, session).values():
                print(path)
            viewer.close()
        for name, data in _spectrum_images(Path(scratch)).items():
            viewer = napari.Viewer(show=True)
            viewer.window.resize(*SIZE)
            stages = STAGES[:4] if name == "unmixing" else ("components", "figure")
            for path in take_unmixing(STATIC, viewer, data, name, stages=stages).values():
                print(path)
            viewer.close()
        for target, made_with in (("ronchigram", {"high_tension_v": 300e3}), ("oam-sorter", {"sorter": True})):
            viewer = napari.Viewer(show=True)
            viewer.window.resize(*SIZE)
            with Session(folder=Path(scratch) / "alignment", sync=False) as session:
                bind_session(viewer, session)
                column = {"misalignment": 1.0, "optics_imperfection": 1.0, "speed": None, "seed": SEED} | made_with
                session.connect("simulator", **column).result(60.0)
                stages = ("applied",) if target == "oam-sorter" else ("measured", "proposed", "aligned")
                for path in take_alignment(STATIC, viewer, session, target, stages=stages).values():
                    print(path)
                viewer.close()
        viewer = napari.Viewer(show=True)
        viewer.window.resize(*SIZE)
        with Session(folder=Path(scratch) / "single-pixel", sync=False) as session:
            bind_session(viewer, session)
            session.connect("simulator", phase_plate=True, speed=None, seed=SEED).result(60.0)
            for path in take_single_pixel(STATIC, viewer, session).values():
                print(path)
            viewer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
