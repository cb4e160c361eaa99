"""Chunks on their way to the log and back, echoes of posted messages, and fields that are not stored."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_chat.transcripts import chunks
from durable_chat.transcripts.chunks import (
    InvalidChunk,
    can_echo,
    decode_chunk,
    decode_json,
    encode_chunk,
    iso_time,
    message_text,
    messages_snapshot,
    normalize_time,
    safe_message,
    sanitize_chunk_for_storage,
    to_message_echo_chunks,
)
from durable_chat.transcripts.javascript import is_blank, parse, parse_partial, stringify
from durable_chat.transcripts.transcript import Transcript
from tests.servers import run_node

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def posted(**fields: Any) -> dict[str, Any]:
    return {"id": "u1", "role": "user", "parts": [{"type": "text", "content": "hi"}]} | fields


@given(value=st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_a_chunk_comes_back(value: dict[str, Any]) -> None:
    """The log returns what was written, whatever it contains, and it is valid JSON."""
    chunk = {**value, "type": "CUSTOM"}
    assert decode_chunk(encode_chunk(chunk)) == chunk
    assert json.loads(encode_chunk(chunk)) == chunk


def test_half_a_character_hurts_nobody() -> None:
    """The halves of a surrogate pair are joined. An unpaired surrogate is replaced, because UTF-8 cannot contain it."""
    assert decode_chunk(encode_chunk({"type": "x", "delta": "a\ud83d\ude00b\ud83d"})) == {
        "type": "x",
        "delta": "a😀b\ufffd",
    }
    assert decode_chunk(b'{"type":"x","delta":["\\ud83d",{"a":"\\ud83d\\ude00"}]}')["delta"] == ["\ufffd", {"a": "😀"}]


@pytest.mark.parametrize(
    "data", [b"", b"5", b"[]", b"{}", b'{"type":5}', b'{"type":"x"', b"\xff", b'{"type":NaN}', b"[" * 100_000]
)
def test_what_is_no_chunk_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidChunk):
        decode_chunk(data)


@pytest.mark.parametrize("value", [object(), {1, 2}.union, 1j])
def test_what_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(InvalidChunk):
        encode_chunk({"type": "x", "value": value})


def test_an_echo_is_the_message() -> None:
    """
    An echo has the posted id, so that the sender recognizes its own message, and the time, so that every tab shows
    the same time.
    """
    made = to_message_echo_chunks(posted(createdAt="2026-11-21T09:00:00+01:00"))
    assert made == [
        {
            "type": "TEXT_MESSAGE_START",
            "messageId": "u1",
            "role": "user",
            "metadata": {"tanstack": {"createdAt": "2026-11-21T08:00:00.000Z"}},
        },
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "u1", "delta": "hi"},
        {"type": "TEXT_MESSAGE_END", "messageId": "u1"},
    ]
    transcript = Transcript()
    transcript.fold_all(made)
    assert transcript.messages()[0] == posted(
        createdAt="2026-11-21T08:00:00.000Z", metadata={"tanstack": {"createdAt": "2026-11-21T08:00:00.000Z"}}
    )


def test_an_echo_has_times_when_they_are_given() -> None:
    made = to_message_echo_chunks(posted(), timestamp=5)
    assert {chunk["timestamp"] for chunk in made} == {5}
    assert made[0]["metadata"] == {"tanstack": {"createdAt": "1970-01-01T00:00:00.005Z"}}


def test_an_echo_keeps_metadata() -> None:
    start = to_message_echo_chunks(
        posted(metadata={"a": 1, "tanstack": {"x": 2}}, createdAt=datetime(2026, 1, 1, tzinfo=UTC))
    )[0]
    assert start["metadata"] == {"a": 1, "tanstack": {"x": 2, "createdAt": "2026-01-01T00:00:00.000Z"}}
    assert "metadata" not in to_message_echo_chunks(posted(createdAt="never"))[0]


def test_an_echo_of_many_parts_is_their_text() -> None:
    """
    An echo of several parts is their text, as upstream's function writes it. `can_echo` says when that is not the
    whole message.
    """
    parts = [{"type": "text", "content": "a"}, {"type": "image", "source": {}}, {"type": "text", "content": "b"}]
    made = to_message_echo_chunks(posted(parts=parts))
    assert [chunk.get("delta") for chunk in made] == [None, "ab", None]
    assert [chunk["type"] for chunk in to_message_echo_chunks(posted(parts=[]))] == [
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_END",
    ]
    assert to_message_echo_chunks({"id": "u", "role": "user", "content": "plain"})[1]["delta"] == "plain"


@pytest.mark.parametrize("message_id", [None, "", 5])
def test_an_echo_needs_an_id(message_id: object) -> None:
    with pytest.raises(ValueError):
        to_message_echo_chunks(posted(id=message_id))


@pytest.mark.parametrize(
    ("fields", "possible"),
    [
        ({}, True),
        ({"content": "x", "parts": None}, True),
        ({"role": "assistant"}, False),
        ({"id": None}, False),
        ({"id": "x" * 257}, False),
        ({"parts": []}, False),
        ({"parts": [{"type": "text", "content": ""}]}, False),
        ({"parts": [{"type": "text", "content": "a"}, {"type": "text", "content": "b"}]}, False),
        ({"parts": [{"type": "text", "content": "a"}, {"type": "image", "source": {}}]}, False),
        ({"parts": [{"type": "text", "content": 5}]}, False),
        ({"parts": 5}, False),
        ({"parts": [5]}, False),
    ],
)
def test_what_can_be_echoed(fields: dict[str, Any], possible: bool) -> None:
    """Three text chunks make one text part. Any other message is written as a snapshot."""
    assert can_echo(posted(**fields)) is possible


def test_the_text_of_a_message() -> None:
    assert message_text(posted()) == "hi"
    assert message_text({"content": [1]}) is None


def test_what_is_stored_is_what_the_fold_needs() -> None:
    """The accumulated text beside a delta and the provider's raw event are dropped. The content of a result stays."""
    delta = {
        "type": "TEXT_MESSAGE_CONTENT",
        "messageId": "m",
        "delta": "a",
        "content": "aa",
        "rawEvent": {},
        "metadata": {},
    }
    assert sanitize_chunk_for_storage(delta) == {
        "type": "TEXT_MESSAGE_CONTENT",
        "messageId": "m",
        "delta": "a",
        "metadata": {},
    }
    result = {"type": "TOOL_CALL_RESULT", "toolCallId": "c", "content": "x"}
    assert sanitize_chunk_for_storage(result) == result
    assert "content" in delta


