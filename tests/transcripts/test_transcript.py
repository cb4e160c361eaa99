"""A transcript equals, message for message, the fold of the same log by TanStack AI's own client."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durable_chat.models.base import ProviderError, Turn
from durable_chat.models.demo import DemoModel
from durable_chat.transcripts import chunks
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.transcript import Transcript
from tests.transcripts.folding import Folder, compare, node_folder

NOW_MS = 1_763_700_000_000


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with node_folder() as made:
        yield made


def user(message_id: str, text: str) -> dict[str, Any]:
    return {
        "id": message_id,
        "role": "user",
        "parts": [{"type": "text", "content": text}],
        "createdAt": "2026-11-21T08:00:00Z",
    }


def run_of(number: int, items: list[Any], end: str = "finish", known: set[str] | None = None) -> list[Chunk]:
    """Return a turn as the writer writes it: the echo, then the run."""
    ids = (f"new-{number}-{at}" for at in itertools.count())
    run = RunChunks(f"run-{number}", "s", lambda: next(ids), lambda: NOW_MS, known_ids=known or set())
    made = chunks.to_message_echo_chunks(user(f"user-{number}", f"question {number}")) + run.start()
    for item in items:
        made += run.accept(item)
    if end == "fail":
        return made + run.fail("It broke.", "broken")
    return made + (run.stop() if end == "stop" else run.finish())


def start(message_id: str, **fields: Any) -> Chunk:
    return {"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": "assistant", **fields}


def content(message_id: str, delta: str) -> Chunk:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": delta}


def thought(delta: str, message_id: str = "r") -> Chunk:
    return {"type": "REASONING_MESSAGE_CONTENT", "messageId": message_id, "delta": delta}


def call(call_id: str, *arguments: str, end: bool = True, **fields: Any) -> list[Chunk]:
    begin = {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": "look", **fields}
    args = [{"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": delta} for delta in arguments]
    return [begin, *args, *([{"type": "TOOL_CALL_END", "toolCallId": call_id}] if end else [])]


def result(call_id: str, text: str = "1", error: bool = False) -> Chunk:
    return chunks.tool_result(f"t-{call_id}", call_id, text, timestamp=NOW_MS, error=error)


def custom(name: str, **value: Any) -> Chunk:
    return {"type": "CUSTOM", "name": name, "value": value}


def signed(signature: str, entity: str = "r", subtype: str = "message") -> Chunk:
    kind = "REASONING_ENCRYPTED_VALUE"
    return {"type": kind, "subtype": subtype, "entityId": entity, "encryptedValue": signature}


def approval(call_id: str) -> Chunk:
    asked = {"id": f"a-{call_id}", "needsApproval": True}
    return custom("approval-requested", toolCallId=call_id, toolName="look", input={}, approval=asked)


def snapshot(*messages: Any) -> Chunk:
    return {"type": "MESSAGES_SNAPSHOT", "messages": list(messages)}


def finished(reason: str | None = "stop", run_id: str = "r", **fields: Any) -> Chunk:
    tanstack = {"tanstack": {"finishReason": reason}}
    return {"type": "RUN_FINISHED", "runId": run_id, "threadId": "s", "metadata": tanstack, **fields}


STEP = {"type": "STEP_STARTED", "stepName": "step-1"}
STEP_SIGNED = {"type": "STEP_FINISHED", "stepName": "step-1", "metadata": {"tanstack": {"signature": "sig"}}}
STARTED = {"type": "RUN_STARTED", "runId": "r", "threadId": "s"}
ERROR = {"type": "RUN_ERROR", "runId": "r", "message": "It broke.", "code": "broken"}

# A model's output in a turn, before the writer normalizes it.
ANSWERS: dict[str, list[Any]] = {
    "text": ["Hel", "lo ", "wörld 🙂"],
    "text with metadata": [start("m", metadata={"a": 1, "tanstack": {"model": "x"}}), content("m", "hi")],
    "blank": ["\n", " "],
    "nothing": [],
    "thinking first": [STEP, thought("hm"), thought("mm"), STEP_SIGNED, "so"],
    "signed thinking": [thought("hm"), signed("sig"), "so"],
    "two thoughts": [STEP, thought("a"), {**STEP, "stepName": "step-2"}, thought("b"), "so"],
    "text, thinking, text": ["one", thought("hm"), "two"],
    "a tool": [*call("c", '{"a":', "1}"), result("c", '{"ok":true}'), "done"],
    "a tool after text": ["let me see", *call("c"), result("c", "not json"), "done"],
    "a tool of no arguments": [
        *call("c", end=False),
        {"type": "TOOL_CALL_END", "toolCallId": "c", "input": {"b": 1.0}},
    ],
    "arguments cut short": call("c", '{"a": "b', end=False),
    "tool metadata": [
        *call("c", "{}", metadata={"thoughtSignature": "s"}),
        signed("new", "c", "tool-call"),
        result("c"),
    ],
    "parallel tools": [*call("c", end=False), *call("d", "{}"), result("d"), result("c"), "done"],
    "text between tool and result": [*call("c", "{}"), "meanwhile", result("c"), "done"],
    "a failed tool": [*call("c", "{}"), result("c", '{"error":"no net"}', error=True), "sorry"],
    "a tool that failed without words": [*call("c", "{}"), result("c", "[1]", error=True)],
    "a failed tool that was not ended": [*call("c", end=False), result("c", "no", error=True)],
    "an approval": ["may I?", *call("c", "{}"), approval("c")],
    "a client's tool": [*call("c", "{}"), custom("tool-input-available", toolCallId="c", toolName="look", input={})],
    "structured output": [
        custom("structured-output.start", messageId="m"),
        *(content("m", delta) for delta in ('{"na', 'me": "x', '", "n": 1', '2.5, "l": [tr', "ue]}")),
        custom("structured-output.complete", messageId="m", object={"name": "x"}, reasoning="because"),
    ],
    "structured output unfinished": [custom("structured-output.start", messageId="m"), content("m", '{"a": [1, {"b')],
    "structured output at once": [custom("structured-output.complete", object={"2": 1.0, "1": 1e22, "a": None})],
    "a resource": [
        *call("c", "{}"),
        custom("ui-resource", toolCallId="c", toolName="look", resource={"uri": "u", "mimeType": "m"}, serverId="s"),
        "done",
    ],
    "unknown things": [custom("mine", a=1), {"type": "STATE_DELTA", "delta": []}, "ok"],
    "a model's loop": [
        start("m"),
        content("m", "a"),
        *call("c", "{}", parentMessageId="m"),
        finished("tool_calls"),
        result("c"),
        thought("hm"),
        start("n"),
        content("n", "b"),
        *call("d", "{}", parentMessageId="n"),
        finished("tool_calls"),
        result("d"),
        start("o"),
        content("o", "c"),
        finished(),
    ],
}


@pytest.mark.parametrize("end", ["finish", "stop", "fail"])
@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_folds_as_in_the_client(folder: Folder, name: str, end: str) -> None:
    """
    After each chunk of three turns, both folds are equal. Three turns show state that one turn leaves for the next.
    """
    log = [*run_of(1, ["first"]), *run_of(2, ANSWERS[name], end), *run_of(3, ["last"])]
    messages = compare(folder, log)
    assert [message["id"] for message in messages][-2:][0] == "user-3"


@given(
    turns=st.lists(st.tuples(st.sampled_from(sorted(ANSWERS)), st.sampled_from(["finish", "stop", "fail"])), max_size=5)
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_session_folds_as_in_the_client(folder: Folder, turns: list[tuple[str, str]]) -> None:
    """Both folds are equal for any sequence of turns. Tool calls of one turn have their own ids."""
    log: list[Chunk] = []
    known: set[str] = set()
    for number, (name, end) in enumerate(turns):
        items = json.loads(json.dumps(ANSWERS[name]).replace('"toolCallId": "', f'"toolCallId": "{number}-'))
        made = run_of(number, items, end, known)
        known |= {chunk["messageId"] for chunk in made if chunk["type"] == "TEXT_MESSAGE_START"}
        log += made
    compare(folder, log)


PARTS = [
    {"type": "text", "content": "look"},
    {"type": "tool-call", "id": "c", "name": "look", "arguments": "{}", "state": "input-complete"},
]
SNAPSHOTS: dict[str, list[Chunk]] = {
    "parts": [snapshot(user("u", "hi"), {"id": "m", "role": "assistant", "parts": PARTS, "metadata": {}}), result("c")],
    "no id, no parts": [
        snapshot({"role": "user", "content": "hi"}, {"id": "x", "role": "activity"}, {"role": "user", "content": ""})
    ],
    "times": [
        snapshot(
            user("u", "hi"),
            {"id": "a", "role": "user", "parts": [], "createdAt": "never"},
            {
                "id": "b",
                "role": "assistant",
                "parts": [],
                "metadata": {"tanstack": {"createdAt": "2026-01-02T03:04:05+01:00"}},
            },
            {
                "id": "c",
                "role": "assistant",
                "parts": [
                    {
                        "type": "tool-result",
                        "toolCallId": "c",
                        "content": "x",
                        "state": "complete",
                        "createdAt": "2026-01-02",
                    },
                    {"type": "text", "content": "a"},
                ],
            },
        )
    ],
    "metadata is kept": [start("m", metadata={"a": 1}), snapshot({"id": "m", "role": "assistant", "parts": []})],
    "metadata is emptied": [
        start("m", metadata={"a": 1}),
        snapshot({"id": "m", "role": "assistant", "parts": [], "metadata": {}}),
    ],
    "goes on after": [
        snapshot({"id": "m", "role": "assistant", "parts": [PARTS[0]]}),
        content("m", "!"),
        content("m", "?"),
    ],
    "starts again after": [
        snapshot({"id": "m", "role": "assistant", "parts": [PARTS[0]]}),
        start("m"),
        content("m", "!"),
    ],
    "wire": [
        snapshot(
            {"id": "s", "role": "system", "content": "be kind"},
            {"id": "d", "role": "developer", "content": ""},
            {
                "id": "u",
                "role": "user",
                "name": "Ann",
                "content": [
                    {"type": "text", "text": "see"},
                    {"type": "binary", "data": "x"},
                    {"type": "image", "source": {"type": "url", "value": "https://x"}},
                ],
            },
            {"id": "r", "role": "reasoning", "content": "hm", "encryptedValue": "sig"},
            {
                "id": "m",
                "role": "assistant",
                "content": "I see",
                "toolCalls": [
                    {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}},
                    {"id": "d", "type": "function", "function": {"name": "look", "arguments": '{"a'}},
                ],
                "metadata": {
                    "tanstack": {"toolCallMetadata": {"c": {"x": 1}}, "createdAt": "2026-01-01T00:00:00.123456Z"}
                },
            },
            {"id": "t", "role": "tool", "toolCallId": "c", "content": '{"b":2}'},
            {"id": "t2", "role": "tool", "toolCallId": "d", "content": "no", "error": "no net"},
            {"id": "r2", "role": "reasoning", "content": ""},
            {"id": "n", "role": "assistant", "content": ""},
        )
    ],
    "wire with what it owns": [
        snapshot(
            {
                "id": "m",
                "role": "assistant",
                "toolCalls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {
                "id": "tool-c",
                "role": "tool",
                "toolCallId": "c",
                "content": "x",
                "metadata": {
                    "k": 1,
                    "tanstack": {
                        "toolResult": {
                            "id": "mine",
                            "createdAt": "2026-01-01T00:00:00Z",
                            "content": [{"type": "text", "content": "deep"}],
                        }
                    },
                },
            },
            {
                "id": "s",
                "role": "assistant",
                "content": 'so: {"a":1}',
                "metadata": {
                    "tanstack": {
                        "structuredOutput": {"status": "complete", "raw": '{"a":1}', "data": {"a": 1}},
                        "uiResources": [
                            {
                                "type": "ui-resource",
                                "toolCallId": "c",
                                "toolName": "f",
                                "resource": {"uri": "u", "mimeType": "m"},
                            }
                        ],
                    }
                },
            },
        )
    ],
    "a result without its call": [
        *call("c", '{"a":1}'),
        result("c", '{"b":2}'),
        snapshot(
            {"id": "m", "role": "assistant", "content": "x"},
            {"id": "t", "role": "tool", "toolCallId": "c", "content": "y"},
        ),
    ],
    "a result alone": [snapshot({"id": "t", "role": "tool", "toolCallId": "c", "content": "y"})],
    "a call that was known better": [
        *call("c", '{"a":1}', metadata={"k": 1}),
        result("c", '{"b":2}'),
        snapshot(
            {
                "id": "m",
                "role": "assistant",
                "content": "",
                "toolCalls": [{"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}],
            }
        ),
        result("c", '{"b":3}'),
    ],
    "an interrupt": [
        STARTED,
        *call("c", "{}"),
        snapshot(
            {
                "id": "m",
                "role": "assistant",
                "content": "",
                "toolCalls": [{"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
            }
        ),
        finished(
            "tool_calls",
            outcome={
                "type": "interrupt",
                "interrupts": [
                    {"id": "approval_c", "reason": "tool_call", "toolCallId": "c", "metadata": {"kind": "approval"}}
                ],
            },
        ),
        {**STARTED, "runId": "r2"},
        result("c"),
        finished(run_id="r2"),
    ],
    "amid a run": [
        STARTED,
        start("m"),
        content("m", "a"),
        snapshot(user("u", "x")),
        content("m", "b"),
        finished(),
        ERROR,
    ],
}


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_snapshots_fold_as_in_the_client(folder: Folder, name: str) -> None:
    """Both folds are equal for snapshots of either shape, alone and in the middle of a session."""
    compare(folder, SNAPSHOTS[name])
    compare(folder, [*run_of(1, ANSWERS["a tool"]), *SNAPSHOTS[name], *run_of(2, ["so"])])


TOOL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
RESOURCE = {"type": "ui-resource", "toolCallId": "c", "toolName": "f", "resource": {"uri": "u", "mimeType": "m"}}
ODD: dict[str, list[Chunk]] = {
    "a step before any message": [STEP, thought("hm"), thought("mm"), start("m"), content("m", "so")],
    "a message named late": [*call("c", '{"a":'), start("m"), content("m", "so"), *call("c", "1}"), result("c")],
    "a message named late in the midst": [thought("hm"), content("x", "a"), start("x"), content("x", "b")],
    "a user after an error": [ERROR, {**start("u"), "role": "user"}, content("u", "hi")],
    "a signature of nothing": [STARTED, signed(""), STEP_SIGNED, signed("sig")],
    "a step signed twice": [start("m"), STEP, thought("a"), STEP_SIGNED, thought("b"), signed("new")],
    "a result of nothing": [start("m"), result("c"), *call("c", "{}"), result("c", '"x"'), result("c", "again")],
    "an unknown end": [{"type": "TOOL_CALL_END", "toolCallId": "c"}, *call("c"), {"type": "TOOL_CALL_END", "toolCallId": "c"}],
    "an approval of nothing": [approval("c"), start("m"), approval("c"), *call("c", "{}"), approval("c"), finished()],
    "a resource of nothing": [custom("ui-resource", toolCallId="c", toolName="f", resource={})],
    "structured output told again": [
        custom("structured-output.complete", object={"a": 1}, raw='{"a":1}', messageId="m"),
        custom("structured-output.start", messageId="m"),
        content("m", "more"),
        ERROR,
    ],
    "structured output, failed": [
        STARTED, custom("structured-output.start", messageId="m"), content("m", "[1,"), content("m", "2"), ERROR, finished(),
    ],
    "structured output, failed before it began": [STARTED, custom("structured-output.start", messageId="m"), ERROR],
    "structured output in a blank answer": [content("u", " "), custom("structured-output.start"), finished()],
    "structured output of no JSON": [
        custom("structured-output.start", messageId="m"), content("m", "[1] and"), content("m", "so"), content("m", "]"),
    ],
    "metadata of a delta": [
        start("m", metadata={"tanstack": {"model": "x"}}),
        {**content("m", "a"), "metadata": {"tanstack": {"content": "a", "args": "b", "n": 1}, "k": [1]}},
        {"type": "TEXT_MESSAGE_END", "messageId": "m", "metadata": {"tanstack": {"n": 2, "createdAt": "2026-01-01T00:00:00Z"}}},
    ],
    "snapshots of odd shapes": [
        snapshot(
            {"id": "a", "role": "user", "content": [{"type": "binary"}, {"type": "text", "text": ""}]},
            {"id": "b", "role": "assistant", "content": [{"type": "text", "content": "x"}]},
            {"id": "c", "role": "assistant", "content": "raw", "metadata": {"tanstack": {
                "structuredOutput": {"status": "complete", "raw": "raw"}}}},
            {"id": "d", "role": "assistant", "content": "x", "metadata": {"tanstack": {
                "structuredOutput": {"status": "odd", "raw": "raw"}, "uiResources": [{"type": "ui-resource"}, RESOURCE, RESOURCE]}}},
            {"id": "e", "role": "assistant", "content": "x", "metadata": {"tanstack": {
                "structuredOutput": {"status": "error", "raw": 5, "reasoning": ""}}}},
            {"id": "f", "role": "reasoning", "content": "hm", "metadata": {"tanstack": {"signature": "sig"}}},
            {"id": "g", "role": "tool", "toolCallId": "c", "content": "x", "metadata": {"tanstack": {
                "toolResult": {"content": [{"type": "new"}]}}}},
            {"id": "h", "role": "tool", "toolCallId": "c", "content": "x", "metadata": {"tanstack": {"toolResult": {}}}},
            {"id": "i", "role": "tool", "content": "x", "metadata": {"tanstack": {"toolResult": {"content": [
                {"type": "image", "source": {"type": "data", "value": "x"}}]}}}},
            {"id": "j", "role": "tool", "toolCallId": "c", "content": [{"type": "text", "content": "x"}], "name": "f"},
        ),
        result("c", "more"),
    ],
    "a failed result beside its call": [
        snapshot(
            {"id": "a", "role": "assistant", "toolCalls": [TOOL]},
            {"id": "t", "role": "tool", "toolCallId": "c", "content": '{"error":"no net"}', "error": "x"},
        ),
        snapshot({"id": "a", "role": "assistant", "toolCalls": [TOOL]}),
    ],
    "two results before any call": [
        snapshot(
            {"id": "t", "role": "tool", "toolCallId": "c", "content": "x"},
            {"id": "t2", "role": "tool", "toolCallId": "d", "content": "y"},
            {"id": "r", "role": "reasoning", "content": "hm"},
            {"id": "t3", "role": "tool", "toolCallId": "d", "content": "y"},
        ),
    ],
    "an id that is there twice": [
        snapshot({"id": "m", "role": "assistant", "parts": [PARTS[0]]}, {"id": "m", "role": "assistant", "parts": []}),
        content("m", "!"), *call("c", "{}"), finished(),
    ],
    "an id that is taken": [start("m"), finished(), snapshot({"id": "m", "role": "user", "parts": []}), thought("a"), start("m")],
    "blank answers": [STARTED, start("m"), content("m", " \n"), finished(), start("n"), content("n", "\u200b"), finished()],
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_logs_fold_as_in_the_client(folder: Folder, name: str) -> None:
    """Both folds are equal for logs with other writers' chunks and unusual snapshots."""
    compare(folder, ODD[name])
    compare(folder, [*run_of(1, ANSWERS["a tool"]), *ODD[name], *run_of(2, ["so"])])


