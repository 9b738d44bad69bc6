"""The spectra of a run that is still going: read from its folder as they are acknowledged, unmixed again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from qtpy.QtCore import QTimer

from ..schema import Acquire, Frame
from .unmixing_bench import Unmixed
from .unmixing_input import Spectra, measured_spectra
from .unmixing_work import unmix_spectra

FEWEST = 6


class LiveSpectra:
    """Knows whether a run has grown, and reads only what is new."""

    PERIOD_MS = 2000

    def __init__(self) -> None:
        self._new = 0
        self._known: dict[str, Frame] = {}

    def clear(self) -> None:
        """Another run."""
        self._new = 0
        self._known = {}

    def add(self, results: Iterable[Any]) -> None:
        """Results of a run as they come."""
        self._new += sum(isinstance(result.step, Acquire) and bool(result.frames) for result in results)

    def growth(self, folder: Path, before: int) -> Callable[[], Spectra] | None:
        """How to read the run again (on another thread), None where there is nothing new.

        Parameters
        ----------
        folder : Path
            The run's folder.
        before : int
            Number of spectra that are known already.
        """
        if not self._new or before + self._new < FEWEST:
            return None
        self._new = 0
        known = self._known
        return lambda: measured_spectra(folder, known)


class LiveActions:
    """The part of the dock that follows a run."""

    bench: Any
    live: LiveSpectra
    unmixing: Any

    def _wire_live(self) -> None:
        self.unmixing.live.toggled.connect(self._live_toggled)
        self.listen(self.session.run_started, self._run_started)
        self.listen(self.session.step_finished, self._steps_finished, every=True)
        self._live_timer = QTimer(self)
        self._live_timer.setInterval(LiveSpectra.PERIOD_MS)
        self._live_timer.timeout.connect(self._live_tick)

    def _run_started(self, _folder: Any) -> None:
        self.live.clear()
        self._list_choices()

    def _steps_finished(self, results: list[Any]) -> None:
        self.live.add(results)

    def _live_toggled(self, on: bool) -> None:
        if on:
            self._live_timer.start()
        else:
            self._live_timer.stop()

    def _live_tick(self) -> None:
        """Unmix again what a run has measured so far, when there is something new and nothing else is going on."""
        spectra = self.bench.spectra
        if self.busy or spectra is None or spectra.places_nm is None or spectra.path != self.session.run_folder:
            return
        read = self.live.growth(spectra.path, len(spectra.places_nm))
        if read is None:
            return
        preparation, settings = self.bench.preparation, self.settings()
        settings.pop("elements", None)  # once is enough, when all has been measured

        def again(cancel: Any) -> Any:
            grown = read()
            prepared = preparation.repeated(grown.frame)
            return (
                grown,
                prepared,
                unmix_spectra(
                    replace(grown, frame=prepared.frame),
                    tuple(prepared.steps),
                    settings,
                    report=self._report,
                    cancel=cancel,
                ),
            )

        self._run(again, self._grown, "Unmixing what has been measured …")

    def _grown(self, outcome: tuple[Spectra, Any, tuple[Any, Unmixed]]) -> None:
        grown, prepared, (result, unmixed) = outcome
        self._ended()
        self.bench.spectra, self.bench.preparation = grown, prepared
        self.bench.follow(result, unmixed)
        self._show_input()
        self._show_result(below=self._overview_layer(unmixed.spectra))
        self._say(f"{self.bench.result.components} components in {result.shape[1]} spectra.")
