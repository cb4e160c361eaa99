"""
Logs for Hypothesis: sessions as the writer writes them for any model output, and the same logs damaged.

Ids come from small sets so that they collide. Texts are those at which parsers and folds differ.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from durable_chat.transcripts import chunks
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import Chunk, InvalidChunk
from durable_chat.transcripts.transcript import Transcript

NOW_MS = 1_763_700_000_000
Log = list[Chunk]

message_ids = st.sampled_from(["m1", "m2", "m3"])
call_ids = st.sampled_from(["c1", "c2", "c3"])
names = st.sampled_from(["s1", "s2"])
texts = st.sampled_from(
    [
        "a",
        "Hello ",
        "",
        " ",
        "\n",
        "é🙂",
        '{"a":',
        "1}",
        '"x',
        '"}',
        "[1, 2",
        "]",
        "null",
        "I",
        "-I",
        "N",
        "\u200b",
        "1e22",
        '{"b":{"c":[tr',
    ]
)
values = st.sampled_from(
    [None, 1, 1.5, 1e22, -0.0, "x", "", True, [], [1, {"a": None}], {}, {"a": 1}, {"2": 1, "1": 2}, {"error": "no net"}]
)
results = st.sampled_from(
    ["1", "{}", '{"a":1}', '{"error":"no net"}', "not json", "", "[1]", '"x"', "null", '{"error":5}']
)
metadatas = st.sampled_from(
    [
        {},
        {"a": 1},
        {"tanstack": {"model": "x"}},
        {"tanstack": {"createdAt": "2026-01-02T03:04:05Z", "n": 1}},
        {"tanstack": 5},
    ]
)


def _chunk(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Chunk]:
    return st.fixed_dictionaries({"type": st.just(kind), **fields})


def _maybe(kind: str, optional: Mapping[str, st.SearchStrategy[Any]], **fields: st.SearchStrategy[Any]) -> Any:
    return st.fixed_dictionaries({"type": st.just(kind), **fields}, optional=dict(optional))


def _custom(name: str, optional: Mapping[str, st.SearchStrategy[Any]], **fields: st.SearchStrategy[Any]) -> Any:
    value = st.fixed_dictionaries(dict(fields), optional=dict(optional))
    return st.fixed_dictionaries({"type": st.just("CUSTOM"), "name": st.just(name), "value": value})


_result_metadata = st.sampled_from(
    [{}, {"tanstack": {"state": "output-error"}}, {"tanstack": {"state": "output-available"}}]
)
_step_metadata = st.sampled_from([{}, {"tanstack": {"signature": "sig", "stepId": "s1"}}, {"tanstack": {"delta": "d"}}])
_reason = st.sampled_from(["stop", "length", "tool_calls", None])
_resource = st.just({"uri": "ui://a", "mimeType": "text/html"})
_interrupt = st.builds(
    lambda call_id, kind: {
        "id": f"i-{call_id}",
        "reason": "tool_call",
        "toolCallId": call_id,
        "metadata": {"kind": kind, "toolName": "look", "input": {}},
    },
    call_ids,
    st.sampled_from(["approval", "client_tool", "generic"]),
)

_texts = [
    _maybe("TEXT_MESSAGE_START", {"metadata": metadatas}, messageId=message_ids, role=st.just("assistant")),
    _maybe("TEXT_MESSAGE_CONTENT", {"metadata": metadatas}, messageId=message_ids, delta=texts),
    _chunk("TEXT_MESSAGE_CONTENT", messageId=message_ids, delta=texts),
    _maybe("TEXT_MESSAGE_END", {"metadata": metadatas}, messageId=message_ids),
]
_thoughts = [
    *(
        _chunk(kind, messageId=names)
        for kind in ("REASONING_START", "REASONING_MESSAGE_START", "REASONING_MESSAGE_END")
    ),
    _chunk("REASONING_MESSAGE_CONTENT", messageId=names, delta=texts),
    _chunk("STEP_STARTED", stepName=names),
    _maybe("STEP_FINISHED", {"metadata": _step_metadata}, stepName=names),
    _chunk("REASONING_ENCRYPTED_VALUE", subtype=st.just("message"), entityId=names, encryptedValue=st.just("sig")),
    _chunk("REASONING_ENCRYPTED_VALUE", subtype=st.just("tool-call"), entityId=call_ids, encryptedValue=st.just("sig")),
]
_calls = [
    _maybe(
        "TOOL_CALL_START",
        {"parentMessageId": message_ids, "metadata": metadatas},
        toolCallId=call_ids,
        toolCallName=st.sampled_from(["look", "find"]),
    ),
    _chunk("TOOL_CALL_ARGS", toolCallId=call_ids, delta=texts),
    _maybe(
        "TOOL_CALL_END", {"input": values, "metadata": st.just({"tanstack": {"input": {"z": 1}}})}, toolCallId=call_ids
    ),
    _maybe(
        "TOOL_CALL_RESULT", {"metadata": _result_metadata}, messageId=st.just("t"), toolCallId=call_ids, content=results
    ),
]
_summary = {"upTo": message_ids, "text": texts, "tokensBefore": st.just(9), "tokensAfter": st.just(1), "model": names}
_customs = [
    _custom("structured-output.start", {"messageId": message_ids}),
    _custom(
        "structured-output.complete", {"messageId": message_ids, "object": values, "raw": texts, "reasoning": texts}
    ),
    _custom(
        "approval-requested",
        {},
        toolCallId=call_ids,
        toolName=st.just("look"),
        input=values,
        approval=st.just({"id": "a1", "needsApproval": True}),
    ),
    _custom("tool-input-available", {}, toolCallId=call_ids, toolName=st.just("look"), input=values),
    _custom("ui-resource", {"serverId": names}, toolCallId=call_ids, toolName=st.just("look"), resource=_resource),
    _custom("mine", {}, a=values),
    _custom("durable-chat.context-summary", {"failure": texts}, **_summary),
]
_usage = st.sampled_from([{"promptTokens": 1}, [{"purpose": "context-summary", "inputTokens": 2}, {"inputTokens": 1}]])
_ends = [
    _maybe("RUN_FINISHED", {"finishReason": _reason, "usage": _usage}),
    _chunk("RUN_FINISHED", finishReason=st.just("tool_calls")),
    _chunk(
        "RUN_FINISHED",
        finishReason=st.just("tool_calls"),
        outcome=st.fixed_dictionaries({"type": st.just("interrupt"), "interrupts": st.lists(_interrupt, max_size=2)}),
    ),
    _chunk("RUN_ERROR", message=st.just("terminated"), code=st.just("undefined")),
]
_others = [
    _maybe("TEXT_MESSAGE_CHUNK", {"messageId": message_ids, "delta": texts}),
    _maybe("TOOL_CALL_CHUNK", {"toolCallId": call_ids, "delta": texts}, toolCallName=st.just("look")),
    _chunk("STATE_DELTA", delta=st.just([])),
    _chunk("SOMETHING_NEW", messageId=message_ids),
    texts,
]
# Chunks with content are frequent, and chunks that end an answer are rare.
items: st.SearchStrategy[Any] = st.one_of(
    *_texts, *_texts, *_thoughts, *_calls, *_calls, *_customs, *_others, *_ends[:2]
)
endings = st.sampled_from(["finish", "finish", "stop", "fail", *_ends[2:]]).flatmap(
    lambda end: st.just(end) if isinstance(end, str) else end
)
openings = st.sampled_from(["echo", "snapshot", "again", "none"])
turns = st.lists(st.tuples(openings, st.lists(items, max_size=12), endings), min_size=1, max_size=3)


def user(number: int) -> dict[str, Any]:
    parts = [{"type": "text", "content": f"question {number}"}]
    return {"id": f"user-{number}", "role": "user", "parts": parts, "createdAt": "2026-11-21T08:00:00.000Z"}


def written(session: Sequence[tuple[str, Sequence[Any], Any]]) -> Log:
    """Return the log of a session: the models' output through the writer, without what it refuses."""
    log, transcript = Log(), Transcript()
    for number, (opening, yielded, end) in enumerate(session):
        ids = (f"new-{number}-{at}" for at in itertools.count())
        begun = _opening(opening, number, transcript)
        transcript.fold_all(begun)
        run = RunChunks(f"run-{number}", "s", ids.__next__, lambda: NOW_MS, known_ids=transcript)
        run.resume((), speaks=True)
        made = [*begun, *run.start()]
        for item in [*yielded, end] if isinstance(end, dict) else yielded:
            try:
                made += run.accept(item)
            except InvalidChunk:
                continue
        made += run.stop() if end == "stop" else run.fail("It broke.", "broken") if end == "fail" else run.finish()
        transcript.fold_all(made[len(begun) :])
        log += made
    return _stored(log)


