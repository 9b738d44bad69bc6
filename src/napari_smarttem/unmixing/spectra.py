"""What is unmixed: a spectrum image as rows of spectra, checked, with its axes, read a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..schema import BadInput
from ..schema.frame import Axis, Frame

BLOCK_BYTES = 2**19
"""A block of spectra of this size stays in the processor's cache while it is used several times."""
LARGE_BLOCK_BYTES = 2**24
"""What is read at once from a file."""


@dataclass(frozen=True)
class Piece:
    """Some rows of an image that are not in memory.

    Parameters
    ----------
    first, last : int
        Rows, the last one not included.
    load : callable
        Gives the values ``(rows, columns, channels)`` of `source`, and may be sent to another computer.
    source : FileRows or lazy array
        Where they are.
    """

    first: int
    last: int
    load: Callable[[Any], np.ndarray]
    source: Any


@dataclass(frozen=True)
class FileRows:
    """Values that stand one after the other in a file."""

    path: str
    offset: int
    dtype: str
    shape: tuple[int, ...]


def read_rows(source: FileRows, into: np.ndarray | None = None) -> np.ndarray:
    """Read values by asking for them; faster than a memory map, and they do not stay in the process's memory."""
    size = _size(source)
    buffer: Any = np.empty(size, np.uint8) if into is None else into[:size]
    with open(source.path, "rb", buffering=0) as file:
        file.seek(source.offset)
        view, at = memoryview(buffer), 0
        while at < size:
            got = file.readinto(view[at:])
            if not got:
                raise BadInput(f"{source.path} ends early: it was cut or is still being written.")
            at += got
    return np.asarray(buffer.view(source.dtype).reshape(source.shape))


