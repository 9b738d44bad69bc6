"""The corrector gateway: netstrings in any pieces, metres, errors, and the optics of a simulated column."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager

import pytest

from napari_smarttem.backends.digitalmicrograph import connect
from napari_smarttem.backends.digitalmicrograph.ceos import CeosGateway, CeosOptics
from napari_smarttem.backends.digitalmicrograph.fake_gms import run
from napari_smarttem.backends.guard import Guard
from napari_smarttem.schema import BadInput, InstrumentFault, LimitExceeded

from .conftest import TOKEN

INFO = {
    "mode": "STEM", "version": "v1.6-221", "currentSetting": "MC_STEM@200KV", "correctorType": "DCORPRIME",
    "measurementRange": {"We": 8.5e-6, "A2": 1.85e-4, "B2": 9.2e-5},
}  # fmt: skip


class Gateway:
    """A corrector with aberrations in m; its answers come in small pieces with commas in them."""

    def __init__(self, aberrations=None):
        self.aberrations = aberrations or {
            "C1": [1.2e-7, 0.0],
            "A1": [-3e-8, 4e-8],
            "B2": [0.0, 0.0],
            "C3": [2e-6, 0.0],
        }
        self.calls = []
        self.fail = ""
        self.raw = b""
        self.changed = lambda name, value: None

    def answer(self, request):
        method, params = request["method"], request["params"]
        self.calls.append((method, params))
        if self.fail:
            data = {"type": "<class 'Exception'>", "message": self.fail}
            return {"id": request["id"], "error": {"code": -32000, "message": "Server error", "data": data}}
        if method == "getInfo":
            return {"id": request["id"], "result": INFO}
        if method == "acquireTableau":
            return {"id": request["id"], "result": {"aberrations": self.aberrations}}
        if method == "measureC1A1":
            return {"id": request["id"], "result": {"aberrations": {k: self.aberrations[k] for k in ("C1", "A1")}}}
        value = params["value"]
        self.aberrations[params["name"]] = [a - v for a, v in zip(self.aberrations[params["name"]], value, strict=True)]
        self.changed(params["name"], self.aberrations[params["name"]])
        return {"id": request["id"], "result": None}

    def serve(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                head = b""
                while not head.endswith(b":"):
                    head += sock.recv(1)
                text = b""
                while len(text) < int(head[:-1]) + 1:
                    text += sock.recv(4096)
                assert text.endswith(b",")
                reply = json.dumps(self.answer(json.loads(text[:-1]))).encode()
                whole = self.raw or b"%d:%s," % (len(reply), reply)
                for at in range(0, len(whole), 7):
                    sock.sendall(whole[at : at + 7])


@contextmanager
def gateway(**settings):
    corrector = Gateway(**settings)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=corrector.serve, args=(listener,), daemon=True).start()
        yield corrector, f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def test_tableau_in_metres_becomes_nm_and_um():
    with gateway() as (corrector, address):
        measured = CeosOptics(CeosGateway(address)).measure("Standard", 34.0)
        assert corrector.calls[-1] == ("acquireTableau", {"tabType": "Standard", "angle": 34.0})
        assert measured == pytest.approx(
            {"C1": 120.0, "A1.x": -30.0, "A1.y": 40.0, "B2.x": 0.0, "B2.y": 0.0, "C3": 2.0}
        )


def test_correcting_what_was_measured_removes_it():
    with gateway() as (corrector, address):
        optics = CeosOptics(CeosGateway(address))
        optics.measure()
        optics.set({"C1": 0.0, "A1.x": 0.0, "A1.y": 0.0})
        assert optics.measure() == pytest.approx({"C1": 0.0, "A1.x": 0.0, "A1.y": 0.0}, abs=1e-9)
        assert [method for method, _ in corrector.calls].count("correctAberration") == 2


def test_absolute_values_are_reached_from_anywhere():
    with gateway() as (_, address):
        optics = CeosOptics(CeosGateway(address))
        optics.measure("Fast")
        optics.set({"A1.y": -15.0})
        optics.set({"C1": 33.0, "C3": -1.5})
        assert optics.measure("Fast") == pytest.approx(
            {"C1": 33.0, "A1.x": -30.0, "A1.y": -15.0, "B2.x": 0.0, "B2.y": 0.0, "C3": -1.5}
        )


def test_unknown_or_too_large_moves_nothing():
    with gateway() as (corrector, address):
        optics = CeosOptics(CeosGateway(address))
        for values, error in (({"C1": 1.0, "Z9": 1.0}, BadInput), ({"C1": 1.0, "A1.x": 1e6}, LimitExceeded)):
            with pytest.raises(error):
                optics.set(values)
        assert "correctAberration" not in [method for method, _ in corrector.calls]


def test_the_gateways_own_words_are_passed_on():
    with gateway() as (corrector, address):
        link = CeosGateway(address)
        corrector.fail = "Error in data block 3: Expected 2 values, but found 1"
        with pytest.raises(InstrumentFault, match=r"data block 3: Expected 2 values, but found 1\.$") as caught:
            link.c1a1()
        assert caught.value.transient


@pytest.mark.parametrize(
    "raw",
    [
        b"hello",
        b"99999999:",
        b"4:{},",
        b"5:[1,2],",
        b'20:{"id":77,"result":1},',
        b"3:{},x",
        b"12:not json!!!,",
        b"2:{},",
    ],
)
def test_what_is_no_gateway_is_said(raw):
    with gateway() as (corrector, address):
        corrector.raw = raw
        with pytest.raises(InstrumentFault) as caught:
            CeosGateway(address).info()
        assert str(caught.value).endswith(".")


def test_nobody_there():
    with pytest.raises(InstrumentFault, match="check that it is running"):
        CeosGateway("tcp://127.0.0.1:9").info()


def test_the_optics_of_the_bridge_move_the_simulated_column():
    """GMS scans, the gateway corrects: one column behind both, and the guard's largest step holds."""
    with run(speed=None, seed=3, token=TOKEN) as running, gateway() as (corrector, address):
        column = running.gms.world.microscope.optics
        column.set({"C1": 120.0, "A1.x": -30.0, "A1.y": 40.0})

        def change(name, value):
            if name in ("C1", "A1"):
                names = ("C1",) if name == "C1" else ("A1.x", "A1.y")
                column.set({n: v * 1e9 for n, v in zip(names, value, strict=False)})

        corrector.changed = change
        with_corrector = connect(running.address, TOKEN, overview_pixels=64, corrector=address)
        guard = Guard(with_corrector)
        assert "optics" in guard.info.capabilities
        with_corrector.optics.measure()
        guard.optics.set({"C1": 20.0, "A1.x": 0.0})
        found = column.get()
        assert (found["C1"], found["A1.x"], found["A1.y"]) == pytest.approx((20.0, 0.0, 40.0))
        with pytest.raises(LimitExceeded, match="without a person"):
            guard.optics.set({"C1": 1500.0})
        guard.close()


