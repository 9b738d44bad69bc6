"""Kinds of pixels from a learnt code, against the truth and against a few painted pixels."""

from __future__ import annotations

import numpy as np
import pytest

from napari_smarttem.bench.parts import unmixing_measures as measures
from napari_smarttem.bench.parts import unmixing_sets as sets
from napari_smarttem.schema import BadInput, Cancelled
from napari_smarttem.unmixing import METHODS, unmix

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def truth() -> sets.Truth:
    return sets.easy(40, (40, 40), 256)


@pytest.fixture(scope="module")
def found(truth):
    return unmix(truth.data, method="autoencoder", components=4)


def test_kinds_are_those_of_the_truth_and_of_painted_pixels_where_one_prevails(truth, found) -> None:
    kinds, clear = truth.maps.argmax(axis=0), truth.maps.max(axis=0) > 0.8
    assert measures.agreement(found.extra["labels"][clear], kinds[clear]) > 0.97
    labels = np.zeros_like(kinds)
    for kind in range(4):
        y, x = np.argwhere(clear & (kinds == kind))[::60].T
        labels[y, x] = kind + 1
    painted = unmix(truth.data, method="labels", components=4, labels=labels).extra["labels"]
    assert measures.agreement(found.extra["labels"][clear], painted[clear]) > 0.97


def test_a_mixture_of_the_scores_finds_the_kinds_too(truth) -> None:
    kinds, clear = truth.maps.argmax(axis=0), truth.maps.max(axis=0) > 0.8
    mixture = unmix(truth.data, method="clusters", mixture=True, components=4).extra["labels"]
    assert measures.agreement(mixture[clear], kinds[clear]) > 0.97


def test_maps_are_parts_and_spectra_are_means_of_kinds(truth, found) -> None:
    assert found.components == 4
    assert (found.maps >= 0).all()
    clear = truth.maps.max(axis=0) > 0.8
    assert np.median(found.extra["probability"][clear]) > 0.9
    kind = found.extra["labels"] == 1
    mean = truth.data[kind].mean(axis=0)
    assert np.corrcoef(mean, found.endmembers[0])[0, 1] > 0.95


def test_same_seed_same_kinds(truth) -> None:
    one, other = (unmix(truth.data, method="autoencoder", components=4, seed=5, steps=30) for _ in range(2))
    np.testing.assert_array_equal(one.extra["labels"], other.extra["labels"])


def test_negative_values_and_dark_pixels_are_taken(truth) -> None:
    data = truth.data[:20, :20] - 1.0
    data[0, 0] = 0.0
    result = unmix(data, method="autoencoder", components=3, steps=40)
    assert np.isfinite(result.maps).all()
    assert result.components == 3


def test_training_can_be_cancelled_and_settings_are_checked(truth) -> None:
    asked = []
    with pytest.raises(Cancelled):
        unmix(
            truth.data,
            method="autoencoder",
            components=4,
            progress=lambda _fraction, word: asked.append(word),
            cancel=lambda: "autoencoder" in asked,
        )
    with pytest.raises(BadInput, match="at least one"):
        unmix(truth.data, method="autoencoder", components=4, latent=0)
    assert METHODS["autoencoder"].title == "Autoencoder + mixture"
