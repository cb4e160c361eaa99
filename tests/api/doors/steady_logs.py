"""
Logs for Hypothesis as current models write them: each step thinks, speaks and calls tools, in that order. The ids of
calls are new in each turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from tests.transcripts import wild_logs
from tests.transcripts.wild_logs import Log

Items = list[Any]

_texts = st.lists(wild_logs.texts, max_size=3)
_ends = st.sampled_from(["result", "result", "error", "approval", "client", "open"])
_inputs = st.sampled_from([[], ["{}"], ['{"a":', "1}"], ["not json"], ['"text"'], ["null"]])
_metadata = st.sampled_from([None, None, {"a": 1}, {"tanstack": {"model": "x"}}])


def _text(deltas: Sequence[str], message: str, metadata: Any) -> Items:
    start = {"type": "TEXT_MESSAGE_START", "messageId": message, "role": "assistant"}
    made: Items = [start | ({"metadata": metadata} if metadata else {})]
    made += [{"type": "TEXT_MESSAGE_CONTENT", "messageId": message, "delta": delta} for delta in deltas]
    return [*made, {"type": "TEXT_MESSAGE_END", "messageId": message}]


def _thought(deltas: Sequence[str], step: str, how: str) -> Items:
    made: Items = [{"type": "REASONING_START", "messageId": step}]
    made += [] if how == "plain" else [{"type": "STEP_STARTED", "stepName": step}]
    made += [{"type": "REASONING_MESSAGE_CONTENT", "messageId": step, "delta": delta} for delta in deltas]
    value = {"type": "REASONING_ENCRYPTED_VALUE", "subtype": "message", "entityId": step, "encryptedValue": "sig"}
    return [*made, *([value] if how == "signed" else [])]


def _call(call_id: str, arguments: Sequence[str], end: str) -> tuple[Items, Items]:
    begun: Items = [{"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": "look"}]
    begun += [{"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": delta} for delta in arguments]
    begun += [] if end == "open" else [{"type": "TOOL_CALL_END", "toolCallId": call_id}]
    asked = {"toolCallId": call_id, "toolName": "look", "input": {}}
    failed = {"metadata": {"tanstack": {"state": "output-error"}}} if end == "error" else {}
    result = {"type": "TOOL_CALL_RESULT", "messageId": f"t-{call_id}", "toolCallId": call_id}
    ended: dict[str, Items] = {
        "result": [result | {"content": '{"a":1}'}],
        "error": [result | {"content": '{"error":"no net"}'} | failed],
        "approval": [
            {"type": "CUSTOM", "name": "approval-requested", "value": asked | {"approval": {"id": f"a-{call_id}"}}}
        ],
        "client": [{"type": "CUSTOM", "name": "tool-input-available", "value": asked}],
        "open": [],
    }
    return begun, ended[end]


_structured = st.sampled_from(
    [
        [],
        [],
        [],
        [{"type": "CUSTOM", "name": "structured-output.start", "value": {}}, '{"a":', "1}"],
        [
            {"type": "CUSTOM", "name": "structured-output.start", "value": {}},
            '{"a":1}',
            {"type": "CUSTOM", "name": "structured-output.complete", "value": {"object": {"a": 1}}},
        ],
    ]
)
_others: st.SearchStrategy[Items] = st.sampled_from(
    [
        [],
        [],
        [{"type": "CUSTOM", "name": "mine", "value": {"a": None}}],
        [{"type": "STATE_DELTA", "delta": []}],
        [
            {
                "type": "CUSTOM",
                "name": "ui-resource",
                "value": {
                    "toolCallId": "none",
                    "toolName": "look",
                    "resource": {"uri": "ui://a", "mimeType": "text/html"},
                },
            }
        ],
    ]
)


@st.composite
def _steps(draw: st.DrawFn, turn: int) -> Items:
    made: Items = []
    for at in range(draw(st.integers(0, 3))):
        if draw(st.booleans()):
            # TanStack's clients append later thinking to the first, unless it has its own step.
            how = draw(st.sampled_from(["step", "signed"] if at else ["plain", "step", "signed"]))
            made += _thought(draw(_texts), f"s{turn}-{at}", how)
        if draw(st.booleans()):
            made += _text(draw(_texts), f"m{turn}-{at}", draw(_metadata))
        made += draw(_others)
        begun, ended = [], []
        for number in range(draw(st.integers(0, 2))):
            first, then = _call(f"c{turn}-{at}-{number}", draw(_inputs), draw(_ends))
            begun += first
            ended += then
        made += begun + ended
    return made + draw(_structured)


_endings = st.sampled_from(
    ["finish", "finish", "stop", "fail", {"type": "RUN_FINISHED", "finishReason": "length"}, {"type": "RUN_ERROR"}]
)
_turns = [st.tuples(wild_logs.openings, _steps(turn), _endings) for turn in range(3)]


def steady_logs() -> st.SearchStrategy[Log]:
    return st.one_of(*(st.tuples(*_turns[:count]) for count in (1, 2, 3))).map(wild_logs.written)
