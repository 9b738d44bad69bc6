"""The Unmixing dock in a window of its own, and what its tests do again and again."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication

from napari_smarttem.io import write
from napari_smarttem.widgets import base, unmixing_bench
from napari_smarttem.widgets.unmixing_bench import bench_for

from .unmixing_sets import mixed


def rested(dock, qtbot, timeout=60_000):
    qtbot.waitUntil(lambda: not dock.busy, timeout=timeout)


def opened(viewer, qtbot, path, **settings):
    """The dock with a file read, its elements not looked for (which takes seconds)."""
    dock = base.open_dock(viewer, "Unmixing")
    dock.choose_file(path)
    rested(dock, qtbot)
    dock.unmixing.elements.setChecked(False)
    qtbot.waitUntil(lambda: dock.unmixing.method.count() > 1, timeout=20_000)
    for name, value in settings.items():
        if name == "method":
            dock.unmixing.method.setCurrentIndex(dock.unmixing.method.findData(value))
        else:
            getattr(dock.unmixing, name).setValue(value)
    return dock


def angle_deg(a, b):
    return np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))


def drop(viewer, path):
    """A file dropped on the canvas, through Qt's own dispatch."""
    target = viewer.window._qt_viewer.canvas.native
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    at = target.rect().center()
    none, left, copy = Qt.KeyboardModifier.NoModifier, Qt.MouseButton.LeftButton, Qt.DropAction.CopyAction
    QApplication.sendEvent(target, QDragEnterEvent(at, copy, data, left, none))
    QApplication.sendEvent(target, QDropEvent(QPointF(at), copy, data, left, none))


@pytest.fixture(scope="module")
def truth():
    return mixed()


@pytest.fixture
def set_file(truth, tmp_path):
    return write(truth.frame, tmp_path / "set.hspy")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One window and session for all tests here: a window takes seconds."""
    import napari

    from napari_smarttem.engine.session import Session

    viewer = napari.Viewer(show=True)
    viewer.window.resize(1200, 900)
    session = Session(folder=tmp_path_factory.mktemp("runs"), sync=False)
    base.bind_session(viewer, session)
    yield viewer, session
    viewer.close()
    session.close(5.0)


@pytest.fixture
def session(shared):
    return shared[1]


@pytest.fixture
def window(shared, qtbot):
    """The window, empty: no layer, no dock of ours, nothing on the bench."""
    viewer = shared[0]
    yield viewer
    for dock in viewer.window._qt_window.findChildren(base.SessionWidget):
        if base._dock_of(dock) is not None:
            viewer.window.remove_dock_widget(dock)
        dock.deleteLater()
    viewer.layers.clear()
    unmixing_bench._benches.pop(viewer, None)
    qtbot.wait(20)


@pytest.fixture(scope="module")
def found(truth):
    """A result of three components, worked out once for all tests that only look at it."""
    from napari_smarttem.unmixing import unmix
    from napari_smarttem.widgets.unmixing_bench import Unmixed
    from napari_smarttem.widgets.unmixing_input import Spectra
    from napari_smarttem.widgets.unmixing_sums import WindowSums

    settings = {"method": "vca", "components": 3, "seed": 0}
    spectra = Spectra("three kinds", truth.frame)
    return spectra, unmix(truth.frame, **settings), Unmixed(spectra, (), settings, WindowSums(truth.frame.data))


@pytest.fixture
def unmixed(window, qtbot, found):
    """The dock with that result on its bench."""
    spectra, result, unmixed = found
    bench = bench_for(window)
    bench.take(spectra)
    bench.found(result, unmixed)
    dock = base.open_dock(window, "Unmixing")
    dock._show_result(fresh=True)
    rested(dock, qtbot)
    dock.unmixing.elements.setChecked(False)
    dock.unmixing.components.setValue(3)
    qtbot.waitUntil(lambda: dock.unmixing.method.count() > 1, timeout=20_000)
    return dock


def unmixed_by_click(dock, qtbot):
    """*Unmix* pressed, and done without a complaint."""
    before = dock.bench.result
    dock.unmixing.run.click()
    rested(dock, qtbot)
    assert dock.bench.result is not None, dock.message.text()
    assert dock.bench.result is not before, dock.message.text()
