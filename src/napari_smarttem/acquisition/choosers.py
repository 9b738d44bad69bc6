"""Who proposes where to measure: one interface, found by name.

A chooser looks at an `Overview` and returns picks, each with a score, a class and a reason in words. Another package adds one
through the entry-point group ``napari_smarttem.choosers``, whose entries are `Chooser` objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np
from pydantic import ValidationError

from ..schema import BadInput, Frame, Target
from .overview import Overview, prepare
from .settings import AcquisitionSettings, Options, sentence

GROUP = "napari_smarttem.choosers"


@dataclass(frozen=True)
class Pick:
    """A place in (fractional) pixels of the overview, and why."""

    row: float
    column: float
    score: float
    label: str
    reason: str


@dataclass(frozen=True)
class Wanted:
    """How many points, how far apart, and the chance to draw them by."""

    points: int
    spacing_nm: float | None
    rng: np.random.Generator


@dataclass(frozen=True)
class Choice:
    """What a chooser found, and what a person should know about it."""

    picks: tuple[Pick, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chooser:
    """A way to choose points.

    Attributes
    ----------
    name, title, description : str
        For the command line, for the window, and for the tooltip.
    options : type
        Its settings model, a subclass of `Options`.
    choose : callable
        ``choose(overview: Overview, options, wanted: Wanted) -> Choice``.
    """

    name: str
    title: str
    description: str
    options: type[Options]
    choose: Callable[[Overview, Any, Wanted], Choice]


@dataclass(frozen=True)
class Proposals:
    """Targets, best first, and remarks for the person who reviews them."""

    targets: tuple[Target, ...] = ()
    remarks: tuple[str, ...] = field(default=())


@cache
def choosers() -> dict[str, Chooser]:
    """All choosers by name, ours first. A broken one of another package is left out."""
    from . import anomalies, clusters, edges, geometric, region_points

    ours = (
        edges.CHOOSER,
        clusters.CHOOSER,
        anomalies.CHOOSER,
        region_points.CHOOSER,
        geometric.RANDOM,
        geometric.GRID,
        geometric.MANUAL,
    )
    found = {chooser.name: chooser for chooser in ours}
    for entry in metadata.entry_points(group=GROUP):
        try:
            chooser = entry.load()
        except Exception as error:
            import warnings

            warnings.warn(f"The chooser {entry.name!r} of another package cannot be used: {error}", stacklevel=2)
            continue
        if isinstance(chooser, Chooser):
            found.setdefault(chooser.name, chooser)
    return found


def chooser_named(name: str) -> Chooser:
    """The chooser called `name`; `BadInput` names the ones there are."""
    try:
        return choosers()[name]
    except KeyError:
        raise BadInput(f"There is no chooser {name!r}; choose one of {', '.join(choosers())}.") from None


def options_for(name: str, settings: Mapping[str, Any]) -> Options:
    """Checked settings of the chooser called `name`; `BadInput` in one sentence where they do not fit."""
    chooser = chooser_named(name)
    try:
        return chooser.options.model_validate(dict(settings))
    except ValidationError as error:
        raise BadInput(sentence(error, f"The chooser {name!r}")) from error


def propose_with_remarks(
    overview: Frame,
    settings: AcquisitionSettings,
    *,
    exclude: Iterable[tuple[float, float]] = (),
    rng: np.random.Generator | None = None,
    prefix: str = "r0",
) -> Proposals:
    """Targets on `overview`, best first, with remarks such as "only 12 of 100 points".

    Parameters
    ----------
    overview : Frame
        ``(y, x)`` in nm.
    settings : AcquisitionSettings
        Chooser, its settings, number of points, spacing and margin.
    exclude : iterable of (y_nm, x_nm)
        Places that are taken already.
    rng : numpy Generator or None
        None: seeded from the settings.
    prefix : str
        Begins the target ids: ``"r0"`` gives ``"r0-0000"`` ...

    Raises
    ------
    BadInput
        Where the overview or the settings cannot be used.
    """
    chooser = chooser_named(settings.chooser)
    options = options_for(settings.chooser, settings.chooser_settings)
    view = prepare(overview, margin_nm=settings.margin_nm, exclude=exclude, exclusion_nm=settings.spacing_nm)
    if not view.allowed.any():
        return Proposals(remarks=("No place is left: the margin and the points measured before cover the overview.",))
    wanted = Wanted(settings.points, settings.spacing_nm, rng or np.random.default_rng(settings.seed))
    choice = chooser.choose(view, options, wanted)
    picks = sorted(choice.picks, key=lambda pick: -pick.score)[: settings.points]
    places = view.positions_nm(np.array([p.row for p in picks]), np.array([p.column for p in picks]))
    targets = tuple(
        Target(
            target_id=f"{prefix}-{number:04d}",
            y_nm=float(y_nm),
            x_nm=float(x_nm),
            score=float(np.clip(pick.score, 0.0, 1.0)),
            label=pick.label,
            reason=pick.reason,
        )
        for number, (pick, (y_nm, x_nm)) in enumerate(zip(picks, places, strict=True))
    )
    remarks = choice.remarks
    if len(targets) < settings.points and chooser.name != "manual" and not remarks:
        remarks = (f"Only {len(targets)} of {settings.points} points were found.",)
    return Proposals(targets, remarks)


def propose(
    overview: Frame,
    settings: AcquisitionSettings,
    *,
    exclude: Iterable[tuple[float, float]] = (),
    rng: np.random.Generator | None = None,
    prefix: str = "r0",
) -> tuple[Target, ...]:
    """`propose_with_remarks` without the remarks."""
    return propose_with_remarks(overview, settings, exclude=exclude, rng=rng, prefix=prefix).targets