def _opening(opening: str, number: int, transcript: Transcript) -> Log:
    """
    Return a new message, shown by chunks or by a snapshot; the last message again; or nothing, as in a run that
    continues.
    """
    messages = transcript.messages()
    if opening == "echo":
        return chunks.to_message_echo_chunks(user(number), timestamp=NOW_MS)
    if opening == "snapshot" or not messages:
        return [chunks.messages_snapshot([*messages, user(number)], timestamp=NOW_MS)]
    if opening == "again":
        users = [at for at, message in enumerate(messages) if message["role"] == "user"]
        return [chunks.messages_snapshot(messages[: users[-1] + 1], timestamp=NOW_MS)]
    return []


# Functions, so that a failure shows only the drawn values.


@st.composite
def written_logs(draw: st.DrawFn, *, own_calls: bool = False) -> Log:
    """
    Return logs of the writer. With `own_calls`, no turn uses another turn's calls, which versions before 0.54 do not
    find after a snapshot, and each turn answers a message.
    """
    session = draw(turns)
    if own_calls:
        session = [(_begun(how), _renamed(said, at), _renamed(end, at)) for at, (how, said, end) in enumerate(session)]
    return written(session)


def _begun(opening: str) -> str:
    return "echo" if opening == "none" else opening


def _renamed(value: Any, turn: int) -> Any:
    return json.loads(re.sub(r'"(c[123])"', rf'"\1-{turn}"', json.dumps(value)))


