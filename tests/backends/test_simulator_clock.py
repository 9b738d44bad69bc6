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

from ..tokens import AfterLooks


@pytest.mark.parametrize("speed", [None, math.inf])
def test_as_fast_as_possible_only_counts(speed):
    clock = Clock(speed)
    before = time.perf_counter()
    assert clock.sleep(1000.0)
    assert time.perf_counter() - before < 100.0
    assert clock.now_s() == 1000.0
    time.sleep(0.01)
    assert clock.now_s() == 1000.0


def test_real_time_is_real():
    clock = Clock(1.0)
    before = time.perf_counter()
    assert clock.sleep(0.06, threading.Event())
    took = time.perf_counter() - before
    # a busy machine may wake it late, but never early, and what it shows is what passed
    assert 0.06 <= clock.now_s() <= took + 0.01
    assert took >= 0.0599


def test_speed_scales():
    clock = Clock(50.0)
    before = time.perf_counter()
    clock.sleep(2.0)
    took = time.perf_counter() - before
    assert took >= 0.0399
    assert 2.0 <= clock.now_s() <= 50.0 * (took + 0.01)


def test_cancel_is_prompt_even_with_a_token_that_wakes_late():
    class Sleepy(AfterLooks):
        """A token whose wait cannot be woken."""

        def wait(self, timeout: float | None = None) -> bool:
            self.waits.append(timeout)
            time.sleep(timeout)
            return False

    token, clock = Sleepy(3), Clock(1.0)
    assert clock.sleep(60.0, token) is False
    assert len(token.waits) == 3
    assert max(token.waits) <= 0.02


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
