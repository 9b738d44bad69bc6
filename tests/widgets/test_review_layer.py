"""The review on the canvas: what a hand does there is what the review says, and the other way round."""

from __future__ import annotations

import gc
import time
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from napari.components import ViewerModel
from qtpy.QtCore import Qt

from napari_smarttem.schema import TargetState
from napari_smarttem.widgets.lasso import inside_polygon
from napari_smarttem.widgets.layers import STATE_STYLES
from napari_smarttem.widgets.review_layer import ReviewLayer, review_layer_for

from .conftest import propose

pytestmark = pytest.mark.gui

PLACES = [(40.0, 40.0), (40.0, 160.0), (100.0, 100.0), (160.0, 40.0), (160.0, 160.0)]
CONTROL = Qt.KeyboardModifier.ControlModifier
SHIFT = Qt.KeyboardModifier.ShiftModifier
P, A, R = TargetState.PROPOSED, TargetState.APPROVED, TargetState.REJECTED


@pytest.fixture
def review_layer(shown_viewer, session, qtbot):
    layer = review_layer_for(shown_viewer)
    propose(session, PLACES)
    qtbot.waitUntil(lambda: layer.layer is not None and len(layer.layer.data) == len(PLACES), timeout=2000)
    qtbot.wait(30)
    return layer


@pytest.fixture
def model_layer(qapp, session):
    """The same without a window, for what needs no hand."""
    viewer = ViewerModel()
    layer = ReviewLayer(viewer, session)
    propose(session, PLACES)
    layer.refresh()
    yield layer
    layer.close()
    del viewer


def states(session):
    return [item.state for item in session.review.items()]


def drawn_as(layer):
    """The state of each marker, read back from its colour and shape alone."""
    found = []
    for color, symbol in zip(layer.layer.face_color, layer.layer.symbol, strict=True):
        name = "#" + "".join(f"{round(float(c) * 255):02X}" for c in color[:3])
        found.append(
            next(s for s, style in STATE_STYLES.items() if style.color == name and style.symbol == str(symbol))
        )
    return found


def test_click_selects_and_keys_judge(review_layer, session, hand):
    hand.click(*PLACES[1])
    assert review_layer.selected_ids() == ("r0-0001",)
    hand.key(Qt.Key.Key_A)
    assert states(session) == [P, A, P, P, P]
    assert drawn_as(review_layer) == [P, A, P, P, P]
    hand.click(*PLACES[3])
    hand.key(Qt.Key.Key_R)
    assert states(session) == [P, A, P, R, P]
    hand.key(Qt.Key.Key_U)
    assert states(session) == [P, A, P, P, P]
    assert drawn_as(review_layer) == [P, A, P, P, P]


def test_a_second_click_changes_the_verdict(review_layer, session, hand, qtbot):
    seen = []
    for _ in range(4):
        hand.click(*PLACES[2])
        qtbot.wait(450)  # two quick clicks would be a double click
        seen.append(session.review.state("r0-0002"))
    assert seen == [P, A, R, P]


def test_keys_judge_the_target_under_the_cursor_when_none_is_selected(review_layer, session, hand):
    hand.point_at(*PLACES[4])
    hand.key(Qt.Key.Key_A)
    assert states(session) == [P, P, P, P, A]


def test_shift_click_extends_the_selection_and_empty_canvas_clears_it(review_layer, hand):
    hand.click(*PLACES[0])
    hand.click(*PLACES[1], SHIFT)
    assert review_layer.selected_ids() == ("r0-0000", "r0-0001")
    hand.click(*PLACES[0], SHIFT)
    assert review_layer.selected_ids() == ("r0-0001",)
    hand.click(70.0, 70.0)
    assert review_layer.selected_ids() == ()


def test_panning_selects_nothing(review_layer, session, hand):
    hand.drag([PLACES[0], (60.0, 60.0), (70.0, 70.0)])
    assert review_layer.selected_ids() == ()
    assert states(session) == [P] * 5


def test_rectangle_then_reject(review_layer, session, hand):
    review_layer.layer.mode = "select"
    hand.drag([(20.0, 20.0), (60.0, 100.0), (60.0, 180.0)])
    assert review_layer.selected_ids() == ("r0-0000", "r0-0001")
    hand.key(Qt.Key.Key_R)
    assert states(session) == [R, R, P, P, P]


