"""Frames and targets as napari layers: the only drawing code of the package.

Everything on the specimen plane is drawn in nm: ``scale`` is the pixel, ``translate`` the centre of pixel 0, and
``units`` are always said, because one layer without units switches off the units of all others. Layers are held by
reference and never looked up by name, because napari renames duplicates. A `ViewerModel` will do: no window is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..schema import BadInput, Frame, TargetState

if TYPE_CHECKING:
    from napari.layers import Image, Layer

    from ..schema import JudgedTarget

METADATA_KEY = "smarttem"
SIMULATED_MARK = "SIMULATED"
_KNOWN_UNITS = frozenset({"nm", "mrad", "1/nm", "eV", "s", "pixel"})
_CONTRAST_SAMPLES = 65536


class StateStyle(NamedTuple):
    """How a state looks: colour (after Okabe and Ito's colour-blind-safe set), napari's symbol, a glyph for tables."""

    color: str
    symbol: str
    glyph: str


STATE_STYLES: Mapping[TargetState, StateStyle] = {
    TargetState.PROPOSED: StateStyle("#F0E442", "disc", "●"),
    TargetState.APPROVED: StateStyle("#00B583", "diamond", "◆"),
    TargetState.REJECTED: StateStyle("#CC79A7", "x", "✕"),
    TargetState.ACQUIRING: StateStyle("#FFFFFF", "star", "★"),
    TargetState.DONE: StateStyle("#56B4E9", "square", "■"),
    TargetState.FAILED: StateStyle("#D55E00", "triangle_down", "▼"),
}
_STATES = tuple(STATE_STYLES)
_CODES: dict[str, int] = {state: code for code, state in enumerate(_STATES)}


def _rgba(color: str) -> tuple[float, float, float, float]:
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue, 1.0


_COLORS = np.array([_rgba(style.color) for style in STATE_STYLES.values()], dtype=np.float32)
_SYMBOLS = np.array([style.symbol for style in STATE_STYLES.values()], dtype=object)


# --------------------------------------------------------------------------------------------------------- images


def unwrapped(thing: Any) -> Any:
    """The viewer or layer behind napari's public-only proxy, or `thing` itself where it is not wrapped."""
    return getattr(thing, "__wrapped__", thing)


def is_simulated(frame: Frame) -> bool:
    """True where the frame's metadata say that a simulation made it."""
    return bool(frame.metadata.get("simulated", False))


def layer_name(name: str, *, simulated: bool) -> str:
    """`name`, with the mark that no simulated layer may lack."""
    return f"{name} ({SIMULATED_MARK})" if simulated and SIMULATED_MARK not in name else name


def contrast_limits(data: np.ndarray, percentiles: tuple[float, float] = (0.1, 99.8)) -> tuple[float, float]:
    """Limits that show `data` well: percentiles of its finite values, from a regular sample of a large array.

    Returns
    -------
    low, high : float
        ``low < high`` always; ``(0, 1)`` where nothing is finite.
    """
    stride = max(1, int(np.sqrt(max(1, data.size) / _CONTRAST_SAMPLES)))
    sample = np.asarray(data[..., ::stride, ::stride] if data.ndim >= 2 else data, dtype=float)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(sample, percentiles))
    if not high > low:
        low, high = float(sample.min()), float(sample.max())
    if not high > low:
        high = low + max(1.0, abs(low) * 1e-6)
    return low, high


def _drawable(data: np.ndarray) -> np.ndarray:
    if data.dtype.kind == "c":
        return np.abs(data)
    return data.astype(np.uint8) if data.dtype.kind == "b" else data


def image_geometry(frame: Frame) -> dict[str, Any]:
    """``scale``, ``translate``, ``units`` and ``axis_labels`` of a two-dimensional frame.

    Raises
    ------
    BadInput
        Where the frame is not two-dimensional.
    """
    if len(frame.axes) != 2:
        raise BadInput(
            f"{frame.signal} has {len(frame.axes)} dimensions ({', '.join(a.name for a in frame.axes)}) and cannot be "
            "drawn as one image; sum it over energy, or choose one of its images."
        )
    return {
        "scale": tuple(a.scale for a in frame.axes),
        "translate": tuple(a.offset for a in frame.axes),
        "units": tuple(a.units if a.units in _KNOWN_UNITS else "pixel" for a in frame.axes),
        "axis_labels": tuple(a.name for a in frame.axes),
    }


