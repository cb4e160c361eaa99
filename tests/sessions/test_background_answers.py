"""
Background answers of OpenAI across the death of the server: what was shown before and what comes after are the
provider's whole answer, once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.models.openai.responses_server import Event, Item, Provider, events_of, responses_served
from tests.servers import App, Process
from tests.sessions.test_recovery import ask, check_readers, read_log, say
from tests.transcripts.logs import Chunks, check_runs, fold, has_ended, kinds

WAIT_MAX_S = 60.0
"""A server that imports the provider's package on a busy machine needs some seconds."""

APP = """
from durable_chat import DurableChat

chat = DurableChat("sqlite:///chat.db", protocol=True)

@chat.tool
def look(where: str) -> str:
    with open("calls.txt", "a") as file:
        file.write(where + "\\n")
    return "there"
"""

FIRST: Sequence[Item] = [
    ("reasoning", ["I must ", "think ", "about it."]),
    ("text", ["Let me ", "look ", "\U0001f600", "."]),
    ("look", ['{"whe', 're":"', "here", '"}']),
]
SECOND: Sequence[Item] = [("text", ["It ", "is ", "there", "."])]


@pytest.fixture
def provider() -> Provider:
    return Provider([FIRST, SECOND])


@pytest.fixture
def server(
    request: pytest.FixtureRequest, provider: Provider, tmp_path: Path, processes: list[Process]
) -> Iterator[Process]:
    """An application with a tool, whose model is at the provider. A parameter is DURABLE_CHAT_AFTER_CRASH."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    command = (sys.executable, "-m", "uvicorn", "app:chat.app", "--app-dir", ".", "--port", "{port}")
    with responses_served(provider) as url:
        settings = {"DURABLE_CHAT_MODEL": "openai-responses:m", "DURABLE_CHAT_OPENAI_BACKGROUND": "on"}
        settings["DURABLE_CHAT_AFTER_CRASH"] = getattr(request, "param", "end")
        process = App(command, folder, {**settings, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "key-of-the-server"})
        processes.append(process)
        process.start()
        yield process


DELTAS = ("TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT", "TOOL_CALL_ARGS")


def said_by(events: Sequence[Event]) -> str:
    return "".join(event["delta"] for event in events if event["type"].endswith(".delta"))


def said_in(chunks: Chunks) -> str:
    """Everything that the model has said, thinking and arguments included."""
    return "".join(chunk["delta"] for chunk in chunks[begin(chunks) :] if chunk["type"] in DELTAS)


def begin(chunks: Chunks) -> int:
    return kinds(chunks).index("RUN_STARTED") if "RUN_STARTED" in kinds(chunks) else len(chunks)


def until(process: Process, wanted: Callable[[Chunks], bool]) -> Chunks:
    deadline = time.monotonic() + WAIT_MAX_S
    while not wanted(chunks := read_log(process, "s")):
        assert time.monotonic() < deadline, f"not seen: {chunks[-3:]}\n{process.output_shown()}"
        time.sleep(0.02)
    return chunks


def parts(chunks: Chunks) -> list[Any]:
    return [part for message in fold(chunks) if message["role"] == "assistant" for part in message["parts"]]


WHOLE = said_by(events_of("r", FIRST)) + said_by(events_of("r", SECOND))
POINTS = [at + 1 for at, event in enumerate(events_of("r", FIRST)) if event["type"].endswith(".delta")]


@pytest.mark.parametrize("point", [POINTS[1], POINTS[5], POINTS[8]], ids=["thinking", "text", "arguments"])
def test_killed_in_the_middle(server: Process, provider: Provider, point: int) -> None:
    """Nothing is lost, repeated or ordered again, and the tool is called once."""
    provider.release(point)
    before = said_by(events_of("r", FIRST)[:point])
    assert say(server, "s", "hi") == 202
    until(server, lambda chunks: said_in(chunks) == before)
    server.kill()
    provider.release()
    server.start()
    chunks = until(server, has_ended)
    (end,) = check_runs(chunks)
    assert end["type"] == "RUN_FINISHED", end
    assert said_in(chunks) == WHOLE
    assert [part["type"] for part in parts(chunks)] == ["thinking", "text", "tool-call", "tool-result", "text"]
    assert (server.folder / "calls.txt").read_text() == "here\n"
    assert len(provider.created) == 2  # one response for each step
    assert provider.cancelled == []
    check_readers(server, "s", chunks)


def test_killed_again_and_again(server: Process, provider: Provider) -> None:
    """An answer goes on more than once."""
    provider.release(POINTS[0])
    assert say(server, "s", "hi") == 202
    for point in (POINTS[0], POINTS[4], POINTS[9]):
        provider.release(point)
        before = said_by(events_of("r", FIRST)[:point])
        until(server, lambda chunks, before=before: said_in(chunks) == before)  # type: ignore[misc]
        server.restart()
    provider.release()
    chunks = until(server, has_ended)
    (end,) = check_runs(chunks)
    assert (end["type"], said_in(chunks)) == ("RUN_FINISHED", WHOLE)
    assert len(provider.created) == 2


def test_a_stop_cancels_at_the_provider(server: Process, provider: Provider) -> None:
    """The provider writes no further, and the answer ends as stopped."""
    provider.release(POINTS[5])
    assert say(server, "s", "hi") == 202
    until(server, lambda chunks: "look" in said_in(chunks))
    status, body, _ = ask(server, "POST", "/api/chat-stop?id=s")
    assert (status, len(json.loads(body)["stopped"])) == (200, 1)
    (end,) = check_runs(until(server, has_ended))
    assert end["metadata"]["tanstack"]["stopped"] is True
    provider.wait_for_cancel()
    assert provider.cancelled == ["resp_0"]


def test_no_key_is_in_the_log(server: Process, provider: Provider) -> None:
    """The response's id is in the log, and the key with which it was ordered is not."""
    assert say(server, "s", "hi") == 202
    chunks = until(server, has_ended)
    assert "resp_0" in json.dumps(chunks)
    assert "key-of-the-server" not in json.dumps(chunks)
    assert "key-of-the-server" not in server.output
    assert len(provider.created) == 2


