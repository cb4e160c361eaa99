"""For any output of a model, the written chunks keep the rules of the session writer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest

from durable_chat.transcripts import chunks
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import Chunk, InvalidChunk

NOW_MS = 1_763_700_000_000


def new_run(**options: Any) -> RunChunks:
    numbers = itertools.count(1)
    return RunChunks("run-1", "session-1", lambda: f"new-{next(numbers)}", lambda: NOW_MS, **options)


def written(items: Iterable[object], run: RunChunks | None = None) -> list[Chunk]:
    """The chunks of a model that yields these items and ends."""
    run = run or new_run()
    made = run.start()
    for item in items:
        made += run.accept(item)
    return made + run.finish()


def kinds(made: list[Chunk]) -> list[str]:
    return [chunk["type"] for chunk in made]


def said(made: list[Chunk]) -> list[tuple[str, str]]:
    """The texts by message."""
    return [(chunk["messageId"], chunk["delta"]) for chunk in made if chunk["type"] == "TEXT_MESSAGE_CONTENT"]


def start(message_id: str) -> Chunk:
    return {"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": "assistant"}


def content(message_id: str, delta: str) -> Chunk:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": delta}


def thought(delta: str) -> Chunk:
    return {"type": "REASONING_MESSAGE_CONTENT", "messageId": "r1", "delta": delta}


def call(call_id: str, **fields: str) -> list[Chunk]:
    return [
        {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": "look", **fields},
        {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": "{}"},
        {"type": "TOOL_CALL_END", "toolCallId": call_id},
    ]


def result(call_id: str) -> Chunk:
    return {"type": "TOOL_CALL_RESULT", "messageId": f"t-{call_id}", "toolCallId": call_id, "content": "1"}


def finished(reason: str, **fields: Any) -> Chunk:
    return {"type": "RUN_FINISHED", "runId": "theirs", "threadId": "x", "finishReason": reason, **fields}


def test_text_alone_is_a_whole_run() -> None:
    """Text alone becomes one message with a start and an end, in one run."""
    made = written(["Hel", "", "lo"])
    assert kinds(made) == [
        "RUN_STARTED",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]
    assert said(made) == [("new-1", "Hel"), ("new-1", "lo")]
    assert made[1]["role"] == "assistant"
    assert made[1]["metadata"]["tanstack"]["createdAt"] == chunks.iso_time(NOW_MS)


def test_a_silent_model_still_makes_a_run() -> None:
    assert kinds(written([])) == ["RUN_STARTED", "RUN_FINISHED"]


def test_the_run_is_ours() -> None:
    """Run and thread ids are those of the session, whatever the model yields."""
    made = written([{"type": "RUN_STARTED", "runId": "theirs", "threadId": "theirs"}, "a", finished("stop")])
    runs = [chunk for chunk in made if chunk["type"].startswith("RUN_")]
    assert [(chunk["type"], chunk["runId"], chunk["threadId"]) for chunk in runs] == [
        ("RUN_STARTED", "run-1", "session-1"),
        ("RUN_FINISHED", "run-1", "session-1"),
    ]


def test_nothing_comes_after_the_terminal() -> None:
    run = new_run()
    made = written(["a", finished("stop"), "b", *call("c1")], run)
    assert kinds(made)[-1] == "RUN_FINISHED"
    assert kinds(made).count("RUN_FINISHED") == 1
    assert said(made) == [("new-1", "a")]
    assert run.accept("c") == run.finish() == run.stop() == run.fail("x", "y") == []
    assert run.ended
    assert run.outcome == "finished"


@pytest.mark.parametrize(
    "first",
    [
        thought("hm"),
        {"type": "REASONING_START", "messageId": "r1"},
        call("c1")[0],
        {"type": "REASONING_ENCRYPTED_VALUE", "subtype": "message", "entityId": "r1", "encryptedValue": "s"},
        {"type": "CUSTOM", "name": "structured-output.start", "value": {}},
        {"type": "RUN_ERROR", "message": "No more."},
    ],
)
def test_a_message_starts_before_what_belongs_to_it(first: Chunk) -> None:
    """
    A message starts before its content. Without the start, every watching tab would attach the chunk to the previous
    answer.
    """
    made = written([first])
    assert kinds(made)[:2] == ["RUN_STARTED", "TEXT_MESSAGE_START"]
    assert first["type"] in kinds(made)


def test_a_message_named_after_its_thinking_is_the_same() -> None:
    """When a model names its message only at its text, the thinking before the text is in the same message."""
    made = written([thought("hm"), start("m1"), content("m1", "a"), {"type": "TEXT_MESSAGE_END", "messageId": "m1"}])
    assert kinds(made).count("TEXT_MESSAGE_START") == 1
    assert said(made) == [("new-1", "a")]
    assert kinds(made)[-2:] == ["TEXT_MESSAGE_END", "RUN_FINISHED"]


def test_each_round_of_a_tool_loop_is_a_message() -> None:
    """A finish for tool calls in the middle is dropped. The chunks after the results start a new message."""
    first = [start("m1"), content("m1", "let me see"), *call("c1", parentMessageId="m1"), finished("tool_calls")]
    made = written([*first, result("c1"), thought("so"), start("m2"), content("m2", "done"), finished("stop")])
    assert kinds(made).count("RUN_FINISHED") == 1
    starts = [chunk["messageId"] for chunk in made if chunk["type"] == "TEXT_MESSAGE_START"]
    assert starts == ["m1", "new-1"]
    assert said(made) == [("m1", "let me see"), ("new-1", "done")]


def test_a_tool_call_first_names_its_message() -> None:
    made = written([*call("c1", parentMessageId="m1"), result("c1"), content("m2", "a")])
    assert [chunk["messageId"] for chunk in made if chunk["type"] == "TEXT_MESSAGE_START"] == ["m1", "m2"]


def test_usage_of_all_rounds_is_kept() -> None:
    made = written([finished("tool_calls", usage=[{"inputTokens": 1}]), finished("stop", usage={"promptTokens": 2})])
    assert made[-1]["usage"] == [{"inputTokens": 1}, {"inputTokens": 2}]
    assert made[-1]["metadata"]["tanstack"] == {"finishReason": "stop"}


def test_text_after_thinking_after_text_is_a_new_message() -> None:
    """Text after thinking that follows text is a new message. Otherwise clients show the first text twice."""
    made = written(
        [start("m1"), content("m1", "a"), thought("hm"), content("m1", "b"), *call("c", parentMessageId="m1")]
    )
    assert said(made) == [("m1", "a"), ("new-1", "b")]
    assert next(chunk for chunk in made if chunk["type"] == "TOOL_CALL_START")["parentMessageId"] == "new-1"


def test_known_ids_are_never_used_again() -> None:
    """A model that gives every message the same id does not change the previous answer."""
    made = written([start("m1"), content("m1", "a")], new_run(known_ids={"m1"}))
    assert said(made) == [("new-1", "a")]


def test_a_repeated_tool_call_is_dropped() -> None:
    """A repeated tool call is dropped. Otherwise clients double its arguments."""
    made = written([*call("c1"), *call("c1"), {"type": "TOOL_CALL_ARGS", "toolCallId": "unknown", "delta": "x"}])
    assert kinds(made).count("TOOL_CALL_START") == kinds(made).count("TOOL_CALL_ARGS") == 1
    assert kinds(made).count("TOOL_CALL_END") == 1


def test_a_step_waits_for_its_message() -> None:
    made = written([{"type": "STEP_STARTED", "stepName": "s"}, thought("hm")])
    assert kinds(made)[1:4] == ["TEXT_MESSAGE_START", "STEP_STARTED", "REASONING_MESSAGE_CONTENT"]
    only = written([{"type": "STEP_STARTED", "stepName": "node"}, {"type": "STEP_FINISHED", "stepName": "node"}, "a"])
    assert "STEP_STARTED" not in kinds(only)


def test_a_step_has_one_name_for_all_clients() -> None:
    """Older and current clients use the same id for the thinking part, whatever id a framework gives."""
    made = written([{"type": "STEP_STARTED", "stepName": "s", "stepId": "other"}, thought("hm")])
    [step] = [chunk for chunk in made if chunk["type"] == "STEP_STARTED"]
    assert (step["stepName"], step["stepId"]) == ("s", "s")


def test_a_result_is_text() -> None:
    """A result is always text, because clients parse it. Other values are encoded as JSON."""
    made = written([*call("c1"), {"type": "TOOL_CALL_RESULT", "toolCallId": "c1", "content": {"a": 1}}])
    found = next(chunk for chunk in made if chunk["type"] == "TOOL_CALL_RESULT")
    assert found["content"] == '{"a":1}'
    assert found["messageId"] == "tool-c1"


@pytest.mark.parametrize("end", ["stop", "fail"])
def test_an_end_before_its_time_leaves_no_call_open(end: str) -> None:
    """A stop or a failure gives every open call an error as its result, and ends the text."""
    run = new_run()
    made = run.start() + run.accept("a")
    for chunk in [*call("done"), result("done"), *call("waiting"), call("half")[0]]:
        made += run.accept(chunk)
    made += run.stop() if end == "stop" else run.fail("It broke.", "broken")
    results = {c["toolCallId"]: c for c in made if c["type"] == "TOOL_CALL_RESULT"}
    assert set(results) == {"done", "waiting", "half"}
    assert results["half"]["metadata"]["tanstack"]["state"] == "output-error"
    assert kinds(made).count("TOOL_CALL_END") == 3
    assert kinds(made).count("TEXT_MESSAGE_START") == kinds(made).count("TEXT_MESSAGE_END")


def test_a_stop_is_no_error() -> None:
    run = new_run()
    made = run.start() + run.accept("a") + run.stop()
    assert made[-1]["type"] == "RUN_FINISHED"
    assert made[-1]["metadata"]["tanstack"] == {"finishReason": "stop", "stopped": True}
    assert run.outcome == "stopped"


def test_an_error_has_all_it_needs() -> None:
    run = new_run()
    made = run.start() + run.fail("It broke.", "broken")
    assert kinds(made) == ["RUN_STARTED", "TEXT_MESSAGE_START", "TEXT_MESSAGE_END", "RUN_ERROR"]
    assert made[-1] | {"timestamp": 0} == {
        "type": "RUN_ERROR",
        "runId": "run-1",
        "threadId": "session-1",
        "message": "It broke.",
        "code": "broken",
        "timestamp": 0,
    }
    assert run.outcome == "failed"


@pytest.mark.parametrize(
    ("message", "code", "shown", "shown_code"),
    [
        ("Your quota is used up.", "quota", "Your quota is used up.", "quota"),
        ("Incorrect API key provided: sk-proj-12345", "401", chunks.GENERIC_ERROR, "401"),
        ("failed for hunter2", "x", chunks.GENERIC_ERROR, "x"),
        ("postgres://user:pass@host is down", None, chunks.GENERIC_ERROR, "provider_error"),
        ("token AbCdEf0123456789AbCdEf", "undefined", chunks.GENERIC_ERROR, "provider_error"),
        (None, 529, chunks.GENERIC_ERROR, "529"),
        ("x " * 300, {"a": 1}, chunks.GENERIC_ERROR, "provider_error"),
    ],
)
def test_a_models_error_shows_no_secret(message: Any, code: Any, shown: str, shown_code: str) -> None:
    """The message of RUN_ERROR is shown only if it is a sentence that cannot contain a key."""
    made = written(
        [{"type": "RUN_ERROR", "message": message, "code": code, "rawEvent": {"key": "k"}}],
        new_run(secrets=["hunter2"]),
    )
    assert (made[-1]["message"], made[-1]["code"]) == (shown, shown_code)
    assert "rawEvent" not in made[-1]


@pytest.mark.parametrize(
    "item",
    [
        5,
        b"a",
        ["a"],
        {},
        {"type": 5},
        {"type": "SOMETHING_NEW"},
        {"type": "TOOL_CALL_CHUNK", "delta": "x"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": 5},
        {"type": "TEXT_MESSAGE_START"},
        {"type": "TOOL_CALL_START", "toolCallId": "c"},
        {"type": "TOOL_CALL_ARGS", "delta": "x"},
        {"type": "TOOL_CALL_RESULT", "content": "x"},
        {"type": "CUSTOM", "value": 1},
        {"type": "REASONING_MESSAGE_CONTENT", "messageId": "r"},
    ],
)
def test_what_is_no_chunk_is_refused(item: object) -> None:
    """The error is clear, and the run is unchanged."""
    run = new_run()
    made = run.start()
    with pytest.raises(InvalidChunk):
        run.accept(item)
    assert kinds(made + run.accept("a") + run.finish()) == [
        "RUN_STARTED",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]


@pytest.mark.parametrize("kind", ["MESSAGES_SNAPSHOT", "RAW", "RUN_STARTED"])
def test_what_is_not_the_models_to_say_is_skipped(kind: str) -> None:
    """
    Snapshots and raw events of a model are skipped: only the server writes snapshots, and raw events may contain
    anything.
    """
    assert kinds(written([{"type": kind, "messages": []}])) == ["RUN_STARTED", "RUN_FINISHED"]


def test_structured_output_is_of_its_message() -> None:
    begin = {"type": "CUSTOM", "name": "structured-output.start", "value": {"messageId": "m1"}}
    end = {"type": "CUSTOM", "name": "structured-output.complete", "value": {"messageId": "m1", "object": {}}}
    made = written([begin, content("m1", "{"), content("m1", "}"), end])
    assert kinds(made) == [
        "RUN_STARTED",
        "TEXT_MESSAGE_START",
        "CUSTOM",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_CONTENT",
        "CUSTOM",
        "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]
    assert made[2]["value"]["messageId"] == made[3]["messageId"] == "m1"


def test_the_first_chunk_starts_the_run() -> None:
    """Without a call of start(), RUN_STARTED still comes first, and only once."""
    run = new_run()
    assert kinds(run.accept("a"))[0] == "RUN_STARTED"
    assert run.start() == []


def test_what_a_model_says_again_of_a_message_is_passed_on() -> None:
    """Metadata of a later start and text after an end are passed on."""
    end = {"type": "TEXT_MESSAGE_END", "messageId": "m1"}
    later = start("m1") | {"metadata": {"k": 1}}
    made = written([start("m1"), content("m1", "a"), end, end, later, end, content("m1", "b"), start("m1")])
    assert [chunk.get("metadata") for chunk in made if chunk["type"] == "TEXT_MESSAGE_START"][1:] == [{"k": 1}, None]
    assert said(made) == [("m1", "a"), ("m1", "b")]
    assert kinds(made).count("TEXT_MESSAGE_END") == 3


def test_text_after_a_resource_is_a_new_message() -> None:
    """Text after a resource is a new message. Otherwise clients would repeat the text before it."""
    resource = {"type": "CUSTOM", "name": "ui-resource", "value": {"toolCallId": "c1", "toolName": "look"}}
    made = written([*call("c1"), "a", resource, "b"])
    assert said(made) == [("new-1", "a"), ("new-2", "b")]
    assert kinds(written([resource]))[1:3] == ["TEXT_MESSAGE_START", "CUSTOM"], "else it is hung on the answer before"


def test_a_run_may_say_more_when_it_ends() -> None:
    """The model's result, outcome and metadata are kept. The ids are the server's."""
    more = {"outcome": {"type": "success"}, "result": 5, "metadata": {"k": 1, "tanstack": {"model": "x"}}}
    made = written([finished("length", **more)])
    assert made[-1]["outcome"] == {"type": "success"}
    assert made[-1]["result"] == 5
    assert made[-1]["metadata"] == {"k": 1, "tanstack": {"model": "x", "finishReason": "length"}}
    assert made[-1]["runId"] == "run-1"


def test_a_legacy_error_is_understood() -> None:
    made = written([{"type": "RUN_ERROR", "error": {"message": "No more.", "code": "quota"}}])
    assert (made[-1]["message"], made[-1]["code"]) == ("No more.", "quota")


def test_results_of_earlier_runs_pass() -> None:
    """The result of an earlier call starts no message. The text after it does."""
    made = written([result("earlier"), "thanks"])
    assert kinds(made)[1:3] == ["TOOL_CALL_RESULT", "TEXT_MESSAGE_START"]


def test_white_space_waits_for_words() -> None:
    """
    White space before text is written with that text, and white space within a text is written. White space alone,
    also after a tool call, is not text.
    """
    made = written(
        [start("m"), content("m", "\n"), content("m", " "), content("m", "Hel"), content("m", " "), *call("c1")]
    )
    assert said(made) == [("m", "\n Hel"), ("m", " ")]
    made = written([start("m"), content("m", "Hel"), *call("c1"), content("m", "\n"), *call("c2"), content("m", " \n")])
    assert said(made) == [("m", "Hel")]
    assert kinds(written(["\n"])) == ["RUN_STARTED", "TEXT_MESSAGE_START", "TEXT_MESSAGE_END", "RUN_FINISHED"]


def test_white_space_of_structured_output_is_part_of_it() -> None:
    begun = {"type": "CUSTOM", "name": "structured-output.start", "value": {"messageId": "m"}}
    assert said(written([begun, content("m", " "), content("m", "{}")])) == [("m", " "), ("m", "{}")]


def test_older_clients_find_what_they_look_for() -> None:
    """Fields in `metadata.tanstack`, where current clients look, are also at the top level."""
    metadata = {"tanstack": {"state": "output-error", "signature": "s", "stepId": "t", "input": {"a": 1}, "x": 1}}
    made = written(
        [
            thought("hm"),
            {"type": "STEP_FINISHED", "stepName": "t", "metadata": metadata},
            *call("c1")[:-1],
            {"type": "TOOL_CALL_END", "toolCallId": "c1", "metadata": metadata},
            result("c1") | {"metadata": metadata},
        ]
    )
    found = {chunk["type"]: chunk for chunk in made}
    assert (found["STEP_FINISHED"]["signature"], found["STEP_FINISHED"]["stepId"]) == ("s", "t")
    assert found["TOOL_CALL_END"]["input"] == {"a": 1}
    assert found["TOOL_CALL_RESULT"]["state"] == "output-error"
    assert found["RUN_FINISHED"]["finishReason"] == "stop"
    assert not any("x" in chunk for chunk in made)


@pytest.mark.parametrize("end", ["stop", "fail"])
def test_a_call_that_was_cut_off_has_failed_before_it_ends(end: str) -> None:
    """
    A call that was cut off gets its error before its end. Otherwise older clients parse incomplete arguments as
    input.
    """
    run = new_run()
    for chunk in call("c1")[:-1]:
        run.accept(chunk)
    made = run.stop() if end == "stop" else run.fail("It broke.", "broken")
    assert kinds(made)[:2] == ["TOOL_CALL_RESULT", "TOOL_CALL_END"]


def test_a_run_that_speaks_has_a_message() -> None:
    """An empty answer has a message without parts, so that clients see the end of the turn. An empty run has none."""
    for speaks in (True, False):
        run = new_run()
        run.resume((), speaks=speaks)
        assert ("TEXT_MESSAGE_START" in kinds(written([], run))) == speaks


def test_a_signature_is_told_to_older_clients_once() -> None:
    """A signature is written once, at the end of a step, where older clients read it."""
    signed = {"type": "REASONING_ENCRYPTED_VALUE", "subtype": "message", "entityId": "r1", "encryptedValue": "s"}
    ends = [chunk for chunk in written([thought("hm"), signed]) if chunk["type"] == "STEP_FINISHED"]
    assert ends == [{"type": "STEP_FINISHED", "stepName": "r1", "stepId": "r1", "signature": "s"}]
    step = {"type": "STEP_FINISHED", "stepName": "r1", "metadata": {"tanstack": {"signature": "s"}}}
    assert kinds(written([thought("hm"), step, signed])).count("STEP_FINISHED") == 1


def test_a_step_of_no_thinking_has_no_end() -> None:
    """A step without thinking has no end. Otherwise older clients show an empty thought."""
    steps = [{"type": kind, "stepName": "plan"} for kind in ("STEP_STARTED", "STEP_FINISHED")]
    assert kinds(written([start("m"), *steps, "a"])).count("STEP_FINISHED") == 0
    assert kinds(written([start("m"), steps[0], thought("hm"), steps[1], "a"])).count("STEP_FINISHED") == 1


def test_hidden_thinking_is_a_step_of_its_own() -> None:
    """Hidden thinking has its own step. Otherwise older clients merge it with the thinking after it."""
    signed = {"type": "REASONING_ENCRYPTED_VALUE", "subtype": "message", "entityId": "r0", "encryptedValue": "s"}
    made = written([start("m"), signed])
    assert kinds(made)[2:5] == ["STEP_STARTED", "REASONING_ENCRYPTED_VALUE", "STEP_FINISHED"]


def test_text_after_a_call_starts_again() -> None:
    """Text after a call starts again. Otherwise older clients repeat the text before the call."""
    made = written([start("m"), content("m", "a"), *call("c1"), content("m", "b")])
    assert kinds(made)[6:9] == ["TEXT_MESSAGE_END", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT"]
    assert said(made) == [("m", "a"), ("m", "b")]


def test_thinking_alone_is_no_message_of_its_own() -> None:
    """
    Thinking without text joins the next message, whatever id the model gives that message. A message with other parts
    stays separate.
    """
    made = written([start("m"), thought("hm"), start("n"), content("n", "a"), start("o"), content("o", "b")])
    assert said(made) == [("m", "a"), ("o", "b")]
