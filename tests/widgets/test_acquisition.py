"""The Acquisition dock without a canvas: settings in and out, costs, reasons for what is disabled, and the launcher."""

from __future__ import annotations

import pytest

pytest.importorskip("napari")
pytestmark = pytest.mark.gui

from napari_smarttem.acquisition.settings import AcquisitionSettings, parse  # noqa: E402
from napari_smarttem.backends import registry  # noqa: E402
from napari_smarttem.schema import Axis, Field2D, PlanContext, Scan, TargetState, estimate_duration  # noqa: E402
from napari_smarttem.widgets import base, launch  # noqa: E402
from napari_smarttem.widgets.acquisition_form import ChoosePage, OverviewPage, cost_text  # noqa: E402
from napari_smarttem.widgets.suggested_windows import suggested_windows  # noqa: E402

from .conftest import propose  # noqa: E402

WAIT = 20_000
CONTEXT = PlanContext(
    field=Field2D(y_nm=-50, x_nm=-50, height_nm=100, width_nm=100),
    signals=("HAADF", "BF"),
    beam_current_pa=50.0,
    flyback_s=1e-4,
    settle_s=1e-3,
    spectrum_readout_s=2e-3,
)


@pytest.fixture
def viewer(make_napari_viewer, session):
    viewer = make_napari_viewer(show=False)
    base.bind_session(viewer, session)
    return viewer


@pytest.fixture
def dock(viewer, qtbot):
    from napari_smarttem.widgets.acquisition import AcquisitionDock

    dock = AcquisitionDock(viewer)
    qtbot.addWidget(dock)
    return dock


def connect(dock, session, **settings):
    session.connect("simulator", **({"speed": None, "seed": 2} | settings)).result(20)
    dock.relay.flush()


def test_the_pages_make_settings_that_the_plan_takes(dock, session):
    connect(dock, session)
    assert parse(dock.settings()).chooser == dock.choose.name


@pytest.mark.parametrize("index", range(7))
def test_every_chooser_has_a_form_whose_defaults_are_its_own(qtbot, index):
    page = ChoosePage()
    qtbot.addWidget(page)
    page.chooser.setCurrentIndex(index)
    chosen = parse(page.values())
    assert chosen == parse({"chooser": page.name})
    assert page.description.text()


def test_a_choosers_settings_are_kept_while_another_is_looked_at(qtbot):
    page = ChoosePage()
    qtbot.addWidget(page)
    page.put({"chooser": "clusters"})
    name, editor = next((n, e) for n, e in page.options.editors.items() if isinstance(e.get(), int))
    editor.put(editor.get() + 1)
    wanted = page.options.values()[name]
    page.put({"chooser": "grid"})
    page.put({"chooser": "clusters"})
    assert page.options.values()[name] == wanted


def test_the_overview_says_what_it_costs_before_it_is_taken(qtbot):
    page = OverviewPage()
    qtbot.addWidget(page)
    page.show_context(CONTEXT)
    page.put({"overview_shape": (512, 256), "overview_dwell_s": 2e-5})
    scan = Scan(step_id="x", shape=(512, 256), dwell_s=2e-5)
    assert cost_text(estimate_duration(scan, CONTEXT), 0.0) in page.cost.text()
    assert "e/Å²" in page.cost.text()
    assert "256 × 512" in page.cost.text()


def test_part_of_the_field_can_be_scanned(qtbot):
    page = OverviewPage()
    qtbot.addWidget(page)
    page.show_context(CONTEXT)
    assert page.values()["overview_field"] is None
    page.part.setCurrentIndex(1)
    assert page.values()["overview_field"] == {"y_nm": -25.0, "x_nm": -25.0, "height_nm": 50.0, "width_nm": 50.0}
    page.part.setCurrentIndex(3)
    page.shown_field = lambda: Field2D(y_nm=-80, x_nm=10, height_nm=60, width_nm=20)
    assert page.values()["overview_field"] == {"y_nm": -50.0, "x_nm": 10.0, "height_nm": 30.0, "width_nm": 20.0}
    page.shown_field = lambda: Field2D(y_nm=500, x_nm=500, height_nm=5, width_nm=5)
    assert page.scan_field() == CONTEXT.field


