"""Plans by name: found through the entry points ``napari_smarttem.plans``, so that a task needs to know nothing of the engine."""

from __future__ import annotations

from importlib.metadata import entry_points

from ..schema import BadInput, Plan, PlanContext, PlanSpec
from .keep_good import kept_good

GROUP = "napari_smarttem.plans"


def build_plan(spec: PlanSpec, context: PlanContext) -> Plan:
    """The generator `spec` describes, for an instrument of which `context` is known.

    Raises
    ------
    BadInput
        No plan of that kind is installed, or its settings (or those of the check in `keep_good`) are not valid.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    if spec.kind not in found:
        raise BadInput(f"There is no plan called {spec.kind!r}; there are {', '.join(sorted(found)) or 'none'}.")
    builder = found[spec.kind].load()
    plan: Plan = builder(dict(spec.settings), context)
    return plan if spec.keep_good is None else kept_good(plan, spec.keep_good, context, build_plan)
