"""The rules of the wire, in both copies: what is packed comes out again, what is wrong is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_smarttem.backends.digitalmicrograph import server, wire
from napari_smarttem.bench.parts.bridge_fuzz import fuzz

COPIES = {"client": (wire, wire.WireError), "server": (server, server.WireError)}


@pytest.fixture(params=COPIES)
def copy(request):
    return COPIES[request.param]


def test_both_copies_say_the_same():
    for name in ("PROTOCOL", "MAGIC", "DEEPEST", "MOST_ARRAYS", "DTYPES"):
        assert getattr(wire, name) == getattr(server, name), name
    assert wire.PREFIX.format == server.PREFIX.format
    assert wire.proof("secret", "client", "a", "b") == server.proof("secret", "client", "a", "b")
    assert wire.proof("secret", "client", "a", "b") != wire.proof("secret", "server", "a", "b")


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda k: k != "arrays"), st.integers() | st.text(max_size=8), max_size=5
    ),
    st.lists(
        hnp.arrays(
            st.sampled_from([np.dtype(d) for d in ("u1", "<u2", ">u2", "<u4", "<i4", "<f4", ">f8")]),
            hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5),
        ),
        max_size=3,
    ),
)
def test_what_one_packs_the_other_unpacks(header, arrays):
    for pack, unpack in ((wire.pack, server.unpack), (server.pack, wire.unpack)):
        whole = b"".join(bytes(piece) for piece in pack(header, arrays))
        magic, length, body = wire.PREFIX.unpack(whole[:12])
        assert magic == b"STEB"
        assert len(whole) == 12 + length + body
        found, data = unpack(whole[12 : 12 + length], whole[12 + length :])
        assert found == header
        assert len(data) == len(arrays)
        for got, sent in zip(data, arrays, strict=True):
            assert got.dtype.byteorder in "=|<"
            np.testing.assert_array_equal(got, sent)


def test_a_large_body_is_not_copied_into_its_header():
    image = np.zeros((512, 512), np.uint32)
    pieces = wire.pack({"id": 1}, [image])
    assert len(pieces) == 2
    assert np.shares_memory(np.frombuffer(pieces[1], np.uint32), image)


@pytest.mark.parametrize(
    ("text", "body"),
    [
        (b"[1]", b""),
        (b"{", b""),
        (b"\xff\xfe{}", b""),
        (b'{"a":NaN}', b""),
        (b'{"a":Infinity}', b""),
        (b"{}", b"left over"),
        (b'{"arrays":[["<f4",[4]]]}', b"short"),
        (b'{"arrays":[["|O",[1]]]}', b"12345678"),
        (b'{"arrays":[["<f4",[-1]]]}', b""),
        (b'{"arrays":[["<f4",[true]]]}', b"1234"),
        (b'{"arrays":[["<f4",[2147483647,2147483647,2147483647]]]}', b"1234"),
        (b'{"arrays":[[["<f4"],[1]]]}', b"1234"),
        (b'{"arrays":{"a":1}}', b""),
        (b'{"arrays":[' + b",".join([b'["|u1",[1]]'] * 17) + b"]}", b"1" * 17),
        (b'{"a":' + b"[" * 17 + b"]" * 17 + b"}", b""),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, b""),
        (b"[" * 60000, b""),
    ],
)
def test_what_is_malformed_is_refused(copy, text, body):
    module, refusal = copy
    with pytest.raises(refusal):
        module.unpack(text, body)


def test_brackets_in_text_are_no_nesting(copy):
    module, _ = copy
    header, _ = module.unpack(b'{"a":"' + b"[{" * 50 + b'\\"["}', b"")
    assert header["a"].startswith("[{")


def test_frames_beyond_the_caps_are_refused():
    for header, body in ((1 << 21, 0), (10, 1 << 31), (1, 0)):
        with pytest.raises(wire.WireError):
            wire.check_prefix(wire.PREFIX.pack(b"STEB", header, body), wire.HEADER_CAP, wire.REPLY_BODY_CAP)
    with pytest.raises(wire.WireError, match="language"):
        wire.check_prefix(b"HTTP/1.1 400", wire.HEADER_CAP, wire.REPLY_BODY_CAP)


def test_fuzzed_frames_are_survived():
    found = fuzz(8000, seed=5)
    assert found == {"cases": 8000, "through_sockets": 800}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_fuzzed_frames_are_survived():
    assert fuzz(1_000_000, seed=6)["cases"] == 1_000_000
