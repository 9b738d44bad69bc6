"""Faults come when they are scheduled and only then; under a guard each ends with the beam blanked."""

from __future__ import annotations

import errno
import os
import threading
import time
import types

import numpy as np
import pytest

from napari_smarttem.backends.faults import CALLS, Fault, Faulty, full_disk
from napari_smarttem.backends.guard import Guard
from napari_smarttem.schema import BadInput, Cancelled, InstrumentFault

from .toy_microscope import ToyMicroscope

NEVER = threading.Event()


def expose(instrument, seconds=0.1, cancel=NEVER):
    return instrument.spectrometer.acquire_spectrum(seconds, cancel)


def scan(instrument):
    return instrument.scanner.scan(
        field=instrument.scanner.field, shape=(4, 4), dwell_s=1e-3, signals=("HAADF", "BF"), cancel=NEVER
    )


@pytest.fixture
def toy():
    return ToyMicroscope()


def test_without_faults_everything_passes(toy):
    faulty = Faulty(toy)
    assert expose(faulty).shape == (32,)
    assert len(scan(faulty)) == 2
    assert faulty.camera.acquire_image(0.1, NEVER).signal == "ronchigram"
    faulty.scanner.move_probe(1, 2)
    faulty.optics.set({"C1": 5})
    faulty.stage.move({"x_nm": 1})
    faulty.spectrometer.set_energy_offset_ev(7)
    faulty.spectrometer.set_dispersion_ev(0.1)
    faulty.blanker.set_blanked(True)
    faulty.scanner.park_probe()
    assert faulty.beam_current_pa == 16
    assert faulty.fired == []
    faulty.close()
    assert toy.closed == 1


def test_a_timeout_is_transient_and_the_next_call_works(toy):
    faulty = Faulty(toy, [Fault("timeout", at=(1,))])
    expose(faulty)
    with pytest.raises(InstrumentFault, match="timed out") as caught:
        expose(faulty)
    assert caught.value.transient
    expose(faulty)
    assert faulty.fired == [("acquire_spectrum", 1, "timeout")]
    assert toy.done.count("acquire_spectrum") == 3


def test_a_dropped_connection_is_dropped_for_all_calls(toy):
    faulty = Faulty(toy, [Fault("dropped", calls=("scan",), at=(0,))])
    expose(faulty)
    with pytest.raises(InstrumentFault, match="connection to Toy microscope was lost") as caught:
        scan(faulty)
    assert not caught.value.transient
    for call in (lambda: expose(faulty), lambda: faulty.blanker.set_blanked(True), faulty.scanner.park_probe):
        with pytest.raises(InstrumentFault, match="lost"):
            call()
    assert toy.blanker.blanked
    faulty.repair()
    faulty.blanker.set_blanked(False)
    expose(faulty)


def test_a_microscope_without_a_dead_mans_switch_keeps_its_beam(toy):
    faulty = Faulty(toy, [Fault("dropped", at=(0,), blanks_itself=False)])
    guard = Guard(faulty)
    with pytest.raises(InstrumentFault, match="by hand now"):
        expose(guard)
    assert not toy.blanker.blanked
    assert len(guard.make_safe()) == 2


@pytest.mark.parametrize("kind", ["nan", "truncated"])
def test_a_spoilt_frame_is_recorded_once(toy, kind):
    faulty = Faulty(toy, [Fault(kind, at=(0,))])
    frames = scan(faulty)
    for frame in frames:
        if kind == "nan":
            assert np.isnan(frame.data).sum() == 8
        else:
            assert frame.shape == (2, 4)
    assert all(np.isfinite(f.data).all() and f.shape == (4, 4) for f in scan(faulty))


def test_the_beam_goes_away(toy):
    faulty = Faulty(toy, [Fault("beam_gone", at=(1,))])
    assert expose(faulty).data.sum() > 0
    assert expose(faulty).data.sum() == 0
    assert faulty.beam_current_pa == 0
    for _ in range(2):
        with pytest.raises(InstrumentFault, match="no beam") as caught:
            expose(faulty)
        assert not caught.value.transient
    faulty.repair()
    assert expose(faulty).data.sum() > 0


