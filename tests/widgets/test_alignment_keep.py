"""*Keep it good* during acquisitions, and what a loop learned, from the Alignment dock."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")
pytestmark = pytest.mark.gui

from napari_smarttem.alignment import plan  # noqa: E402
from napari_smarttem.alignment.settings import OFFSETS_NM  # noqa: E402
from napari_smarttem.physics.aberrations import ESTIMATED  # noqa: E402
from napari_smarttem.schema import PlanSpec, controls_of  # noqa: E402
from napari_smarttem.widgets.acquisition import AcquisitionDock  # noqa: E402

from .alignment_column import START  # noqa: E402
from .test_alignment import WAIT, column, dock, done, estimator, opened, viewer  # noqa: E402, F401

POINTS = {
    "overview_shape": [16, 16], "chooser": "grid", "points": 4, "exposure_s": 0.01, "drift_every": 0,
    "image_nm": 20.0, "image_pixels": 16,
}  # fmt: skip


def test_the_dock_keeps_acquisitions_good_and_asks_there(dock, column, qtbot):  # noqa: F811
    session = dock.session
    points = AcquisitionDock(dock.viewer)
    qtbot.addWidget(points)
    assert session.keep_good is None
    dock.keep_box.in_runs.setChecked(True)
    dock.keep_box.every.setValue(2)
    assert session.keep_good.every == 2
    assert session.keep_good.settings["mode"] == "ask"
    session.start(PlanSpec(kind="acquisition", settings=POINTS))
    qtbot.waitUntil(lambda: session.review.is_open, timeout=WAIT)
    dock.relay.flush()
    assert dock.keep_answers.isHidden()  # that review is about points
    points.relay.flush()
    assert points.overview.button.isEnabled()
    assert points.choose.button.isEnabled()
    session.review.approve([one.target.target_id for one in session.review.items()])
    session.review.submit("go")
    for answer in (1, 0):  # leave it the first time, correct it the second
        qtbot.waitUntil(lambda: session.review.is_open, timeout=WAIT)
        dock.relay.flush()
        assert not dock.keep_answers.isHidden()
        assert "times its limit" in dock.verdict.text()
        assert column.optics.get()["A1.x"] == 0.0
        points.relay.flush()
        assert points.review.start_button.text() == "Correct, and go on"
        assert points.review.start_button.isEnabled()
        for other in (points.overview.button, points.choose.button):  # they would be taken for a no
            assert not other.isEnabled()
            assert "whether the alignment is corrected" in other.toolTip()
        dock.keep_answers.layout().itemAt(answer).widget().click()
        qtbot.waitUntil(lambda: not session.review.is_open, timeout=WAIT)
    qtbot.waitUntil(lambda: not session.status.active, timeout=WAIT)
    assert session.status.outcome == "finished", session.status.reason
    dock.relay.flush()
    dock.record._relay.flush()
    assert len(dock.record.of("ronchigram")) == 2
    assert dock.verdict.text().startswith("Corrected: ")
    left = column.camera.aberrations()
    assert np.abs(left[1]) < 0.1 * np.abs(START[1])
    # what a check has corrected is taken back like any other change
    assert [one.words for one in dock.record.undoable("ronchigram")] == ["keep it good"]
    qtbot.waitUntil(dock.undo_button.isEnabled, timeout=WAIT)
    dock.undo_button.click()
    done(dock, qtbot)
    assert column.optics.get()["A1.x"] == pytest.approx(0.0, abs=1e-9)
    assert "moved since the last measurement" in dock.verdict.text()
    dock.keep_box.in_runs.setChecked(False)
    assert session.keep_good is None


def test_a_dock_opened_anew_shows_what_acquisitions_do(dock, viewer, qtbot):  # noqa: F811
    dock.keep_box.before.setCurrentIndex(1)
    dock.keep_box.in_runs.setChecked(True)
    dock.keep_box.mode.setCurrentIndex(1)
    again = opened(viewer, qtbot)
    assert again.keep_box.in_runs.isChecked()
    assert again.keep_box.before.currentData() == "point"
    assert dock.session.keep_good.settings["mode"] == "correct"


def test_the_next_loop_begins_with_what_the_last_one_learned(dock, estimator, qtbot, monkeypatch):  # noqa: F811
    monkeypatch.setattr(plan, "Estimator", lambda model: estimator)
    states = controls_of(dock.session.instrument.optics, dock.target.controls)
    assert "response_covariance" not in dock._loop_spec(dock.target, states).settings
    dock.auto_button.click()
    done(dock, qtbot)
    learned = dock.record.learned["ronchigram"]
    assert np.allclose(learned.response, np.eye(8), atol=0.3)
    # and so do the checks on the way of acquisitions, which look from a defocus and must know what that control moves besides
    known = dock.check_settings()["response"]
    assert dock.check_settings()["expected_c1_nm"] == OFFSETS_NM[-1]  # from where the loop looked last
    assert [known["C1"][name] for name in ESTIMATED] == pytest.approx([row[0] for row in learned.response])
    states = controls_of(dock.session.instrument.optics, dock.target.controls)
    states["C1"]["value"] = dock.record.focus["ronchigram"]
    spec = dock._loop_spec(dock.target, states)
    assert np.array_equal(spec.settings["response"], learned.response)
    assert np.array_equal(spec.settings["response_covariance"], learned.covariance)
    belief = plan.first_belief(plan.parse(spec.settings))
    assert belief.response_covariance.shape == (8, 8, 8)
