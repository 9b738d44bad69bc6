"""Dropping files on a real window: layers in nm, the dock opens, a large file holds nothing up, an error is told."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from napari_smarttem.io import write
from napari_smarttem.schema import Axis, Frame, image_frame
from napari_smarttem.widgets import base, reader
from napari_smarttem.widgets.angle_plane import AnglePlaneDock

from ..io.test_export import make_run
from .test_reader import spectrum_image

pytestmark = pytest.mark.gui
PLUGIN = "napari-smarttem"


@pytest.fixture
def dropped(monkeypatch):
    """What the Spectrum dock would be opened with."""
    calls = []
    monkeypatch.setattr(base, "dataset_dropped", lambda viewer, path: calls.append((len(viewer.layers), path)))
    return calls


def drop(viewer, *paths):
    """Through Qt's own dispatch, as a person's mouse would."""
    from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
    from qtpy.QtGui import QDragEnterEvent, QDropEvent
    from qtpy.QtWidgets import QApplication

    target = viewer.window._qt_viewer.canvas.native
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    place, none = target.rect().center(), Qt.KeyboardModifier.NoModifier
    left, copy = Qt.MouseButton.LeftButton, Qt.DropAction.CopyAction
    QApplication.sendEvent(target, QDragEnterEvent(place, copy, mime, left, none))
    QApplication.sendEvent(target, QDropEvent(QPointF(place), copy, mime, left, none))


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(show=True)


def test_small_map_is_there_at_once_and_opens_the_dock(viewer, qtbot, tmp_path, dropped):
    frame = spectrum_image()
    path = write(frame, tmp_path / "map.hspy")
    drop(viewer, path)
    (layer,) = viewer.layers
    np.testing.assert_array_equal(layer.data, frame.data.sum(-1))
    assert [str(unit) for unit in layer.units] == ["nanometer", "nanometer"]
    qtbot.waitUntil(lambda: len(dropped) == 1)
    assert dropped == [(1, path)]  # not before the layer was there


def test_image_alone_opens_no_dock(viewer, qtbot, tmp_path, dropped):
    viewer.open(write(image_frame(np.eye(5), pixel_nm=2.0, signal="HAADF"), tmp_path / "i.hspy"), plugin=PLUGIN)
    qtbot.wait(50)
    assert len(viewer.layers) == 1
    assert dropped == []


def test_large_map_does_not_hold_up_the_window(viewer, qtbot, tmp_path, dropped, monkeypatch):
    frame = spectrum_image(shape=(40, 40, 64))
    path = write(frame, tmp_path / "large.hspy")
    monkeypatch.setattr(reader, "DIRECT_ARRAY_BYTES", 1000)
    slow = reader.contents_of

    def slowly(path):
        time.sleep(0.5)
        return slow(path)

    monkeypatch.setattr(reader, "contents_of", slowly)
    began = time.perf_counter()
    drop(viewer, path)
    assert time.perf_counter() - began < 0.4
    assert len(viewer.layers) == 0
    assert "Reading large.hspy" in viewer.status
    qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=10_000)
    np.testing.assert_array_equal(viewer.layers[0].data, frame.data.sum(-1))
    qtbot.waitUntil(lambda: [path for _, path in dropped] == [path])


def test_pattern_goes_to_the_angle_plane(viewer, qtbot, tmp_path, dropped):
    axes = (Axis(name="k_y", units="1/nm", scale=0.1), Axis(name="k_x", units="1/nm", scale=0.1))
    path = write(Frame(data=np.eye(8), axes=axes, signal="diffraction"), tmp_path / "dp.hspy")
    viewer.open(write(image_frame(np.eye(5), pixel_nm=2.0, signal="HAADF"), tmp_path / "i.hspy"), plugin=PLUGIN)
    drop(viewer, path)

    def shown():
        docks = viewer.window._qt_window.findChildren(AnglePlaneDock)
        return [dock.frame.axes[0].units for dock in docks if dock.frame is not None]

    qtbot.waitUntil(lambda: shown() == ["1/nm"])
    assert len(viewer.layers) == 1  # and the nm of the specimen plane stay
    assert [str(unit) for unit in viewer.layers[0].units] == ["nanometer", "nanometer"]
    assert dropped == []


def test_error_from_the_background_is_told(viewer, qtbot, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(base, "show_message", lambda _viewer, level, sentence: told.append((level, sentence)))
    (tmp_path / "cut.emd").write_bytes(b"\x89HDF\r\n\x1a\nrubbish")
    drop(viewer, tmp_path / "cut.emd")
    qtbot.waitUntil(lambda: len(told) == 1, timeout=10_000)
    assert told[0][0] == "error"
    assert "cut.emd" in told[0][1]
    assert len(viewer.layers) == 0


@pytest.mark.parametrize("name", ["cut.dm3", "text.hspy"])
def test_error_of_a_small_file_is_one_sentence(viewer, tmp_path, monkeypatch, name):
    told = []
    monkeypatch.setattr(base, "show_message", lambda _viewer, level, sentence: told.append((level, sentence)))
    (tmp_path / name).write_bytes(b"no spectrum")
    drop(viewer, tmp_path / name)
    ((level, sentence),) = told
    assert level == "error"
    assert sentence.startswith(name)
    assert "plugin" not in sentence
    assert len(viewer.layers) == 0


@pytest.fixture
def asked(monkeypatch):
    """Files for which napari would have asked which reader is meant, in a dialog that waits for a person."""
    from napari._qt import qt_viewer
    from napari.settings import get_settings

    files = []
    monkeypatch.setattr(get_settings().plugins, "extension2reader", {})
    monkeypatch.setattr(qt_viewer, "handle_gui_reading", lambda paths, *_, **__: files.extend(paths))
    return files


@pytest.fixture
def outcome(qtbot, dropped, monkeypatch):
    """qtbot, what the person was told, and what the Spectrum dock would be opened with."""
    told = []
    monkeypatch.setattr(base, "show_message", lambda _viewer, level, sentence: told.append((level, sentence)))
    return qtbot, told, dropped


@pytest.mark.parametrize("name", ["empty.zspy", "stray.zspy", "empty.smarttem"])
def test_folder_without_data_beside_a_good_file(viewer, tmp_path, outcome, asked, name):
    qtbot, told, dropped = outcome
    base.session_for(viewer)  # as after any of our docks was opened
    (tmp_path / name).mkdir()
    if name.startswith("stray"):
        (tmp_path / name / "note.txt").write_text("no zarr")
    good = write(spectrum_image(), tmp_path / "good.hspy")
    drop(viewer, tmp_path / name, good)
    assert asked == []
    qtbot.waitUntil(lambda: len(told) == 1)
    assert told[0][0] == "error"
    assert name in told[0][1]
    qtbot.waitUntil(lambda: [path for _, path in dropped] == [good])
    assert len(viewer.layers) == 1  # the good one, once
    assert sorted(one.name for one in (tmp_path / name).iterdir()) == (["note.txt"] if name.startswith("stray") else [])


def test_what_a_person_chose_for_folders_stays(viewer, monkeypatch):
    from napari.settings import get_settings

    plugins = get_settings().plugins
    monkeypatch.setattr(plugins, "extension2reader", {f"*.zspy{os.sep}": "napari"})
    base.session_for(viewer)
    assert plugins.extension2reader == {f"*.zspy{os.sep}": "napari", f"*.smarttem{os.sep}": PLUGIN}


def test_run_folder_is_overview_and_points(viewer, qtbot, tmp_path, dropped):
    path = make_run(tmp_path / "night", [(1, 1), (2, 2)], rejected={1})
    viewer.open(path, plugin=PLUGIN)
    image, points = viewer.layers
    assert type(image).__name__ == "Image"
    assert type(points).__name__ == "Points"
    assert list(points.features["state"]) == ["done", "rejected"]
    qtbot.waitUntil(lambda: len(dropped) == 1)
