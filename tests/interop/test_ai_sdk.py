"""
The AI SDK 6 and 7 with both of their transports, in Node.js, with a model that a test scripts. Clients that watch
from the beginning, clients that join later, and the server have the same messages.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.interop.matrix import scripted_app
from tests.interop.playing import Facts, play
from tests.interop.scenarios import (
    PIXEL,
    approval,
    call,
    content,
    custom,
    end,
    finished,
    gate,
    result,
    start,
    text,
    thinking,
)

NATIVE = ("ai-sdk-6", "ai-sdk-7")
DURABLE = ("ai-sdk-6-durable", "ai-sdk-7-durable")
CLIENTS = (*NATIVE, *DURABLE)

HALVES = [start("a1"), content("Hel", "a1"), gate("middle"), content("lo.", "a1"), end("a1"), finished()]
LOOKED = [
    *thinking(held=False),
    *text("Let me see. ", message_id="a1"),
    *call("c1", '{"a":', "1}"),
    result("c1", '{"b":2}'),
]
AGENT = [*LOOKED, start("a2"), content("It ", "a2"), gate("middle"), content("is 2.", "a2"), end("a2"), finished()]
ASKED = [*text("May I? ", message_id="a1"), *call("c1", '{"a":1}'), approval("c1"), finished()]
ALLOWED = [gate("middle"), result("c1", '{"saved":true}'), *text("Done.", message_id="a2"), finished()]
REFUSED = [gate("middle"), *text("As you like.", message_id="a2"), finished()]
CLIENT_SIDE = [*call("c1", '{"a":1}'), custom("tool-input-available", toolCallId="c1", toolName="look", input={"a": 1})]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with scripted_app(tmp_path_factory.mktemp("ai-sdk")) as app:
        yield app.url


MODULE = ("ai-sdk-6-module", "ai-sdk-7-module")
"""With `aiSdkTransport` of /durable-chat.js."""


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def run(base: str, client: str, scenario: str, **options: Any) -> Any:
    session = f"{scenario}/{uuid.uuid4()}"
    return play("ai-sdk.mjs", scenario, base=base, client=client, session=session, **options)


def plain(messages: list[Facts]) -> list[Facts]:
    """
    Return the messages without fields that the chunks of either version lack (the decision about a call), without
    empty steps, which show nothing, and without empty metadata.
    """
    made = []
    for message in messages:
        parts: list[Facts] = []
        for part in message["parts"]:
            if part["type"] != "step-start" or not parts or parts[-1]["type"] != "step-start":
                parts.append(_without_decision(part))
        kept = {key: value for key, value in message.items() if value not in (None, {})}
        made.append({**kept, "parts": parts})
    return made


def _without_decision(part: Facts) -> Facts:
    if "approval" not in part or part["state"].startswith("approval-"):
        return part
    return {key: value for key, value in part.items() if key != "approval"}


def one_story(facts: Facts, *tabs: str) -> list[Facts]:
    """Check that all tabs have the server's messages, and return them."""
    expected = plain(facts["server"]["messages"])
    for name in tabs:
        assert plain(facts[name]["messages"]) == expected, name
        assert facts[name]["status"] == "ready", name
    return expected


def said(messages: list[Facts]) -> list[str]:
    return ["".join(part["text"] for part in message["parts"] if part["type"] == "text") for message in messages]


@pytest.mark.cell(CLIENTS, "send", "stream")
def test_send(base: str, client: str) -> None:
    """Messages are answered in pieces. The client and the server have the same messages with the same ids."""
    facts = run(base, client, "send", answers=[HALVES, text("Bye.", message_id="a3")], texts=["hi", "bye"])
    assert facts["seen"][0] == "Hel"
    assert facts["tab"]["errors"] == []
    assert facts["tab"]["finishes"] == [{"isAbort": False, "isError": False, "finishReason": "stop"}] * 2
    assert said(one_story(facts, "tab")) == ["hi", "Hello.", "bye", "Bye."]


@pytest.mark.cell(CLIENTS, "tool")
def test_server_tool(base: str, client: str) -> None:
    """An answer with thinking, a server tool and its result is one message with two steps."""
    facts = run(base, client, "send", answers=[AGENT], texts=["look"])
    answer = one_story(facts, "tab")[1]
    kinds = ["step-start", "reasoning", "text", "tool-look", "step-start", "text"]
    assert [part["type"] for part in answer["parts"]] == kinds
    tool = answer["parts"][3]
    assert (tool["state"], tool["input"], tool["output"]) == ("output-available", {"a": 1}, {"b": 2})


def test_nothing_is_sent_again(base: str, client: str) -> None:
    """`sendAutomaticallyWhen` does not send back an answer that ends with a server tool's result."""
    answers = [[*call("c1", '{"a":1}'), result("c1", "5"), finished()]]
    facts = run(base, client, "send", answers=answers, texts=["look"], automatic=True)
    assert len(facts["tab"]["finishes"]) == 1
    assert one_story(facts, "tab")[1]["parts"][-2]["output"] == 5