LOOSE = [
    *(STARTED, {**STARTED, "runId": "r2"}, finished(), finished("tool_calls"), finished(None, "r2"), ERROR),
    {"type": "RUN_ERROR", "message": ""},
    *(start("m"), start("n"), {**start("u"), "role": "user"}, start("m", metadata={"tanstack": {"x": 1}})),
    *(content("m", "a"), content("n", "b"), content("u", " "), content("x", ""), content("b", " ")),
    *({"type": "TEXT_MESSAGE_END", "messageId": message_id} for message_id in "mn"),
    *(thought("hm"), thought("mm", "r2"), STEP, STEP_SIGNED, signed("sig"), signed("sig", "c", "tool-call")),
    *call("c", '{"a":', "1}"),
    *call("d", end=False, parentMessageId="n"),
    *(result("c"), result("d", "no", error=True), approval("c"), approval("d")),
    custom("structured-output.start", messageId="n"),
    custom("structured-output.start"),
    custom("structured-output.complete", object={"a": 1}, raw='{"a":1}'),
    custom("ui-resource", toolCallId="c", toolName="look", resource={"uri": "u", "mimeType": "m"}),
    snapshot({"id": "m", "role": "assistant", "parts": PARTS}, {"id": "u", "role": "user", "content": "x"}),
    custom("durable-chat.context-summary", upTo="m", text="t", tokensBefore=2, tokensAfter=1, model="x"),
    {"type": "SOMETHING_NEW"},
]


