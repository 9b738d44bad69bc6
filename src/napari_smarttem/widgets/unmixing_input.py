"""What can be unmixed: spectrum images behind layers, files, plain arrays, and the spectra of a run that may still grow."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Axis, BadInput, Frame
from ..unmixing.prepare import as_map
from .layers import METADATA_KEY


@dataclass(frozen=True)
class Spectra:
    """Something to unmix, in memory or lazy.

    Parameters
    ----------
    title : str
    frame : Frame
        ``(y, x, energy)``; a line scan, or the spectra of a run one after the other, is one row.
    path : Path, optional
        Where it comes from; None for a plain array of a layer.
    dataset : int
        Which of the file's datasets.
    places_nm : ndarray, optional
        ``(n, 2)``: y, x of each spectrum of a run; None where the frame is an image.
    source : Frame, optional
        The frame before its preparation, where it came out of one.
    """

    title: str
    frame: Frame
    path: Path | None = None
    dataset: int = 0
    places_nm: np.ndarray | None = None
    source: Frame | None = None

    @property
    def facts(self) -> str:
        """Size and kind in a few words."""
        rows, columns, channels = self.frame.shape
        lazy = ", read in pieces" if self.frame.is_lazy else ""
        size = f"{columns} spectra" if rows == 1 else f"{rows} × {columns} pixels"
        return f"{size}, {channels} channels, {self.frame.signal}{lazy}"


@dataclass(frozen=True)
class Choice:
    """An entry of the list of inputs, before it is read.

    Parameters
    ----------
    title : str
    kind : str
        ``"file"``, ``"array"`` or ``"run"``.
    path : Path, optional
        File or run folder.
    dataset : int or None
        None: the largest spectrum image of the file.
    layer : weak reference to a Layer, optional
        Of a plain array. Weak: a closed viewer is not kept alive by what could have been unmixed.
    """

    title: str
    kind: str
    path: Path | None = None
    dataset: int | None = None
    layer: Any = field(default=None, compare=False)

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two entries the same."""
        return self.kind, str(self.path), self.dataset, id(self.layer()) if self.layer is not None else 0


def choices(viewer: Any, files: list[Path], run_folder: Path | None) -> list[Choice]:
    """All inputs there are now: layers from the top down, then files opened in the dock, then the run."""
    found: dict[tuple[Any, ...], Choice] = {}
    for layer in reversed(viewer.layers):
        about = layer.metadata.get(METADATA_KEY, {})
        if about.get("kind") == "spectrum_image" and "path" in about:
            choice = Choice(str(about.get("title") or layer.name), "file", Path(about["path"]), int(about["dataset"]))
        elif (
            type(layer).__name__ == "Image"
            and layer.ndim == 3
            and not layer.rgb
            and about.get("kind") in {None, "stack"}
        ):
            choice = Choice(f"{layer.name} (layer)", "array", layer=weakref.ref(layer))
        else:
            continue
        found.setdefault(choice.key, choice)
    taken = {choice.path for choice in found.values()}
    for path in files:
        if path not in taken:
            choice = Choice(path.stem, "file", path)
            found.setdefault(choice.key, choice)
    if run_folder is not None:
        choice = Choice(f"Spectra of the run {run_folder.stem}", "run", run_folder)
        found.setdefault(choice.key, choice)
    return list(found.values())


