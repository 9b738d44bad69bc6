"""Sample data for napari's *Open Sample* menu, measured on the simulated microscope when asked for; no files are shipped."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..schema import Frame

SEED = 20260


def overview() -> list[tuple[Any, ...]]:
    """A HAADF overview of core-shell particles on a carbon film, as a layer in nm."""
    from ..backends.registry import connect
    from .layers import image_layer_data

    instrument = connect("simulator", specimen="core-shell", seed=SEED, speed=None)
    try:
        scanner = instrument.scanner
        assert scanner is not None  # the simulator has one
        frame = scanner.scan(
            field=scanner.field, shape=(256, 256), dwell_s=2e-5, signals=("HAADF",), cancel=threading.Event()
        )[0]
    finally:
        instrument.close()
    return [image_layer_data(frame, name="Core-shell particles HAADF", metadata={"kind": "image"})]


def spectrum_image() -> list[tuple[Any, ...]]:
    """An EELS spectrum image across an interface: its summed counts as a layer, and the Spectrum dock on it."""
    from .reader import read_layers

    return read_layers(str(_interface_file()))


@cache
def _interface_file() -> Path:
    """The spectrum image as a file, made at the first call; it goes when the program ends."""
    from ..io import write

    folder = Path(tempfile.mkdtemp(prefix="smarttem-sample-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write(simulate_spectrum_image(shape=(20, 28), seed=SEED), folder / "interface.hspy")


def simulate_spectrum_image(*, shape: tuple[int, int], seed: int, exposure_s: float = 0.02) -> Frame:
    """Scan a spectrum image over a two-phase interface on the simulated microscope.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of 2 nm pixels, at the centre of the field of view.
    seed : int
    exposure_s : float
        A pixel.

    Returns
    -------
    Frame
        ``(y, x, energy)``, EELS counts.
    """
    from ..backends.registry import connect
    from ..schema import Axis, Frame

    pixel_nm = 2.0
    instrument = connect("simulator", specimen="two-phase", seed=seed, speed=None, field_nm=100.0)
    try:
        scanner, spectrometer, blanker = instrument.scanner, instrument.spectrometer, instrument.blanker
        assert scanner is not None and spectrometer is not None and blanker is not None  # noqa: PT018
        spectrometer.set_energy_offset_ev(300.0)
        field = scanner.field
        first_y = field.y_nm + field.height_nm / 2 - (shape[0] - 1) / 2 * pixel_nm
        first_x = field.x_nm + field.width_nm / 2 - (shape[1] - 1) / 2 * pixel_nm
        counts = np.zeros((*shape, spectrometer.channels), dtype=np.float32)
        blanker.set_blanked(False)
        for row, column in np.ndindex(*shape):
            scanner.move_probe(first_y + row * pixel_nm, first_x + column * pixel_nm)
            spectrum = spectrometer.acquire_spectrum(exposure_s, threading.Event())
            counts[row, column] = spectrum.data
        scanner.park_probe()
        blanker.set_blanked(True)
    finally:
        instrument.close()
    facts = ("specimen", "seed", "high_tension_v", "beam_current_pa", "convergence_mrad", "collection_mrad")
    metadata = {key: spectrum.metadata[key] for key in facts if key in spectrum.metadata}
    metadata |= {"title": "EELS across an interface", "simulated": True, "exposure_s": exposure_s}
    axes = (
        Axis(name="y", units="nm", scale=pixel_nm, offset=first_y),
        Axis(name="x", units="nm", scale=pixel_nm, offset=first_x),
        spectrum.axes[0],
    )
    return Frame(data=counts, axes=axes, signal="EELS", metadata=metadata)
