"""A run on the canvas: overview, targets, live maps, newest spectrum. Belongs to the viewer, not to a dock that may be closed."""

from __future__ import annotations

import logging
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from ..schema import Acquire, AwaitReview, Axis, Field2D, Frame, Note, Scan, StepResult
from .background import run_in_background
from .base import Relay, session_for
from .energy_windows import windows_of
from .layers import SIMULATED_MARK, live_layer, show_image, unwrapped
from .live_maps import LiveMaps
from .region_layer import RegionLayer
from .review_layer import review_layer_for
from .run_plan import plan_of

log = logging.getLogger(__name__)

MAPS_MS = 110
KEPT_SPECTRA = 20_000


class LiveView(QObject):
    """Draws what a run records, as it comes, at the window's pace.

    Attributes
    ----------
    overview : Frame or None
        Newest overview image, the one targets are chosen on.
    spectra : dict of str to Frame
        Spectra of this run by target id.
    maps : LiveMaps
    regions : RegionLayer
    targets : ReviewLayer
    """

    spectrum_changed = Signal(object, str)
    """Newest spectrum (or the one asked for) and what it is."""
    overview_changed = Signal()
    noted = Signal(str, str)
    """Level and text of a note of the plan."""

    def __init__(self, viewer: Any) -> None:
        viewer = unwrapped(viewer)
        window = getattr(viewer, "window", None)
        super().__init__(window._qt_window if window is not None else None)
        self._viewer = weakref.ref(viewer)
        self.session = session_for(viewer)
        self.windows = windows_of(viewer)
        self.targets = review_layer_for(viewer)
        self.maps = LiveMaps(viewer, self.windows)
        self.regions = RegionLayer(viewer)
        self.overview: Frame | None = None
        self.spectra: dict[str, Frame] = {}
        self.newest: tuple[Frame, str] | None = None
        self._images: dict[str, Any] = {}
        self._detail: Any = None
        self._dimmed = False
        self._takes_spectra = True
        self._relay = Relay(self)
        self._relay.listen(self.session.run_started, self._run_started)
        self._relay.listen(self.session.instrument_changed, self._instrument_changed)
        self._relay.listen(self.session.step_finished, self._results, every=True)
        self._relay.listen(self.session.review.changed, self._review_changed)
        self._relay.listen(self.session.review.opened, self._review_opened)
        self._timer = QTimer(self)
        self._timer.setInterval(MAPS_MS)
        self._timer.timeout.connect(self._draw_maps)
        self._timer.start()
        self._instrument_changed()

    @property
    def viewer(self) -> Any:
        """The viewer, None once it has gone."""
        return self._viewer()

    @property
    def simulated(self) -> bool:
        """True where the connected instrument is a simulation."""
        guard = self.session.instrument
        return bool(guard is not None and guard.info.simulated)

    def shown_field(self) -> Field2D | None:
        """The part of the specimen that the canvas shows, in nm."""
        viewer = self.viewer
        if viewer is None or not self._images:
            return None
        camera = viewer.scene.camera
        height, width = (float(n) / float(camera.zoom) for n in viewer.canvas.size)
        y, x = (float(v) for v in camera.center[-2:])
        return Field2D(y_nm=y - height / 2, x_nm=x - width / 2, height_nm=height, width_nm=width)

    def show_target(self, target_id: str) -> bool:
        """Show the spectrum of a measured target; False where it has none."""
        frame = self.spectra.get(target_id)
        if frame is None:
            return False
        self.spectrum_changed.emit(frame, target_id)
        return True

    def _instrument_changed(self, *_: Any) -> None:
        """Say on the canvas itself that nothing there is a measurement, so that every picture of it says so too."""
        viewer = self.viewer
        if viewer is None:
            return
        text = viewer.canvas.overlays.text
        if self.simulated:
            text.text, text.position, text.font_size = SIMULATED_MARK, "top_left", 13
            text.color = "#E69F00"
            text.visible = True
        elif text.text == SIMULATED_MARK:
            text.visible = False

    def _run_started(self, folder: Path) -> None:
        plan = plan_of(folder)
        self._takes_spectra = plan is None or plan.kind not in {"single_pixel", "alignment"}
        self.spectra.clear()
        self.newest = None
        self._clear_maps()
        self.maps.forget_deleted()

    def _clear_maps(self) -> None:
        field = self.session.context.field if self.session.context is not None else None
        self.maps.clear(field, spacing_nm=self._spacing_nm(), simulated=self.simulated)

    def _spacing_nm(self) -> float:
        """How far apart the targets are, usually: the median distance to the nearest neighbour."""
        places = np.array([(j.target.y_nm, j.target.x_nm) for j in self.session.review.items()]).reshape(-1, 2)
        field = self.session.context.field if self.session.context is not None else None
        largest = max(field.height_nm, field.width_nm) / 40 if field is not None else 5.0
        if len(places) < 3:
            return largest
        # A hundred of them tell it well enough. No k-d tree: importing scipy here would wait for the instrument's own imports.
        some = places[:: max(1, len(places) // 100)]
        squared = np.square(some[:, None, :] - places[None, :, :]).sum(axis=2)
        distance = np.sqrt(np.partition(squared, 1, axis=1)[:, 1])
        return float(min(largest, max(0.6 * float(np.median(distance)), largest / 8)))

    def _review_changed(self, _: Any) -> None:
        if not len(self.maps):
            self._clear_maps()

    def _review_opened(self, _: Any) -> None:
        """Have the layers of the maps built while the person looks at the proposal: each takes napari some tenths of a second."""
        guard = self.session.instrument
        if guard is None or guard.spectrometer is None or not self.session.review.items() or not self._takes_spectra:
            return
        # asked in the background: at a real instrument every one of these is a question over a wire
        spectrometer = guard.spectrometer
        run_in_background(
            lambda _cancel: (spectrometer.signal, _energy_axis(spectrometer), spectrometer.channels),
            self._prepare_maps,
            lambda error: log.info("no windows are suggested before the first spectrum: %s", error),
            owner=self,
        )

    def _prepare_maps(self, spectrum: tuple[str, Axis, int]) -> None:
        if self.session.review.is_open:
            self.maps.expect(*spectrum)
            self._suggest_windows(*spectrum)
            self.maps.prepare()

    def _results(self, results: list[StepResult]) -> None:
        newest: tuple[Frame, str] | None = None
        overview: StepResult | None = None
        detail: Frame | None = None
        for result in results:
            step = result.step
            if isinstance(step, Scan) and step.purpose == "overview" and result.frames:
                overview = result
            elif isinstance(step, Scan) and step.purpose == "image" and result.frames:
                detail = result.frames[0]
            elif isinstance(step, Acquire) and result.frames:
                frame = result.frames[0]
                name = step.target_id or step.step_id
                if not len(self.maps):
                    self.maps.expect(frame.signal, frame.axes[-1], frame.shape[-1])
                    self._suggest_windows(frame.signal, frame.axes[-1], frame.shape[-1])
                if len(self.spectra) < KEPT_SPECTRA:
                    self.spectra[name] = frame
                self.maps.add(step.y_nm - step.drift_nm[0], step.x_nm - step.drift_nm[1], frame)
                newest = frame, name
            elif isinstance(step, AwaitReview):
                self._respace()
            elif isinstance(step, Note) and step.text:
                self.noted.emit(step.level, step.text)
        if overview is not None:
            self._show_overview(overview)
        if detail is not None:
            self._show_detail(detail)
        if newest is not None:
            self.newest = newest
            self.spectrum_changed.emit(*newest)

    def _draw_maps(self) -> None:
        """Maps are added to what lies below: the overview makes room for them once, and stays as the person then sets it."""
        if len(self.maps) and self.maps.lacking:
            self.maps.prepare()
            return
        if self.maps.draw() and self.maps.layers and not self._dimmed:
            self._dimmed = True
            if not _has_dark_canvas(self.viewer):
                return  # half of an image over white is nearly white
            for layer in self._images.values():
                if live_layer(self.viewer, layer) is not None and layer.opacity == 1.0:
                    layer.opacity = 0.5

    def _suggest_windows(self, signal: str, axis: Axis, channels: int) -> None:
        """Where none of the person's windows belongs to such spectra."""
        from .suggested_windows import suggested_windows

        if self.maps.fitting():
            return
        guard = self.session.instrument
        elements = guard.info.details.get("elements", ()) if guard is not None else ()
        if isinstance(elements, (list, tuple)):
            taken = {window.name for window in self.windows}
            new = [w for w in suggested_windows(map(str, elements), signal, axis, channels) if w.name not in taken]
            self.windows.set_all([*self.windows, *new])

    def _respace(self) -> None:
        if not len(self.maps):
            self._clear_maps()
        else:
            self.maps.set_spacing(self._spacing_nm())

    def _show_overview(self, result: StepResult) -> None:
        viewer = self.viewer
        if viewer is None:
            return
        first = not any(live_layer(viewer, layer) is not None for layer in self._images.values())
        active = viewer.layers.selection.active
        shapes_differ = self.overview is not None and self.overview.axes != result.frames[0].axes
        self.overview = result.frames[0]
        signals = [frame.signal for frame in result.frames]
        for signal in [s for s in self._images if s not in signals]:
            layer = live_layer(viewer, self._images.pop(signal))
            if layer is not None:
                viewer.layers.remove(layer)
        for i, frame in enumerate(result.frames):
            layer = show_image(viewer, frame, self._images.get(frame.signal), index=0)
            if i and frame.signal not in self._images:
                layer.visible = False
            self._images[frame.signal] = layer
        seen = self._images[signals[0]]
        if first or shapes_differ:
            viewer.reset_view()
        if self.targets.layer is not None:
            self.targets.activate()
        else:
            kept = active is not None and active in viewer.layers
            viewer.layers.selection.active = active if kept else seen
        self.overview_changed.emit()

    def _show_detail(self, frame: Frame) -> None:
        """The newest image of a point, where it was taken, just above the overview."""
        viewer = self.viewer
        if viewer is None:
            return
        active = viewer.layers.selection.active
        self._detail = show_image(viewer, frame, self._detail, name="newest image of a point", index=len(self._images))
        if active is not None and active in viewer.layers:
            viewer.layers.selection.active = active


def _has_dark_canvas(viewer: Any) -> bool:
    from napari.utils.theme import get_theme

    return sum(get_theme(viewer.theme).canvas.as_rgb_tuple()[:3]) < 3 * 128


def _energy_axis(spectrometer: Any) -> Axis:
    return Axis(name="energy", units="eV", scale=spectrometer.dispersion_ev, offset=spectrometer.energy_offset_ev)


_views: weakref.WeakKeyDictionary[Any, LiveView] = weakref.WeakKeyDictionary()


def live_view_for(viewer: Any) -> LiveView:
    """The one live view of a viewer, made at the first call."""
    viewer = unwrapped(viewer)
    if viewer not in _views:
        _views[viewer] = LiveView(viewer)
    return _views[viewer]
