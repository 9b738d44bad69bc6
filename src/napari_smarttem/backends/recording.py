"""A recorded spectrum image on its scan field: where spectra lie, what survey images show, what is assumed."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..io.read import is_line_scan, is_spectrum_image, read, summed_counts
from ..schema import Axis, BadInput, Field2D, Frame, InstrumentFault

ASSUMED_EXPOSURE_S = 1.0
"""Exposure of one recorded spectrum where the file does not say."""

_CACHE_BYTES = 256 * 2**20


@dataclasses.dataclass
class Recording:
    """Spectra on a grid and images of the same field.

    Attributes
    ----------
    spectra : Frame
        ``(y, x, energy)``, in nm and eV; may be lazy.
    field : Field2D
        The grid's edges.
    exposure_s : float
        Of each recorded spectrum.
    images : dict of str to callable
        What was recorded of the same field, the best overview first; each gives an array ``(y, x)`` that covers it.
    assumptions : tuple of str
        What the file does not say and was assumed, one sentence each.
    """

    path: Path
    spectra: Frame
    field: Field2D
    exposure_s: float
    images: dict[str, Callable[[], np.ndarray]]
    assumptions: tuple[str, ...]
    _loaded: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    _blocks: OrderedDict[tuple[int, int], np.ndarray] = dataclasses.field(default_factory=OrderedDict)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of recorded spectra."""
        return self.spectra.shape[0], self.spectra.shape[1]

    def image(self, name: str) -> np.ndarray:
        """The recorded image `name`, shape ``(y, x)``; pixels that were not measured are 0."""
        if name not in self._loaded:
            with _readable(self.path):
                values = np.asarray(self.images[name]())
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
            self._loaded[name] = values
        return self._loaded[name]

    def spectrum(self, row: int, column: int) -> np.ndarray:
        """The recorded spectrum of a pixel, shape ``(energy,)``."""
        data = self.spectra.data
        if isinstance(data, np.ndarray):
            return np.asarray(data[row, column])
        with _readable(self.path):
            return self._from_disk(data, row, column)

    def _from_disk(self, data: Any, row: int, column: int) -> np.ndarray:
        # A compressed file is read by blocks anyway: keep the last ones, neighbours are likely to be asked for next.
        (i, top, rows), (j, left, columns) = _block(data.chunks[0], row), _block(data.chunks[1], column)
        size = rows * columns * data.shape[2] * data.dtype.itemsize
        if size > _CACHE_BYTES:
            return np.asarray(data[row, column])
        if (i, j) not in self._blocks:
            self._blocks[i, j] = np.asarray(data[top : top + rows, left : left + columns])
            while len(self._blocks) > max(1, _CACHE_BYTES // size):
                self._blocks.popitem(last=False)
        self._blocks.move_to_end((i, j))
        return np.asarray(self._blocks[i, j][row - top, column - left])


class _readable:
    """Turns an error of a lazily read file into a sentence."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception):
            raise InstrumentFault(
                f"The recording {self.path.name} can no longer be read ({type(error).__name__}: {error}); "
                "check that the file and its drive are still there."
            ) from error


def _block(sizes: tuple[int, ...], index: int) -> tuple[int, int, int]:
    start = 0
    for number, size in enumerate(sizes):
        if index < start + size:
            return number, start, size
        start += size
    raise IndexError(index)


def open_recording(
    path: Path, *, dataset: int | str | None, survey: Path | None, exposure_s: float | None, lazy: bool | None = None
) -> Recording:
    """Choose the spectrum image in a file and what else was recorded of the same field.

    Parameters
    ----------
    path : Path
        Anything `io.read` reads.
    dataset : int, str or None
        Number or title of the spectrum image in the file; None takes the one with most values.
    survey : Path or None
        Another file with an image of the same field.
    exposure_s : float or None
        Exposure of one recorded spectrum; None takes what the file says.

    Raises
    ------
    BadInput
        No such file, no spectrum image in it, or a survey image of another field.
    """
    frames = read(path, lazy=lazy)
    chosen = _choose(path, frames, dataset)
    assumptions: list[str] = []
    spectra = _calibrated(chosen, assumptions)
    rows, columns = spectra.shape[:2]
    y, x = spectra.axes[:2]
    whole = Field2D(
        y_nm=y.offset - y.scale / 2, x_nm=x.offset - x.scale / 2, height_nm=rows * y.scale, width_nm=columns * x.scale
    )
    images: dict[str, Callable[[], np.ndarray]] = {}
    if survey is not None:
        found = [frame for frame in read(survey) if _is_image(frame)]
        matching = [frame for frame in found if _same_field(frame, whole, (rows, columns))]
        if not matching:
            raise BadInput(
                f"{survey.name} holds no image of the field of {path.name} "
                f"({rows} x {columns} pixels, {whole.height_nm:.4g} x {whole.width_nm:.4g} nm); "
                "give the survey image that was recorded with it, or none."
            )
        _add_images(images, matching)
    _add_images(images, [f for f in frames if _is_image(f) and _same_field(f, whole, (rows, columns))])
    images[_free_name(f"{spectra.signal} sum", images)] = lambda: np.asarray(summed_counts(spectra).data)
    if exposure_s is None:
        exposure_s = _exposure(chosen, rows * columns, assumptions)
    return Recording(path, spectra, whole, exposure_s, images, tuple(assumptions))


def _choose(path: Path, frames: tuple[Frame, ...], dataset: int | str | None) -> Frame:
    maps = [f for f in frames if (is_spectrum_image(f) or is_line_scan(f)) and f.axes[-1].name != "wavelength"]
    listing = ", ".join(f"{f.metadata.get('dataset', 0)}: {_describe(f)}" for f in frames)
    if not maps:
        raise BadInput(
            f"{path.name} holds no EELS or EDS spectrum image to play back, only {listing}; "
            "choose a file with a map or a line of spectra."
        )
    if dataset is None:
        return max(maps, key=lambda frame: int(np.prod(frame.shape, dtype=float)))
    for frame in maps:
        if dataset in (frame.metadata.get("dataset", 0), frame.metadata.get("title")):
            return frame
    raise BadInput(f"{path.name} has no spectrum image {dataset!r}; it holds {listing}.")


def _describe(frame: Frame) -> str:
    title = frame.metadata.get("title") or frame.signal
    return f"{title} ({frame.signal}, {' x '.join(map(str, frame.shape))})"


def _calibrated(frame: Frame, assumptions: list[str]) -> Frame:
    """The spectra on ``(y, x, energy)`` axes in nm and eV that run upwards; what had to be assumed is said."""
    data, axes = frame.data, list(frame.axes)
    if len(axes) == 2:
        data = data[None]
        axes.insert(0, Axis(name="y", units=axes[0].units, scale=abs(axes[0].scale)))
    for place, name in enumerate(("y", "x", axes[2].name)):
        axis, unit = axes[place], "eV" if place == 2 else "nm"
        if axis.units != unit:
            what = "energy channel" if place == 2 else f"step in {name}"
            assumptions.append(
                f"The recording gives the {what} in {axis.units!r}; one {'channel' if place == 2 else 'pixel'} "
                f"is taken as 1 {unit}."
            )
            axis = Axis(name=name, units=unit)
        if axis.scale < 0:
            data = np.flip(data, place) if isinstance(data, np.ndarray) else data[_flipped(place)]
            last = axis.offset + axis.scale * (frame.shape[place - 3] - 1)
            axis = Axis(name=name, units=unit, scale=-axis.scale, offset=last)
        axes[place] = Axis(name=name, units=unit, scale=axis.scale, offset=axis.offset)
    return frame.with_data(data, axes=tuple(axes))


def _flipped(place: int) -> tuple[slice, ...]:
    return tuple(slice(None, None, -1) if i == place else slice(None) for i in range(3))


def _exposure(frame: Frame, pixels: int, assumptions: list[str]) -> float:
    stated = frame.metadata.get("exposure_s")
    if isinstance(stated, (int, float)) and stated > 0:
        return float(stated)
    live = frame.metadata.get("live_time_s")
    if isinstance(live, (int, float)) and live > 0:
        assumptions.append(
            f"The exposure of a spectrum is the map's live time of {live:g} s, shared by {pixels} pixels."
        )
        return float(live) / pixels
    assumptions.append(
        f"The recording does not say how long a spectrum was exposed; {ASSUMED_EXPOSURE_S:g} s is taken."
    )
    return ASSUMED_EXPOSURE_S


def _is_image(frame: Frame) -> bool:
    return [axis.name for axis in frame.axes] == ["y", "x"] and frame.data.dtype.kind in "buif"


def _same_field(image: Frame, whole: Field2D, grid: tuple[int, int]) -> bool:
    if image.shape == grid:
        return True
    if any(axis.units != "nm" for axis in image.axes):
        return False
    extent = [abs(axis.scale) * size for axis, size in zip(image.axes, image.shape, strict=True)]
    return bool(np.allclose(extent, (whole.height_nm, whole.width_nm), rtol=0.03))


def _add_images(images: dict[str, Callable[[], np.ndarray]], frames: list[Frame]) -> None:
    # Dark field shows composition best, so it comes first; otherwise the order of the file.
    for frame in sorted(frames, key=lambda f: f.signal != "HAADF"):
        images[_free_name(frame.signal, images)] = lambda frame=frame: np.asarray(frame.data)  # type: ignore[misc]


def _free_name(name: str, taken: dict[str, Any]) -> str:
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name} {number}", number + 1
    return candidate