def test_detectors_can_be_left_out(qtbot):
    page = OverviewPage()
    qtbot.addWidget(page)
    page.show_context(CONTEXT)
    page._boxes["HAADF"].setChecked(False)
    assert page.values()["overview_signals"] == ["BF"]


def test_what_cannot_be_done_says_why(dock, session):
    assert not dock.overview.button.isEnabled()
    assert "Connect an instrument" in dock.overview.button.toolTip()
    assert "no run" in dock.run.export.toolTip()
    connect(dock, session)
    assert dock.overview.button.isEnabled()
    assert "overview" in dock.choose.button.toolTip()
    assert "overview" in dock.choose.find_regions.toolTip()


def test_the_cost_of_the_approved_follows_verdicts_and_exposure(dock, session):
    connect(dock, session)
    context = session.context
    propose(session, [(20.0 * i, 30.0) for i in range(1, 9)])
    dock.relay.flush()
    assert "Nothing is approved" in dock.review.estimate.text()
    session.review.approve([f"r0-000{i}" for i in range(5)])
    dock.run.put({"exposure_s": 0.4, "drift_every": 0})
    dock.relay.flush()
    dock._settings_changed()
    seconds = 5 * (0.4 + context.settle_s + context.spectrum_readout_s)
    assert "5 approved" in dock.review.estimate.text()
    assert cost_text(seconds, 0.0) in dock.review.estimate.text()
    before = dock.review.estimate.text()
    dock.run.put({"exposure_s": 4.0})
    dock._settings_changed()
    assert dock.review.estimate.text() != before
    session.review.abandon()


def test_bad_settings_are_refused_in_one_sentence_and_nothing_starts(dock, session, qtbot, monkeypatch):
    connect(dock, session)
    said = []
    monkeypatch.setattr(dock, "complain", lambda error: said.append(str(error)))
    dock.run.put({"exposure_s": 10.0})
    dock.choose.put({"time_budget_s": 1.0})
    dock.take_overview()
    assert not dock.overview.button.isEnabled()
    qtbot.waitUntil(lambda: bool(said), timeout=WAIT)
    assert dock.overview.button.isEnabled()
    assert "time budget" in said[0]
    assert not session.status.active


def test_settings_are_remembered_for_the_next_start(dock, viewer, session, qtbot):
    from napari_smarttem.widgets.acquisition import AcquisitionDock

    connect(dock, session)
    dock.choose.put({"chooser": "random", "points": 41})
    dock.run.put({"exposure_s": 0.03})
    dock.overview.put({"overview_shape": (24, 24)})
    dock.take_overview()
    qtbot.waitUntil(lambda: session.review.is_open, timeout=WAIT)
    again = AcquisitionDock(viewer)
    qtbot.addWidget(again)
    assert again.choose.name == "random"
    assert parse(again.settings()).points == 41
    assert parse(again.settings()).exposure_s == pytest.approx(0.03)
    session.stop()
    session.wait(5)


def test_a_finished_run_is_exported_with_a_row_for_each_target(dock, session, qtbot, tmp_path):
    connect(dock, session)
    dock.choose.put({"chooser": "grid", "points": 4})
    dock.run.put({"exposure_s": 0.01})
    dock.overview.put({"overview_shape": (24, 24)})
    dock.take_overview()
    qtbot.waitUntil(lambda: session.review.is_open, timeout=WAIT)
    dock.propose()
    qtbot.waitUntil(lambda: len(session.review.items()) == 4 and session.review.is_open, timeout=WAIT)
    session.review.approve([i.target.target_id for i in session.review.items()])
    dock.start()
    qtbot.waitUntil(lambda: not session.status.active, timeout=WAIT)
    assert session.review.counts()[TargetState.DONE] == 4
    dock.relay.flush()
    assert dock.run.export.isEnabled()
    target = tmp_path / "table.csv"
    dock.export_run(target)
    qtbot.waitUntil(lambda: dock.run.note.text().startswith("Written"), timeout=WAIT)
    assert len([line for line in target.read_text().splitlines() if "r0-" in line]) == 4


