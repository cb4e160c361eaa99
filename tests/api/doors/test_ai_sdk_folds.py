"""
What the AI SDK's own clients fold of our wire equals what `to_ai_sdk_messages` makes of the same log, over random logs.
`scripts/fold --examples 10000` looks longer.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from durable_chat.api.doors.ai_sdk_chunks import Earlier, UIChunk, UIChunks
from durable_chat.api.doors.ai_sdk_messages import to_ai_sdk_messages
from durable_chat.transcripts.transcript import Transcript
from tests.api.doors.steady_logs import steady_logs
from tests.servers import INTEROP, clean_environment, node_env
from tests.transcripts.wild_logs import Log

EXAMPLES = int(os.environ.get("FOLD_EXAMPLES", "100"))
EXIT_MAX_S = 10.0
VERSIONS = ("ai", "ai-7")

Message = dict[str, Any]


class Client:
    """The AI SDK folding chunks in Node.js, one line in and one line out for each message."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def fold(self, message: Message | None, chunks: list[UIChunk]) -> Message:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"message": message, "chunks": chunks}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "Node.js ended"
        told = json.loads(line)
        expected = [error for error in told["errors"] if chunks[-1]["type"] != "error"]
        assert expected == [], chunks
        folded: Message = told["message"]
        return folded


@contextmanager
def node_client(package: str) -> Iterator[Client]:
    process = subprocess.Popen(
        [node_env(), "ai-sdk-fold.mjs", package],
        cwd=INTEROP,
        env=clean_environment({}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Client(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(EXIT_MAX_S) == 0
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture(scope="module", params=VERSIONS)
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    with node_client(request.param) as made:
        yield made


def plain(message: Message) -> Message:
    """
    The message without what no chunk of both versions tells (that a call was approved, a file's name), and without
    empty steps, which show nothing. No metadata is the same as none.
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
    """Each run of a log: the session's messages before it, its chunks, and the messages after it."""
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
        if after[-1]["role"] != "assistant":  # an answer of white space is none
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
