"""Secrets of the server, the provider and the caller are in no chunk and no log line."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from durable_chat.http.tokens import issue
from durable_chat.models.agents import Agent
from durable_chat.models.anthropic.client import AnthropicModel
from durable_chat.models.base import ProviderError, Turn
from durable_chat.models.tools import ToolError, Tools, make_tool
from durable_chat.protocol.offsets import BEGINNING
from durable_chat.transcripts.redaction import CONCEALED, conceal
from tests.sessions.serving import serve_chat, user

SECRETS = {
    "environment": "key of the environment",
    "caller": "key-of-the-caller",
    "model": "key of the model",
    "protocol": 'secret-"of\\the-protocol',
    "tokens": "secret-of-the-tokens-long-enough-",
}


def call(name: str) -> list[Any]:
    return [
        {"type": "TOOL_CALL_START", "toolCallId": name, "toolCallName": name},
        {"type": "TOOL_CALL_END", "toolCallId": name},
    ]


class Leaky:
    """A model with its own key that reveals all it knows, in one of several ways."""

    secrets = (SECRETS["model"],)

    def __init__(self, way: str) -> None:
        self.way = way
        self.asked = 0

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        said = " ".join((*SECRETS.values(), turn.api_key or ""))
        self.asked += 1
        yield "a"
        if self.way == "error":
            raise OSError(said)
        if self.way == "provider error":
            raise ProviderError(said[:100], "refused")
        if self.way == "chunk":
            yield {"type": "RUN_ERROR", "message": said[:100], "code": "refused"}
        if self.way == "tool" and self.asked == 1:
            for chunk in (*call("fails"), *call("gives")):
                yield chunk
            yield {"type": "RUN_FINISHED", "finishReason": "tool_calls"}


def tools() -> Tools:
    made = Tools()

    def fails() -> str:
        raise ToolError("I was told " + " ".join(SECRETS.values()))

    def gives() -> dict[str, str]:
        return SECRETS

    made.add(make_tool(fails))
    made.add(make_tool(gives))
    return made


@pytest.mark.parametrize("way", ["error", "provider error", "chunk", "tool"])
async def test_nothing_is_told(way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """However a secret leaves a model or a tool, it is redacted."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRETS["environment"])
    caplog.set_level(logging.DEBUG)
    settings: dict[str, Any] = {"secret": SECRETS["protocol"], "token_secret": SECRETS["tokens"]}
    token = issue(SECRETS["tokens"], "s", ["send", "read"], now_s=time.time(), ttl_s=600)
    async with serve_chat(Agent(Leaky(way), tools()), **settings) as chat:
        chat.client.headers["Authorization"] = f"Bearer {token}"
        headers = {"x-api-key": SECRETS["caller"]}
        body = {"messages": [user("hi")]}
        answer = await chat.client.post("/api/chat?id=s&mode=await", json=body, headers=headers)
        assert answer.status_code == (200 if way == "tool" else 502)
        logged = (await (await chat.store.log.read("chat-s", BEGINNING)).next()).data.decode()
    for name, secret in SECRETS.items():
        for said in (logged, answer.text, caplog.text):
            assert conceal(said, [secret]) == said, name
    if way == "tool":
        assert logged.count(CONCEALED) >= 2 * len(SECRETS)


def test_short_secrets_are_left() -> None:
    """Short secrets are not redacted, because they would remove letters from words."""
    assert conceal("a cat sat", ["a", "", "cat"]) == "a cat sat"


def test_a_model_with_a_key_of_its_own_says_so() -> None:
    """A model with its own key declares it, also as the model of an agent."""
    model = AnthropicModel("m", key="its-own-key")
    assert Agent(model, Tools()).secrets == model.secrets == ("its-own-key",)