@given(log=st.lists(st.sampled_from(LOOSE), max_size=30))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_logs_fold_as_in_the_client(folder: Folder, log: list[Chunk]) -> None:
    """Both folds are equal for chunks in any order, doubled or left out."""
    compare(folder, log)


async def test_the_demo_folds_as_in_the_client(folder: Folder) -> None:
    """Both folds are equal for every word that the demo model reacts to."""
    log: list[Chunk] = []
    for number, text in enumerate(("hello", "think and use a tool", "approve", "fail", "python code")):
        message = user(f"user-{number}", text)
        turn = Turn(messages=(message,), session_id="s", run_id=f"run-{number}")
        run = RunChunks(turn.run_id, "s", lambda: "new", lambda: NOW_MS)
        log += chunks.to_message_echo_chunks(message) + run.start()
        try:
            async for chunk in DemoModel(12, 0)(turn):
                log += run.accept(chunk)
        except ProviderError as error:
            log += run.fail(error.message, error.code)
    messages = compare(folder, log)
    assert [message["role"] for message in messages].count("user") == 5


@given(turns=st.lists(st.sampled_from(sorted(ANSWERS)), min_size=1, max_size=3), cut=st.integers(0, 200))
@settings(max_examples=80, deadline=None)
def test_a_stored_transcript_goes_on_as_if_it_had_not_been(turns: list[str], cut: int) -> None:
    """
    A transcript stored after any chunk and restored folds the rest to the same messages, and stores to the same
    bytes.
    """
    log = [chunk for number, name in enumerate(turns) for chunk in run_of(number, ANSWERS[name])]
    whole, halved = Transcript(), Transcript()
    whole.fold_all(log)
    halved.fold_all(log[:cut])
    stored = halved.to_bytes()
    again = Transcript.from_bytes(stored)
    assert again.to_bytes() == stored
    assert again.messages() == halved.messages()
    again.fold_all(log[cut:])
    assert again.messages() == whole.messages()
    assert again.last_end == whole.last_end


