"""The contract on the published server, re-enacted with its faults and taking its time: both ways it takes positions."""

from __future__ import annotations

import importlib.util
import threading
import time

import pytest

from napari_smarttem.backends import registry
from napari_smarttem.backends.digitalmicrograph import pyautomic
from napari_smarttem.backends.digitalmicrograph.fake_gms import InstantWorld
from napari_smarttem.backends.guard import Guard

from ..bridge.array_server import ArrayServer, LocalProxy, Shared
from .suite import ContractSuite

SETTINGS = {"field_nm": 200.0, "dispersion_ev": 0.5, "consent": True, "zoom": 0.7}


class Unhurried(InstantWorld):
    """Exposures take as long as they should."""

    def sleep(self, seconds):
        time.sleep(seconds)


def connected(patch, wrapper, revision, turned):
    shared = Shared(revision, rotation_offset=180.0 if turned else 0.0, world=Unhurried())
    patch.setattr(pyautomic, "open_proxy", lambda _address, _timeout: LocalProxy(shared))
    instrument = registry.connect("pyautomic", flip=turned, **SETTINGS)
    assert instrument.raw is (revision == "raw")
    yield wrapper(instrument)
    instrument.close()


@pytest.fixture(scope="class")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="class", params=[lambda i: i, Guard], ids=["bare", "guard"])
def in_pixels(request, patch):
    yield from connected(patch, request.param, "pixels", False)


@pytest.fixture(scope="class")
def raw_on_a_turned_column(patch):
    yield from connected(patch, Guard, "raw", True)


@pytest.fixture(scope="class")
def through_pyro():
    api = pytest.importorskip("Pyro5.api")
    shared = Shared("pixels", rotation_offset=180.0, world=Unhurried())
    methods = {name: api.expose(method) for name, method in vars(ArrayServer).items() if not name.startswith("_")}
    served = type("Served", (ArrayServer,), {**methods, "__init__": lambda self: ArrayServer.__init__(self, shared)})
    daemon = api.Daemon(host="127.0.0.1")
    address = str(daemon.register(api.behavior(instance_mode="session")(served), objectId="array.server"))
    threading.Thread(target=daemon.requestLoop, daemon=True).start()
    instrument = registry.connect("pyautomic", address=address, flip=True, **SETTINGS)
    yield Guard(instrument)
    instrument.close()
    daemon.shutdown()


class TestPositionsInPixels(ContractSuite):
    @pytest.fixture
    def instrument(self, in_pixels):
        return in_pixels


class TestRawPositionsOnATurnedColumn(ContractSuite):
    @pytest.fixture
    def instrument(self, raw_on_a_turned_column):
        return raw_on_a_turned_column


@pytest.mark.skipif(importlib.util.find_spec("Pyro5") is None, reason="Pyro5 is not installed")
class TestThroughPyro(ContractSuite):
    @pytest.fixture
    def instrument(self, through_pyro):
        return through_pyro
