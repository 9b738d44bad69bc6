"""What lies on the table: spectra, their preparation, the result and its edits. Belongs to the viewer, not to a dock."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .layers import unwrapped
from .unmixing_canvas import Canvas
from .unmixing_input import Spectra
from .unmixing_layers import UnmixingLayers, component_color
from .unmixing_library import Known
from .unmixing_steps import Preparation, Step
from .unmixing_sums import WindowSums, channels_between

if TYPE_CHECKING:
    from ..unmixing import UnmixingResult


@dataclass(frozen=True)
class Shown:
    """A result with what a person chose to see of it.

    Parameters
    ----------
    result : UnmixingResult
    colors : tuple of str
    visible : tuple of bool
    """

    result: UnmixingResult
    colors: tuple[str, ...]
    visible: tuple[bool, ...]

    def without(self, components: list[int], result: UnmixingResult) -> Shown:
        """The same choices for a result that lacks some components."""
        rest = [i for i in range(len(self.colors)) if i not in components]
        return Shown(result, tuple(self.colors[i] for i in rest), tuple(self.visible[i] for i in rest))


@dataclass(frozen=True)
class Unmixed:
    """What a result was made from.

    Parameters
    ----------
    spectra : Spectra
        With the frame as it was unmixed, after all preparation.
    steps : tuple of Step
    settings : dict
        Of the call: ``method``, ``components``, ``seed``, ``elements``.
    sums : WindowSums or None
        None where the data are too large to be in memory.
    known : Known
        Where painted labels or fitted spectra came from.
    notes : tuple of str
        What a person should read beside the result; its warnings are among them. Empty where only these are known.
    """

    spectra: Spectra
    steps: tuple[Step, ...]
    settings: dict[str, Any]
    sums: WindowSums | None
    known: Known = field(default_factory=Known)
    notes: tuple[str, ...] = ()

    @property
    def simulated(self) -> bool:
        """True where a simulation made the data."""
        return bool(self.spectra.frame.metadata.get("simulated", False))

    def spectrum(self, row: int, column: int) -> np.ndarray:
        """Measured spectrum of a pixel, ``(energy,)``."""
        return np.asarray(self.spectra.frame.data[row, column], dtype=float)

    def canvas(self, result: UnmixingResult) -> Canvas:
        """How maps of the result are drawn."""
        return Canvas(result.axes[:2], result.shape, self.spectra.places_nm)


class Bench:
    """One viewer's unmixing: input, preparation, result, history of edits, layers."""

    def __init__(self, viewer: Any) -> None:
        self.layers = UnmixingLayers(viewer)
        self.files: list[Path] = []
        self.spectra: Spectra | None = None
        self.preparation: Preparation | None = None
        self.unmixed: Unmixed | None = None
        self.history: list[Shown] = []
        self.second: UnmixingResult | None = None

    @property
    def shown(self) -> Shown | None:
        """The result on show, None before the first."""
        return self.history[-1] if self.history else None

    @property
    def result(self) -> UnmixingResult | None:
        """The result on show."""
        return self.history[-1].result if self.history else None

    def take(self, spectra: Spectra) -> None:
        """Another input; what was found in the last one stays on show until there is a new result."""
        self.spectra = spectra
        self.preparation = Preparation(spectra.frame)

    def prepared(self) -> Spectra | None:
        """The input after its preparation."""
        if self.spectra is None or self.preparation is None:
            return None
        return replace(self.spectra, frame=self.preparation.frame, source=self.spectra.frame)

    def found(self, result: UnmixingResult, unmixed: Unmixed) -> Shown:
        """A new result; colours stay with the numbers of the components."""
        before = self.shown
        count = result.components
        colors = list(before.colors[:count]) if before is not None else []
        colors += [component_color(i) for i in range(len(colors), count)]
        if len(set(colors)) < count:
            colors = [component_color(i) for i in range(count)]
        self.unmixed = unmixed
        self.second = None
        self.history = [Shown(result, tuple(colors), (True,) * count)]
        return self.history[-1]

    def follow(self, result: UnmixingResult, unmixed: Unmixed) -> Shown:
        """The result of a run that has grown: components keep place, colour, visibility and the name a person gave."""
        before = self.shown
        if before is None:
            return self.found(result, unmixed)
        from ..unmixing.live import in_order_of

        result = in_order_of(before.result, result)
        for number in _renamed(before.result):
            if number < result.components:
                result = result.renamed(number, before.result.names[number])
        count = result.components
        visible = (*before.visible[:count], *(True,) * (count - len(before.visible)))
        self.found(result, unmixed)
        self.change_look(visible=visible)
        return self.history[-1]

    def edit(self, shown: Shown) -> None:
        """One more change of the components, which an undo takes back."""
        self.history.append(shown)

    def change_look(self, **changes: Any) -> None:
        """Other colours or visibility: no change of the result, and nothing to undo."""
        if self.history:
            self.history[-1] = replace(self.history[-1], **changes)

    def undo(self) -> bool:
        """Take the last edit back; False where there is none."""
        if len(self.history) < 2:
            return False
        self.history.pop()
        return True

    def window_map(self, low_ev: float, high_ev: float, of: str) -> np.ndarray:
        """Map of an energy window, ``(y, x)``: of the ``"data"``, the ``"model"``, or ``"data − model"``.

        Data that are not in memory have no map of their own here: the model's is given.
        """
        assert self.unmixed is not None and self.result is not None  # noqa: PT018
        result = self.result
        first, last = channels_between(result.axes[2], result.endmembers.shape[1], low_ev, high_ev)
        if of == "model" or self.unmixed.sums is None:
            return np.asarray(result.reconstruct_window(first, last))
        counts = self.unmixed.sums.window(first, last)
        return counts if of == "data" else counts - result.reconstruct_window(first, last)


def _renamed(result: UnmixingResult) -> list[int]:
    """Components that bear a name from a person, where none was merged or dropped since."""
    edits = [next(iter(edit.items())) for edit in result.provenance.get("edits", ())]
    if any(what in {"merged", "dropped"} for what, _ in edits):
        return []
    return sorted({value[0] for what, value in edits if what == "renamed"})


_benches: weakref.WeakKeyDictionary[Any, Bench] = weakref.WeakKeyDictionary()


def bench_for(viewer: Any) -> Bench:
    """The one bench of a viewer, made at the first call."""
    viewer = unwrapped(viewer)
    if viewer not in _benches:
        _benches[viewer] = Bench(viewer)
    return _benches[viewer]
