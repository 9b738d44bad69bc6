"""The picture of the README is a picture of the real window: what should be seen on it is really there."""

from __future__ import annotations

import gc
import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("napari")
pytestmark = pytest.mark.gui

from napari_smarttem.schema import TargetState  # noqa: E402
from napari_smarttem.widgets import base  # noqa: E402
from napari_smarttem.widgets.layers import STATE_STYLES  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
ORANGE = (0xE6, 0x9F, 0x00)


def picture_maker():
    spec = importlib.util.spec_from_file_location("make_screenshots", ROOT / "docs" / "make_screenshots.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pixels_like(image, color, tolerance=24):
    """How many pixels have a colour, given as (r, g, b) or ``"#rrggbb"``."""
    if isinstance(color, str):
        color = tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))
    return int((np.abs(image[..., :3].astype(int) - np.array(color)).max(axis=-1) <= tolerance).sum())


def canvas_of(viewer, image):
    """The part of a window's picture that is the canvas."""
    native = viewer.window._qt_viewer.canvas.native
    window = viewer.window._qt_window
    corner = native.mapTo(window, native.rect().topLeft())
    ratio = image.shape[1] / window.width()
    box = [
        round(ratio * v) for v in (corner.y(), corner.y() + native.height(), corner.x(), corner.x() + native.width())
    ]
    return image[box[0] : box[1], box[2] : box[3]]


def test_the_window_shows_what_it_should(make_napari_viewer, session, qtbot, tmp_path):
    from imageio.v3 import imread

    viewer = make_napari_viewer(show=True)
    base.bind_session(viewer, session)
    pictures = picture_maker().take(tmp_path, viewer, session, size=(1500, 950))
    assert {"instrument", "choose", "review", "acquisition"} <= set(pictures)

    image = imread(pictures["acquisition"])
    canvas = canvas_of(viewer, image)
    assert canvas.shape[0] * canvas.shape[1] > 0.4 * image.shape[0] * image.shape[1], "the canvas is the largest part"
    assert canvas[..., :3].std() > 15, "the canvas is not blank"
    # several targets of each of these states, each as large as a marker
    for state in (TargetState.PROPOSED, TargetState.APPROVED, TargetState.REJECTED, TargetState.DONE):
        assert pixels_like(canvas, STATE_STYLES[state].color) > 60, f"no {state} target is to be seen"
    assert pixels_like(canvas, ORANGE) > 60, "the canvas says SIMULATED"
    dock = image[:, round(0.7 * image.shape[1]) :]
    assert pixels_like(dock, ORANGE) > 2000, "the dock says SIMULATED"
    assert "SIMULATED" in viewer.title

    stop = imread(pictures["instrument"])
    assert pixels_like(stop, (0xC6, 0x28, 0x28)) > 4000, "the STOP button is large and red"
    before = canvas_of(viewer, imread(pictures["choose"]))
    assert pixels_like(before, STATE_STYLES[TargetState.DONE].color) < 20, "nothing is measured before the start"
    del viewer
    gc.collect()


def test_the_picture_of_the_readme_is_there():
    from imageio.v3 import imread

    image = imread(ROOT / "docs" / "_static" / "acquisition.png")
    assert image.shape[1] >= 1280
    assert image[..., :3].std() > 15
    assert pixels_like(image, ORANGE) > 2000
