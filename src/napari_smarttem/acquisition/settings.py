"""What a person sets for an acquisition: one frozen, JSON-able model, and errors in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from ..schema import BadInput, Field2D, PlanContext

DEFAULT_OVERVIEW_SHAPE = (256, 256)

Pixels = Annotated[int, Field(ge=1, le=8192)]


def _units(units: str) -> dict[str, JsonValue]:
    """Units of a setting, for forms; they travel in the JSON schema of the model."""
    return {"units": units}


class Options(BaseModel):
    """Base of every settings model: frozen, nothing unknown accepted, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AcquisitionSettings(Options):
    """Everything the acquisition plan needs; the defaults make a sensible run on any instrument.

    ``chooser_settings`` belongs to the chooser and is checked against its own model (see `choosers.CHOOSERS`).
    """

    overview_field: Field2D | None = Field(default=None, description="Part to scan; none: the whole field of view.")
    overview_shape: tuple[Pixels, Pixels] | None = Field(
        default=None,
        description="Rows and columns of the overview; none: those of the recording, else 256 x 256.",
        json_schema_extra=_units("px"),
    )
    overview_dwell_s: float = Field(
        default=10e-6, gt=0, le=1.0, description="Time per overview pixel.", json_schema_extra=_units("s")
    )
    overview_signals: tuple[str, ...] = Field(
        default=(), description="Detectors to record; the first one is what the chooser sees. None: the best overview."
    )

    chooser: str = Field(default="edges", description="Who proposes the points.")
    chooser_settings: Mapping[str, JsonValue] = Field(default_factory=dict, description="Settings of the chooser.")
    points: int = Field(default=100, ge=1, le=100_000, description="Largest number of points to propose.")
    spacing_nm: float | None = Field(
        default=None,
        gt=0,
        description="Smallest distance between two points; none: as far apart as the number of points allows.",
        json_schema_extra=_units("nm"),
    )
    margin_nm: float = Field(
        default=0.0, ge=0, description="Stay this far from the rim of the overview.", json_schema_extra=_units("nm")
    )

    exposure_s: float = Field(
        default=0.1, gt=0, le=3600, description="Exposure of one spectrum.", json_schema_extra=_units("s")
    )
    image_nm: float | None = Field(
        default=None,
        gt=0,
        description="Before each spectrum, scan an image of this side around the point, at high magnification; none: no image.",
        json_schema_extra=_units("nm"),
    )
    image_pixels: Pixels = Field(
        default=128, description="Rows and columns of the image of a point.", json_schema_extra=_units("px")
    )
    image_dwell_s: float | None = Field(
        default=None,
        gt=0,
        le=1.0,
        description="Time per pixel of the image of a point; none: as the overview.",
        json_schema_extra=_units("s"),
    )
    time_budget_s: float | None = Field(
        default=None,
        gt=0,
        description="Instrument time for spectra, images of points and drift images; the points of lowest score are left out.",
        json_schema_extra=_units("s"),
    )
    dose_budget_e_per_a2: float | None = Field(
        default=None,
        gt=0,
        description="Dose of the whole run, averaged over the field of view; the points of lowest score are left out.",
        json_schema_extra=_units("e/Å²"),
    )
    order: Literal["path", "score", "raster", "proposed"] = Field(
        default="path", description="Shortest path, best first, line by line, or as the chooser made them."
    )
    settle_distance_nm: float = Field(
        default=0.0,
        ge=0,
        description="Extra path length that one move is worth because the probe must settle after it.",
        json_schema_extra=_units("nm"),
    )

    drift_every: int = Field(default=25, ge=0, description="Re-image after this many points; 0: no drift correction.")
    drift_fraction: float = Field(
        default=0.5, gt=0, le=1, description="Side of the window that is re-imaged, relative to the overview."
    )
    drift_dwell_s: float | None = Field(
        default=None,
        gt=0,
        le=1.0,
        description="Time per pixel of a drift image; none: as the overview.",
        json_schema_extra=_units("s"),
    )
    drift_rate_nm_per_s: float = Field(
        default=1.0, gt=0, description="Drift to be expected; bounds the search.", json_schema_extra=_units("nm/s")
    )
    drift_minimum_quality: float = Field(
        default=7.0, gt=0, description="A registration whose peak stands out less than this many times is refused."
    )

    rounds: int = Field(default=1, ge=1, le=1000, description="Propose, review and measure this many times.")
    seed: int = Field(default=0, ge=0, description="Seed of everything that is drawn by lot.")
    propose_first: bool = Field(
        default=True, description="False: show the overview and wait to be asked for a proposal."
    )
    keep_approved: bool = Field(
        default=True, description="When asked for a new proposal, keep the points that are approved already."
    )
    rescan: bool = Field(default=False, description="When asked for a new proposal: take a new overview first.")
    largest_failures: int = Field(
        default=5, ge=1, description="Stop after this many points failed one after the other."
    )

    @model_validator(mode="after")
    def _exposure_fits_budget(self) -> Self:
        if self.time_budget_s is not None and self.time_budget_s < self.exposure_s:
            raise ValueError(
                f"the time budget of {self.time_budget_s:g} s is shorter than one exposure of {self.exposure_s:g} s"
            )
        return self

    def scan_shape(self, context: PlanContext) -> tuple[int, int]:
        """Rows and columns of the overview on this instrument."""
        if self.overview_shape is not None:
            return self.overview_shape
        if context.native_shape is not None and self.overview_field is None:
            return context.native_shape
        return DEFAULT_OVERVIEW_SHAPE

    def scan_field(self, context: PlanContext) -> Field2D:
        """What the overview covers on this instrument."""
        return self.overview_field or context.field


def sentence(error: ValidationError, what: str) -> str:
    """The first thing a validation found, in one sentence; says how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if first["type"] == "extra_forbidden":
        text = f"{what} has no setting {where!r}"
    elif where:
        text = f"{what}: {where} cannot be {first['input']!r}, {message}"
    else:
        text = f"{what}: {message}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{text}{more}."


def parse(settings: Mapping[str, Any] | AcquisitionSettings) -> AcquisitionSettings:
    """Checked settings, those of the chooser included and written out in full.

    Raises
    ------
    BadInput
        One sentence naming the setting, its value and what was expected.
    """
    if isinstance(settings, AcquisitionSettings):
        settings = settings.model_dump(mode="json")
    try:
        parsed = AcquisitionSettings.model_validate(dict(settings))
    except ValidationError as error:
        raise BadInput(sentence(error, "The acquisition")) from error
    from .choosers import options_for

    options = options_for(parsed.chooser, parsed.chooser_settings)
    return parsed.model_copy(update={"chooser_settings": options.model_dump(mode="json")})


def merged(settings: AcquisitionSettings, changes: Mapping[str, Any]) -> AcquisitionSettings:
    """Settings with some of them replaced; another chooser starts from its own defaults unless they are given."""
    fields = settings.model_dump(mode="json") | {"rescan": False}
    if "chooser_settings" not in changes and changes.get("chooser", settings.chooser) != settings.chooser:
        fields["chooser_settings"] = {}
    return parse(fields | dict(changes))
