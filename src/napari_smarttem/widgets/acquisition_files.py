"""What becomes of a run: its folder, its export, the Python that does it again, and taking it up where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QApplication, QFileDialog

EXPORTS = "hyperspy file (*.hspy);;hyperspy folder (*.zspy);;OME-Zarr (*.ome.zarr);;table of targets (*.csv)"


class RunFiles:
    """The part of the *Acquisition* dock that deals with files; nothing in it holds up the window."""

    session: Any
    run: Any

    def copy_as_python(self) -> str:
        """Put the lines that do the same without a window on the clipboard, and return them."""
        from ..acquisition.script import as_python

        guard = self.session.instrument
        info = guard.info if guard is not None else None
        text = as_python(self.settings(), info.backend if info else "simulator", dict(info.settings) if info else {})
        QApplication.clipboard().setText(text)
        self.say("info", "The Python lines of this run are on the clipboard.")
        return text

    def resume_run(self, folder: str | Path) -> None:
        """Go on with a run that was stopped or killed, without holding up the window."""
        self.run.resume.setEnabled(False)
        self.in_background(lambda _: self.session.resume(folder), self._resumed, self._not_resumed)

    def _resumed(self, folder: Path) -> None:
        self.say("info", f"Going on with {folder.name}.")
        self._enable()

    def _not_resumed(self, error: BaseException) -> None:
        self.complain(error)
        self.run.note.setText(str(error))
        self._enable()

    def _ask_resume(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A run folder (NAME.smarttem)", str(self.session.folder))
        if folder:
            self.resume_run(folder)

    def export_run(self, to: str | Path) -> None:
        """Write the run that is shown to a file, without holding up the window."""
        folder = self.session.run_folder
        if folder is None:
            return
        from ..engine.export import export_run

        self.run.note.setText(f"Writing {Path(to).name} …")
        self.in_background(lambda _: export_run(folder, to), self._exported, self._not_resumed)

    def _exported(self, path: Path) -> None:
        self.run.note.setText(f"Written: {path}")

    def _ask_export(self) -> None:
        folder = self.session.run_folder
        if folder is None:
            return
        path, _ = QFileDialog.getSaveFileName(self, "Export the run", str(folder.with_suffix(".hspy")), EXPORTS)
        if path:
            self.export_run(path)

    def _open_folder(self) -> None:
        if self.session.run_folder is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.session.run_folder)))