def load(choice: Choice) -> Spectra:
    """Read an input. May take long; needs neither Qt nor a viewer.

    Raises
    ------
    BadInput
        The file cannot be read or holds nothing to unmix, in one sentence.
    """
    if choice.kind == "array":
        return _of_layer(choice)
    assert choice.path is not None
    if choice.kind == "run" or choice.path.suffix.lower() == ".smarttem":
        return measured_spectra(choice.path)
    from ..io import is_line_scan, is_spectrum_image, read

    frames = read(choice.path)
    if choice.dataset is not None and choice.dataset < len(frames):
        frame, dataset = frames[choice.dataset], choice.dataset
    else:
        maps = [(i, f) for i, f in enumerate(frames) if is_spectrum_image(f) or is_line_scan(f)]
        if not maps:
            kinds = ", ".join(sorted({f"{len(f.axes)}-dimensional {f.signal}" for f in frames}))
            raise BadInput(
                f"{choice.path.name} holds no spectrum image, only {kinds}; drop a map or a line scan of spectra."
            )
        dataset, frame = max(maps, key=lambda pair: int(np.prod(pair[1].shape)))
    title = str(frame.metadata.get("title") or choice.path.stem)
    return Spectra(title, as_map(frame), choice.path, dataset)


def _of_layer(choice: Choice) -> Spectra:
    """A plain three-dimensional array, its last axis taken for energy."""
    layer = choice.layer()
    if layer is None:
        raise BadInput(f"{choice.title} has been closed; choose another input.")
    labels = tuple(str(label) for label in layer.axis_labels)
    names = labels if labels[-1] in {"energy", "energy_loss"} else ("y", "x", "energy")
    units = [str(unit) for unit in layer.units]
    short = {"nanometer": "nm", "electron_volt": "eV"}
    axes = tuple(
        Axis(name=name, units=short.get(unit, "pixel"), scale=float(scale), offset=float(offset))
        for name, unit, scale, offset in zip(names, units, layer.scale, layer.translate, strict=True)
    )
    about = layer.metadata.get(METADATA_KEY, {})
    metadata = {"title": layer.name, "simulated": bool(about.get("simulated", False))}
    signal = "EELS" if names[-1] == "energy_loss" else str(about.get("signal", "spectra"))
    return Spectra(layer.name, Frame(data=layer.data, axes=axes, signal=signal, metadata=metadata))


def measured_spectra(folder: Path, known: dict[str, Frame] | None = None) -> Spectra:
    """What a run has measured so far: its spectra one after the other, and where each belongs on the overview.

    Parameters
    ----------
    folder : Path
    known : dict of str to Frame, optional
        Spectra by step that need not be read again; those that are read are put in.

    Raises
    ------
    BadInput
        Nothing was measured yet, or spectra of different energy axes.
    """
    from ..engine.history import measured_steps
    from ..engine.journal import Journal

    journal = Journal.open(folder, read_only=True)
    try:
        done = measured_steps(journal)
        known = {} if known is None else known
        for step in done:
            if step.step.step_id not in known:
                known[step.step.step_id] = journal.load(step.frames[0])
        frames = [known[step.step.step_id] for step in done]
        simulated = journal.start.instrument.simulated
    finally:
        journal.close()
    places = np.array([(d.step.y_nm - d.step.drift_nm[0], d.step.x_nm - d.step.drift_nm[1]) for d in done])
    return gathered(folder.stem, frames, places, path=folder, simulated=simulated)


def gathered(
    title: str, frames: list[Frame], places_nm: np.ndarray, *, path: Path | None = None, simulated: bool = False
) -> Spectra:
    """Single spectra ``(energy,)`` as one array; those on another energy axis than most are left out."""
    if not frames:
        raise BadInput(f"{title} holds no spectrum yet; wait for the first ones, or choose another input.")
    kinds = [(frame.axes, frame.shape) for frame in frames]
    usual = max(kinds, key=kinds.count)
    keep = [i for i, kind in enumerate(kinds) if kind == usual]
    first = frames[keep[0]]
    metadata = {"title": title, "simulated": simulated or bool(first.metadata.get("simulated", False))}
    frame = Frame(
        data=np.stack([np.asarray(frames[i].data, dtype=np.float32) for i in keep]),
        axes=(Axis(name="x", units="pixel"), first.axes[0]),
        signal=first.signal,
        metadata=metadata,
    )
    return Spectra(title, as_map(frame), path, places_nm=np.asarray(places_nm, dtype=float).reshape(-1, 2)[keep])
