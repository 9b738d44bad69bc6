"""A small spectrum image of known make-up: three endmembers, pure somewhere, Poisson counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_smarttem.schema import Axis, Frame

PIXEL_NM = 2.0
FIRST_EV = 200.0


@dataclass(frozen=True)
class Mixed:
    """A frame and its truth.

    Parameters
    ----------
    frame : Frame
    endmembers : ndarray
        ``(3, channels)`` counts.
    maps : ndarray
        ``(3, y, x)``, adding up to one.
    """

    frame: Frame
    endmembers: np.ndarray
    maps: np.ndarray


def mixed(shape=(20, 24), channels=128, *, counts=30.0, seed=3, title="three kinds"):
    """Left, right and lower part of the image are each of one kind, with soft borders."""
    rng = np.random.default_rng(seed)
    energy = FIRST_EV + 2.0 * np.arange(channels)
    spectra = []
    for onset in (0.2, 0.45, 0.7):
        edge = FIRST_EV + 2.0 * channels * onset
        spectra.append((energy / FIRST_EV) ** -1.5 + 1.5 * (energy > edge) * (energy / edge) ** -3.0)
    endmembers = counts * np.array([s / s.mean() for s in spectra])
    y, x = (np.linspace(-1, 1, n) for n in shape)
    y, x = np.meshgrid(y, x, indexing="ij")
    weight = np.exp(np.stack([-8 * x - 4 * y, 8 * x - 4 * y, 12 * y]))
    maps = weight / weight.sum(axis=0)
    data = rng.poisson(np.tensordot(maps, endmembers, axes=(0, 0))).astype(np.float32)
    axes = (
        Axis(name="y", units="nm", scale=PIXEL_NM, offset=1.0),
        Axis(name="x", units="nm", scale=PIXEL_NM, offset=-7.0),
        Axis(name="energy_loss", units="eV", scale=2.0, offset=FIRST_EV),
    )
    return Mixed(Frame(data=data, axes=axes, signal="EELS", metadata={"title": title}), endmembers, maps)
