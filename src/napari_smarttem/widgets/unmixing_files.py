"""What becomes of a result: a file for HyperSpy, tables, a figure for a paper, the Python that does it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QApplication, QFileDialog

from ..schema import BadInput
from .unmixing_lines import lines_of, spectrum_kind

RESULTS = "HyperSpy, learning results (*.hspy);;tables (*.csv)"
PICTURES = "PDF (*.pdf);;SVG (*.svg);;PNG (*.png)"


class ResultFiles:
    """The part of the *Unmixing* dock that deals with files; nothing in it holds up the window."""

    bench: Any
    components: Any

    def _wire_files(self) -> None:
        self.components.save.clicked.connect(self._ask_save)
        self.components.picture.clicked.connect(self._ask_picture)
        self.components.copy.clicked.connect(self.copy_as_python)

    def copy_as_python(self) -> str:
        """Put the lines that do the same without a window on the clipboard, and return them."""
        from .unmixing_script import as_python

        if self.bench.result is None:
            return ""
        text = as_python(self.bench.unmixed, self.bench.result.provenance)
        QApplication.clipboard().setText(text)
        self._say("The Python lines of this result are on the clipboard.")
        return text

    def save_result(self, path: str | Path) -> None:
        """Write the result on another thread; the dialog has asked already whether a file may be replaced."""
        result, unmixed = self.bench.result, self.bench.unmixed
        if result is None or self._job is not None:
            return

        def work(_cancel: Any) -> Path:
            from ..unmixing import save

            frame = unmixed.spectra.frame
            try:
                return save(result, path, data=None if frame.is_lazy else frame.data, overwrite=True)
            except OSError as error:
                raise BadInput(f"{path} cannot be written: {error.strerror or error}; choose another place.") from error

        self._run(work, self._written, f"Writing {Path(path).name} …")

    def save_picture(self, path: str | Path) -> None:
        """Write the figure on another thread."""
        shown, unmixed = self.bench.shown, self.bench.unmixed
        if shown is None or self._job is not None:
            return
        result, title = shown.result, unmixed.spectra.title
        canvas = unmixed.canvas(result)

        def work(_cancel: Any) -> Path:
            from .unmixing_picture import draw_picture

            kind = spectrum_kind(result)
            low, high = sorted((float(result.energy_ev[0]), float(result.energy_ev[-1])))
            found = result.elements or ((),) * result.components
            lines = [lines_of(symbols, kind, low, high) if symbols else [] for symbols in found]
            return draw_picture(
                result,
                canvas,
                path,
                colors=shown.colors,
                visible=shown.visible,
                lines=lines,
                title=title,
                simulated=unmixed.simulated,
            )

        self._run(work, self._written, f"Drawing {Path(path).name} …")

    def _written(self, path: Path) -> None:
        self._ended()
        self._say(f"Written: {path}")

    def _ask_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the result", self._suggested(".hspy"), RESULTS)
        if path:
            self.save_result(path)

    def _ask_picture(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save a picture", self._suggested(".pdf"), PICTURES)
        if path:
            self.save_picture(path)

    def _suggested(self, ending: str) -> str:
        spectra = self.bench.unmixed.spectra
        name = f"{spectra.title.replace('/', '-')} unmixed{ending}"
        return str(spectra.path.with_name(name)) if spectra.path is not None else name
