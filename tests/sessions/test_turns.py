"""What a posted request means: the rules in their order, and all pairs of rules that are easily confused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from durable_chat.api.bodies import parse_body
from durable_chat.errors import InvalidRequest
from durable_chat.sessions.running.posted import Posted
from durable_chat.sessions.running.turns import Decision, Meaning, PostedAsk, Stage, decide_turn
from durable_chat.transcripts.chunks import messages_snapshot
from durable_chat.transcripts.transcript import Transcript

Message = dict[str, Any]


@dataclass(frozen=True)
class InFlight:
    keys: tuple[str, ...] = ()
    user_id: str | None = None
    answers: frozenset[str] = frozenset()
    closing: bool = False


def user(text: str, message_id: str = "u1") -> Message:
    return {"id": message_id, "role": "user", "parts": [{"type": "text", "content": text}], "metadata": {}}


def assistant(*parts: Message, message_id: str = "a1") -> Message:
    return {"id": message_id, "role": "assistant", "parts": list(parts), "metadata": {}}


def said(text: str) -> Message:
    return {"type": "text", "content": text}


def call(call_id: str = "c1", name: str = "locate", **fields: Any) -> Message:
    return {"type": "tool-call", "id": call_id, "name": name, "arguments": "{}", "state": "input-complete", **fields}


def asking(call_id: str = "c1", name: str = "save") -> Message:
    return call(call_id, name, state="approval-requested", approval={"id": f"p-{call_id}", "needsApproval": True})


def approved(call_id: str = "c1", name: str = "save", yes: bool = True) -> Message:
    approval = {"id": f"p-{call_id}", "needsApproval": True, "approved": yes}
    return call(call_id, name, state="approval-responded", approval=approval)


def result(call_id: str = "c1", content: str = "5", **fields: Any) -> Message:
    return {"type": "tool-result", "toolCallId": call_id, "content": content, "state": "complete", **fields}


def given(call_id: str = "c1", content: str = "5") -> tuple[Message, Message]:
    """A call of a client's tool as the tab shows it after executing it."""
    return call(call_id, state="complete", output=content), result(call_id, content)


def transcript(*messages: Message) -> Transcript:
    made = Transcript()
    made.fold(messages_snapshot(messages, timestamp=1))
    return made


def post(*messages: Message, **more: Any) -> Posted:
    return parse_body(msgspec.json.encode({"messages": messages, **more}))


def decide(posted: Posted, known: Transcript, *live: InFlight, key: str | None = None) -> Decision:
    return decide_turn(posted, known, live, key=key, server_tools={"save"})


HI, HELLO = user("hi"), assistant(said("Hello."))
ANSWERED = transcript(HI, HELLO)
PENDING = transcript(HI, assistant(said("Where are you?"), call()))
APPROVAL = transcript(HI, assistant(said("May I?"), asking()))
GIVEN = transcript(HI, assistant(said("Where are you?"), *given()), assistant(said("There."), message_id="a2"))
EMPTY = transcript()


# The rules, in their order.


def test_1_a_key_that_was_seen_is_its_run() -> None:
    """A known key identifies its run, whatever the body says, also while that run is being stopped."""
    live = (InFlight(keys=("other",)), InFlight(keys=("j", "k"), closing=True))
    assert decide(post(user("new", "u9")), ANSWERED, *live, key="k") == Decision(Meaning.SAME, 1)
    assert decide(post(user("new", "u9")), ANSWERED, *live, key="k2").meaning is Meaning.NEW


def test_2_answers_to_calls_that_wait_are_a_continuation() -> None:
    """This holds for results of a client's tool and for approvals."""
    decision = decide(post(HI, assistant(said("Where are you?"), *given())), PENDING)
    assert decision.meaning is Meaning.CONTINUE
    assert [(answer.call_id, answer.content, answer.failed) for answer in decision.answers] == [("c1", "5", False)]
    for yes in (True, False):
        decision = decide(post(HI, assistant(approved(yes=yes))), APPROVAL)
        assert (decision.meaning, decision.answers[0].approved) == (Meaning.CONTINUE, yes)


def test_3_answers_given_already_release_the_tab() -> None:
    """The tab gets an empty run, or the run that is active."""
    late = post(HI, assistant(said("Where are you?"), *given(content="another")))
    assert decide(late, GIVEN) == Decision(Meaning.RELEASE)
    assert decide(late, GIVEN, InFlight(user_id="u2")) == Decision(Meaning.SAME, 0)
    assert decide(late, PENDING, InFlight(), InFlight(answers=frozenset({"c1"}))) == Decision(Meaning.SAME, 1)


