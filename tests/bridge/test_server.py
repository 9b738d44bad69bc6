"""The server in a GMS that misbehaves, and the file as GMS executes it."""

from __future__ import annotations

import ast
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from napari_smarttem.backends.digitalmicrograph import server
from napari_smarttem.backends.digitalmicrograph.fake_gms import FakeGMS, InstantWorld
from napari_smarttem.schema import BadInput, Cancelled, InstrumentFault, LimitExceeded, MissingCapability

from .conftest import TOKEN, bridge

FILE = Path(server.__file__)
NEVER = threading.Event()


def test_it_is_python_37():
    tree = ast.parse(FILE.read_text(encoding="utf-8"), feature_version=(3, 7))
    assert {node.name for node in tree.body if isinstance(node, ast.ClassDef)} >= {"Microscope", "Bridge"}
    for newer in ("(n := 1)", "def f(a, /): pass"):  # the same parse refuses what 3.7 does not know
        with pytest.raises(SyntaxError):
            ast.parse(newer, feature_version=(3, 7))


def test_it_needs_numpy_and_the_standard_library_only():
    tree = ast.parse(FILE.read_text(encoding="utf-8"))
    names = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert all(node.level == 0 for node in froms)
    names |= {node.module.split(".")[0] for node in froms}
    assert names - {"numpy", "DigitalMicrograph"} <= set(sys.stdlib_module_names)
    assert not names & {
        "subprocess",
        "multiprocessing",
        "asyncio",
        "ctypes",
        "pickle",
    }  # GMS hangs on some, others are unsafe


