"""Every pixel to one of a few painted kinds: as right as the true spectra would make it, and kinds that are mixtures."""

from __future__ import annotations

import numpy as np
import pytest

from napari_smarttem.bench.parts import unmixing_measures as measures
from napari_smarttem.bench.parts import unmixing_sets as sets
from napari_smarttem.schema import BadInput
from napari_smarttem.unmixing import unmix
from napari_smarttem.unmixing.classify import chance_of_largest


def test_borders_lie_where_amounts_are_equal_as_well_as_noise_allows() -> None:
    truth = sets.easy(44, (64, 64), 512)
    kinds = truth.maps.argmax(axis=0) + 1
    labels = measures.painted(truth, 0.003, np.random.default_rng(0))
    assert np.count_nonzero(labels) <= 0.004 * labels.size
    found = unmix(truth.data, method="labels", labels=labels)
    right = float((found.extra["labels"] == kinds)[labels == 0].mean())
    attainable = measures.attainable_accuracy(truth)
    assert right >= attainable - 0.004
    assert right >= 0.97
    # the chances are honest: where they say 60 to 95 %, about so many are right
    unsure = (found.extra["probability"] > 0.6) & (found.extra["probability"] < 0.95)
    said = float(found.extra["probability"][unsure].mean())
    assert (found.extra["labels"] == kinds)[unsure].mean() == pytest.approx(said, abs=0.2)


def test_a_kind_that_is_a_mixture_is_still_told_apart() -> None:
    rng = np.random.default_rng(2)
    spectra = sets.spectra(rng, 2, 256) * 20.0
    part = np.repeat([0.0, 0.5, 1.0], 16)[None, :] * np.ones((24, 1))
    data = rng.poisson(part[..., None] * spectra[0] + (1 - part)[..., None] * spectra[1]).astype(np.float32)
    kinds = np.repeat([1, 2, 3], 16)[None, :] * np.ones((24, 1), int)
    labels = np.zeros_like(kinds)
    labels[3, ::4] = kinds[3, ::4]
    found = unmix(data, method="labels", labels=labels)
    assert (found.extra["labels"] == kinds).mean() > 0.99


def test_chance_of_the_largest_of_two_and_of_three() -> None:
    chance = chance_of_largest(np.array([[1.0, 1.0], [2.0, 1.0]]), np.full((2, 2), 0.5))
    np.testing.assert_allclose(chance[0], 0.5)
    assert chance[1, 0] == pytest.approx(0.8413447, abs=1e-6)  # one standard deviation
    three = chance_of_largest(np.array([[5.0, 1.0, 1.0]]), np.ones((1, 3)))
    assert three.sum() == pytest.approx(1.0)
    assert three[0, 0] > 0.99


def test_one_kind_is_refused_in_one_sentence() -> None:
    truth = sets.easy(44, (16, 16), 64)
    with pytest.raises(BadInput, match="at least two kinds"):
        unmix(truth.data, method="labels", labels=np.eye(16, dtype=int))
