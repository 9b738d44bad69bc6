"""What the alignment plan takes, and what it gives back."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .steering import ControlState

Verdict = Literal["aligned", "out of frames", "cannot", "ended by a person"]


class LoopSettings(BaseModel):
    """Settings of the plan.

    Parameters
    ----------
    target : str
        Name of an installed alignment target.
    target_settings : dict
        For its builder.
    controls : dict of str to ControlState
        See `schema.controls_of`.
    exposure_s : float
    frames : int
        Pictures at most, those that learn the controls not counted.
    hold : int
        Pictures to go on correcting after it is aligned.
    response : list of list of float, optional
        Learned earlier (the run's note ``response``). Without it every control is tried first, one picture each.
    ask : bool
        Wait for a person's yes before every correction.
    fixed_gain : float, optional
        Correct this share of everything, as in the published procedure, for comparison.
    refine : bool
        Fit the forward model; without it the network's word is taken, for comparison.
    reach : float
        How far out, in half-ranges, a search looks where the first guess does not explain the picture.
    seed : int
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    target: str = "oam-sorter"
    target_settings: dict[str, Any] = Field(default_factory=dict)
    controls: dict[str, ControlState]
    exposure_s: float = Field(default=0.1, gt=0)
    frames: int = Field(default=12, ge=1)
    hold: int = Field(default=0, ge=0)
    response: list[list[float]] | None = None
    ask: bool = False
    fixed_gain: float | None = Field(default=None, gt=0, le=1)
    refine: bool = True
    reach: float = Field(default=2.2, gt=0)
    seed: int = 0


class Outcome(BaseModel):
    """How an alignment ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Verdict
    frames: int
    parameters: dict[str, float]
    sigma: dict[str, float]
    merit: float
    response: list[list[float]]
