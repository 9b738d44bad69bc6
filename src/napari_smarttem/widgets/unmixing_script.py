"""The unmixing a person sees, as the Python that does it again. Qt-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .unmixing_bench import Unmixed


def as_python(unmixed: Unmixed, provenance: Mapping[str, Any]) -> str:
    """A short program that makes the same result without a window.

    Parameters
    ----------
    unmixed : Unmixed
        Input, preparation and settings.
    provenance : mapping
        Of the result: its ``edits`` are repeated.

    Returns
    -------
    str
        Python source that ends with a newline.
    """
    spectra = unmixed.spectra
    steps = [f"frame = {step.function.__name__}(frame{_arguments(step.arguments)})" for step in unmixed.steps]
    names = sorted({step.function.__name__ for step in unmixed.steps})
    if names and spectra.frame.shape[0] == 1 and spectra.places_nm is None:
        steps.insert(0, "frame = as_map(frame)")
    lines = []
    if spectra.places_nm is not None and spectra.path is not None:
        lines += ["from pathlib import Path", ""]
        lines += ["from napari_smarttem.unmixing import save, unmix"]
        lines += ["from napari_smarttem.widgets.unmixing_input import measured_spectra"]
        load = [f"frame = measured_spectra(Path({str(spectra.path)!r})).frame"]
    elif spectra.path is not None:
        lines += ["from napari_smarttem.io import read", "from napari_smarttem.unmixing import save, unmix"]
        load = [f"frame = read({str(spectra.path)!r})[{spectra.dataset}]"]
    else:
        lines += ["import napari", "from napari_smarttem.unmixing import save, unmix"]
        load = [f"frame = napari.current_viewer().layers[{spectra.title!r}].data"]
    if names:
        for room, some in (
            ("widgets.unmixing_steps", [name for name in names if name == "deconvolve"]),  # the one that opens a file
            ("unmixing.prepare", [name for name in names if name != "deconvolve"]),
        ):
            lines += [f"from napari_smarttem.{room} import {', '.join(some)}"] if some else []
        if steps[0] == "frame = as_map(frame)":
            lines.append("from napari_smarttem.widgets.unmixing_input import as_map")
    settings = {key: value for key, value in unmixed.settings.items() if isinstance(value, (str, int, float, bool))}
    lines += ["", *load, *steps]
    if len(settings) < len(unmixed.settings):
        left_out = ", ".join(sorted(set(unmixed.settings) - set(settings)))
        lines.append(f"# {left_out}: an array that came from the window; give it here")
    lines.append(f"result = unmix(frame{_arguments(settings)})")
    lines += [line for edit in provenance.get("edits", ()) if (line := _edit(edit))]
    lines += ["print(result.assumption, *result.warnings, sep='\\n')", "save(result, 'unmixed.hspy')"]
    return "\n".join(lines) + "\n"


def _arguments(values: Mapping[str, Any]) -> str:
    return "".join(f", {key}={value!r}" for key, value in values.items())


def _edit(edit: Mapping[str, Any]) -> str:
    (what, value), *_ = edit.items()
    call = {
        "renamed": lambda v: f"renamed({v[0]}, {v[1]!r})",
        "merged": lambda v: f"merged({list(v)!r})",
        "dropped": lambda v: f"dropped({v})",
        "elements": lambda v: f"with_elements({v[0]}, {list(v[1])!r})",
    }.get(what)
    return f"result = result.{call(value)}" if call else ""
