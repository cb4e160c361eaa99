"""
The time for anything that a request, a log or a model can make long grows linearly: eight times the input takes about
eight times as long.

`WORK` is a table: a name, a size, a function that makes an input of a size, and the function to measure. Add a line for
each new parser, fold or conversion. The last tests find folds and regular expressions that have no line. The measure is
the CPU time of this thread, the minimum of several runs. The limit leaves room for twice the noise: quadratic work
takes 64 times as long and always fails.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import durable_chat
from durable_chat.api.bodies import parse_body
from durable_chat.errors import DurableChatError
from durable_chat.generations.demo.texts import summary_of
from durable_chat.generations.inputs import SummaryInput
from durable_chat.http.headers import etag_matches
from durable_chat.http.paths import decode_path
from durable_chat.http.ranges import parse_range
from durable_chat.models.anthropic.messages import to_anthropic
from durable_chat.models.base import Turn
from durable_chat.models.context.limits import ContextLimit
from durable_chat.models.demo import _pieces
from durable_chat.models.openai.messages import with_fitting_calls
from durable_chat.protocol.events import EventDecoder
from durable_chat.protocol.messages import JSON, parse_payload
from durable_chat.protocol.nesting import cut_deep, measure
from durable_chat.protocol.sse import encode_data
from durable_chat.protocol.surrogates import mend_halves
from durable_chat.sessions.recovering.dead_runs import LoggedRuns
from durable_chat.sessions.running.idempotency import Requests, Seen
from durable_chat.sessions.running.posted import import_history
from durable_chat.sessions.running.turns import PostedAsk, Stage
from durable_chat.transcripts.answers.coalescing import coalesce
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.attachments import artifact_in, check_media_type, decode_base64, split_data_url
from durable_chat.transcripts.chunks import safe_message
from durable_chat.transcripts.codec import decode_chunks, encode_chunks
from durable_chat.transcripts.folding.fold import Fold
from durable_chat.transcripts.javascript import is_blank, parse_partial, stringify
from durable_chat.transcripts.message_cache import encode
from durable_chat.transcripts.transcript import Transcript

TIMES, GROWTH_MAX = 8, 16
"""The longer input, and how many times as long it may take."""

FLOOR_S = 0.002
"""What takes less is taken to take as much: timers and caches are all there is to it."""

RUNS, ROUNDS_MAX = 3, 4

USER = {"id": "u", "role": "user", "parts": [{"type": "text", "content": "hi"}]}

Chunk = dict[str, Any]


class Work(NamedTuple):
    size: int
    make: Callable[[int], Any]
    do: Callable[[Any], object]


def seconds(work: Work, size: int, runs: int = RUNS) -> float:
    """The minimum time of several runs, each with its own input."""
    times = []
    for _ in range(runs):
        given = work.make(size)
        gc.disable()  # which would look through all that was made so far
        try:
            started_s = time.thread_time()
            work.do(given)
            times.append(time.thread_time() - started_s)
        finally:
            gc.enable()
    return min(times)


# Bodies.


def body(*messages: Any, **more: Any) -> bytes:
    return json.dumps({"messages": [*messages, USER], **more}).encode()


def parsed(data: bytes) -> None:
    try:
        parse_body(data)
    except DurableChatError:
        pass


def answer(number: Any, *parts: Chunk) -> Chunk:
    return {"id": f"a{number}", "role": "assistant", "parts": list(parts)}


def call(name: Any, **more: Any) -> Chunk:
    return {"type": "tool-call", "id": f"c{name}", "name": "look", "arguments": "{}", "state": "input-complete", **more}


def result(name: Any) -> Chunk:
    return {"type": "tool-result", "toolCallId": f"c{name}", "content": "1", "state": "complete"}


def opened(posted: bytes) -> None:
    """What happens at the beginning of a turn in an empty session."""
    asyncio.run(PostedAsk(parse_body(posted)).open(Transcript(), Stage(0, False, 65536)))


BODIES = {
    "open brackets and an endless string": Work(
        4_000, lambda n: b'{"messages":' + b"[]" * 201 + b'"' + rb"\"" * n, parsed
    ),
    "brackets": Work(4_000, lambda n: b'{"messages":' + b"[" * n, parsed),
    "backslashes": Work(4_000, lambda n: b'{"messages":' + b"[" * 300 + b'"' + b"\\" * n, parsed),
    "strings": Work(4_000, lambda n: b'{"x":[' + b"[]," * 300 + b'"",' * n + b"1]}", parsed),
    "halves of characters": Work(
        2_000, lambda n: b'{"messages":[{"role":"user","content":"' + rb"\ud800" * n + b'"}]}', parsed
    ),
    "messages": Work(1_000, lambda n: body(*({"role": "user", "id": str(at)} for at in range(n))), parsed),
    "parts": Work(1_000, lambda n: body(answer(1, *[{"type": "text", "content": "x"}] * n)), parsed),
    "calls and results": Work(500, lambda n: body(answer(1, *map(call, range(n)), *map(result, range(n)))), opened),
    "results alone": Work(
        1_000,
        lambda n: body(*(answer(at, result(at)) for at in range(n))),
        lambda data: asyncio.run(import_history(parse_body(data))),
    ),
    "tool rows": Work(
        1_000, lambda n: body(*({"role": "tool", "toolCallId": f"c{at}", "content": "1"} for at in range(n))), parsed
    ),
    "keys": Work(2_000, lambda n: body(answer(1, {"type": "x"} | {f"k{at}": at for at in range(n)})), parsed),
}


# Logs.


def folded(log: Iterable[Chunk]) -> Transcript:
    transcript = Transcript()
    transcript.fold_all(log)
    encode(transcript.messages())
    return transcript


def start(name: Any, role: str = "assistant", **more: Any) -> Chunk:
    return {"type": "TEXT_MESSAGE_START", "messageId": f"m{name}", "role": role, **more}


def text(name: Any, delta: str = "x", **more: Any) -> Chunk:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": f"m{name}", "delta": delta, **more}


def about(kind: str, name: Any = 1, **more: Any) -> Chunk:
    return {"type": kind, "toolCallId": f"c{name}", **more}


def called(name: Any, parent: Any = 1) -> Chunk:
    return about("TOOL_CALL_START", name, toolCallName="look", parentMessageId=f"m{parent}")


def custom(name: str, **value: Any) -> Chunk:
    return {"type": "CUSTOM", "name": name, "value": value}


def run(kind: str, name: Any = 1, **more: Any) -> Chunk:
    return {"type": kind, "runId": f"r{name}", "threadId": "s", **more}


def snapshot(*messages: Any) -> list[Chunk]:
    return [{"type": "MESSAGES_SNAPSHOT", "messages": list(messages)}]


def each(n: int, *makers: Callable[[int], Chunk]) -> list[Chunk]:
    return [make(at) for make in makers for at in range(n)]


THINK = {"type": "REASONING_MESSAGE_CONTENT", "messageId": "t", "delta": "x"}
SIGNED = {"type": "REASONING_ENCRYPTED_VALUE", "encryptedValue": "s"}
STEP = {"type": "STEP_STARTED", "stepName": "s"}
PAUSE = run("RUN_FINISHED", "x", finishReason="tool_calls")
END = run("RUN_FINISHED", "x", finishReason="stop")
RESOURCE = custom("ui-resource", resource={"uri": "ui://a", "mimeType": "text/html"}, toolName="look", toolCallId="c")
ASKED = {"type": "interrupt", "interrupts": [{"id": "i", "toolCallId": "c1", "reason": "approval_required"}]}

LOGS: dict[str, tuple[int, Callable[[int], list[Chunk]]]] = {
    "deltas": (2_000, lambda n: [start(1), *[text(1)] * n, {"type": "TEXT_MESSAGE_END", "messageId": "m1"}]),
    "metadata": (500, lambda n: [start(1), *each(n, lambda at: text(1, metadata={f"k{at}": 1, "tanstack": {f"k{at}": 1}}))]),
    "answers": (1_000, lambda n: each(n, start, text)),
    "questions before thoughts": (500, lambda n: [start("a"), *each(n, lambda at: start(at, "user")), *[THINK] * n]),
    "signatures and steps": (500, lambda n: [start(1), *[STEP, THINK, SIGNED, {"type": "STEP_FINISHED", "signature": "s"}] * n]),
    "steps of their own": (500, lambda n: [start(1), *(step for at in range(n) for step in ({**STEP, "stepName": f"s{at}"}, THINK))]),
    "calls": (
        300,
        lambda n: [
            start(1),
            *each(
                n,
                called,
                lambda at: about("TOOL_CALL_ARGS", at, delta="{}"),
                lambda at: about("TOOL_CALL_END", at),
                lambda at: about("TOOL_CALL_RESULT", at, content="1"),
            ),
        ],
    ),
    "signed calls": (
        300,
        lambda n: [start(1), *each(n, called, lambda at: {**SIGNED, "subtype": "tool-call", "entityId": f"c{at}"})],
    ),
    "pauses with open calls": (300, lambda n: [start(1), *each(n, called), *[PAUSE] * n]),
    "pauses with open answers": (500, lambda n: [*each(n, start), *[PAUSE] * n]),
    "one call of many messages": (300, lambda n: each(n, start, lambda at: called(1, at), lambda at: about("TOOL_CALL_RESULT", content="1"))),
    "one id of many messages": (300, lambda n: [*snapshot(*[answer(1)] * n), *[{**text(1), "messageId": "a1"}] * n]),
    "answers that go": (
        500,
        lambda n: [*each(n, lambda at: start(at, "user"), start), *(c for at in range(n) for c in (start(at), text(at, " "), END))],
    ),
    "resources between texts": (500, lambda n: [start(1), *[text(1, "word"), RESOURCE] * n]),
    "structured output": (
        300,
        lambda n: [start(1), custom("structured-output.start", messageId="m1"), *[text(1, '"x')] * n],
    ),
    "broken structured output": (
        300,
        lambda n: [start(1), custom("structured-output.start", messageId="m1"), *[text(1, "x")] * n],
    ),
    "approvals": (300, lambda n: [start(1), called(1), *[custom("approval-requested", toolCallId="c1", approval={"id": "i"})] * n]),
    "interrupts": (300, lambda n: [start(1), called(1), *[run("RUN_FINISHED", outcome=ASKED)] * n]),
    "nameless messages": (300, lambda n: [chunk for at in range(n) for chunk in (THINK, start(at), called(at, at), END)]),
    "failures": (500, lambda n: each(n, lambda at: run("RUN_STARTED", at), lambda at: run("RUN_ERROR", at, message="x"))),
    "open runs": (500, lambda n: [*each(n, lambda at: run("RUN_STARTED", at)), start(1), *[text(1)] * n]),
    "snapshots": (200, lambda n: [*snapshot(*(answer(at) for at in range(n))), *snapshot(USER) * n]),
    "a snapshot of results": (500, lambda n: snapshot(*(answer(at, result(at)) for at in range(n)))),
    "a snapshot of questions and results": (500, lambda n: snapshot(*(USER for _ in range(n)), *(answer(at, result(at)) for at in range(n)))),
    "a snapshot of calls, then results": (
        500, lambda n: snapshot(*(answer(at, call(at)) for at in range(n)), *(answer(-at, result(at)) for at in range(n)))
    ),
    "a snapshot without its calls": (
        300,
        lambda n: [
            *snapshot(*(answer(at, call(at)) for at in range(n))),
            *snapshot(answer("x", {"type": "text", "content": "x"}), *(answer(at, result(at)) for at in range(n))),
        ],
    ),
    "a snapshot of thoughts": (500, lambda n: snapshot(*[answer(1, {"type": "thinking", "content": "x"})] * n)),
    "a snapshot of resources": (
        300, lambda n: snapshot({**answer(1), "metadata": {"tanstack": {"uiResources": [{"type": "ui-resource", **RESOURCE["value"]}] * n}}})
    ),
    "a snapshot of parts that cannot be read": (500, lambda n: snapshot(answer(1, *[{"type": "tool-call", "id": []}] * n))),
}  # fmt: skip


def read(log: list[Chunk]) -> None:
    """Everything that reads a log: encoding, folding, stored snapshots, input for models, and recovery."""
    decode_chunks(b",".join(coalesce(encode_chunks(log))))
    transcript = folded(log)
    Transcript.from_bytes(transcript.to_bytes())
    to_anthropic(transcript.messages())
    logged = LoggedRuns("s")
    for chunk in log:
        logged.take(chunk)
    logged.dead([*logged.open, "x"])


# Everything else.


def asked(n: int) -> Transcript:
    return folded(
        snapshot(USER, answer(1, *(call(at, approval={"id": "i", "needsApproval": True}) for at in range(n))))
    )


def answered(given: tuple[Transcript, bytes]) -> None:
    transcript, posted = given
    ask = PostedAsk(parse_body(posted))
    ask.repeats(transcript, (), None)
    asyncio.run(ask.open(transcript, Stage(0, False, 65536)))


def approvals(n: int, *, apart: bool = False) -> tuple[Transcript, bytes]:
    calls = [call(at, approval={"id": "i", "needsApproval": True}) for at in range(n)]
    held = [answer(at, each) for at, each in enumerate(calls)] if apart else [answer(1, *calls)]
    given = [{**m, "parts": [{**p, "approval": {**p["approval"], "approved": True}} for p in m["parts"]]} for m in held]
    return folded(snapshot(USER, *held)), json.dumps({"messages": [USER, *given]}).encode()


def said(items: list[Any]) -> None:
    numbers = iter(range(10**9))
    chunks = RunChunks("r", "s", lambda: f"n{next(numbers)}", lambda: 0)
    for item in items:
        encode_chunks(chunks.accept(item))
    encode_chunks(chunks.finish())


def forgotten(n: int) -> Requests:
    """A session with one key, among many other sessions with keys."""
    requests = Requests(None, str)
    for at in range(n):
        requests._keep((f"s{at}", "k"), Seen("r", "0"))  # noqa: SLF001 - what ends a run does
    return requests


def feed(pieces: list[bytes]) -> None:
    decoder = EventDecoder()
    for piece in pieces:
        decoder.feed(piece)


def history(turns: int) -> list[Chunk]:
    roles = ("user", "assistant") * turns
    told = [
        {"id": f"m{at}", "role": role, "parts": [{"type": "text", "content": "word " * 40}]}
        for at, role in enumerate(roles)
    ]
    return [*told, USER]


def called_often(calls: int) -> Chunk:
    """One message with that many calls of tools, each with a result of 300 tokens."""
    call = {"type": "tool-call", "name": "look", "arguments": "{}", "state": "complete"}
    result = {"type": "tool-result", "content": "seen " * 140, "state": "complete"}
    ids = [f"c{at}" for at in range(calls)]
    parts = [*({**call, "id": call_id} for call_id in ids), *({**result, "toolCallId": call_id} for call_id in ids)]
    return {"id": "a", "role": "assistant", "parts": parts}


def limited(given: tuple[list[Chunk], int]) -> None:
    """Fit a conversation into a limit of tokens, with a summary that is written at once."""
    messages, tokens = given

    async def model(turn: Turn) -> str:
        return "so"

    async def run() -> None:
        async for _ in ContextLimit(model, tokens)(Turn(tuple(messages), "s", "r")):
            pass

    asyncio.run(run())


PARSERS = {
    "nesting": Work(20_000, lambda n: rb'["\"\\", {"a":[]},' * n, measure),
    "nesting that is cut": Work(1_000, lambda n: b"[[[" + b'{"a":[1]},' * n + b"1]]]", lambda data: cut_deep(data, 3)),
    "an endless string that is cut": Work(4_000, lambda n: b"[[[[" + b'"' + rb"\"" * n, lambda data: cut_deep(data, 3)),
    "halves": Work(4_000, lambda n: rb"\ud800\\" * n, mend_halves),
    "messages of an append": Work(4_000, lambda n: b"[" + b'"x",' * n + b"1]", lambda data: parse_payload(JSON, data)),
    "halves in an append": Work(1_000, lambda n: b"[" + rb'"\ud800",' * n + b"1]", lambda data: parse_payload(JSON, data)),
    "events in pieces": Work(2_000, lambda n: [b"d"] * n, feed),
    "lines of an event": Work(2_000, lambda n: [b"data: x\n" * n, b"\n"], feed),
    "returns": Work(2_000, lambda n: [b"\r"] * n, feed),
    "lines that are sent": Work(4_000, lambda n: b"x\r\n" * n, lambda data: encode_data("text/plain", data)),
    "base64": Work(40_000, lambda n: "QUJD" * n, decode_base64),
    "a data: URL": Work(40_000, lambda n: "data:text/plain," + "%41" * n, split_data_url),
    "a media type": Work(4_000, lambda n: "a/b" + ";a=b" * n + "\n", lambda text: _refused(check_media_type, text)),
    "an address": Work(4_000, lambda n: {"type": "url", "value": "/api/chat-artifact?" + "a=b&" * n}, artifact_in),
    "a message that is shown": Work(4_000, lambda n: "a1" + "a" * n + " !", safe_message),
    "blanks": Work(40_000, lambda n: " " * n + "x", is_blank),
    "unfinished JSON": Work(1_000, lambda n: '{"a":[' + '"x",' * n + '"', parse_partial),
    "unfinished nesting": Work(1_000, lambda n: '[{"a":' * n, parse_partial),
    "an unfinished string": Work(4_000, lambda n: '"' + r"\"" * n, parse_partial),
    "unfinished numbers": Work(1_000, lambda n: "[" + "1e5," * n, parse_partial),
    "keys in order": Work(1_000, lambda n: {str(n - at): at for at in range(n)} | {f"k{at}": at for at in range(n)}, stringify),
    "words": Work(1_000, lambda n: "a  \n" * n, _pieces),
    "entity tags": Work(4_000, lambda n: ", ".join(['"x"'] * n), lambda text: etag_matches(text, '"y"')),
    "a range": Work(4_000, lambda n: "bytes=" + " " * n + "x", lambda text: parse_range(text, 10)),
    "a path": Work(4_000, lambda n: b"%41%2" * n, lambda data: _refused(decode_path, data)),
    "answers to calls of one message": Work(200, approvals, answered),
    "answers to calls of many messages": Work(200, lambda n: approvals(n, apart=True), answered),
    "keys of other sessions": Work(1_000, forgotten, lambda requests: asyncio.run(requests.forget("s1"))),
    "a name of a tool": Work(4_000, lambda n: [{"type": "function_call", "name": "é" * n}], with_fitting_calls),
    "sentences to summarize": Work(400, lambda n: SummaryInput("some words that follow\n" * n), summary_of),
    "turns over the model's limit": Work(400, lambda n: (history(n), 1_000), limited),
    "results of tools over the model's limit": Work(400, lambda n: ([USER, called_often(n)], 100 * n), limited),
    "what a model says": Work(500, lambda n: ["x "] * n, said),
    "messages that a model divides": Work(500, lambda n: [c for at in range(n) for c in (start(at), text(at), THINK, text(at))], said),
    "steps of a model without thinking": Work(500, lambda n: each(n, lambda at: {**STEP, "stepName": f"s{at}"}, lambda at: {"type": "STEP_FINISHED", "stepName": f"s{at}"}), said),
    "calls of a model": Work(200, lambda n: [c for at in range(n) for c in (called(at), about("TOOL_CALL_END", at))] + [about("TOOL_CALL_RESULT", at, content="1") for at in range(n)], said),
}  # fmt: skip


def _refused(parse: Callable[[Any], object], given: Any) -> None:
    try:
        parse(given)
    except DurableChatError:
        pass


WORK = {
    **{f"a body of {name}": work for name, work in BODIES.items()},
    **{f"a log of {name}": Work(size, make, read) for name, (size, make) in LOGS.items()},
    **PARSERS,
}


@pytest.mark.parametrize("name", WORK)
def test_eight_times_as_much_takes_no_more_than_sixteen_times_as_long(name: str) -> None:
    """Nothing that a caller, a log or a model can make long takes quadratic time."""
    work = WORK[name]
    short_s = long_s = float("inf")
    for _ in range(ROUNDS_MAX):  # whatever else the machine does can only make it slower
        short_s = min(short_s, seconds(work, work.size))
        long_s = min(long_s, seconds(work, work.size * TIMES, runs=1))
        if long_s <= GROWTH_MAX * max(short_s, FLOOR_S):
            return
    pytest.fail(f"{work.size} took {short_s:.4f} s, and {TIMES * work.size} took {long_s:.4f} s")


def test_the_table_has_every_chunk_that_is_folded() -> None:
    """Every handler of the fold has a line in the table."""
    fed = {chunk["type"] for _, make in LOGS.values() for chunk in make(2)}
    assert Fold._HANDLERS.keys() <= fed  # noqa: SLF001 - the table itself


BOUNDED = {
    "durable_chat/generations/demo/images.py": "a prompt, which has a limit, without repetition",
    "durable_chat/generations/limits.py": "a size of at most 11 characters",
    "durable_chat/cli.py": "what its own user writes",
    "durable_chat/config/kinds.py": "settings",
    "durable_chat/transcripts/file_names.py": "the last 800 characters of a name",
    "durable_chat/models/tools.py": "names of at most 64 characters",
    "durable_chat/web/templates.py": "the page of this package, and settings",
    "durable_chat/http/auth.py": "one of at most 64 names of the headers of a request, which a server bounds",
    "durable_chat/http/callers.py": "a Host, without repetition inside repetition",
}
"""Modules whose regular expressions see nothing long."""

FED = {
    "durable_chat/generations/demo/texts.py": "sentences to summarize",
    "durable_chat/models/openai/messages.py": "a name of a tool",
    "durable_chat/sessions/artifacts.py": "an address",
    "durable_chat/transcripts/attachments.py": "a media type",
    "durable_chat/transcripts/chunks.py": "a message that is shown",
    "durable_chat/transcripts/answers/coalescing.py": "a log of deltas",
    "durable_chat/transcripts/javascript.py": "blanks",
    "durable_chat/models/anthropic/messages.py": "a log of calls",
    "durable_chat/models/demo.py": "words",
    "durable_chat/http/headers.py": "entity tags",
    "durable_chat/http/paths.py": "a path",
    "durable_chat/http/ranges.py": "a range",
    "durable_chat/protocol/events.py": "events in pieces",
    "durable_chat/protocol/surrogates.py": "halves",
    "durable_chat/protocol/nesting.py": "nesting that is cut",
    "durable_chat/protocol/sse.py": "lines that are sent",
}
"""The others, by the line of the table that feeds them."""


def test_the_table_has_every_regular_expression() -> None:
    """Each regular expression has a line in the table, or a reason why its input is short."""
    assert set(FED.values()) <= WORK.keys()
    package = Path(durable_chat.__file__).parent
    modules = {
        f"durable_chat/{path.relative_to(package).as_posix()}": path.read_text() for path in package.rglob("*.py")
    }
    using = {name for name, text in modules.items() if "\nimport re\n" in text}
    assert using == FED.keys() | BOUNDED.keys()
