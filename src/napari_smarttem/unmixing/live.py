"""The same engine on a growing acquisition: positions and spectra arrive one by one, maps are there at any time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..schema import BadInput
from ..schema.frame import Axis, Frame
from .engine import unmix
from .result import UnmixingResult

FEWEST = 8
"""Spectra that there must be before anything is unmixed."""


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
    prepare : callable, optional
        Makes a frame ``(1, count, energy)`` of raw spectra ready each time; it may not leave spectra out.
    metadata : dict, optional
        Of the frames: where the spectra come from.
    **options
        Of `unmix`.

    Attributes
    ----------
    options : dict
        Of `unmix`; what is changed holds from the next update on.
    prepared : Frame or None
        What the last update unmixed.
    """

    def __init__(
        self,
        axis: Axis,
        channels: int,
        signal: str = "EELS",
        *,
        prepare: Callable[[Frame], Frame] | None = None,
        metadata: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._axis, self._signal, self._metadata = axis, signal, metadata or {}
        self._prepare = prepare
        self.options = options
        self._spectra = np.empty((256, channels), dtype=np.float32)
        self._places = np.empty((256, 2))
        self._count = 0
        self._before: UnmixingResult | None = None
        self.prepared: Frame | None = None

    def __len__(self) -> int:
        return self._count

    @property
    def positions_nm(self) -> np.ndarray:
        """Where spectra were taken, ``(count, 2)``, y and x in nm."""
        return self._places[: self._count].copy()

    @property
    def frame(self) -> Frame:
        """All spectra so far as they came, one row ``(1, count, energy)``; a copy, which stays as it is."""
        axes = (Axis(name="y", units="pixel"), Axis(name="x", units="pixel"), self._axis)
        return Frame(
            data=self._spectra[None, : self._count].copy(), axes=axes, signal=self._signal, metadata=self._metadata
        )

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

    def update(
        self, *, progress: Callable[[float, str], None] | None = None, cancel: Callable[[], bool] | None = None
    ) -> UnmixingResult | None:
        """Unmix what is there; None while there are fewer than eight spectra.

        The maps are ``(k, 1, count)``, one value a position in `positions_nm`. Components keep their order from one update
        to the next (`in_order_of`).

        Parameters
        ----------
        progress, cancel : callable, optional
            As for `unmix`; after `Cancelled` the next update goes on from the one before.
        """
        if self._count < FEWEST:
            return None
        frame = self.frame
        if self._prepare is not None:
            frame = self._prepare(frame)
            if frame.shape[:2] != (1, self._count):
                raise BadInput(
                    f"The preparation made {' x '.join(map(str, frame.shape[:2]))} of {self._count} spectra that lie anywhere:"
                    " leave area and pixels as they are while spectra arrive."
                )
        result = unmix(frame, progress=progress, cancel=cancel, **self.options)
        if self._before is not None:
            result = in_order_of(self._before, result)
        self._before, self.prepared = result, frame
        return result


def in_order_of(before: UnmixingResult, after: UnmixingResult) -> UnmixingResult:
    """The new result with each component where the most similar old one stood, and of its sign; new ones come last.

    Similar are spectra, and maps over the spectra that both results know. The new order is recorded as an edit.
    """
    from scipy.optimize import linear_sum_assignment

    count = min(before.maps.shape[2], after.maps.shape[2])
    alike = _alike(before.maps[:, :, :count], after.maps[:, :, :count])
    signs = alike
    if before.endmembers.shape[1] == after.endmembers.shape[1]:
        signs = _alike(before.endmembers, after.endmembers)
        alike = np.abs(alike) + np.abs(signs)
    old, new = linear_sum_assignment(-np.abs(alike))
    order = [int(j) for j in new] + [j for j in range(after.components) if j not in new]
    turned = [-1.0 if signs[i, j] < 0 else 1.0 for i, j in zip(old, new, strict=True)]
    free = bool((after.maps < 0).any())  # of a method without negative amounts no sign is turned
    turned = turned + [1.0] * (len(order) - len(turned)) if free else [1.0] * len(order)
    if order == sorted(order) and min(turned) > 0:
        return after
    return put_in_order(after, order, turned)


def put_in_order(result: UnmixingResult, order: Sequence[int], signs: Sequence[float]) -> UnmixingResult:
    """Components in another order, negative `signs` turned around, recorded as an edit; names that are numbers stay in order."""
    ordered = result.reordered(order, np.array(signs) if min(signs) < 0 else None)
    if all(name == f"component {i + 1}" for i, name in enumerate(result.names)):
        ordered = replace(ordered, names=result.names[: len(order)])
    edits = [*result.provenance.get("edits", []), {"reordered": [list(order), list(signs)]}]
    return replace(ordered, provenance={**result.provenance, "edits": edits})


def _alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Correlations of each of `one` with each of `other`; the first axis counts."""
    rows = []
    for values in (one, other):
        flat = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
        flat = flat - flat.mean(axis=1, keepdims=True)
        rows.append(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-300))
    return np.asarray(rows[0] @ rows[1].T)