def test_every_message_of_a_snapshot_has_metadata() -> None:
    """Every message of a snapshot has metadata. Otherwise a tab would keep older metadata of that id."""
    made = messages_snapshot([posted(), posted(metadata={"a": 1}), posted(metadata=None)], timestamp=5)
    assert [message["metadata"] for message in made["messages"]] == [{}, {"a": 1}, {}]


def test_run_chunks_are_spelled_as_clients_read_them() -> None:
    assert chunks.run_started("r", "s", timestamp=5, metadata={"offset": "1"})["metadata"] == {"offset": "1"}
    end = chunks.run_finished("r", "s", timestamp=5, stopped=True, usage=[{"inputTokens": 1}])
    assert end["metadata"] == {"tanstack": {"finishReason": "stop", "stopped": True}}
    assert end["usage"] == [{"inputTokens": 1}]


@pytest.mark.parametrize("text", ["The model is busy.", "You have used 5 of 5 answers.", "Unknown option: temperature"])
def test_sentences_may_be_shown(text: str) -> None:
    assert safe_message(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "bad key sk-live",
        "Bearer abc",
        "key AKIAIOSFODNN7EXAMPLE is wrong",
        "https://user:pw@host/",
        "deadbeefdeadbeef0123",
        "the word hunter2",
        "x" * 301,
        "",
        None,
        {"a": 1},
    ],
)
def test_what_could_hold_a_secret_is_not_shown(text: Any) -> None:
    assert safe_message(text, ["hunter2", ""]) == chunks.GENERIC_ERROR


