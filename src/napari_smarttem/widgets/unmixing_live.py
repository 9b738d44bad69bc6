"""The spectra of a run that is still going, taken in from its folder as they are acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..schema import Acquire, Frame
from .unmixing_input import Spectra, measured_spectra

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
