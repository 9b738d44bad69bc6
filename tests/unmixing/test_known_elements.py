"""Maps of named elements by fitting what exspy's tables know of them."""

from __future__ import annotations

import numpy as np
import pytest

from napari_smarttem.schema import BadInput
from napari_smarttem.schema.frame import Axis, Frame
from napari_smarttem.unmixing import unmix

pytest.importorskip("exspy")


@pytest.fixture(scope="module")
def layers() -> tuple[Frame, np.ndarray]:
    """O K, Mn L and Fe L over a power law; Mn on the left, Fe on the right; oxygen everywhere."""
    energy = 400.0 + 0.5 * np.arange(900)

    def edge(at: float, white: float) -> np.ndarray:
        line = white * np.exp(-0.5 * ((energy - at - 1.5) / 2.0) ** 2)
        return np.where(energy > at, (np.maximum(energy, at) / at) ** -3.0, 0.0) + line

    left = np.linspace(1.0, 0.0, 32)[None, :] * np.ones((24, 1))
    spectra = np.array([3.0 * (energy / 400.0) ** -2.8, edge(532, 0.5), edge(640, 2.0), edge(708, 2.0)])
    amounts = np.stack([np.ones_like(left), 0.5 * np.ones_like(left), 0.6 * left, 0.6 * (1 - left)])
    mean = 60.0 * np.tensordot(amounts, spectra, axes=(0, 0))
    axes = (
        Axis(name="y", units="nm"),
        Axis(name="x", units="nm"),
        Axis(name="energy_loss", units="eV", scale=0.5, offset=400.0),
    )
    return Frame(data=np.random.default_rng(0).poisson(mean).astype(np.float32), axes=axes, signal="EELS"), left


def test_maps_of_edges_follow_the_elements(layers) -> None:
    frame, left = layers
    result = unmix(frame, method="reference", symbols=("O", "Mn", "Fe"))
    assert result.names == ("O", "Mn", "Fe", "background")
    assert np.corrcoef(result.maps[1].ravel(), left.ravel())[0, 1] > 0.97
    assert np.corrcoef(result.maps[2].ravel(), 1 - left.ravel())[0, 1] > 0.97
    at_oxygen = np.searchsorted(result.energy_ev, 545.0)
    assert result.endmembers[0, at_oxygen] > 20 * result.endmembers[0, :200].max()


def test_what_cannot_be_fitted_is_said_in_one_sentence(layers) -> None:
    frame, _ = layers
    with pytest.raises(BadInput, match="He has no line or edge"):
        unmix(frame, method="reference", symbols=("O", "He"))
    with pytest.raises(BadInput, match="no element"):
        unmix(frame, method="reference", symbols=("Xx",))
    with pytest.raises(BadInput, match="or symbols of elements"):
        unmix(frame, method="reference")
    with pytest.raises(BadInput, match="2 names for 1 spectra"):
        unmix(frame, method="reference", library=np.ones((1, 900)), names=("a", "b"))


@pytest.mark.real_data
def test_recorded_particles_fitted_with_lines_agree_with_their_unmixing(shared_data) -> None:
    from napari_smarttem.io.read import read

    frame = max(read(shared_data / "core_shell.hspy"), key=lambda one: one.data.size)
    fitted = unmix(frame, method="reference", symbols=("Fe", "Pt", "Cu", "C"))
    free = unmix(frame, elements=True)
    core = next(c for c, name in enumerate(free.names) if name.startswith("Pt"))
    platinum = fitted.names.index("Pt")
    assert np.corrcoef(fitted.maps[platinum].ravel(), free.maps[core].ravel())[0, 1] > 0.9
