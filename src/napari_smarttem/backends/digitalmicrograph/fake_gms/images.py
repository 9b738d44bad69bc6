"""Images and tags as DigitalMicrograph's Python hands them out, with their habits."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

POISON = 0x5A
"""What a view of a dead image holds in every byte: real GMS may crash there."""


class TagGroup:
    """Tags by paths with colons; every getter gives ``(found, value)``."""

    def __init__(self) -> None:
        self.tags: dict[str, Any] = {}

    def GetTagAsFloat(self, path: str) -> tuple[bool, float]:
        """A number, ``(False, 0.0)`` where there is none."""
        value = self.tags.get(path)
        return (True, float(value)) if isinstance(value, (bool, int, float)) else (False, 0.0)

    GetTagAsDouble = GetTagAsFloat

    def GetTagAsLong(self, path: str) -> tuple[bool, int]:
        """A whole number."""
        found, value = self.GetTagAsFloat(path)
        return found, int(value)

    def GetTagAsBoolean(self, path: str) -> tuple[bool, bool]:
        """True or false."""
        found, value = self.GetTagAsFloat(path)
        return found, bool(value)

    def GetTagAsText(self, path: str) -> tuple[bool, str]:
        """Text; numbers are spelt out, as in GMS."""
        value = self.tags.get(path)
        return (False, "") if value is None else (True, str(value))

    GetTagAsString = GetTagAsText

    def _set(self, path: str, value: Any) -> bool:
        self.tags[path] = value
        return True

    SetTagAsFloat = SetTagAsDouble = SetTagAsLong = SetTagAsBoolean = SetTagAsText = SetTagAsString = _set

    def DeleteTagWithLabel(self, path: str) -> bool:
        """Delete a tag, or a group with everything in it."""
        gone = [key for key in self.tags if key == path or key.startswith(path + ":")]
        for key in gone:
            del self.tags[key]
        return bool(gone)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tags.values())


class Images:
    """All images that are alive, by their number; a number is never given twice."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._alive: weakref.WeakValueDictionary[int, Image] = weakref.WeakValueDictionary()
        self._shown: dict[int, Image] = {}
        self._lock = threading.Lock()
        self.made = 0

    def add(self, data: np.ndarray) -> Image:
        """A new image that holds a copy of `data`."""
        with self._lock:
            image = Image(next(self._numbers), data)
            self._alive[image.GetID()] = image
            self.made += 1
            return image

    def find(self, number: float) -> Image:
        """The image with this number; raises where there is none (any more)."""
        image = self._alive.get(int(number))
        if image is None or image.closed:
            raise RuntimeError("Invalid image ID.")
        return image

    def show(self, image: Image) -> None:
        """Keep an image for as long as its window is open."""
        self._shown[image.GetID()] = image

    def close(self, image: Image) -> None:
        """What an operator does who closes the window: the image is gone for everybody."""
        self._shown.pop(image.GetID(), None)
        image.die()

    def __len__(self) -> int:
        return len(self._alive)


class Image:
    """A ``Py_Image``."""

    def __init__(self, number: int, data: np.ndarray) -> None:
        self._number = number
        self._data = np.array(data)
        self._tags = TagGroup()
        self._calibration: list[tuple[float, float, Any]] = [(0.0, 1.0, "")] * self._data.ndim
        self.closed = False
        self.filling: Any = None
        """Called before the pixels are looked at: a scan under way writes what it has by then."""

    def GetID(self) -> int:
        """Its number."""
        return self._number

    def GetNumArray(self) -> np.ndarray:
        """A view of the pixels, (rows, columns): it dies with the image."""
        self._alive()
        if self.filling is not None:
            self.filling()
        return self._data.view()

    def UpdateImage(self) -> None:
        """Nothing is drawn here."""
        self._alive()

    def GetTagGroup(self) -> TagGroup:
        """Its tags."""
        self._alive()
        return self._tags

    def GetDimensionSize(self, dimension: int) -> int:
        """Pixels along a dimension; 0 is x."""
        return int(self._data.shape[::-1][dimension])

    def GetDimensionCalibration(self, dimension: int, form: int) -> tuple[float, float, Any]:
        """(origin, scale, unit). Form 0: value = origin + scale px; form 1: the origin is in pixels."""
        self._alive()
        origin, scale, unit = self._calibration[dimension]
        return (origin, scale, unit) if form == 0 else (-origin / scale, scale, unit)

    def SetDimensionCalibration(self, dimension: int, origin: float, scale: float, unit: Any, form: int) -> None:
        """See `GetDimensionCalibration`."""
        self._calibration[dimension] = (origin if form == 0 else -origin * scale, scale, unit)

    def die(self) -> None:
        """The memory is given back: views that somebody kept show rubbish from now on."""
        if not self.closed:
            self.closed = True
            self._data.view(np.uint8)[...] = POISON

    def write(self, data: np.ndarray) -> None:
        """New pixels, as the hardware writes them."""
        self._data[...] = data

    @property
    def data(self) -> np.ndarray:
        """The pixels as they are."""
        return self._data

    def __del__(self) -> None:
        self.die()

    def _alive(self) -> None:
        if self.closed:
            raise RuntimeError("The image has been deleted.")
