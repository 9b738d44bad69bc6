"""A server in a fake GMS, and a client of it."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from napari_smarttem.backends.digitalmicrograph import connect
from napari_smarttem.backends.digitalmicrograph.fake_gms import run

TOKEN = "a token for tests only"


@contextmanager
def bridge(*, connect_with=None, **settings):
    """(running server, connected instrument); nothing may be left behind, and no thread may have called out of turn."""
    with run(token=TOKEN, **settings) as running:
        instrument = connect(running.address, TOKEN, **{"overview_pixels": 128, **(connect_with or {})})
        try:
            yield running, instrument
        finally:
            instrument.close()
    assert running.gms.violations == []
    assert running.gms.leaks() == {"images": 0, "parameters": 0, "tags": 0}


@pytest.fixture
def instant():
    """In front of a world that takes no time; its spectra say where the beam stood."""
    with bridge(instant=True, speed=None) as pair:
        yield pair
