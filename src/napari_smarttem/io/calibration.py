"""From a file's axes to ours: nm, eV, mrad, 1/nm and s; navigation first, spectra last; images (y, x)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..schema import Axis, BadInput

# How units are spelled in files -> (our unit, factor). Both code points of the micro sign occur in real files.
_UNITS: dict[str, tuple[str, float]] = {
    **dict.fromkeys(("nm", "nanometer", "nanometre", "nanometers"), ("nm", 1.0)),
    **dict.fromkeys(("a", "å", "ang", "angstrom", "angstroms", "ångström"), ("nm", 0.1)),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre"), ("nm", 1e3)),
    "pm": ("nm", 1e-3),
    "mm": ("nm", 1e6),
    "cm": ("nm", 1e7),
    **dict.fromkeys(("m", "meter", "metre"), ("nm", 1e9)),
    "kev": ("eV", 1e3),
    "ev": ("eV", 1.0),
    **dict.fromkeys(("1/nm", "nm^-1", "nm-1", "nm⁻¹"), ("1/nm", 1.0)),
    **dict.fromkeys(("1/a", "1/å", "a^-1", "å^-1", "1/angstrom", "å⁻¹"), ("1/nm", 10.0)),
    **dict.fromkeys(("1/um", "1/µm", "1/μm"), ("1/nm", 1e-3)),
    **dict.fromkeys(("1/m", "m^-1"), ("1/nm", 1e-9)),
    "mrad": ("mrad", 1.0),
    "rad": ("mrad", 1e3),
    **dict.fromkeys(("urad", "µrad", "μrad"), ("mrad", 1e-3)),
    **dict.fromkeys(("s", "sec", "second", "seconds"), ("s", 1.0)),
    "ms": ("s", 1e-3),
    **dict.fromkeys(("us", "µs", "μs"), ("s", 1e-6)),
    "ns": ("s", 1e-9),
}


def to_our_units(units: Any) -> tuple[str, float] | None:
    """Our unit and the factor into it; None where the file's unit is absent or unknown.

    ``"MeV"`` and ``"meV"`` differ only in case, so energies are looked at with it.
    """
    if not isinstance(units, str):
        return None
    text = units.strip()
    if text == "meV":
        return "eV", 1e-3
    if text == "MeV":
        return "eV", 1e6
    return _UNITS.get(text.lower())


def number(value: Any) -> float | None:
    """A finite float, or None where the file holds something else."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return result if np.isfinite(result) else None


def _steps(axis: Mapping[str, Any], size: int, what: str) -> tuple[float, float]:
    """Scale and offset in the file's unit. A non-uniform axis is taken where its steps agree within 1 %."""
    values = axis.get("axis")
    if values is not None:
        positions = np.asarray(values, dtype=float)
        step = (positions[-1] - positions[0]) / max(size - 1, 1) if positions.size == size else 0.0
        if size > 1 and (step == 0 or not np.allclose(np.diff(positions), step, rtol=0.01, atol=0.0)):
            raise BadInput(
                f"{what}: axis {axis.get('name')!r} has unequal steps, which cannot be shown as a calibrated image or"
                " spectrum; resample it in HyperSpy with interpolate_on_axis and save it again."
            )
        return (step or 1.0), float(positions[0])
    if axis.get("expression") is not None:
        raise BadInput(
            f"{what}: axis {axis.get('name')!r} is given by a formula, which is not evaluated here; convert it"
            " in HyperSpy with axis.convert_to_uniform_axis() and save it again."
        )
    return number(axis.get("scale")) or 0.0, number(axis.get("offset")) or 0.0


def _spectral_dimension(axes: Sequence[Mapping[str, Any]], to_spectrum: bool) -> int | None:
    """Which dimension is the spectrum's; None for images."""
    for index, axis in enumerate(axes):
        converted = to_our_units(axis.get("units"))
        if converted is not None and converted[0] == "eV":
            return index
    for index, axis in enumerate(axes):
        if re.search(r"energy|wavelength|channel", str(axis.get("name") or ""), re.IGNORECASE):
            return index
    if to_spectrum:
        return 0  # DigitalMicrograph stores the channels of a spectrum image first
    signal = [index for index, axis in enumerate(axes) if axis.get("navigate") is False]
    return signal[0] if len(signal) == 1 else None


