"""Measured arrays with calibrated axes: the one container that crosses every wall of the package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator


class Axis(BaseModel):
    """One dimension of a `Frame`.

    Parameters
    ----------
    name : str
        The field's own word: ``"y"``, ``"x"``, ``"energy_loss"``, ``"energy"``, ``"theta_y"`` ...
    units : str
        ``"nm"``, ``"eV"``, ``"mrad"``, ``"1/nm"``, ``"s"`` or ``"pixel"`` where nothing is known.
    scale : float
        Step between neighbouring elements, in `units`. Never zero.
    offset : float
        Coordinate of the centre of element 0, in `units`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    units: str = "pixel"
    scale: float = 1.0
    offset: float = 0.0

    @field_validator("scale")
    @classmethod
    def _usable_scale(cls, scale: float) -> float:
        if not np.isfinite(scale) or scale == 0:
            raise ValueError(f"the scale of an axis must be finite and not zero, got {scale}")
        return scale

    def coordinates(self, size: int) -> np.ndarray:
        """Coordinates of `size` elements, shape ``(size,)``, in `units`."""
        return self.offset + self.scale * np.arange(size)

    def index(self, coordinate: float) -> float:
        """Fractional element number at `coordinate` (in `units`)."""
        return (coordinate - self.offset) / self.scale


class Frame(BaseModel):
    """An array, one `Axis` per dimension, and how it was made.

    Parameters
    ----------
    data : array
        numpy array, or a lazy array with ``shape``, ``dtype``, ``ndim`` and ``__array__`` (dask). Images are ``(y, x)``;
        spectra come last: ``(energy,)`` or ``(y, x, energy)``. A numpy array is held as a read-only view.
    axes : tuple of Axis
        One per dimension, in the order of the array.
    signal : str
        What was recorded: ``"HAADF"``, ``"BF"``, ``"EELS"``, ``"EDS"``, ``"Ronchigram"`` ...
    quantity : str
        Units of the values, ``"counts"`` unless said otherwise.
    metadata : dict
        JSON values only: exposure, beam current, the instrument's clock, provenance.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    data: Any
    axes: tuple[Axis, ...]
    signal: str = Field(min_length=1)
    quantity: str = "counts"
    metadata: Mapping[str, JsonValue] = Field(default_factory=dict)

    @field_validator("data")
    @classmethod
    def _numeric(cls, data: Any) -> Any:
        if isinstance(data, (list, tuple, int, float)):
            data = np.asarray(data)
        if not all(hasattr(data, name) for name in ("shape", "dtype", "ndim")):
            raise ValueError(f"a frame needs an array, got {type(data).__name__}")
        if np.dtype(data.dtype).kind not in "biufc":
            raise ValueError(f"a frame holds numbers, got an array of dtype {data.dtype}")
        if isinstance(data, np.ndarray):
            data = data.view()
            data.flags.writeable = False
        return data

    @model_validator(mode="after")
    def _one_axis_per_dimension(self) -> Self:
        if self.data.ndim != len(self.axes):
            raise ValueError(f"{self.signal}: {self.data.ndim} dimensions but {len(self.axes)} axes")
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(int(n) for n in self.data.shape)

    @property
    def is_lazy(self) -> bool:
        """True where the values are not in memory yet."""
        return not isinstance(self.data, np.ndarray)

    def axis(self, name: str) -> Axis:
        """The axis called `name`; KeyError names the ones there are."""
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise KeyError(f"{self.signal} has no axis {name!r}, only {', '.join(a.name for a in self.axes)}")

    def coordinates(self, name: str) -> np.ndarray:
        """Coordinates along the axis called `name`, in its units."""
        for axis, size in zip(self.axes, self.shape, strict=True):
            if axis.name == name:
                return axis.coordinates(size)
        self.axis(name)
        raise AssertionError("unreachable: axis() raises for an unknown name")

    def with_data(self, data: Any, **changes: Any) -> Frame:
        """A frame with other values (and other fields, by name) and everything else kept."""
        fields = {name: getattr(self, name) for name in type(self).model_fields} | {"data": data} | changes
        return Frame(**fields)


def image_frame(
    data: np.ndarray,
    *,
    pixel_nm: float | tuple[float, float],
    signal: str,
    origin_nm: tuple[float, float] = (0.0, 0.0),
    **fields: Any,
) -> Frame:
    """A ``(y, x)`` image in nm; `origin_nm` is the centre of pixel ``(0, 0)``."""
    pixel_y, pixel_x = (pixel_nm, pixel_nm) if isinstance(pixel_nm, (int, float)) else pixel_nm
    axes = (
        Axis(name="y", units="nm", scale=pixel_y, offset=origin_nm[0]),
        Axis(name="x", units="nm", scale=pixel_x, offset=origin_nm[1]),
    )
    return Frame(data=data, axes=axes, signal=signal, **fields)


def spectrum_frame(
    data: np.ndarray,
    *,
    dispersion_ev: float,
    offset_ev: float,
    signal: str,
    name: str = "energy_loss",
    **fields: Any,
) -> Frame:
    """A spectrum (last axis in eV), shape ``(energy,)``."""
    axes = (Axis(name=name, units="eV", scale=dispersion_ev, offset=offset_ev),)
    return Frame(data=data, axes=axes, signal=signal, **fields)
