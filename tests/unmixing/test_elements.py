"""Which elements are named: in spectra of known composition, and in real ones."""

from __future__ import annotations

import numpy as np
import pytest

from napari_smarttem.bench.parts.unmixing_elements import edges_spectrum, element_figures, lines_spectrum
from napari_smarttem.unmixing.elements import find_elements


def _peak(energy: np.ndarray, at: float, height: float) -> np.ndarray:
    width = np.sqrt(130.0**2 + 2.5 * (at - 5895.0)) / 2.3548
    return np.asarray(height * np.exp(-0.5 * ((energy - at) / width) ** 2))


def test_most_elements_of_random_compositions_are_named_and_few_others() -> None:
    figures = element_figures(3, 10)
    assert figures["eds_precision"] > 0.8
    assert figures["eds_recall"] > 0.8
    assert figures["eels_precision"] > 0.65
    assert figures["eels_recall"] > 0.6


def test_a_strong_line_of_the_wrong_width_brings_no_rare_earth() -> None:
    energy = np.arange(200.0, 12000.0, 10.0)
    lines = ((6398.0 + 6.0, 3000.0), (7058.0 + 6.0, 400.0), (8040.0 + 6.0, 2500.0), (8905.0 + 6.0, 340.0))
    mean = 20 * np.exp(-energy / 4000) + sum(1.04 * _peak(energy, at, height) for at, height in lines)
    counts = np.random.default_rng(0).poisson(mean).astype(float)
    assert {feature.element for feature in find_elements(counts, energy, signal="EDS")} == {"Fe", "Cu"}


def test_a_main_line_without_its_second_line_is_no_element() -> None:
    energy = np.arange(200.0, 12000.0, 10.0)
    mean = 30 * np.exp(-energy / 4000) + _peak(energy, 6398.0, 2000.0)  # K-alpha of iron, no K-beta at all
    counts = np.random.default_rng(1).poisson(mean).astype(float)
    assert "Fe" not in {feature.element for feature in find_elements(counts, energy, signal="EDS")}


def test_an_axis_that_is_off_does_not_change_the_element() -> None:
    energy = np.arange(430.0, 720.0, 0.5)
    background = 4000 * (energy / 430) ** -3.0
    for off in (-6.0, 5.0):
        oxygen = 900 / (1 + np.exp(-(energy - 532 - off))) * (np.maximum(energy, 532) / 532) ** -3.0
        white = sum(
            h / (1 + ((energy - at - off - 1.5) / 1.5) ** 2) for at, h in ((640.0, 1500.0), (651.0, 800.0))
        ) + 300 / (1 + np.exp(-(energy - 642 - off)))
        counts = np.random.default_rng(2).poisson(background + oxygen + white).astype(float)
        assert {feature.element for feature in find_elements(counts, energy, signal="EELS")} == {"O", "Mn"}


def test_spectra_of_known_composition_are_reproducible_counts() -> None:
    for make in (edges_spectrum, lines_spectrum):
        counts, energy, elements = make(7)
        again, _, same = make(7)
        np.testing.assert_array_equal(counts, again)
        assert elements == same
        assert len(elements) >= 1
        assert (counts >= 0).all()
        assert len(energy) == len(counts)


@pytest.mark.real_data
def test_manganite_and_titanate_are_named(shared_data) -> None:
    from napari_smarttem.io.read import read

    for name, expected in (("LSMO_linescan.hspy", {"O", "Mn"}), ("EELS_STO.dm3", {"O", "Ti"})):
        frame = max((f for f in read(shared_data / name) if f.axes[-1].units == "eV"), key=lambda f: f.data.size)
        counts = np.asarray(frame.data, dtype=float).reshape(-1, frame.shape[-1]).sum(axis=0)
        found = find_elements(counts, frame.axes[-1].coordinates(len(counts)), signal="EELS")
        assert {feature.element for feature in found[:2]} == expected


def test_an_edge_is_named_in_a_spectrum_that_begins_before_the_zero_loss_peak() -> None:
    energy = np.arange(-50.0, 462.0, 0.5)
    loss = np.maximum(energy, 1.0)
    smooth = 2e6 * np.exp(-0.5 * (energy / 0.8) ** 2) + (energy > 3) * 4e7 * (loss / 10.0) ** -3.0
    edge = (energy > 284.0) * 1500.0 * (loss / 284.0) ** -1.5
    counts = np.random.default_rng(4).poisson(smooth + edge).astype(float)
    found = find_elements(counts, energy, signal="EELS", candidates=["C", "B", "N"])
    assert [feature.element for feature in found] == ["C"]
    assert not find_elements(counts[energy < 4], energy[energy < 4], signal="EELS")


@pytest.mark.slow
@pytest.mark.real_data
def test_core_and_shell_are_seen_in_counts_that_were_not_unmixed(shared_data) -> None:
    from napari_smarttem.bench.parts.unmixing_core_shell import separation

    figures = separation(shared_data / "core_shell.hspy")
    assert figures["components"] == 3
    assert figures["pt_in_core"] > 0.9
    assert figures["pt_held_out"] > 0.9
    assert figures["fe_in_shell"] > 0.6


def test_edges_of_many_counts_are_named_though_l1_shows() -> None:
    from napari_smarttem.widgets.sample_data import simulate_spectrum_image

    frame = simulate_spectrum_image(shape=(16, 22), seed=7, exposure_s=0.2)
    axis = frame.axes[2]
    energy = axis.offset + axis.scale * np.arange(frame.shape[2])
    magnetite = np.maximum(np.asarray(frame.data[:, :5], dtype=float).reshape(-1, frame.shape[2]).sum(axis=0), 0.0)
    found = find_elements(magnetite, energy, signal="EELS")
    strong = {feature.element for feature in found if feature.bic_gain > 0.02 * found[0].bic_gain}
    assert strong == {"Fe", "O"}