def test_lasso_selects_what_it_encircles(review_layer, shown_viewer, session, hand):
    hand.key(Qt.Key.Key_L)
    assert review_layer.lasso
    # an L around three corners that leaves the middle and the lower right out
    hand.drag(
        [(20, 20), (20, 100), (20, 180), (60, 180), (60, 100), (60, 60), (120, 60), (180, 60), (180, 20), (100, 20)]
    )
    assert review_layer.selected_ids() == ("r0-0000", "r0-0001", "r0-0003")
    hand.key(Qt.Key.Key_R)
    assert states(session) == [R, R, P, R, P]
    hand.drag([(80, 80), (80, 120), (120, 120), (120, 80)], SHIFT)
    assert len(review_layer.selected_ids()) == 4
    hand.key(Qt.Key.Key_Escape)
    assert not review_layer.lasso
    assert [layer.name for layer in shown_viewer.layers if "Lasso" in layer.name] == []
    assert review_layer.layer.mouse_pan


def test_drag_moves_a_target_and_undo_brings_it_back(review_layer, session, hand):
    review_layer.layer.mode = "select"
    hand.click(*PLACES[2])
    hand.drag([PLACES[2], (110.0, 115.0), (120.0, 130.0)])
    moved = session.review.get("r0-0002").target
    assert (moved.y_nm, moved.x_nm) == pytest.approx((120.0, 130.0), abs=2.0)
    assert session.review.state("r0-0002") is P
    hand.key(Qt.Key.Key_Z, CONTROL)
    back = session.review.get("r0-0002").target
    assert (back.y_nm, back.x_nm) == PLACES[2]
    assert np.allclose(review_layer.layer.data, PLACES)


def test_a_target_dragged_out_of_the_field_stays_where_it_was(review_layer, session, hand, shown_viewer):
    shown_viewer.scene.camera.zoom *= 0.6
    review_layer.layer.mode = "select"
    hand.click(*PLACES[0])
    hand.drag([PLACES[0], (0.0, 0.0), (-20.0, -20.0)])
    assert session.review.get("r0-0000").target.y_nm == PLACES[0][0]
    assert np.allclose(review_layer.layer.data, PLACES)


def test_adding_by_hand_is_a_target_of_its_own(review_layer, session, hand):
    hand.click(*PLACES[1])
    hand.key(Qt.Key.Key_R)
    review_layer.layer.mode = "add"
    hand.click(70.0, 120.0)
    items = session.review.items()
    assert len(items) == len(PLACES) + 1
    added = items[-1]
    assert (added.target.y_nm, added.target.x_nm) == pytest.approx((70.0, 120.0), abs=1.0)
    assert added.target.label == "manual"
    assert added.state is A  # and not rejected, like the one selected before
    assert drawn_as(review_layer)[-1] is A
    assert list(review_layer.layer.features["state"])[-1] == "approved"
    review_layer.undo()
    assert len(session.review.items()) == len(PLACES)
    assert len(review_layer.layer.data) == len(PLACES)
    review_layer.redo()
    assert len(review_layer.layer.data) == len(PLACES) + 1


def test_deleting_a_marker_rejects_its_target(model_layer, session):
    model_layer.layer.selected_data = {1, 3}
    model_layer.layer.remove_selected()
    assert states(session) == [P, R, P, R, P]
    assert len(model_layer.layer.data) == len(PLACES)
    assert drawn_as(model_layer) == [P, R, P, R, P]


def test_undo_and_redo_by_key(review_layer, session, hand):
    hand.click(*PLACES[0])
    hand.key(Qt.Key.Key_A)
    hand.key(Qt.Key.Key_R)
    hand.key(Qt.Key.Key_Z, CONTROL)
    assert states(session)[0] is A
    hand.key(Qt.Key.Key_Z, CONTROL | SHIFT)
    assert states(session)[0] is R
    hand.key(Qt.Key.Key_Z, CONTROL)
    hand.key(Qt.Key.Key_Y, CONTROL)
    assert states(session)[0] is R


def test_status_bar_says_why(review_layer, shown_viewer, hand, qtbot):
    hand.point_at(*PLACES[3])
    shown_viewer.update_status_from_cursor()  # what napari's own thread does, which its test fixture switches off
    text = str(shown_viewer.status)
    assert "gradient 5x the noise" in text
    for part in ("r0-0003", "proposed", "edge", "score 0.58"):
        assert part in text