def test_it_runs_as_gms_runs_it_and_stops_by_its_tag(tmp_path):
    """Executed as a script, in another folder, with nothing of ours to import but a fake DigitalMicrograph."""
    (tmp_path / "go.py").write_text(
        "import sys, threading, time\n"
        "from napari_smarttem.backends.digitalmicrograph.fake_gms import FakeGMS, InstantWorld\n"
        "gms = FakeGMS(InstantWorld()); sys.modules['DigitalMicrograph'] = gms\n"
        "threading.Timer(0.5, lambda: gms.persistent.SetTagAsBoolean('smarttem stop', True)).start()\n"
        f"source = open({str(FILE)!r}, encoding='utf-8').read().replace('PORT = 9471', 'PORT = 0')\n"
        "exec(compile(source, '<DigitalMicrograph>', 'exec'), {'__name__': '__main__'})\n"
        "print(gms.leaks(), gms.violations)\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "go.py"], capture_output=True, text=True, timeout=60, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("smarttem: address  tcp://127.0.0.1:")
    assert len(lines[1].split()[-1]) >= 20
    assert lines[-2] == "smarttem: stopped; the beam is parked."
    assert lines[-1] == "{'images': 0, 'parameters': 0, 'tags': 0} []"


def test_it_does_not_start_where_there_is_no_digitalmicrograph(tmp_path):
    done = subprocess.run([sys.executable, FILE], capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path)
    assert done.stdout == ""


def test_every_command_of_the_table_is_one():
    for verb in server.VERBS - set(server.DIRECT):
        assert callable(getattr(server.Microscope, verb)), verb


@pytest.mark.parametrize("arguments", ["five", "six", "absent"])
def test_scan_parameters_of_every_revision(arguments):
    with bridge(instant=True, speed=None, gms={"arguments": arguments}) as (_, instrument):
        (frame,) = instrument.scanner.scan(
            field=instrument.scanner.field, shape=(64, 64), dwell_s=1e-5, signals=("BF",), cancel=NEVER
        )
        assert frame.shape == (64, 64)


def test_scan_control_is_taken_again_after_every_scan(instant):
    running, instrument = instant
    scan = running.gms.digiscan
    for _ in range(3):
        instrument.scanner.scan(field=instrument.scanner.field, shape=(16, 16), dwell_s=1e-5, signals=(), cancel=NEVER)
        assert scan.beam == scan.safe
        instrument.scanner.move_probe(50.0, 60.0)
        assert scan.control
        assert scan.beam != scan.safe
        instrument.scanner.park_probe()
        assert scan.beam == scan.safe


def test_scan_control_is_given_back_in_the_end():
    with bridge(instant=True, speed=None) as (running, instrument):
        instrument.scanner.move_probe(50.0, 60.0)
        assert running.gms.digiscan.control
    assert not running.gms.digiscan.control


def test_the_beam_taken_away_is_noticed(instant):
    running, instrument = instant
    instrument.scanner.move_probe(50.0, 60.0)
    running.gms.camera.AcquireInPlace = lambda *a, do=running.gms.camera.AcquireInPlace: (
        running.gms.digiscan.set_control(0),
        do(*a),
    )
    with pytest.raises(InstrumentFault, match="took the beam away") as caught:
        instrument.spectrometer.acquire_spectrum(0.01, NEVER)
    assert caught.value.transient


def test_another_magnification_is_noticed(instant):
    running, instrument = instant
    running.gms.column.GetMagnification = lambda: 5e5
    with pytest.raises(InstrumentFault, match="magnification was changed"):
        instrument.scanner.move_probe(50.0, 60.0)
    with pytest.raises(InstrumentFault, match="magnification was changed"):
        instrument.scanner.scan(field=instrument.scanner.field, shape=(16, 16), dwell_s=1e-5, signals=(), cancel=NEVER)


def test_a_scan_by_hand_is_waited_for_by_the_person():
    with bridge(instant=True, speed=None) as (running, instrument):
        scan = running.gms.digiscan
        number = scan.create(256, 256, 0.0, 1000.0)
        scan.add_signal(number, 0, 4, True, 0)
        scan.start(number, by_hand=True)
        with pytest.raises(InstrumentFault, match="somebody at the microscope"):
            instrument.scanner.scan(
                field=instrument.scanner.field, shape=(16, 16), dwell_s=1e-5, signals=(), cancel=NEVER
            )
        assert scan.is_active()  # it was left alone
        scan.stop()
        for image in list(running.gms.images._shown.values()):
            running.gms.images.close(image)
        del scan.parameters[number], image


@pytest.mark.parametrize("break_it", ["not inserted", "live view", "no camera"])
def test_a_camera_that_cannot_is_said(instant, break_it):
    running, instrument = instant
    instrument.scanner.move_probe(50.0, 60.0)
    if break_it == "not inserted":
        running.gms.camera.inserted = False
    elif break_it == "live view":
        running.gms.camera.viewing = True
    else:
        running.gms.camera = None
    with pytest.raises((InstrumentFault, MissingCapability)) as caught:
        instrument.spectrometer.acquire_spectrum(0.01, NEVER)
    assert str(caught.value).endswith(".")


def test_a_blanker_that_sticks_is_said(instant):
    running, instrument = instant
    instrument.blanker.set_blanked(True)
    running.gms.column.stuck = True
    with pytest.raises(InstrumentFault, match="by hand"):
        instrument.blanker.set_blanked(False)
    running.gms.column.stuck = False


def test_energies_the_drift_tube_cannot_reach_are_refused():
    with bridge(instant=True, speed=None, connect_with={"energy_range_ev": (-500.0, 5000.0)}) as (running, instrument):
        instrument.spectrometer.set_energy_offset_ev(300.0)
        assert running.gms.filter.energy_ev == 300.0
        with pytest.raises(LimitExceeded, match="refused"):
            instrument.spectrometer.set_energy_offset_ev(4000.0)
        assert instrument.spectrometer.energy_offset_ev == 300.0


def test_dispersion_where_the_laboratory_allows_it(monkeypatch):
    monkeypatch.setattr(server, "ALLOW_DISPERSION", True)
    table = {"5": 0.5, "6": 1.0, "2": 0.1}
    gms = {"model": "GIF with settable dispersion"}
    with bridge(instant=True, speed=None, gms=gms, connect_with={"dispersion_table": table}) as (running, instrument):
        assert instrument.spectrometer.dispersions_ev == (0.1, 0.5, 1.0)
        instrument.spectrometer.set_dispersion_ev(1.0)
        assert running.gms.filter.index == 6
        assert instrument.spectrometer.dispersion_ev == 1.0


def test_the_reference_is_scanned_with_the_beam_blanked(monkeypatch):
    seen = []
    image = InstantWorld.image
    monkeypatch.setattr(InstantWorld, "image", lambda self, *a: seen.append(self.blanked) or image(self, *a))
    with bridge(instant=True, speed=None) as (running, _):
        assert seen == [True]
        assert running.gms.world.blanked is False  # as it was found


def test_batch_visit(instant):
    running, instrument = instant
    points = [(10.0 + i, 90.0 - i) for i in range(40)]
    frames = list(instrument.visit(points, 0.01))
    nm = instrument.geometry["nm"]
    for (y, x), frame in zip(points, frames, strict=True):
        stood = np.asarray(frame.data[:2]) / np.asarray(frame.data[2]) * 2 - 1000 + 200 * 0.99 / 2
        assert np.abs(stood - (y - nm / 2, x - nm / 2)).max() < 1.5
        assert (frame.metadata["y_nm"], frame.metadata["x_nm"]) == (y, x)
        assert frame.metadata["exposure_finished_s"] - frame.metadata["exposure_started_s"] >= 0.01
    assert running.gms.digiscan.beam == running.gms.digiscan.safe
    assert running.gms.world.blanked


def test_batch_visit_gives_what_it_had_when_it_failed(instant):
    running, instrument = instant
    expose, count = running.gms.camera.AcquireInPlace, []
    running.gms.camera.AcquireInPlace = lambda *a: (count.append(1), 1 / (len(count) - 6), expose(*a))
    frames = instrument.visit([(10.0 + i, 50.0) for i in range(20)], 0.01)
    recorded = [next(frames) for _ in range(5)]
    with pytest.raises(InstrumentFault, match="5 of 20"):
        next(frames)
    assert [frame.metadata["y_nm"] for frame in recorded] == [10.0, 11.0, 12.0, 13.0, 14.0]
    assert running.gms.digiscan.beam == running.gms.digiscan.safe


def test_a_batch_visit_is_cancelled_between_points():
    with bridge(instant=True, speed=None) as (running, instrument):
        asked = threading.Event()
        expose, exposed = running.gms.camera.AcquireInPlace, []

        def slow(*arguments):
            time.sleep(0.01)
            exposed.append(1)
            if len(exposed) == 5:
                asked.set()
            return expose(*arguments)

        running.gms.camera.AcquireInPlace = slow
        frames = instrument.visit([(50.0, 50.0)] * 5000, 0.01, asked)
        assert next(frames).shape == (2048,)
        with pytest.raises(Cancelled, match="of 5000"):
            list(frames)
        assert len(exposed) < 4000
        assert running.gms.digiscan.beam == running.gms.digiscan.safe


@pytest.mark.parametrize(("size", "dwell_s"), [(64, 7.5e-3), (96, 3e-3)], ids=["whole", "in strips"])
def test_a_scan_is_cancelled_and_blanked_from_another_thread_in_real_time(size, dwell_s):
    with bridge(speed=1.0, seed=1, connect_with={"overview_pixels": 64}) as (running, instrument):
        instrument.blanker.set_blanked(False)
        asked, blanked_after = threading.Event(), []

        def safe():
            lines = 0
            while not lines:  # until something is seen of it
                time.sleep(0.05)
                _, arrays = instrument.link._urgent("live", {})
                lines = np.count_nonzero(np.asarray(arrays[0]).any(axis=1)) if arrays else 0
            began = time.monotonic()
            instrument.blanker.set_blanked(True)
            blanked_after.append(time.monotonic() - began)
            live, arrays = instrument.link._urgent("live", {})
            lines = np.count_nonzero(np.asarray(arrays[0]).any(axis=1))
            blanked_after.append((live["signals"], lines))
            asked.set()

        thread = threading.Thread(target=safe)
        thread.start()
        began = time.monotonic()
        with pytest.raises(Cancelled):
            instrument.scanner.scan(
                field=instrument.scanner.field, shape=(size, size), dwell_s=dwell_s, signals=("HAADF",), cancel=asked
            )
        thread.join()
        assert time.monotonic() - began < 20.0  # of 30 s
        assert blanked_after[0] < 10.0
        signals, lines = blanked_after[1]
        assert signals == ["HAADF"]
        assert 1 <= lines < size  # the image fills from the top
        assert running.gms.world.blanked


def test_places_of_an_older_field_are_refused():
    """A second client sets the scan up otherwise: the first must not go on with places that mean something else."""
    from napari_smarttem.backends.digitalmicrograph import connect

    with bridge(instant=True, speed=None) as (running, first):
        first.scanner.move_probe(50.0, 60.0)
        again = connect(running.address, TOKEN, overview_pixels=128)
        first.scanner.move_probe(50.0, 60.0)  # the same field: nothing has changed
        again.close()
        second = connect(running.address, TOKEN, overview_pixels=256)
        with pytest.raises(InstrumentFault, match="connect again"):
            first.scanner.move_probe(50.0, 60.0)
        second.close()


def test_who_vanishes_leaves_a_parked_and_blanked_beam(instant):
    running, instrument = instant
    instrument.scanner.move_probe(50.0, 60.0)
    instrument.blanker.set_blanked(False)
    scan = running.gms.digiscan
    assert scan.beam != scan.safe
    instrument.link._closed.set()  # no good-bye, no reconnection: the program was killed
    for channel in (instrument.link._main, instrument.link._control):
        if channel is not None:
            channel.sock.close()
    deadline = time.monotonic() + 30.0
    while (scan.beam != scan.safe or not running.gms.world.blanked) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert scan.beam == scan.safe
    assert running.gms.world.blanked


def test_who_falls_silent_leaves_a_parked_beam(instant, monkeypatch):
    """A computer that hangs keeps its connections open and says nothing."""
    monkeypatch.setattr(server, "SILENCE_S", 0.3)
    running, instrument = instant
    instrument.link._closed.set()
    instrument.link._pinging.join(5.0)
    instrument.link._closed.clear()
    instrument.scanner.move_probe(50.0, 60.0)
    scan = running.gms.digiscan
    deadline = time.monotonic() + 30.0
    while scan.beam != scan.safe and time.monotonic() < deadline:
        time.sleep(0.02)
    assert scan.beam == scan.safe


def test_operator_who_uses_the_microscope_is_left_alone(instant):
    """A client that has put no beam anywhere does not park the operator's when it leaves."""
    running, instrument = instant
    running.gms.digiscan.set_control(1)
    running.gms.digiscan.set_ds(100.0, 200.0)
    instrument.close()
    time.sleep(0.8)
    assert running.gms.digiscan.beam == (100.0, 200.0)


def test_a_second_thread_is_refused_by_the_fake():
    gms = FakeGMS(InstantWorld())
    gms.GetPersistentTagGroup()
    found = []

    def intrude():
        try:
            gms.GetActiveCamera()
        except RuntimeError as error:
            found.append(str(error))

    thread = threading.Thread(target=intrude)
    thread.start()
    thread.join()
    assert found
    assert gms.violations == ["GetActiveCamera from a second thread"]


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("move_probe", {"x": "1", "y": 2, "settle_s": 0}),
        ("move_probe", {}),
        ("scan", {"rows": 1.5, "columns": 4, "dwell_us": 1, "signals": ["HAADF"]}),
        ("scan", {"rows": 4, "columns": 4, "dwell_us": 1, "signals": [["HAADF"]]}),
        ("scan", {"rows": 4, "columns": 4, "dwell_us": 1, "signals": ["HAADF"], "area": [0, 0, -1, 5]}),
        ("spectrum", {"exposure_s": True, "frames": 1}),
        ("spectrum", {"exposure_s": 0.1, "frames": 1, "band": [0, 0, 10]}),
        ("spectrum", {"exposure_s": 0.1, "frames": 1, "binning": [0, 1]}),
        ("blank", {"blanked": 1}),
        ("set_energy", {"energy_ev": None}),
        ("move_stage", {"x": 1.0, "rm": 2.0}),
        ("move_stage", {}),
        ("visit", {}),
        ("reference", {"size": 5, "rotation": 0}),
    ],
)
def test_nonsense_is_refused_before_anything_is_done(instant, verb, args):
    running, instrument = instant
    before = instrument.geometry["ref"]
    if verb in ("move_probe", "scan"):
        args = {**args, "ref": before}
    with pytest.raises((BadInput, LimitExceeded, InstrumentFault)) as caught:
        instrument.link.call(verb, args)
    assert str(caught.value).endswith(".")
    assert running.gms.digiscan.beam == running.gms.digiscan.safe
    instrument.scanner.move_probe(50.0, 50.0)  # it lives