def test_a_folder_that_is_no_run_is_refused_in_the_dock(dock, session, qtbot, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(dock, "complain", lambda error: said.append(str(error)))
    dock.resume_run(tmp_path)
    qtbot.waitUntil(lambda: bool(said), timeout=WAIT)
    assert str(tmp_path.name) in said[0]
    assert not session.status.active


def test_windows_are_suggested_only_where_the_spectrum_holds_them():
    axis = Axis(name="energy_loss", units="eV", scale=0.5, offset=400.0)
    names = [w.name for w in suggested_windows(["C", "Ti", "O", "Cu"], "EELS", axis, 1400)]
    assert names == ["Ti L", "Cu L"]
    assert [w.name for w in suggested_windows(["C", "O", "N"], "EELS", axis, 1400)] == ["N K", "O K"]
    assert suggested_windows(["Cu"], "EELS", axis, 100) == []
    assert suggested_windows(["Cu"], "EDS", axis, 1400) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ("simulator", {"speed": 1.0})),
        (
            ["--fast", "--seed", "4", "--specimen", "polymer"],
            ("simulator", {"speed": None, "seed": 4, "specimen": "polymer"}),
        ),
        (["--file", "a.hspy"], ("replay", {"file": "a.hspy"})),
        (["--backend", "replay", "--file", "a.hspy"], ("replay", {"file": "a.hspy"})),
        (["--no-connect"], None),
    ],
)
def test_the_launcher_connects_to_what_it_is_told(arguments, expected):
    assert launch.connection(launch.parser().parse_args(arguments)) == expected


def test_the_launcher_opens_the_docks_and_connects_while_the_window_is_usable(
    make_napari_viewer, qtbot, monkeypatch, tmp_path
):
    import napari

    made = []
    seen = {}

    def viewer(**kwargs):
        made.append(make_napari_viewer(**kwargs))
        return made[0]

    def run():
        session = base.session_for(made[0])
        qtbot.waitUntil(lambda: session.instrument is not None, timeout=WAIT)
        qtbot.wait(100)
        docks = made[0].window.dock_widgets
        seen.update(docks=set(docks), folder=session.folder, title=made[0].title)

    monkeypatch.setattr(napari, "Viewer", viewer)
    monkeypatch.setattr(napari, "run", run)
    assert launch.main(["--fast", "--out", str(tmp_path / "here")]) == 0
    assert {name.split(" ")[0] for name in seen["docks"]} >= {"Instrument", "Acquisition"}
    assert seen["folder"] == tmp_path / "here"
    assert "SIMULATED" in seen["title"]


def test_opening_the_docks_costs_little(make_napari_viewer, session):
    """At most 1.5 s on top of napari's own start, whatever is connected in the background."""
    import time

    viewer = make_napari_viewer(show=False)
    base.bind_session(viewer, session)
    began = time.thread_time()
    launch.arrange(viewer, None)
    assert time.thread_time() - began < 1.5


def test_the_forms_cover_the_settings_of_the_plan(dock):
    shown = set(dock.settings())
    # what a person sets elsewhere, or what belongs to a single click
    elsewhere = {"propose_first", "rescan"}
    assert set(AcquisitionSettings.model_fields) - shown <= elsewhere


def test_targets_of_a_resumed_run_come_with_their_spectra(dock, session, qtbot):
    connect(dock, session)
    assert "simulator" in registry.available()
    dock.choose.put({"chooser": "grid", "points": 9})
    dock.run.put({"exposure_s": 0.01, "drift_every": 0})
    dock.overview.put({"overview_shape": (24, 24)})
    dock.take_overview()
    qtbot.waitUntil(lambda: session.review.is_open, timeout=WAIT)
    dock.propose()
    qtbot.waitUntil(lambda: bool(session.review.items()) and session.review.is_open, timeout=WAIT)
    session.review.approve([i.target.target_id for i in session.review.items()][:3])
    folder = session.run_folder
    session.stop()
    assert session.wait(5)
    dock.resume_run(folder)
    qtbot.waitUntil(lambda: session.review.is_open and session.status.active, timeout=WAIT)
    assert session.review.counts()[TargetState.APPROVED] == 3
    dock.relay.flush()
    dock.start()
    qtbot.waitUntil(lambda: not session.status.active, timeout=WAIT)
    dock.live._relay.flush()
    assert len(dock.live.spectra) == 3
    assert len(dock.live.maps) == 3
    assert dock.steps[dock.pages.currentIndex()].isChecked()
