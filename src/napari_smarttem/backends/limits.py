"""What the guard keeps to beyond the instrument's own limits, and what it puts back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ..schema import ControlInfo, Field2D


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the guard lets through, beyond what the instrument itself says of its limits.

    Attributes
    ----------
    field : Field2D or None
        Where the probe may go, in nm; None: wherever the scanner reaches.
    dwell_s, exposure_s : (float, float)
        Shortest and longest dwell time of a scan pixel, and exposure of a spectrum or image.
    scan_pixels : int
        Most pixels of one scan.
    controls : mapping of str to ControlInfo
        Tighter limits of optics controls, by name.
    stage : mapping of str to ControlInfo
        Limits and largest steps of the stage, by the names `Stage.position` gives.
    """

    field: Field2D | None = None
    dwell_s: tuple[float, float] = (1e-8, 10.0)
    exposure_s: tuple[float, float] = (1e-7, 600.0)
    scan_pixels: int = 2**26
    controls: Mapping[str, ControlInfo] = dataclasses.field(default_factory=dict)
    stage: Mapping[str, ControlInfo] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Settings of the optics and the spectrometer at one moment, to be put back by `Guard.restore`."""

    optics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    energy_offset_ev: float | None = None
    dispersion_ev: float | None = None