def test_the_filter_takes_its_time_and_drifts():
    """Whoever does not wait for the filter exposes at the wrong energy; whoever does, within the drift."""
    world = InstantWorld(virtual=True)
    gms = FakeGMS(world)
    gms.filter.set_energy(300.0)
    assert gms.filter.actual_ev() == pytest.approx(0.0, abs=0.1)
    world.sleep(gms.filter.settle_s / 2)
    assert gms.filter.actual_ev() == pytest.approx(150.0, abs=0.1)
    gms.filter.wait()
    found = []
    for _ in range(60):
        world.sleep(60.0)
        found.append(gms.filter.actual_ev())
    assert found == pytest.approx([300.0] * 60, abs=0.11)
    assert max(found) - min(found) > 0.15


def test_a_live_view_of_the_fake_camera():
    gms = FakeGMS(InstantWorld(virtual=True))
    camera, image = gms.camera, gms.camera.CreateImageForAcquire(1, 1, 3)
    camera.StartContinuousAcquisition(0.1, 1, 1, 3)
    assert camera.GetFrameInContinuousMode(image, 0.05) is False
    assert camera.GetFrameInContinuousMode(image, 1.0) is True
    with pytest.raises(RuntimeError, match="live view"):
        camera.AcquireImage(0.1, 1, 1, 3)
    camera.StopContinuousAcquisition()
    assert camera.AcquireImage(0.1, 1, 1, 3).GetNumArray().shape == (2048, 2048)


