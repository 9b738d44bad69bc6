"""An unmixing result on the canvas: one coloured layer a component, what is left over, the window's map, the chosen pixel."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.compat import isalive

from .layers import METADATA_KEY, layer_name, live_layer, show_image, unwrapped
from .turns import Turns
from .unmixing_canvas import Canvas

if TYPE_CHECKING:
    from ..unmixing import UnmixingResult

COLORS = ("#FF3B20", "#28C840", "#2A5BFF", "#F0E442", "#CC79A7", "#56B4E9", "#E69F00", "#B0B0B0", "#00B5A0", "#9A5CFF")
"""The first three are near-primary, because the maps are added up."""


def component_color(number: int) -> str:
    """Colour of a component when it is first shown."""
    return COLORS[number % len(COLORS)]


PAINT = "unmixing_labels"
"""Kind of the layer in which a person paints."""


class UnmixingLayers:
    """The layers of one result; drawn again in place when there is another.

    Attributes
    ----------
    maps : list of Image
        One a component; held by reference.
    residual, window, marker, classes : Layer or None
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = weakref.ref(unwrapped(viewer))
        self.maps: list[Any] = []
        self.residual: Any = None
        self.window: Any = None
        self.marker: Any = None
        self.classes: Any = None
        self.canvas: Canvas | None = None
        self._hidden: list[Any] = []
        self._colors: list[str] = []
        self._visible: list[bool] = []
        self._first = False
        self._turns: Turns | None = None

    @property
    def viewer(self) -> Any:
        """The viewer, None once it has gone."""
        return self._viewer()

    def show(
        self,
        result: UnmixingResult,
        canvas: Canvas,
        colors: Sequence[str],
        visible: Sequence[bool],
        *,
        title: str,
        simulated: bool = False,
        below: Any = None,
    ) -> None:
        """Draw all maps of a result, and the map of what it leaves over (hidden).

        Parameters
        ----------
        canvas : Canvas
        colors, visible : sequence
            One a component.
        title : str
            Of the data, for the layers' metadata.
        below : Layer, optional
            The overview of the data: hidden while the maps, which are added up, lie over it.
        """
        self._look_like(canvas, colors, visible)
        for _ in self._drawn(result, title=title, simulated=simulated, below=below):
            pass

    def show_by_turns(
        self,
        result: UnmixingResult,
        canvas: Canvas,
        colors: Sequence[str],
        visible: Sequence[bool],
        *,
        done: Callable[[], Any] | None = None,
        **about: Any,
    ) -> None:
        """`show`, one layer in each turn of the event loop: the window answers while napari makes the layers.

        Layers that are new stay hidden until all are there. Nothing is lost where another result is shown in between, or the
        dock is closed: the layers belong to the viewer.

        Parameters
        ----------
        result, canvas, colors, visible, **about
            Of `show`.
        done : callable, optional
            Called when all are there.
        """
        self._look_like(canvas, colors, visible)
        if self._turns is None:
            window = getattr(self.viewer, "window", None)
            self._turns = Turns(getattr(window, "_qt_window", None))
        self._turns.start(self._drawn(result, **about), done)

    @property
    def drawing(self) -> bool:
        """True while layers of a result are still to come."""
        return self._turns is not None and isalive(self._turns) and self._turns.going

    def _look_like(self, canvas: Canvas, colors: Sequence[str], visible: Sequence[bool]) -> None:
        """What a person changes from here on is changed in these."""
        self.canvas = canvas
        self._colors, self._visible = list(colors), [bool(on) for on in visible]

    def _drawn(
        self, result: UnmixingResult, *, title: str, simulated: bool = False, below: Any = None
    ) -> Iterator[None]:
        """Draws a layer, gives way, draws the next; the last part puts on what is to be seen."""
        viewer = self.viewer
        canvas = self.canvas
        if viewer is None or canvas is None:
            return
        active = live_layer(viewer, viewer.layers.selection.active) if viewer.layers.selection.active else None
        # True still where the first result's layers were overtaken by another result before they were all there
        self._first = self._first or not any(live_layer(viewer, layer) is not None for layer in self.maps)
        common = {"simulated": simulated, "title": title, "method": result.method}
        limits = _common_limits(result.maps)
        limit = float(np.nanpercentile(result.residual_map, 99.5)) if result.residual_map.size else 1.0
        while len(self.maps) > result.components:
            layer = live_layer(viewer, self.maps.pop())
            if layer is not None:
                yield
                viewer.layers.remove(layer)
        for number in range(result.components):
            yield
            layer = live_layer(viewer, self.maps[number]) if number < len(self.maps) else None
            new = {"visible": False} if layer is None else {}
            layer = show_image(
                viewer,
                canvas.image(result.maps[number], result.names[number], {"simulated": simulated}),
                layer,
                metadata=common | {"kind": "unmixing_map", "component": number},
                colormap=component_colormap(self._colors[number]),
                blending="additive",
                contrast_limits=limits[number],
                **new,
            )
            if number < len(self.maps):
                self.maps[number] = layer
            else:
                self.maps.append(layer)
        yield
        new = {"visible": False} if live_layer(viewer, self.residual) is None else {}
        self.residual = show_image(
            viewer,
            canvas.image(result.residual_map, "residual (χ² per channel)", {"simulated": simulated}),
            self.residual,
            metadata=common | {"kind": "unmixing_residual"},
            colormap="magma",
            blending="additive",
            contrast_limits=(0.0, max(2.0, limit)),
            **new,
        )
        if result.extra.get("labels") is not None or self.classes is not None:
            yield
            self._show_classes(result.extra.get("labels"), common)
        yield
        for number, layer in enumerate(self.maps):
            if live_layer(viewer, layer) is not None:
                self.set_color(number, self._colors[number])
                layer.visible = self._visible[number]
        if self._first:
            for paint in [one for one in viewer.layers if one.metadata.get(METADATA_KEY, {}).get("kind") == PAINT]:
                viewer.layers.move(viewer.layers.index(paint), len(viewer.layers))  # maps added up would hide it
        if self._first and live_layer(viewer, below) is not None and below.visible:
            below.visible = False
            self._hidden.append(below)
        self._first = False
        keeps = active is not None and active in viewer.layers and active.visible
        viewer.layers.selection.active = active if keeps else self.maps[0]

    def _show_classes(self, labels: np.ndarray | None, about: dict[str, Any]) -> None:
        """The class of each pixel as a Labels layer, hidden under the maps, where the method gives one."""
        layer = live_layer(self.viewer, self.classes)
        if labels is None or self.canvas is None:
            if layer is not None:
                self.viewer.layers.remove(layer)
            self.classes = None
            return
        image = np.asarray(self.canvas.image(labels, "classes", {}).data)
        values = np.nan_to_num(image, nan=0).astype(np.uint8)
        y, x = self.canvas.axes
        place = {"scale": (y.scale, x.scale), "translate": (y.offset, x.offset)}
        if layer is not None:
            layer.data = values
            layer.scale, layer.translate = place["scale"], place["translate"]
            return
        self.classes = unwrapped(
            self.viewer.add_labels(
                values,
                name="classes",
                units=(y.units, x.units),
                axis_labels=("y", "x"),
                visible=False,
                metadata={METADATA_KEY: about | {"kind": "unmixing_classes"}},
                **place,
            )
        )

    def set_visible(self, number: int, on: bool) -> None:
        """Show or hide one component's map."""
        if number < len(self._visible):
            self._visible[number] = on
        layer = live_layer(self.viewer, self.maps[number]) if number < len(self.maps) else None
        if layer is not None:
            layer.visible = on

    def set_color(self, number: int, color: str) -> None:
        """Give one component's map another colour."""
        if number < len(self._colors):
            self._colors[number] = color
        layer = live_layer(self.viewer, self.maps[number]) if number < len(self.maps) else None
        if layer is not None and not np.array_equal(layer.colormap.colors, component_colormap(color).colors):
            layer.colormap = component_colormap(color)

    def show_window(self, values: np.ndarray, name: str, *, simulated: bool, color: str = "#FFFFFF") -> None:
        """Draw the map of an energy window over the others, with the contrast following the values."""
        viewer = self.viewer
        if viewer is None or self.canvas is None:
            return
        finite = values[np.isfinite(values)]
        low, high = (float(v) for v in np.percentile(finite, (0.5, 99.8))) if finite.size else (0.0, 1.0)
        layer = live_layer(viewer, self.window)
        frame = self.canvas.image(values, name, {"simulated": simulated})
        if layer is not None and layer.data.shape == frame.shape:
            # While the window is dragged only values change: they are put in place, and nothing else is worked out anew.
            if not layer.data.flags.writeable:
                layer.data = np.array(frame.data)
            else:
                layer.data[...] = frame.data
                layer.refresh(extent=False, thumbnail=False, highlight=False)
            high = max(high, low + 1e-6)
            if not np.allclose(layer.contrast_limits, (low, high), rtol=0.02, atol=0.01 * (high - low)):
                bottom, top = layer.contrast_limits_range
                layer.contrast_limits_range = (min(low, float(bottom)), max(high, float(top)))
                layer.contrast_limits = (low, high)
            title = layer_name(frame.signal, simulated=simulated)
            if not layer.name.startswith(title):
                layer.name = title
            return
        active = viewer.layers.selection.active
        marker = live_layer(viewer, self.marker)
        self.window = show_image(
            viewer,
            frame,
            self.window,
            metadata={"kind": "unmixing_window"},
            colormap=component_colormap(color),
            blending="translucent",
            contrast_limits=(low, max(high, low + 1e-6)),
        )
        if marker is not None:
            viewer.layers.move(viewer.layers.index(marker), len(viewer.layers))
        if active is not None and active in viewer.layers:
            viewer.layers.selection.active = active

    def hide_window(self) -> None:
        """Take the window's map away."""
        layer = live_layer(self.viewer, self.window) if self.viewer is not None else None
        self.window = None
        if layer is not None:
            self.viewer.layers.remove(layer)

    def mark(self, row: int, column: int) -> None:
        """Mark the chosen pixel."""
        viewer, canvas = self.viewer, self.canvas
        if viewer is None or canvas is None:
            return
        place = np.array([canvas.place(row, column)])
        layer = live_layer(viewer, self.marker)
        if layer is not None:
            layer.data = place
            return
        active = viewer.layers.selection.active
        y, x = canvas.axes
        extent = max(abs(y.scale) * canvas.shape[0], abs(x.scale) * canvas.shape[1])
        self.marker = unwrapped(
            viewer.add_points(
                place,
                size=max(extent / 50, abs(x.scale)),
                symbol="cross",
                face_color="white",
                border_color="black",
                border_width=0.1,
                units=(y.units, x.units),
                axis_labels=("y", "x"),
                canvas_size_limits=(8, 18),
                name="chosen pixel",
                metadata={METADATA_KEY: {"kind": "unmixing_pixel"}},
            )
        )
        if active is not None and active in viewer.layers:
            viewer.layers.selection.active = active

    def unmark(self) -> None:
        """Take the mark of the chosen pixel away."""
        layer = live_layer(self.viewer, self.marker) if self.viewer is not None else None
        self.marker = None
        if layer is not None:
            self.viewer.layers.remove(layer)

    def pixel_at(self, position: Sequence[float]) -> tuple[int, int] | None:
        """Pixel of the maps at a place of the viewer's world; None beside them or while all maps are hidden."""
        viewer = self.viewer
        if viewer is None or self.canvas is None:
            return None
        for drawn in (*self.maps, self.window, self.residual):
            layer = live_layer(viewer, drawn)
            if layer is not None and layer.visible:
                row, column = (float(v) for v in layer.world_to_data(position)[-2:])
                return self.canvas.pixel(row, column)
        return None

    def remove(self) -> None:
        """Take everything away and show again what was hidden for it."""
        if self._turns is not None and isalive(self._turns):
            self._turns.stop()
        viewer = self.viewer
        if viewer is None:
            return
        for drawn in (*self.maps, self.residual, self.window, self.marker, self.classes):
            layer = live_layer(viewer, drawn)
            if layer is not None:
                viewer.layers.remove(layer)
        for layer in self._hidden:
            if live_layer(viewer, layer) is not None:
                layer.visible = True
        self.maps, self.residual, self.window, self.marker, self.classes, self._hidden = [], None, None, None, None, []


def component_colormap(color: str) -> Any:
    """From black to a colour."""
    from napari.utils import Colormap

    return Colormap(["#000000", color], name=f"component {color}")


FAINTEST = 0.4
"""A component that never reaches this part of the strongest one's amount is drawn fainter instead of as bright."""


def _common_limits(maps: np.ndarray) -> list[tuple[float, float]]:
    """Contrast of each map; weak components stay weak, so that the sum of all colours does not turn white."""
    own = [_limits(values) for values in maps]
    largest = max(high for _, high in own)
    return [(low, max(high, FAINTEST * largest)) for low, high in own]


def _limits(values: np.ndarray) -> tuple[float, float]:
    """From nothing to nearly the most; a map of free sign from its most negative."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(finite, (0.2, 99.8)))
    if low >= -0.2 * max(high, 0.0):
        low = 0.0
    return low, high if high > low else low + 1.0
