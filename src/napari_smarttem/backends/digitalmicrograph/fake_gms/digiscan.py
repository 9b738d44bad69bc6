"""DigiScan of the fake GMS: hardware steps, scan control that gets lost, images that fill while the beam runs."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .images import Image, Images
from .world import World

SIDE = 32768.0
"""Hardware steps across the field at zoom 1."""


@dataclass(frozen=True)
class Geometry:
    """How pixels of an image become hardware positions; what DigiScan writes into the tags of every image.

    ``ds = offset + (pixel - centre) @ steps``, with whole steps. The values follow the tags of real files.
    """

    width: int
    height: int
    zoom: float
    rotation: float
    rotation_offset: float
    flip: bool
    spacing: float
    steps: tuple[tuple[float, float], tuple[float, float]]
    """((dsx per x, dsx per y), (dsy per x, dsy per y))."""
    offset: tuple[float, float] = (0.0, 0.0)
    centre: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def whole_field(
        cls,
        width: int,
        height: int,
        zoom: float,
        rotation: float = 0.0,
        rotation_offset: float = 180.0,
        flip: bool = False,
    ) -> Geometry:
        """A frame over the whole field: the longer side fills it, pixels are square."""
        spacing = SIDE * zoom / max(width, height)
        turn = math.radians(rotation + rotation_offset)
        sign = -1.0 if flip else 1.0
        steps = (
            (sign * round(spacing * math.cos(turn)), -round(spacing * math.sin(turn))),
            (sign * round(spacing * math.sin(turn)), round(spacing * math.cos(turn))),
        )
        return cls(
            width, height, zoom, rotation, rotation_offset, flip, spacing, steps, centre=(width // 2, height // 2)
        )

    def part(self, width: int, height: int, top: float, left: float, bottom: float, right: float) -> Geometry:
        """A frame of `width` x `height` samples over a rectangle of this one."""
        across, down = (right - left) / width, (bottom - top) / height

        def whole(step: float) -> float:
            return float(round(step)) if abs(step) >= 0.5 else step

        steps = tuple((whole(x * across), whole(y * down)) for x, y in self.steps)
        return Geometry(
            width, height, self.zoom, self.rotation, self.rotation_offset, self.flip, self.spacing * max(across, down),
            steps, offset=self.to_ds(left, top),  # type: ignore[arg-type]
        )  # fmt: skip

    def to_ds(self, x: float, y: float) -> tuple[float, float]:
        """Hardware position of an image pixel, not rounded."""
        dx, dy = x - self.centre[0], y - self.centre[1]
        (xx, xy), (yx, yy) = self.steps
        return self.offset[0] + dx * xx + dy * xy, self.offset[1] + dx * yx + dy * yy

    def to_pixel(self, dsx: float, dsy: float) -> tuple[float, float]:
        """Image pixel of a hardware position."""
        (xx, xy), (yx, yy) = self.steps
        a, b = dsx - self.offset[0], dsy - self.offset[1]
        determinant = xx * yy - xy * yx
        return self.centre[0] + (a * yy - b * xy) / determinant, self.centre[1] + (b * xx - a * yx) / determinant

    @property
    def step(self) -> float:
        """Length of a step along x."""
        return math.hypot(self.steps[0][0], self.steps[1][0])

    def tags(self) -> dict[str, Any]:
        """As real files have them."""
        (xx, xy), (yx, yy) = self.steps
        return {
            "DigiScan:Image Width": float(self.width), "DigiScan:Image Height": float(self.height),
            "DigiScan:Zoom factor": self.zoom, "DigiScan:Horizontal Spacing": self.spacing,
            "DigiScan:Rotation": self.rotation, "DigiScan:Rotation Offset": self.rotation_offset,
            "DigiScan:Flip": float(self.flip),
            "DigiScan:Horizontal Pixel Step": xx, "DigiScan:Horizontal Perp Pixel Step": xy,
            "DigiScan:Vertical Pixel Step": yx, "DigiScan:Vertical Perp Pixel Step": yy,
            "DigiScan:Horizontal DS Offset": self.offset[0], "DigiScan:Vertical DS Offset": self.offset[1],
            "DigiScan:Horizontal Centre": self.centre[0], "DigiScan:Vertical Centre": self.centre[1],
        }  # fmt: skip


@dataclass
class _Parameters:
    width: int
    height: int
    rotation: float
    dwell_us: float
    signals: dict[int, Image] = field(default_factory=dict)


@dataclass
class _Scan:
    targets: list[tuple[Image, np.ndarray]]
    started_s: float
    duration_s: float
    had_control: bool
    by_hand: bool = False


class DigiScan:
    """The scan unit.

    Parameters
    ----------
    world : World
    images : Images
    zoom, rotation_offset, flip
        Site settings; a rotation offset of 180 degrees is what two of four real files have.
    """

    def __init__(
        self, world: World, images: Images, *, zoom: float = 0.7, rotation_offset: float = 180.0, flip: bool = False
    ) -> None:
        self.world, self.images = world, images
        self.zoom, self.rotation_offset, self.flip = zoom, rotation_offset, flip
        self.flyback_us, self.shortest_us, self.longest_us = 500.0, 0.5, 419430.0
        self.safe = (-SIDE * zoom / 2, -SIDE * zoom / 2)
        self.beam = self.safe
        self.control = False
        self.parameters: dict[int, _Parameters] = {}
        self.active: _Scan | None = None
        self.geometries: dict[int, Geometry] = {}
        self.outside_allowed = False
        self._ids = itertools.count(101)
        # the zoom-1 field, as the tag "Field of View" holds it: 512 pixels just fit the world's field
        self.field_um = world.field_nm * 1e-3 * SIDE / (512 * round(SIDE * zoom / 512))

    # -- parameters and acquisition

    def create(self, width: float, height: float, rotation: float, dwell_us: float) -> int:
        """A parameter set; it stays until it is deleted."""
        number = next(self._ids)
        dwell = min(max(dwell_us, self.shortest_us), self.longest_us)
        self.parameters[number] = _Parameters(int(width), int(height), rotation, dwell)
        return number

    def add_signal(self, number: float, signal: float, depth: float, selected: float, image_id: float) -> bool:
        """Put a signal into a parameter set, with the image that it fills."""
        parameters = self._of(number)
        if not 0 <= int(signal) < len(self.world.signals) or depth not in (1, 2, 4):
            return False
        if not selected:
            parameters.signals.pop(int(signal), None)
            return True
        kind = {1: np.uint8, 2: np.uint16, 4: np.uint32}[int(depth)]
        shape = (parameters.height, parameters.width)
        image = self.images.find(image_id) if image_id else self.images.add(np.zeros(shape, kind))
        if image.data.dtype != kind or image.data.shape != shape:
            raise RuntimeError("The image has the wrong type or size.")
        if not image_id:
            self.images.show(image)  # a window opens, and stays
        parameters.signals[int(signal)] = image
        return True

    def start(self, number: float, *, by_hand: bool = False) -> None:
        """Begin a frame; the images fill while it runs."""
        parameters = self._of(number)
        if self.is_active():
            raise RuntimeError("DigiScan is already acquiring.")
        geometry = Geometry.whole_field(
            parameters.width, parameters.height, self.zoom, parameters.rotation, self.rotation_offset, self.flip
        )
        self._begin(geometry, parameters.signals, parameters.dwell_us, by_hand)

    def start_part(self, ref: Image, target: Image, box: tuple[float, float, float, float], dwell_us: float) -> None:
        """A frame over a rectangle of `ref`, with the signal of `ref`, sampled as `target` has pixels."""
        if self.is_active():
            raise RuntimeError("DigiScan is already acquiring.")
        geometry = self.geometry_of(ref)
        height, width = target.data.shape
        top, left, bottom, right = box
        if min(top, left) < 0 or bottom > geometry.height or right > geometry.width or top >= bottom or left >= right:
            raise RuntimeError("The sub-region lies outside the image.")
        if target.data.dtype != ref.data.dtype:
            raise RuntimeError("The images have different types.")
        signal = int(ref.GetTagGroup().GetTagAsFloat("DigiScan:Signal Index")[1])
        dwell = min(max(dwell_us, self.shortest_us), self.longest_us)
        self._begin(geometry.part(width, height, top, left, bottom, right), {signal: target}, dwell, False)

    def stop(self) -> None:
        """Break the frame off."""
        if self.active is not None:
            self._fill()
            self._end()

    def is_active(self) -> bool:
        """Whether a frame is being recorded."""
        if self.active is not None and self.world.now_s() >= self.active.started_s + self.active.duration_s:
            self._fill()
            self._end()
        return self.active is not None

    def _of(self, number: float) -> _Parameters:
        if int(number) not in self.parameters:
            raise RuntimeError("Unknown DigiScan parameters.")
        return self.parameters[int(number)]

    def _begin(self, geometry: Geometry, signals: dict[int, Image], dwell_us: float, by_hand: bool) -> None:
        if not signals:
            raise RuntimeError("No signal is selected.")
        self.world.place(None)
        names = tuple(self.world.signals[index] for index in signals)
        y, x, tilted = self._samples(geometry)
        recorded = self.world.image(names, y, x, dwell_us * 1e-6, tilted)
        targets = []
        for name, (index, image) in zip(names, signals.items(), strict=True):
            limit = np.iinfo(image.data.dtype).max
            counts = np.clip(np.rint(recorded[name]), 0, limit).astype(image.data.dtype)
            image.write(np.zeros_like(counts))
            image.filling = self._fill
            image.GetTagGroup().tags.update(
                {
                    **geometry.tags(),
                    "DigiScan:Signal Index": float(index),
                    "DigiScan:Sample Time (us)": dwell_us,
                    "DigiScan:Flyback": self.flyback_us,
                    "Microscope Info:Field of View (µm)": self.field_um,
                    "Microscope Info:Voltage": 200000.0,
                    "Microscope Info:Imaging Mode": "STEM",
                }
            )
            scale = self.field_um * geometry.step / SIDE
            for dimension in (0, 1):
                image.SetDimensionCalibration(dimension, 0.0, scale, b"\xb5m", 0)
            self.geometries[image.GetID()] = geometry
            targets.append((image, counts))
        for number in [n for n in self.geometries if n not in self.images._alive]:
            del self.geometries[number]
        duration = geometry.height * (geometry.width * dwell_us + self.flyback_us) * 1e-6
        self.active = _Scan(targets, self.world.now_s(), duration, self.control, by_hand)

    def _samples(self, geometry: Geometry) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Places of the samples on the specimen: along the axes, and all of them where the scan is turned."""
        rows, columns = np.arange(geometry.height), np.arange(geometry.width)
        (xx, xy), (yx, yy) = geometry.steps
        if abs(self._specimen(xy, yy)[1]) < 1e-9 and abs(self._specimen(xx, yx)[0]) < 1e-9 and not self.flip:
            corner = self._specimen(*geometry.to_ds(0, 0))
            along_x, along_y = self._specimen(xx, yx)[1], self._specimen(xy, yy)[0]
            return corner[0] + along_y * rows, corner[1] + along_x * columns, None
        gy, gx = np.meshgrid(rows, columns, indexing="ij")
        dsx, dsy = geometry.to_ds(gx, gy)  # type: ignore[arg-type]
        tilted = np.array(self._specimen(dsx, dsy))
        reach = float(np.abs(tilted).max())
        pixel = self.field_um * 1e3 * geometry.step / SIDE
        upright = np.arange(-reach, reach + pixel, pixel)
        return upright, upright, tilted

    def _specimen(self, dsx: float, dsy: float) -> tuple[float, float]:
        """(y, x) in nm from the middle of the field: what the site's rotation offset (and flip) undo."""
        turn = math.radians(self.rotation_offset)
        nm = self.field_um * 1e3 / SIDE
        x = math.cos(turn) * dsx + math.sin(turn) * dsy
        y = -math.sin(turn) * dsx + math.cos(turn) * dsy
        return y * nm, (-x if self.flip else x) * nm

    def _fill(self) -> None:
        """Write the lines that have been scanned by now."""
        scan = self.active
        if scan is None:
            return
        share = (self.world.now_s() - scan.started_s) / max(scan.duration_s, 1e-12)
        for image, counts in scan.targets:
            lines = min(len(counts), int(len(counts) * share + 1e-9))
            if not image.closed:
                image.data[:lines] = counts[:lines]

    def _end(self) -> None:
        scan, self.active = self.active, None
        assert scan is not None
        for image, _ in scan.targets:
            image.filling = None
        # "the beam goes to the park position and scan control is restored to the state before"
        self.beam = self.safe
        self.control = scan.had_control
        self.world.place(None)

    # -- beam

    def set_control(self, control: float) -> None:
        """Take or release the beam."""
        self.control = bool(control)
        if not self.control:
            self.beam = self.safe
            self.world.place(None)

    def geometry_of(self, image: Image) -> Geometry:
        """Of an image that DigiScan recorded."""
        if image.GetID() not in self.geometries:
            raise RuntimeError("This is not a DigiScan image.")
        return self.geometries[image.GetID()]

    def position(self, ref: Image, x: float, y: float) -> None:
        """Move the beam to a pixel of `ref`; silently nothing where DigiScan does not control the beam."""
        geometry = self.geometry_of(ref)
        if not self.outside_allowed and not (0 <= x <= geometry.width and 0 <= y <= geometry.height):
            raise RuntimeError("The position lies outside the image.")
        self.set_ds(*geometry.to_ds(x, y))

    def set_ds(self, dsx: float, dsy: float) -> None:
        """Move the beam to a hardware position, in whole steps."""
        if self.control and not self.is_active():
            self.beam = (float(round(dsx)), float(round(dsy)))
            self.world.place(self._specimen(*self.beam))

    def park(self) -> None:
        """Beam to the safe position; silently nothing without control."""
        if self.control:
            self.beam = self.safe
            self.world.place(None)