def test_the_fake_corrector_speaks_as_the_real_one_does():
    with run(speed=None, seed=100, token=TOKEN, ronchigrams=True, misalignment=1.0) as running:
        address = running.corrector.address
        link, column = CeosGateway(address), running.gms.world.microscope.column
        true = column.true_aberrations(0.0)
        found = link.tableau("Standard", 34.0)
        assert found["C1"][0] * 1e9 == pytest.approx(true["C1"], abs=10.0)
        assert found["C3"][0] * 1e6 == pytest.approx(true["C3"], abs=5.0)
        link.correct("A1", found["A1"])  # what was measured is removed, but for what the lenses do beside it
        assert abs(column.true_aberrations(0.0)["A1.x"]) < 0.2 * abs(true["A1.x"]) + 10.0
        for raw in (b"hello", b"5:[1,2],", b"999999:", b"2:{}x"):
            with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=5.0) as sock:
                sock.sendall(raw)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(100):
                    continue
        for method, params, words in (
            ("correctAberration", {"name": "B2"}, None),
            ("correctAberration", {"name": "Q9", "value": [0, 0]}, "Unknown aberration"),
            ("correctAberration", {"name": "C1", "value": [1.0, 0.0]}, "outside"),
            ("rm", {}, "Unknown method"),
        ):
            if words is None:
                link.call(method, params)  # without a value: what was last measured
                continue
            with pytest.raises(InstrumentFault, match=words):
                link.call(method, params)
