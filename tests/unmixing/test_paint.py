"""Paint as runs, and sums over it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_smarttem.schema import BadInput
from napari_smarttem.schema.frame import Axis, Frame
from napari_smarttem.unmixing.prepare import Preparation
from napari_smarttem.unmixing.prepare_paint import paint_of, painted, sum_painted


@given(arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=st.integers(0, 3)))
def test_paint_comes_back_from_its_runs(labels) -> None:
    runs = json.loads(json.dumps(paint_of(labels)))
    np.testing.assert_array_equal(painted(runs, labels.shape), labels)


@pytest.fixture
def frame() -> Frame:
    data = np.random.default_rng(0).poisson(20, (5, 6, 40)).astype(np.float32)
    axes = (Axis(name="y", units="nm"), Axis(name="x", units="nm"), Axis(name="energy", units="eV", scale=10.0))
    return Frame(data=data, axes=axes, signal="EDS")


def test_sums_are_those_of_a_mask_and_are_recorded_and_undone(frame) -> None:
    labels = np.zeros((5, 6), dtype=int)
    labels[1:3, 2:5], labels[4, :2] = 7, 2
    prepared = Preparation(frame)
    sums = prepared.apply("sum_painted", paint=paint_of(labels))
    assert sums.shape == (1, 2, 40)
    np.testing.assert_allclose(sums.data[0, 0], frame.data[labels == 2].sum(axis=0))
    np.testing.assert_allclose(sums.data[0, 1], frame.data[labels == 7].sum(axis=0))
    assert json.loads(json.dumps(dict(sums.metadata)))["preparation"][0]["paint"] == paint_of(labels)
    assert prepared.undo()
    assert prepared.frame is frame
    mean = sum_painted(frame, paint=paint_of(labels), mean=True)
    np.testing.assert_allclose(mean.data[0, 1], frame.data[labels == 7].mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize(
    ("paint", "words"),
    [([], "Nothing is painted"), ([[1, 5, 0, 2]], "does not lie on"), ([[0, 1, 0, 2]], "label"), ([[1, 2]], "A run")],
)
def test_paint_that_does_not_fit_is_one_sentence(frame, paint, words) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        sum_painted(frame, paint=paint)
    assert "\n" not in str(caught.value)
