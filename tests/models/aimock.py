"""
npm's aimock with the wire formats of Anthropic and OpenAI, and what the tests of their clients have in common.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from durable_chat.models.base import ProviderError, Turn
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import Chunk, encode_chunk
from durable_chat.transcripts.transcript import Transcript
from tests.servers import INTEROP, Process, node_env

KEY = "test-key-ABCDEF-0123456789"
LONG = "One two three four five six seven eight nine ten eleven twelve."
LOOK = [{"name": "look", "arguments": '{"where":"here"}', "id": "toolu_1"}]


def says(words: str, response: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"match": {"userMessage": words}, "response": response, **fields}


def fails(words: str, status: int, kind: str) -> dict[str, Any]:
    """A server whose error text contains the key, as a careless proxy's may."""
    return says(words, {"error": {"message": f"refused for {KEY}", "type": kind}, "status": status})


def fails_once(words: str, failure: dict[str, Any]) -> list[dict[str, Any]]:
    """A failure of the first request, and an answer to the second one. Each client has its own text, which are counted."""
    return [
        {"match": {"userMessage": f"{client} {words}", "sequenceIndex": at}, "response": response}
        for client in ("anthropic", "chat", "responses")
        for at, response in enumerate([failure, {"content": "Back again."}])
    ]


FIXTURES = [
    {"match": {"toolCallId": "toolu_1"}, "response": {"content": "It is there."}},
    says("say hello", {"content": "Hello to you.", "usage": {"input_tokens": 12, "output_tokens": 4}}),
    says("think", {"content": "Done.", "reasoning": "I must think about it for long.", "reasoningSignature": "sig-1"}),
    says("hidden", {"content": "Done.", "redactedThinking": ["opaque"]}),
    says("use a tool", {"content": "Let me look.", "toolCalls": LOOK}),
    says("only a tool", {"toolCalls": [{"name": "look", "arguments": "{}", "id": "toolu_2"}]}),
    says("too long", {"content": "Never end", "finishReason": "length"}),
    says("bad thing", {"content": "I cannot", "finishReason": "refusal"}),
    says("cut", {"content": LONG}, truncateAfterChunks=8, latency=10, chunkSize=5),
    fails("wrong key", 401, "authentication_error"),
    fails("no credit", 402, "billing_error"),
    fails("forbidden", 403, "permission_error"),
    fails("unknown model", 404, "not_found_error"),
    fails("too large", 413, "request_too_large"),
    fails("slow down", 429, "rate_limit_error"),
    fails("broken", 500, "api_error"),
    fails("overloaded", 529, "overloaded_error"),
    fails("invalid", 400, "invalid_request_error"),
    *fails_once(
        "busy once", {"error": {"message": "wait", "type": "rate_limit_error"}, "status": 429, "retryAfter": 0}
    ),
    *fails_once("down once", {"error": {"message": "down", "type": "api_error"}, "status": 503}),
    *fails_once("full once", {"error": {"message": "busy", "type": "overloaded_error"}, "status": 529}),
    says("wait long", {"error": {"message": "wait", "type": "rate_limit_error"}, "status": 429, "retryAfter": 3600}),
    says("out of quota", {"error": {"message": "no", "type": "x", "code": "insufficient_quota"}, "status": 429}),
    says("context", {"error": {"message": "no", "type": "x", "code": "context_length_exceeded"}, "status": 400}),
    says("garbage", {"content": "never"}, chaos={"malformedRate": 1}),
    says("hang up", {"content": "never"}, chaos={"disconnectRate": 1}),
    says("slow drip", {"content": LONG}, latency=20, chunkSize=1),
]


REFUSALS = [
    ("wrong key", "invalid_api_key"),
    ("no credit", "billing"),
    ("forbidden", "permission_denied"),
    ("unknown model", "model_not_found"),
    ("too large", "request_too_large"),
    ("slow down", "rate_limited"),
    ("broken", "provider_error"),
    ("overloaded", "overloaded"),
    ("invalid", "provider_refused_request"),
]
"""The words that are refused with each failure of a provider, and the code of the error that is shown."""


def check_refusal(made: Sequence[Chunk], code: str) -> None:
    """The run ends with this code, and the provider's own text is not shown."""
    assert [chunk["type"] for chunk in made if chunk["type"].startswith("RUN_")] == ["RUN_STARTED", "RUN_ERROR"]
    assert made[-1]["code"] == code
    assert "refused for" not in made[-1]["message"]


class Aimock(Process):
    """npm's aimock with fixtures, by default those for chat. It accepts one key."""

    ready_path = "/health"

    def __init__(self, folder: Path, given: Sequence[Mapping[str, Any]] = FIXTURES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        fixtures = folder / "fixtures.json"
        fixtures.write_text(json.dumps({"fixtures": given}))
        script = INTEROP / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"
        command = [node_env(), str(script), "--port", "{port}", "--fixtures", str(fixtures), "--strict"]
        super().__init__([*command, "--log-level", "warn"], folder, {"AIMOCK_API_KEYS": KEY})

    async def requests(self) -> list[dict[str, Any]]:
        """The requests so far: the body of each, in the words of Chat Completions, and the response's status."""
        async with httpx.AsyncClient() as client:
            found = await client.get(f"{self.url}/__aimock/journal", headers={"x-api-key": KEY})
        requests: list[dict[str, Any]] = found.json()
        return requests


def asked(text: str, api_key: str | None = KEY) -> Turn:
    return turn_of([{"id": "u", "role": "user", "parts": [{"type": "text", "content": text}]}], api_key)


def turn_of(messages: list[dict[str, Any]], api_key: str | None = KEY) -> Turn:
    return Turn(messages=tuple(messages), session_id="s", run_id="run-1", api_key=api_key)


async def answer(model: Callable[[Turn], AsyncIterator[Chunk]], turn: Turn) -> list[Chunk]:
    """Return what the writer writes of the answer, and check that it never contains the key."""
    run = RunChunks(turn.run_id, turn.session_id, lambda: "new", lambda: 1)
    made = run.start()
    try:
        async for chunk in model(turn):
            made += run.accept(chunk)
        made += run.finish()
    except ProviderError as error:
        failure = f"{error!r} {error.__cause__!r}"
        made += run.fail(error.message, error.code)
    else:
        failure = ""
    assert KEY not in failure
    assert KEY.encode() not in b"".join(map(encode_chunk, made))
    return made


def folded(made: list[Chunk]) -> list[dict[str, Any]]:
    """The parts of the answers."""
    transcript = Transcript()
    transcript.fold_all(made)
    return [part for message in transcript.messages() for part in message["parts"]]


def of_type(made: list[Chunk], kind: str) -> list[Chunk]:
    return [chunk for chunk in made if chunk["type"] == kind]
