"""Regions of an overview as an integer label image, which a person may edit, and what each of them is."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, JsonValue, model_validator

from ..schema import BadInput, Frame
from .overview import Overview, prepare
from .settings import Options

Method = Literal["otsu", "k-means"]


class RegionOptions(Options):
    """How regions are found."""

    method: Method = Field(
        default="otsu", description="Thresholds of brightness (Otsu), or k-means of brightness and texture."
    )
    classes: int = Field(default=2, ge=2, le=8, description="Classes of brightness or texture.")
    foreground: Literal["bright", "dark", "rare"] = Field(
        default="bright",
        description="Which classes make regions: all but the darkest, all but the brightest, all but the largest.",
    )
    smooth_px: float = Field(
        default=1.5,
        ge=0,
        le=50,
        description="Blur before the classes are told apart.",
        json_schema_extra={"units": "px"},
    )
    smallest_px: int = Field(
        default=20, ge=1, description="Smaller regions are dropped.", json_schema_extra={"units": "px²"}
    )


class Labels(Options):
    """A label image as JSON: zlib-compressed little-endian 32-bit integers in base64."""

    shape: tuple[int, int]
    data: str

    @model_validator(mode="after")
    def _readable(self) -> Labels:
        decode_labels(self)
        return self


@dataclass(frozen=True)
class Region:
    """A connected region, or one that a person painted."""

    label: int
    area_nm2: float
    centre_nm: tuple[float, float]
    brightness: float
    contrast: float
    touches_rim: bool

    @property
    def description(self) -> str:
        """In words."""
        diameter = 2.0 * float(np.sqrt(self.area_nm2 / np.pi))
        rim = ", cut by the rim" if self.touches_rim else ""
        return (
            f"region {self.label}: {self.area_nm2:.3g} nm² ({diameter:.3g} nm across), "
            f"{self.contrast:.2f}x the brightness around it{rim}"
        )


def encode_labels(labels: np.ndarray) -> dict[str, JsonValue]:
    """A ``(y, x)`` integer image as what goes into the settings of the regions chooser under ``"labels"``."""
    labels = np.asarray(labels)
    if labels.ndim != 2:
        raise BadInput(f"A label image has rows and columns, this one has shape {labels.shape}.")
    packed = zlib.compress(np.ascontiguousarray(labels, dtype="<i4").tobytes(), 6)
    return {"shape": [int(labels.shape[0]), int(labels.shape[1])], "data": base64.b64encode(packed).decode("ascii")}


def decode_labels(labels: Labels) -> np.ndarray:
    """The image of `encode_labels`, shape (y, x), int32."""
    size = 4 * labels.shape[0] * labels.shape[1]
    try:
        # One byte more than can be right: enough to see that it is wrong, never a bomb.
        raw = zlib.decompressobj().decompress(base64.b64decode(labels.data, validate=True), size + 1)
    except (ValueError, zlib.error) as error:
        raise ValueError(f"the label image cannot be read: {error}") from error
    if len(raw) != size:
        raise ValueError(f"the label image does not hold {labels.shape[0]} x {labels.shape[1]} labels")
    return np.frombuffer(raw, dtype="<i4").reshape(labels.shape).astype(np.int32)


def segment(overview: Frame | Overview, options: RegionOptions | None = None, *, seed: int = 0) -> np.ndarray:
    """Label image, shape (y, x), int32: 0 is background, 1, 2 ... are connected regions, the largest first.

    Parameters
    ----------
    overview : Frame or Overview
        ``(y, x)`` in nm.
    options : RegionOptions or None
        How; None: Otsu's threshold, bright regions.
    seed : int
        Of k-means.
    """
    options = options or RegionOptions()
    view = prepare(overview) if isinstance(overview, Frame) else overview
    if view.is_flat:
        return np.zeros(view.shape, dtype=np.int32)
    classes = _classes(view, options, seed)
    counts = np.bincount(classes.ravel(), minlength=options.classes)
    if options.foreground == "bright":
        foreground = classes > 0
    elif options.foreground == "dark":
        foreground = classes < classes.max()
    else:
        foreground = classes != int(counts.argmax())
    from scipy import ndimage

    labels = np.zeros(view.shape, dtype=np.int32)
    found: list[tuple[int, np.ndarray]] = []
    for value in np.unique(classes[foreground]):
        components, number = ndimage.label((classes == value) & foreground)
        sizes = np.bincount(components.ravel(), minlength=number + 1)
        for component in range(1, number + 1):
            if sizes[component] >= options.smallest_px:
                found.append((int(sizes[component]), components == component))
    found.sort(key=lambda item: -item[0])
    for number, (_, mask) in enumerate(found, start=1):
        labels[mask] = number
    return labels


def _classes(view: Overview, options: RegionOptions, seed: int) -> np.ndarray:
    """Class of every pixel, numbered from dark to bright."""
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(view.image, options.smooth_px) if options.smooth_px else view.image
    if options.method == "otsu":
        from skimage.filters import threshold_multiotsu, threshold_otsu

        distinct = np.unique(smooth).size
        if distinct <= options.classes:
            return np.asarray(np.unique(smooth, return_inverse=True)[1].reshape(view.shape))
        if options.classes == 2:
            return np.asarray(smooth > threshold_otsu(smooth), dtype=int)
        try:
            thresholds = threshold_multiotsu(smooth, options.classes, nbins=128 if options.classes < 5 else 48)
        except ValueError as error:
            raise BadInput(
                f"The overview has too few grey levels for {options.classes} classes; ask for fewer."
            ) from error
        return np.asarray(np.digitize(smooth, thresholds))
    from sklearn.cluster import KMeans

    from .features import texture

    features, _ = texture(view, (max(options.smooth_px, 0.7), 2.0 * max(options.smooth_px, 0.7)))
    # Gradient and roughness reach over a rim: they may tell textures apart, but brightness draws the line.
    features = features * np.tile([1.0, 0.25, 0.25], features.shape[1] // 3)
    sample = features[np.random.default_rng(seed).permutation(len(features))[:20_000]]
    count = min(options.classes, len(np.unique(sample, axis=0)))
    labels = KMeans(count, n_init=4, random_state=seed).fit(sample).predict(features)
    level = [
        float(view.image.ravel()[labels == value].mean()) if (labels == value).any() else np.inf
        for value in range(count)
    ]
    return np.asarray(np.argsort(np.argsort(level))[labels].reshape(view.shape))


def describe(labels: np.ndarray, overview: Frame | Overview) -> tuple[Region, ...]:
    """What each region of a ``(y, x)`` label image is, in the order of the labels.

    Raises
    ------
    BadInput
        Where labels and overview do not have the same shape.
    """
    view = prepare(overview) if isinstance(overview, Frame) else overview
    labels = np.asarray(labels)
    if labels.shape != view.shape:
        raise BadInput(
            f"The labels have {labels.shape} pixels but the overview {view.shape}; they belong to another overview."
        )
    from scipy import ndimage

    outside = view.image[labels == 0]
    around = float(outside.mean()) if outside.size else float(view.image.mean())
    regions = []
    for index, box in enumerate(ndimage.find_objects(np.maximum(labels, 0)), start=1):
        if box is None:
            continue
        mask = labels[box] == index
        rows, columns = np.nonzero(mask)
        rows, columns = rows + box[0].start, columns + box[1].start
        centre = view.positions_nm(rows, columns).mean(axis=0)
        level = float(view.image[rows, columns].mean())
        rim = bool(
            rows.min() == 0
            or columns.min() == 0
            or rows.max() == view.shape[0] - 1
            or columns.max() == view.shape[1] - 1
        )
        regions.append(
            Region(
                label=index,
                area_nm2=len(rows) * abs(view.pixel_nm[0] * view.pixel_nm[1]),
                centre_nm=(float(centre[0]), float(centre[1])),
                brightness=level,
                contrast=level / around if around > 0 else 1.0,
                touches_rim=rim,
            )
        )
    return tuple(regions)