def test_a_slow_call_can_be_cancelled(toy):
    faulty = Faulty(toy, [Fault("slow", at=(0, 1), seconds=60.0)])
    asked = threading.Event()
    timer = threading.Timer(0.05, asked.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        expose(faulty, cancel=asked)
    assert time.monotonic() - began < 50.0
    timer.join()
    assert toy.done == []


def test_a_slow_call_takes_longer(toy):
    faulty = Faulty(toy, [Fault("slow", calls=("scan", "move_probe"), at=(0, 1), seconds=0.05)])
    for call in (lambda: scan(faulty), lambda: faulty.scanner.move_probe(1, 1)):
        began = time.monotonic()
        call()
        assert time.monotonic() - began >= 0.05
    expose(faulty)
    assert len(faulty.fired) == 2


@pytest.mark.parametrize("name", [c for c in CALLS if c not in {"scan", "acquire_spectrum", "acquire_image"}])
@pytest.mark.parametrize("kind", ["refused", "timeout"])
def test_a_control_that_does_not_move(toy, name, kind):
    faulty = Faulty(toy, [Fault(kind, calls=(name,), at=(0,))])
    calls = {
        "set_optics": lambda: faulty.optics.set({"C1": 5}),
        "move_probe": lambda: faulty.scanner.move_probe(1, 1),
        "move_stage": lambda: faulty.stage.move({"x_nm": 1}),
        "set_energy_offset_ev": lambda: faulty.spectrometer.set_energy_offset_ev(1),
        "set_dispersion_ev": lambda: faulty.spectrometer.set_dispersion_ev(0.1),
        "set_blanked": lambda: faulty.blanker.set_blanked(True),
        "park_probe": faulty.scanner.park_probe,
    }
    with pytest.raises(InstrumentFault, match=name) as caught:
        calls[name]()
    assert caught.value.transient is (kind == "timeout")
    assert toy.done == []
    calls[name]()
    assert faulty.fired == [(name, 0, kind)]


def test_an_exposure_that_is_refused_delivers_no_dose(toy):
    guard = Guard(Faulty(toy, [Fault("refused", calls=("acquire_spectrum",), at=(0,))]))
    with pytest.raises(InstrumentFault, match="refused"):
        expose(guard)
    assert guard.dose_e_per_a2 == 0
    assert toy.blanker.blanked


def test_chance_has_a_seed():
    def run(seed):
        faulty = Faulty(ToyMicroscope(), [Fault("timeout", probability=0.3)], seed=seed)
        failed = []
        for number in range(200):
            try:
                expose(faulty)
            except InstrumentFault:
                failed.append(number)
        return failed

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert 30 < len(run(1)) < 95  # 60 +- 5 standard deviations of a binomial


@pytest.mark.parametrize("kind", ["timeout", "dropped", "nan", "truncated", "slow", "beam_gone"])
def test_under_a_guard_every_fault_ends_blanked_and_counted(toy, kind):
    guard = Guard(Faulty(toy, [Fault(kind, at=(0,), seconds=0.01)]))
    if kind in {"slow", "beam_gone"}:
        assert expose(guard, 0.5).shape == (32,)
    else:
        with pytest.raises(InstrumentFault) as caught:
            expose(guard, 0.5)
        assert caught.value.transient is (kind != "dropped")
        assert "\n" not in str(caught.value)
    assert toy.blanker.blanked
    delivered = 16e-12 / 1.602176634e-19 / 20_000 * 0.5
    assert guard.dose_e_per_a2 == pytest.approx(0 if kind in {"dropped", "beam_gone"} else delivered)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"kind": "earthquake"}, "no fault 'earthquake'"),
        ({"kind": "nan", "calls": ("dance",)}, "no call dance"),
        ({"kind": "nan", "probability": 1.5}, "between 0 and 1"),
    ],
)
def test_a_fault_there_is_none_of(arguments, says):
    with pytest.raises(BadInput, match=says):
        Fault(**arguments)


def test_full_disk_from_one_call_on(tmp_path):
    module = types.SimpleNamespace(os=os)
    with (tmp_path / "file").open("wb") as file, full_disk(module, after=2):
        module.os.fsync(file.fileno())
        module.os.fsync(file.fileno())
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                module.os.fsync(file.fileno())
            assert caught.value.errno == errno.ENOSPC
        os.fsync(file.fileno())
        assert module.os.path is os.path
    assert module.os is os
    with pytest.raises(BadInput, match="no function 'melt'"), full_disk(module, name="melt"):
        raise AssertionError("never entered")
