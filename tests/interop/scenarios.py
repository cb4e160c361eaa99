"""
Model outputs, chunk by chunk, of the second of three turns: the rows of the matrix.

Unusual outputs are included: reasoning before its message, finishes in the middle, errors without a run, repeated
ids. At each gate the model waits, and new tabs open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Item = Any
RUN = {"threadId": "provider", "runId": "provider-run"}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
USAGE = [{"provider": "test", "model": "scripted", "inputTokens": 3, "outputTokens": 5, "totalTokens": 8}]


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    The action of the second turn (`act`), the model's answers to it, and what all readers show of the turn at the
    end: the parts of each assistant message in short form. `failures` of its runs end in an error. An empty answer is
    a message without parts, because without a message no client reports the end of the turn.
    """

    answers: Sequence[Sequence[Item]]
    shows: Sequence[Sequence[str]]
    act: str = "send"
    failures: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)


def gate(name: str) -> Item:
    return {"gate": name}


def started() -> list[Item]:
    return [{"type": "RUN_STARTED", **RUN, "metadata": {"tanstack": {"model": "scripted"}}}, gate("started")]


def finished(reason: str = "stop", **fields: Any) -> Item:
    return {"type": "RUN_FINISHED", **RUN, "metadata": {"tanstack": {"finishReason": reason}}, **fields}


def start(message_id: str = "m1", **fields: Any) -> Item:
    return {"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": "assistant", **fields}


def content(delta: str, message_id: str = "m1", **fields: Any) -> Item:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": delta, **fields}


def end(message_id: str = "m1") -> Item:
    return {"type": "TEXT_MESSAGE_END", "messageId": message_id}


def text(*deltas: str, message_id: str = "m1") -> list[Item]:
    return [start(message_id), *(content(delta, message_id) for delta in deltas), end(message_id)]