_loose = st.one_of(
    *(*_texts, *_thoughts, *_calls, *_customs, *_ends),
    _maybe(
        "TEXT_MESSAGE_START", {}, messageId=message_ids, role=st.sampled_from(["user", "system", "developer", "odd"])
    ),
    _chunk("RUN_STARTED", runId=st.sampled_from(["r1", "r2"])),
    _maybe("RUN_FINISHED", {"metadata": st.builds(lambda r: {"tanstack": {"finishReason": r}}, _reason)}, runId=names),
    _maybe("RUN_ERROR", {"runId": st.sampled_from(["r1", "r2", "run-0"])}, message=texts),
)

# AG-UI's messages, in any order, and messages with parts.
_function = st.fixed_dictionaries({"name": st.just("look"), "arguments": texts})
_tool_call = st.fixed_dictionaries({"id": call_ids, "type": st.just("function"), "function": _function})
_row = st.one_of(
    st.fixed_dictionaries({"id": message_ids, "role": st.just("user"), "content": texts}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": texts}),
    st.fixed_dictionaries(
        {"id": message_ids, "role": st.just("assistant"), "toolCalls": st.lists(_tool_call, max_size=2)},
        optional={"content": texts, "metadata": metadatas},
    ),
    st.fixed_dictionaries(
        {"id": names, "role": st.just("reasoning"), "content": texts}, optional={"encryptedValue": st.just("sig")}
    ),
    st.fixed_dictionaries(
        {"id": st.just("t"), "role": st.just("tool"), "toolCallId": call_ids, "content": results},
        optional={"error": st.just("no net"), "metadata": _result_metadata},
    ),
    st.fixed_dictionaries({"id": message_ids, "role": st.sampled_from(["system", "developer"]), "content": texts}),
    st.fixed_dictionaries(
        {
            "id": message_ids,
            "role": st.sampled_from(["user", "assistant"]),
            "parts": st.lists(
                st.one_of(
                    st.fixed_dictionaries({"type": st.just("text"), "content": texts}),
                    st.fixed_dictionaries({"type": st.just("thinking"), "content": texts}, optional={"stepId": names}),
                    st.fixed_dictionaries(
                        {
                            "type": st.just("tool-call"),
                            "id": call_ids,
                            "name": st.just("look"),
                            "arguments": texts,
                            "state": st.sampled_from(
                                ["input-streaming", "input-complete", "complete", "approval-requested"]
                            ),
                        }
                    ),
                    st.fixed_dictionaries(
                        {
                            "type": st.just("tool-result"),
                            "toolCallId": call_ids,
                            "content": results,
                            "state": st.sampled_from(["complete", "error"]),
                        }
                    ),
                ),
                max_size=3,
            ),
        },
        optional={"metadata": metadatas},
    ),
)
snapshots = st.fixed_dictionaries({"type": st.just("MESSAGES_SNAPSHOT"), "messages": st.lists(_row, max_size=4)})

places = st.integers(0, 60)
damages = st.one_of(
    st.tuples(st.just("cut"), places, st.integers(1, 8)),
    st.tuples(st.just("swap"), places, st.integers(1, 4)),
    st.tuples(st.just("repeat"), places, st.integers(1, 8)),
    st.tuples(st.just("unknown"), places, st.just("SOMETHING_NEW")),
    st.tuples(st.just("lack"), places, st.sampled_from(["delta", "runId", "metadata", "name"])),
    st.tuples(st.just("add"), places, _loose),
    st.tuples(st.just("add"), places, snapshots),
    st.tuples(st.just("add"), places, st.just("a snapshot of what is there")),
)


def damaged(log: Log, done: Sequence[tuple[str, int, Any]]) -> Log:
    """
    Return the log with parts cut, reordered, repeated, made unknown or incomplete, and with inserted chunks and
    snapshots.
    """
    log = list(log)
    for how, place, what in done:
        at = place % (len(log) + 1)
        if how == "cut":
            del log[at : at + what]
        elif how == "swap":
            log[at : at + what + 1] = reversed(log[at : at + what + 1])
        elif how == "repeat":
            log[at:at] = log[at : at + what]
        elif how == "unknown":
            log[at : at + 1] = [{**chunk, "type": what} for chunk in log[at : at + 1]]
        elif how == "lack":
            log[at : at + 1] = [{key: chunk[key] for key in chunk if key != what} for chunk in log[at : at + 1]]
        else:
            log.insert(at, what if isinstance(what, dict) else _snapshot_of(log[:at]))
    return _stored(log)


def _stored(log: Log) -> Log:
    """Return the value as read from a store, where an infinity cannot exist."""
    stored: Log = chunks.decode_json(chunks.encode_json(log))
    return stored


def _snapshot_of(log: Log) -> Chunk:
    transcript = Transcript()
    transcript.fold_all(log)
    return chunks.messages_snapshot(transcript.messages(), timestamp=NOW_MS)


@st.composite
def damaged_logs(draw: st.DrawFn) -> Log:
    return damaged(draw(written_logs()), draw(st.lists(damages, min_size=1, max_size=5)))


@st.composite
def loose_logs(draw: st.DrawFn) -> Log:
    return draw(st.lists(st.one_of(_loose, _loose, _loose, snapshots), max_size=25))


def speaks_amid_arguments(log: Log) -> bool:
    """Return whether text comes before the end of a tool call."""
    open_calls = set[str]()
    for chunk in log:
        if chunk["type"] == "TOOL_CALL_START":
            open_calls.add(chunk["toolCallId"])
        elif chunk["type"] == "TOOL_CALL_END":
            open_calls.discard(chunk["toolCallId"])
        elif chunk["type"] in ("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT") and open_calls:
            return True
    return False
