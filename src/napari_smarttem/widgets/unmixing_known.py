"""What a person knows beforehand: painted pixels, or spectra to fit; and where it came from, so that it can be written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QFileDialog

from ..schema import BadInput
from ..unmixing.prepare_paint import paint_of, sum_painted
from .unmixing_choose import NOTHING
from .unmixing_input import Spectra
from .unmixing_labels import labels_for, new_labels_layer
from .unmixing_library import PAINTED, Known, on_axis, read_library


class KnownActions:
    """The part of the dock that takes what a person knows."""

    bench: Any
    unmixing: Any
    viewer: Any

    def _wire_known(self) -> None:
        self.unmixing.new_labels.clicked.connect(self._new_labels)
        self.unmixing.open_library.clicked.connect(self._open_library_clicked)
        self.unmixing.library.addItem("Means of painted pixels", PAINTED)
        self.unmixing.library.currentIndexChanged.connect(self._method_changed)

    def add_knowledge(self, settings: dict[str, Any], spectra: Spectra) -> Known:
        """Put paint or known spectra into the settings of `unmix`, where the method needs them.

        Raises
        ------
        BadInput
            There is no paint, or nothing to fit.
        """
        if settings["method"] == "labels":
            settings["labels"] = labels_for(self.viewer, self.unmixing.labels.currentText(), spectra)
            settings["components"] = "auto"
            return Known(paint=paint_of(settings["labels"]))
        if settings["method"] != "reference":
            return Known()
        library, result = self.unmixing.library.currentData(), self.bench.result
        if library == PAINTED:
            paint = paint_of(labels_for(self.viewer, self.unmixing.labels.currentText(), spectra))
            settings["library"] = sum_painted(spectra.frame, paint=paint, mean=True).data[0]
            known = Known(paint=paint, names=tuple(f"paint {n}" for n in sorted({run[0] for run in paint})))
        elif library is not None:
            path, found = library
            settings["library"] = on_axis(found, spectra.frame.axes[-1], spectra.frame.shape[-1])
            known = Known(file=path, names=tuple(name for name, _, _ in found))
        elif result is None:
            raise BadInput("There are no components on show to fit; open a file of known spectra beside Library.")
        else:
            shown = [(name, result.energy_ev, row) for name, row in zip(result.names, result.endmembers, strict=True)]
            settings["library"] = on_axis(shown, spectra.frame.axes[-1], spectra.frame.shape[-1])
            known = Known(earlier=(self.bench.unmixed, result.provenance), names=result.names)
        settings["components"] = len(settings["library"])
        return known

    def _open_library_clicked(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Known spectra", "", "Spectra (*.csv *.hspy *.msa *.emsa *.dm3 *.dm4)"
        )
        if path:
            self.open_library(path)

    def open_library(self, path: str | Path) -> None:
        """Read known spectra from a file, in the background."""
        path = Path(path)

        def known(library: Any) -> None:
            box = self.unmixing.library
            box.addItem(f"{path.name}: {len(library)} spectra", (path, library))
            box.setCurrentIndex(box.count() - 1)

        self.in_background(lambda _cancel: read_library(path), known, self._fail)

    def _new_labels(self) -> None:
        spectra = self.bench.prepared()
        if spectra is None:
            self._fail(BadInput(NOTHING))
            return
        name = new_labels_layer(self.viewer, spectra)
        self._list_choices()
        self.unmixing.labels.setCurrentText(name)
