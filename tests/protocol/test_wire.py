"""Offsets, bodies, cursors and events: how they look on the wire."""

from __future__ import annotations

import base64
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_chat.errors import InvalidRequest, TooLarge
from durable_chat.protocol.cursors import EPOCH_MS, INTERVAL_MS, next_cursor
from durable_chat.protocol.messages import (
    MESSAGES_MAX,
    SLICE_BYTES,
    is_text,
    join_messages,
    normalize_content_type,
    parse_payload,
    split_messages,
)
from durable_chat.protocol.offsets import NOW, ZERO, decode_offset, encode_offset
from durable_chat.protocol.sse import encode_control, encode_data

JSON = "application/json"
positions = st.integers(0, 10**16 - 1)


@given(positions, positions, positions)
def test_offsets_sort_like_positions(life: int, one: int, other: int) -> None:
    """And come back as the position they were made of; none is a sentinel, none has a character URLs give a meaning."""
    offset = encode_offset(life, one)
    assert (offset < encode_offset(life, other)) is (one < other)
    assert decode_offset(offset) == ((life, one) if one else (0, 0))
    assert re.fullmatch(r"[0-9_]+", offset)


@given(positions, positions, positions)
def test_offsets_of_a_later_life_are_greater(life: int, one: int, other: int) -> None:
    """Whatever the positions, but for the first one, which is every life's."""
    if life and one:
        assert encode_offset(life - 1, other) < encode_offset(life, one)


def test_the_beginning_is_constant() -> None:
    """Clients write it down, and the protocol's own suite does too."""
    assert encode_offset(7, 0) == ZERO == "0000000000000000_0000000000000000"
    assert decode_offset("-1") == (0, 0)


@given(st.text(max_size=40))
def test_other_offsets_are_refused(text: str) -> None:
    """What no server gave out is an error, and never a position."""
    if re.fullmatch(r"[0-9]{16}_[0-9]{16}|-1", text):
        return
    with pytest.raises(InvalidRequest):
        decode_offset(text)


@pytest.mark.parametrize(
    "bad", [NOW, "", "0" * 16 + "_" + "٣" * 16, "1" * 16 + "-" + "0" * 16, "1" * 15 + "_" + "0" * 17, ZERO + "\n"]
)
def test_malformed_offsets(bad: str) -> None:
    """Also those that look nearly right."""
    with pytest.raises(InvalidRequest):
        decode_offset(bad)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(json_values, max_size=6), st.sampled_from([None, 1]))
def test_an_array_is_flattened_one_level(values: list[object], indent: int | None) -> None:
    """Each element is a message, as it was sent, whatever white space is between (PROTOCOL.md 9.1.2)."""
    payload = parse_payload(JSON, json.dumps(values, indent=indent, ensure_ascii=False).encode("utf-8", "replace"))
    assert payload.lengths is not None
    messages = split_messages(payload.data, payload.lengths)
    assert json.loads(b"[" + payload.data + b"]") == [json.loads(message) for message in messages]
    assert len(messages) == payload.units == len(values)


@given(json_values.filter(lambda value: not isinstance(value, list)))
def test_any_other_value_is_one_message(value: object) -> None:
    """Objects, strings, numbers, null."""
    assert parse_payload(JSON, f" {json.dumps(value)}\n".encode()) == join_messages([json.dumps(value).encode()])


