"""What the *Unmixing* dock takes as input: chosen from a list, opened, dropped, or offered by the window."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QFileDialog

from .unmixing_input import Choice, Spectra, choices, load
from .unmixing_labels import labels_layers
from .unmixing_lines import can_name_elements

FILTER = "Spectra (*.hspy *.zspy *.dm3 *.dm4 *.emd *.bcf *.rpl *.pts *.spd *.smarttem);;All files (*)"
NOTHING = "Drop a spectrum image (EELS, EDS, cathodoluminescence) on the window, or open one."


class InputActions:
    """The part of the dock that chooses and reads what is unmixed."""

    bench: Any
    unmixing: Any

    def _open_clicked(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a spectrum image", "", FILTER)
        if path:
            self.choose_file(path)

    def _dataset_added(self, dataset: Any) -> None:
        self.offer(dataset.path)

    def _layers_changed(self, _event: Any = None) -> None:
        self._listing.start()

    def _list_choices(self) -> None:
        if self.viewer is None:
            return
        self._choices = choices(self.viewer, self.bench.files, self.session.run_folder)
        if self._chosen is not None and self._chosen.key not in [choice.key for choice in self._choices]:
            self._choices.append(self._chosen)
        self.input.blockSignals(True)
        self.input.clear()
        self.input.addItems([choice.title for choice in self._choices])
        if self._chosen is None:
            self.input.setPlaceholderText("no spectrum image yet")
            self.input.setCurrentIndex(-1)
        else:
            self.input.setCurrentIndex([choice.key for choice in self._choices].index(self._chosen.key))
        self.input.blockSignals(False)
        present = self.unmixing.labels.currentText()
        self.unmixing.labels.clear()
        self.unmixing.labels.addItems(labels_layers(self.viewer))
        self.unmixing.labels.setCurrentText(present)
        images = [choice for choice in self._choices if choice.kind != "run"]  # a run has nothing yet when it begins
        if self._chosen is None and images and self._loading is None and self.bench.spectra is None:
            self._choose(images[0])

    def _input_activated(self, index: int) -> None:
        self._choose(self._choices[index])

    def _choose(self, choice: Choice) -> None:
        if self._loading is not None:
            self._loading.cancel.set()
        self._chosen = choice
        if choice.key not in [one.key for one in self._choices]:
            self._choices.append(choice)
            self.input.addItem(choice.title)
        self.input.setCurrentIndex([one.key for one in self._choices].index(choice.key))
        self.facts.setText(f"Reading {choice.title} …")
        self._loading = self.in_background(lambda _cancel: load(choice), self._loaded, self._not_loaded)

    def _loaded(self, spectra: Spectra) -> None:
        self._loading = None
        self.bench.take(spectra)
        self.join_tabs()
        self._show_input()
        self._show_prepared()
        if self._wants_run:
            self._wants_run = False
            self.unmix()

    def _not_loaded(self, error: BaseException) -> None:
        self._loading = None
        self._wants_run = False
        self._chosen = None
        self.input.setCurrentIndex(-1)
        self._show_input()
        self._fail(error)

    def _show_input(self) -> None:
        spectra = self.bench.spectra
        self.facts.setText(NOTHING if spectra is None else f"<b>{_marked(spectra)}</b>: {spectra.facts}")
        self.unmixing.run.setEnabled(spectra is not None)
        self.unmixing.run.setToolTip(
            "Find endmembers and maps of the prepared data" if spectra is not None else "Open a spectrum image first"
        )
        self.unmixing.elements.setEnabled(spectra is None or can_name_elements(spectra.frame.signal))
        neighbours = spectra is None or (spectra.frame.shape[0] > 1 and spectra.places_nm is None)
        self.unmixing.form.setRowVisible(self.unmixing.smooth, neighbours)
        self.unmixing.live.setVisible(spectra is not None and spectra.places_nm is not None)


def _marked(spectra: Spectra) -> str:
    """The title; of what was simulated it says so."""
    plain = not spectra.frame.metadata.get("simulated") or "SIMULATED" in spectra.title
    return spectra.title if plain else f"{spectra.title} (SIMULATED)"
