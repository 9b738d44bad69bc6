"""Many points under the guard: each point's dose counts, the budget ends the batch, and making safe stops it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from napari_smarttem.backends import registry
from napari_smarttem.backends.digitalmicrograph import connect
from napari_smarttem.backends.digitalmicrograph.fake_gms import run
from napari_smarttem.backends.guard import Guard, Limits
from napari_smarttem.schema import BadInput, Cancelled, DoseBudgetExceeded, InstrumentFault, LimitExceeded

READOUT_S = 2e-3
POINTS = [(50.0 + 0.1 * i, 60.0) for i in range(400)]


def guarded(running, **settings):
    instrument = connect(running.address, running.token, overview_pixels=64, beam_current_pa=50.0, settle_s=0.0)
    return Guard(instrument, **settings)


@pytest.fixture
def running():
    with run(instant=True, speed=None) as found:
        yield found


def test_every_points_dose_is_counted(running):
    guard = guarded(running)
    frames = list(guard.visit(POINTS, 1e-3))
    assert [frame.metadata["y_nm"] for frame in frames] == [y for y, _ in POINTS]
    assert guard.dose_e_per_a2 == pytest.approx(guard.dose_of(len(POINTS) * (1e-3 + READOUT_S)), rel=1e-6)
    assert running.gms.world.blanked
    guard.close()


@pytest.mark.parametrize("affordable", [0.5, 1.0, 100.5])
def test_the_batch_is_cut_where_the_budget_ends(running, affordable):
    """The read-out, which GMS does not tell beforehand, exposes too: it is learned from the first point."""
    guard = guarded(running)
    guard.dose_budget_e_per_a2 = guard.dose_of(affordable * (1e-3 + READOUT_S))
    exposures = running.gms.camera.prepared
    found, frames = guard.visit(POINTS, 1e-3), []
    with pytest.raises(DoseBudgetExceeded, match=r"^The next exposure delivers .* are used up; .*\.$"):
        frames.extend(found)
    assert guard.dose_e_per_a2 <= max(guard.dose_budget_e_per_a2, guard.dose_of(1e-3 + READOUT_S)) * (1 + 1e-6)
    assert len(frames) == max(1, int(affordable))
    assert running.gms.camera.prepared - exposures <= 3  # sent together, not one by one
    guard.close()


def test_a_budget_of_zero_and_an_unknown_current_allow_nothing(running):
    guard = guarded(running, dose_budget_e_per_a2=0.0)
    with pytest.raises(DoseBudgetExceeded, match="budget is zero"):
        list(guard.visit(POINTS, 1e-3))
    guard.unwrapped.settings.__dict__["beam_current_pa"] = None
    guard.dose_budget_e_per_a2 = 1.0
    with pytest.raises(DoseBudgetExceeded, match="current is not known"):
        list(guard.visit(POINTS, 1e-3))
    assert guard.dose_e_per_a2 == 0.0
    guard.close()


def test_what_was_recorded_before_a_failure_is_given_and_counted(running):
    guard = guarded(running)
    expose, count = running.gms.camera.AcquireInPlace, []
    running.gms.camera.AcquireInPlace = lambda *a: (count.append(1), 1 / (len(count) - 6), expose(*a))
    found = guard.visit(POINTS, 1e-3)
    frames = [next(found) for _ in range(5)]
    with pytest.raises(InstrumentFault, match="5 of 400"):
        next(found)
    assert len(frames) == 5
    assert guard.dose_e_per_a2 >= guard.dose_of(5 * (1e-3 + READOUT_S) + 1e-3) * (1 - 1e-9)
    guard.close()


def test_nonsense_is_refused_before_the_first_point(running):
    guard = guarded(running, limits=Limits(exposure_s=(1e-4, 0.5)))
    for points, exposure_s, error in (
        ([(50.0, 60.0), (50.0, 1e4)], 1e-3, LimitExceeded),
        (POINTS, 1.0, LimitExceeded),
        (POINTS, float("nan"), BadInput),
        ([(float("nan"), 1.0)], 1e-3, BadInput),
    ):
        with pytest.raises(error):
            guard.visit(points, exposure_s)
    assert guard.dose_e_per_a2 == 0.0
    assert running.gms.digiscan.beam == running.gms.digiscan.safe
    guard.close()


def test_making_safe_from_another_thread_ends_the_batch(running):
    guard = guarded(running)
    begun = threading.Event()
    expose = running.gms.camera.AcquireInPlace
    running.gms.camera.AcquireInPlace = lambda *a: (begun.set(), threading.Event().wait(0.005), expose(*a))
    failed = []
    thread = threading.Thread(target=lambda: (begun.wait(5.0), failed.extend(guard.make_safe())))
    thread.start()
    with pytest.raises(Cancelled):
        list(guard.visit(POINTS * 5, 1e-3))
    thread.join()
    assert failed == []
    assert running.gms.world.blanked
    assert running.gms.digiscan.beam == running.gms.digiscan.safe
    assert guard.dose_e_per_a2 > 0
    guard.close()


def test_an_instrument_that_cannot_is_asked_point_by_point():
    guard = Guard(registry.connect("simulator", speed=None, seed=3))
    points = [(50.0, 60.0), (52.0, 61.0), (54.0, 62.0)]
    frames = list(guard.visit(points, 0.01))
    assert guard.batch is None
    assert [(f.metadata["y_nm"], f.metadata["x_nm"]) for f in frames] == points
    assert all(np.asarray(f.data).sum() > 0 for f in frames)
    assert guard.blanker.blanked
    assert guard.scanner.probe_position_nm is None
    guard.close()
