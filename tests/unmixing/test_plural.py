"""Thickness-dependent plural scattering is noticed in spectra of the simulator's physics, and not where the thickness is even."""

from __future__ import annotations

import numpy as np
import pytest

from napari_smarttem.physics.eels import LossProcess, SpectrumModel, power_law_cumulative, valence_cumulative
from napari_smarttem.schema.frame import Axis, Frame
from napari_smarttem.unmixing import unmix

SAID = "Thickness-dependent plural scattering"
SIZE = 24
RAMP = np.linspace(0.0, 1.0, SIZE)
EVEN = np.full(SIZE, 0.5)


def _edge(onset_ev: float) -> LossProcess:
    return LossProcess(f"{onset_ev}", lambda energy: power_law_cumulative(energy, 3.5, onset_ev))


def _measured(
    thickness: np.ndarray, share: np.ndarray, *, step: float = 1.0, low_loss: bool = False, plural: bool = True
) -> Frame:
    """Two materials, `share` of the first from top to bottom, `thickness` in mean free paths from left to right."""
    offset, electrons = (-10.0, 2e5) if low_loss else (300.0, 6e6 * step)
    model = SpectrumModel(
        [LossProcess("valence", valence_cumulative(22.0, 5.0)), _edge(400.0), _edge(530.0), _edge(640.0)],
        dispersion_ev=step,
        offset_ev=offset,
        channels=int((80 if low_loss else 500) / step),
        resolution_ev=1.0,
    )
    thin = 1.0 if plural else 1e-3
    mean = np.array(
        [
            [
                model.probabilities(thin * t * np.array([1.0, 0.004 * s, 0.004, 0.004 * (1 - s)])) / thin
                for t in thickness
            ]
            for s in share
        ]
    )
    axes = (Axis(name="y", units="nm"), Axis(name="x", units="nm"))
    axis = Axis(name="energy_loss", units="eV", scale=step, offset=offset)
    data = np.random.default_rng(1).poisson(electrons * mean).astype(np.float32)
    return Frame(data=data, axes=(*axes, axis), signal="EELS")


def _said(frame: Frame) -> bool:
    return any(SAID in warning for warning in unmix(frame).warnings)


@pytest.mark.parametrize("step", [1.0, 0.25])
@pytest.mark.parametrize("share", [EVEN, RAMP], ids=["one material", "two"])
def test_a_wedge_is_noticed(share, step: float) -> None:
    assert _said(_measured(0.2 + 1.2 * RAMP, share, step=step))


def test_a_wedge_is_noticed_in_a_low_loss() -> None:
    assert _said(_measured(0.2 + 1.2 * RAMP, EVEN, low_loss=True, step=0.2))


@pytest.mark.parametrize("thickness", [0.5, 1.2])
def test_two_materials_as_thick_everywhere_are_not_doubted(thickness: float) -> None:
    result = unmix(_measured(np.full(SIZE, thickness), RAMP))
    assert result.components == 2
    assert not any(SAID in warning for warning in result.warnings)


def test_a_wedge_of_single_scattering_is_not_doubted() -> None:
    """What deconvolution leaves: thickness changes how much there is, and no shape."""
    frame = _measured(0.2 + 1.2 * RAMP, RAMP, plural=False)
    assert unmix(frame).components == 2
    assert not _said(frame)


def test_other_signals_have_no_plasmons() -> None:
    frame = _measured(0.2 + 1.2 * RAMP, EVEN)
    assert not _said(frame.model_copy(update={"signal": "CL"}))


@pytest.mark.real_data
@pytest.mark.slow
def test_deconvolution_pixel_by_pixel_takes_it_out_of_a_real_line_scan(shared_data) -> None:
    from napari_smarttem.io.read import read
    from napari_smarttem.unmixing.prepare import deconvolve

    core, low = (
        max(read(shared_data / name), key=lambda one: one.data.size)
        for name in ("LSMO_linescan.hspy", "LSMO_linescan_low_loss.hspy")
    )
    assert _said(core)
    assert _said(deconvolve(core, low, mean=True))
    assert not _said(deconvolve(core, low))