def image_layer_data(
    frame: Frame, *, name: str | None = None, metadata: Mapping[str, Any] | None = None, **kwargs: Any
) -> tuple[np.ndarray, dict[str, Any], str]:
    """A two-dimensional frame as napari's ``(data, keyword arguments, "image")``.

    Parameters
    ----------
    frame : Frame
        ``(y, x)``. Complex values are shown by their magnitude.
    name : str, optional
        Instead of the frame's signal; the SIMULATED mark is added where it belongs.
    metadata : mapping, optional
        Further entries under ``layer.metadata["smarttem"]``, such as ``path``, ``kind`` and ``dataset``.
    **kwargs
        Further keyword arguments of napari's `Image`.
    """
    data = _drawable(np.asarray(frame.data))
    simulated = is_simulated(frame)
    own = {"signal": frame.signal, "quantity": frame.quantity, "simulated": simulated} | dict(metadata or {})
    arguments: dict[str, Any] = image_geometry(frame) | {
        "name": layer_name(name or frame.signal, simulated=simulated),
        "contrast_limits": contrast_limits(data),
        "metadata": {METADATA_KEY: own},
        "colormap": "gray",
    }
    return data, arguments | kwargs, "image"


def show_image(
    viewer: Any,
    frame: Frame,
    layer: Image | None = None,
    *,
    name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    index: int | None = None,
    **kwargs: Any,
) -> Image:
    """Draw a frame: into `layer` where it is still in the viewer, otherwise as a new layer.

    Parameters
    ----------
    viewer : napari.Viewer or ViewerModel
    frame : Frame
        ``(y, x)``
    layer : Image, optional
        What an earlier call returned. A layer that the person has deleted is made again.
    index : int, optional
        Place in the layer list for a new layer; 0 is the bottom.

    Returns
    -------
    Image
        Hold on to it for the next call.
    """
    viewer = unwrapped(viewer)
    layer = unwrapped(layer) if layer is not None else None
    data, arguments, _ = image_layer_data(frame, name=name, metadata=metadata, **kwargs)
    if layer is None or layer not in viewer.layers:
        layer = viewer.add_image(data, **arguments)
        layer.contrast_limits_range = _slider_range(data, *arguments["contrast_limits"])
        layer.metadata[METADATA_KEY]["auto_contrast"] = tuple(float(v) for v in layer.contrast_limits)
        if index is not None:
            viewer.layers.move(viewer.layers.index(layer), index)
        show_scale_bar(viewer)
        return layer
    update_image(layer, data, arguments)
    return layer


def update_image(layer: Image, data: np.ndarray, arguments: Mapping[str, Any]) -> None:
    """Replace values and place of an image layer; contrast follows the data unless the person has set it by hand."""
    remembered = layer.metadata.get(METADATA_KEY, {}).get("auto_contrast")
    by_hand = remembered is not None and not np.allclose(layer.contrast_limits, remembered, rtol=1e-4, atol=1e-12)
    same_kind = layer.data.dtype == data.dtype and layer.data.shape == data.shape
    limits = arguments["contrast_limits"]
    keeps = by_hand and same_kind and layer.contrast_limits[0] < limits[1] and layer.contrast_limits[1] > limits[0]
    layer.data = data
    for key in ("scale", "translate"):
        if not np.array_equal(getattr(layer, key), arguments[key]):
            setattr(layer, key, arguments[key])
    if tuple(str(u) for u in layer.units) != tuple(str(u) for u in arguments["units"]):
        layer.units = arguments["units"]
    if layer.name != arguments["name"] and not layer.name.startswith(f"{arguments['name']} ["):
        layer.name = arguments["name"]
    layer.metadata = {
        **layer.metadata,
        METADATA_KEY: {**arguments["metadata"][METADATA_KEY], "auto_contrast": remembered},
    }
    if not keeps:
        low, high = (float(v) for v in limits)
        present = layer.contrast_limits_range
        layer.contrast_limits_range = (min(low, float(present[0])), max(high, float(present[1])))
        layer.contrast_limits = (low, high)
        layer.contrast_limits_range = _slider_range(data, low, high)
        layer.metadata[METADATA_KEY]["auto_contrast"] = tuple(float(v) for v in layer.contrast_limits)