def _name(units: str, place: str, spectral: bool, signal: str) -> str:
    if spectral:
        if units == "nm":
            return "wavelength"
        if units != "eV":
            return "channel"
        return "energy_loss" if signal == "EELS" else "energy"
    if units == "1/nm":
        return f"k_{place}"
    if units == "mrad":
        return f"theta_{place}"
    return place


def recognise_signal(signal_type: str, title: str, axes: Sequence[Mapping[str, Any]], to_spectrum: bool) -> str:
    """``"EELS"``, ``"EDS"``, ``"CL"``, a detector's name, ``"diffraction"``, ``"spectrum"`` or ``"image"``.

    The file's own signal type counts first, then the axis, then the title.
    """
    upper = signal_type.upper()
    for prefix in ("EELS", "EDS", "CL"):
        if upper.startswith(prefix):
            return prefix
    spectral = _spectral_dimension(axes, to_spectrum)
    if spectral is not None:
        axis = axes[spectral]
        name = f"{axis.get('name')} {title}".lower()
        if "loss" in name or "eels" in name:
            return "EELS"
        if str(axis.get("units")).strip().lower() == "kev" or re.search(r"\bed[sx]\b|x-ray", name):
            return "EDS"
        return "spectrum"
    found = re.search(r"(?<![A-Za-z])(HAADF|LAADF|ADF|ABF|BF|DF|Ronchigram)(?![A-Za-z])", title, re.IGNORECASE)
    if found:
        word = found.group(1)
        return "Ronchigram" if word.lower() == "ronchigram" else word.upper()
    units = {(to_our_units(axis.get("units")) or ("pixel", 1.0))[0] for axis in axes}
    return "diffraction" if units & {"1/nm", "mrad"} else "image"


def calibrate(
    data: Any, axes: Sequence[Mapping[str, Any]], *, signal: str, to_spectrum: bool, what: str
) -> tuple[Any, tuple[Axis, ...]]:
    """The array in our order with our axes.

    Parameters
    ----------
    data : numpy or dask array
    axes : sequence of mapping
        One per dimension, as RosettaSciIO gives them.
    signal : str
        As from `recognise_signal`.
    to_spectrum : bool
        True where the reader asks for a spectrum although it does not say which axis that is.
    what : str
        Name of the file (and dataset), for errors.

    Returns
    -------
    data : array
        Navigation axes first, spectrum last; every axis ascending (a file's descending axis is turned round).
    axes : tuple of Axis
        An axis with no (known) unit is ``"pixel"`` with scale 1 and offset 0: a number without a unit
        is no calibration.
    """
    axes = list(axes)
    spectral = _spectral_dimension(axes, to_spectrum)
    order = [i for i, axis in enumerate(axes) if i != spectral and axis.get("navigate")]
    order += [i for i, axis in enumerate(axes) if i != spectral and not axis.get("navigate")]
    if spectral is not None:
        order.append(spectral)
    data = data.transpose(order) if order != sorted(order) else data
    axes = [axes[i] for i in order]
    places = _places(len(axes) - (spectral is not None))
    result: list[Axis] = []
    for dimension, axis in enumerate(axes):
        is_spectral = spectral is not None and dimension == len(axes) - 1
        scale, offset = _steps(axis, int(data.shape[dimension]), what)
        converted = to_our_units(axis.get("units"))
        if converted is None or scale == 0 or not np.isfinite(scale * converted[1]):
            units, scale, offset = "pixel", 1.0, 0.0
        else:
            units, factor = converted
            scale, offset = scale * factor, offset * factor
        if scale < 0:
            data = data[(slice(None),) * dimension + (slice(None, None, -1),)]
            offset += scale * (int(data.shape[dimension]) - 1)
            scale = -scale
        place = "" if is_spectral else places[dimension]
        name = _name(units, place, is_spectral, signal)
        if any(name == other.name for other in result):
            name = f"{name}_{dimension}"
        result.append(Axis(name=name, units=units, scale=scale, offset=offset + 0.0))
    return data, tuple(result)


def _places(count: int) -> list[str]:
    """Names of `count` axes that are not spectral: a line scan is ``x``, an image ``y, x``, a stack ``frame, y, x``."""
    if count <= 2:
        return ["y", "x"][2 - count :]
    if count == 4:
        return ["y", "x", "y", "x"]  # a scan of patterns; reciprocal units tell the second pair apart
    return [f"frame_{i}" if i else "frame" for i in range(count - 2)] + ["y", "x"]
