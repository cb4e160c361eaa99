"""The AI SDK 6 and 7 with both of their transports, in Node.js, against a model that a test writes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.interop.matrix import scripted_app
from tests.interop.playing import Facts, play
from tests.interop.scenarios import content, end, finished, gate, start

CLIENTS = ("ai-sdk-6", "ai-sdk-7", "ai-sdk-6-durable", "ai-sdk-7-durable")

HALVES = [start("a1"), content("Hel", "a1"), gate("middle"), content("lo.", "a1"), end("a1"), finished()]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with scripted_app(tmp_path_factory.mktemp("ai-sdk")) as app:
        yield app.url


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def run(base: str, client: str, scenario: str, **options: Any) -> Facts:
    session = f"{scenario} {uuid.uuid4()}"
    facts: Facts = play("ai-sdk.mjs", scenario, base=base, client=client, session=session, **options)
    return facts


def plain(messages: list[Facts]) -> list[Facts]:
    """The messages without what a client or a test may have left open: empty metadata, and undefined values."""
    return [{key: value for key, value in message.items() if value not in (None, {})} for message in messages]


@pytest.mark.cell(CLIENTS, "send", "stream")
def test_send(base: str, client: str) -> None:
    """A message is answered, in pieces; the client and the server hold the same messages with the same ids."""
    facts = run(base, client, "send", answers=[HALVES], texts=["hi"])
    assert facts["seen"] == ["Hel"]
    assert facts["status"] == "ready"
    assert facts["told"]["errors"] == []
    assert facts["told"]["finishes"] == [{"isAbort": False, "isError": False, "finishReason": "stop"}]
    assert plain(facts["messages"]) == plain(facts["server"]["messages"])
    assert [message["role"] for message in facts["messages"]] == ["user", "assistant"]
    assert facts["messages"][1]["parts"][-1]["text"] == "Hello."