def test_a_beam_that_digiscan_has_not_does_not_move():
    gms = FakeGMS(InstantWorld())
    gms.DS_MoveBeamTo(100.0, 200.0)
    assert gms.DS_GetBeamDSPosition() == gms.digiscan.safe
    gms.DS_GetScanControl()
    gms.DS_MoveBeamTo(100.0, 200.0)
    assert gms.DS_GetBeamDSPosition() == (100.0, 200.0)


def test_signs_of_life_of_a_long_command_that_followed_another_at_once(instant, monkeypatch):
    """The thread that owns DM has read it itself: the helper thread speaks for it all the same."""
    monkeypatch.setattr(server, "BEAT_S", 0.05)
    running, instrument = instant
    instrument.link.quiet_s = 0.9
    read = []
    real = server.Connection.request_at_once
    monkeypatch.setattr(
        server.Connection, "request_at_once", lambda self: (found := real(self)) and (read.append(found) or found)
    )
    expose = running.gms.camera.AcquireInPlace
    running.gms.camera.AcquireInPlace = lambda *a: (time.sleep(1.2), expose(*a))
    for _ in range(20):
        instrument.scanner.move_probe(50.0, 60.0)
    assert instrument.spectrometer.acquire_spectrum(1.2, NEVER).shape == (2048,)
    assert instrument.link.reconnections == 0
    assert "spectrum" in [header["verb"] for header, _ in read[-3:]]


def test_one_client_does_not_keep_the_others_waiting(instant):
    """Commands without a pause on one connection: another client's are carried out in between."""
    from napari_smarttem.backends.digitalmicrograph.link import Link

    running, instrument = instant
    stop, moves = threading.Event(), []

    def hammer():
        while not stop.is_set():
            instrument.scanner.move_probe(50.0, 60.0)
            moves.append(1)

    thread = threading.Thread(target=hammer)
    thread.start()
    other = Link(running.address, TOKEN)
    between = []
    for _ in range(30):
        before = len(moves)
        other.call("blanked")
        other.call("stage")
        between.append(len(moves) - before)
    stop.set()
    thread.join()
    other.close()
    assert len(moves) > 30
    assert float(np.median(between)) < 20
