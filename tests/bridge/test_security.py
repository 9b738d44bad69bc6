"""Who may talk to the server, and what it listens to."""

from __future__ import annotations

import os
import socket
import time

import pytest

from napari_smarttem.backends.digitalmicrograph import connect, server, wire
from napari_smarttem.backends.digitalmicrograph.fake_gms import FakeGMS, InstantWorld, run
from napari_smarttem.backends.digitalmicrograph.link import Link
from napari_smarttem.schema import BadInput, InstrumentFault

from .conftest import TOKEN


@pytest.fixture(scope="module")
def running():
    with run(instant=True, speed=None, token=TOKEN) as found:
        yield found


def dial(running):
    channel = wire.Channel(socket.create_connection(("127.0.0.1", int(running.address.rpartition(":")[2]))))
    hello, _ = channel.receive(5.0)
    return channel, hello


def login(channel, hello, token=TOKEN, **changes):
    nonce = "0" * 32
    shown = wire.proof(token, "client", hello["nonce"], nonce)
    channel.send({"protocol": 1, "session": "s" * 24, "nonce": nonce, "proof": shown} | changes)
    answer, _ = channel.receive(5.0)
    return answer


def hung_up(channel):
    try:
        channel.receive(5.0)
    except wire.WireError as error:
        return "hung up" in str(error) or "broke" in str(error)
    return False


def test_listens_to_this_computer_only(running):
    host, _ = running.bridge.listener.getsockname()
    assert host == "127.0.0.1"
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    port = int(running.address.rpartition(":")[2])
    for address in addresses:
        with pytest.raises(OSError, match=r"refused|reachable|timed out"):
            socket.create_connection((address, port), timeout=1.0)


@pytest.mark.parametrize("token", ["", "short", "fifteen letters"])
def test_listens_further_only_with_a_token_of_ones_own(token):
    with pytest.raises(ValueError, match="16 characters"):
        server.Bridge(FakeGMS(InstantWorld()), "0.0.0.0", port=0, token=token)


def test_a_token_is_made_up_each_time():
    tokens = set()
    for _ in range(2):
        bridge = server.Bridge(FakeGMS(InstantWorld()), port=0)
        tokens.add(bridge.token)
        bridge.listener.close()
    assert len(tokens) == 2
    assert all(len(token) >= 20 for token in tokens)


@pytest.mark.parametrize(
    "changes",
    [
        {"proof": ""},
        {"proof": "0" * 64},
        {"proof": 7},
        {"proof": "Ä"},
        {"nonce": 1},
        {"session": "short"},
        {"protocol": 2},
    ],
)
def test_without_the_right_proof_nothing_is_done(running, changes):
    channel, hello = dial(running)
    answer = login(channel, hello, **changes)
    assert answer == {"ok": False, "code": "login", "error": "The token is not the one this server printed."}
    assert hung_up(channel)


@pytest.mark.parametrize(
    "changes", [{}, {"proof": ""}, {"proof": "0" * 64}, {"proof": 7}, {"nonce": 1}, {"session": "short"}]
)
def test_one_comparison_in_constant_time_whatever_is_wrong(running, changes, monkeypatch):
    """The same work for a right proof as for a wrong, a short or an absent one: time says nothing."""
    made, real = [], server.hmac.compare_digest
    monkeypatch.setattr(server.hmac, "compare_digest", lambda a, b: made.append((a, b)) or real(a, b))
    channel, hello = dial(running)
    answer = login(channel, hello, **changes)
    channel.close()
    assert answer["ok"] is (changes == {})
    assert len(made) == 1
    assert len(made[0][0]) == 64
    assert all(isinstance(side, bytes) for side in made[0])


def framed(text, body=b""):
    return wire.PREFIX.pack(b"STEB", len(text), len(body)) + text + body


BAD = {
    "no frame": b"GET / HTTP/1.1\r\n\r\n",
    "header too large": wire.PREFIX.pack(b"STEB", server.HEADER_CAP + 1, 0),
    "body too large": wire.PREFIX.pack(b"STEB", 20, server.BODY_CAP + 1),
    "no JSON": framed(b"{'id':1}"),
    "not finite": framed(b'{"id":NaN}'),
    "nested too deeply": framed(b'{"a":' + b"[" * 20 + b"]" * 20 + b"}"),
    "no object": framed(b"[1]"),
    "no verb": framed(b'{"id":1}'),
    "no number": framed(b'{"id":"1","verb":"describe"}'),
    "arguments that are a list": framed(b'{"id":7,"verb":"describe","args":[1]}'),
    "an array longer than its body": framed(b'{"id":7,"verb":"visit","args":{},"arrays":[["<f8",[1000]]]}', b"1234"),
}


