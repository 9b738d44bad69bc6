"""Virtual time, at any speed."""

from __future__ import annotations

import math
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_smarttem.backends.simulator.clock import Clock
from napari_smarttem.schema import BadInput


@pytest.mark.parametrize("speed", [None, math.inf])
def test_as_fast_as_possible_only_counts(speed):
    clock = Clock(speed)
    before = time.perf_counter()
    assert clock.sleep(1000.0)
    assert time.perf_counter() - before < 0.1
    assert clock.now_s() == 1000.0
    time.sleep(0.01)
    assert clock.now_s() == 1000.0


def test_real_time_is_real():
    clock = Clock(1.0)
    before = time.perf_counter()
    clock.sleep(0.06, threading.Event())
    assert time.perf_counter() - before == pytest.approx(0.06, abs=0.03)


def test_speed_scales():
    clock = Clock(50.0)
    before = time.perf_counter()
    clock.sleep(2.0)
    assert time.perf_counter() - before == pytest.approx(0.04, abs=0.03)
    assert clock.now_s() >= 2.0


def test_cancel_is_prompt_even_with_a_token_that_wakes_late():
    class Sleepy:
        """A token whose wait cannot be woken."""

        def __init__(self) -> None:
            self.flag = False

        def is_set(self) -> bool:
            return self.flag

        def wait(self, timeout: float | None = None) -> bool:
            time.sleep(timeout or 0.0)
            return self.flag

    token, clock = Sleepy(), Clock(1.0)
    threading.Timer(0.05, lambda: setattr(token, "flag", True)).start()
    before = time.perf_counter()
    assert clock.sleep(10.0, token) is False
    assert time.perf_counter() - before < 0.05 + 0.1


@given(st.lists(st.floats(0, 1e4), max_size=20))
def test_time_never_runs_backwards(deadlines):
    clock, seen = Clock(None), 0.0
    for deadline in deadlines:
        clock.wait_until(deadline)
        assert clock.now_s() == max(seen, deadline)
        seen = clock.now_s()


def test_a_set_token_stops_even_the_fast_clock():
    token = threading.Event()
    token.set()
    clock = Clock(None)
    assert clock.sleep(5.0, token) is False
    assert clock.now_s() == 0.0


@pytest.mark.parametrize("speed", [0, -1.0, math.nan, "fast", True])
def test_impossible_speeds(speed):
    with pytest.raises(BadInput, match="speed"):
        Clock(speed)
