"""The Anthropic provider against npm's aimock, a process with Anthropic's wire format, and against broken servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from durable_chat.errors import Unauthorized
from durable_chat.models.anthropic.client import AnthropicModel
from durable_chat.transcripts.chunks import encode_chunk
from tests.models.aimock import KEY, LONG, REFUSALS, Aimock, answer, asked, check_refusal, folded, of_type, turn_of

MODEL = "claude-sonnet-4-6"
WAIT_MAX_S = 30.0


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aimock]:
    mock = Aimock(tmp_path_factory.mktemp("aimock"))
    mock.start()
    yield mock
    mock.kill()


@pytest.fixture
async def model(aimock: Aimock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AnthropicModel]:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", aimock.url)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    made = AnthropicModel(MODEL, max_retries=0)
    yield made
    await made.aclose()


async def test_text(model: AnthropicModel) -> None:
    """Deltas in order, one message, and the usage."""
    made = await answer(model, asked("say hello"))
    assert folded(made) == [{"type": "text", "content": "Hello to you."}]
    end = made[-1]
    assert (end["type"], end["metadata"]["tanstack"]["finishReason"]) == ("RUN_FINISHED", "stop")
    counts = {"inputTokens": 12, "outputTokens": 4, "totalTokens": 16}
    assert end["usage"] == [{"provider": "anthropic", "model": MODEL, **counts}]
    assert all(isinstance(chunk["timestamp"], int) for chunk in made)


async def test_thinking_keeps_its_signature(model: AnthropicModel) -> None:
    """Without it, the thinking cannot be sent back to the provider."""
    parts = folded(await answer(model, asked("think")))
    assert [part["type"] for part in parts] == ["thinking", "text"]
    assert parts[0]["content"] == "I must think about it for long."
    assert parts[0]["signature"] == "sig-1"


async def test_hidden_thinking_can_be_given_back(model: AnthropicModel) -> None:
    parts = folded(await answer(model, asked("hidden")))
    assert parts[0]["signature"] == "redacted:opaque"
    assert parts[1] == {"type": "text", "content": "Done."}


async def test_tool_use(model: AnthropicModel) -> None:
    """Text and call are in one message. The run ends with `stop`, because clients wait forever for anything else."""
    made = await answer(model, asked("use a tool"))
    text, call = folded(made)
    assert text["content"] == "Let me look."
    assert (call["name"], call["input"], call["state"]) == ("look", {"where": "here"}, "input-complete")
    start = of_type(made, "TOOL_CALL_START")[0]
    assert start["parentMessageId"] == of_type(made, "TEXT_MESSAGE_START")[0]["messageId"]
    assert made[-1]["metadata"]["tanstack"]["finishReason"] == "stop"


async def test_tool_use_is_told_apart(model: AnthropicModel) -> None:
    """The model itself yields `tool_calls`, so that the agent loop continues."""
    turn = asked("only a tool")
    last = [chunk async for chunk in model(turn)][-1]
    assert last["metadata"]["tanstack"]["finishReason"] == "tool_calls"
    assert folded(await answer(model, turn))[0]["input"] == {}


async def test_a_tools_result_is_given_back(model: AnthropicModel, aimock: Aimock) -> None:
    """The call, its result and the name of the tool are sent. Anthropic refuses the conversation without them."""
    parts = [
        {"type": "tool-call", "id": "toolu_1", "name": "look", "arguments": "{}", "state": "complete", "output": 1},
        {"type": "tool-result", "toolCallId": "toolu_1", "content": "there", "state": "complete"},
    ]
    turn = turn_of(
        [
            {"id": "u", "role": "user", "parts": [{"type": "text", "content": "where"}]},
            {"id": "a", "role": "assistant", "parts": parts},
        ]
    )
    assert folded(await answer(model, turn)) == [{"type": "text", "content": "It is there."}]
    body = (await aimock.requests())[-1]["body"]
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "tool"]
    assert [tool["function"]["name"] for tool in body["tools"]] == ["look"]


@pytest.mark.parametrize(("words", "reason"), [("too long", "length"), ("bad thing", "content_filter")])
async def test_why_it_stopped(model: AnthropicModel, words: str, reason: str) -> None:
    """An answer that was cut by its length or refused ends the run without an error, and with the reason."""
    made = await answer(model, asked(words))
    assert made[-1]["metadata"]["tanstack"]["finishReason"] == reason
    assert folded(made)


@pytest.mark.parametrize(
    ("words", "code"),
    REFUSALS,
)
async def test_provider_errors(model: AnthropicModel, words: str, code: str) -> None:
    """Each has a code for programs and a sentence for people. The provider's text is not shown."""
    made = await answer(model, asked(words))
    check_refusal(made, code)


async def test_a_wrong_key(model: AnthropicModel) -> None:
    """The server refuses it, and no chunk contains the key."""
    wrong = "another-key-9876543210"
    made = await answer(model, asked("say hello", wrong))
    assert made[-1]["code"] == "invalid_api_key"
    assert wrong.encode() not in b"".join(map(encode_chunk, made))


async def test_no_key_is_refused_before_anything_is_written(model: AnthropicModel) -> None:
    with pytest.raises(Unauthorized) as raised:
        model.check(None)
    assert raised.value.code == "missing_api_key"
    model.check(KEY)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
async def test_what_cannot_be_a_key_is_refused(model: AnthropicModel, key: str) -> None:
    """It is refused before the HTTP client fails with a message that contains the key."""
    with pytest.raises(Unauthorized) as raised:
        model.check(key)
    assert raised.value.code == "invalid_api_key"
    assert key not in raised.value.message


