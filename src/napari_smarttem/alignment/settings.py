"""What a person sets for an alignment: one frozen, JSON-able model, and errors in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..physics.aberrations import ESTIMATED
from ..schema import BadInput
from .targets.steering import ControlState

OFFSETS_NM = (-1500.0, -700.0, -350.0, -350.0)
"""Defocus of one Ronchigram after the other: nearer to focus the error bars are smaller until too few rings are left."""


class AlignmentSettings(BaseModel):
    """Everything the alignment plan needs.

    ``controls`` says what the instrument has; `schema.controls_of` makes it from an instrument's optics.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Literal["ronchigram", "image-quality"] = Field(
        default="ronchigram",
        description="Measure on Ronchigrams, or search for the sharpest image (no amorphous area needed).",
    )
    controls: Mapping[str, ControlState] = Field(description="Controls of the instrument: value, limits, largest step.")
    control_names: tuple[str, ...] = Field(
        default=ESTIMATED, description="Those to use; the first one moves the defocus."
    )
    response: tuple[tuple[float, ...], ...] | None = Field(
        default=None, description="Change of C1, A1.x ... C3 per unit of each control, as an earlier run learned it."
    )
    response_covariance: tuple[tuple[tuple[float, ...], ...], ...] | None = Field(
        default=None, description="How sure that run was of it: for each aberration, a matrix over the controls."
    )
    units_known: bool = Field(
        default=True, description="False: learn by small known changes what the controls do, their units and axes too."
    )
    wanted_mrad: float = Field(default=25.0, gt=0, le=60, description="Angle to which the phase is to stay under pi/4.")
    confidence: float = Field(default=0.97, gt=0, lt=1, description="How sure to be of that before stopping.")
    frames: int = Field(default=4, ge=1, le=500, description="Stop after this many Ronchigrams at the latest.")
    offsets_nm: tuple[float, ...] = Field(
        default=OFFSETS_NM,
        min_length=1,
        description="Defocus at which to measure, one frame after the other; the last one again and again.",
    )
    exposure_s: float = Field(
        default=0.5, gt=0, le=60, description="Of one Ronchigram (or one pass of the image search)."
    )
    camera: str | None = Field(default=None, description="None: the instrument's default camera.")
    high_tension_v: float | None = Field(default=None, gt=0, description="None: as the frame says.")
    half_angle_mrad: float | None = Field(
        default=None, gt=0, description="From the middle of the frame to the middle of its edge; None: as its axes say."
    )
    fixed_gain: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Correct this share each time, as published (1/5); None: as the error bars allow.",
    )
    refine: bool = Field(default=True, description="False: take the network's word.")
    model: str | None = Field(
        default="ronchigram", description="Weights of the network; None: search without a network."
    )
    ask: bool = Field(default=False, description="Show each correction to a person first.")
    search_nm: Mapping[str, float] = Field(
        default_factory=dict, description="Image search: half-range of each control to vary, in its own units."
    )
    image_pixels: int = Field(default=96, ge=16, le=1024, description="Image search: side of the image.")
    image_field_nm: float = Field(default=40.0, gt=0, description="Image search: side of the field.")
    seed: int = Field(default=0, ge=0, description="Of the image search.")


def parse(settings: Mapping[str, Any] | AlignmentSettings) -> AlignmentSettings:
    """Checked settings; `BadInput` in one sentence naming the one that cannot be used."""
    if isinstance(settings, AlignmentSettings):
        return settings
    try:
        checked = AlignmentSettings.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"the alignment's setting {place}: {first['msg'][:1].lower()}{first['msg'][1:]}.") from error
    if any(offset >= 0 for offset in checked.offsets_nm):
        raise BadInput("the alignment measures underfocused: every offset must be negative.")
    return checked


LEARNING = {
    "offsets_nm": (-1500.0, -900.0, -350.0, -350.0, -900.0, -350.0, -900.0, -1500.0),
    "frames": 8,
    "confidence": 0.999,
}
"""Settings of a run that, once on an instrument, learns what its defocus control does to everything else. Its outcome's response
and covariance go into the settings of the runs that follow."""
