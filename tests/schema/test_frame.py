"""Frames: arrays that know where they lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from napari_smarttem.schema import Axis, Frame, image_frame, spectrum_frame

finite = st.floats(-1e6, 1e6)


@given(scale=st.floats(1e-3, 1e3), offset=finite, index=st.integers(0, 5000))
def test_an_index_and_its_coordinate_find_each_other(scale, offset, index):
    axis = Axis(name="x", units="nm", scale=scale, offset=offset)
    assert axis.index(axis.coordinates(index + 1)[index]) == pytest.approx(index, abs=1e-3)


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_a_scale_must_be_usable(scale):
    with pytest.raises(ValidationError, match="finite and not zero"):
        Axis(name="x", scale=scale)


def test_data_are_read_only_and_the_callers_stay_his():
    values = np.zeros((2, 3))
    frame = image_frame(values, pixel_nm=(0.5, 0.25), origin_nm=(10.0, 20.0), signal="HAADF")
    with pytest.raises(ValueError, match="read-only"):
        frame.data[0, 0] = 1.0
    values[0, 0] = 5.0
    assert frame.shape == (2, 3)
    np.testing.assert_allclose(frame.coordinates("y"), [10.0, 10.5])
    np.testing.assert_allclose(frame.coordinates("x"), [20.0, 20.25, 20.5])
    assert not frame.is_lazy


def test_axes_must_fit_the_array():
    with pytest.raises(ValidationError, match="2 dimensions but 1 axes"):
        Frame(data=np.zeros((2, 2)), axes=(Axis(name="x"),), signal="HAADF")


@pytest.mark.parametrize("data", ["text", None, np.array(["a"]), np.array([object()])])
def test_only_numbers(data):
    with pytest.raises(ValidationError, match="array"):
        Frame(data=data, axes=(Axis(name="x"),), signal="HAADF")


def test_an_axis_that_is_not_there_is_named_with_those_that_are():
    frame = spectrum_frame(np.zeros(4), dispersion_ev=0.5, offset_ev=100.0, signal="EELS")
    with pytest.raises(KeyError, match="no axis 'y', only energy_loss"):
        frame.axis("y")
    with pytest.raises(KeyError, match="energy_loss"):
        frame.coordinates("energy")
    assert frame.axis("energy_loss").units == "eV"


def test_other_values_with_everything_else_kept():
    frame = image_frame(np.zeros((2, 2)), pixel_nm=1.0, signal="BF", quantity="e", metadata={"a": 1})
    other = frame.with_data(np.ones((2, 2)), signal="DF")
    assert (other.signal, other.quantity, other.metadata, other.axes) == ("DF", "e", {"a": 1}, frame.axes)
    np.testing.assert_array_equal(other.data, 1.0)


def test_a_dask_array_stays_lazy():
    dask_array = pytest.importorskip("dask.array")
    frame = Frame(data=dask_array.zeros((4, 4)), axes=(Axis(name="y"), Axis(name="x")), signal="HAADF")
    assert frame.is_lazy
    assert frame.shape == (4, 4)
