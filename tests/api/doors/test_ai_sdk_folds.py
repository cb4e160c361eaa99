"""
The AI SDK's own clients fold our stream to the same messages that `to_ai_sdk_messages` makes of the log, over random
logs. `scripts/fold --examples 10000` runs longer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from durable_chat.api.doors.ai_sdk.chunks import Earlier, UIChunk, UIChunks
from durable_chat.api.doors.ai_sdk.messages import to_ai_sdk_messages
from durable_chat.transcripts.transcript import Transcript
from tests.api.doors.steady_logs import steady_logs
from tests.node_lines import NodeLines, node_lines
from tests.transcripts.wild_logs import Log

EXAMPLES = int(os.environ.get("FOLD_EXAMPLES", "100"))
VERSIONS = ("ai", "ai-7")

Message = dict[str, Any]


class Client:
    """The AI SDK's client folding chunks in Node.js."""

    def __init__(self, node: NodeLines) -> None:
        self._node = node

    def fold(self, message: Message | None, chunks: list[UIChunk]) -> Message:
        told = self._node.ask({"message": message, "chunks": chunks})
        expected = [error for error in told["errors"] if chunks[-1]["type"] != "error"]
        assert expected == [], chunks
        folded: Message = told["message"]
        return folded


@pytest.fixture(scope="module", params=VERSIONS)
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    with node_lines("ai-sdk-fold.mjs", request.param) as node:
        yield Client(node)


def plain(message: Message) -> Message:
    """
    Return the message without fields that the chunks of either version lack (that a call was approved, a file's
    name), and without empty steps, which show nothing. Missing metadata equals empty metadata.
    """
    parts: list[dict[str, Any]] = []
    for part in message["parts"]:
        if part["type"] == "step-start" and parts and parts[-1]["type"] == "step-start":
            continue
        kept = {key: value for key, value in part.items() if key not in ("filename", "rawInput")}
        if isinstance(part.get("approval"), dict):
            kept["approval"] = {"id": part["approval"]["id"]}
        parts.append(kept)
    return {key: value for key, value in message.items() if key != "metadata" or value} | {"parts": parts}


def runs_of(log: Log) -> Iterator[tuple[list[Message], Log, list[Message]]]:
    """Yield each run of a log: the session's messages before it, its chunks, and the messages after it."""
    transcript, run, before = Transcript(), Log(), list[Message]()
    for chunk in log:
        if chunk["type"] == "RUN_STARTED":
            run, before = [], to_ai_sdk_messages(transcript.messages())
        transcript.fold(chunk)
        run.append(chunk)
        if chunk["type"] in ("RUN_FINISHED", "RUN_ERROR"):
            yield before, run, to_ai_sdk_messages(transcript.messages())


def rendered(run: Log, earlier: Earlier | None) -> list[UIChunk]:
    machine = UIChunks(earlier)
    return [made for chunk in run for made in machine.take(chunk)]


def compare(client: Client, log: Log) -> None:
    for before, run, after in runs_of(log):
        last = before[-1] if before and before[-1]["role"] == "assistant" else None
        earlier = None if last is None else Earlier.of(last)
        folded = client.fold(last, rendered(run, earlier))
        if after[-1]["role"] != "assistant":  # an answer of white space counts as none
            continue
        assert plain(folded) == plain(after[-1]), run
        if last is not None:
            replayed = client.fold(None, rendered(run, Earlier.of(last, replays=True)))
            assert plain(replayed) == plain(after[-1]), run


@given(log=steady_logs())
@settings(
    max_examples=EXAMPLES,
    report_multiple_bugs=False,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_what_the_writer_writes(client: Client, log: Log) -> None:
    compare(client, log)
