"""The spectra of a run that is still going: read from its folder as they are acknowledged, unmixed again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from ..schema import Acquire, BadInput, Frame
from .unmixing_bench import Unmixed
from .unmixing_input import Spectra, measured_spectra
from .unmixing_steps import Preparation
from .unmixing_work import sums_of

if TYPE_CHECKING:
    from ..unmixing import UnmixingResult
    from ..unmixing.live import LiveUnmixer


class LiveSpectra:
    """Knows whether a run has grown, reads only what is new, and gives it to the same `LiveUnmixer` that a notebook has.

    Attributes
    ----------
    unmixer : LiveUnmixer or None
        Of the run that is followed; None before its first spectra.
    """

    PERIOD_MS = 2000

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Another run."""
        self._new = 0
        self._known: dict[str, Frame] = {}
        self._taken: list[tuple[float, float]] = []
        self._preparation: Any = None  # of the data as they were read last
        self.unmixer: LiveUnmixer | None = None

    def add(self, results: Iterable[Any]) -> None:
        """Results of a run as they come."""
        self._new += sum(isinstance(result.step, Acquire) and bool(result.frames) for result in results)

    def growth(self, folder: Path) -> Callable[[], Spectra] | None:
        """How to read the run again (on another thread), None where there is nothing new."""
        if not self._new:
            return None
        self._new = 0
        known = self._known
        return lambda: measured_spectra(folder, known)

    def update(
        self, read: Spectra, preparation: Preparation, settings: dict[str, Any], *, report: Any, cancel: Any
    ) -> tuple[Spectra, Preparation, UnmixingResult | None]:
        """Give what was read to the unmixer and unmix it, on a thread of the pool.

        Returns
        -------
        spectra : Spectra
            As they came; one that holds NaN is left out.
        preparation : Preparation
            The same steps, done on them.
        result : UnmixingResult or None
            None while there are too few spectra.
        """
        places = [(float(y), float(x)) for y, x in read.places_nm] if read.places_nm is not None else []
        unmixer = self.unmixer
        self._preparation = preparation
        if unmixer is None or places[: len(self._taken)] != self._taken:
            unmixer = self.unmixer = self._made(read)
        for number in range(len(self._taken), len(places)):
            self._taken.append(places[number])
            try:
                unmixer.add(*places[number], read.frame.data[0, number])
            except BadInput:
                continue  # NaN: a beam that went away for a moment must not end what the others show
        unmixer.options = settings
        result = unmixer.update(progress=report, cancel=cancel.is_set)
        grown = replace(read, frame=unmixer.frame, places_nm=unmixer.positions_nm)
        return grown, self._preparation, result

    def _made(self, read: Spectra) -> LiveUnmixer:
        from ..unmixing.live import LiveUnmixer

        self._taken = []

        def prepare(frame: Frame) -> Frame:
            self._preparation = self._preparation.repeated(frame)
            return self._preparation.frame

        frame = read.frame
        return LiveUnmixer(
            frame.axes[-1], frame.shape[-1], frame.signal, prepare=prepare, metadata=dict(frame.metadata)
        )


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
        read = self.live.growth(spectra.path)
        if read is None:
            return
        preparation, settings = self.bench.preparation, self.settings()
        settings.pop("elements", None)  # once is enough, when all has been measured
        try:
            if settings["method"] == "labels":
                raise BadInput("Paint cannot follow a run that grows; choose another method while spectra arrive.")
            known = self.add_knowledge(settings, self.bench.prepared())
        except BadInput as error:
            self.unmixing.live.setChecked(False)
            self._fail(error)
            return

        def again(cancel: Any) -> Any:
            grown, prepared, result = self.live.update(
                read(), preparation, settings, report=self._report, cancel=cancel
            )
            unmixed = Unmixed(
                replace(grown, frame=prepared.frame), tuple(prepared.steps), settings, sums_of(prepared.frame), known
            )
            return grown, prepared, result, unmixed

        self._run(again, self._grown, "Unmixing what has been measured …")

    def _grown(self, outcome: tuple[Spectra, Preparation, UnmixingResult | None, Unmixed]) -> None:
        grown, prepared, result, unmixed = outcome
        self._ended()
        self.bench.spectra, self.bench.preparation = grown, prepared
        self._show_input()
        if result is None:
            self._say(f"{len(grown.frame.data[0])} spectra are too few to unmix; waiting for more.")
            return
        fresh = self.bench.result is None
        self.bench.follow(result, unmixed)
        self._show_result(below=self._overview_layer(unmixed.spectra), fresh=fresh, grown=True)
        self._say(f"{self.bench.result.components} components in {result.shape[1]} spectra.")
