"""What the *Unmixing* dock has done on another thread. Qt-free."""

from __future__ import annotations

from typing import Any

from ..schema import Frame
from .unmixing_bench import Unmixed
from .unmixing_input import Spectra
from .unmixing_library import Known
from .unmixing_sums import WindowSums


def methods(_cancel: Any) -> dict[str, tuple[str, str]]:
    """Title and summary of every method; importing them takes a moment."""
    from ..unmixing import METHODS

    return {name: (method.title, method.summary) for name, method in METHODS.items()}


def unmix_spectra(
    spectra: Spectra,
    steps: tuple[Any, ...],
    settings: dict[str, Any],
    *,
    report: Any,
    cancel: Any,
    known: Known | None = None,
    sums: WindowSums | None = None,
) -> tuple[Any, Unmixed]:
    """The work of a run, on a thread of the pool: the result, and what lets the window look into the data quickly."""
    from ..unmixing import unmix
    from ..unmixing.result_notes import notes

    result = unmix(spectra.frame, progress=lambda f, w: report(0.95 * f, w), cancel=cancel.is_set, **settings)
    known = known or Known()
    for number, name in enumerate(known.names[: result.components]):
        result = result.renamed(number, name)
    report(0.97, "sums")
    sums = sums or sums_of(spectra.frame)
    return result, Unmixed(spectra, steps, settings, sums, known, notes(result, spectra.frame))


def sums_of(frame: Frame) -> WindowSums | None:
    """Sums along energy, None where the data are not in memory."""
    if frame.is_lazy:
        return None
    return WindowSums(frame.data)