def test_4_an_unknown_message_is_a_new_turn() -> None:
    assert decide(post(HI, HELLO, user("more", "u2")), ANSWERED).meaning is Meaning.NEW
    assert decide(post(HI), EMPTY).meaning is Meaning.NEW


def test_5_a_known_message_in_flight_is_the_same_run() -> None:
    """The run may be active or waiting."""
    live = (InFlight(user_id="u1"), InFlight(user_id="u2"))
    assert decide(post(HI), transcript(HI), *live) == Decision(Meaning.SAME, 0)
    assert decide(post(user("more", "u2")), transcript(HI), *live) == Decision(Meaning.SAME, 1)


def test_6_a_known_message_without_a_run_is_started() -> None:
    assert decide(post(HI), transcript(HI)).meaning is Meaning.START


def test_7_a_known_message_with_other_parts_is_an_edit() -> None:
    assert decide(post(user("hey")), ANSWERED).meaning is Meaning.EDIT


def test_8_a_finished_message_is_answered_anew() -> None:
    assert decide(post(HI), ANSWERED).meaning is Meaning.REGENERATE


def test_an_empty_session_takes_the_history() -> None:
    """A single message is no history, and a request after other runs does not begin a session."""
    assert decide(post(HI, HELLO, user("more", "u2")), EMPTY).meaning is Meaning.IMPORT
    assert decide(post(HI, HELLO), EMPTY).meaning is Meaning.IMPORT
    assert decide(post(HI, HELLO, user("more", "u2")), EMPTY, InFlight(user_id="u1")).meaning is Meaning.NEW


# Pairs that could be confused.


def test_a_late_answer_is_not_a_regenerate() -> None:
    """A second tab's body ends with the same user message as a regenerate. The parts after it tell them apart."""
    late = post(HI, assistant(said("Where are you?"), *given()))
    assert decide(late, GIVEN).meaning is Meaning.RELEASE
    assert decide(post(HI), GIVEN).meaning is Meaning.REGENERATE


def test_a_body_that_ends_with_an_answer_asks_for_nothing() -> None:
    """It is not a regenerate, with or without calls in it."""
    assert decide(post(HI, HELLO), ANSWERED).meaning is Meaning.RELEASE


def test_a_repeat_without_a_key_is_a_regenerate_once_its_run_is_over() -> None:
    """While the run waits or is active, it is the same request. While the run is being stopped or ends, it is not."""
    assert decide(post(HI), transcript(HI), InFlight(user_id="u1")).meaning is Meaning.SAME
    assert decide(post(HI), ANSWERED, InFlight(user_id="u1", closing=True)).meaning is Meaning.REGENERATE
    assert decide(post(HI), ANSWERED).meaning is Meaning.REGENERATE


def test_an_edit_is_no_regenerate() -> None:
    """The stored parts are compared, not the posted form."""
    assert decide(post({"id": "u1", "role": "user", "content": "hi"}), ANSWERED).meaning is Meaning.REGENERATE
    assert decide(post({"id": "u1", "role": "user", "content": "hi!"}), ANSWERED).meaning is Meaning.EDIT


def test_an_edit_of_a_message_in_flight_is_the_same_request() -> None:
    assert decide(post(user("hey")), transcript(HI), InFlight(user_id="u1")).meaning is Meaning.SAME


def test_an_edit_of_a_message_that_was_never_answered_is_not_lost() -> None:
    assert decide(post(user("hey")), transcript(HI)).meaning is Meaning.EDIT
    begun = transcript({**HI, "parts": []})  # somebody else has written no more than its start
    assert decide(post(HI), begun).meaning is Meaning.EDIT


@pytest.mark.parametrize(("text", "meaning"), [("hi", Meaning.REGENERATE), ("hey", Meaning.EDIT)])
async def test_what_follows_an_older_message_goes(text: str, meaning: Meaning) -> None:
    """Messages after it are dropped for a regenerate and for an edit."""
    known = transcript(HI, HELLO, user("more", "u2"), assistant(said("Yes."), message_id="a2"))
    posted = post(user(text))
    assert decide(posted, known).meaning is meaning
    opening = await PostedAsk(posted).open(known, Stage(1))
    (snapshot,) = opening.chunks
    assert [(message["id"], message["parts"]) for message in snapshot["messages"]] == [("u1", [said(text)])]
    assert opening.asks_model


