"""What a person sets for a single-pixel run: one frozen, JSON-able model, and errors in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..physics.caustics import DEFOCUS_LIMIT_RAD
from ..schema import BadInput

Rule = Literal["information", "random", "contrast", "divergence"]
Generator = Literal["predicted", "measured", "spot"]


class SinglePixelSettings(BaseModel):
    """Everything the single-pixel plan needs; the defaults make a sensible run on the simulator with its phase plate."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    pixels: Literal[16, 32, 64] = Field(default=32, description="Side of the picture.")
    patterns: int = Field(default=320, ge=8, le=20000, description="Largest number of patterns to measure.")
    batch: int = Field(default=16, ge=1, le=256, description="Patterns chosen at once.")
    rule: Rule = Field(default="information", description="How the next patterns are chosen.")
    generator: Generator = Field(
        default="predicted",
        description="Caustics predicted by a calibrated plate, the measured caustics themselves, or a raster of its smallest spot.",
    )
    pool: int = Field(default=4000, ge=16, le=50000, description="Predicted patterns to choose from.")
    defocus_rad: float = Field(
        default=DEFOCUS_LIMIT_RAD,
        ge=0,
        le=DEFOCUS_LIMIT_RAD,
        description="Largest defocus added to a pattern, phase at the aperture's rim; 0 where the plate has no control for it.",
        json_schema_extra={"units": "rad"},
    )
    exploration: float = Field(default=0.05, ge=0, le=1, description="Fraction of each batch that is drawn by chance.")
    exposure_s: float = Field(
        default=3.2e-5, gt=0, le=10, description="Exposure of one pattern.", json_schema_extra={"units": "s"}
    )
    least_gain_nats: float = Field(default=0.0, ge=0, description="Stop where a further pattern tells less than this.")
    dose_budget_e_per_a2: float | None = Field(
        default=None,
        gt=0,
        description="Dose of the whole run, averaged over the field.",
        json_schema_extra={"units": "e/Å²"},
    )
    pixel_dose_limit_e_per_a2: float | None = Field(
        default=None,
        gt=0,
        description="Patterns that bring a pixel above this are put before a person.",
        json_schema_extra={"units": "e/Å²"},
    )
    critical_dose_e_per_a2: float | None = Field(
        default=None,
        gt=0,
        description="Dose that leaves 1/e of the specimen's opacity; the picture is then that of the fresh specimen.",
        json_schema_extra={"units": "e/Å²"},
    )
    bucket_noise_e: float = Field(
        default=0.0,
        ge=0,
        description="Noise of the bucket itself (dark counts, amplifier), one standard deviation of a value.",
        json_schema_extra={"units": "e"},
    )
    calibration_patterns: int = Field(
        default=200, ge=20, le=2000, description="Patterns to measure for the calibration."
    )
    calibration_file: str | None = Field(
        default=None, description="A calibrated phase plate to use; none: calibrate at the start of the run."
    )
    calibrate_only: bool = Field(default=False, description="End once the plate is calibrated.")
    pattern_exposure_s: float = Field(
        default=3.2e-4, gt=0, le=10, description="Exposure of the pattern camera.", json_schema_extra={"units": "s"}
    )
    check_every: int = Field(default=8, ge=0, description="Check the predictor every so many batches; 0: never again.")
    check_patterns: int = Field(default=5, ge=1, le=100, description="Patterns of one check.")
    pattern_camera: str = Field(default="pattern", description="Camera that sees the illumination.")
    bucket: str = Field(default="bucket", description="Detector that counts the transmitted electrons.")
    seed: int = Field(default=0, ge=0, description="Of the pool and of everything left to chance.")


def parse(settings: Mapping[str, Any] | SinglePixelSettings) -> SinglePixelSettings:
    """Checked settings; `BadInput` says in a sentence what cannot be used."""
    if isinstance(settings, SinglePixelSettings):
        return settings
    try:
        return SinglePixelSettings.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        raise BadInput(f"The setting {where!r} of the single-pixel run cannot be used: {first['msg']}.") from None
