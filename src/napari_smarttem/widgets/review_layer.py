"""Targets on the canvas, bound both ways to the review.

The review is the truth and this is a view of it: what a person does on the canvas becomes an action of the review, and what the
review then says is drawn. Nothing is remembered here but what is drawn; a layer that the person deletes is made anew.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from ..schema import SmartTEMError
from .base import session_for, show_message
from .gestures import KEYS_HELP, bind_gestures
from .lasso import LassoLine
from .layers import (
    METADATA_KEY,
    describe_target,
    layer_name,
    marker_size_nm,
    show_scale_bar,
    state_codes,
    state_colors,
    state_symbols,
    target_features,
    target_layer_data,
    target_places_nm,
    unwrapped,
)
from .relay import Relay
from .target_points import TargetPoints

if TYPE_CHECKING:
    from ..engine.session import Session
    from ..schema import JudgedTarget

_PICK_PIXELS = 9.0


class ReviewLayer(QObject):
    """The targets of a session's review as a Points layer of its viewer.

    Parameters
    ----------
    viewer : napari.Viewer or ViewerModel
    session : Session, optional
        The viewer's own where it is not given.

    Signals
    -------
    selection_changed(tuple of str)
        Ids of the selected targets.
    lasso_changed(bool)
        The lasso tool was switched on or off.
    """

    selection_changed = Signal(object)
    lasso_changed = Signal(bool)

    def __init__(self, viewer: Any, session: Session | None = None) -> None:
        super().__init__()
        viewer = unwrapped(viewer)
        self._viewer = weakref.ref(viewer)
        self.session = session if session is not None else session_for(viewer)
        self.layer: TargetPoints | None = None
        self._items: tuple[JudgedTarget, ...] = ()
        self._ids: list[str] = []
        self._places = np.empty((0, 2))
        self._codes = np.empty(0, dtype=np.intp)
        self._silent = 0
        self._dragging = False
        self.lasso_line: LassoLine | None = None
        self._reported: tuple[str, ...] = ()
        self._relay = Relay(self)
        self._relay.listen(self.session.review.changed, self._review_changed)
        viewer.layers.events.removed.connect(self._layer_removed)
        self.refresh()

    # ------------------------------------------------------------------------------------------------ for others

    @property
    def viewer(self) -> Any:
        """The viewer, None once it has gone."""
        return self._viewer()

    def selected_ids(self) -> tuple[str, ...]:
        """Ids of the selected targets, in the review's order."""
        if self.layer is None:
            return ()
        return tuple(self._ids[i] for i in sorted(int(i) for i in self.layer.selected_data) if i < len(self._ids))

    def select(self, target_ids: Iterable[str]) -> None:
        """Select targets on the canvas; ids that are not there are passed over."""
        if self.layer is None:
            return
        wanted = set(target_ids)
        rows = {i for i, target_id in enumerate(self._ids) if target_id in wanted}
        if rows != set(self.layer.selected_data):
            self.layer.selected_data = rows
        self.report_selection()

    def approve(self, target_ids: Iterable[str] | None = None) -> None:
        """Approve targets: those given, or the selected, or the one under the cursor."""
        self._judge("approve", target_ids)

    def reject(self, target_ids: Iterable[str] | None = None) -> None:
        """Reject targets; see `approve`."""
        self._judge("reject", target_ids)

    def reset(self, target_ids: Iterable[str] | None = None) -> None:
        """Take the verdict on targets back; see `approve`."""
        self._judge("reset", target_ids)

    def undo(self) -> None:
        """Take back the person's last action."""
        self._act(self.session.review.undo)

    def redo(self) -> None:
        """Do again what was taken back last."""
        self._act(self.session.review.redo)

    @property
    def items(self) -> tuple[JudgedTarget, ...]:
        """The targets as drawn, in the order of the markers."""
        return self._items

    @property
    def places_nm(self) -> np.ndarray:
        """Places of the targets as drawn, shape ``(n, 2)``."""
        return self._places

    @property
    def lasso(self) -> bool:
        """True while dragging on the canvas draws a lasso."""
        return self.lasso_line is not None

    def set_lasso(self, on: bool) -> None:
        """Switch the lasso tool on or off; while it is on, a drag selects what it encircles (with Shift: adds it)."""
        if on == self.lasso or self.layer is None:
            return
        if on:
            self.layer.mode = "pan_zoom"
            self.lasso_line = LassoLine(self.viewer, self.layer)
            self.viewer.layers.selection.active = self.layer
            self.layer.mouse_pan = False
            self.layer.cursor = "cross"
            show_message(
                self.viewer, "info", "Lasso: drag around targets; Shift adds to the selection; L or Esc ends it."
            )
        else:
            line, self.lasso_line = self.lasso_line, None
            line.remove()
            self.layer.mouse_pan = True
            self.layer.cursor = "standard"
            self.viewer.layers.selection.active = self.layer
        self.lasso_changed.emit(on)

    def activate(self) -> None:
        """Make the targets the active layer, so that its keys and clicks work."""
        if self.layer is not None and self.viewer is not None:
            self.viewer.layers.selection.active = self.layer

    def refresh(self) -> None:
        """Draw what the review says now."""
        self._review_changed(None)

    def close(self) -> None:
        """Let go of review and viewer, and leave the layer as it is."""
        self._relay.stop()
        self.set_lasso(False)
        if self.viewer is not None:
            self.viewer.layers.events.removed.disconnect(self._layer_removed)

    # ------------------------------------------------------------------------------------------ review to canvas

    def _review_changed(self, _ids: Any) -> None:
        if self._dragging or self._window_gone():
            return  # drawn when the drag ends, or not at all
        items = self.session.review.items()
        if self.layer is None and not items:
            return
        ids = [item.target.target_id for item in items]
        places = target_places_nm(items)
        codes = state_codes(item.state for item in items)
        if self.layer is None:
            self._items, self._ids, self._places, self._codes = items, ids, places, codes
            self._make_layer()
            return
        same_targets = ids == self._ids
        moved = not (same_targets and np.array_equal(places, self._places) and len(self.layer.data) == len(ids))
        selected = set(self.selected_ids())
        restyled = not same_targets or not np.array_equal(codes, self._codes)
        self._items, self._ids, self._places, self._codes = items, ids, places, codes
        with self._quiet():
            if moved or not np.array_equal(self.layer.data, places):
                self.layer.selected_data = set()
                self.layer.data = places
                if not same_targets:
                    self.layer.size = self._marker_size()
                    self._mark_simulated()
                restyled = True
            if restyled:
                self._restyle(items, codes, same_targets=same_targets)
            if moved:
                self.layer.selected_data = {i for i, target_id in enumerate(ids) if target_id in selected}
        self.report_selection()

    def _restyle(self, items: tuple[JudgedTarget, ...], codes: np.ndarray, *, same_targets: bool) -> None:
        layer = self.layer
        features = layer.features
        if same_targets and len(features) == len(items):
            features = features.assign(state=np.array([str(item.state) for item in items], dtype=object))
        else:
            features = target_features(items)
        layer.features = features
        layer.face_color = state_colors(codes) if len(items) else "#ffffff"
        layer.symbol = state_symbols(codes) if len(items) else "disc"

    def _marker_size(self) -> float:
        field = self.session.review.field
        return marker_size_nm(self._places, max(field.height_nm, field.width_nm) if field is not None else None)

    def _simulated(self) -> bool:
        instrument = self.session.instrument
        return instrument is not None and bool(instrument.info.simulated)

    def _mark_simulated(self) -> None:
        """Another instrument may have been connected since the layer was made."""
        simulated = self._simulated()
        if self.layer.metadata[METADATA_KEY].get("simulated") != simulated:
            self.layer.metadata[METADATA_KEY]["simulated"] = simulated
            self.layer.name = layer_name("Targets", simulated=simulated)

    def _make_layer(self) -> None:
        data, arguments, _ = target_layer_data(self._items, simulated=self._simulated())
        arguments["size"] = self._marker_size()
        layer = self.layer = TargetPoints(data, **arguments)
        layer.describe = self._describe
        layer.events.data.connect(self._layer_edited)
        layer.selected_data.events.items_changed.connect(self.report_selection)
        bind_gestures(self, layer)
        self.viewer.add_layer(layer)
        layer.help = KEYS_HELP
        show_scale_bar(self.viewer)
        self.activate()

    def _layer_removed(self, event: Any) -> None:
        if unwrapped(event.value) is not self.layer:
            return
        if self.lasso_line is not None:
            line, self.lasso_line = self.lasso_line, None
            line.remove()
            self.lasso_changed.emit(False)
        self.layer = None
        self._dragging = False
        if self.session.review.items():
            # The targets are the run's, not the layer's: to hide them there is the eye.
            QTimer.singleShot(0, self._make_anew)

    def _make_anew(self) -> None:
        if self.layer is None and not self._window_gone():
            self.refresh()
            show_message(self.viewer, "info", "The targets belong to the run and are shown again; the eye hides them.")

    def _window_gone(self) -> bool:
        """True once the viewer, or the window of a viewer that had one, has been closed."""
        viewer = self.viewer
        window = getattr(viewer, "window", None)
        return viewer is None or (window is not None and getattr(window, "_qt_window", None) is None)

    # ------------------------------------------------------------------------------------------ canvas to review

    def _layer_edited(self, event: Any) -> None:
        if self._silent:
            return
        action = str(getattr(event.action, "value", event.action))
        if action == "changing":
            self._dragging = True
        elif action == "changed":
            self._dragging = False
            self._move_dragged([int(i) for i in event.data_indices])
        elif action == "added":
            self._add_drawn()
        elif action == "removed":
            gone = [self._ids[int(i)] for i in event.data_indices if -len(self._ids) <= int(i) < len(self._ids)]
            self._act(lambda: self.session.review.reject(gone))

    def _move_dragged(self, rows: list[int]) -> None:
        data = np.asarray(self.layer.data)
        moves = [
            (self._ids[row], float(data[row, 0]), float(data[row, 1]))
            for row in rows
            if row < len(self._ids) and not np.allclose(data[row], self._places[row], rtol=0, atol=1e-9)
        ]

        def move() -> None:
            for target_id, y_nm, x_nm in moves:
                self.session.review.move(target_id, y_nm, x_nm)

        self._act(move)

    def _add_drawn(self) -> None:
        drawn = np.asarray(self.layer.data)[len(self._ids) :]
        added: list[str] = []

        def add() -> None:
            for y_nm, x_nm in drawn:
                added.append(self.session.review.add(float(y_nm), float(x_nm)).target_id)

        self._act(add)
        self.select(added)

    def _judge(self, verdict: str, target_ids: Iterable[str] | None) -> None:
        ids = tuple(target_ids) if target_ids is not None else self.selected_ids() or self._hovered_ids()
        if not ids:
            show_message(self.viewer, "info", f"Nothing to {verdict}: select targets, or point at one. {KEYS_HELP}")
            return
        self._act(lambda: getattr(self.session.review, verdict)(ids))

    def _act(self, action: Any) -> None:
        """Do something to the review, say in one sentence what it refuses, and draw what it says then."""
        try:
            action()
        except SmartTEMError as error:
            show_message(self.viewer, "warning", str(error))
        except KeyError as error:
            # The run proposed anew between the look and the key.
            show_message(self.viewer, "warning", f"Target {error.args[0]} is no longer there; look again.")
        self.refresh()

    # ------------------------------------------------------------------------------------------------ the cursor

    def pixels_per_nm(self) -> float:
        """Canvas pixels per nm."""
        viewer = self.viewer
        return float(viewer.scene.camera.zoom) if viewer is not None else 1.0

    def row_at(self, y_nm: float, x_nm: float) -> int | None:
        """Row of the target nearest to a place, where it is near enough to be meant."""
        places, layer = self._places, self.layer
        if layer is None or not len(places):
            return None
        distance = np.hypot(places[:, 0] - y_nm, places[:, 1] - x_nm)
        row = int(np.argmin(distance))
        reach = max(_PICK_PIXELS / self.pixels_per_nm(), self._marker_size() / 2)
        return row if distance[row] <= reach else None

    def _hovered_ids(self) -> tuple[str, ...]:
        viewer = self.viewer
        if viewer is None or not viewer.mouse_over_canvas:
            return ()
        row = self.row_at(float(viewer.cursor.position[-2]), float(viewer.cursor.position[-1]))
        return () if row is None else (self._ids[row],)

    def _describe(self, y_nm: float, x_nm: float) -> str:
        # Called by napari on its own thread: the review may change between the two lines.
        items = self._items
        row = self.row_at(y_nm, x_nm)
        return describe_target(items[row]) if row is not None and row < len(items) else ""

    # ---------------------------------------------------------------------------------------------------- inside

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """While we draw, the layer's events are our own echo."""
        self._silent += 1
        try:
            yield
        finally:
            self._silent -= 1

    def report_selection(self, _event: Any = None) -> None:
        """Tell listeners which targets are selected, where that has changed."""
        if self._silent:
            return
        ids = self.selected_ids()
        if ids != self._reported:
            self._reported = ids
            self.selection_changed.emit(ids)


_review_layers: weakref.WeakKeyDictionary[Any, ReviewLayer] = weakref.WeakKeyDictionary()


def review_layer_for(viewer: Any) -> ReviewLayer:
    """The one review layer of a viewer, made at the first call."""
    viewer = unwrapped(viewer)
    if viewer not in _review_layers:
        _review_layers[viewer] = ReviewLayer(viewer)
    return _review_layers[viewer]