def call(call_id: str, *arguments: str, parent: str | None = None, held: str | None = None) -> list[Item]:
    """Return a tool call. With `held`, there is a gate after the first piece of its arguments."""
    begun = {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": "look"}
    pieces: list[Item] = [{"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": delta} for delta in arguments]
    if held is not None:
        pieces.insert(1, gate(held))
    over = {"type": "TOOL_CALL_END", "toolCallId": call_id}
    return [begun | ({"parentMessageId": parent} if parent else {}), *pieces, over]


def result(call_id: str, said: str, *, failed: bool = False) -> Item:
    made = {"type": "TOOL_CALL_RESULT", "messageId": f"r-{call_id}", "toolCallId": call_id, "role": "tool"}
    return {**made, "content": said} | ({"metadata": {"tanstack": {"state": "output-error"}}} if failed else {})


def custom(name: str, **value: Any) -> Item:
    return {"type": "CUSTOM", "name": name, "value": value}


def approval(call_id: str) -> Item:
    asked = {"id": f"approval_{call_id}", "needsApproval": True}
    return custom("approval-requested", toolCallId=call_id, toolName="look", input={"a": 1}, approval=asked)


def interrupt(call_id: str, kind: str = "approval") -> list[Item]:
    """
    Return the end of a run that waits for a person or a browser, as TanStack's own server writes it: a snapshot and
    an outcome.
    """
    function = {"name": "look", "arguments": '{"a":1}'}
    asking = {
        "id": "snapshot_1",
        "role": "assistant",
        "content": "",
        "toolCalls": [{"id": call_id, "type": "function", "function": function}],
    }
    binding = {
        "v": 1,
        "kind": kind,
        "interruptId": f"{kind}_{call_id}",
        "toolName": "look",
        "toolCallId": call_id,
        "generation": 0,
    }
    asked = {
        "id": f"{kind}_{call_id}",
        "reason": "tool_call" if kind == "approval" else "tanstack:client_tool_execution",
        "message": "May it look?",
        "toolCallId": call_id,
        "responseSchema": {"type": "object"},
        "metadata": {"kind": kind, "toolName": "look", "input": {"a": 1}, "tanstack:interruptBinding": binding},
    }
    return [
        {"type": "MESSAGES_SNAPSHOT", "messages": [asking]},
        finished("tool_calls", outcome={"type": "interrupt", "interrupts": [asked]}),
    ]


def thinking(*, held: bool = True) -> list[Item]:
    """Return thinking as a provider writes it: before the message, with a step and a signature."""
    said = {"type": "REASONING_MESSAGE_CONTENT", "messageId": "think-1"}
    return [
        {"type": "REASONING_START", "messageId": "think-1"},
        {"type": "REASONING_MESSAGE_START", "messageId": "think-1", "role": "reasoning"},
        {"type": "STEP_STARTED", "stepName": "think-1", "metadata": {"tanstack": {"stepType": "thinking"}}},
        {**said, "delta": "Hm, "},
        *([gate("thinking")] if held else []),
        {**said, "delta": "yes."},
        {"type": "STEP_FINISHED", "stepName": "think-1", "metadata": {"tanstack": {"delta": "yes."}}},
        {"type": "STEP_FINISHED", "stepName": "think-1", "metadata": {"tanstack": {"signature": "signed"}}},
        {
            "type": "REASONING_ENCRYPTED_VALUE",
            "subtype": "message",
            "entityId": "think-1",
            "encryptedValue": "signed",
        },
        {"type": "REASONING_MESSAGE_END", "messageId": "think-1"},
        {"type": "REASONING_END", "messageId": "think-1"},
    ]


THOUGHT = "thinking Hm, yes."
DENIED = '{"error":"The person did not approve this call."}'
LOOKED = ["tool-call {} complete", "tool-result 1 complete"]
ARGUED = ['tool-call {"a":1} complete', "tool-result 1 complete"]
AGAIN = text("Again.", message_id="m2")

SCENARIOS: dict[str, Scenario] = {
    "text": Scenario(
        [[*started(), start(), content("Hel"), gate("text"), content("lo."), end(), finished(usage=USAGE)]],
        [["text Hello."]],
    ),
    "thinking": Scenario(
        [[*started(), *thinking(), start(), content("So "), gate("text"), content("it is."), end(), finished()]],
        [[THOUGHT, "text So it is."]],
    ),
    "several tools": Scenario(
        [
            [
                *(*started(), *text("Let me see.")),
                *call("c1", '{"a"', ":1}", parent="m1", held="arguments"),
                *(*call("c2", "{}", parent="m1"), finished("tool_calls", usage=USAGE)),
                *(result("c1", "1"), gate("results"), result("c2", "1")),
                *({"type": "RUN_STARTED", **RUN}, *thinking(held=False), start("m2"), content("Both ", "m2")),
                *(gate("text"), content("are one.", "m2"), end("m2"), finished(usage=USAGE)),
            ]
        ],
        [["text Let me see.", ARGUED[0], LOOKED[0], ARGUED[1], LOOKED[1]], [THOUGHT, "text Both are one."]],
    ),
    "tool before text": Scenario(
        [
            [
                *(*started(), *call("c1", '{"a"', ":1}", held="arguments"), finished("tool_calls")),
                *(result("c1", "1"), gate("results"), *text("One.", message_id="m2"), finished()),
            ]
        ],
        [ARGUED, ["text One."]],
    ),
    "tool only": Scenario(
        [[*started(), *call("c1", '{"a"', ":1}", held="arguments"), result("c1", "1"), gate("result"), finished()]],
        [ARGUED],
    ),
    "tool error": Scenario(
        [
            [
                *(*started(), *text("Let me see."), *call("c1", '{"a"', ":1}", parent="m1", held="arguments")),
                *(finished("tool_calls"), result("c1", '{"error":"no net"}', failed=True), gate("result")),
                *(*text("Sorry.", message_id="m2"), finished()),
            ]
        ],
        [
            ["text Let me see.", 'tool-call {"a":1} error', 'tool-result {"error":"no net"} error'],
            ["text Sorry."],
        ],
    ),
    "structured output": Scenario(
        [
            [
                *(*started(), custom("structured-output.start", messageId="m1"), start(), content('{"name": "A')),
                *(gate("structured"), content('nn", "age": 5}'), end()),
                custom(
                    "structured-output.complete",
                    object={"name": "Ann", "age": 5},
                    raw='{"name": "Ann", "age": 5}',
                    messageId="m1",
                ),
                finished(),
            ]
        ],
        [['structured-output {"name": "Ann", "age": 5} complete']],
    ),
    "error before a token": Scenario(
        [[gate("started"), {"type": "RUN_ERROR", "message": "Overloaded", "code": "529", "rawEvent": {"status": 529}}]],
        [[]],
        failures=1,
    ),
    "exception before a token": Scenario([[gate("started"), {"raise": "no model"}]], [[]], failures=1),
    "error after text": Scenario(
        [
            [
                *(*started(), start(), content("Hel"), gate("text"), content("lo"), end()),
                {"type": "RUN_ERROR", "message": "terminated", "code": "undefined"},
            ]
        ],
        [["text Hello"]],
        failures=1,
    ),
    "error in arguments": Scenario(
        [
            [
                *(*started(), *thinking(), *call("c1", '{"a"', ":1}", held="arguments")[:-1]),
                {"type": "RUN_ERROR", **RUN, "message": "terminated", "code": "500"},
            ]
        ],
        [
            [
                THOUGHT,
                'tool-call {"a":1} error',
                'tool-result {"error":"The run ended before the tool was done."} error',
            ]
        ],
        failures=1,
    ),
    "stop in text": Scenario([[*started(), start(), content("Hel"), gate("text")]], [["text Hel"]], act="stop"),
    "stop in arguments": Scenario(
        [[*started(), *text("See."), *call("c1", '{"a"', ":1}", held="arguments")]],
        [["text See.", 'tool-call {"a" error', 'tool-result {"error":"Stopped before the tool was done."} error']],
        act="stop",
    ),
    "stop before a token": Scenario([[gate("started")]], [[]], act="stop"),
    "multimodal message": Scenario(
        [[*started(), *text("A dot."), finished()]],
        [["text A dot."]],
        act="image",
        more={
            "content": [
                {"type": "text", "content": "What is it?"},
                {"type": "image", "source": {"type": "data", "value": PIXEL, "mimeType": "image/png"}},
            ]
        },
    ),
    "regenerate": Scenario(
        [
            [*started(), *text("First."), *call("c1", "{}", parent="m1"), result("c1", "1"), finished()],
            [{"type": "RUN_STARTED", **RUN}, *text("Sec", message_id="m1")[:-1], gate("again"), "ond.", finished()],
        ],
        [["text Second."]],
        act="regenerate",
    ),
    "edit": Scenario(
        [
            [*started(), *text("First."), finished()],
            [{"type": "RUN_STARTED", **RUN}, *text("Sec", message_id="m1")[:-1], gate("again"), "ond.", finished()],
        ],
        [["text Second."]],
        act="edit",
    ),
    "edit of an older message": Scenario(
        [
            [*started(), *text("First."), finished()],
            [{"type": "RUN_STARTED", **RUN}, *text("Sec", message_id="m1")[:-1], gate("again"), "ond.", finished()],
        ],
        [["text Second."]],
        act="edit first",
    ),
    "queued turn": Scenario(
        [
            [
                *(*started(), *thinking(), *call("c1", '{"a"', ":1}", held="arguments"), finished("tool_calls")),
                *(result("c1", "1"), *text("One.", message_id="m2"), finished()),
            ],
            [{"type": "RUN_STARTED", **RUN}, gate("second"), *text("You too.", message_id="m1"), finished()],
        ],
        [[THOUGHT, *ARGUED], ["text One."], ["text You too."]],
        act="queue",
    ),
    "steered turn": Scenario(
        [
            [
                *(*started(), *thinking(), *call("c1", '{"a"', ":1}", held="arguments"), finished("tool_calls")),
                *(result("c1", "1"), {"hear": True}, gate("heard"), *text("You too.", message_id="m1"), finished()),
            ]
        ],
        [[THOUGHT, *ARGUED], ["text You too."]],
        act="steer",
        more={"turns": "steer"},
    ),
    "steered in a text": Scenario(
        [[*started(), *thinking(), content("Hel"), {"hear": True}, gate("heard"), content("You too."), finished()]],
        [[THOUGHT, "text Hel"], ["text You too."]],
        act="steer",
        more={"turns": "steer"},
    ),
    "approval from another tab": Scenario(
        [
            [
                *(*started(), *text("May I?"), *call("c1", '{"a":1}', parent="m1"), approval("c1")),
                *(gate("asked"), finished("tool_calls")),
            ],
            [result("c1", "1"), gate("approved"), *text("Done.", message_id="m2"), finished()],
        ],
        [["text May I?", *ARGUED], ["text Done."]],
        act="approve",
    ),
    "client tool in two tabs": Scenario(
        [
            [
                *(*started(), *call("c1", '{"a"', ":1}", held="arguments")),
                custom("tool-input-available", toolCallId="c1", toolName="look", input={"a": 1}),
                finished("tool_calls"),
            ],
            [{"type": "RUN_STARTED", **RUN}, gate("continued"), *text("One.", message_id="m2"), finished()],
        ],
        [ARGUED, ["text One."]],
        act="tool",
        more={"tool": "look"},
    ),
    "denied approval": Scenario(
        [
            [*started(), *call("c1", '{"a":1}'), approval("c1"), gate("asked"), finished("stop")],
            [{"type": "RUN_STARTED", **RUN}, gate("denied"), *text("Well.", message_id="m2"), finished()],
        ],
        [['tool-call {"a":1} error', f"tool-result {DENIED} error"], ["text Well."]],
        act="approve",
        more={"approved": False},
    ),
    "approval as an interrupt": Scenario(
        [
            [*started(), *text("May I?"), *call("c1", '{"a":1}', parent="m1"), gate("asked"), *interrupt("c1")],
            [result("c1", "1"), gate("approved"), *text("Done.", message_id="m2"), finished()],
        ],
        [["text May I?", *ARGUED], ["text Done."]],
        act="approve",
    ),
    "client tool as an interrupt": Scenario(
        [
            [*started(), *call("c1", '{"a"', ":1}", held="arguments"), *interrupt("c1", "client_tool")],
            [{"type": "RUN_STARTED", **RUN}, gate("continued"), *text("One.", message_id="m2"), finished()],
        ],
        [ARGUED, ["text One."]],
        act="tool",
        more={"tool": "look"},
    ),
    "parallel tools": Scenario(
        [
            [
                *(*started(), *call("c1", '{"a"')[:-1], *call("c2", "{}")[:-1], gate("arguments")),
                {"type": "TOOL_CALL_ARGS", "toolCallId": "c1", "delta": ":1}"},
                *(call("c1")[-1], call("c2")[-1], result("c2", "1"), content("Meanwhile. "), gate("between")),
                *(result("c1", "1"), *text("One.", message_id="m2"), finished()),
            ]
        ],
        [[ARGUED[0], LOOKED[0], LOOKED[1], "text Meanwhile. ", ARGUED[1]], ["text One."]],
    ),
    "thinking between texts": Scenario(
        [[*started(), *text("One."), *thinking(), *text("Two."), gate("text"), content(" Three."), finished()]],
        [["text One.", THOUGHT], ["text Two. Three."]],
    ),
    "signature alone": Scenario(
        [
            [
                *(*started(), {"type": "REASONING_MESSAGE_CONTENT", "messageId": "r1", "delta": "Hm, yes."}),
                {
                    "type": "REASONING_ENCRYPTED_VALUE",
                    "subtype": "message",
                    "entityId": "r1",
                    "encryptedValue": "signed",
                },
                *(gate("signed"), *text("So."), finished()),
            ]
        ],
        [[THOUGHT, "text So."]],
    ),
    "thinking that is hidden": Scenario(
        [
            [
                *started(),
                {
                    "type": "REASONING_ENCRYPTED_VALUE",
                    "subtype": "message",
                    "entityId": "r1",
                    "encryptedValue": "signed",
                },
                *(gate("signed"), *text("So."), finished()),
            ]
        ],
        [["thinking ", "text So."]],
    ),
    "short forms": Scenario(
        [
            [
                *(*started(), {"type": "TEXT_MESSAGE_CHUNK", "messageId": "m1", "delta": "Hel"}),
                *(gate("text"), {"type": "TEXT_MESSAGE_CHUNK", "delta": "lo."}),
                {"type": "TOOL_CALL_CHUNK", "toolCallId": "c1", "toolCallName": "look", "delta": '{"a"'},
                # Not between the two: a gate is a CUSTOM chunk, which ends a call in the short form.
                *({"type": "TOOL_CALL_CHUNK", "delta": ":1}"}, gate("arguments"), result("c1", "1"), "Done."),
            ]
        ],
        [["text Hello.", *ARGUED], ["text Done."]],
    ),
    "resource of a tool": Scenario(
        [
            [
                *(*started(), *call("c1", '{"a":1}')),
                custom(
                    "ui-resource", toolCallId="c1", toolName="look", resource={"uri": "ui://a", "mimeType": "text/html"}
                ),
                *(gate("resource"), result("c1", "1"), *text("One.", message_id="m2"), finished()),
            ]
        ],
        [[ARGUED[0], "ui-resource None", ARGUED[1]], ["text One."]],
    ),
    "error while a turn waits": Scenario(
        [
            [*started(), *thinking(), {"raise": "no model"}],
            [{"type": "RUN_STARTED", **RUN}, gate("second"), *text("You too.", message_id="m1"), finished()],
        ],
        [[THOUGHT], ["text You too."]],
        act="queue",
        failures=1,
    ),
    "stop while a turn waits": Scenario(
        [
            [*started(), *thinking(), gate("never")],
            [{"type": "RUN_STARTED", **RUN}, gate("second"), *text("You too.", message_id="m1"), finished()],
        ],
        [[THOUGHT], ["text You too."]],
        act="queue",
    ),
    "steps": Scenario(
        [
            [
                *(*started(), {"type": "STEP_STARTED", "stepName": "plan"}, *thinking(held=False)),
                {"type": "STEP_FINISHED", "stepName": "plan"},
                {"type": "STEP_STARTED", "stepName": "write"},
                *(start(), content("Step "), gate("text"), content("one."), end()),
                *({"type": "STEP_FINISHED", "stepName": "write"}, finished()),
            ]
        ],
        [[THOUGHT, "text Step one."]],
    ),
    "usage and metadata": Scenario(
        [
            [
                *(*started(), start(metadata={"kind": "note", "tanstack": {"model": "scripted"}})),
                content("Noted.", metadata={"tanstack": {"index": 1}}),
                *(gate("text"), custom("test.progress", done=1), {"type": "STATE_DELTA", "delta": []}, end()),
                finished("length", usage={"promptTokens": 3, "completionTokens": 5, "totalTokens": 8}),
            ]
        ],
        [["text Noted."]],
    ),
    "empty answer": Scenario([[*started(), finished()]], [[]]),
    "blank answer": Scenario(
        [[*started(), start(), content("\n"), gate("text"), content(" "), end(), finished()]], [[]]
    ),
}