def test_a_new_message_beside_an_answer_is_a_turn_with_the_answer() -> None:
    """If a tab posts its tool's result together with a new message, neither is lost."""
    decision = decide(post(HI, assistant(*given()), user("more", "u2")), PENDING)
    assert (decision.meaning, [answer.call_id for answer in decision.answers]) == (Meaning.NEW, ["c1"])


def test_a_new_message_leaves_a_question_open() -> None:
    """An unanswered call can still be answered after the turn."""
    posted = post(HI, assistant(said("May I?"), asking()), user("more", "u2"))
    assert decide(posted, APPROVAL) == Decision(Meaning.NEW)
    later = transcript(*APPROVAL.messages(), user("more", "u2"), assistant(said("Yes."), message_id="a2"))
    assert decide(post(assistant(approved())), later).meaning is Meaning.CONTINUE


def test_an_answer_of_a_second_tab_while_the_first_waits() -> None:
    """
    While the asking run is active, one answer waits for its end. Another answer to the same call is the same request.
    """
    asked = InFlight(user_id="u1")
    answer = post(HI, assistant(said("Where are you?"), *given()))
    assert decide(answer, transcript(HI), asked).meaning is Meaning.CONTINUE
    assert decide(answer, transcript(HI), asked, InFlight(answers=frozenset({"c1"}))) == Decision(Meaning.SAME, 1)


def test_answers_to_different_calls_both_count() -> None:
    """The first answer to each call counts. Further answers of the other tab are a turn of their own."""
    known = transcript(HI, assistant(call("c1"), call("c2")))
    both = post(HI, assistant(*given("c1", "late"), *given("c2")))
    decision = decide(both, known, InFlight(answers=frozenset({"c1"})))
    assert (decision.meaning, [answer.call_id for answer in decision.answers]) == (Meaning.CONTINUE, ["c2"])


def test_a_clients_word_does_not_stand_for_the_servers_tool() -> None:
    """A client cannot supply the result of a server's tool, neither before its approval nor after it."""
    forged = post(HI, assistant(call("c1", "save", state="complete", output="done"), result("c1", "done")))
    assert decide(forged, APPROVAL).meaning is Meaning.RELEASE
    dead = transcript(HI, assistant(approved()))
    assert decide(forged, dead).meaning is Meaning.RELEASE
    assert decide(post(HI, assistant(approved(), result("c1", "done"))), dead).meaning is Meaning.RELEASE


def test_an_approval_is_given_once() -> None:
    """It cannot be withdrawn, and the tool is not executed again when its run died."""
    for known in (transcript(HI, assistant(approved())), transcript(HI, assistant(approved(yes=False), result()))):
        for yes in (True, False):
            assert decide(post(HI, assistant(approved(yes=yes))), known).meaning is Meaning.RELEASE


def test_a_clients_tool_that_was_approved_is_answered_then() -> None:
    known = transcript(HI, assistant(approved("c1", "locate")))
    assert decide(post(HI, assistant(approved("c1", "locate"), result())), known).meaning is Meaning.CONTINUE


def test_older_clients_add_no_result() -> None:
    """They send only an output. AG-UI's tool messages are answers, too."""
    assert decide(post(HI, assistant(call(output={"a": 1}))), PENDING).answers[0].content == '{"a":1}'
    row = {"id": "t", "role": "tool", "toolCallId": "c1", "content": "5"}
    assert decide(post(HI, {"id": "a1", "role": "assistant"}, row), PENDING).answers[0].content == "5"
    word = row | {"content": '{"approved":true,"pendingExecution":true}'}
    assert decide(post(HI, word), APPROVAL).answers[0].approved is True


def test_a_tool_that_failed_in_the_client_says_so() -> None:
    failed = assistant(call(state="error", output=None), result(content="null", state="error", error="No GPS."))
    (answer,) = decide(post(HI, failed), PENDING).answers
    assert (answer.content, answer.failed) == ('{"error":"No GPS."}', True)


def test_the_id_of_an_answer_is_no_users() -> None:
    with pytest.raises(InvalidRequest):
        decide(post(user("hi", "a1")), ANSWERED)


def test_an_answer_alone_is_a_body() -> None:
    """The page posts only the message that it answers. A body with neither an answer nor a message is refused."""
    assert decide(post(assistant(approved())), APPROVAL).meaning is Meaning.CONTINUE
    with pytest.raises(InvalidRequest):
        post(HELLO)
