"""The Instrument dock: says what is connected, whether it is real, where the beam is; STOP stops and blanks."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")
pytestmark = pytest.mark.gui

from qtpy.QtCore import Qt  # noqa: E402

from napari_smarttem.backends.registry import BackendEntry  # noqa: E402
from napari_smarttem.schema import PlanSpec, TargetState  # noqa: E402
from napari_smarttem.widgets import base  # noqa: E402
from napari_smarttem.widgets.dose_meter import DoseMeter, dose_text  # noqa: E402

WAIT = 15_000


@pytest.fixture
def viewer(make_napari_viewer, session):
    viewer = make_napari_viewer(show=False)
    base.bind_session(viewer, session)
    return viewer


@pytest.fixture
def dock(viewer, qtbot):
    from napari_smarttem.widgets.instrument import InstrumentDock

    dock = InstrumentDock(viewer)
    qtbot.addWidget(dock)
    dock.show()
    return dock


def connect(dock, session, qtbot, **settings):
    dock.choose("simulator", specimen="core-shell", seed=1, speed=settings.pop("speed", None))
    qtbot.mouseClick(dock.connect_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: session.instrument is not None and not dock._connecting, timeout=WAIT)
    dock.relay.flush()


def test_a_simulated_instrument_says_so_in_the_dock_and_in_the_window_title(dock, viewer, session, qtbot):
    assert not dock.mark.isVisible()
    connect(dock, session, qtbot)
    assert dock.mark.isVisible()
    assert dock.mark.text() == "SIMULATED"
    assert "SIMULATED" in viewer.title
    assert "200 kV" in dock.optics_line.text()
    assert "50 pA" in dock.optics_line.text()
    assert "spectrometer" in dock.capabilities.text()
    qtbot.mouseClick(dock.disconnect_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: session.instrument is None and not dock._connecting, timeout=WAIT)
    dock.relay.flush()
    assert not dock.mark.isVisible()
    assert "SIMULATED" not in viewer.title
    assert dock.identity.text() == "not connected"


def test_what_cannot_be_connected_is_said_in_the_dock_in_one_sentence(dock, session, qtbot, tmp_path):
    dock.choose("replay", file="")
    dock.connect_instrument()
    assert "No recording was chosen" in dock.sentence.text()
    missing = tmp_path / "nowhere.hspy"
    dock.choose("replay", file=str(missing))
    dock.connect_instrument()
    qtbot.waitUntil(lambda: not dock._connecting, timeout=WAIT)
    assert "nowhere.hspy" in dock.sentence.text()
    assert "\n" not in dock.sentence.text()
    assert session.instrument is None


def test_a_backend_that_cannot_be_used_is_listed_with_the_reason(viewer, qtbot, monkeypatch):
    from napari_smarttem.backends import registry
    from napari_smarttem.widgets.instrument import InstrumentDock

    listed = registry.available() | {"ceos": BackendEntry("ceos", False, "needs the package 'ceospy'")}
    monkeypatch.setattr(registry, "available", lambda: listed)
    dock = InstrumentDock(viewer)
    qtbot.addWidget(dock)
    row = dock.backend.findData("ceos")
    assert "not available" in dock.backend.itemText(row)
    assert not dock.backend.model().item(row).isEnabled()
    assert "ceospy" in dock.backend.itemData(row, Qt.ItemDataRole.ToolTipRole)


def test_another_packages_backend_gets_a_form_of_its_settings(qtbot):
    from napari_smarttem.widgets.backend_form import BackendForm

    form = BackendForm()
    qtbot.addWidget(form)
    form.show_backend("other", ("host", "port", "secure"))
    form.show_settings({"host": "scope", "port": 8888})
    assert form.settings() == {"host": "scope", "port": 8888}


def test_stop_ends_the_run_and_blanks_the_beam(dock, session, qtbot):
    connect(dock, session, qtbot, speed=1.0)
    dock.dose.limited.setChecked(True)
    dock.dose.budget.set_number(2e3)
    assert session.instrument.dose_budget_e_per_a2 == pytest.approx(2e3)
    settings = {"points": 200, "exposure_s": 0.2, "chooser": "grid", "overview_shape": [32, 32]}
    session.start(PlanSpec(kind="acquisition", settings=settings), policy="approve_all", dose_budget_e_per_a2=2e3)
    qtbot.waitUntil(lambda: session.review.counts()[TargetState.DONE] >= 2, timeout=WAIT)
    dock.relay.flush()
    assert dock.stop_button.isEnabled()
    assert not dock.connect_button.isEnabled()
    assert "run" in dock.connect_button.toolTip()
    qtbot.mouseClick(dock.stop_button, Qt.MouseButton.LeftButton)
    assert session.wait(5)
    assert session.status.outcome == "stopped"
    assert session.instrument.unwrapped.blanker.blanked
    dock.relay.flush()
    assert "stopped" in dock.run_line.text()
    dock._look()
    qtbot.waitUntil(lambda: "blanked" in dock.beam_line.text(), timeout=WAIT)
    assert dock.dose.bar.text().endswith("e/Å²")
    assert session.instrument.dose_e_per_a2 > 0
    assert dock.dose.bar.value() > 0


def test_stop_blanks_even_where_nothing_runs(dock, session, qtbot):
    connect(dock, session, qtbot)
    session.instrument.unwrapped.blanker.set_blanked(False)
    qtbot.mouseClick(dock.stop_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: session.instrument.unwrapped.blanker.blanked, timeout=WAIT)


def test_what_was_chosen_is_remembered(dock, viewer, session, qtbot):
    from napari_smarttem.widgets.instrument import InstrumentDock

    dock.choose("simulator", specimen="two-phase", seed=7, speed=None)
    dock.connect_instrument()
    qtbot.waitUntil(lambda: session.instrument is not None and not dock._connecting, timeout=WAIT)
    again = InstrumentDock(viewer)
    qtbot.addWidget(again)
    assert again.form.settings() == {"specimen": "two-phase", "seed": 7, "speed": None}


@pytest.mark.parametrize(("dose", "text"), [(0, "0"), (0.01234, "0.0123"), (12.34, "12.3"), (1234.5, "1234")])
def test_doses_have_three_digits(dose, text):
    assert dose_text(dose) == text


def test_the_meter_warns_before_the_budget_is_spent(qtbot):
    meter = DoseMeter()
    qtbot.addWidget(meter)
    told = []
    meter.budget_changed.connect(told.append)
    meter.show_budget(200.0)
    assert told == []
    styles = []
    for delivered in (20.0, 180.0, 200.0):
        meter.show_dose(delivered, 200.0)
        styles.append(meter.bar.styleSheet())
    assert len(set(styles)) == 3
    assert meter.bar.value() == 1000
    meter.limited.setChecked(False)
    assert told == [None]
    meter.show_dose(float(np.float32(3)), None)
    assert "no budget" in meter.bar.text()
