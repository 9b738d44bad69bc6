"""The angle plane: a second canvas in a dock, in mrad, for Ronchigrams, diffraction patterns and the sorter's camera.

It has its own layers and its own scale bar, so that images in mrad never switch off the nm of the specimen plane.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QEvent, QSize, Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QStackedLayout,
    QVBoxLayout,
    QWidget,
)
from superqt import QDoubleRangeSlider

from ..schema import BadInput, Frame, StepResult
from .base import SessionWidget, remember, remembered, window_goes
from .layers import contrast_limits, live_layer, show_image, show_scale_bar

if TYPE_CHECKING:
    from napari import Viewer
    from napari.components import ViewerModel
    from napari.layers import Image, Shapes

HINT = "Nothing recorded yet.\nA Ronchigram or diffraction pattern appears here with the first camera image."
COLORMAPS = ("gray", "inferno", "viridis", "magma", "cividis", "twilight")
_SLIDER_SAMPLES = 1000


class AnglePlaneDock(SessionWidget):
    """The newest camera image in mrad (or 1/nm), with circles at given half-angles."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.model: ViewerModel | None = None
        self.frame: Frame | None = None
        self._image: Image | None = None
        self._circles: dict[str, tuple[float, str]] = {}
        self._circle_layer: Shapes | None = None
        self._canvas: Any = None
        self._main: Any = None
        self._build()
        self.listen(self.session.step_finished, self._steps_finished, every=True)

    # ------------------------------------------------------------------------------------------------ for others

    def show_frame(self, frame: Frame) -> None:
        """Show a camera image.

        Parameters
        ----------
        frame : Frame, (theta_y, theta_x)
            In mrad, 1/nm or pixels; both axes alike.

        Raises
        ------
        BadInput
            Not two-dimensional, or its axes have different units.
        """
        if len(frame.axes) != 2:
            raise BadInput(f"the angle plane shows images, but {frame.signal} has {len(frame.axes)} dimensions.")
        if frame.axes[0].units != frame.axes[1].units:
            raise BadInput(
                f"{frame.signal} has axes in {frame.axes[0].units} and {frame.axes[1].units}; both must have the same units."
            )
        new_units = self.frame is not None and self.frame.axes[0].units != frame.axes[0].units
        first = self._canvas is None or new_units
        self.frame = frame
        self._open_canvas()
        if first:
            self._drop_circles()
        self._image = show_image(self.model, frame, self._image, index=0, colormap=self.colormap.currentText())
        if first:
            self._draw_circles()
            self.model.reset_view()
        self._image.visible = self.visible_box.isChecked()
        self.visible_box.setText(self._image.name)
        self._show_limits()

    def show_circle(self, radius_mrad: float | None, name: str = "aperture", color: str = "#56B4E9") -> None:
        """Draw a circle around the optic axis, or take it away.

        Parameters
        ----------
        radius_mrad : float or None
            Half-angle in the units of the image (mrad); None removes the circle called `name`.
        name : str
            Written beside it; one circle a name.
        """
        if radius_mrad is None:
            self._circles.pop(name, None)
        else:
            if not (np.isfinite(radius_mrad) and radius_mrad > 0):
                raise BadInput(f"the circle {name!r} needs a radius above 0 mrad, got {radius_mrad:g}.")
            self._circles[name] = (float(radius_mrad), color)
        self._draw_circles()

    def circles(self) -> dict[str, float]:
        """Radius of every circle by name, in mrad."""
        return {name: radius for name, (radius, _) in self._circles.items()}

    @property
    def canvas(self) -> Any:
        """The canvas widget, None (like ``model``, its layers) until there is something to show."""
        return self._canvas

    # --------------------------------------------------------------------------------------------------- building

    def _build(self) -> None:
        self.hint = QLabel(HINT)
        self.hint.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.hint.setWordWrap(True)
        self._place = QWidget()
        self._stack = QStackedLayout(self._place)
        self._stack.setContentsMargins(0, 0, 0, 0)
        self._stack.addWidget(self.hint)
        self.visible_box = QCheckBox("Image")
        self.visible_box.setChecked(True)
        self.visible_box.setToolTip("Show or hide the image; circles stay")
        self.visible_box.toggled.connect(self._visible_toggled)
        self.colormap = QComboBox()
        self.colormap.addItems(COLORMAPS)
        self.colormap.setFixedWidth(84)
        self.colormap.setToolTip("Colormap of the image")
        self.colormap.setCurrentText(str(remembered("angle_plane.colormap", "gray")))
        self.colormap.currentTextChanged.connect(self._colormap_chosen)
        self.contrast = QDoubleRangeSlider(Qt.Orientation.Horizontal)
        self.contrast.setToolTip("Contrast limits")
        self.contrast.setMinimumWidth(50)
        self.contrast.valueChanged.connect(self._contrast_moved)
        self.auto_button = QPushButton("Auto")
        self.auto_button.setToolTip("Set the contrast from the image")
        self.auto_button.clicked.connect(self._auto_contrast)
        self._controls = (self.visible_box, self.colormap, self.contrast, self.auto_button)
        row = QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 0)
        for widget in self._controls:
            if widget is not self.visible_box:
                row.addWidget(widget, 1 if widget is self.contrast else 0)
            widget.setEnabled(False)
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 4, 4, 4)
        column.addWidget(self.visible_box)
        column.addWidget(self._place, 1)
        column.addLayout(row)
        self.setMinimumSize(220, 200)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)

    def sizeHint(self) -> QSize:
        """A modest square: napari's own canvas asks for more than the window has."""
        return QSize(260, 300)

    def _open_canvas(self) -> None:
        """Make the canvas when there is something to show: an empty one would cost time and memory for nothing."""
        if self._canvas is not None:
            return
        from napari.components import ViewerModel
        from napari.qt import QtViewer

        self.model = ViewerModel(title="Angle plane")
        self._canvas = QtViewer(self.model)
        self._canvas.setMinimumSize(120, 120)
        self._stack.addWidget(self._canvas)
        self._stack.setCurrentWidget(self._canvas)
        show_scale_bar(self.model)
        for widget in self._controls:
            widget.setEnabled(True)
        self._watch_main_window()

    def close_canvas(self) -> None:
        """Close the second canvas and its layers; both are made anew, from the newest image, when needed."""
        canvas, self._canvas = self._canvas, None
        self.model = self._image = self._circle_layer = None
        if canvas is None:
            return
        self._stack.setCurrentWidget(self.hint)
        self._stack.removeWidget(canvas)
        canvas.close()
        canvas.setParent(None)
        canvas.deleteLater()

    def _watch_main_window(self) -> None:
        viewer = self.viewer
        main = getattr(getattr(viewer, "window", None), "_qt_window", None)
        if main is not None and self._main is None:
            self._main = main
            main.installEventFilter(self)

    def _leave_main_window(self) -> None:
        self.close_canvas()
        main, self._main = self._main, None
        if main is not None:
            main.removeEventFilter(self)

    def eventFilter(self, watched: Any, event: QEvent) -> bool:
        """The main window goes: our canvas must go first."""
        if watched is self._main and window_goes(event):
            self._leave_main_window()
        return super().eventFilter(watched, event)

    def event(self, event: QEvent) -> bool:
        """A dock that was closed with its cross is taken out of the window: its canvas is closed with it."""
        if event.type() == QEvent.Type.ParentChange and self.parentWidget() is None:
            self._leave_main_window()
        elif event.type() == QEvent.Type.Show and self.frame is not None and self._canvas is None:
            self.show_frame(self.frame)
        return super().event(event)

    # ----------------------------------------------------------------------------------------------------- inside

    def _steps_finished(self, results: list[StepResult]) -> None:
        for result in reversed(results):
            frames = [f for f in result.frames if f.axes[0].units in {"mrad", "1/nm"} and len(f.axes) == 2]
            if result.step.kind == "take_image" and frames:
                self.show_frame(frames[0])
                return

    def _visible_toggled(self, on: bool) -> None:
        if self._image is not None:
            self._image.visible = on

    def _colormap_chosen(self, name: str) -> None:
        remember("angle_plane.colormap", name)
        if self._image is not None:
            self._image.colormap = name

    def _auto_contrast(self) -> None:
        if self._image is not None:
            self._image.contrast_limits = contrast_limits(np.asarray(self._image.data))
            self._show_limits()

    def _contrast_moved(self, limits: tuple[float, float]) -> None:
        if self._image is not None and limits[1] > limits[0]:
            self._image.contrast_limits = limits

    def _show_limits(self) -> None:
        low, high = (float(v) for v in self._image.contrast_limits_range)
        self.contrast.blockSignals(True)
        self.contrast.setRange(low, high)
        self.contrast.setSingleStep((high - low) / _SLIDER_SAMPLES)
        self.contrast.setValue(tuple(float(v) for v in self._image.contrast_limits))
        self.contrast.blockSignals(False)

    def _drop_circles(self) -> None:
        layer = live_layer(self.model, self._circle_layer)
        if layer is not None:
            self.model.layers.remove(layer)
        self._circle_layer = None

    def _draw_circles(self) -> None:
        if self.model is None:
            return  # drawn with the first image, whose units they share
        units = self.frame.axes[0].units
        layer = live_layer(self.model, self._circle_layer)
        if layer is None and not self._circles:
            return  # napari takes half a second over its first shapes, and nobody has asked for a circle
        if layer is None:
            layer = self._circle_layer = self.model.add_shapes(
                ndim=2,
                name="Circles",
                units=(units, units),
                axis_labels=tuple(a.name for a in self.frame.axes),
                face_color="transparent",
            )
        layer.data = []
        if not self._circles:
            return
        corners = [np.array([(-r, -r), (-r, r), (r, r), (r, -r)], dtype=float) for r, _ in self._circles.values()]
        pixel = max(abs(a.scale) for a in self.frame.axes)
        layer.add(
            corners,
            shape_type="ellipse",
            edge_color=[color for _, color in self._circles.values()],
            edge_width=max(pixel, 0.004 * pixel * max(self.frame.shape)),
            face_color="transparent",
        )
        layer.features = {"name": [f"{name} {radius:g} {units}" for name, (radius, _) in self._circles.items()]}
        # a circle as large as the frame would have its name beyond the frame's edge
        half = pixel * max(self.frame.shape) / 2
        inwards = max(0.0, max(radius for radius, _ in self._circles.values()) - 0.88 * half)
        layer.text = {
            "string": "{name}", "color": "#F0E442", "size": 11, "anchor": "upper_left", "translation": (inwards, inwards)
        }  # fmt: skip
