"""The second canvas: in mrad beside nm, there when it is needed, gone before the window."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from napari_smarttem.schema import Axis, BadInput, Frame, StepResult, TakeImage, spectrum_frame
from napari_smarttem.widgets import base

pytestmark = pytest.mark.gui


def camera_image(units="mrad", seed=0, level=100.0, pixels=64, step=0.5):
    data = np.random.default_rng(seed).poisson(level, (pixels, pixels)).astype(np.uint16)
    axes = tuple(
        Axis(name=name, units=units, scale=step, offset=-step * (pixels - 1) / 2) for name in ("theta_y", "theta_x")
    )
    return Frame(data=data, axes=axes, signal="Ronchigram", metadata={"simulated": True})


@pytest.fixture
def dock(shown_viewer, qtbot):
    dock = base.open_dock(shown_viewer, "Angle plane")
    qtbot.wait(50)
    return dock


def test_images_in_mrad_beside_nm_and_circles_around_the_axis(dock, shown_viewer, session, qtbot):
    assert "Nothing recorded yet" in dock.hint.text()
    assert dock.hint.isVisible()
    assert dock.canvas is None
    assert not dock.auto_button.isEnabled()
    dock.show_circle(12.0, "aperture")  # before there is an image: kept for later

    # as a run delivers it
    step = TakeImage(step_id="image-0", exposure_s=0.1)
    session.step_finished.emit(StepResult(step=step, frames=(camera_image(),)))
    qtbot.waitUntil(lambda: dock.frame is not None, timeout=3000)
    qtbot.wait(50)
    image, circles = dock.model.layers
    assert [str(u) for u in image.units] == ["milliradian"] * 2
    assert [str(u) for u in shown_viewer.layers[0].units] == ["nanometer"] * 2
    assert dock.canvas.isVisible()
    assert not dock.hint.isVisible()
    assert dock.model.canvas.overlays.scale_bar.visible
    assert dock.auto_button.isEnabled()
    assert "SIMULATED" in dock.visible_box.text()
    # the optic axis is the middle of the image, and the circle reaches 12 mrad from it
    assert np.allclose(image.data_to_world((31.5, 31.5)), 0)
    corners = np.asarray(circles.data[0])
    assert np.allclose(corners.min(axis=0), -12)
    assert np.allclose(corners.max(axis=0), 12)

    # in place, contrast and controls
    dock.show_frame(camera_image(seed=1, level=2000.0))
    assert dock.model.layers[0] is image
    assert image.contrast_limits[0] > 1000
    assert np.allclose(dock.contrast.value(), image.contrast_limits)
    dock.contrast.setValue((1900.0, 2100.0))
    assert tuple(image.contrast_limits) == (1900.0, 2100.0)
    dock.auto_button.click()
    assert image.contrast_limits[1] > 2000
    dock.colormap.setCurrentText("inferno")
    assert image.colormap.name == "inferno"
    dock.visible_box.setChecked(False)
    assert not image.visible
    dock.visible_box.setChecked(True)

    # circles by name
    dock.show_circle(20.0, "flat area", "#E69F00")
    dock.show_circle(10.0, "aperture")
    assert dock.circles() == {"aperture": 10.0, "flat area": 20.0}
    assert len(circles.data) == 2
    dock.show_circle(None, "flat area")
    assert len(circles.data) == 1

    # a pattern in other units takes the circles along
    dock.show_frame(camera_image(units="1/nm"))
    assert len({tuple(str(u) for u in layer.units) for layer in dock.model.layers}) == 1


def test_what_cannot_be_shown_is_refused(dock):
    with pytest.raises(BadInput, match="dimensions"):
        dock.show_frame(spectrum_frame(np.zeros(4), dispersion_ev=1, offset_ev=0, signal="EELS"))
    odd = camera_image()
    with pytest.raises(BadInput, match="same units"):
        dock.show_frame(odd.with_data(odd.data, axes=(odd.axes[0], odd.axes[1].model_copy(update={"units": "1/nm"}))))
    for radius in (0.0, -1.0, float("nan")):
        with pytest.raises(BadInput, match="radius"):
            dock.show_circle(radius)
    assert dock.frame is None


def test_the_specimen_keeps_the_larger_part(dock, shown_viewer, qtbot):
    dock.show_frame(camera_image())
    qtbot.wait(150)
    specimen = shown_viewer.window._qt_viewer.canvas.native
    assert specimen.width() > dock.canvas.width()
    assert dock.canvas.width() <= 280


def test_closing_the_dock_closes_its_canvas_and_a_new_dock_shows_again(dock, shown_viewer, qtbot):
    dock.show_frame(camera_image())
    holder = base._dock_of(dock)
    holder.destroyOnClose()  # what the cross in its title bar does
    qtbot.wait(50)
    assert dock.canvas is None
    again = base.open_dock(shown_viewer, "Angle plane")
    assert again is not dock
    again.show_frame(camera_image())
    assert again.canvas is not None


@pytest.mark.parametrize("by_person", [False, True])
def test_the_window_closes_with_the_canvas_open(make_napari_viewer, session, qtbot, by_person):
    from napari._qt.qt_viewer import QtViewer

    viewer = make_napari_viewer(show=True)
    base.bind_session(viewer, session)
    dock = base.open_dock(viewer, "Angle plane")
    dock.show_frame(camera_image())
    qtbot.wait(50)
    if by_person:
        viewer.window._qt_window.close()
    viewer.close()
    qtbot.wait(50)
    assert dock.canvas is None
    del dock, viewer
    for _ in range(3):
        gc.collect()
    assert len(list(QtViewer._instances)) == 0
