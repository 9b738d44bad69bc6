"""DigiScan as a `Scanner`: nm on the specimen, frames that lie where their axes say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import JsonValue

from ...schema import BadInput, Cancelled, Field2D, Frame, InstrumentFault, LimitExceeded, image_frame
from ..base import CancelToken
from .link import ServerRestarted

if TYPE_CHECKING:
    from .client import DigitalMicrograph

NM_PER = {"nm": 1.0, "µm": 1e3, "μm": 1e3, "um": 1e3, "å": 0.1, "a": 0.1, "pm": 1e-3, "mm": 1e6, "m": 1e9}
LARGEST_SIDE = 4096


class BridgeScanner:
    """DigiScan. Positions are nm from the upper left edge of the reference scan."""

    def __init__(self, instrument: DigitalMicrograph) -> None:
        self._instrument = instrument
        self._probe: tuple[float, float] | None = None
        side = instrument.geometry["size"] * instrument.geometry["nm"]
        self._field = Field2D(y_nm=0.0, x_nm=0.0, height_nm=side, width_nm=side)

    @property
    def signals(self) -> tuple[str, ...]:
        """Names as GMS has them."""
        return tuple(self._instrument.described["signals"])

    @property
    def field(self) -> Field2D:
        """What DigiScan reaches at this magnification."""
        return self._field

    @property
    def native_shape(self) -> tuple[int, int] | None:
        """None: any number of pixels can be asked for."""
        return None

    @property
    def probe_position_nm(self) -> tuple[float, float] | None:
        """(y, x) of the stationary probe."""
        return self._probe

    def pixel(self, y_nm: float, x_nm: float) -> tuple[float, float]:
        """(y, x) in pixels of the reference image, whose whole numbers are the places of its samples."""
        size, nm = self._instrument.geometry["size"], self._instrument.geometry["nm"]
        if not self._field.contains(y_nm, x_nm):
            raise LimitExceeded(
                f"(y {y_nm:.4g}, x {x_nm:.4g}) nm lies outside the scan field of {size * nm:.4g} nm; nothing was moved."
            )
        return min(max(y_nm / nm - 0.5, 0.0), float(size)), min(max(x_nm / nm - 0.5, 0.0), float(size))

    def move_probe(self, y_nm: float, x_nm: float) -> None:
        """See `base.Scanner`."""
        y, x = self.pixel(y_nm, x_nm)
        instrument = self._instrument
        instrument.ensure_field()
        args = {"x": x, "y": y, "settle_s": instrument.settings.settle_s, "ref": instrument.geometry["ref"]}
        try:
            instrument.link.call("move_probe", args)
        except ServerRestarted:
            instrument.ensure_field()
            instrument.link.call("move_probe", {**args, "ref": instrument.geometry["ref"]})
        self._probe = (float(y_nm), float(x_nm))

    def park_probe(self) -> None:
        """See `base.Scanner`; may be called from any thread."""
        self._instrument.link.call("park")
        self._probe = None

    def scan(
        self, *, field: Field2D, shape: tuple[int, int], dwell_s: float, signals: tuple[str, ...], cancel: CancelToken
    ) -> tuple[Frame, ...]:
        """See `base.Scanner`.

        Pixels larger than those of the reference scan are made of several samples each, so that they stand for their
        area and lie where the axes say; the dwell time is shared among them. Over the whole field all detectors record in
        one pass; over a part GMS records one after another, and the dwell time is shared among them too.
        """
        instrument = self._instrument
        instrument.ensure_field()
        names = tuple(signals) or self.signals[:1]
        unknown = [name for name in names if name not in self.signals]
        if unknown:
            raise BadInput(f"There is no detector {', '.join(unknown)}; there is {', '.join(self.signals)}.")
        size, nm = instrument.geometry["size"], instrument.geometry["nm"]
        top, left = field.y_nm / nm, field.x_nm / nm
        height, width = field.height_nm / nm, field.width_nm / nm
        if min(top, left) < -1e-6 or top + height > size * (1 + 1e-6) or left + width > size * (1 + 1e-6):
            raise LimitExceeded("The scan leaves the field; nothing was scanned.")
        rows, columns = shape
        if not (1 <= rows <= LARGEST_SIDE and 1 <= columns <= LARGEST_SIDE):
            raise LimitExceeded(f"A scan has 1 to {LARGEST_SIDE} pixels along a side, got {rows} x {columns}.")
        if cancel.is_set():
            raise Cancelled("The scan was stopped before it began.")
        shortest_s = float(instrument.described["shortest_us"]) * 1e-6
        down, across = _samples(rows, height, columns, width, max(1, int(dwell_s / shortest_s * (1 + 1e-9))))
        whole = top < 1e-6 and left < 1e-6 and rows * down == size == columns * across
        passes = 1 if whole else len(names)
        args: dict[str, Any] = {
            "rows": rows * down, "columns": columns * across, "signals": list(names), "ref": instrument.geometry["ref"],
            "dwell_us": dwell_s * 1e6 / (down * across * passes),
        }  # fmt: skip
        if not whole:
            y0, y1 = _inside(top, height, height / (rows * down), size)
            x0, x1 = _inside(left, width, width / (columns * across), size)
            args["area"] = [y0, x0, y1, x1]
        self._probe = None
        head, arrays = instrument.again(lambda: instrument.link.call("scan", args, cancel=cancel))
        if len(arrays) != len(names):
            raise InstrumentFault("The scan came back incomplete; it is not used.", transient=True)
        self._check_scale(head, width / args["columns"], height / args["rows"])
        pixel = field.height_nm / rows, field.width_nm / columns
        metadata: dict[str, JsonValue] = {
            "simulated": instrument.info.simulated,
            "exposure_started_s": head["started"],
            "exposure_finished_s": head["finished"],
            "dwell_s": dwell_s,
            "samples_per_pixel": [down, across],
            "passes": passes,
            "beam_current_pa": instrument.beam_current_pa,
            "dm_tags": head["tags"],
        }
        return tuple(
            image_frame(
                _binned(data, down, across),
                pixel_nm=pixel,
                origin_nm=(field.y_nm + pixel[0] / 2, field.x_nm + pixel[1] / 2),
                signal=name,
                metadata=metadata,
            )
            for name, data in zip(names, arrays, strict=True)
        )

    def _check_scale(self, head: Mapping[str, Any], across: float, down: float) -> None:
        """GMS says how large the pixels it scanned are; another size than asked means another magnification."""
        found = float(head["scale"]) * NM_PER.get(str(head["unit"]).strip().lower(), math.nan)
        asked = self._instrument.geometry["nm"] * across
        square = math.isclose(across, down, rel_tol=1e-3)
        if square and self._instrument.settings.nm_per_pixel is None and not abs(found / asked - 1) < 0.05:
            raise InstrumentFault(
                f"GMS scanned with pixels of {found:.4g} nm where {asked:.4g} nm was meant: the magnification was changed; "
                "connect again."
            )


def _samples(rows: int, height: float, columns: int, width: float, most: int) -> tuple[int, int]:
    """Samples per pixel down and across: about the reference's own spacing, at most `most` of them."""
    down = max(1, min(round(height / rows), LARGEST_SIDE // rows))
    across = max(1, min(round(width / columns), LARGEST_SIDE // columns))
    while down * across > most:
        if down >= across:
            down -= 1
        else:
            across -= 1
    return down, across


def _inside(start: float, length: float, pitch: float, size: int) -> tuple[float, float]:
    """Edges GMS is given so that samples lie in the middle of their pixels: GMS puts the first one on the edge itself."""
    first = min(max(start + 0.5 * pitch - 0.5, 0.0), max(0.0, size - length))
    return first, min(first + length, float(size))


def _binned(data: np.ndarray, down: int, across: int) -> np.ndarray:
    rows, columns = data.shape[0] // down, data.shape[1] // across
    if down == across == 1:
        return data
    return np.asarray(data.reshape(rows, down, columns, across).sum(axis=(1, 3), dtype=np.float64).astype(np.float32))
