"""Finds backends by the entry-point group ``napari_smarttem.backends``, so that another package can add a microscope.

An entry point names a function ``connect(**settings) -> Instrument``. Listing never fails because of somebody else's
package: a backend that cannot be loaded is listed with the reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from ..schema import BadInput, InstrumentFault, SmartTEMError
from .base import CAPABILITIES, Instrument

GROUP = "napari_smarttem.backends"
_OURS = "napari_smarttem."


@dataclass(frozen=True)
class BackendEntry:
    """A backend as it is listed.

    Attributes
    ----------
    name : str
        What `connect` is called with.
    available : bool
        True where it can be loaded on this machine.
    description : str
        What it is, one sentence; where it is not available, why not and what to do.
    settings : tuple of str
        Names of the settings its connect function takes.
    """

    name: str
    available: bool
    description: str
    settings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.description if self.available else f"not available: {self.description}"


def available() -> dict[str, BackendEntry]:
    """Every backend that is installed, by name, in alphabetical order. Never raises because of a broken one."""
    return {name: _entry(name, point) for name, point in sorted(_installed().items())}


def connect(name: str, **settings: object) -> Instrument:
    """Connect to an instrument, without a guard around it.

    Parameters
    ----------
    name : str
        One of the names `available` lists.
    **settings
        What this backend takes; ``info.settings`` of a connected instrument suffices to connect to it again.

    Raises
    ------
    BadInput
        Unknown backend, a backend whose packages are missing, or settings it does not take.
    InstrumentFault
        The backend is there, its instrument did not answer.
    """
    points = _installed()
    if name not in points:
        raise BadInput(f"There is no backend {name!r}; there is {', '.join(sorted(points)) or 'none installed'}.")
    connector = _load(name, points[name])
    _check_settings(name, connector, settings)
    try:
        instrument: Instrument = connector(**settings)
    except SmartTEMError:
        raise
    except ImportError as error:
        raise BadInput(_missing_package(name, error)) from error
    except Exception as error:
        raise InstrumentFault(f"The {name} backend could not connect: {_one_line(error)}.") from error
    lacking = [
        part for part in ("info", "now_s", "plan_context", "close", *CAPABILITIES) if not hasattr(instrument, part)
    ]
    if lacking:
        raise BadInput(f"The {name} backend returned something that is no instrument: it lacks {', '.join(lacking)}.")
    return instrument


def _installed() -> dict[str, EntryPoint]:
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        # Another package may add names, never take over one of ours.
        if point.name not in points or point.value.startswith(_OURS):
            points[point.name] = point
    return points


def _load(name: str, point: EntryPoint) -> Callable[..., Instrument]:
    try:
        connector = point.load()
    except ImportError as error:
        raise BadInput(_missing_package(name, error)) from error
    except Exception as error:
        raise BadInput(
            f"The {name} backend ({point.value}) is broken and could not be loaded: {_one_line(error)}; "
            "update or uninstall the package it comes from."
        ) from error
    if not callable(connector):
        raise BadInput(f"The {name} backend ({point.value}) is broken: its entry point is not a function.")
    return connector  # type: ignore[no-any-return]


def _entry(name: str, point: EntryPoint) -> BackendEntry:
    try:
        connector = _load(name, point)
    except BadInput as error:
        return BackendEntry(name=name, available=False, description=str(error))
    text = inspect.getdoc(connector) or f"{name} ({point.value})"
    parameters = _parameters(connector) or {}
    names = tuple(p.name for p in parameters.values() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD))
    return BackendEntry(name=name, available=True, description=" ".join(text.split("\n\n")[0].split()), settings=names)


def _parameters(connector: Callable[..., Instrument]) -> dict[str, inspect.Parameter] | None:
    try:
        return dict(inspect.signature(connector).parameters)
    except (TypeError, ValueError):  # built in C: it will speak for itself when called
        return None


def _check_settings(name: str, connector: Callable[..., Instrument], settings: dict[str, object]) -> None:
    parameters = _parameters(connector)
    if parameters is None:
        return
    takes = [p for p in parameters.values() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = [p.name for p in takes]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [] if takes_any else [key for key in settings if key not in names]
    if unknown:
        raise BadInput(
            f"The {name} backend has no setting {', '.join(map(repr, unknown))}; it takes {', '.join(names) or 'none'}."
        )
    missing = [p.name for p in takes if p.default is p.empty and p.name not in settings]
    if missing:
        raise BadInput(f"The {name} backend needs the setting {', '.join(map(repr, missing))}.")


def _missing_package(name: str, error: ImportError) -> str:
    package = (error.name or "").partition(".")[0]
    if not package or package == "napari_smarttem":
        return f"The {name} backend could not be loaded: {_one_line(error)}."
    return f"The {name} backend needs the package {package!r}, which is not installed; install it and connect again."


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
