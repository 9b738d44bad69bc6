"""Session and window: one session a viewer, the engine's signals at the window's pace, work off the window's thread."""

from __future__ import annotations

import gc
import json
import threading
import time
import weakref

import pytest
from napari.components import ViewerModel
from napari.utils._proxies import PublicOnlyProxy
from psygnal import Signal
from qtpy.QtCore import QObject, QThread
from qtpy.QtWidgets import QApplication, QWidget

from napari_smarttem.engine.session import Session
from napari_smarttem.engine.status import RunState, RunStatus
from napari_smarttem.schema import BadInput
from napari_smarttem.widgets import base
from napari_smarttem.widgets.energy_windows import EnergyWindow, EnergyWindows, windows_of
from napari_smarttem.widgets.relay import Relay

pytestmark = pytest.mark.gui


class Engine:
    """Something that emits as the engine does: from another thread, as fast as it can."""

    fired = Signal(object)

    def fire(self, values):
        thread = threading.Thread(target=lambda: [self.fired.emit(v) for v in values])
        thread.start()
        thread.join()


class Listener(QObject):
    def __init__(self):
        super().__init__()
        self.heard = []
        self.threads = set()

    def hear(self, value):
        self.heard.append(value)
        self.threads.add(QThread.currentThread())


class RecordingSession:
    """Stands where a session stands, and notes when it was closed."""

    message = Signal(str, str)

    def __init__(self):
        self.closed = []

    def close(self, timeout_s=10.0):
        self.closed.append(timeout_s)


def status(state, **changes):
    fields = {
        "state": RunState(state),
        "outcome": "",
        "reason": "",
        "run_id": "x",
        "step": None,
        "steps_done": 3,
        "steps_total": 10,
        "elapsed_s": 1.0,
        "remaining_s": 75.0,
        "dose_e_per_a2": 0.0,
        "dose_budget_e_per_a2": None,
    }
    return RunStatus(**(fields | changes))


# ------------------------------------------------------------------------------------------------------- sessions


def test_a_viewer_has_one_session_also_behind_a_proxy(qapp):
    viewer, other = ViewerModel(), ViewerModel()
    session = base.session_for(viewer)
    assert base.session_for(PublicOnlyProxy(viewer)) is session
    assert base.session_for(other) is not session
    with pytest.raises(ValueError, match="already"):
        base.bind_session(viewer, Session())


def test_a_session_does_not_keep_its_viewer(qapp):
    viewer = ViewerModel()
    session = RecordingSession()
    base.bind_session(viewer, session)
    gone = weakref.ref(viewer)
    del viewer
    gc.collect()
    assert gone() is None
    assert session.closed  # a viewer that goes takes its session with it


def test_closing_the_window_closes_the_session_and_hiding_a_dock_does_not(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True)
    session = RecordingSession()
    base.bind_session(viewer, session)
    dock = viewer.window.add_dock_widget(QWidget(), name="a view")
    dock.hide()
    viewer.window.remove_dock_widget(dock)
    qtbot.wait(50)
    assert session.closed == []
    viewer.close()
    qtbot.waitUntil(lambda: bool(session.closed), timeout=3000)
    assert max(session.closed) <= 10.0


def test_messages_reach_the_person(qapp, qtbot, monkeypatch):
    from napari.utils import notifications

    shown = []
    monkeypatch.setattr(notifications, "show_error", lambda text: shown.append(("error", text)))
    monkeypatch.setattr(notifications, "show_warning", lambda text: shown.append(("warning", text)))
    viewer, session = ViewerModel(), RecordingSession()
    base.bind_session(viewer, session)
    session.message.emit("info", "Connected.")
    session.message.emit("warning", "The dose budget is nearly spent.")
    session.message.emit("error", "The beam is gone.")
    qtbot.waitUntil(lambda: len(shown) == 2, timeout=2000)
    assert viewer.status == "Connected."
    assert shown == [("warning", "The dose budget is nearly spent."), ("error", "The beam is gone.")]


# ---------------------------------------------------------------------------------------------------------- relay


def test_the_newest_value_arrives_in_the_windows_thread(qtbot):
    engine, listener, relay = Engine(), Listener(), Relay()
    relay.listen(engine.fired, listener.hear)
    engine.fire(range(1000))
    qtbot.waitUntil(lambda: bool(listener.heard), timeout=2000)
    assert listener.heard == [999]
    assert listener.threads == {QApplication.instance().thread()}


