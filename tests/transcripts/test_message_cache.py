"""Messages encoded as blocks of JSON, and their cache."""

from __future__ import annotations

import json
from typing import Any

import pytest

from durable_chat.transcripts.message_cache import BLOCK_BYTES, Frame, Kept, encode

LIST = Frame(b"[", b"]")
OBJECT = Frame(b'{"messages":[', b'],"more":1}')


def message(number: int, chars: int) -> dict[str, Any]:
    return {"id": f"m{number}", "role": "user", "parts": [{"type": "text", "content": "x" * chars}]}


@pytest.mark.parametrize("count", [0, 1, 2, 50])
@pytest.mark.parametrize("chars", [1, BLOCK_BYTES // 3, BLOCK_BYTES])
def test_blocks_are_the_body(count: int, chars: int) -> None:
    """The blocks form the body, whatever their number and frame. Each message has its metadata, which clients need."""
    messages = [message(number, chars) for number in range(count)]
    encoded = encode(messages)
    for _ in range(2):
        assert json.loads(b"".join(encoded.framed(LIST)[0])) == [{**one, "metadata": {}} for one in messages]
        assert len(json.loads(b"".join(encoded.framed(OBJECT)[0]))["messages"]) == count
    assert all(len(block) <= BLOCK_BYTES + chars + 200 for block in encoded.framed(LIST)[0])


def test_the_digest_is_of_the_whole_body() -> None:
    """The digest covers the whole body: it differs for other messages and for another frame."""
    messages = [message(0, 3), message(1, 3)]
    tags = [encode(some).framed(frame)[1] for some in (messages, messages[:1]) for frame in (LIST, OBJECT)]
    assert len(set(tags)) == len(tags)
    assert encode([message(0, 3), message(1, 3)]).framed(LIST)[1] == tags[0]


def test_what_is_kept_is_of_just_these_messages() -> None:
    """A cached encoding is used only for the same objects. A changed message is another object."""
    messages = [message(0, 3), message(1, 3)]
    kept = Kept()
    assert kept.of(messages) is None
    kept.encoded = encode(messages)
    assert kept.of(list(messages)) is kept.encoded
    assert kept.of(messages[:1]) is None
    assert kept.of([*messages, message(2, 3)]) is None
    assert kept.of([messages[0], message(1, 3)]) is None
