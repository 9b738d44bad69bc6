"""The Alignment dock on a column whose aberrations are known: what a person does, and what the controls do."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

pytest.importorskip("napari")
pytestmark = pytest.mark.gui

from napari_smarttem.alignment import reading  # noqa: E402
from napari_smarttem.alignment.pictures import through_aperture  # noqa: E402
from napari_smarttem.backends.faults import Fault, Faulty  # noqa: E402
from napari_smarttem.physics.aberrations import ESTIMATED  # noqa: E402
from napari_smarttem.widgets import alignment_pictures, base  # noqa: E402
from napari_smarttem.widgets.alignment import HISTORY, PROPOSED, AlignmentDock  # noqa: E402
from napari_smarttem.widgets.alignment_view import CIRCLE  # noqa: E402

from . import alignment_column  # noqa: E402
from .alignment_column import SIGMA, START, TinyEstimator  # noqa: E402

WAIT = 20_000


@pytest.fixture
def estimator(monkeypatch):
    made = TinyEstimator()
    monkeypatch.setattr(reading, "_estimator", lambda: made)
    return made


@pytest.fixture
def viewer(make_napari_viewer, session):
    viewer = make_napari_viewer(show=False)
    base.bind_session(viewer, session)
    return viewer


@pytest.fixture
def column():
    return alignment_column.microscope()


@pytest.fixture
def dock(viewer, session, column, estimator, qtbot):
    session.use(column)
    return opened(viewer, qtbot)


def opened(viewer, qtbot):
    dock = AlignmentDock(viewer)
    qtbot.addWidget(dock)
    qtbot.waitUntil(lambda: dock.target is not None, timeout=WAIT)
    return dock


def done(dock, qtbot):
    """Wait until the run that was begun is over and the window has heard of it."""

    def over():
        return not dock._starting and not dock.session.status.active and dock.record.going is None

    qtbot.waitUntil(over, timeout=WAIT)
    dock.relay.flush()
    qtbot.waitUntil(lambda: not dock.pictures.probe.waiting, timeout=WAIT)


def measured(dock, qtbot):
    dock.measure_button.click()
    done(dock, qtbot)
    return dock.record.newest("ronchigram")


def proposed(dock, qtbot):
    dock.propose_button.click()
    qtbot.waitUntil(lambda: bool(dock.proposal.rows()), timeout=WAIT)
    return {row.change.control: row for row in dock.proposal.rows()}


def runs(session):
    return [
        json.loads(folder.joinpath("run.jsonl").read_text().splitlines()[0])["doc"]["plan"]["settings"]
        for folder in sorted(session.folder.glob("*.smarttem"), key=lambda path: path.stat().st_mtime_ns)
    ]


def test_a_look_shows_the_aberrations_with_error_bars_and_leaves_the_optics_alone(dock, column, qtbot):
    before = column.optics.get()
    entry = measured(dock, qtbot)
    assert entry.reading.good
    expected = START + np.array([-1500.0, 0, 0, 0, 0, 0, 0, 0])
    assert np.all(np.abs(np.array(entry.reading.values) - expected) < 5 * SIGMA)
    assert column.optics.get() == before
    assert [dock.table.item(row, 0).text() for row in range(8)] == list(ESTIMATED)
    assert float(dock.table.item(0, 1).text()) == pytest.approx(entry.reading.values[0], abs=1.0)
    assert float(dock.table.item(3, 2).text()) == pytest.approx(4.0)
    assert "mrad" in dock.verdict.text()
    assert dock.settings_box.half_angle.text() == "30 mrad"


def test_measure_edit_one_reject_one_apply_undo(dock, column, qtbot, session):
    measured(dock, qtbot)
    rows = proposed(dock, qtbot)
    assert dock.pages.currentIndex() == PROPOSED
    assert rows["A1.x"].then == pytest.approx(-40.0, abs=2.0)
    edit = dock.proposal.item(list(rows).index("A2.x"), 3)
    edit.setText("-420")
    from qtpy.QtCore import Qt

    dock.proposal.item(list(rows).index("C3"), 0).setCheckState(Qt.CheckState.Unchecked)
    assert dock.apply_button.text() == "Apply (7)"
    dock.apply_button.click()
    done(dock, qtbot)
    values = column.optics.get()
    assert values["A2.x"] == -420.0
    assert values["C3"] == 0.0
    assert values["C1"] == pytest.approx(-120.0, abs=5.0)
    entry = dock.record.newest("ronchigram")
    assert entry.reading.value("A1.x") == pytest.approx(0.0, abs=5 * (0.3 + 0.3))
    assert entry.reading.value("A2.x") == pytest.approx(80.0, abs=50.0)
    assert entry.reading.value("C1") == pytest.approx(-1500.0, abs=8.0)
    verdicts = runs(session)[-1]["proposal"]
    assert {name: one["verdict"] for name, one in verdicts.items()} == {
        name: {"A2.x": "edited", "C3": "rejected"}.get(name, "accepted") for name in ESTIMATED
    }
    dock.undo_button.click()
    done(dock, qtbot)
    assert all(value == 0.0 for value in column.optics.get().values())
    assert not dock.undo_button.isEnabled()
    assert not dock.propose_button.isEnabled()  # what was measured is not what stands now


def test_what_is_typed_is_kept_within_the_limits_or_refused(dock, qtbot, monkeypatch):
    said = []
    monkeypatch.setattr(dock, "say", lambda level, text: said.append(text))
    measured(dock, qtbot)
    rows = proposed(dock, qtbot)
    place = list(rows).index("A1.x")
    dock.proposal.item(place, 3).setText("1e9")
    assert dock.proposal.rows()[place].then == 300.0  # the largest step
    assert "300" in said[-1]
    dock.proposal.item(place, 2).setText("many")
    assert dock.proposal.rows()[place].then == 300.0
    assert "not a number" in said[-1]


def test_rejecting_everything_leaves_nothing_to_apply(dock, qtbot):
    measured(dock, qtbot)
    proposed(dock, qtbot)
    dock.reject_button.click()
    assert not dock.apply_button.isEnabled()
    assert "tick" in dock.apply_button.toolTip()


def test_controls_are_learned_and_put_back(dock, column, qtbot):
    dock.learn_button.click()
    done(dock, qtbot)
    response = dock.record.responses["ronchigram"]
    assert set(response) == set(ESTIMATED)
    for name in ESTIMATED:
        assert response[name][name] == pytest.approx(1.0, abs=0.2)
    assert all(value == 0.0 for value in column.optics.get().values())


def test_every_change_is_taken_back_at_once(dock, column, qtbot):
    for _ in range(2):
        measured(dock, qtbot)
        proposed(dock, qtbot)
        dock.apply_button.click()
        done(dock, qtbot)
    assert len(dock.record.undoable("ronchigram")) == 2
    dock.undo_all_button.click()
    done(dock, qtbot)
    assert all(value == 0.0 for value in column.optics.get().values())
    assert not dock.record.undoable("ronchigram")


def test_focus_takes_the_measured_defocus_off(dock, column, qtbot):
    measured(dock, qtbot)
    dock.focus_button.click()
    done(dock, qtbot)
    assert column.camera.aberrations()[0] == pytest.approx(0.0, abs=5.0)


def test_the_record_outlives_the_dock(dock, viewer, qtbot):
    measured(dock, qtbot)
    again = AlignmentDock(viewer)
    qtbot.addWidget(again)
    qtbot.waitUntil(lambda: again.target is not None, timeout=WAIT)
    assert again.table.rowCount() == 8
    again.show_page(HISTORY)
    assert again.history.count() == 1


@pytest.mark.usefixtures("estimator")
def test_the_picture_and_its_circle_appear_in_the_angle_plane(shown_viewer, session, column, qtbot, monkeypatch):
    session.use(column)
    dock = base.open_dock(shown_viewer, "Alignment")
    qtbot.waitUntil(lambda: dock.target is not None, timeout=WAIT)
    measured(dock, qtbot)
    plane = base.open_dock(shown_viewer, "Angle plane")
    assert plane.frame.signal == "Ronchigram"
    assert plane.circles()[CIRCLE] == pytest.approx(dock.pictures.probe.quarter_pi_mrad, abs=0.01)
    said = dock.verdict.text()
    assert f"to {dock.pictures.probe.quarter_pi_mrad:.1f} mrad" in said
    assert (
        shown_viewer.layers[0].units == ("nanometer", "nanometer")
        or str(shown_viewer.layers[0].units[0]) == "nanometer"
    )
    dock.pictures.probe.view.setCurrentIndex(1)
    qtbot.waitUntil(lambda: not dock.pictures.probe.waiting, timeout=WAIT)
    assert plane.circles()[CIRCLE] < 2.0  # 1.5 um out of focus
    dock._show()
    assert dock.verdict.text() == said  # which speaks of the focus, whatever is shown

    # a hand on the aperture: worked out beside the window, no more than is needed, and the last value is what is seen
    worked = []

    def recorded(aberrations, **options):
        worked.append((threading.current_thread() is threading.main_thread(), options["convergence_mrad"]))
        return through_aperture(aberrations, **options)

    monkeypatch.setattr(alignment_pictures, "through_aperture", recorded)
    for aperture in (20.0, 21.0, 22.0, 23.0, 24.0):
        dock.pictures.probe.aperture.set_number(aperture)
    qtbot.waitUntil(lambda: not dock.pictures.probe.waiting, timeout=WAIT)
    assert worked == [(False, 20.0), (False, 24.0)]
    assert dock.pictures.probe.plate.image.boundingRect().width() > 0
    assert dock.pictures.probe.plate.viewRect().width() >= 2 * 1.25 * 24.0


@pytest.mark.parametrize(
    "failing",
    [
        (Fault("dropped", calls=("acquire_image",), at=(0,)), "lost"),
        (Fault("nan", calls=("acquire_image",), at=(0, 1, 2)), "not finite"),
        (Fault("refused", at=(1,)), "refused"),
    ],
    ids=["the camera dies", "not finite", "a control refuses"],
)
@pytest.mark.usefixtures("estimator")
def test_what_fails_is_said_in_a_sentence_and_the_optics_are_put_back(viewer, session, column, qtbot, failing):
    fault, words = failing
    column.optics.set({"C1": 30.0, "A1.x": 5.0})
    before = column.optics.get()
    faulty = Faulty(column, [fault])
    session.use(faulty)
    dock = opened(viewer, qtbot)
    dock.measure_button.click()
    done(dock, qtbot)
    assert session.status.outcome == "failed"
    assert words in dock.verdict.text()
    faulty.repair()
    if fault.kind == "dropped":  # over a lost connection nothing can be put back, and nobody is told that it was
        assert "could not be put back" in dock.verdict.text()
        assert "back where they were" not in dock.verdict.text()
    else:
        assert column.optics.get() == before
        assert "back where they were" in dock.verdict.text()
    assert not dock.record.undoable("ronchigram")


def test_a_camera_without_calibration_is_refused(dock, column, qtbot):
    column.camera.units = "pixel"
    dock.measure_button.click()
    done(dock, qtbot)
    assert "calibrate" in dock.verdict.text()
    assert all(value == 0.0 for value in column.optics.get().values())


def test_a_picture_that_is_no_measurement_gives_no_numbers(dock, qtbot):
    dock.settings_box.go_to_defocus.setChecked(False)
    entry = measured(dock, qtbot)
    assert not entry.reading.good
    assert dock.verdict.text().startswith("No measurement")
    assert dock.table.rowCount() == 0
    assert not dock.propose_button.isEnabled()


def test_keep_it_good_asks_or_corrects(dock, column, qtbot, monkeypatch):
    said = []
    monkeypatch.setattr(dock, "say", lambda level, text: said.append(text))
    dock.keep_box.on.setChecked(True)
    assert "Next measurement in" in dock.keep_box.words.text()
    dock.keep._due = 0.0
    dock.keep.look()
    done(dock, qtbot)
    qtbot.waitUntil(lambda: bool(dock.proposal.rows()), timeout=WAIT)
    assert any("times its limit" in one for one in said)
    assert all(value == 0.0 for value in column.optics.get().values())
    dock.keep_box.mode.setCurrentIndex(1)
    dock.keep._due = 0.0
    dock.keep.look()
    qtbot.waitUntil(lambda: bool(dock.record.undoable("ronchigram")), timeout=WAIT)
    done(dock, qtbot)
    left = column.camera.aberrations()
    assert np.all(np.abs(left[1:]) < 6 * SIGMA[1:])
    assert column.optics.get()["C1"] == 0.0  # the focus is a person's


def test_the_loop_aligns_by_itself_and_is_undone_at_once(dock, column, estimator, qtbot, monkeypatch):
    from napari_smarttem.alignment import plan

    monkeypatch.setattr(plan, "Estimator", lambda model: estimator)
    dock.auto_button.click()
    done(dock, qtbot)
    assert dock.session.status.outcome == "finished"
    assert "Ronchigrams" in dock.verdict.text()
    assert np.all(np.abs(column.camera.aberrations()) < 5 * SIGMA)
    readings = dock.record.of("ronchigram")
    assert [round(one.aim["C1"]) for one in readings][:2] == [-1500, -700]
    assert len(dock.plot.curves) == 8
    dock.undo_button.click()
    done(dock, qtbot)
    assert all(value == 0.0 for value in column.optics.get().values())


def test_the_loop_is_stopped_and_the_optics_go_back(dock, column, estimator, qtbot, monkeypatch):
    from napari_smarttem.alignment import plan

    monkeypatch.setattr(plan, "Estimator", lambda model: estimator)
    monkeypatch.setattr(column.camera, "acquire_image", slow(column.camera.acquire_image))
    dock.auto_button.click()
    qtbot.waitUntil(lambda: column.optics.get()["C1"] != 0.0, timeout=WAIT)
    qtbot.waitUntil(dock.bar.stop_button.isEnabled, timeout=WAIT)
    dock.bar.stop_button.click()
    done(dock, qtbot)
    assert dock.session.status.outcome == "stopped"
    assert all(value == 0.0 for value in column.optics.get().values())
    assert not dock.record.undoable("ronchigram")


def test_a_camera_that_fails_in_the_middle_of_the_loop_ends_it_with_the_optics_restored(
    viewer, session, column, estimator, qtbot
):
    from napari_smarttem.alignment import plan

    original = plan.Estimator
    plan.Estimator = lambda model: estimator
    try:
        session.use(Faulty(column, [Fault("beam_gone", calls=("acquire_image",), at=(1,))]))
        dock = opened(viewer, qtbot)
        dock.auto_button.click()
        done(dock, qtbot)
    finally:
        plan.Estimator = original
    assert session.status.outcome == "failed" or "given up" in dock.verdict.text()
    assert "beam" in dock.verdict.text() or "given up" in dock.verdict.text()
    assert all(value == 0.0 for value in column.optics.get().values())


def slow(acquire):
    """A camera that waits until it is told to stop."""

    def waiting(exposure_s, cancel, camera=None):
        from napari_smarttem.schema import Cancelled

        if cancel.wait(10.0):
            raise Cancelled("stopped")
        return acquire(exposure_s, cancel, camera)

    return waiting


@pytest.mark.parametrize("reply", [0, 2], ids=["keep the best", "put back"])
def test_without_amorphous_area_the_sharpest_image_is_searched_for(dock, column, qtbot, monkeypatch, reply):
    from napari_smarttem.widgets import alignment_actions

    monkeypatch.setattr(alignment_actions, "SEARCH_IMAGES", 6)
    column.optics.set({"C1": 30.0})
    before = column.optics.get()
    dock.choose("image")
    assert "Auto-align" in dock.measure_button.toolTip()
    dock.settings_box.exposure.set_number(0.05)
    dock.auto_button.click()
    qtbot.waitUntil(lambda: dock.session.review.is_open, timeout=WAIT)
    dock.relay.flush()
    assert not dock.answers.isHidden()
    dock.answers.layout().itemAt(reply).widget().click()
    done(dock, qtbot)
    assert dock.answers.isHidden()
    moved = column.optics.get() != before
    assert bool(dock.record.undoable("image")) is moved
    assert not (moved and reply == 2)


def test_without_an_instrument_every_button_says_why(viewer, qtbot):
    dock = AlignmentDock(viewer)
    qtbot.addWidget(dock)
    for button in (dock.measure_button, dock.propose_button, dock.auto_button, dock.undo_button):
        assert not button.isEnabled()
        assert "Connect an instrument" in button.toolTip()


def test_an_instrument_without_a_camera_says_what_is_missing(viewer, session, qtbot, column):
    column.camera = column.scanner = None
    session.use(column)
    dock = AlignmentDock(viewer)
    qtbot.addWidget(dock)
    qtbot.waitUntil(lambda: "needs a camera" in dock.verdict.text(), timeout=WAIT)
    assert not dock.measure_button.isEnabled()