def test_where_every_value_counts_none_is_lost(qtbot):
    engine, listener, relay = Engine(), Listener(), Relay()
    relay.listen(engine.fired, listener.hear, every=True)
    engine.fire(range(500))
    engine.fire(range(500, 700))
    relay.flush()
    assert [value for batch in listener.heard for value in batch] == list(range(700))


def test_a_deleted_listener_is_forgotten_and_a_stopped_relay_is_silent(qtbot):
    engine, listener, relay = Engine(), Listener(), Relay()
    relay.listen(engine.fired, listener.hear)
    gone = weakref.ref(listener)
    del listener
    gc.collect()
    assert gone() is None
    engine.fire([1])
    relay.flush()
    other = Listener()
    relay.listen(engine.fired, other.hear)
    relay.stop()
    relay.stop()
    engine.fire([2])
    relay.flush()
    assert other.heard == []


def test_any_callable_may_listen(qtbot):
    engine, heard, relay = Engine(), [], Relay()
    relay.listen(engine.fired, heard.append)
    engine.fire([1, 2])
    relay.flush()
    assert heard == [2]


def test_one_listeners_error_does_not_deafen_the_others(qtbot):
    engine, listener, relay = Engine(), Listener(), Relay()

    def broken(_value):
        raise RuntimeError("broken view")

    relay.listen(engine.fired, broken)
    relay.listen(engine.fired, listener.hear)
    with qtbot.captureExceptions() as errors:
        engine.fire([5])
        relay.flush()
    assert listener.heard == [5]
    assert "broken view" in str(errors[0][1])


# ----------------------------------------------------------------------------------------------------- background


def test_long_work_runs_elsewhere_and_ends_here(qtbot):
    done = []
    job = base.run_in_background(
        lambda cancel: (threading.current_thread(), cancel.is_set()),
        lambda result: done.append((*result, QThread.currentThread())),
    )
    qtbot.waitUntil(lambda: bool(done), timeout=3000)
    worker, cancelled, thread = done[0]
    assert worker is not threading.main_thread()
    assert not cancelled
    assert thread is QApplication.instance().thread()
    assert not job.running


def test_cancelled_work_is_told_and_reports_nothing(qtbot):
    done, seen = [], []

    def work(cancel):
        seen.append(cancel.wait(5))

    job = base.run_in_background(work, done.append, done.append)
    start = time.monotonic()
    job.cancel.set()
    qtbot.waitUntil(lambda: not job.running, timeout=3000)
    qtbot.wait(50)
    assert time.monotonic() - start < 2
    assert seen == [True]
    assert done == []


def test_an_error_arrives_as_it_was_raised(qtbot):
    errors = []

    def work(_cancel):
        raise BadInput("no such file; choose another")

    base.run_in_background(work, None, errors.append)
    qtbot.waitUntil(lambda: bool(errors), timeout=3000)
    assert str(errors[0]) == "no such file; choose another"


def test_nothing_is_told_to_a_widget_that_has_gone(qtbot):
    owner, done, release = QObject(), [], threading.Event()
    job = base.run_in_background(lambda _c: release.wait(5), done.append, done.append, owner=owner)
    del owner
    gc.collect()
    release.set()
    qtbot.waitUntil(lambda: not job.running, timeout=3000)
    qtbot.wait(50)
    assert done == []


# ---------------------------------------------------------------------------------------------- bar and settings


@pytest.mark.parametrize(
    ("state", "pause", "stop"),
    [
        ("idle", False, False),
        ("running", True, True),
        ("paused", True, True),
        ("awaiting_review", False, True),
        ("stopping", False, False),
        ("finished", False, False),
        ("failed", False, False),
    ],
)
def test_the_bars_buttons_do_something_or_are_off(qtbot, state, pause, stop):
    bar = base.JobBar()
    qtbot.addWidget(bar)
    bar.show_status(status(state))
    assert bar.pause_button.isEnabled() is pause
    assert bar.stop_button.isEnabled() is stop
    assert bar.pause_button.toolTip()
    assert bar.stop_button.toolTip()