@pytest.mark.parametrize("after", [False, True], ids=["first", "right after a command"])
@pytest.mark.parametrize("what", BAD)
def test_what_is_no_request_ends_the_connection_and_nothing_else(running, what, after):
    """After the login too, and also where the thread that owns DigitalMicrograph reads it in the helper's place."""
    channel, hello = dial(running)
    assert login(channel, hello)["ok"] is True
    if after:
        good = b"".join(map(bytes, wire.pack({"id": 3, "verb": "blanked", "args": {}})))
        channel.sock.sendall(good + BAD[what])
        assert channel.receive(5.0)[0]["ok"] is True
    else:
        channel.sock.sendall(BAD[what])
    assert hung_up(channel)
    channel.close()
    again, hello = dial(running)
    assert login(again, hello)["ok"] is True  # the server lives
    again.close()


def test_a_request_sent_again_is_answered_and_not_carried_out_again():
    """Replayed on the same connection, on another of the same session, and at once or late: one exposure."""
    with run(instant=True, speed=None, token=TOKEN) as running:
        channel, hello = dial(running)
        assert login(channel, hello)["ok"] is True
        before = running.gms.camera.prepared
        whole = b"".join(
            map(bytes, wire.pack({"id": 9, "verb": "image", "args": {"exposure_s": 0.01, "band": [0, 0, 4, 4]}}))
        )
        channel.sock.sendall(whole * 3)
        answers = [channel.receive(5.0) for _ in range(3)]
        time.sleep(0.05)
        channel.sock.sendall(whole)
        answers.append(channel.receive(5.0))
        other, hello = dial(running)
        assert login(other, hello)["ok"] is True
        other.sock.sendall(whole)
        answers.append(other.receive(5.0))
        assert running.gms.camera.prepared == before + 1
        assert all(head == answers[0][0] and (data[0] == answers[0][1][0]).all() for head, data in answers)
        channel.close()
        other.close()


def test_nothing_binds_beyond_this_computer(monkeypatch):
    """Server, fake corrector, client and doctor: every address that is listened at is this computer's own."""
    bound, real = [], socket.socket.bind
    monkeypatch.setattr(socket.socket, "bind", lambda self, address: bound.append(address[0]) or real(self, address))
    bridge = server.Bridge(FakeGMS(InstantWorld()), port=0)  # with the file's own HOST
    bridge.listener.close()
    with run(speed=None, seed=3, token=TOKEN, ronchigrams=True) as running:
        link = Link(running.address, TOKEN)
        link.call("describe")
        link.close()
    assert len(bound) >= 3
    assert set(bound) == {"127.0.0.1"}


def test_the_token_is_never_on_the_wire(running, monkeypatch):
    sent = []
    monkeypatch.setattr(
        wire, "pack", lambda *a, pack=wire.pack: sent.append(b"".join(map(bytes, pack(*a)))) or [sent[-1]]
    )
    link = Link(running.address, TOKEN)
    link.call("describe")
    link.close()
    assert len(sent) >= 3
    assert not any(TOKEN.encode() in piece for piece in sent)


def test_a_recorded_login_is_of_no_use(running):
    first, hello = dial(running)
    nonce = "1" * 32
    recorded = {
        "protocol": 1, "session": "s" * 24, "nonce": nonce, "proof": wire.proof(TOKEN, "client", hello["nonce"], nonce)
    }  # fmt: skip
    first.send(recorded)
    assert first.receive(5.0)[0]["ok"] is True
    first.close()
    second, again = dial(running)
    assert again["nonce"] != hello["nonce"]
    second.send(recorded)
    assert second.receive(5.0)[0]["ok"] is False
    assert hung_up(second)


def test_a_request_instead_of_a_login_is_refused(running):
    channel, _ = dial(running)
    channel.send({"id": 1, "verb": "blank", "args": {"blanked": False}})
    assert channel.receive(5.0)[0]["code"] == "login"
    assert hung_up(channel)


