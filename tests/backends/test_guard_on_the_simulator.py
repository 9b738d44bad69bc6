"""What the guard says of a coupled instrument, compared with what the specimen says."""

from __future__ import annotations

import threading
import time

import pytest

from napari_smarttem.backends import registry
from napari_smarttem.backends.guard import Guard
from napari_smarttem.schema import Cancelled, DoseBudgetExceeded

NEVER = threading.Event()


def received(simulator, field):
    """Electrons in the simulator's own dose map, averaged over the scan field, in e/Å²."""
    simulator.dose_e_per_a2()  # brings the map up to now
    return simulator.column.dose.electrons / (field.area_nm2 * 100)


def exposures_until_refused(guard):
    field = guard.scanner.field
    guard.scanner.move_probe(field.y_nm + field.height_nm / 2, field.x_nm + field.width_nm / 2)
    for made in range(1000):
        try:
            guard.spectrometer.acquire_spectrum(0.01, NEVER)
        except DoseBudgetExceeded:
            return made
    raise AssertionError("the budget was never used up")


def test_the_dose_counted_is_the_dose_the_specimen_received():
    simulator = registry.connect("simulator", speed=None, seed=1)
    guard = Guard(simulator)
    field = guard.scanner.field
    signal = guard.scanner.signals[:1]
    guard.scanner.scan(field=field, shape=(32, 32), dwell_s=1e-5, signals=signal, cancel=NEVER)
    for k in range(10):
        guard.scanner.move_probe(field.y_nm + field.height_nm * (0.3 + 0.04 * k), field.x_nm + field.width_nm / 2)
        guard.spectrometer.acquire_spectrum(0.01 * (1 + k), NEVER)
    guard.scanner.park_probe()
    assert guard.dose_e_per_a2 > 0
    assert guard.dose_e_per_a2 == pytest.approx(received(simulator, field), rel=0.005)
    guard.close()


def test_a_budget_holds_with_the_read_out_counted():
    simulator = registry.connect("simulator", speed=None, seed=1)
    guard = Guard(simulator)
    field = guard.scanner.field
    guard.dose_budget_e_per_a2 = guard.dose_of(0.5)
    dry = Guard(simulator, dry_run=True, dose_budget_e_per_a2=guard.dose_budget_e_per_a2)
    made = [exposures_until_refused(instrument) for instrument in (dry, guard)]
    assert made[0] == pytest.approx(made[1], abs=1)
    # The blanker takes 0.2 ms to let the beam through or to stop it: that little the last exposure may go beyond.
    assert received(simulator, field) <= guard.dose_budget_e_per_a2 + guard.dose_of(1e-3)
    assert received(simulator, field) > 0.9 * guard.dose_budget_e_per_a2
    assert dry.dose_e_per_a2 == pytest.approx(guard.dose_e_per_a2, rel=0.03)
    guard.close()


def test_a_person_makes_it_safe_in_the_middle_of_an_exposure():
    simulator = registry.connect("simulator", speed=1.0, seed=1)
    guard = Guard(simulator)
    field = guard.scanner.field
    guard.scanner.move_probe(field.y_nm + field.height_nm / 2, field.x_nm + field.width_nm / 2)
    ended = []

    def expose():
        try:
            guard.spectrometer.acquire_spectrum(60.0, NEVER)
        except Cancelled:
            ended.append(time.monotonic())

    thread = threading.Thread(target=expose)
    thread.start()
    while simulator.blanker.blanked:
        time.sleep(0.005)
    time.sleep(0.1)
    asked = time.monotonic()
    assert guard.make_safe() == []
    assert simulator.blanker.blanked
    thread.join(30)
    assert ended
    assert ended[0] - asked < 30.0, "it did not wait for the end of the exposure"
    assert simulator.blanker.blanked
    at_the_end = received(simulator, field)
    assert guard.dose_e_per_a2 == pytest.approx(at_the_end, rel=0.3)
    time.sleep(0.05)
    assert received(simulator, field) == at_the_end
    guard.close()
