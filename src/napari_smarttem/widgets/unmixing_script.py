"""The unmixing a person sees, as the Python that does it again. Qt-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .unmixing_bench import Unmixed
from .unmixing_steps import Step

IMPORTS = {
    "as_map": "napari_smarttem.unmixing.prepare",
    "put_in_order": "napari_smarttem.unmixing.live",
    "painted": "napari_smarttem.unmixing.prepare_paint",
    "read": "napari_smarttem.io",
    "read_library": "napari_smarttem.widgets.unmixing_library",
    "on_axis": "napari_smarttem.widgets.unmixing_library",
    "measured_spectra": "napari_smarttem.widgets.unmixing_input",
    "unmix": "napari_smarttem.unmixing",
    "save": "napari_smarttem.unmixing",
    "Axis": "napari_smarttem.schema",
    "Frame": "napari_smarttem.schema",
    "Path": "pathlib",
}


class Program:
    """Lines of a program, and what they import."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._imports: dict[str, set[str]] = {}

    def use(self, name: str, room: str = "") -> str:
        """Import a name, and give it back."""
        self._imports.setdefault(room or IMPORTS[name], set()).add(name)
        return name

    def __str__(self) -> str:
        imports = [f"from {room} import {', '.join(sorted(names))}" for room, names in sorted(self._imports.items())]
        return "\n".join([*imports, "", *self.lines]) + "\n"


def as_python(unmixed: Unmixed, provenance: Mapping[str, Any]) -> str:
    """A program that makes the same result without a window; paint and known spectra are in it, or are made by it.

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
    program = Program()
    _unmix(program, unmixed, provenance)
    program.use("save")
    program.lines += ["print(result.assumption, *result.warnings, sep='\\n')", "save(result, 'unmixed.hspy')"]
    return str(program)


def _unmix(program: Program, unmixed: Unmixed, provenance: Mapping[str, Any]) -> None:
    """The lines that lead to ``frame`` and ``result``."""
    known, lines = unmixed.known, program.lines
    if known.earlier is not None:
        lines.append("# the components that are fitted")
        _unmix(program, *known.earlier)
        lines += ["known = result", "", "# the fit"]
    _load(program, unmixed)
    for step in unmixed.steps:
        _step(program, step)
    settings = {key: value for key, value in unmixed.settings.items() if isinstance(value, (str, int, float, bool))}
    more = _known(program, unmixed)
    lines.append(f"result = {program.use('unmix')}(frame{_arguments(settings)}{more})")
    lines += [line for edit in provenance.get("edits", ()) if (line := _edit(program, edit))]


def _load(program: Program, unmixed: Unmixed) -> None:
    spectra = unmixed.spectra
    if spectra.places_nm is not None and spectra.path is not None:
        call = f"{program.use('measured_spectra')}({program.use('Path')}({str(spectra.path)!r}))"
        program.lines.append(f"frame = {call}.frame")
    elif spectra.path is not None:
        read = f"{program.use('read')}({str(spectra.path)!r})[{spectra.dataset}]"
        line_scan = spectra.frame.shape[0] == 1
        program.lines.append(f"frame = {program.use('as_map')}({read})" if line_scan else f"frame = {read}")
    else:  # an array of a layer is nowhere but in the window: there the lines are run, in napari's console
        frame = spectra.source or spectra.frame
        program.use("Frame")
        program.use("Axis")
        axes = ", ".join(f"Axis({_fields(axis)})" for axis in frame.axes)
        program.use("current_viewer", "napari")
        program.lines += [
            f"layer = current_viewer().layers[{spectra.title!r}]  # in napari's console",
            f"frame = Frame(data=layer.data, axes=({axes}), signal={frame.signal!r})",
        ]


def _fields(axis: Any) -> str:
    return f"name={axis.name!r}, units={axis.units!r}, scale={axis.scale!r}, offset={axis.offset!r}"


def _step(program: Program, step: Step) -> None:
    room = "napari_smarttem.unmixing.prepare"
    name = program.use(step.function.__name__, room)
    if step.name == "deconvolve":
        load = f"{program.use('read')}({step.arguments['low_loss']!r})"
        program.lines += [
            f"low_losses = [one for one in {load} if one.axes[-1].units == 'eV']",
            f"low_loss = {program.use('as_map')}(max(low_losses, key=lambda one: one.data.size))",
            f"frame = {name}(frame, low_loss{', mean=True' if step.arguments.get('mean') else ''})",
        ]
    else:
        program.lines.append(f"frame = {name}(frame{_arguments(step.arguments)})")


def _known(program: Program, unmixed: Unmixed) -> str:
    """Lines that make labels or a library, and the arguments that hand them over."""
    known, settings = unmixed.known, unmixed.settings
    if "labels" in settings:
        program.lines.append(f"paint = {[list(run) for run in known.paint]!r}  # label, row, first column, last + 1")
        return f", labels={program.use('painted')}(paint, frame.shape)"
    if "library" not in settings:
        return ""
    if known.paint:
        name = program.use("sum_painted", "napari_smarttem.unmixing.prepare_paint")
        program.lines.append(f"paint = {[list(run) for run in known.paint]!r}  # label, row, first column, last + 1")
        return f", library={name}(frame, paint=paint, mean=True).data[0]"
    if known.file is not None:
        program.lines.append(f"library = {program.use('read_library')}({str(known.file)!r})")
    else:
        program.lines.append(
            "library = [(n, known.energy_ev, s) for n, s in zip(known.names, known.endmembers, strict=True)]"
        )
    return f", library={program.use('on_axis')}(library, frame.axes[-1], frame.shape[-1])"


def _arguments(values: Mapping[str, Any]) -> str:
    return "".join(f", {key}={value!r}" for key, value in values.items())


def _edit(program: Program, edit: Mapping[str, Any]) -> str:
    (what, value), *_ = edit.items()
    if what == "reordered":
        return f"result = {program.use('put_in_order')}(result, {list(value[0])!r}, {list(value[1])!r})"
    call = {
        "renamed": lambda v: f"renamed({v[0]}, {v[1]!r})",
        "merged": lambda v: f"merged({list(v)!r})",
        "dropped": lambda v: f"dropped({v})",
        "elements": lambda v: f"with_elements({v[0]}, {list(v[1])!r})",
    }.get(what)
    return f"result = result.{call(value)}" if call else ""
