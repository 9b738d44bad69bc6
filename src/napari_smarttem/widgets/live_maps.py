"""Live maps: counts in each energy window where they were measured, transparent where nothing was measured yet."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
from qtpy.compat import isalive

from ..acquisition.maps import MapWindow, window_sums
from ..schema import Axis, Field2D, Frame, image_frame
from .energy_windows import EnergyWindow, EnergyWindows
from .layers import live_layer, show_image, unwrapped
from .turns import Turns

LONGEST_SIDE_PX = 160
BATCH = 500


class PatchGrid:
    """Which measured point each pixel of a map belongs to: the nearest one within `radius_nm`, -1 where there is none.

    Points come one after the other; each costs only the pixels around it, so that the ten-thousandth is as quick as the first.

    Parameters
    ----------
    field : Field2D
        What the map covers.
    radius_nm : float
        How far a point's patch reaches where no other point is nearer.
    longest_px : int
        Pixels along the longer side.
    """

    def __init__(self, field: Field2D, radius_nm: float, longest_px: int = LONGEST_SIDE_PX) -> None:
        self.field = field
        self.pixel_nm = max(field.height_nm, field.width_nm) / longest_px
        rows = max(1, round(field.height_nm / self.pixel_nm))
        columns = max(1, round(field.width_nm / self.pixel_nm))
        self.radius_nm = max(radius_nm, 0.8 * self.pixel_nm)
        self.owner = np.full((rows, columns), -1, dtype=np.int32)
        self._squared = np.full((rows, columns), np.inf)
        self._y = field.y_nm + (np.arange(rows) + 0.5) * self.pixel_nm
        self._x = field.x_nm + (np.arange(columns) + 0.5) * self.pixel_nm

    def add(self, number: int, y_nm: float, x_nm: float) -> None:
        """Give point `number` the pixels it is nearest to."""
        top, bottom = np.searchsorted(self._y, (y_nm - self.radius_nm, y_nm + self.radius_nm))
        left, right = np.searchsorted(self._x, (x_nm - self.radius_nm, x_nm + self.radius_nm))
        part = np.s_[top:bottom, left:right]
        squared = (self._y[top:bottom, None] - y_nm) ** 2 + (self._x[None, left:right] - x_nm) ** 2
        nearer = (squared <= self.radius_nm**2) & (squared < self._squared[part])
        self._squared[part][nearer] = squared[nearer]
        self.owner[part][nearer] = number

    def image(self, values: np.ndarray) -> np.ndarray:
        """Values of the points as a ``(y, x)`` image, NaN where no point reaches."""
        if len(values) == 0:
            return np.full(self.owner.shape, np.nan, dtype=np.float32)
        image = np.asarray(values, dtype=np.float32)[self.owner]
        image[self.owner < 0] = np.nan
        return image


class LiveMaps:
    """Spectra of a run by place, and one image layer for each energy window.

    Parameters
    ----------
    viewer : napari.Viewer or ViewerModel
    windows : EnergyWindows
        The windows a person set; their changes are drawn at the next `draw`.
    """

    def __init__(self, viewer: Any, windows: EnergyWindows) -> None:
        self._viewer_reference = weakref.ref(unwrapped(viewer))
        self.windows = windows
        self.layers: dict[str, Any] = {}
        self._drawn: dict[str, tuple[EnergyWindow, int, int, bool]] = {}
        self._turns: Turns | None = None
        self._field: Field2D | None = None
        self._spacing_nm = 1.0
        self._simulated = False
        self.subtract_background = True
        self.clear()

    def clear(self, field: Field2D | None = None, *, spacing_nm: float = 1.0, simulated: bool = False) -> None:
        """Forget the spectra: a new run begins over `field`, its points about `spacing_nm` apart."""
        self._frames: list[Frame] = []
        self._places: list[tuple[float, float]] = []
        self._sums: dict[tuple[float, float, bool], np.ndarray] = {}
        self._spectra: tuple[str, float, float] | None = None
        self._field = field
        self._grid = None if field is None else PatchGrid(field, spacing_nm)
        self._simulated = simulated
        self._generation = getattr(self, "_generation", 0) + 1

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def _viewer(self) -> Any:
        """The viewer, None once it has gone. Held weakly: this object is kept for as long as the viewer lives."""
        return self._viewer_reference()

    def set_spacing(self, spacing_nm: float) -> None:
        """Make the patches as large as the points are apart."""
        if self._field is None or self._grid is None or np.isclose(spacing_nm, self._grid.radius_nm, rtol=0.05):
            return
        self._grid = PatchGrid(self._field, spacing_nm)
        for number, place in enumerate(self._places):
            self._grid.add(number, *place)
        self._generation += 1

    def add(self, y_nm: float, x_nm: float, spectrum: Frame) -> None:
        """Take in a spectrum, measured at a place in the coordinates of the overview."""
        if not self._frames or self._frames[-1].axes != spectrum.axes:
            self.expect(spectrum.signal, spectrum.axes[-1], spectrum.shape[-1])
        self._frames.append(spectrum)
        self._places.append((y_nm, x_nm))
        if self._grid is not None:
            self._grid.add(len(self._frames) - 1, y_nm, x_nm)

    def expect(self, signal: str, axis: Axis, channels: int) -> None:
        """Say of which kind and range the spectra are: windows of others get no map."""
        low, high = sorted((axis.offset, axis.offset + axis.scale * (channels - 1)))
        self._spectra = (signal, low, high)

    def fitting(self) -> list[EnergyWindow]:
        """Windows that have a map; all as long as nothing is known of the spectra."""
        return list(self.windows) if self._spectra is None else self.windows.fitting(*self._spectra)

    def values(self, window: EnergyWindow) -> np.ndarray:
        """Counts of each spectrum inside a window, NaN where the window lies outside the spectrum; shape ``(n,)``."""
        subtract = self.subtract_background and _has_background(self._frames)
        key = (window.low_ev, window.high_ev, subtract)
        known = self._sums.get(key)
        start = 0 if known is None else len(known)
        if start == len(self._frames):
            return np.empty(0) if known is None else known
        summed = MapWindow(window.name, window.low_ev, window.high_ev, _before(window) if subtract else None)
        new = _sums(self._frames[start:], summed)
        joined = new if known is None else np.concatenate((known, new))
        if len(self._sums) > 64:  # edges dragged about leave their sums behind
            self._sums.clear()
        self._sums[key] = joined
        return joined

    def draw(self) -> bool:
        """Bring the layers up to date; True where anything had to be drawn. Cheap where nothing changed."""
        if self._viewer is None:
            return False
        drew = self._drop_layers({window.name for window in self.fitting()})
        if self._grid is None or not self._frames:
            return drew
        for window in self.fitting():
            stamp = (window, len(self._frames), self._generation, self.subtract_background)
            if self._drawn.get(window.name) != stamp:
                self._draw(window)
                self._drawn[window.name] = stamp
                drew = True
        return drew

    def prepare(self) -> None:
        """Build the layers of windows that have none yet, so that the first spectrum need not wait for it.

        One in each turn of the event loop: napari takes some tenths of a second for each. Without a window, at once.
        """
        if (
            self._viewer is None
            or not self.lacking
            or (self._turns is not None and isalive(self._turns) and self._turns.going)
        ):
            return
        main = getattr(getattr(self._viewer, "window", None), "_qt_window", None)
        if main is None:
            for _ in self._built():
                pass
            return
        self._turns = Turns(main)
        self._turns.start(self._built(), self._turns.deleteLater)

    @property
    def lacking(self) -> bool:
        """True where a window has no layer yet."""
        return self._grid is not None and any(window.name not in self.layers for window in self.fitting())

    def _built(self) -> Iterator[None]:
        while self._viewer is not None and self.lacking:
            self._draw(next(window for window in self.fitting() if window.name not in self.layers))
            yield

    def _draw(self, window: EnergyWindow) -> None:
        layer = self.layers.get(window.name)
        if layer is not None and live_layer(self._viewer, layer) is None:
            return  # the person deleted this map: it stays away
        assert self._grid is not None
        field = self._grid.field
        pixel = self._grid.pixel_nm
        values = self.values(window)
        frame = image_frame(
            self._grid.image(values),
            pixel_nm=pixel,
            signal=f"{window.name} map",
            origin_nm=(field.y_nm + pixel / 2, field.x_nm + pixel / 2),
            metadata={"simulated": self._simulated, "low_ev": window.low_ev, "high_ev": window.high_ev},
        )
        limits = _limits(values)
        if layer is None:
            below = self._viewer.layers.index(self._below()) if self._below() is not None else None
            active = self._viewer.layers.selection.active
            layer = show_image(
                self._viewer,
                frame,
                contrast_limits=limits,
                colormap=_colormap(window.color),
                blending="additive",
                index=below,
            )
            if active is not None:  # a new layer takes the keys and clicks away from the targets
                self._viewer.layers.selection.active = active
        else:
            show_image(self._viewer, frame, layer, contrast_limits=limits)
            if self._drawn.get(window.name, (window,))[0].color != window.color:
                layer.colormap = _colormap(window.color)
        self.layers[window.name] = layer

    def _below(self) -> Any:
        """The lowest Points layer: maps go under the targets."""
        from napari.layers import Points

        return next((layer for layer in self._viewer.layers if isinstance(layer, Points)), None)

    def _drop_layers(self, keep: set[str]) -> bool:
        gone = [name for name in self.layers if name not in keep]
        for name in gone:
            layer = live_layer(self._viewer, self.layers.pop(name))
            self._drawn.pop(name, None)
            if layer is not None:
                self._viewer.layers.remove(layer)
        return bool(gone)

    def forget_deleted(self) -> None:
        """Show again, from now on, the maps that the person had deleted."""
        for name, layer in tuple(self.layers.items()):
            if live_layer(self._viewer, layer) is None:
                del self.layers[name]
                self._drawn.pop(name, None)


def _has_background(frames: list[Frame]) -> bool:
    """True for energy losses, which decay as a power law; X-ray lines stand on something else."""
    return bool(frames) and frames[0].signal == "EELS"


def _before(window: EnergyWindow) -> tuple[float, float] | None:
    """Range in front of an edge from which its background is extrapolated; None where there is no room for one."""
    width = min(window.high_ev - window.low_ev, 0.12 * window.low_ev)
    return (window.low_ev - width, window.low_ev - 0.05 * width) if width > 1.0 and window.low_ev > 50.0 else None


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Contrast from no counts to the most."""
    finite = values[np.isfinite(values)]
    high = float(finite.max()) if finite.size else 1.0
    return 0.0, high if high > 0 else 1.0


def _sums(frames: list[Frame], window: MapWindow) -> np.ndarray:
    """Counts of each spectrum in a window, shape ``(n,)``; neighbours on the same axis are summed together."""
    parts = []
    for axis, group in itertools.groupby(frames, key=lambda frame: (frame.axes[-1], frame.shape)):
        together = list(group)
        for start in range(0, len(together), BATCH):
            spectra = np.stack([frame.data for frame in together[start : start + BATCH]])
            parts.append(window_sums(spectra, axis[0], window))
    return np.concatenate(parts)


def _colormap(color: str) -> Any:
    from napari.utils import Colormap

    return Colormap(["#000000", color], name=f"window {color}")
