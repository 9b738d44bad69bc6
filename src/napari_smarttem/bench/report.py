"""The one shape of every bench's report, so that a machine can compare any figure with its target and baselines."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .._version import __version__


def figure(
    value: float | None, rule: Literal["<=", ">="], target: float | None, **baselines: float | None
) -> dict[str, Any]:
    """One measured figure.

    Parameters
    ----------
    value : float or None
        What was measured; None where it could not be measured here (the data or the display is absent).
    rule : {"<=", ">="}
        Which side of `target` is good.
    target : float or None
        The figure to reach; None where a figure is only reported.
    **baselines : float or None
        The same figure of the simpler ways it is compared with, by name.

    Returns
    -------
    dict
        ``{"value", "rule", "target", "baselines"}``, of plain JSON values.
    """
    if rule not in ("<=", ">="):
        raise ValueError(f"the rule of a figure is '<=' or '>=', got {rule!r}")
    return {
        "value": _plain(value),
        "rule": rule,
        "target": _plain(target),
        "baselines": {name: _plain(number) for name, number in baselines.items()},
    }


def reached(one: Mapping[str, Any]) -> bool | None:
    """True where a `figure` keeps its rule, False where it does not, None where there is nothing to compare."""
    value, target = one["value"], one["target"]
    if value is None or target is None:
        return None
    return bool(value <= target) if one["rule"] == "<=" else bool(value >= target)


def report(name: str, seed: int, figures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Report of the bench `name`: ``{"bench", "version", "seed", "machine", "figures"}``, of plain JSON values."""
    return {
        "bench": name,
        "version": __version__,
        "seed": int(seed),
        "machine": machine(),
        "figures": {key: dict(one) for key, one in figures.items()},
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on: Python, platform, number and name of the processors."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu_count": usable_cpus(),
        "cpu": _cpu_name(),
    }


def usable_cpus() -> int:
    """Number of processors this program may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # Linux leaves platform.processor() empty
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _plain(number: Any) -> float | int | None:
    """`number` as a JSON number: numpy scalars become Python's; what is not finite becomes None."""
    if number is None:
        return None
    if isinstance(number, (bool, int)):
        return int(number)
    value = float(number)
    return value if math.isfinite(value) else None
