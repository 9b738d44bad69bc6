"""The Alignment dock on whole simulated Ronchigrams, read by the estimator and the weights that come with the package."""

# ruff: noqa: F811 (fixtures are imported and then arguments)
from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("torch", reason="Ronchigrams are simulated and read with torch")
pytestmark = pytest.mark.gui

from napari_smarttem.backends.registry import connect  # noqa: E402
from napari_smarttem.nn.registry import load  # noqa: E402
from napari_smarttem.physics.aberrations import ESTIMATED, quarter_pi_angle_mrad  # noqa: E402

from .alignment_window import WAIT, clicked, dock, drawn  # noqa: E402, F401

TENSION = 300e3


@pytest.fixture
def column():
    return connect("simulator", seed=5, speed=None, high_tension_v=TENSION, misalignment=1.0, optics_imperfection=1.0)


@pytest.fixture
def target():
    return "ronchigram"


def truth(column):
    """What the column has, whoever asks."""
    return column.column.true_aberrations(column.now_s())


def in_focus(column):
    """How far the phase would stay under pi/4 with the focus right."""
    return float(quarter_pi_angle_mrad({**truth(column), "C1": 0.0}, TENSION))


def test_measure_edit_one_reject_one_apply_and_undo(dock, column, qtbot, shown_viewer, monkeypatch):
    seen_at, acquire = [], column.camera.acquire_image

    def watched(*args, **kwargs):
        frame = acquire(*args, **kwargs)
        seen_at.append(truth(column))
        return frame

    monkeypatch.setattr(column.camera, "acquire_image", watched)
    start = column.optics.get()
    began = in_focus(column)
    clicked(dock.measure_button, dock, qtbot)
    entry = dock.record.newest("ronchigram")
    assert entry.reading.good, entry.reading.verdict
    assert entry.reading.made_with["sha256"] == load("ronchigram").card["sha256"]
    true = seen_at[-1]  # out of focus, where cross-talk of the focus belongs to the truth too
    pulls = [(entry.reading.value(n) - true[n]) / entry.reading.sigma[entry.reading.names.index(n)] for n in ESTIMATED]
    assert np.max(np.abs(pulls)) < 5.0

    dock.propose_button.click()
    qtbot.waitUntil(lambda: len(dock.proposal.rows()) > 2, timeout=WAIT)
    changes = {row.change.control: row.change for row in dock.proposal.rows()}
    dock.proposal.set_accepted("C3", False)
    edited = round(0.5 * (changes["A1.x"].now + changes["A1.x"].then), 1)
    dock.proposal.set_then("A1.x", edited)
    clicked(dock.apply_button, dock, qtbot)
    after = column.optics.get()
    assert after["C3"] == start["C3"]
    assert after["A1.x"] == pytest.approx(edited)
    assert after["B2.x"] == pytest.approx(changes["B2.x"].then)
    assert in_focus(column) > began

    clicked(dock.undo_button, dock, qtbot)
    assert column.optics.get() == pytest.approx(start)

    dock.show_page(0)
    seen = drawn(shown_viewer, dock.pictures.probe.plate, qtbot)
    assert seen.std() > 20, "the phase plate is drawn"
