"""The same engine on a growing acquisition: positions and spectra arrive one by one, maps are there at any time."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..schema import BadInput
from ..schema.frame import Axis, Frame
from .engine import unmix
from .result import UnmixingResult, match


class LiveUnmixer:
    """Collects spectra and unmixes what is there.

    Parameters
    ----------
    axis : Axis
        Energy.
    channels : int
        Length of a spectrum.
    signal : str
        ``"EELS"``, ``"EDS"`` ...
    **options
        Of `unmix`.
    """

    def __init__(self, axis: Axis, channels: int, signal: str = "EELS", **options: Any) -> None:
        self._axis, self._signal, self._options = axis, signal, options
        self._spectra = np.empty((256, channels), dtype=np.float32)
        self._places = np.empty((256, 2))
        self._count = 0
        self._before: UnmixingResult | None = None

    def __len__(self) -> int:
        return self._count

    @property
    def positions_nm(self) -> np.ndarray:
        """Where spectra were taken, ``(count, 2)``, y and x in nm."""
        return self._places[: self._count].copy()

    def add(self, y_nm: float, x_nm: float, spectrum: np.ndarray) -> None:
        """Take one more spectrum; BadInput where its length does not fit or it holds NaN."""
        spectrum = np.asarray(spectrum, dtype=np.float32)
        if spectrum.shape != (self._spectra.shape[1],):
            raise BadInput(f"A spectrum of {spectrum.shape} does not fit to {self._spectra.shape[1]} channels.")
        if not np.isfinite(spectrum).all():
            raise BadInput("The spectrum holds NaN or infinite values and was left out.")
        if self._count == len(self._spectra):
            self._spectra = np.concatenate([self._spectra, np.empty_like(self._spectra)])
            self._places = np.concatenate([self._places, np.empty_like(self._places)])
        self._spectra[self._count] = spectrum
        self._places[self._count] = y_nm, x_nm
        self._count += 1

    def update(self) -> UnmixingResult | None:
        """Unmix what is there; None while there are fewer than eight spectra.

        The maps are ``(k, 1, count)``, one value a position in `positions_nm`. Components keep their order from one update
        to the next as long as their number stays the same.
        """
        if self._count < 8:
            return None
        frame = Frame(
            data=self._spectra[: self._count],
            axes=(Axis(name="x"), self._axis),
            signal=self._signal,
        )
        result = unmix(frame, **self._options)
        before = self._before
        if before is not None and before.components == result.components:
            count = before.shape[1]
            earlier = result.reordered(range(result.components))
            seen = match(before, _first(earlier, count))
            order = [pair[1] for pair in sorted(seen.pairs)]
            result = result.reordered(order)
        self._before = result
        return result


def _first(result: UnmixingResult, count: int) -> UnmixingResult:
    from dataclasses import replace

    return replace(result, maps=result.maps[:, :, :count])
