"""Every backend there is, bare, under a guard, and under a wrapper that could fail but is not told to."""

from __future__ import annotations

import pytest

from napari_smarttem.backends import registry
from napari_smarttem.backends.faults import Faulty
from napari_smarttem.backends.guard import Guard

from .suite import ContractSuite


def _bare(instrument):
    return instrument


@pytest.fixture(params=[_bare, Guard, Faulty, lambda i: Guard(Faulty(i))], ids=["bare", "guard", "faulty", "both"])
def wrap(request):
    return request.param


class TestSimulator(ContractSuite):
    @pytest.fixture
    def instrument(self, wrap):
        instrument = wrap(registry.connect("simulator", speed=None, seed=3))
        yield instrument
        instrument.close()


class TestSimulatorInRealTime(ContractSuite):
    exposure_s = 0.2

    @pytest.fixture
    def instrument(self):
        instrument = Guard(registry.connect("simulator", speed=1.0, seed=3))
        yield instrument
        instrument.close()


class TestReplay(ContractSuite):
    @pytest.fixture
    def instrument(self, wrap, small_recording):
        instrument = wrap(registry.connect("replay", file=str(small_recording)))
        yield instrument
        instrument.close()


class TestReplayInRealTime(ContractSuite):
    exposure_s = 0.2

    @pytest.fixture
    def instrument(self, small_recording):
        instrument = Guard(registry.connect("replay", file=str(small_recording), speed=1.0, lazy=True))
        yield instrument
        instrument.close()


@pytest.mark.real_data
class TestReplayOfCoreShellParticles(ContractSuite):
    @pytest.fixture
    def instrument(self, shared_data):
        instrument = Guard(registry.connect("replay", file=str(shared_data / "core_shell.hspy")))
        yield instrument
        instrument.close()


@pytest.mark.real_data
class TestReplayOfALineScan(ContractSuite):
    @pytest.fixture
    def instrument(self, shared_data):
        instrument = registry.connect("replay", file=str(shared_data / "LSMO_linescan.hspy"))
        yield instrument
        instrument.close()
