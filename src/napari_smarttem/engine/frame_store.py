"""Frames on disk: zarr arrays that grow by one chunk a frame, each forced to disk before it is acknowledged."""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Frame, FrameRecord, JournalError

_FIRST_CAPACITY = 64
# A dark frame is a measurement too: without this zarr would leave out a chunk of zeros.
_EVERY_CHUNK = {"write_empty_chunks": True}


def frame_checksum(data: np.ndarray) -> int:
    """CRC-32 of an array's bytes in C order, little-endian."""
    little = np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("<"))
    return zlib.crc32(little.reshape(-1).view(np.uint8).data)


class FrameStore:
    """``data.zarr`` of a run folder: an array per kind of frame (signal, shape, dtype), index 0 along the run.

    Chunks are not compressed and hold one frame each, so that writing a frame touches one file and a torn write can hurt no other.
    """

    def __init__(self, path: Path, *, sync: bool) -> None:
        self.path = path
        self._sync = sync
        self._group: Any = None
        self._arrays: dict[str, Any] = {}
        self._next: dict[str, int] = {}

    def create(self) -> None:
        """Make the empty store, so that a run folder is complete from its first moment."""
        import zarr

        self._group = zarr.open_group(self.path, mode="a")
        _sync_path(self.path / "zarr.json", self._sync)
        _sync_directory(self.path, self._sync)

    def claim(self, record: FrameRecord) -> None:
        """Note that a frame is acknowledged, so that its place is not written again."""
        self._next[record.array] = max(self._next.get(record.array, 0), record.index + 1)

    def append(self, frame: Frame) -> FrameRecord:
        """Write a frame into the next free place and force it to disk; OSError where the disk refuses."""
        data = np.asarray(frame.data)
        data = np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("<"))
        name = _array_name(frame.signal, data)
        index = self._next.get(name, 0)
        array = self._array_with_room(name, data, index)
        array[index] = data
        # claimed only now: a frame whose write failed leaves its place to the next one
        self._next[name] = index + 1
        _sync_path(self.path / name / ".".join(["c", str(index), *("0" for _ in data.shape)]), self._sync)
        _sync_directory(self.path / name, self._sync)
        return FrameRecord(
            array=name,
            index=index,
            shape=data.shape,
            dtype=data.dtype.str,
            crc32=frame_checksum(data),
            axes=frame.axes,
            signal=frame.signal,
            quantity=frame.quantity,
            metadata=frame.metadata,
        )

    def load(self, record: FrameRecord) -> Frame:
        """Read a frame and compare it with its checksum; `JournalError` where they differ or it is gone."""
        try:
            data = np.asarray(self._array(record.array)[record.index])
        except (OSError, KeyError, IndexError, ValueError) as error:
            raise JournalError(
                f"Frame {record.index} of {self.path / record.array} cannot be read: {error}."
            ) from error
        if data.shape != record.shape or frame_checksum(data) != record.crc32:
            raise JournalError(
                f"Frame {record.index} of {self.path / record.array} is not what was recorded (its checksum differs); "
                f"the disk or another program has changed it."
            )
        return Frame(
            data=data, axes=record.axes, signal=record.signal, quantity=record.quantity, metadata=record.metadata
        )

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            import zarr

            if self._group is None:
                self._group = zarr.open_group(self.path, mode="r+")
            self._arrays[name] = self._group[name].with_config(_EVERY_CHUNK)
        return self._arrays[name]

    def _array_with_room(self, name: str, data: np.ndarray, index: int) -> Any:
        if name not in self._arrays and not (self.path / name / "zarr.json").exists():
            if self._group is None:
                self.create()
            created = self._group.create_array(
                name,
                shape=(_FIRST_CAPACITY, *data.shape),
                chunks=(1, *data.shape),
                dtype=data.dtype,
                compressors=None,
                fill_value=0,
                chunk_key_encoding={"name": "default", "separator": "."},
            )
            self._arrays[name] = created.with_config(_EVERY_CHUNK)
            _sync_path(self.path / name / "zarr.json", self._sync)
            _sync_directory(self.path, self._sync)
        array = self._array(name)
        if index >= array.shape[0]:
            array.resize((max(2 * array.shape[0], index + 1), *data.shape))
            _sync_path(self.path / name / "zarr.json", self._sync)
        return array


def _array_name(signal: str, data: np.ndarray) -> str:
    word = re.sub(r"[^A-Za-z0-9]+", "-", signal).strip("-") or "frame"
    return f"{word}_{'x'.join(map(str, data.shape)) or 'scalar'}_{data.dtype.str[1:]}"


def _sync_path(path: Path, wanted: bool) -> None:
    if wanted:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sync_directory(path: Path, wanted: bool) -> None:
    # Windows has no way to force a directory, and does not need one: NTFS journals its entries.
    if wanted and os.name != "nt":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