def test_a_copy_is_its_own() -> None:
    transcript = Transcript()
    transcript.fold_all(run_of(1, ["a"])[:-2])
    copied = transcript.copy()
    transcript.fold(content("new-1-0", "b"))
    assert transcript.messages()[-1]["parts"] == [{"type": "text", "content": "ab"}]
    assert copied.messages()[-1]["parts"] == [{"type": "text", "content": "a"}]


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"version":0}', b"\xff"])
def test_what_is_no_stored_transcript_is_refused(data: bytes) -> None:
    """Data that is not a stored transcript is refused, and the caller folds the log again."""
    with pytest.raises(ValueError):
        Transcript.from_bytes(data)


def test_a_message_is_found_by_its_id() -> None:
    transcript = Transcript()
    transcript.fold_all(run_of(1, ["a"]))
    assert len(transcript) == 2
    assert "user-1" in transcript
    found = transcript.message("user-1")
    assert found is not None
    assert found["role"] == "user"
    assert transcript.message("nobody") is None


def test_runs_are_seen() -> None:
    """A transcript knows the open runs and how the last run ended."""
    transcript = Transcript()
    transcript.fold(STARTED)
    assert list(transcript.active_runs) == ["r"]
    transcript.fold(snapshot())
    assert list(transcript.active_runs) == ["r"]
    transcript.fold(ERROR)
    assert not transcript.active_runs
    assert transcript.last_end is not None
    assert (transcript.last_end.run_id, transcript.last_end.error, transcript.last_end.code) == (
        "r",
        "It broke.",
        "broken",
    )
    transcript.fold_all(run_of(2, ["a"], "stop"))
    assert (transcript.last_end.run_id, transcript.last_end.finish_reason) == ("run-2", "stop")