def test_much_cannot_be_sent_before_the_login(running):
    channel, _ = dial(running)
    channel.sock.sendall(wire.PREFIX.pack(b"STEB", 2000, 0) + b" " * 100)
    assert hung_up(channel)


def test_who_says_nothing_is_hung_up_on(running, monkeypatch):
    monkeypatch.setattr(server, "LOGIN_S", 0.2)
    channel, _ = dial(running)
    for byte in b"STEB":  # one byte at a time keeps nothing open
        time.sleep(0.1)
        try:
            channel.sock.send(bytes([byte]))
        except OSError:
            break
    assert hung_up(channel)


def test_who_sends_byte_by_byte_is_hung_up_on(running, monkeypatch):
    """Faster than the server looks around, and yet too slow for a whole frame."""
    monkeypatch.setattr(server, "LOGIN_S", 0.3)
    channel, hello = dial(running)
    nonce = "0" * 32
    shown = wire.proof(TOKEN, "client", hello["nonce"], nonce)
    (whole,) = wire.pack({"protocol": 1, "session": "s" * 24, "nonce": nonce, "proof": shown})
    began, sent = time.monotonic(), 0
    for byte in whole:
        time.sleep(0.05)
        try:
            channel.sock.send(bytes([byte]))
        except OSError:
            break
        sent += 1
    assert hung_up(channel)
    assert time.monotonic() - began > 0.2
    assert sent < len(whole) / 2


def test_unknown_commands_are_refused_and_the_connection_lives(running):
    channel, hello = dial(running)
    assert login(channel, hello)["ok"] is True
    for verb in ("eval", "__class__", "run", "ask", "let_go", "_scan_area", "make_safe"):
        channel.send({"id": 5, "verb": verb, "args": {}})
        answer, _ = channel.receive(5.0)
        assert (answer["ok"], answer["code"]) == (False, "bad")
    channel.send({"id": 6, "verb": "ping"})
    assert channel.receive(5.0)[0]["ok"] is True
    channel.close()


def test_the_server_proves_itself_too():
    """Whatever answers at the address without knowing the token is not believed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        import threading

        def impostor():
            sock, _ = listener.accept()
            channel = wire.Channel(sock)
            channel.send({"protocol": 1, "boot": "x", "nonce": "0" * 32})
            channel.receive(5.0)
            channel.send({"ok": True, "proof": "0" * 64, "clock": 0.0})
            hung_up(channel)
            channel.close()

        thread = threading.Thread(target=impostor)
        thread.start()
        with pytest.raises(BadInput, match="not the server it says"):
            Link(f"tcp://127.0.0.1:{listener.getsockname()[1]}", TOKEN)
        thread.join(10.0)


def test_wrong_address_or_token_is_said_in_a_sentence(running, monkeypatch):
    monkeypatch.delitem(os.environ, "SMARTTEM_DM_TOKEN", raising=False)
    with pytest.raises(BadInput, match="refuses the token"):
        connect(running.address, "wrong")
    with pytest.raises(InstrumentFault, match=r"execute server\.py"):
        connect("tcp://127.0.0.1:9", TOKEN)
    for address in ("http://127.0.0.1:1", "nowhere", "tcp://:1", "tcp://a:b"):
        with pytest.raises(BadInput, match="looks like"):
            connect(address, TOKEN)
    with pytest.raises(BadInput, match="token is needed"):
        connect("tcp://127.0.0.1:10")


def test_the_token_is_in_no_record(running):
    instrument = connect(running.address, TOKEN, overview_pixels=64)
    assert TOKEN not in instrument.info.model_dump_json()
    instrument.close()


def test_many_connections_do_not_keep_a_client_out_for_ever(running, monkeypatch):
    monkeypatch.setattr(server, "LOGIN_S", 0.3)
    idle = [socket.create_connection(("127.0.0.1", int(running.address.rpartition(":")[2]))) for _ in range(30)]
    deadline = time.monotonic() + 30.0
    link = None
    while link is None and time.monotonic() < deadline:
        try:
            link = Link(running.address, TOKEN)
        except InstrumentFault:
            time.sleep(0.1)
    for sock in idle:
        sock.close()
    assert link is not None
    link.close()
