"""Noise taken out of maps: by how much, with honest error bars, and not where structure is as fine as the pixels."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_smarttem.bench.parts import unmixing_measures as measures
from napari_smarttem.bench.parts import unmixing_sets as sets
from napari_smarttem.cli import main
from napari_smarttem.schema import BadInput
from napari_smarttem.unmixing import unmix


@pytest.fixture(scope="module")
def truth() -> sets.Truth:
    return sets.easy(46, (48, 48), 256, k=3, counts=3.0)


@pytest.fixture(scope="module")
def smooth(truth):
    return unmix(truth.data, components=3, smooth_maps=True)


def test_maps_are_nearer_to_the_truth_and_error_bars_say_by_how_much(truth, smooth) -> None:
    plain = unmix(truth.data, components=3)
    before, after = (sets.matched(truth, one.endmembers, one.maps)[1] for one in (plain, smooth))
    assert after < 0.7 * before
    said = np.sqrt((smooth.map_errors**2).mean() / (plain.map_errors**2).mean())
    assert said == pytest.approx(after / before, rel=0.25)
    assert measures.coverage(truth, smooth)[0] == pytest.approx(0.68, abs=0.12)
    np.testing.assert_allclose(smooth.endmembers.sum(axis=1), plain.endmembers.sum(axis=1), rtol=0.02)


def test_what_held_out_counts_say_is_recorded_and_repeats_itself(truth, smooth) -> None:
    said = smooth.provenance["smooth_maps"]
    assert said["used"] is True
    assert said["held_out_error"] < 0.6
    again = unmix(truth.data, components=3, smooth_maps=True)
    np.testing.assert_array_equal(again.maps, smooth.maps)


def test_structure_as_fine_as_the_pixels_stays() -> None:
    rng = np.random.default_rng(3)
    spectra = sets.spectra(rng, 2, 128) * 30.0
    part = rng.integers(0, 2, (40, 40)) * 1.0  # white: no frequency holds more of it than another
    data = rng.poisson(part[..., None] * spectra[0] + (1 - part)[..., None] * spectra[1]).astype(np.float32)
    plain, kept = (unmix(data, components=2, smooth_maps=on) for on in (False, True))
    made = sets.Truth(data, spectra, np.stack([part, 1 - part]))
    before, after = (sets.matched(made, one.endmembers, one.maps)[1] for one in (plain, kept))
    assert after < 1.05 * before


def test_values_that_are_no_counts_and_few_pixels_are_taken_too(truth) -> None:
    noisy = truth.data - 1.0  # negative values: no counts, whose noise is known all the same
    result = unmix(noisy, components=3, smooth_maps=True)
    assert result.provenance["noise"] == "counting and read-out"
    assert result.provenance["smooth_maps"]["used"] is True
    few = unmix(truth.data[:4, :5], components=2, smooth_maps=True)
    assert few.provenance["smooth_maps"] == {"used": False, "held_out_error": 1.0}


def test_methods_whose_maps_are_no_fit_are_refused_in_one_sentence(truth) -> None:
    with pytest.raises(BadInput, match="cannot be smoothed by counts"):
        unmix(truth.data, method="svd", components=3, smooth_maps=True)


@pytest.mark.real_data
def test_command_line_says_by_how_much_recorded_maps_became_better(shared_data, capsys) -> None:
    assert main(["unmix", str(shared_data / "core_shell.hspy"), "--json", "--no-elements", "--smooth-maps"]) == 0
    said = json.loads(capsys.readouterr().out)["smooth_maps"]
    assert said["used"] is True
    assert said["held_out_error"] < 0.4
