"""The client of the published server: learns how positions are taken, keeps them right on turned columns, survives its faults."""

from __future__ import annotations

import importlib.util
import threading

import numpy as np
import pytest

from napari_smarttem.backends.digitalmicrograph import pyautomic
from napari_smarttem.schema import BadInput, InstrumentFault, LimitExceeded

from .array_server import METHODS, ArrayServer, LocalProxy, Shared

NEVER = threading.Event()


@pytest.fixture(params=["local", "Pyro5"])
def dial(request, monkeypatch):
    """Makes instruments on a `Shared`, with a stand-in and, where it is installed, with real Pyro5."""
    daemons, opened = [], []

    def make(shared, without=(), **settings):
        proxies = []
        settings = {"field_nm": 200.0, "dispersion_ev": 0.5, "flip": False, "consent": True, "zoom": 0.7, **settings}
        if request.param == "Pyro5" and without:
            pytest.skip("what Pyro5 has exposed once stays exposed")
        if request.param == "local":
            monkeypatch.setattr(
                pyautomic, "open_proxy", lambda _a, _t: proxies.append(LocalProxy(shared, without)) or proxies[-1]
            )
            instrument = pyautomic.connect(**settings)
        else:
            if importlib.util.find_spec("Pyro5") is None:
                pytest.skip("Pyro5 is not installed")
            import Pyro5.api

            exposed = type("Exposed", (ArrayServer,), {"__init__": lambda self: ArrayServer.__init__(self, shared)})
            for name in METHODS - set(without):
                setattr(exposed, name, Pyro5.api.expose(getattr(ArrayServer, name)))
            exposed = Pyro5.api.behavior(instance_mode="session")(exposed)
            daemon = Pyro5.api.Daemon(host="127.0.0.1")
            uri = daemon.register(exposed, objectId="array.server")
            threading.Thread(target=daemon.requestLoop, daemon=True).start()
            daemons.append(daemon)
            instrument = pyautomic.connect(str(uri), **settings)
        instrument.proxies = proxies
        opened.append(instrument)
        return instrument

    yield make
    for instrument in opened:
        instrument.close()
    for daemon in daemons:
        daemon.shutdown()


@pytest.mark.parametrize("revision", ["pixels", "raw"])
@pytest.mark.parametrize("turned", [False, True])
def test_the_beam_goes_where_the_scan_shows_the_place(dial, revision, turned):
    """The scan's pixels and the spectra both say where they were recorded; on a turned column with flip=True, too."""
    shared = Shared(revision, rotation_offset=180.0 if turned else 0.0)
    instrument = dial(shared, flip=turned)
    assert instrument.raw is (revision == "raw")
    (image,) = instrument.scan(field=instrument.field, shape=(512, 512), dwell_s=1e-5, signals=(), cancel=NEVER)
    for row, column in ((100, 300), (20, 490), (256, 256)):
        instrument.move_probe(float(image.coordinates("y")[row]), float(image.coordinates("x")[column]))
        spectrum = instrument.acquire_spectrum(0.01, NEVER)
        stood_y = float(spectrum.data[0]) / float(spectrum.data[2]) * 2 - 1000
        shown_y = float(image.data[row, column]) / 100 - 200.0  # detector 1 of the fake shows y
        assert stood_y == pytest.approx(shown_y, abs=1.5)
    assert len(shared.exposures) == 3


def test_without_the_flip_a_turned_column_is_wrong(dial):
    """Why it has to be said: the published formula is a reflection there."""
    shared = Shared("pixels", rotation_offset=180.0)
    instrument = dial(shared, flip=False)
    instrument.move_probe(20.0, 20.0)
    assert shared.gms.world.position[0] > 50.0  # lower right of the middle instead of upper left


def test_what_must_be_said_is_asked_for():
    with pytest.raises(BadInput, match="180 degrees"):
        pyautomic.connect(field_nm=100.0, dispersion_ev=0.5)
    with pytest.raises(BadInput, match="consent=True"):
        pyautomic.connect(field_nm=100.0, dispersion_ev=0.5, flip=True)


def test_an_old_revision_cannot_set_the_energy(dial):
    instrument = dial(Shared(), without=("set_energy_Offset",), zero_loss_channel=100.0)
    assert instrument.energy_offset_range_ev == (-50.0, -50.0)
    with pytest.raises(LimitExceeded):
        instrument.set_energy_offset_ev(300.0)


def test_energy_offset(dial):
    shared = Shared()
    instrument = dial(shared, zero_loss_channel=100.0)
    instrument.set_energy_offset_ev(250.0)
    assert shared.gms.filter.energy_ev == 300.0
    instrument.move_probe(50.0, 50.0)
    (axis,) = instrument.acquire_spectrum(0.01, NEVER).axes
    assert (axis.offset, axis.scale) == (250.0, 0.5)


def test_another_server_is_refused(dial):
    with pytest.raises(InstrumentFault, match="lacks get_beam_pos"):
        dial(Shared(), without=("get_beam_pos",))


def test_a_broken_connection_is_made_again_with_its_camera(dial, request):
    if "Pyro5" in request.node.name:
        pytest.skip("a stand-in is broken more easily")
    shared = Shared()
    instrument = dial(shared)
    instrument.move_probe(50.0, 50.0)
    instrument.proxies[-1].broken = True
    with pytest.raises(InstrumentFault, match="connection lost") as caught:
        instrument.acquire_spectrum(0.01, NEVER)
    assert caught.value.transient
    assert (
        instrument.probe_position_nm is None
    )  # nobody knows where the beam is: nothing is recorded before it is put somewhere
    instrument.move_probe(50.0, 50.0)
    assert np.asarray(instrument.acquire_spectrum(0.01, NEVER).data)[2] > 0
    assert len(instrument.proxies) == 2


def test_a_part_of_the_field_is_cut_out_where_it_lies(dial):
    instrument = dial(Shared())
    field = instrument.field.model_copy(update={"y_nm": 50.0, "x_nm": 20.0, "height_nm": 40.0, "width_nm": 80.0})
    (frame,) = instrument.scan(field=field, shape=(20, 40), dwell_s=1e-4, signals=(), cancel=NEVER)
    down = np.asarray(frame.data).mean(axis=1)
    steps = np.diff(down)
    assert frame.shape == (20, 40)
    assert (steps > 0).all()
    assert steps == pytest.approx(np.full(19, steps.mean()), rel=0.15)  # whole hardware steps
