"""Plural scattering taken out of a core loss of which single scattering is known."""

from __future__ import annotations

import numpy as np
import pytest

from napari_smarttem.schema import BadInput, Cancelled
from napari_smarttem.schema.frame import Axis, Frame
from napari_smarttem.unmixing.prepare import Preparation, deconvolve

STEP = 0.5


def _frame(spectra: np.ndarray, offset: float, **metadata: str) -> Frame:
    axes = (Axis(name="x", units="nm"), Axis(name="energy_loss", units="eV", scale=STEP, offset=offset))
    return Frame(data=spectra, axes=axes, signal="EELS", metadata=metadata)


@pytest.fixture(scope="module")
def scattered() -> tuple[Frame, Frame, np.ndarray]:
    """Plural core loss, low loss, and single scattering, two pixels of 0.4 and 0.9 mean free paths."""
    energy = np.arange(-20, 180, STEP)
    zero = int(np.argmin(np.abs(energy)))
    peak = np.exp(-0.5 * (energy / 0.6) ** 2)
    peak /= peak.sum()
    plasmon = np.where(energy > 0, energy * 5 / ((energy**2 - 22**2) ** 2 + (energy * 5) ** 2), 0.0)
    plasmon /= plasmon.sum()
    loss = np.arange(400, 800, STEP)
    single = 1000 * (loss > 530) * (loss / 530) ** -3.0 + 500 * (loss > 640) * (loss / 640) ** -3.0
    cores, lows = [], []
    for thickness in (0.4, 0.9):
        low, term = peak.copy(), peak.copy()
        for order in range(1, 9):
            term = np.convolve(term, plasmon)[zero : zero + len(energy)] * thickness / order
            low = low + term
        lows.append(1e6 * low)
        cores.append(np.convolve(single, low)[zero : zero + len(loss)])
    low_loss = _frame(np.array(lows), -20.0, file="low.hspy")
    return _frame(np.array(cores), 400.0), low_loss, single


def test_single_scattering_comes_back(scattered) -> None:
    core, low, single = scattered
    energy = core.coordinates("energy_loss")
    flat = ((energy > 545) & (energy < 630)) | ((energy > 655) & (energy < 740))
    for pixel, error in enumerate((0.25, 0.9)):
        assert np.abs(core.data[pixel][flat] / single[flat] - 1).mean() > error
    found = deconvolve(core, low)
    for pixel in range(2):
        np.testing.assert_allclose(found.data[pixel][flat], single[flat], rtol=0.03)


def test_a_low_loss_of_other_pixels_is_averaged_and_the_step_recorded(scattered) -> None:
    core, low, single = scattered
    thin = _frame(np.asarray(core.data)[[0, 0, 0]], 400.0)
    prepared = Preparation(thin)
    left = prepared.apply("deconvolve", low_loss=_frame(np.asarray(low.data)[:1], -20.0, file="low.hspy"))
    energy = thin.coordinates("energy_loss")
    flat = (energy > 545) & (energy < 630)
    np.testing.assert_allclose(left.data[2][flat], single[flat], rtol=0.03)
    assert left.metadata["preparation"] == [{"step": "deconvolve", "low_loss": "low.hspy"}]
    assert prepared.undo()


def test_the_mean_low_loss_and_blocks_of_spectra_and_a_stop(scattered, monkeypatch) -> None:
    core, low, _ = scattered
    together = deconvolve(core, low).data
    heard = []
    monkeypatch.setattr("napari_smarttem.unmixing.prepare.DECONVOLVED", 1)
    np.testing.assert_allclose(
        deconvolve(core, low, report=lambda part, _: heard.append(part)).data, together, rtol=1e-9, atol=1e-6
    )
    assert heard == sorted(heard)
    quiet = low.with_data(np.repeat(np.asarray(low.data).mean(axis=0, keepdims=True), 2, axis=0))
    np.testing.assert_allclose(
        deconvolve(core, low, mean=True).data, deconvolve(core, quiet).data, rtol=1e-9, atol=1e-6
    )

    def stop(_part: float, word: str) -> None:
        if word == "plural scattering":
            raise Cancelled("enough")

    prepared = Preparation(core)
    with pytest.raises(Cancelled):
        prepared.apply("deconvolve", low_loss=low, report=stop)
    assert prepared.frame is core


def test_what_does_not_fit_is_one_sentence(scattered) -> None:
    core, low, _ = scattered
    coarse = low.axes[-1].model_copy(update={"scale": 1.0})
    with pytest.raises(BadInput, match="eV per channel"):
        deconvolve(core, low.with_data(low.data, axes=(low.axes[0], coarse)))
    with pytest.raises(BadInput, match="zero-loss peak"):
        deconvolve(core, core)
