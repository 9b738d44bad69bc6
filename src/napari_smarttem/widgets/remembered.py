"""Settings of the docks that outlive the program: one JSON file in the person's own configuration folder."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

_LOGGER = logging.getLogger(__name__)
VARIABLE = "SMARTTEM_SETTINGS"


def settings_file() -> Path:
    """Where the settings are kept; the environment variable ``SMARTTEM_SETTINGS`` names another file."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    from qtpy.QtCore import QStandardPaths

    folder = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.GenericConfigLocation)
    return Path(folder) / "napari-smarttem" / "settings.json"


def _load(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _LOGGER.warning("The remembered settings in %s cannot be read (%s); starting with the defaults.", path, error)
        return {}
    return values if isinstance(values, dict) else {}


def remembered(key: str, default: Any = None) -> Any:
    """The JSON value kept under `key`, or `default`."""
    return _load(settings_file()).get(key, default)


def remember(key: str, value: Any) -> None:
    """Keep a JSON value for the next start. A folder that cannot be written costs the setting, never the work."""
    path = settings_file()
    values = _load(path)
    if key in values and values[key] == value:
        return
    values[key] = value
    beside = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(values, indent=1, sort_keys=True), encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        _LOGGER.warning("The settings cannot be kept in %s: %s", path, error)
