"""Every backend there is, bare, under a guard, and under a wrapper that could fail but is not told to."""

from __future__ import annotations

import pytest

from napari_smarttem.backends import registry
from napari_smarttem.backends.faults import Faulty
from napari_smarttem.backends.guard import Guard

from .suite import ContractSuite

WRAPPERS = {"bare": lambda i: i, "guard": Guard, "faulty": Faulty, "both": lambda i: Guard(Faulty(i))}

# One instrument for all tests of a class: a test finds it as the one before left it, as at a microscope.


def connected(backend, wrapper="bare", **settings):
    instrument = WRAPPERS[wrapper](registry.connect(backend, **settings))
    yield instrument
    instrument.close()


@pytest.fixture(scope="class", params=WRAPPERS)
def simulator(request):
    yield from connected("simulator", request.param, speed=None, seed=3)


@pytest.fixture(scope="class")
def simulator_with_sorter():
    yield from connected("simulator", "guard", speed=None, seed=3, sorter=True)


@pytest.fixture(scope="class")
def simulator_in_real_time():
    yield from connected("simulator", "guard", speed=1.0, seed=3)


@pytest.fixture(scope="class", params=WRAPPERS)
def replay(request, small_recording):
    yield from connected("replay", request.param, file=str(small_recording))


@pytest.fixture(scope="class")
def replay_in_real_time(small_recording):
    yield from connected("replay", "guard", file=str(small_recording), speed=1.0, lazy=True)


@pytest.fixture(scope="class", params=["core_shell.hspy", "LSMO_linescan.hspy"])
def real_recording(request, shared_data):
    yield from connected("replay", "guard", file=str(shared_data / request.param))


class TestSimulator(ContractSuite):
    @pytest.fixture
    def instrument(self, simulator):
        return simulator


class TestSimulatorWithSorter(ContractSuite):
    @pytest.fixture
    def instrument(self, simulator_with_sorter):
        return simulator_with_sorter


class TestSimulatorInRealTime(ContractSuite):
    exposure_s = 0.2

    @pytest.fixture
    def instrument(self, simulator_in_real_time):
        return simulator_in_real_time


class TestReplay(ContractSuite):
    @pytest.fixture
    def instrument(self, replay):
        return replay


class TestReplayInRealTime(ContractSuite):
    exposure_s = 0.2

    @pytest.fixture
    def instrument(self, replay_in_real_time):
        return replay_in_real_time


@pytest.mark.real_data
class TestReplayOfRealRecordings(ContractSuite):
    @pytest.fixture
    def instrument(self, real_recording):
        return real_recording
