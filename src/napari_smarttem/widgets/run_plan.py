"""What a run folder was begun with."""

from __future__ import annotations

import json
from pathlib import Path

from ..schema import PlanSpec


def plan_of(folder: Path) -> PlanSpec | None:
    """What a run folder was begun with, from the first line of its record; None where it cannot be read."""
    try:
        with (folder / "run.jsonl").open(encoding="utf-8") as lines:
            return PlanSpec.model_validate(json.loads(lines.readline())["doc"]["plan"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