def test_the_runs_marks_appear_without_touching_the_review(model_layer, session, qtbot):
    heard = []
    session.review.changed.connect(heard.append)
    session.review.mark("r0-0000", TargetState.ACQUIRING)
    session.review.mark("r0-0001", TargetState.FAILED)
    session.review.mark("r0-0002", TargetState.DONE)
    expected = [TargetState.ACQUIRING, TargetState.FAILED, TargetState.DONE, P, P]
    qtbot.waitUntil(lambda: drawn_as(model_layer) == expected, timeout=2000)
    assert len(heard) == 3
    assert not session.review.can_undo


def test_a_deleted_layer_comes_back(model_layer, session, qtbot):
    viewer = model_layer.viewer
    model_layer.approve(["r0-0001"])
    viewer.layers.remove(model_layer.layer)
    qtbot.waitUntil(lambda: model_layer.layer is not None, timeout=2000)
    assert model_layer.layer in viewer.layers
    assert drawn_as(model_layer) == [P, A, P, P, P]


def test_new_proposals_replace_the_markers(model_layer, session, qtbot):
    propose(session, [(10.0, 10.0), (20.0, 20.0)], "review-1")
    qtbot.waitUntil(lambda: len(model_layer.layer.data) == 2, timeout=2000)
    assert drawn_as(model_layer) == [P, P]


def test_ten_thousand_points_change_state_quickly(qapp, session):
    viewer = ViewerModel()
    layer = ReviewLayer(viewer, session)
    rng = np.random.default_rng(0)
    propose(session, rng.uniform(1, 199, (10_000, 2)))
    layer.refresh()
    assert len(layer.layer.data) == 10_000
    ids = [item.target.target_id for item in session.review.items()]
    spent = []
    for verdict in ("approve", "reject", "reset", "approve", "reject"):
        getattr(session.review, verdict)(ids)
        start = time.process_time()
        layer.refresh()
        spent.append(time.process_time() - start)
    assert np.median(spent) <= 0.060, spent
    assert set(drawn_as(layer)) == {R}
    layer.close()


def test_nothing_keeps_a_closed_viewer(make_napari_viewer, session):
    from napari_smarttem.widgets.base import bind_session

    viewer = make_napari_viewer()
    bind_session(viewer, session)
    layer = review_layer_for(viewer)
    propose(session, PLACES)
    layer.refresh()
    gone = weakref.ref(viewer)
    viewer.close()
    del viewer, layer
    for _ in range(3):
        gc.collect()
    assert gone() is None or not hasattr(gone().window, "_qt_window")


def test_a_simulated_instruments_targets_say_so(model_layer, session, monkeypatch):
    from types import SimpleNamespace

    assert "SIMULATED" not in model_layer.layer.name
    monkeypatch.setattr(
        session, "_instrument", SimpleNamespace(info=SimpleNamespace(simulated=True), close=lambda: None)
    )
    propose(session, PLACES[:2], "review-1")
    model_layer.refresh()
    assert "SIMULATED" in model_layer.layer.name
    monkeypatch.setattr(session, "_instrument", None)
    propose(session, PLACES[:3], "review-2")
    model_layer.refresh()
    assert "SIMULATED" not in model_layer.layer.name


def test_a_lasso_knows_inside_from_outside():
    square = np.array([(0, 0), (0, 10), (10, 10), (10, 0)])
    points = np.array([(5, 5), (-1, 5), (5, 11), (9.99, 0.01), (20, 20)])
    assert list(inside_polygon(points, square)) == [True, False, False, True, False]
    # a ring drawn out and back leaves its middle out
    ring = np.array([(0, 0), (0, 10), (10, 10), (10, 0), (0, 0), (3, 3), (7, 3), (7, 7), (3, 7), (3, 3)])
    assert list(inside_polygon(np.array([(5, 5), (1.5, 5), (5, 8.5)]), ring)) == [False, True, True]
    assert not inside_polygon(points, square[:2]).any()


@given(st.integers(3, 40), st.integers(0, 10_000))
def test_a_lasso_agrees_with_the_geometry_of_a_circle(corners, seed):
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    polygon = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    points = np.random.default_rng(seed).uniform(-1.5, 1.5, (200, 2))
    radius = np.hypot(*points.T)
    inside = inside_polygon(points, polygon)
    assert not inside[radius > 1].any()
    assert inside[radius < np.cos(np.pi / corners) - 1e-9].all()