def _slider_range(data: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """How far the contrast slider goes: all finite values, so that nothing bright is out of reach."""
    finite = data[np.isfinite(data)] if data.dtype.kind == "f" else data
    if finite.size == 0:
        return low, high
    return min(low, float(finite.min())), max(high, float(finite.max()))


def show_scale_bar(viewer: Any) -> None:
    """Switch on the scale bar, which napari leaves off."""
    viewer = unwrapped(viewer)
    bar = viewer.canvas.overlays.scale_bar
    if not bar.visible:
        bar.visible = True


def live_layer(viewer: Any, layer: Layer | None) -> Layer | None:
    """`layer` where it is still one of the viewer's, otherwise None (the person has deleted it)."""
    layer = unwrapped(layer) if layer is not None else None
    return layer if layer is not None and layer in unwrapped(viewer).layers else None


# -------------------------------------------------------------------------------------------------------- targets


def state_codes(states: Iterable[TargetState | str]) -> np.ndarray:
    """States as small integers, shape ``(n,)``: the row in `state_colors` and `state_symbols`."""
    return np.array([_CODES[state] for state in states], dtype=np.intp)


def state_colors(codes: np.ndarray) -> np.ndarray:
    """RGBA of each state, shape ``(n, 4)``, float32."""
    return _COLORS[codes]


def state_symbols(codes: np.ndarray) -> np.ndarray:
    """Symbol (napari's names) of each state, shape ``(n,)``."""
    return _SYMBOLS[codes]


def marker_size_nm(places_nm: np.ndarray, field_nm: float | None = None) -> float:
    """A marker size that neither hides the image nor vanishes: a 45th of the field, never wider than the usual spacing.

    Parameters
    ----------
    places_nm : array, (n, 2)
    field_nm : float, optional
        Longer side of the field of view; the extent of the points where it is not given.
    """
    places = np.asarray(places_nm, dtype=float).reshape(-1, 2)
    extent = field_nm or (float(np.ptp(places, axis=0).max()) if len(places) > 1 else 0.0) or 100.0
    spacing = extent / np.sqrt(max(1, len(places)))
    return float(max(extent / 400, min(extent / 45, 0.8 * spacing)))


def target_features(items: Sequence[JudgedTarget]) -> dict[str, np.ndarray]:
    """Columns of the targets' features table: ``target_id``, ``state``, ``score``, ``label``, ``reason``."""
    return {
        "target_id": np.array([i.target.target_id for i in items], dtype=object),
        "state": np.array([str(i.state) for i in items], dtype=object),
        "score": np.array([i.target.score for i in items], dtype=float),
        "label": np.array([i.target.label for i in items], dtype=object),
        "reason": np.array([i.target.reason for i in items], dtype=object),
    }


def target_places_nm(items: Sequence[JudgedTarget]) -> np.ndarray:
    """Places of the targets, shape ``(n, 2)``: y, x in nm."""
    return np.array([(i.target.y_nm, i.target.x_nm) for i in items], dtype=float).reshape(-1, 2)


def target_layer_data(
    items: Sequence[JudgedTarget],
    *,
    name: str = "Targets",
    simulated: bool = False,
    field_nm: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> tuple[np.ndarray, dict[str, Any], str]:
    """Judged targets as napari's ``(data, keyword arguments, "points")``: in nm, coloured and shaped by state.

    Parameters
    ----------
    items : sequence of JudgedTarget
        May be empty.
    field_nm : float, optional
        Longer side of the field of view, for the size of the markers.
    """
    places = target_places_nm(items)
    codes = state_codes(i.state for i in items)
    arguments: dict[str, Any] = {
        "name": layer_name(name, simulated=simulated),
        "ndim": 2,
        "units": ("nm", "nm"),
        "axis_labels": ("y", "x"),
        "size": marker_size_nm(places, field_nm),
        "canvas_size_limits": (7, 26),
        "border_color": "#101010",
        "border_width": 0.12,
        "features": target_features(items),
        "metadata": {METADATA_KEY: {"kind": "targets", "simulated": simulated} | dict(metadata or {})},
    }
    if len(items):
        arguments |= {"face_color": state_colors(codes), "symbol": state_symbols(codes)}
    else:
        arguments |= {"face_color": STATE_STYLES[TargetState.PROPOSED].color, "symbol": "disc"}
    return places, arguments | kwargs, "points"


def describe_target(item: JudgedTarget) -> str:
    """One line for the status bar: state, class, score, reason and place."""
    target = item.target
    parts = [
        f"{STATE_STYLES[item.state].glyph} {target.target_id} {item.state}",
        target.label,
        f"score {target.score:.2f}",
        target.reason,
        f"(y {target.y_nm:.1f}, x {target.x_nm:.1f} nm)",
    ]
    return " · ".join(part for part in parts if part)
