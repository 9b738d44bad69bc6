"""Energy windows a person sets on a spectrum, shared by every plot and map of a viewer."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from qtpy.QtCore import QObject, Signal

from ..schema import BadInput
from .layers import unwrapped

COLORS = ("#E69F00", "#56B4E9", "#00B583", "#CC79A7", "#F0E442", "#D55E00", "#0F8BFF", "#B0B0B0")


@dataclass(frozen=True)
class EnergyWindow:
    """A named range of energy.

    Parameters
    ----------
    name : str
        ``"O K"``; unique among the windows of a viewer.
    low_ev, high_ev : float
        Edges in eV, ``low_ev < high_ev``.
    color : str
        ``"#rrggbb"``
    signal : str
        Kind of spectra it was set on, such as ``"EELS"``; empty for any kind.
    """

    name: str
    low_ev: float
    high_ev: float
    color: str = COLORS[0]
    signal: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise BadInput("an energy window needs a name, such as 'O K'.")
        if not self.low_ev < self.high_ev:
            raise BadInput(
                f"the energy window {self.name!r} goes from {self.low_ev:g} to {self.high_ev:g} eV; its lower edge "
                "must lie below its upper edge."
            )

    def fits(self, signal: str, low_ev: float, high_ev: float) -> bool:
        """True where spectra of a kind, from `low_ev` to `high_ev`, hold a part of it: X-ray lines are no energy losses."""
        return self.signal in {"", signal} and self.low_ev < high_ev and low_ev < self.high_ev


class EnergyWindows(QObject):
    """The windows in use, in order.

    Signals
    -------
    changed
        Windows were added, removed, renamed or moved.
    """

    changed = Signal()

    def __init__(self, windows: Iterable[EnergyWindow] = ()) -> None:
        super().__init__()
        self._windows: list[EnergyWindow] = list(windows)

    def __iter__(self):
        return iter(tuple(self._windows))

    def __len__(self) -> int:
        return len(self._windows)

    def set_all(self, windows: Iterable[EnergyWindow]) -> None:
        """Replace all windows; nothing is told where nothing changes."""
        windows = list(windows)
        if len({w.name for w in windows}) != len(windows):
            raise BadInput("two energy windows have the same name; give each its own.")
        if windows != self._windows:
            self._windows = windows
            self.changed.emit()

    def fitting(self, signal: str, low_ev: float, high_ev: float) -> list[EnergyWindow]:
        """Those that belong to spectra of a kind and range, in order."""
        return [window for window in self._windows if window.fits(signal, low_ev, high_ev)]

    def add(self, low_ev: float, high_ev: float, name: str = "", color: str = "", signal: str = "") -> EnergyWindow:
        """Add a window; a missing name or colour is chosen."""
        taken = {w.name for w in self._windows}
        number = next(n for n in range(1, len(taken) + 2) if f"window {n}" not in taken)
        used = {w.color for w in self._windows}
        free = next((c for c in COLORS if c not in used), COLORS[len(taken) % len(COLORS)])
        window = EnergyWindow(name or f"window {number}", float(low_ev), float(high_ev), color or free, signal)
        self.set_all([*self._windows, window])
        return window

    def change(self, name: str, /, **changes: Any) -> EnergyWindow:
        """Change fields of the window called `name`."""
        window = replace(self.get(name), **changes)
        self.set_all([window if w.name == name else w for w in self._windows])
        return window

    def remove(self, name: str) -> None:
        """Remove the window called `name`."""
        self.get(name)
        self.set_all([w for w in self._windows if w.name != name])

    def get(self, name: str) -> EnergyWindow:
        """The window called `name`; BadInput names the ones there are."""
        for window in self._windows:
            if window.name == name:
                return window
        names = ", ".join(w.name for w in self._windows) or "none"
        raise BadInput(f"there is no energy window {name!r}; there are: {names}.")

    def as_json(self) -> list[dict[str, Any]]:
        """JSON values, for the remembered settings."""
        return [asdict(w) for w in self._windows]


_shared: weakref.WeakKeyDictionary[Any, EnergyWindows] = weakref.WeakKeyDictionary()


def windows_of(viewer: Any) -> EnergyWindows:
    """The energy windows of a viewer: one set for the Spectrum dock, the Acquisition dock and the live maps."""
    viewer = unwrapped(viewer)
    if viewer not in _shared:
        _shared[viewer] = EnergyWindows()
    return _shared[viewer]