async def test_a_request_that_cannot_be_made_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exception is raised unchanged, for the log. Another layer decides what people see of it."""
    wrong = AnthropicModel(MODEL, max_retries=0, options={"no_such_option": 1})
    with pytest.raises(TypeError):
        _ = [chunk async for chunk in wrong(asked("say hello"))]
    await wrong.aclose()


async def test_the_environments_key_is_used_where_the_turn_has_none(
    model: AnthropicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    own = AnthropicModel(MODEL, max_retries=0)
    own.check(None)
    assert KEY not in repr(own)
    assert folded(await answer(own, asked("say hello", None)))
    await own.aclose()


async def test_a_connection_cut_in_the_middle(model: AnthropicModel) -> None:
    """The text before the cut is kept, and the run ends with an error that says what happened."""
    made = await answer(model, asked("cut"))
    assert made[-1]["code"] == "provider_disconnected"
    (text,) = folded(made)
    assert LONG.startswith(text["content"])
    assert text["content"]


async def test_a_slow_drip(model: AnthropicModel) -> None:
    """A character at a time is one whole text."""
    assert folded(await answer(model, asked("slow drip"))) == [{"type": "text", "content": LONG}]


@pytest.mark.parametrize("words", ["garbage", "hang up"])
async def test_what_is_no_answer(model: AnthropicModel, words: str) -> None:
    """A server that sends something else, or nothing, ends the run with an error."""
    made = await answer(model, asked(words))
    assert made[-1]["code"] in ("provider_disconnected", "provider_unreachable")
    assert not folded(made)


async def test_a_provider_that_is_not_there(model: AnthropicModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
    made = await answer(model, asked("say hello"))
    assert made[-1]["code"] == "provider_unreachable"


async def test_nothing_to_answer(model: AnthropicModel) -> None:
    made = await answer(model, turn_of([{"id": "s", "role": "system", "parts": [{"type": "text", "content": "obey"}]}]))
    assert made[-1]["code"] == "no_message"


class Rude:
    """A provider that sends fixed bytes. State: these bytes, and whether its reader has disconnected."""

    def __init__(self, *events: dict[str, Any], end: bool) -> None:
        self.head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        self.body = b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events)
        self.end = end
        self.left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.lower().splitlines() if line.startswith(b"content-length")
        )
        await reader.readexactly(length)
        writer.write(self.head + self.body)
        await writer.drain()
        if not self.end:
            await reader.read()
            self.left.set()
        writer.close()


@asynccontextmanager
async def rude(monkeypatch: pytest.MonkeyPatch, provider: Rude) -> AsyncIterator[None]:
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with server:
        yield


BEGIN = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [],
        "usage": {"input_tokens": 1, "output_tokens": 1},
    },
}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
WORD = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}


async def test_a_cancelled_answer_closes_the_connection_at_once(
    model: AnthropicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop costs no more tokens: the provider sees the disconnect while it is still sending."""
    provider = Rude(BEGIN, BLOCK, WORD, end=False)
    async with rude(monkeypatch, provider):
        seen = asyncio.Event()

        async def read() -> None:
            async for chunk in model(asked("talk")):
                if chunk["type"] == "TEXT_MESSAGE_CONTENT":
                    seen.set()

        task = asyncio.create_task(read())
        await asyncio.wait_for(seen.wait(), WAIT_MAX_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(provider.left.wait(), WAIT_MAX_S)


async def test_a_provider_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is limited, and the error says so."""
    patient = AnthropicModel(MODEL, max_retries=0, options={"timeout": 0.2})
    provider = Rude(end=False)
    provider.head = b""
    async with rude(monkeypatch, provider):
        made = await answer(patient, asked("talk"))
        await asyncio.wait_for(provider.left.wait(), WAIT_MAX_S)
    assert made[-1]["code"] == "provider_timeout"
    await patient.aclose()


@pytest.mark.parametrize(
    ("kind", "code"),
    [("overloaded_error", "overloaded"), ("rate_limit_error", "rate_limited"), ("new_error", "provider_error")],
)
async def test_an_error_in_the_middle_of_an_answer(
    model: AnthropicModel, monkeypatch: pytest.MonkeyPatch, kind: str, code: str
) -> None:
    """Anthropic sends it as an event. Its kind is in the type, not in a status."""
    error = {"type": "error", "error": {"type": kind, "message": f"for {KEY}"}}
    async with rude(monkeypatch, Rude(BEGIN, BLOCK, WORD, error, end=True)):
        made = await answer(model, asked("talk"))
    assert made[-1]["code"] == code
    assert folded(made) == [{"type": "text", "content": "Hi"}]


async def test_an_answer_that_only_stops_is_cut(model: AnthropicModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that ends without a final event was cut. Half an answer is never taken for a complete one."""
    async with rude(monkeypatch, Rude(BEGIN, BLOCK, WORD, end=True)):
        made = await answer(model, asked("talk"))
    assert made[-1]["code"] == "provider_disconnected"


async def test_what_is_no_event_is_a_cut(model: AnthropicModel, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Rude(BEGIN, BLOCK, WORD, end=True)
    provider.body += b"event: content_block_delta\ndata: {not json\n\n"
    async with rude(monkeypatch, provider):
        made = await answer(model, asked("talk"))
    assert made[-1]["code"] == "provider_disconnected"