@pytest.mark.parametrize(
    ("value", "time"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000Z"),
        ("2026-01-01T00:00:00.123999+01:00", "2025-12-31T23:00:00.123Z"),
        ("2026-01-01", "2026-01-01T00:00:00.000Z"),
        ("yesterday", None),
        ("0001-01-01T00:00:00+10:00", None),
        (5, None),
        (None, None),
    ],
)
def test_times_have_one_form(value: Any, time: str | None) -> None:
    assert normalize_time(value) == time


def test_milliseconds_as_a_time() -> None:
    assert iso_time(1_763_700_000_123) == "2025-11-21T04:40:00.123Z"


VALUES = [
    *(0, -1, 2**53, 0.5, -0.0, 1.0, 1e20, 1e21, 1e22, 1.5e300, 1e-6, 1.25e-6, 1e-7, 1.5e-7, 123456789.125, 5e-324),
    *("", 'a"b\\c\n\u2028\x00é😀', True, False, None, [], {}, [1, [2.0]], {"b": 1, "a": 2, "10": 3, "9": 4, "01": 5}),
]
PIECES = [
    "", " ", "{", "{}", '{"', '{"a', '{"a"', '{"a":', '{"a":1', '{"a":1.', '{"a":-', '{"a":1e', '{"a":1e5', '{"a":t',
    '{"a":tru', '{"a":nul', '{"a":fals', '{"a":"x', '{"a":"x\\', '{"a":"x\\u12', '{"a":"x\\n', '{"a":"x"', '{"a":"x",',
    '{"a":"x","b', '{"a":{"b":[1,', '{"a":{"b":[1,{"c":"d"', "[", "[1", "[1,", '[1,"', "[[", "[]", "[1]", "[tr", "5",
    "-", "5.", "1e", "tru", "nul", '"ab', '"ab\\', "so: ", "x", "{x", "[x", '{"a" 1}', '  {"a":1}  ', '{"a":1}x', "]", "}",
]  # fmt: skip
TEXTS = ["", " \t\n", "\u00a0\ufeff\u2028", "\x1c", "\x85", "a", "\u200b"]
SCRIPT = """
import { parsePartialJSON } from '@tanstack/ai'
const { values, pieces, texts } = JSON.parse(process.argv[1])
console.log(JSON.stringify({
  values: values.map((value) => JSON.stringify(value)),
  pieces: pieces.map((piece) => parsePartialJSON(piece) ?? null),
  texts: texts.map((text) => text.trim() === ''),
}))
"""


def test_numbers_spaces_and_unfinished_json_are_as_in_javascript() -> None:
    """The results equal those of Node.js and of TanStack AI's parser."""
    asked = json.dumps({"values": VALUES, "pieces": PIECES, "texts": TEXTS})
    done = run_node(["--input-type=module", "-e", SCRIPT, asked], timeout_s=30)
    theirs = json.loads(done.stdout)
    assert [stringify(value) for value in VALUES] == theirs["values"]
    assert dict(zip(PIECES, map(parse_partial, PIECES), strict=True)) == dict(
        zip(PIECES, theirs["pieces"], strict=True)
    )
    assert [is_blank(text) for text in TEXTS] == theirs["texts"]


@given(value=JSON)
def test_strict_json_is_read_back(value: Any) -> None:
    known, read = parse(stringify(value))
    assert known
    assert read == value
    assert not parse(stringify(value) + "]")[0]


def test_numbers_that_are_none() -> None:
    assert stringify([math.inf, math.nan]) == "[null,null]"
    assert parse("NaN") == (False, None)
    assert parse_partial("[" * 100_000) is not None
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert stringify(deep) == ""
    with pytest.raises(InvalidChunk):
        encode_chunk({"type": "x", "value": deep, "text": "\ud800"})
    with pytest.raises(InvalidChunk):
        decode_json("Infinity")