@pytest.mark.parametrize(
    "chunk",
    [
        {},
        {"type": 5},
        {"type": "MESSAGES_SNAPSHOT", "messages": 5},
        {"type": "MESSAGES_SNAPSHOT", "messages": [5, {"id": 5, "parts": 5}, {"role": ["x"], "content": 5}]},
        {"type": "TEXT_MESSAGE_START", "messageId": 5, "metadata": 5},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": {}, "delta": 5},
        {"type": "TOOL_CALL_START", "toolCallId": []},
        {"type": "TOOL_CALL_RESULT", "toolCallId": 5, "content": 5},
        {"type": "RUN_FINISHED", "outcome": {"type": "interrupt", "interrupts": [5, {"toolCallId": "c"}]}},
        {"type": "CUSTOM", "name": 5, "value": {"approval": 5}},
        {"type": "CUSTOM", "name": "approval-requested", "value": {"toolCallId": 5, "approval": {}}},
        {"type": "REASONING_ENCRYPTED_VALUE", "encryptedValue": 5},
        {"type": "STEP_STARTED", "stepName": 5},
    ],
)
def test_nothing_in_a_log_breaks_the_fold(chunk: Any) -> None:
    """Invalid chunks of another writer do not break the fold."""
    transcript = Transcript()
    transcript.fold_all(run_of(1, ["a"]))
    transcript.fold(chunk)
    transcript.fold_all(run_of(2, ["b"]))
    assert Transcript.from_bytes(transcript.to_bytes()).messages() == transcript.messages()
    assert transcript.messages()[-1]["parts"] == [{"type": "text", "content": "b"}]


def test_a_long_session_is_folded_chunk_by_chunk() -> None:
    """
    A message of 100,000 deltas folds in linear time. If each delta copied the text before it, this would take
    minutes.
    """
    count = 100_000
    transcript = Transcript()
    transcript.fold_all([start("m"), *itertools.repeat(content("m", "word "), count), *call("c", *["1"] * count)])
    text, tool = transcript.messages()[0]["parts"]
    assert (len(text["content"]), len(tool["arguments"])) == (5 * count, count)
