"""What a file says about how it was measured, as JSON values in our words and units."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from .calibration import number

_log = logging.getLogger(__name__)

MAX_VALUES = 4000
"""Most values kept of a file's own metadata: a few hundred kB, so that a journal line stays a line."""

MAX_TEXT = 1000
MAX_LIST = 64


def json_safe(value: Any, *, max_values: int = MAX_VALUES) -> Any:
    """`value` as JSON: arrays become lists (long ones a description), NaN becomes None, other objects their text.

    At most `max_values` values are kept; a mapping that was cut short holds ``"truncated": True``.
    """
    left = [max_values]

    def convert(item: Any, depth: int) -> Any:
        left[0] -= 1
        if item is None or isinstance(item, bool):
            return item
        if isinstance(item, str):
            return item if len(item) <= MAX_TEXT else item[:MAX_TEXT] + "…"
        if isinstance(item, np.generic):
            return convert(item.item(), depth)
        if isinstance(item, int):
            return item
        if isinstance(item, float):
            return item if math.isfinite(item) else None
        if isinstance(item, bytes):
            return f"{len(item)} bytes"
        if depth > 24:
            return "…"
        if isinstance(item, Mapping):
            result: dict[str, Any] = {}
            for key, child in item.items():
                if left[0] <= 0:
                    result["truncated"] = True
                    break
                result[str(key)] = convert(child, depth + 1)
            return result
        if hasattr(item, "shape") and hasattr(item, "dtype"):
            if not isinstance(item, np.ndarray) or item.size > MAX_LIST:
                return f"array of shape {tuple(item.shape)}, {item.dtype}"
            return convert(item.tolist(), depth)
        if isinstance(item, (list, tuple, set, frozenset)):
            members = list(item)
            if len(members) > MAX_LIST:
                return f"list of {len(members)}"
            return [convert(child, depth + 1) for child in members]
        text = str(item)
        return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"

    return convert(value, 0)


def _slug(key: str) -> str:
    return re.sub(r"\W+", "_", key).strip("_")


def _slugged(tree: Any) -> Any:
    return {_slug(str(key)): _slugged(child) for key, child in tree.items()} if isinstance(tree, Mapping) else tree


def look_up(tree: Any, path: str) -> Any:
    """The value at a dotted `path`, None where there is none."""
    for part in path.split("."):
        if not isinstance(tree, Mapping) or part not in tree:
            return None
        tree = tree[part]
    return tree


def apply_mapping(metadata: dict[str, Any], original: Any, mapping: Mapping[str, Any]) -> None:
    """Fill `metadata` with what a reader's `mapping` finds in the file's own tags (as HyperSpy does after reading).

    Tags are compared with punctuation as underscores, because the mappings of RosettaSciIO spell them both ways.
    """
    tags = _slugged(original)
    for source, target in mapping.items():
        value = look_up(tags, ".".join(_slug(part) for part in source.split(".")))
        if value is None:
            continue
        path, function = target
        if function is not None:
            try:
                value = function(value)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                _log.debug("tag %s could not be interpreted: %s", source, error)
                continue
        if value is None or look_up(metadata, path) is not None:
            continue
        node = metadata
        *parents, leaf = path.split(".")
        for parent in parents:
            child = node.get(parent)
            if not isinstance(child, dict):
                child = node[parent] = {}
            node = child
        node[leaf] = value


def _first(tree: Mapping[str, Any], *paths: str) -> float | None:
    for path in paths:
        value = number(look_up(tree, path))
        if value is not None and value > 0:
            return value
    return None


def summarise(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The few facts others need, in our units; a fact the file does not state is absent.

    Returns
    -------
    dict
        Any of ``high_tension_v``, ``beam_current_pa``, ``exposure_s`` (per spectrum or image),
        ``convergence_mrad``, ``collection_mrad``, ``live_time_s`` (of the whole map), ``energy_resolution_mn_ka_ev``,
        ``microscope``, ``date``, ``time``, ``elements``, ``xray_lines``, ``simulated``.
    """
    instrument = "Acquisition_instrument"
    column = f"{instrument}.SEM" if look_up(metadata, f"{instrument}.TEM") is None else f"{instrument}.TEM"
    detector = f"{column}.Detector"
    # HyperSpy keeps keV and nA.
    numbers: dict[str, tuple[float | None, float]] = {
        "high_tension_v": (_first(metadata, f"{column}.beam_energy"), 1e3),
        "beam_current_pa": (_first(metadata, f"{column}.beam_current"), 1e3),
        "exposure_s": (
            _first(
                metadata,
                f"{detector}.EELS.exposure",
                f"{detector}.EELS.dwell_time",
                f"{column}.dwell_time",
                f"{detector}.EDS.dwell_time",
                f"{detector}.Camera.exposure",
                f"{instrument}.Detector.integration_time",
            ),
            1.0,
        ),
        "convergence_mrad": (_first(metadata, f"{column}.convergence_angle"), 1.0),
        "collection_mrad": (_first(metadata, f"{detector}.EELS.collection_angle"), 1.0),
        "live_time_s": (_first(metadata, f"{detector}.EDS.live_time"), 1.0),
        "energy_resolution_mn_ka_ev": (_first(metadata, f"{detector}.EDS.energy_resolution_MnKa"), 1.0),
    }
    result: dict[str, Any] = {name: value * factor for name, (value, factor) in numbers.items() if value is not None}
    texts = {
        "microscope": f"{column}.microscope",
        "date": "General.date",
        "time": "General.time",
        "elements": "Sample.elements",
        "xray_lines": "Sample.xray_lines",
    }
    for name, path in texts.items():
        value = look_up(metadata, path)
        if value is not None and np.size(value):
            result[name] = json_safe(value)
    if look_up(metadata, "napari_smarttem.simulated"):
        result["simulated"] = True
    return result