@dataclass(frozen=True)
class SpectrumImage:
    """A spectrum image ``(y, x, energy)`` seen as ``(pixels, channels)``.

    Parameters
    ----------
    data : array
        ``(y, x, energy)``; numpy, a memory map, or a lazy array (dask).
    axes : tuple of Axis
        y, x and energy.
    signal : str
        ``"EELS"``, ``"EDS"``, ``"CL"`` ...
    metadata : dict
        Of the frame it came from.
    """

    data: Any
    axes: tuple[Axis, Axis, Axis]
    signal: str
    metadata: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the image."""
        return int(self.data.shape[0]), int(self.data.shape[1])

    @property
    def pixels(self) -> int:
        """Number of spectra."""
        return self.shape[0] * self.shape[1]

    @property
    def channels(self) -> int:
        """Number of energy channels."""
        return int(self.data.shape[2])

    @property
    def in_memory(self) -> bool:
        """True where the values are in memory (a memory map is not)."""
        base = self.data
        while isinstance(base, np.ndarray):
            if isinstance(base, np.memmap):
                return False
            base = base.base
        return isinstance(self.data, np.ndarray)

    @property
    def addressable(self) -> bool:
        """True where single spectra can be had without computing whole chunks."""
        return isinstance(self.data, np.ndarray)

    @property
    def energy_ev(self) -> np.ndarray:
        """Energies of the channels, shape ``(channels,)``."""
        return self.axes[2].coordinates(self.channels)

    def blocks(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """First and last pixel and the float32 spectra of one block after the other, in order.

        Yields
        ------
        start, stop : int
            Pixels of the block, counted along the rows.
        spectra : ndarray
            ``(stop - start, channels)``, float32, C order. A view where the data already is that.
        """
        if self.in_memory:
            yield from self._parts(0, self.data)
            return
        from concurrent.futures import ThreadPoolExecutor

        pieces = list(self.pieces())
        buffers = [np.empty(0, np.uint8)] * 2
        if isinstance(pieces[0].source, FileRows):
            buffers = [np.empty(max(_size(piece.source) for piece in pieces), np.uint8) for _ in range(2)]
        with ThreadPoolExecutor(1, thread_name_prefix="read-spectra") as reader:  # one piece is read while one is used
            coming = reader.submit(_load, pieces[0], buffers[0])
            for number, piece in enumerate(pieces):
                rows = coming.result()
                if number + 1 < len(pieces):
                    coming = reader.submit(_load, pieces[number + 1], buffers[(number + 1) % 2])
                yield from self._parts(piece.first * self.shape[1], rows)

    def _parts(self, start: int, rows: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        flat = rows.reshape(-1, self.channels)
        step = max(1, BLOCK_BYTES // (4 * self.channels))
        for at in range(0, len(flat), step):
            part = np.ascontiguousarray(flat[at : at + step], dtype=np.float32)
            yield start + at, start + at + len(part), part

    def pieces(self) -> Iterator[Piece]:
        """Rows of data that are not in memory, some at a time."""
        rows, columns = self.shape
        itemsize = np.dtype(self.data.dtype).itemsize
        step = max(1, LARGE_BLOCK_BYTES // (columns * self.channels * itemsize))
        chunks = getattr(self.data, "chunks", None)
        if chunks and isinstance(chunks[0], tuple):  # dask: whole chunks, so that none is read twice
            step = max(chunks[0])
        start = _place_in_file(self.data)
        for first in range(0, rows, step):
            last = min(rows, first + step)
            if start is None:
                yield Piece(first, last, np.asarray, self.data[first:last])
            else:
                offset = start + first * columns * self.channels * itemsize
                shape = (last - first, columns, self.channels)
                yield Piece(
                    first, last, read_rows, FileRows(str(self.data.filename), offset, self.data.dtype.str, shape)
                )

    def sample(self, count: int) -> np.ndarray:
        """Some spectra, ``(count or fewer, channels)``, float32: of the whole image, or of one chunk in its middle."""
        if self.addressable:
            return self.rows(_even(self.pixels, count))
        pieces = list(self.pieces())
        piece = pieces[len(pieces) // 2]
        flat = _load(piece, np.empty(0, np.uint8)).reshape(-1, self.channels)
        return np.asarray(flat[_even(len(flat), count)], dtype=np.float32)

    def rows(self, pixels: np.ndarray) -> np.ndarray:
        """Spectra of some pixels, ``(len(pixels), channels)``, float32."""
        if isinstance(self.data, np.ndarray):
            return np.asarray(self.data.reshape(-1, self.channels)[pixels], dtype=np.float32)
        y, x = np.divmod(pixels, self.shape[1])
        return np.stack([np.asarray(self.data[int(i), int(j)], dtype=np.float32) for i, j in zip(y, x, strict=True)])


def _even(count: int, wanted: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(count, wanted)).astype(np.int64)


def _size(source: FileRows) -> int:
    return int(np.prod(source.shape)) * np.dtype(source.dtype).itemsize


def _load(piece: Piece, buffer: np.ndarray) -> np.ndarray:
    return read_rows(piece.source, buffer) if isinstance(piece.source, FileRows) else piece.load(piece.source)


def _place_in_file(data: Any) -> int | None:
    """Byte at which a memory map begins in its file; None where its values do not follow one another there."""
    if not isinstance(data, np.memmap) or data.filename is None or not data.flags.c_contiguous:
        return None
    base = data
    while isinstance(base.base, np.memmap):
        base = base.base
    begin = data.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return int(base.offset) + int(begin)


def spectrum_image(frame: Frame | Any) -> SpectrumImage:
    """Check a frame or an array and see it as a spectrum image.

    Parameters
    ----------
    frame : Frame or array
        ``(y, x, energy)`` or ``(x, energy)`` (a line scan). An array gets pixel axes.

    Raises
    ------
    BadInput
        Not a spectrum image, one single spectrum, or too few channels; in one sentence.
    """
    if isinstance(frame, SpectrumImage):
        return frame
    if not isinstance(frame, Frame):
        array = frame if hasattr(frame, "ndim") else np.asarray(frame)
        names = {1: ("energy",), 2: ("x", "energy"), 3: ("y", "x", "energy")}.get(array.ndim)
        if names is None:
            raise BadInput(f"A spectrum image is (y, x, energy), and this array has {array.ndim} dimensions.")
        frame = Frame(data=array, axes=tuple(Axis(name=name) for name in names), signal="spectra")
    data, axes = frame.data, frame.axes
    if np.dtype(data.dtype).kind not in "biuf":
        raise BadInput(f"Spectra are real numbers, and {frame.signal} holds {data.dtype}.")
    last = axes[-1].name
    if last in ("y", "x", "k_x", "theta_x") or frame.data.ndim > 3:
        raise BadInput(
            f"{frame.signal} is not a spectrum image: its axes are {', '.join(a.name for a in axes)},"
            " and y, x, energy are expected; choose another layer."
        )
    if data.ndim == 1 or (data.ndim == 3 and data.shape[0] * data.shape[1] < 2) or data.shape[0] == 0:
        raise BadInput(f"{frame.signal} is one single spectrum; unmixing needs a map or a line scan of several.")
    if data.ndim == 2:
        data = data.reshape(1, *data.shape) if isinstance(data, np.ndarray) else data[None]
        axes = (Axis(name="y", units=axes[0].units, scale=axes[0].scale), *axes)
    if data.shape[2] < 4:
        raise BadInput(f"{frame.signal} has {data.shape[2]} channels; unmixing needs at least 4.")
    if data.shape[0] * data.shape[1] < 4:
        raise BadInput(f"{frame.signal} has {data.shape[0] * data.shape[1]} spectra; unmixing needs at least 4.")
    return SpectrumImage(data, (axes[0], axes[1], axes[2]), frame.signal, dict(frame.metadata))