@pytest.mark.parametrize(
    "body",
    [
        *(b"{", b"[1,", b"[1,]", b"nul", b"[1] x", b"'a'", b"[NaN]", b"[01]", b'["\x01"]', b'["\xff"]', b'"\xc3"'),
        *(b"\xef\xbb\xbf[1]", b" ", b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    ],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    """Broken, not UTF-8, or nested deeper than anything could read back."""
    with pytest.raises(InvalidRequest):
        parse_payload(JSON, body)


def test_a_body_of_too_many_messages_is_refused() -> None:
    """Its bytes may be few; its messages are not."""
    with pytest.raises(TooLarge):
        parse_payload(JSON, b"[" + b"1," * MESSAGES_MAX + b"1]")


@pytest.mark.parametrize(
    ("content_type", "normal", "text"),
    [
        ("Application/JSON; charset=utf-8", JSON, True),
        ("text/plain", "text/plain", True),
        ("image/png", "image/png", False),
        ("application/jsonl", "application/jsonl", False),
    ],
)
def test_content_types(content_type: str, normal: str, text: bool) -> None:
    """Compared without parameters and case; text travels in SSE as it is."""
    assert normalize_content_type(content_type) == normal
    assert is_text(content_type) is text


@given(
    st.one_of(st.none(), st.integers(0, 10**12).map(str), st.just("x")), st.integers(0, 10**13), st.integers(1, 3600)
)
def test_cursors_never_go_back(seen: str | None, now_ms: int, jitter_s: int) -> None:
    """A client that has seen this interval's cursor gets a greater one (PROTOCOL.md 10.1)."""
    cursor = next_cursor(seen, now_ms, jitter_s)
    assert cursor >= max(0, now_ms - EPOCH_MS) // INTERVAL_MS
    if seen is not None and seen.isdigit():
        assert cursor > int(seen) or int(seen) < max(0, now_ms - EPOCH_MS) // INTERVAL_MS


def parse_event(event: bytes) -> str:
    """As a browser reads it: the payload of one event."""
    lines = re.split(r"\r\n|\r|\n", event.decode())
    assert lines[0] == "event: data" and lines[-2:] == ["", ""]
    assert all(line.startswith("data:") for line in lines[1:-2])
    return "\n".join(line.removeprefix("data:").removeprefix(" ") for line in lines[1:-2])


@given(st.text())
def test_text_comes_out_of_an_event_as_it_went_in(text: str) -> None:
    """Nothing in a payload ends its event; only the kind of line end is lost, as SSE has one."""
    assert parse_event(encode_data("text/plain", text.encode("utf-8", "replace"))) == re.sub(
        r"\r\n|\r", "\n", text.encode("utf-8", "replace").decode()
    )


@given(st.binary())
def test_bytes_travel_as_base64(data: bytes) -> None:
    """Anything that is neither text nor JSON."""
    assert base64.b64decode(parse_event(encode_data("image/png", data)), validate=True) == data


@given(st.lists(json_values, min_size=1, max_size=4), st.sampled_from([None, 2]))
def test_json_travels_as_an_array(values: list[object], indent: int | None) -> None:
    """Whatever line ends its messages had."""
    payload = parse_payload(JSON, json.dumps(values, indent=indent).encode())
    assert json.loads(parse_event(encode_data(JSON, payload.data))) == values


@pytest.mark.parametrize(
    ("up_to_date", "closed", "expected"),
    [
        (False, False, {"streamNextOffset": ZERO, "streamCursor": "7"}),
        (True, False, {"streamNextOffset": ZERO, "streamCursor": "7", "upToDate": True}),
        (True, True, {"streamNextOffset": ZERO, "streamClosed": True, "upToDate": True}),
    ],
)
def test_control_events(up_to_date: bool, closed: bool, expected: dict[str, object]) -> None:
    """PROTOCOL.md 5.8: a cursor while the stream is open."""
    event = encode_control(ZERO, 7, up_to_date=up_to_date, closed=closed).decode()
    assert event.startswith("event: control\ndata:{") and event.endswith("}\n\n")
    assert json.loads(event.split("data:", 1)[1]) == expected


@pytest.mark.parametrize("before", [b"", b" ", b"  "])
@pytest.mark.parametrize("after", [b"", b" ", b"  "])
@pytest.mark.parametrize("comma", [b",", b" ,", b", "])
def test_a_large_body_is_split_like_a_small_one(before: bytes, after: bytes, comma: bytes) -> None:
    """Whatever white space there is in it, and where its characters of several bytes lie."""
    for text in ("ö" * SLICE_BYTES, "xö" * SLICE_BYTES, "x"):
        value = b'"' + text.encode() + b'"'
        count = 1 if len(text) > 1 else SLICE_BYTES // 8
        payload = parse_payload(JSON, before + b"[" + comma.join([value] * count) + b"]" + after)
        assert payload.data == b",".join([value] * count)
        assert payload.lengths == (len(value),) * count
        single = parse_payload(JSON, before + value + after)
        assert (single.data, single.lengths) == (value, (len(value),))


@pytest.mark.parametrize("at", [0, 1, SLICE_BYTES - 3, SLICE_BYTES - 2, SLICE_BYTES - 1, 2 * SLICE_BYTES])
def test_a_large_body_that_is_not_utf8(at: int) -> None:
    """Is refused wherever it is torn."""
    text = bytearray(b"x" * 3 * SLICE_BYTES)
    text[at : at + 1] = b"\xc3"
    with pytest.raises(InvalidRequest):
        parse_payload(JSON, b'"' + bytes(text) + b'"')
