"""The shipped table is eXSpy's, and behaves like a cross-section."""

from __future__ import annotations

import numpy as np
import pytest

from napari_smarttem.physics import cross_sections as xs
from napari_smarttem.schema import BadInput

DEFAULT = {"high_tension_v": 200e3, "convergence_mrad": 20.0, "collection_mrad": 40.0}


@pytest.mark.parametrize("edge", xs.EDGES)
def test_onset_and_decay(edge):
    section = xs.hydrogenic(edge, **DEFAULT)
    assert section.onset_ev == xs.ONSETS_EV[section.element]
    assert np.all(section.barn_per_ev > 0)
    # far above any onset a cross-section falls as a power law
    far = section.energy_ev > 3 * section.onset_ev
    slope = np.polyfit(np.log(section.energy_ev[far]), np.log(section.barn_per_ev[far]), 1)[0]
    assert -6 < slope < -3


@pytest.mark.parametrize("edge", xs.EDGES)
def test_cumulative_is_one(edge):
    section = xs.hydrogenic(edge, **DEFAULT)
    energy = np.linspace(0, 6000, 20_000)
    running = section.cumulative(energy)
    assert np.all(np.diff(running) >= 0)
    assert np.all(running[energy < section.onset_ev] == 0)
    assert running[-1] == pytest.approx(1.0)


def test_light_elements_ionise_more_easily():
    totals = [xs.hydrogenic(edge, **DEFAULT).total_nm2 for edge in ("C_K", "N_K", "O_K")]
    assert totals == sorted(totals, reverse=True)


def test_table_is_exspys():
    pytest.importorskip("exspy")
    for edge in ("O_K", "Ti_L3", "Cu_L3"):
        section = xs.hydrogenic(edge, **DEFAULT)
        onset, relative, barn = xs._evaluate(edge, **DEFAULT)
        assert onset == section.onset_ev
        assert np.allclose(section.energy_ev, onset + relative, atol=1e-5)
        assert np.allclose(section.barn_per_ev, barn, rtol=1e-5)
    # between the nodes, too
    from exspy.components import EELSCLEdge

    component = EELSCLEdge("O_K", GOS="hydrogenic")
    component.set_microscope_parameters(E0=200, alpha=20, beta=40, energy_scale=1.0)
    energy = np.arange(533.0, 1500.0)
    section = xs.hydrogenic("O_K", **DEFAULT)
    interpolated = np.exp(np.interp(energy, section.energy_ev, np.log(section.barn_per_ev)))
    assert np.allclose(interpolated, component.function(energy), rtol=0.02)


def test_other_settings_are_evaluated():
    pytest.importorskip("exspy")
    wide = xs.hydrogenic("O_K", **DEFAULT)
    narrow = xs.hydrogenic("O_K", **{**DEFAULT, "collection_mrad": 5.0})
    assert narrow.total_nm2 < 0.9 * wide.total_nm2
    assert narrow.onset_ev == wide.onset_ev


def test_the_table_can_be_written_again(tmp_path):
    pytest.importorskip("exspy")
    path = tmp_path / "table.json"
    xs.write_table(path)
    assert path.read_text(encoding="utf-8") == xs.TABLE.read_text(encoding="utf-8")


def test_white_lines_add_their_share_and_two_peaks():
    plain = xs.hydrogenic("Fe_L3", **DEFAULT)
    lined = xs.with_white_lines(plain, splitting_ev=13.0, share=0.5)
    first = np.linspace(708.0, 758.0, 20_001)

    def barn(section):
        return np.exp(np.interp(first, section.energy_ev, np.log(section.barn_per_ev)))

    continuum = np.trapezoid(barn(plain), first)
    assert np.trapezoid(barn(lined), first) == pytest.approx(1.5 * continuum, rel=0.02)
    extra = barn(lined) - barn(plain)
    peaks = first[1:-1][(extra[1:-1] > extra[:-2]) & (extra[1:-1] > extra[2:]) & (extra[1:-1] > 0.1 * extra.max())]
    assert peaks.min() == pytest.approx(710.0, abs=0.3)
    assert peaks.max() == pytest.approx(723.0, abs=0.3)
    # beyond the lines nothing has changed
    far = plain.energy_ev > 800
    kept = np.exp(np.interp(plain.energy_ev[far], lined.energy_ev, np.log(lined.barn_per_ev)))
    assert np.allclose(kept, plain.barn_per_ev[far])


def test_unknown_edge():
    with pytest.raises(BadInput, match="Xx_K"):
        xs.hydrogenic("Xx_K", **DEFAULT)