@pytest.mark.cell(CLIENTS, "drop and resume")
def test_drops(base: str, client: str) -> None:
    """After a connection is lost at any event of an answer, it is resumed, and the message has everything once."""
    rounds = run(base, client, "drops", answer=AGENT)
    assert len(rounds) > (10 if client in NATIVE else 3)
    for facts in rounds:
        assert said(one_story(facts, "tab")) == ["hi", "Let me see. It is 2."], facts["after"]


@pytest.mark.cell(DURABLE, "drop and resume")
@pytest.mark.parametrize("client", DURABLE)
def test_clean_ends(base: str, client: str) -> None:
    """When a read ends cleanly, as at a deploy, the client continues at its offset."""
    rounds = run(base, client, "ends", answer=AGENT)
    assert [facts["cut"] for facts in rounds][:1] == [True]
    for facts in rounds:
        assert said(one_story(facts, "tab")) == ["hi", "Let me see. It is 2."], facts["after"]


@pytest.mark.parametrize("client", MODULE)
@pytest.mark.parametrize("after", [2, 3])
def test_module_over_lost_reads(base: str, client: str, after: int) -> None:
    """With the server's own transport, a chat does not notice repeated connection losses."""
    facts = run(base, client, "lossy", answer=AGENT, after=after)
    assert facts["cuts"] >= 1
    assert facts["tab"]["errors"] == []
    assert said(one_story(facts, "tab")) == ["hi", "Let me see. It is 2."]


@pytest.mark.parametrize("client", MODULE)
def test_module_over_a_crash(tmp_path: Path, client: str) -> None:
    """When the server is killed during an answer, the chat waits for the restart and learns that the answer ended."""
    with scripted_app(tmp_path) as app, ThreadPoolExecutor(1) as pool:
        playing = pool.submit(run, app.url, client, "lossy", answer=AGENT, after=1000, pid=app.pid)
        app.wait(60)
        app.start()
        facts = playing.result()
    assert facts["before"] == "Let me see. It "
    assert facts["tab"]["status"] == "error"
    assert facts["tab"]["errors"] == [facts["server"]["lastRun"]["error"]]
    assert facts["server"]["lastRun"]["status"] == "interrupted"
    assert said(plain(facts["tab"]["messages"])) == ["hi", "Let me see. It "] == said(facts["server"]["messages"])


def test_a_crash(tmp_path: Path, client: str) -> None:
    """
    After a crash, a newly loaded page has the written text and nothing to resume, and can ask for the answer again.
    """
    with scripted_app(tmp_path) as app, ThreadPoolExecutor(1) as pool:
        again = text("It is 2.", message_id="b1")
        playing = pool.submit(run, app.url, client, "crash", answer=AGENT, next=again, pid=app.pid)
        app.wait(60)
        app.start()
        facts = playing.result()
    assert facts["shown"] == "Let me see. It "
    assert said(facts["before"]) == ["hi", "Let me see. It "]
    assert said(one_story(facts, "late")) == ["hi", "It is 2."]


@pytest.mark.parametrize("client", MODULE)
def test_module_stops(base: str, client: str) -> None:
    """With `stopOnAbort`, the chat's `stop()` ends the answer for everybody."""
    facts = run(base, client, "stopping", answer=HALVES)
    assert facts["running"]
    assert facts["server"]["lastRun"]["status"] == "stopped"
    assert said(facts["tab"]["messages"]) == said(one_story(facts, "other")) == ["hi", "Hel"]


@pytest.mark.cell(CLIENTS, "second tab", "reload midway")
def test_second_tab(base: str, client: str) -> None:
    """A page loaded during an answer shows it from its beginning, live. A page loaded later has nothing to resume."""
    facts = run(base, client, "second", answer=AGENT)
    assert facts["amid"] == "Let me see. It "
    assert said(facts["began"]["messages"]) == ["hi"]
    assert said(one_story(facts, "sender", "other", "late")) == ["hi", "Let me see. It is 2."]


@pytest.mark.cell(CLIENTS, "stop")
def test_stop(base: str, client: str) -> None:
    """The stop route ends the answer in every tab, without an error."""
    facts = run(base, client, "second", answer=HALVES, stops=True)
    assert facts["stopped"] == 1
    assert said(one_story(facts, "sender", "other", "late")) == ["hi", "Hel"]
    assert facts["sender"]["errors"] == []
    assert facts["server"]["lastRun"]["status"] == "stopped"


