"""Fixtures for tests that open a window: a viewer with its session, and places on the canvas."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from napari_smarttem.schema import AwaitReview, Field2D, Target, image_frame

FIELD = Field2D(y_nm=0.0, x_nm=0.0, height_nm=200.0, width_nm=200.0)


@pytest.fixture(autouse=True)
def _own_settings(tmp_path, monkeypatch):
    """No test reads or writes the settings of whoever runs it."""
    monkeypatch.setenv("SMARTTEM_SETTINGS", str(tmp_path / "settings.json"))


@pytest.fixture
def session(tmp_path):
    from napari_smarttem.engine.session import Session

    session = Session(folder=tmp_path / "runs", sync=False)
    yield session
    session.close(5.0)


@pytest.fixture
def shown_viewer(make_napari_viewer, session, qtbot):
    """A napari window 900 by 700 with an overview of 200 nm, bound to `session`."""
    from napari_smarttem.widgets import base, layers

    viewer = make_napari_viewer(show=True)
    viewer.window.resize(900, 700)
    base.bind_session(viewer, session)
    image = np.random.default_rng(1).poisson(30, (100, 100)).astype(np.uint16)
    overview = image_frame(image, pixel_nm=2.0, origin_nm=(1.0, 1.0), signal="HAADF", metadata={"simulated": True})
    layers.show_image(viewer, overview)
    viewer.reset_view()
    qtbot.wait(50)
    yield viewer
    viewer.close()
    qtbot.wait(20)  # deletions wait for an event loop
    gc.collect()


def targets(places, prefix="r0"):
    """Targets at (y, x) places in nm."""
    return tuple(
        Target(
            target_id=f"{prefix}-{i:04d}",
            y_nm=float(y),
            x_nm=float(x),
            score=round(0.1 + 0.8 * i / max(1, len(places)), 3),
            label="edge",
            reason=f"gradient {i + 2}x the noise",
        )
        for i, (y, x) in enumerate(places)
    )


def propose(session, places, step_id="review-0"):
    """Put targets before the person, as a run would."""
    session.review.field = FIELD
    step = AwaitReview(step_id=step_id, targets=targets(places))
    session.review.open(step)
    return step.targets


def canvas_position(viewer, y_nm, x_nm):
    """Where a place on the specimen lies on the canvas widget."""
    from qtpy.QtCore import QPoint

    canvas = viewer.window._qt_viewer.canvas
    mapped = canvas.view.scene.node_transform(canvas._scene_canvas.scene).map([x_nm, y_nm, 0, 1])
    mapped = mapped[:2] / mapped[3]
    return QPoint(round(float(mapped[0])), round(float(mapped[1])))


class Hand:
    """A person's hand on the canvas: real Qt events on the real widget."""

    def __init__(self, viewer, qtbot):
        self._viewer = viewer
        self._qtbot = qtbot

    @property
    def native(self):
        return self._viewer.window._qt_viewer.canvas.native

    def place(self, y_nm, x_nm):
        return canvas_position(self._viewer, y_nm, x_nm)

    def point_at(self, y_nm, x_nm):
        from qtpy.QtTest import QTest

        QTest.mouseMove(self.native, self.place(y_nm, x_nm))
        self._qtbot.wait(60)

    def click(self, y_nm, x_nm, modifiers=None):
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest

        self.point_at(y_nm, x_nm)
        QTest.mouseClick(
            self.native,
            Qt.MouseButton.LeftButton,
            modifiers or Qt.KeyboardModifier.NoModifier,
            self.place(y_nm, x_nm),
        )
        self._qtbot.wait(60)

    def drag(self, path, modifiers=None):
        """Press at the first (y, x) of `path`, move through the others, release at the last."""
        from qtpy.QtCore import QEvent, QPointF, Qt
        from qtpy.QtGui import QMouseEvent
        from qtpy.QtTest import QTest
        from qtpy.QtWidgets import QApplication

        modifiers = modifiers or Qt.KeyboardModifier.NoModifier
        left, native = Qt.MouseButton.LeftButton, self.native
        self.point_at(*path[0])
        QTest.mousePress(native, left, modifiers, self.place(*path[0]))
        self._qtbot.wait(20)
        for y_nm, x_nm in path[1:]:
            at = self.place(y_nm, x_nm)
            move = QMouseEvent(
                QEvent.Type.MouseMove,
                QPointF(at),
                QPointF(native.mapToGlobal(at)),
                Qt.MouseButton.NoButton,
                left,
                modifiers,
            )
            QApplication.sendEvent(native, move)
            self._qtbot.wait(15)
        QTest.mouseRelease(native, left, modifiers, self.place(*path[-1]))
        self._qtbot.wait(60)

    def key(self, key, modifiers=None):
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest

        self.native.setFocus()
        QTest.keyClick(self.native, key, modifiers or Qt.KeyboardModifier.NoModifier)
        self._qtbot.wait(30)


@pytest.fixture
def hand(shown_viewer, qtbot):
    return Hand(shown_viewer, qtbot)
