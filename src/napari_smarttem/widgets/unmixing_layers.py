"""An unmixing result on the canvas: one coloured layer a component, what is left over, the window's map, the chosen pixel."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schema import Axis, Field2D, Frame
from .layers import METADATA_KEY, layer_name, live_layer, show_image, unwrapped
from .live_maps import PatchGrid

if TYPE_CHECKING:
    from ..unmixing import UnmixingResult

COLORS = ("#FF3B20", "#28C840", "#2A5BFF", "#F0E442", "#CC79A7", "#56B4E9", "#E69F00", "#B0B0B0", "#00B5A0", "#9A5CFF")
"""The first three are near-primary, because the maps are added up."""
BAND = 8
"""A line scan is drawn as a band, so many times longer than high: one pixel would hardly be seen."""


def component_color(number: int) -> str:
    """Colour of a component when it is first shown."""
    return COLORS[number % len(COLORS)]


PAINT = "unmixing_labels"
"""Kind of the layer in which a person paints."""


class Canvas:
    """How maps of a result become images on the specimen plane.

    Parameters
    ----------
    axes : tuple of Axis
        y and x of the maps.
    shape : (int, int)
    places_nm : ndarray, optional
        ``(n, 2)`` for the spectra of a run: each map value colours the surroundings of its place.
    """

    def __init__(self, axes: Sequence[Axis], shape: tuple[int, int], places_nm: np.ndarray | None = None) -> None:
        self.shape = shape
        self.places_nm = places_nm
        self._grid: PatchGrid | None = None
        if places_nm is not None:
            self._grid = _grid(places_nm)
            half = self._grid.pixel_nm / 2
            self.axes = tuple(
                Axis(name=name, units="nm", scale=self._grid.pixel_nm, offset=start + half)
                for name, start in (("y", self._grid.field.y_nm), ("x", self._grid.field.x_nm))
            )
        elif shape[0] == 1:
            height = abs(axes[1].scale) * shape[1] / BAND
            self.axes = (Axis(name="y", units=axes[1].units, scale=height, offset=0.0), axes[1])
        else:
            self.axes = (axes[0], axes[1])

    @property
    def drawn_shape(self) -> tuple[int, int]:
        """Rows and columns of the image that is drawn."""
        return self.shape if self._grid is None else (self._grid.owner.shape[0], self._grid.owner.shape[1])

    def image(self, values: np.ndarray, name: str, metadata: dict[str, Any]) -> Frame:
        """Values ``(y, x)`` of a map as a frame to draw; NaN where a run has measured nothing."""
        if self._grid is not None:
            values = self._grid.image(values.ravel())
        return Frame(
            data=np.asarray(values, dtype=np.float32), axes=self.axes, signal=name, quantity="amount", metadata=metadata
        )

    def pixel(self, row: float, column: float) -> tuple[int, int] | None:
        """Pixel of the map under a pixel of the drawn image; None beside it."""
        if self._grid is not None:
            owner = self._grid.owner
            i, j = round(row), round(column)
            if not (0 <= i < owner.shape[0] and 0 <= j < owner.shape[1]) or owner[i, j] < 0:
                return None
            return 0, int(owner[i, j])
        i, j = round(row), round(column)
        return (i, j) if 0 <= i < self.shape[0] and 0 <= j < self.shape[1] else None

    def place(self, row: int, column: int) -> tuple[float, float]:
        """Where the centre of a map's pixel lies, y and x in the units of the axes."""
        if self.places_nm is not None:
            return float(self.places_nm[column, 0]), float(self.places_nm[column, 1])
        y, x = self.axes
        return y.offset + y.scale * row, x.offset + x.scale * column


def _grid(places_nm: np.ndarray) -> PatchGrid:
    """Patches as large as the places are apart."""
    low, high = places_nm.min(axis=0), places_nm.max(axis=0)
    extent = max(float((high - low).max()), 1.0)
    spacing = extent / 10
    if len(places_nm) > 2:
        from scipy.spatial import cKDTree

        nearest = cKDTree(places_nm).query(places_nm[:5000], k=2)[0][:, 1]
        spacing = min(spacing, max(float(np.median(nearest)), extent / 100))
    low, high = low - spacing, high + spacing
    grid = PatchGrid(
        Field2D(
            y_nm=float(low[0]), x_nm=float(low[1]), height_nm=float(high[0] - low[0]), width_nm=float(high[1] - low[1])
        ),
        spacing,
    )
    for number, place in enumerate(places_nm):
        grid.add(number, float(place[0]), float(place[1]))
    return grid


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
        viewer = self.viewer
        if viewer is None:
            return
        self.canvas = canvas
        active = viewer.layers.selection.active
        while len(self.maps) > result.components:
            layer = live_layer(viewer, self.maps.pop())
            if layer is not None:
                viewer.layers.remove(layer)
        first = not any(live_layer(viewer, layer) is not None for layer in self.maps)
        common = {"simulated": simulated, "title": title, "method": result.method}
        limits = _common_limits(result.maps)
        for number in range(result.components):
            values = result.maps[number]
            about = common | {"kind": "unmixing_map", "component": number}
            frame = canvas.image(values, result.names[number], {"simulated": simulated})
            layer = self.maps[number] if number < len(self.maps) else None
            layer = show_image(
                viewer,
                frame,
                layer,
                metadata=about,
                colormap=component_colormap(colors[number]),
                blending="additive",
                contrast_limits=limits[number],
            )
            layer.colormap = component_colormap(colors[number])
            layer.visible = bool(visible[number])
            if number < len(self.maps):
                self.maps[number] = layer
            else:
                self.maps.append(layer)
        limit = float(np.nanpercentile(result.residual_map, 99.5)) if result.residual_map.size else 1.0
        new = live_layer(viewer, self.residual) is None
        self.residual = show_image(
            viewer,
            canvas.image(result.residual_map, "residual (χ² per channel)", {"simulated": simulated}),
            self.residual,
            metadata=common | {"kind": "unmixing_residual"},
            colormap="magma",
            blending="additive",
            contrast_limits=(0.0, max(2.0, limit)),
        )
        if new:
            self.residual.visible = False
        self._show_classes(result.extra.get("labels"), common)
        if first:
            for paint in [one for one in viewer.layers if one.metadata.get(METADATA_KEY, {}).get("kind") == PAINT]:
                viewer.layers.move(viewer.layers.index(paint), len(viewer.layers))  # maps added up would hide it
        if first and live_layer(viewer, below) is not None and below.visible:
            below.visible = False
            self._hidden.append(below)
        viewer.layers.selection.active = active if active is not None and active in viewer.layers else self.maps[0]

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
        layer = live_layer(self.viewer, self.maps[number]) if number < len(self.maps) else None
        if layer is not None:
            layer.visible = on

    def set_color(self, number: int, color: str) -> None:
        """Give one component's map another colour."""
        layer = live_layer(self.viewer, self.maps[number]) if number < len(self.maps) else None
        if layer is not None:
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
        self.window = show_image(
            viewer,
            frame,
            self.window,
            metadata={"kind": "unmixing_window"},
            colormap=component_colormap(color),
            blending="translucent",
            contrast_limits=(low, max(high, low + 1e-6)),
        )
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
