"""Frames and targets as layers: in nm, in place, in colours and shapes that tell states apart. No window is needed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from napari.components import ViewerModel

from napari_smarttem.schema import (
    Axis,
    BadInput,
    Frame,
    JudgedTarget,
    Target,
    TargetState,
    image_frame,
    spectrum_frame,
)
from napari_smarttem.widgets import layers


def overview(data=None, *, pixel_nm=2.0, simulated=True, signal="HAADF"):
    data = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) if data is None else data
    return image_frame(
        data, pixel_nm=pixel_nm, origin_nm=(pixel_nm / 2,) * 2, signal=signal, metadata={"simulated": simulated}
    )


def judged(states):
    return [
        JudgedTarget(target=Target(target_id=f"r0-{i}", y_nm=10.0 * i, x_nm=5.0 * i, score=0.5), state=state)
        for i, state in enumerate(states)
    ]


def test_an_image_lies_where_its_axes_say():
    viewer = ViewerModel()
    layer = layers.show_image(viewer, overview(pixel_nm=2.0))
    assert [str(u) for u in layer.units] == ["nanometer", "nanometer"]
    # the field's upper left edge is at 0, so the centre of pixel (0, 0) is half a pixel in
    assert tuple(layer.data_to_world((0, 0))) == (1.0, 1.0)
    assert tuple(layer.data_to_world((10, 20))) == (21.0, 41.0)
    assert viewer.canvas.overlays.scale_bar.visible
    assert "SIMULATED" in layer.name


def test_a_recorded_image_is_not_called_simulated():
    assert "SIMULATED" not in layers.show_image(ViewerModel(), overview(simulated=False)).name


def test_a_second_frame_goes_into_the_same_layer_with_fresh_contrast():
    viewer = ViewerModel()
    layer = layers.show_image(viewer, overview(np.full((8, 8), 7, dtype=np.uint8)))
    bright = np.linspace(1000.0, 5000.0, 20 * 30).reshape(20, 30)
    again = layers.show_image(viewer, overview(bright, pixel_nm=1.0), layer)
    assert again is layer
    assert len(viewer.layers) == 1
    assert layer.data.shape == (20, 30)
    assert tuple(layer.scale) == (1.0, 1.0)
    assert 1000 <= layer.contrast_limits[0] < layer.contrast_limits[1] <= 5000
    assert tuple(layer.contrast_limits_range) == (1000.0, 5000.0)


def test_contrast_set_by_hand_survives_the_next_frame_of_the_same_kind():
    viewer = ViewerModel()
    layer = layers.show_image(viewer, overview())
    layer.contrast_limits = (100, 900)
    layers.show_image(viewer, overview(np.asarray(overview().data) + np.uint16(3)), layer)
    assert tuple(layer.contrast_limits) == (100, 900)


def test_a_deleted_layer_is_made_again():
    viewer = ViewerModel()
    layer = layers.show_image(viewer, overview())
    viewer.layers.remove(layer)
    again = layers.show_image(viewer, overview(), layer)
    assert again is not layer
    assert list(viewer.layers) == [again]


def test_two_layers_of_one_name_are_kept_apart_by_reference():
    viewer = ViewerModel()
    first = layers.show_image(viewer, overview())
    second = layers.show_image(viewer, overview(np.zeros((4, 4))))
    layers.show_image(viewer, overview(np.ones((6, 6))), second)
    assert first.data.shape == (48, 64)
    assert second.data.shape == (6, 6)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -3.5])
def test_constant_and_empty_images_have_usable_contrast(value):
    low, high = layers.contrast_limits(np.full((5, 5), value))
    assert np.isfinite([low, high]).all()
    assert low < high


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.floats(width=32)))
def test_contrast_lies_within_the_finite_values(data):
    low, high = layers.contrast_limits(data)
    assert low < high
    finite = data[np.isfinite(data)]
    if finite.size and finite.min() < finite.max():
        assert finite.min() <= low
        assert high <= max(finite.max(), low + max(1.0, abs(low) * 1e-6))


def test_what_is_not_an_image_is_refused_in_one_sentence():
    with pytest.raises(BadInput, match="1 dimensions"):
        layers.image_layer_data(spectrum_frame(np.zeros(5), dispersion_ev=1, offset_ev=0, signal="EELS"))


def test_complex_images_show_their_magnitude():
    axes = (Axis(name="y"), Axis(name="x"))
    data, _, _ = layers.image_layer_data(Frame(data=np.full((3, 3), 3 + 4j), axes=axes, signal="wave"))
    assert np.allclose(data, 5)


def test_states_differ_in_shape_and_in_colour():
    styles = layers.STATE_STYLES
    assert set(styles) == set(TargetState)
    assert len({s.symbol for s in styles.values()}) == len(styles)
    assert len({s.glyph for s in styles.values()}) == len(styles)
    # as seen with the two common kinds of colour blindness (Machado et al. 2009, severity 1), in linear RGB
    deuteranopia = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    protanopia = np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])
    colors = layers.state_colors(np.arange(len(styles)))[:, :3].astype(float)
    for matrix in (np.eye(3), deuteranopia, protanopia):
        seen = np.clip(colors**2.2 @ matrix.T, 0, 1) ** (1 / 2.2)
        for (i, a), (j, b) in itertools.combinations(enumerate(seen), 2):
            assert np.linalg.norm(a - b) > 0.12, (list(styles)[i], list(styles)[j])


def test_targets_become_points_in_nm():
    items = judged(list(TargetState))
    data, arguments, kind = layers.target_layer_data(items, simulated=True, field_nm=100.0)
    assert kind == "points"
    viewer = ViewerModel()
    layer = viewer.add_points(data, **arguments)
    assert np.allclose(layer.data, [(10 * i, 5 * i) for i in range(6)])
    assert [str(u) for u in layer.units] == ["nanometer", "nanometer"]
    assert [str(s) for s in layer.symbol] == [layers.STATE_STYLES[i.state].symbol for i in items]
    assert list(layer.features["state"]) == [str(s) for s in TargetState]
    assert "SIMULATED" in layer.name


def test_no_targets_is_a_layer_too():
    data, arguments, _ = layers.target_layer_data([])
    assert ViewerModel().add_points(data, **arguments).data.shape == (0, 2)


@given(st.integers(1, 500), st.floats(1.0, 1e5))
def test_markers_neither_cover_the_field_nor_vanish(count, field_nm):
    size = layers.marker_size_nm(np.random.default_rng(0).uniform(0, field_nm, (count, 2)), field_nm)
    assert field_nm / 500 < size <= field_nm / 45


def test_a_target_is_described_in_one_line():
    item = judged([TargetState.APPROVED])[0]
    item = item.model_copy(update={"target": item.target.model_copy(update={"label": "edge", "reason": "5x noise"})})
    text = layers.describe_target(item)
    assert "\n" not in text
    for part in ("r0-0", "approved", "edge", "0.50", "5x noise", "nm"):
        assert part in text