def test_the_bar_says_how_long_and_why(qtbot):
    bar = base.JobBar()
    qtbot.addWidget(bar)
    bar.show_status(status("running"))
    assert "1 min 15 s" in bar.reason.text()
    assert bar.progress.value() == 3
    assert bar.progress.maximum() == 10
    bar.show_status(status("failed", outcome="failed", reason="the beam is gone"))
    assert bar.reason.text() == "Failed. The beam is gone."
    bar.show_status(status("running", steps_total=None, remaining_s=None))
    assert bar.progress.maximum() == 0  # moves, without a promise


@pytest.mark.parametrize(
    ("state", "outcome", "done", "words"),
    [
        ("running", "", 31, "31 of 31"),
        ("finished", "finished", 650, "650 of 650"),
        ("finished", "stopped", 7, "7 of 29"),
    ],
)
def test_the_bar_never_counts_beyond_its_end(qtbot, state, outcome, done, words):
    bar = base.JobBar()
    qtbot.addWidget(bar)
    bar.show_status(status(state, outcome=outcome, steps_done=done, steps_total=1380 if done == 650 else 29))
    assert bar.progress.text() == words
    assert bar.progress.value() == done


def test_the_bar_passes_on_what_is_clicked(qtbot):
    bar = base.JobBar()
    qtbot.addWidget(bar)
    heard = []
    bar.pause_requested.connect(lambda: heard.append("pause"))
    bar.unpause_requested.connect(lambda: heard.append("unpause"))
    bar.stop_requested.connect(lambda: heard.append("stop"))
    bar.show_status(status("running"))
    bar.pause_button.click()
    bar.show_status(status("paused"))
    bar.pause_button.click()
    bar.stop_button.click()
    assert heard == ["pause", "unpause", "stop"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (0.2, "0 s"), (59.4, "59 s"), (125, "2 min 05 s"), (4800, "1 h 20 min")]
)
def test_durations_in_words(seconds, text):
    assert base.duration_text(seconds) == text


def test_settings_are_remembered_and_a_damaged_file_is_not_fatal(tmp_path, monkeypatch):
    file = tmp_path / "folder" / "settings.json"
    monkeypatch.setenv("SMARTTEM_SETTINGS", str(file))
    assert base.remembered("a", 5) == 5
    base.remember("a", {"x": 1})
    base.remember("b", [1, 2])
    assert base.remembered("a") == {"x": 1}
    assert json.loads(file.read_text()) == {"a": {"x": 1}, "b": [1, 2]}
    file.write_text("{ torn")
    assert base.remembered("a", "default") == "default"
    base.remember("c", 3)
    assert base.remembered("c") == 3


# -------------------------------------------------------------------------------------------------- energy windows


def test_windows_are_one_set_for_a_viewer(qapp):
    viewer = ViewerModel()
    assert windows_of(viewer) is windows_of(PublicOnlyProxy(viewer))
    assert windows_of(viewer) is not windows_of(ViewerModel())


def test_windows_change_and_say_so(qapp):
    windows, heard = EnergyWindows(), []
    windows.changed.connect(lambda: heard.append(len(windows)))
    windows.add(530, 560, "O K")
    windows.add(280, 300)
    assert [w.name for w in windows] == ["O K", "window 1"]
    assert len({w.color for w in windows}) == 2
    windows.change("O K", low_ev=525.0)
    windows.change("O K", low_ev=525.0)  # nothing changes, nothing is told
    windows.change("window 1", name="C K")
    windows.remove("C K")
    assert heard == [1, 2, 2, 2, 1]
    assert windows.get("O K").low_ev == 525.0
    assert EnergyWindow(**windows.as_json()[0]) == windows.get("O K")


@pytest.mark.parametrize(
    "make",
    [
        lambda w: EnergyWindow("x", 5.0, 5.0),
        lambda w: EnergyWindow("", 1.0, 2.0),
        lambda w: w.add(1.0, 2.0, "O K"),
        lambda w: w.get("nobody"),
        lambda w: w.change("O K", high_ev=1.0),
    ],
)
def test_impossible_windows_are_refused_and_nothing_is_lost(qapp, make):
    windows = EnergyWindows([EnergyWindow("O K", 530.0, 560.0)])
    with pytest.raises(BadInput):
        make(windows)
    assert [w.name for w in windows] == ["O K"]
