"""The contract, through a real socket: client, server and a fake GMS in which the simulated specimen lies."""

from __future__ import annotations

import pytest

from napari_smarttem.backends import registry
from napari_smarttem.backends.digitalmicrograph.fake_gms import run
from napari_smarttem.backends.guard import Guard

from ..bridge.test_ceos import gateway
from .suite import ContractSuite

SETTINGS = {"overview_pixels": 256, "beam_current_pa": 50.0}


def connected(wrapper, gms, **world):
    with run(gms=gms, seed=3, **world) as running:
        instrument = registry.connect("digitalmicrograph", address=running.address, token=running.token, **SETTINGS)
        yield wrapper(instrument)
        instrument.close()
        running.stop()
        assert running.gms.violations == []
        assert running.gms.leaks() == {"images": 0, "parameters": 0, "tags": 0}


@pytest.fixture(scope="class", params=[lambda i: i, Guard], ids=["bare", "guard"])
def virtual(request):
    yield from connected(request.param, {}, speed=None)


@pytest.fixture(scope="class")
def in_real_time():
    yield from connected(Guard, {"arguments": "six"}, speed=1.0)


@pytest.fixture(scope="class")
def without_blanker_or_filter():
    gms = {"arguments": "absent", "model": "no filter", "blanker": False, "rotation_offset": 0.0}
    yield from connected(Guard, gms, speed=None)


@pytest.fixture(scope="class")
def offset_only():
    yield from connected(Guard, {"model": "offset only", "zoom": 1.0}, speed=None)


@pytest.fixture(scope="class")
def with_corrector_and_camera():
    aberrations = {name: [0.0, 0.0] for name in ("C1", "A1", "A2", "B2", "C3", "A3", "S3")}
    with gateway(aberrations=aberrations) as (_, address), run(speed=None, seed=3) as running:
        settings = {**SETTINGS, "corrector": address, "camera_mrad_per_pixel": 0.1, "rotation_deg": 90.0}
        instrument = registry.connect("digitalmicrograph", address=running.address, token=running.token, **settings)
        yield Guard(instrument)
        instrument.close()


class TestDigitalMicrograph(ContractSuite):
    @pytest.fixture
    def instrument(self, virtual):
        return virtual


class TestDigitalMicrographInRealTime(ContractSuite):
    exposure_s = 0.1

    @pytest.fixture
    def instrument(self, in_real_time):
        return in_real_time


class TestWithoutBlankerOrFilter(ContractSuite):
    @pytest.fixture
    def instrument(self, without_blanker_or_filter):
        return without_blanker_or_filter


class TestFilterWithOffsetOnly(ContractSuite):
    @pytest.fixture
    def instrument(self, offset_only):
        return offset_only


class TestWithCorrectorAndCamera(ContractSuite):
    """Optics and camera too, and a scan turned by 90 degrees."""

    @pytest.fixture
    def instrument(self, with_corrector_and_camera):
        return with_corrector_and_camera
