"""What the page *Prepare* does: steps on another thread, each recorded, the last one always undone by a click."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyqtgraph
from qtpy.QtWidgets import QFileDialog

from ..schema import BadInput, Cancelled, Frame
from ..unmixing.prepare_paint import paint_of
from .unmixing_choose import FILTER, NOTHING
from .unmixing_labels import labels_for, labels_layers
from .unmixing_steps import MORE, Step, arguments_of


class PrepareActions:
    """The part of the dock that prepares data."""

    bench: Any
    prepare: Any
    unmixing: Any
    viewer: Any

    def _wire_preparation(self) -> None:
        page = self.prepare
        page.region.sigRegionChanged.connect(self._range_dragged)
        page.crop_energy.clicked.connect(self.crop_energy)
        page.crop_area.clicked.connect(self.crop_area)
        page.bin.clicked.connect(self.bin)
        page.undo.clicked.connect(self.undo_step)
        page.next.clicked.connect(lambda: self.show_page(1))
        for name, title in MORE.items():
            page.more.addItem(title, name)
        for one in (page.more, page.apply_more):
            one.setVisible(bool(MORE))
        page.apply_more.clicked.connect(self._more_clicked)
        self._summed: Any = None

    # ------------------------------------------------------------------------------------------------------ steps

    def do_step(self, step: Step) -> None:
        """Do one preparation step on another thread."""
        preparation = self.bench.preparation
        if preparation is None or self._job is not None:
            self._fail(
                BadInput("There are no data to prepare yet." if preparation is None else "Wait, or press Cancel.")
            )
            return

        def done(frame: Frame) -> None:
            self._ended()
            if self.bench.preparation is preparation:
                preparation.accept(step, frame)
                self._show_prepared()
                self._say(step.sentence)

        def work(cancel: Any) -> Frame:
            return preparation.apply(step, lambda fraction, word: self._report(fraction, stopping(cancel, word)))

        self._run(work, done, "Preparing …")

    def undo_step(self) -> None:
        """Take the last step back."""
        if self._job is None and self.bench.preparation is not None and self.bench.preparation.undo():
            self._show_prepared()
            self._say("Taken back.")

    def crop_energy(self) -> None:
        """Keep the blue range."""
        low, high = (float(v) for v in self.prepare.region.getRegion())
        self.do_step(Step("crop_energy", arguments_of("crop_energy", round(low, 3), round(high, 3))))

    def bin(self) -> None:
        """Sum pixels and channels."""
        if self.bench.preparation is None:
            return
        pixels, channels = self.prepare.pixels.value(), self.prepare.channels.value()
        if pixels * channels == 1:
            self._fail(BadInput("Binning takes at least two pixels or two channels together; set one of the numbers."))
            return
        if pixels > 1 and self.bench.spectra.places_nm is not None:
            self._fail(BadInput("The spectra of a run lie anywhere: only their channels can be taken together."))
            return
        rows = pixels if self.bench.preparation.frame.shape[0] > 1 else 1
        self.do_step(Step("bin", {"y": rows, "x": pixels, "energy": channels}))

    def crop_area(self) -> None:
        """Keep what the last shape of the selected Shapes layer encloses."""
        try:
            self.do_step(Step("crop_area", self._drawn_area()))
        except BadInput as error:
            self._fail(error)

    def _drawn_area(self) -> dict[str, int]:
        spectra = self.bench.prepared()
        if spectra is None or spectra.frame.shape[0] == 1:
            raise BadInput("Only a spectrum image has an area to crop.")
        shapes = [layer for layer in reversed(self.viewer.layers) if type(layer).__name__ == "Shapes" and layer.nshapes]
        active = self.viewer.layers.selection.active
        layer = active if active in shapes else (shapes[0] if shapes else None)
        if layer is None:
            raise BadInput("Draw a rectangle around the area in a Shapes layer first.")
        corners = np.array([layer.data_to_world(corner)[-2:] for corner in layer.data[-1]])
        y, x = spectra.frame.axes[:2]
        rows = sorted(y.index(v) for v in (corners[:, 0].min(), corners[:, 0].max()))
        columns = sorted(x.index(v) for v in (corners[:, 1].min(), corners[:, 1].max()))
        top, left = (int(np.ceil(v - 1e-6)) for v in (rows[0], columns[0]))
        bottom, right = (int(np.floor(v + 1e-6)) + 1 for v in (rows[1], columns[1]))
        height, width = spectra.frame.shape[:2]
        area = {"top": max(0, top), "bottom": min(height, bottom), "left": max(0, left), "right": min(width, right)}
        if area["bottom"] - area["top"] < 1 or area["right"] - area["left"] < 1:
            raise BadInput("The drawn area lies beside the data; draw it on them.")
        return area

    def _more_clicked(self) -> None:
        name = self.prepare.more.currentData()
        if name in {"deconvolve", "deconvolve_mean"}:
            path, _ = QFileDialog.getOpenFileName(self, "Open the low loss of this place", "", FILTER)
            if path:
                self.do_step(Step("deconvolve", {"low_loss": path} | ({} if name == "deconvolve" else {"mean": True})))
            return
        if name == "sum_painted":
            try:
                spectra = self.bench.prepared()
                if spectra is None:
                    raise BadInput(NOTHING)
                layers = [self.unmixing.labels.currentText(), *labels_layers(self.viewer)]
                labels = labels_for(self.viewer, next((one for one in layers if one), ""), spectra)
            except BadInput as error:
                self._fail(error)
                return
            self.do_step(Step(name, {"paint": paint_of(labels)}))
            return
        low, high = (round(float(v), 3) for v in self.prepare.region.getRegion())
        self.do_step(Step(name, arguments_of(name, low, high)))

    # ---------------------------------------------------------------------------------------------------- showing

    def _show_prepared(self) -> None:
        page, preparation = self.prepare, self.bench.preparation
        some = preparation is not None
        for one in (page.crop_energy, page.crop_area, page.bin, page.apply_more, page.next):
            one.setEnabled(some)
        page.undo.setEnabled(some and bool(preparation.steps))
        page.steps.clear()
        page.show_parts((), ())
        if not some:
            page.curve.setData([], [])
            for edge in page.band:
                edge.setData([], [])
            page.region.hide()
            return
        page.steps.addItems([str(step) for step in preparation.steps])
        page.steps.setVisible(bool(preparation.steps))
        frame = preparation.frame
        page.crop_area.setVisible(frame.shape[0] > 1)
        self._summed = frame
        self.in_background(lambda _cancel: summed(frame), lambda counts: self._show_sum(frame, counts))

    def _show_sum(self, frame: Frame, counts: np.ndarray) -> None:
        if frame is not self._summed:
            return  # another step was done meanwhile
        page = self.prepare
        energy = frame.axes[-1].coordinates(len(counts))
        page.curve.setData(energy, counts, pen=pyqtgraph.mkPen(page.plot.text_color, width=1))
        steps = self.bench.preparation.steps
        if steps and steps[-1].name == "sum_painted":
            page.show_parts(energy, np.asarray(frame.data)[0])
        band = left_band(frame, counts) if steps and steps[-1].name == "zero_loss" else ((), ())
        for edge, values in zip(page.band, band, strict=True):
            edge.setData(energy[: len(values)], values, pen=None)
        page.plot.enableAutoRange()
        low, high = sorted((float(energy[0]), float(energy[-1])))
        page.region.blockSignals(True)
        page.region.setRegion((low, high))
        page.region.setBounds((low, high))
        page.region.blockSignals(False)
        page.region.show()
        self._range_dragged()

    def _range_dragged(self) -> None:
        low, high = (float(v) for v in self.prepare.region.getRegion())
        size = " × ".join(map(str, self.bench.preparation.frame.shape)) if self.bench.preparation is not None else ""
        self.prepare.range.setText(f"Blue range: {low:.5g} to {high:.5g} eV (drag its edges). Data now: {size}.")


def stopping(cancel: Any, word: str) -> str:
    """The word again; `Cancelled` where the person has asked to stop."""
    if cancel.is_set():
        raise Cancelled("The preparation was stopped; the data are as they were before.")
    return word


def left_band(frame: Frame, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """68 % band of what the zero-loss peak leaves of the summed spectrum, from the record of its subtraction."""
    kept: Any = frame.metadata["zero_loss"]
    low, median, high = (np.asarray(kept[name], dtype=float) for name in ("low", "median", "high"))
    pixels = float(np.prod(frame.shape[:-1]))
    return counts - pixels * (high - median), counts + pixels * (median - low)


def summed(frame: Frame) -> np.ndarray:
    """All spectra added up, ``(energy,)``, in pieces; what is not finite counts as zero."""
    total = np.zeros(frame.shape[-1])
    rows = max(1, 4_000_000 // max(1, int(np.prod(frame.shape[1:]))))
    for start in range(0, frame.shape[0], rows):
        part = np.asarray(frame.data[start : start + rows], dtype=float)
        total += np.nansum(part.reshape(-1, frame.shape[-1]), axis=0)
    return total
