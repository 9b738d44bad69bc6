"""Where a shown spectrum comes from: a spectrum image, a line scan, single spectra, or the measured targets of a run.

Qt-free; reading may take long and is done on a thread of the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..schema import BadInput, Frame

_CHUNK_VALUES = 4_000_000


class SpectrumSource:
    """Spectra by number, and by place on the layer that shows where they are from.

    Attributes
    ----------
    path : Path
        The file or run folder.
    dataset : int or None
        Which of the file's datasets, where the layer says so too.
    title : str
    count : int
        Number of spectra.
    on_canvas : bool
        True where a place on the canvas chooses a spectrum; otherwise the number does.
    """

    on_canvas = False

    def __init__(self, path: Path, title: str, count: int, dataset: int | None = None) -> None:
        self.path = path
        self.title = title
        self.count = count
        self.dataset = dataset

    def spectrum(self, number: int) -> tuple[Frame, str]:
        """A spectrum and what to call it. May read from disk."""
        raise IndexError(number)

    def number_at(self, pixel: tuple[float, float], place_nm: tuple[float, float]) -> int | None:
        """Number of the spectrum at a pixel (row, column) of the layer, or at a place; None where there is none."""
        return None

    def summed(self) -> tuple[Frame, str]:
        """Sum of all spectra; read in pieces, so that a large file need not fit into memory."""
        first, label = self.spectrum(0)
        if self.count == 1:
            return first, label
        total = np.asarray(first.data, dtype=float).copy()
        for number in range(1, self.count):
            total += np.nan_to_num(np.asarray(self.spectrum(number)[0].data, dtype=float))
        return first.with_data(total), f"{self.title}: sum of {self.count} spectra"

    @property
    def is_quick(self) -> bool:
        """True where a spectrum is in memory already."""
        return True

    def close(self) -> None:
        """Let go of the file."""


class SpectrumImage(SpectrumSource):
    """A ``(y, x, energy)`` frame, or a line scan ``(x, energy)``, whose pixels are chosen by the cursor or by number."""

    def __init__(self, path: Path, frame: Frame, dataset: int) -> None:
        self.frame = frame
        self.navigation = frame.shape[:-1]
        self.on_canvas = len(self.navigation) == 2
        title = str(frame.metadata.get("title") or path.stem)
        super().__init__(path, title, int(np.prod(self.navigation)), dataset)

    @property
    def is_quick(self) -> bool:
        """False where a spectrum must be read from disk first."""
        return not self.frame.is_lazy

    def number_at(self, pixel: tuple[float, float], place_nm: tuple[float, float]) -> int | None:
        """See `SpectrumSource.number_at`."""
        if not self.on_canvas:
            return None
        rows, columns = self.navigation
        row, column = (round(p) for p in pixel)
        return row * columns + column if 0 <= row < rows and 0 <= column < columns else None

    def spectrum(self, number: int) -> tuple[Frame, str]:
        """See `SpectrumSource.spectrum`."""
        where = tuple(int(i) for i in np.unravel_index(number, self.navigation))
        values = np.asarray(self.frame.data[where])
        places = [
            f"{axis.name} {axis.offset + axis.scale * i:.4g} {axis.units}"
            for axis, i in zip(self.frame.axes, where, strict=False)
        ]
        return self._one(values), f"{self.title}: {', '.join(places)} (pixel {', '.join(map(str, where))})"

    def summed(self) -> tuple[Frame, str]:
        """See `SpectrumSource.summed`."""
        data, channels = self.frame.data, self.frame.shape[-1]
        rows = max(1, _CHUNK_VALUES // max(1, int(np.prod(self.frame.shape[1:]))))
        total = np.zeros(channels)
        for start in range(0, self.frame.shape[0], rows):
            part = np.asarray(data[start : start + rows], dtype=float)
            total += np.nansum(part.reshape(-1, channels), axis=0)
        return self._one(total), f"{self.title}: sum of {' × '.join(map(str, self.navigation))} pixels"

    def _one(self, values: np.ndarray) -> Frame:
        kept = {k: v for k, v in self.frame.metadata.items() if k != "original"}
        return self.frame.with_data(values, axes=self.frame.axes[-1:], metadata=kept)


class SingleSpectra(SpectrumSource):
    """Spectra ``(energy,)`` of a file, chosen by number."""

    def __init__(self, path: Path, frames: Sequence[Frame]) -> None:
        self.frames = tuple(frames)
        super().__init__(path, path.stem, len(self.frames))

    def spectrum(self, number: int) -> tuple[Frame, str]:
        """See `SpectrumSource.spectrum`."""
        frame = self.frames[number]
        return frame, str(frame.metadata.get("title") or self.title)

    def summed(self) -> tuple[Frame, str]:
        """See `SpectrumSource.summed`."""
        return self.spectrum(0)


class MeasuredTargets(SpectrumSource):
    """The spectra of a run folder; the cursor chooses the nearest measured target."""

    on_canvas = True

    def __init__(self, path: Path) -> None:
        from ..engine.history import measured_steps
        from ..engine.journal import Journal

        self._journal = Journal.open(path, read_only=True)
        self._done = measured_steps(self._journal)
        if not self._done:
            self._journal.close()
            raise BadInput(f"{path.name} holds no spectrum yet; resume the run, or open another one.")
        self._places = np.array([(d.step.y_nm, d.step.x_nm) for d in self._done])
        self._places -= np.array([d.step.drift_nm for d in self._done])
        super().__init__(path, path.stem, len(self._done))

    @property
    def is_quick(self) -> bool:
        """False where a spectrum must be read from disk first."""
        return False

    def number_at(self, pixel: tuple[float, float], place_nm: tuple[float, float]) -> int | None:
        """See `SpectrumSource.number_at`."""
        distance = np.hypot(*(self._places - np.asarray(place_nm)).T)
        return int(np.argmin(distance))

    def spectrum(self, number: int) -> tuple[Frame, str]:
        """See `SpectrumSource.spectrum`."""
        done = self._done[number]
        y_nm, x_nm = self._places[number]
        name = done.step.target_id or done.step.step_id
        return self._journal.load(done.frames[0]), f"{self.title}: {name} at y {y_nm:.1f}, x {x_nm:.1f} nm"

    def number_of(self, target_id: str) -> int | None:
        """Number of the spectrum of a target; None where it was not measured."""
        return next((i for i, done in enumerate(self._done) if done.step.target_id == target_id), None)

    def close(self) -> None:
        """Let go of the run folder."""
        self._journal.close()


def open_spectra(path: str | Path) -> SpectrumSource:
    """The spectra of a file or run folder, the largest spectrum image first.

    Raises
    ------
    BadInput
        The file cannot be read, or holds no spectra.
    """
    path = Path(path)
    if path.suffix.lower() == ".smarttem":
        return MeasuredTargets(path)
    from ..io.read import is_line_scan, is_spectrum_image, read

    frames = read(path)
    maps = [(i, f) for i, f in enumerate(frames) if is_spectrum_image(f) or is_line_scan(f)]
    if maps:
        index, frame = max(maps, key=lambda pair: int(np.prod(pair[1].shape)))
        return SpectrumImage(path, frame, index)
    single = [f for f in frames if len(f.axes) == 1]
    if single:
        return SingleSpectra(path, single)
    kinds = ", ".join(sorted({f"{len(f.axes)}-dimensional {f.signal}" for f in frames})) or "nothing"
    raise BadInput(f"{path.name} holds no spectra, only {kinds}; drop a spectrum image or a spectrum.")
