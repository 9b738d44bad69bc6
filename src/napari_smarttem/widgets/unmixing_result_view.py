"""The result in the *Unmixing* dock: components and their edits, the pixel under the cursor, the energy window, a second method."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.compat import isalive
from qtpy.QtCore import QPoint, QTimer
from qtpy.QtGui import QCursor
from qtpy.QtWidgets import QMenu

from ..schema import BadInput
from ..unmixing.result_notes import notes
from .relay import PERIOD_MS
from .unmixing_cursor import follow_mouse
from .unmixing_lines import known_symbols, lines_near, lines_of, spectrum_kind

PIXEL_PAGE = 3


class ResultView:
    """The part of the dock that shows a result and takes what a person says about it."""

    bench: Any
    components: Any
    pixel: Any
    compare: Any
    unmixing: Any

    def _wire_result(self) -> None:
        page, table = self.components, self.components.table
        table.renamed.connect(self.rename)
        table.elements_typed.connect(self._elements_typed)
        table.shown.connect(self._set_visible)
        table.colored.connect(self._set_color)
        table.chosen.connect(self._component_chosen)
        page.merge.clicked.connect(self.merge_selected)
        page.drop.clicked.connect(self.drop_selected)
        page.undo.clicked.connect(self.undo_edit)
        page.log.toggled.connect(page.plot.set_logarithmic)
        page.plot.energy_clicked.connect(self._energy_clicked)
        self.pixel.plot.window_dragged.connect(self._window_dragged)
        self.pixel.window.toggled.connect(self._window_toggled)
        self.pixel.held.toggled.connect(self._held)
        self.pixel.of.currentTextChanged.connect(self._draw_window)
        self._place: tuple[float, ...] | None = None
        self._pixel: tuple[int, int] | None = None
        self._reading_pixel = False
        self._line_job: Any = None
        self._kind = ""
        self._window = (0.0, 0.0)
        self._window_waits = False
        self._follow = QTimer(self)
        self._follow.setInterval(PERIOD_MS)
        self._follow.timeout.connect(self._follow_cursor)
        self._follow.start()
        follow_mouse(self, self.viewer)

    # ---------------------------------------------------------------------------------------------------- showing

    def _show_result(self, *, below: Any = None, fresh: bool = False, grown: bool = False) -> None:
        """Everything that depends on the result; the layers of a `fresh` one, or of a run that has `grown`, follow by turns."""
        shown, page = self.bench.shown, self.components
        some = shown is not None
        for one in (page.merge, page.drop, page.save, page.picture, page.copy, page.log, self.compare.run):
            one.setEnabled(some)
        page.undo.setEnabled(len(self.bench.history) > 1)
        for one in (self.pixel.window, self.pixel.of, self.pixel.held):
            one.setEnabled(some)
        if not some:
            page.table.fill(None, (), ())
            self.unmixing.scree.show_scree(None)
            return
        result, unmixed = shown.result, self.bench.unmixed
        page.table.fill(result, shown.colors, shown.visible)
        self.unmixing.scree.show_scree(result.scree)
        self.unmixing.reason.setText(result.scree.reason)
        self.unmixing.verdict.setText(
            f"<b>{self._title_of(result.method)}.</b> {result.assumption} χ² per channel {result.chi2:.3f}."
            + _about_smoothing(result)
        )
        beside = unmixed.notes or notes(result)
        self.unmixing.warnings.setText("\n".join(f"⚠ {note}" for note in beside))
        self.unmixing.warnings.setVisible(bool(beside))
        layers = self.bench.layers
        drawn = (result, unmixed.canvas(result), shown.colors, shown.visible)
        about = {"title": unmixed.spectra.title, "simulated": unmixed.simulated, "below": below}
        if fresh or grown or layers.drawing:
            layers.show_by_turns(*drawn, done=self._layers_shown, **about)
        else:
            layers.show(*drawn, **about)
        kind = spectrum_kind(result)
        if kind != self._kind:  # beside the strongest X-ray line the others cannot be seen otherwise
            self._kind = kind
            page.log.setChecked(kind == "EDS")
        self._draw_spectra()
        if fresh:
            self._pixel = None
            self.compare.clear()
            self._suggest_second(result.method)
            energy = result.energy_ev
            low, high = sorted((float(energy[0]), float(energy[-1])))
            if not low <= self._window[0] < self._window[1] <= high:
                self._window = (low + 0.45 * (high - low), low + 0.55 * (high - low))
            self.pixel.plot.show_window(*self._window, self.pixel.window.isChecked())
            self.pixel.plot.show_pixel(energy, None, None)
            brightest = np.unravel_index(int(np.argmax(np.abs(result.maps).sum(axis=0))), result.shape)
            self._show_pixel(int(brightest[0]), int(brightest[1]))
        elif self._pixel is not None:
            self._show_pixel(*self._pixel)
        if not layers.drawing:
            self._layers_shown()

    def _layers_shown(self) -> None:
        """What lies over the maps comes after them."""
        if isalive(self) and self.pixel.window.isChecked():
            self._draw_window()

    def _title_of(self, method: str) -> str:
        index = self.unmixing.method.findData(method)
        return self.unmixing.method.itemText(index) if index >= 0 else method

    def _draw_spectra(self) -> None:
        shown = self.bench.shown
        if shown is None:
            return
        chosen = min(max(0, self.components.table.currentRow()), shown.result.components - 1)
        result = shown.result
        self.components.plot.show_spectra(
            result.energy_ev, result.endmembers, shown.colors, shown.visible, chosen, errors=result.endmember_errors
        )
        symbols = (result.elements or ((),) * result.components)[chosen]
        low, high = sorted((float(result.energy_ev[0]), float(result.energy_ev[-1])))
        kind, color = spectrum_kind(result), shown.colors[chosen]
        if not symbols:
            self.components.plot.show_lines([], color)
            return
        if self._line_job is not None:
            self._line_job.cancel.set()  # another component was chosen meanwhile

        def named(lines: Any) -> None:
            self._line_job = None
            self.components.plot.show_lines(lines, color)

        self._line_job = self.in_background(lambda _cancel: lines_of(symbols, kind, low, high), named)

    def _component_chosen(self, _row: int) -> None:
        self._draw_spectra()

    # ------------------------------------------------------------------------------------------------------ edits

    def _edit(self, make: Any) -> None:
        """Do an edit, or say in one sentence why not."""
        shown = self.bench.shown
        if shown is None:
            return
        try:
            self.bench.edit(make(shown))
        except BadInput as error:
            self._fail(error)
        self._show_result()

    def rename(self, component: int, name: str) -> None:
        """Give a component another name."""
        if self.bench.result is not None and name != self.bench.result.names[component]:
            self._edit(lambda shown: shown.without([], shown.result.renamed(component, name)))

    def set_elements(self, component: int, symbols: tuple[str, ...]) -> None:
        """Say which elements a component holds; a person's word counts."""
        self._edit(lambda shown: shown.without([], shown.result.with_elements(component, symbols)))

    def _elements_typed(self, component: int, text: str) -> None:
        try:
            symbols = known_symbols(text)
        except BadInput as error:
            self._fail(error)
            self._show_result()
            return
        self.set_elements(component, symbols)

    def merge_selected(self) -> None:
        """Make the selected components one."""
        chosen = self.components.table.selected_components()
        self._edit(lambda shown: shown.without(chosen[1:], shown.result.merged(chosen)))

    def drop_selected(self) -> None:
        """Leave the selected components out."""

        def dropped(shown: Any) -> Any:
            chosen = self.components.table.selected_components()
            if not chosen:
                raise BadInput("Select the components to drop in the list.")
            result = shown.result
            for component in reversed(chosen):
                result = result.dropped(component)
            return shown.without(chosen, result)

        self._edit(dropped)

    def undo_edit(self) -> None:
        """Take the last change of the components back."""
        if self.bench.undo():
            self._show_result()

    def _set_visible(self, component: int, on: bool) -> None:
        shown = self.bench.shown
        self.bench.change_look(visible=(*shown.visible[:component], on, *shown.visible[component + 1 :]))
        self.bench.layers.set_visible(component, on)
        self._draw_spectra()

    def _set_color(self, component: int, color: str) -> None:
        shown = self.bench.shown
        self.bench.change_look(colors=(*shown.colors[:component], color, *shown.colors[component + 1 :]))
        self.bench.layers.set_color(component, color)
        shown = self.bench.shown
        self.components.table.fill(shown.result, shown.colors, shown.visible)
        self._draw_spectra()

    def _energy_clicked(self, energy_ev: float) -> None:
        result = self.bench.result
        if result is None:
            return
        width = max(8 * abs(result.axes[2].scale), 0.02 * abs(energy_ev))
        at = QCursor.pos()
        kind = spectrum_kind(result)
        self.in_background(
            lambda _cancel: lines_near(energy_ev, kind, width), lambda near: self._ask_element(energy_ev, near, at)
        )

    def _ask_element(self, energy_ev: float, near: list[Any], at: QPoint) -> None:
        """A menu of what might stand at an energy; a click puts it in, or takes it out."""
        menu = self.element_menu(energy_ev, near)
        if menu is not None:
            menu.popup(at)

    def element_menu(self, energy_ev: float, near: list[Any]) -> QMenu | None:
        """The menu itself; None where no line is near."""
        result = self.bench.result
        component = max(0, self.components.table.currentRow())
        if result is None or not near:
            self._say(f"No line or edge of an element lies near {energy_ev:.5g} eV.")
            return None
        present = (result.elements or ((),) * result.components)[component]
        menu = QMenu(self)
        for line in near:
            action = menu.addAction(f"{line.name} at {line.energy_ev:.5g} eV")
            action.setCheckable(True)
            action.setChecked(line.element in present)
            action.triggered.connect(lambda on, element=line.element: self._toggle_element(component, element, on))
        return menu

    def _toggle_element(self, component: int, element: str, on: bool) -> None:
        present = [symbol for symbol in self.bench.result.elements[component] if symbol != element]
        self.set_elements(component, (*present, element) if on else tuple(present))

    # ------------------------------------------------------------------------------------------------------ pixels

    def _mouse_moved(self, event: Any) -> None:
        self._place = tuple(float(p) for p in event.position)

    def _clicked(self, position: Any) -> None:
        """A click on a map holds its pixel; another one beside the maps lets it go."""
        where = self.bench.layers.pixel_at(position)
        if where is None or self.bench.result is None:
            self.pixel.held.setChecked(False)
            return
        self.pixel.held.setChecked(True)
        self._show_pixel(*where)
        self.bench.layers.mark(*where)
        self.show_page(PIXEL_PAGE)

    def _held(self, on: bool) -> None:
        """The mark goes with the hold: it would be in the wrong place as soon as the cursor moves."""
        if not on:
            self.bench.layers.unmark()
        elif self._pixel is not None and self.bench.result is not None:
            self.bench.layers.mark(*self._pixel)

    def _follow_cursor(self) -> None:
        place, self._place = self._place, None
        if place is None or self.bench.result is None or self.pixel.held.isChecked() or not self.pixel.isVisible():
            return
        where = self.bench.layers.pixel_at(place)
        if where is not None and where != self._pixel:
            self._show_pixel(*where)

    def _show_pixel(self, row: int, column: int) -> None:
        result, unmixed = self.bench.result, self.bench.unmixed
        self._pixel = (row, column)
        model = result.reconstruct(row, column)
        if not unmixed.spectra.frame.is_lazy:
            self._draw_pixel(row, column, unmixed.spectrum(row, column), model)
            return
        self._draw_pixel(row, column, None, model)
        if self._reading_pixel:
            return
        self._reading_pixel = True

        def read(data: np.ndarray) -> None:
            self._reading_pixel = False
            if self._pixel == (row, column):
                self._draw_pixel(row, column, data, model)
            elif self._pixel is not None:
                self._show_pixel(*self._pixel)

        def failed(error: BaseException) -> None:
            self._reading_pixel = False
            self._fail(error)

        self.in_background(lambda _cancel: unmixed.spectrum(row, column), read, failed)

    def _draw_pixel(self, row: int, column: int, data: np.ndarray | None, model: np.ndarray) -> None:
        result = self.bench.result
        amounts = ", ".join(
            f"{name} {result.maps[i, row, column]:.3f} ± {result.map_errors[i, row, column]:.3f}"
            for i, name in enumerate(result.names)
        )
        where = f"Spectrum {column}" if result.shape[0] == 1 else f"Pixel y {row}, x {column}"
        self.pixel.title.setText(f"<b>{where}</b>: {amounts}; χ² per channel {result.residual_map[row, column]:.2f}")
        made = result.provenance
        excess = float(made.get("noise_variance", 1.0)) if made.get("noise") == "poisson" else 1.0
        self.pixel.plot.show_pixel(result.energy_ev, data, model, excess=excess if excess > 0 else 1.0)

    # ------------------------------------------------------------------------------------------------------ window

    def set_window(self, low_ev: float, high_ev: float) -> None:
        """Show the map of an energy window."""
        self._window = (low_ev, high_ev)
        self.pixel.plot.show_window(low_ev, high_ev, True)
        if self.pixel.window.isChecked():
            self._draw_window()
        else:
            self.pixel.window.setChecked(True)

    def _window_dragged(self, low_ev: float, high_ev: float) -> None:
        """While it is dragged the map follows at the window's pace: many moves of the mouse are one drawing."""
        self._window = (low_ev, high_ev)
        if not self._window_waits:
            self._window_waits = True
            QTimer.singleShot(0, self._draw_waiting)

    def _draw_waiting(self) -> None:
        self._window_waits = False
        if self.pixel.window.isChecked():
            self._draw_window()

    def _window_toggled(self, on: bool) -> None:
        if self.bench.result is None:
            return
        self.pixel.plot.show_window(*self._window, on)
        if on:
            self._draw_window()
        else:
            self.bench.layers.hide_window()
            self.pixel.edges.setText("")

    def _draw_window(self, _text: str = "") -> None:
        if self.bench.result is None or not self.pixel.window.isChecked() or self.bench.layers.drawing:
            return
        low, high = self._window
        of = self.pixel.of.currentText()
        values = self.bench.window_map(low, high, of)
        what = "model" if self.bench.unmixed.sums is None else of
        self.bench.layers.show_window(values, f"window, {what}", simulated=self.bench.unmixed.simulated)
        self.pixel.edges.setText(
            f"{low:.5g} to {high:.5g} eV"
            + ("; the data are not in memory, so that the model's map is shown" if what != of else "")
        )


def _about_smoothing(result: Any) -> str:
    """Whether noise was taken out of the maps, and what that was worth."""
    done = result.provenance.get("smooth_maps")
    if done is None:
        return ""
    left = float(done["held_out_error"])
    if not done["used"]:
        return " The maps were left as they are: taking noise out of them does not predict held-out counts better."
    how = done.get("by", "")
    return f" Noise was taken out of the maps: their error against held-out counts is {left:.2f} of what it was" + (
        f" (by {how})." if how else "."
    )
