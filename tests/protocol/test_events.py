"""Server-sent events read back: the inverse of how they are written, in whatever pieces they come."""

from __future__ import annotations

from base64 import b64decode
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_chat.errors import UpstreamFailed
from durable_chat.protocol.events import Event, EventDecoder, decode_control, is_offset_like
from durable_chat.protocol.messages import BINARY, JSON
from durable_chat.protocol.offsets import encode_offset
from durable_chat.protocol.sse import PING, encode_control, encode_data

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def decode(data: bytes, cuts: list[int]) -> list[Event]:
    """All events of some bytes, fed in pieces."""
    decoder = EventDecoder()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    events = [event for start, stop in pairwise(edges) for event in decoder.feed(data[start:stop])]
    assert decoder.between_events
    return events


@given(st.lists(JSON_VALUES, min_size=1), st.lists(st.integers(0, 10**6), max_size=8), st.booleans())
def test_json_comes_back(values: list[object], cuts: list[int], pinged: bool) -> None:
    """Messages and their offset are the same after any journey."""
    joined = b",".join(map(msgspec.json.encode, values))
    sent = encode_data(JSON, joined) + encode_control(encode_offset(5, 7), 3, up_to_date=True, closed=False)
    data, control = decode((PING if pinged else b"") + sent, cuts)
    assert (data.name, msgspec.json.decode(data.data)) == ("data", values)
    found = decode_control(control.data)
    assert (found.stream_next_offset, found.stream_cursor, found.up_to_date) == (encode_offset(5, 7), "3", True)
    assert not found.stream_closed


@given(st.binary(), st.lists(st.integers(0, 10**6), max_size=8))
def test_bytes_come_back(payload: bytes, cuts: list[int]) -> None:
    """Any bytes, as base64."""
    (data,) = decode(encode_data(BINARY, payload), cuts)
    assert b64decode(data.data, validate=True) == payload


@given(st.text(), st.lists(st.integers(0, 10**6), max_size=8))
def test_text_comes_back_with_one_kind_of_line_end(text: str, cuts: list[int]) -> None:
    """What the format cannot carry is the kind of a line end, and nothing else."""
    (data,) = decode(encode_data("text/plain", text.encode()), cuts)
    assert data.data.decode() == text.replace("\r\n", "\n").replace("\r", "\n")


@given(st.binary(), st.lists(st.integers(0, 10**6), max_size=8))
def test_pieces_make_no_difference(noise: bytes, cuts: list[int]) -> None:
    """Whatever is sent, the same events come of it however it was cut, and the next whole event is seen."""
    end = b"\n\nevent: data\ndata: x\n\n"
    assert decode(noise + end, cuts) == decode(noise + end, [])
    assert decode(noise + end, cuts)[-1] == Event("data", b"x")


@pytest.mark.parametrize(
    ("sent", "events"),
    [
        (b"\xef\xbb\xbfdata: x\n\n", [Event("message", b"x")]),
        (b"data\n\n", [Event("message", b"")]),
        (b"event: e\n\ndata: x\n\n", [Event("message", b"x")]),
        (b": c\nid: 7\nretry: 1\ndata:x\ndata: y\r\n\r\n", [Event("message", b"x\ny")]),
        (b"data:  two\n\n", [Event("message", b" two")]),
        (b"\n\n\n", []),
    ],
)
def test_the_format(sent: bytes, events: list[Event]) -> None:
    """The corners of the format: a mark at the beginning, fields without a value, unknown fields, comments."""
    assert decode(sent, []) == events


def test_an_unfinished_event_is_told() -> None:
    """Whether a stream may end here is known at every byte."""
    decoder = EventDecoder()
    assert decoder.between_events
    for piece in (b"event", b": data\n", b"data: x", b"\n"):
        decoder.feed(piece)
        assert not decoder.between_events
    assert decoder.feed(b"\n")
    assert decoder.between_events


@pytest.mark.parametrize(
    "control", [b"", b"[]", b"{}", b'{"streamNextOffset":7}', b'{"streamNextOffset":"a\\nb"}', b'"\xff"']
)
def test_a_control_event_that_is_none(control: bytes) -> None:
    """It is the server's failure, told as such."""
    with pytest.raises(UpstreamFailed):
        decode_control(control)


@pytest.mark.parametrize("token", ["", "a b", "a,b", "a&b", "a=b", "a?b", "a/b", 'a"b', "a\\b", "ä", "a\r", "x" * 513])
def test_what_is_no_offset(token: str) -> None:
    """Nothing that could end a header, a query or a string passes as an offset."""
    assert not is_offset_like(token)


@pytest.mark.parametrize("token", ["-1", "now", encode_offset(0, 12), "01JABCDEF", "123456_789~3"])
def test_what_may_be_an_offset(token: str) -> None:
    """Any server's tokens pass; what they mean only it knows."""
    assert is_offset_like(token)