# Answers that the provider no longer has.

AFTER_CRASH = "server"
"""The parameter of the fixture `server`."""


def expire(server: Process, provider: Provider, point: int, scripts: Sequence[Sequence[Item]]) -> Chunks:
    """Kill the server at an event of an answer that the provider has forgotten when the next process asks for it."""
    provider.scripts = list(scripts)
    provider.release(point)
    steps = 1 if point < len(events_of("r", scripts[0])) else 2
    before = "".join(said_by(events_of("r", script)[:point]) for script in scripts[:steps])
    assert say(server, "s", "hi") == 202
    until(server, lambda chunks: said_in(chunks) == before)
    server.kill()
    provider.expire()
    provider.release()
    server.start()
    chunks = until(server, has_ended)
    assert provider.cancelled == []
    check_runs(chunks)
    check_readers(server, "s", chunks)
    return chunks


def text_of(chunks: Chunks) -> str:
    return "".join(part["content"] for part in parts(chunks) if part["type"] == "text")


def ways(chunks: Chunks) -> list[tuple[int, str]]:
    """How the run was taken up: the number of the attempt, and how."""
    values = [chunk["value"] for chunk in chunks if chunk.get("name") == "durable-chat.run-resumed"]
    return [(value["attempt"], value["how"]) for value in values]


@pytest.mark.parametrize(AFTER_CRASH, ["retry"], indirect=True)
def test_expired_and_answered_anew(server: Process, provider: Provider) -> None:
    """The new answer takes the place of the old one, and the tool is called once."""
    chunks = expire(server, provider, POINTS[5], [FIRST, FIRST, SECOND])
    assert ways(chunks) == [(1, "resume"), (1, "retry")]
    assert [part["type"] for part in parts(chunks)] == ["thinking", "text", "tool-call", "tool-result", "text"]
    assert text_of(chunks) == "Let me look \U0001f600.It is there."
    assert (server.folder / "calls.txt").read_text() == "here\n"
    assert len(provider.created) == 3


@pytest.mark.parametrize(AFTER_CRASH, ["retry"], indirect=True)
def test_expired_after_a_step(server: Process, provider: Provider) -> None:
    """A step that is finished is kept: only the step that was cut off is answered anew."""
    long = [("text", [f"word{number} " for number in range(40)])]
    chunks = expire(server, provider, len(events_of("r", FIRST)) + 2, [FIRST, long, SECOND])
    assert ways(chunks) == [(1, "resume"), (1, "retry")]
    assert text_of(chunks) == "Let me look \U0001f600.It is there."
    assert (server.folder / "calls.txt").read_text() == "here\n"
    assert len(provider.created) == 3


@pytest.mark.parametrize(AFTER_CRASH, ["continue"], indirect=True)
def test_expired_and_continued(server: Process, provider: Provider) -> None:
    """The model is given what it had said, and its message goes on."""
    chunks = expire(server, provider, POINTS[5], [FIRST, [("text", [" is ", "done."])]])
    assert ways(chunks) == [(1, "resume"), (1, "continue")]
    assert text_of(chunks) == "Let me look \U0001f600 is done."
    assert [message["role"] for message in fold(chunks)] == ["user", "assistant"]
    assert len(provider.created) == 2


@pytest.mark.parametrize(AFTER_CRASH, ["end", "retry"], indirect=True)
def test_expired_in_a_call(server: Process, provider: Provider) -> None:
    """The call ends as interrupted, and the model is asked again, as for a model that resumes nothing."""
    chunks = expire(server, provider, POINTS[8], [FIRST, SECOND])
    assert ways(chunks) == [(1, "resume")]
    assert [part["type"] for part in parts(chunks)] == ["thinking", "text", "tool-call", "tool-result", "text"]
    assert text_of(chunks) == "Let me look \U0001f600.It is there."
    assert not (server.folder / "calls.txt").exists()
    assert len(provider.created) == 2


def test_expired_and_ended(server: Process, provider: Provider) -> None:
    """Without another way, the answer ends with an error that says why, and keeps its text."""
    chunks = expire(server, provider, POINTS[5], [FIRST])
    assert (chunks[-1]["code"], text_of(chunks)) == ("answer_expired", "Let me look \U0001f600")
    assert len(provider.created) == 1
