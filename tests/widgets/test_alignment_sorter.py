"""The Alignment dock on the simulated OAM sorter, with the weights that come with the package: every click of a person."""

# ruff: noqa: F811 (fixtures are imported and then arguments)
from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("torch", reason="the sorter's pictures are read by a network")
pytestmark = pytest.mark.gui

from napari_smarttem.alignment.targets.oam_sorter import MODEL  # noqa: E402
from napari_smarttem.backends.registry import connect  # noqa: E402
from napari_smarttem.nn.registry import load  # noqa: E402
from napari_smarttem.physics.oam import PARAMETERS  # noqa: E402
from napari_smarttem.physics.oam_range import HALF_RANGES  # noqa: E402

from .alignment_window import WAIT, clicked, dock, drawn  # noqa: E402, F401

TARGET = "oam-sorter"


@pytest.fixture
def column():
    return connect("simulator", speed=None, seed=4, sorter=True)


@pytest.fixture
def target():
    return TARGET


def misalignment(column):
    """The truth, in half-ranges: what the sorter in the column has, whoever asks."""
    part = column.sorter
    return np.abs(part.misalignment(part.clock.now_s()) / HALF_RANGES)


def test_learn_measure_propose_reject_one_apply_undo_and_auto_align(dock, column, qtbot, session):
    clicked(dock.learn_button, dock, qtbot)
    assert set(dock.record.responses[TARGET]) == set(dock.target.controls)

    began = misalignment(column)
    clicked(dock.measure_button, dock, qtbot)
    entry = dock.record.newest(TARGET)
    assert entry.reading.good
    assert entry.reading.names == PARAMETERS
    assert entry.reading.made_with["sha256"] == load(MODEL).card["sha256"]
    assert [dock.table.item(row, 0).text() for row in range(dock.table.rowCount())] == list(PARAMETERS)
    assert all(float(dock.table.item(row, 2).text()) > 0 for row in range(len(PARAMETERS)))
    deviation = np.abs(np.array(entry.reading.values) / HALF_RANGES)
    assert np.allclose(deviation, began, atol=0.05)

    spectrum = dock.pictures.spectrum
    assert dock.pictures.currentWidget() is spectrum
    hbar, electrons = spectrum.curve.getData()
    assert hbar.min() < -10 < 10 < hbar.max()
    assert electrons.sum() == pytest.approx(np.sum(dock.record.frames[TARGET].data))
    assert "Resolution" in spectrum.words.text()
    assert "ħ" in spectrum.words.text()

    before = column.optics.get()
    dock.propose_button.click()
    qtbot.waitUntil(lambda: len(dock.proposal.rows()) == len(dock.target.controls), timeout=WAIT)
    kept = dock.proposal.rows()[0].change.control
    dock.proposal.set_accepted(kept, False)
    clicked(dock.apply_button, dock, qtbot)
    after = column.optics.get()
    assert after[kept] == before[kept]
    assert all(after[name] != before[name] for name in dock.target.controls if name != kept)

    clicked(dock.undo_button, dock, qtbot)
    assert column.optics.get() == pytest.approx(before)

    clicked(dock.auto_button, dock, qtbot)
    newest = dock.record.newest(TARGET).reading
    assert newest.good
    assert newest.figures["merit"] >= 0.95
    assert np.all(misalignment(column) < 0.1)
    assert "aligned" in dock.verdict.text().lower()


def test_the_window_shows_the_sorters_picture_and_its_spectrum(dock, shown_viewer, qtbot):
    clicked(dock.measure_button, dock, qtbot)
    seen = drawn(shown_viewer, dock.pictures.spectrum.plot, qtbot).astype(int)
    line = (0x56, 0xB4, 0xE9)
    assert np.sum(np.abs(seen - np.array(line)).max(axis=-1) < 24) > 60, "the spectrum is drawn"
