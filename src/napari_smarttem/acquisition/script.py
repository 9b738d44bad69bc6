"""The run a person sees, as the Python that does it again."""

from __future__ import annotations

import pprint
from collections.abc import Mapping
from typing import Any

from .settings import AcquisitionSettings, parse


def as_python(
    settings: AcquisitionSettings | Mapping[str, Any],
    backend: str = "simulator",
    backend_settings: Mapping[str, Any] | None = None,
    *,
    policy: str = "approve_all",
    folder: str | None = None,
) -> str:
    """A short program that makes the same run without a window.

    Parameters
    ----------
    settings : AcquisitionSettings or mapping
        Only what differs from the defaults is written out.
    backend : str
        Name of the instrument's backend.
    backend_settings : mapping or None
        What it is connected with, such as ``InstrumentInfo.settings``.
    policy : str
        Who approves; nobody can be asked without a window.
    folder : str or None
        Run folder; None: one with date and time in its name.

    Returns
    -------
    str
        Python source that ends with a newline.

    Raises
    ------
    BadInput
        Where the settings cannot be used.
    """
    checked = parse(settings)
    shown = checked.model_dump(mode="json", exclude_defaults=True, exclude={"propose_first", "rescan"})
    shown["chooser"] = checked.chooser
    defaults = parse({"chooser": checked.chooser}).chooser_settings
    options = {key: value for key, value in checked.chooser_settings.items() if value != defaults.get(key)}
    shown.pop("chooser_settings", None)
    if options:
        shown["chooser_settings"] = options
    where = f", {folder!r}" if folder is not None else ""
    arguments = [repr(backend), *_keywords(backend_settings or {})]
    lines = [
        "from napari_smarttem.engine.session import Session",
        "from napari_smarttem.schema import PlanSpec",
        "",
        f"settings = {pprint.pformat(shown, sort_dicts=False, width=100)}",
        "",
        "with Session() as session:",
        f"    session.connect({', '.join(arguments)}).result()",
        f'    run = session.start(PlanSpec(kind="acquisition", settings=settings){where}, policy={policy!r})',
        "    session.wait()",
        "    print(session.status.outcome, session.status.reason, run)",
    ]
    return "\n".join(lines) + "\n"


def _keywords(settings: Mapping[str, Any]) -> list[str]:
    """Keyword arguments as source; a name Python would not take as one goes into a mapping."""
    plain = {key: value for key, value in settings.items() if value is not None}
    if all(key.isidentifier() for key in plain):
        return [f"{key}={value!r}" for key, value in plain.items()]
    return [f"**{plain!r}"]