@pytest.mark.cell(CLIENTS, "error")
def test_error(base: str, client: str) -> None:
    """A failure is the chat's error, and the written text stays. The next message is answered."""
    answers = [[start("a1"), content("Hel", "a1"), {"raise": "no net"}], text("Hello.", message_id="a2")]
    facts = run(base, client, "failure", answers=answers)
    failed, after = facts["failed"], facts["after"]
    assert failed["tab"]["status"] == "error"
    assert failed["tab"]["error"] == failed["server"]["lastRun"]["error"]
    assert plain(failed["tab"]["messages"]) == plain(failed["server"]["messages"])
    assert said(one_story(after, "tab")) == ["hi", "Hel", "again", "Hello."]


@pytest.mark.cell(CLIENTS, "tool")
@pytest.mark.parametrize("fails", [False, True], ids=["done", "failed"])
def test_client_tool(base: str, client: str, fails: bool) -> None:
    """A client tool is called once, its output continues the answer in the same message, and nothing repeats."""
    answers = [[*CLIENT_SIDE, finished()], text("In Bern.", message_id="a2")]
    facts = run(base, client, "clientTool", answers=answers, fails=fails)
    assert facts["calls"] == [{"toolName": "look", "input": {"a": 1}}]
    _, answer = one_story(facts, "tab", "late")
    assert [part["type"] for part in answer["parts"]] == ["step-start", "tool-look", "step-start", "text"]
    tool = answer["parts"][1]
    assert tool.get("output") == (None if fails else {"city": "Bern"})
    assert tool.get("errorText") == ("No GPS." if fails else None)


@pytest.mark.cell(CLIENTS, "approval")
@pytest.mark.parametrize("by", ["sender", "other"])
@pytest.mark.parametrize("approved", [True, False], ids=["yes", "no"])
def test_approval(base: str, client: str, approved: bool, by: str) -> None:
    """Any tab may decide. The answer continues in the same message, also in a tab that is loaded during it."""
    answers = [ASKED, ALLOWED if approved else REFUSED]
    facts = run(base, client, "approval", answers=answers, approved=approved, by=by)
    one_story(facts["asked"], "sender", "other")
    _, answer = one_story(facts["after"], by, "watching", "late")
    assert said([answer]) == ["May I? Done." if approved else "May I? As you like."]
    tool = next(part for part in answer["parts"] if part["type"] == "tool-look")
    assert tool["state"] == ("output-available" if approved else "output-denied")


@pytest.mark.cell(CLIENTS, "approval")
@pytest.mark.parametrize("both", ["at once", "later"])
def test_approval_twice(base: str, client: str, both: str) -> None:
    """When two tabs decide differently, the first decision counts. The other tab also ends, after one request."""
    facts = run(base, client, "approval", answers=[ASKED, ALLOWED], approved=True, by="sender", both=both)
    assert len(facts["after"]["other"]["finishes"]) == 1
    assert said(one_story(facts["after"], "sender", "late")) == ["save it", "May I? Done."]
    assert facts["after"]["other"]["status"] == "ready"


def test_together_with_tanstack(base: str, client: str) -> None:
    """
    The AI SDK continues a chat of TanStack AI and the other way round, and each can decide what the other was asked.
    """
    asked = [*call("c2", '{"a":1}'), approval("c2"), finished()]
    done = [result("c1", '{"saved":true}'), *text("Done.", message_id="b4"), finished()]
    answers = [text("One.", message_id="b1"), AGENT, ASKED, done, asked, text("As you like.", message_id="b6")]
    facts = run(base, client, "together", answers=answers)
    assert facts["stock"] == facts["expected"]
    story = one_story(facts, "late")
    assert [message["role"] for message in story] == ["user", "assistant"] * 4
    assert said(story)[1::2] == ["One.", "Let me see. It is 2.", "May I? Done.", "As you like."]


@pytest.mark.cell(CLIENTS, "attachment")
@pytest.mark.parametrize("size", ["short", "long"])
def test_attachment(base: str, client: str, size: str) -> None:
    """Every page shows a file with its type, name and bytes. A long file is stored beside the log."""
    padding = 200_000 if size == "long" else 0
    facts = run(base, client, "attachment", answer=text("A dot."), pixel=PIXEL, padding=padding)
    assert (facts["whole"], facts["type"]) == (True, "image/png")
    shown = one_story(facts, "late")[0]["parts"]
    assert [part["type"] for part in shown] == ["file", "text"]
    assert (shown[0]["mediaType"], shown[0]["filename"]) == ("image/png", "a picture.png")
    assert shown[0]["url"].startswith("data:") == (size == "short")


@pytest.mark.cell(CLIENTS, "send")
def test_again(base: str, client: str) -> None:
    """Regenerating replaces the answer. Editing replaces the message and everything after it."""
    answers = [text("One.", message_id="a1"), text("Two.", message_id="a2"), text("Three.", message_id="a3")]
    facts = run(base, client, "again", answers=answers)
    assert said(one_story(facts["first"], "tab")) == ["hi", "One."]
    assert said(one_story(facts["regenerated"], "tab")) == ["hi", "Two."]
    assert said(one_story(facts["edited"], "tab")) == ["bye", "Three."]
