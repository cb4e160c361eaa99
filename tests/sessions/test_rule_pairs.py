"""
All pairs of the eight rules (docs/explanation/turns.md) that can apply to the same request: the earlier rule decides.

Other pairs exclude each other: a message id is known or unknown, and a call is open or not.
"""

from __future__ import annotations

from typing import Any

import pytest

from durable_chat.sessions.running.turns import Decision, Meaning, PostedAsk, Stage
from durable_chat.transcripts.transcript import Transcript
from tests.sessions.test_turns import (
    ANSWERED,
    APPROVAL,
    EMPTY,
    GIVEN,
    HELLO,
    HI,
    PENDING,
    InFlight,
    approved,
    assistant,
    call,
    decide,
    given,
    post,
    said,
    transcript,
    user,
)

KEY = "k"
KEYED = InFlight(keys=("first", KEY), user_id="u9")
HEY, MORE = user("hey"), user("more", "u2")
GAVE = assistant(said("Where are you?"), *given())
LATE = assistant(said("Where are you?"), *given(content="another"))
BOTH = transcript(HI, assistant(call("c1"), *given("c2")))
PENDING_MORE = transcript(*PENDING.messages(), MORE, assistant(said("Yes."), message_id="a2"))
STOPPED = transcript(HI, HELLO, MORE)
STOPPED_LATER = transcript(HI, HELLO, MORE, assistant(message_id="a2"))

# By the numbers of the rules: what is posted, on which transcript, beside which runs, and what it means.
PAIRS: dict[str, tuple[list[Any], Transcript, list[InFlight], Decision]] = {
    "1 before 2": ([HI, GAVE], PENDING, [KEYED], Decision(Meaning.SAME, 0)),
    "1 before 3": ([HI, LATE], GIVEN, [KEYED, InFlight()], Decision(Meaning.SAME, 0)),
    "1 before 4": ([MORE], ANSWERED, [KEYED], Decision(Meaning.SAME, 0)),
    "1 before 5": ([HI], transcript(HI), [InFlight(user_id="u1"), KEYED], Decision(Meaning.SAME, 1)),
    "1 before 6": ([HI], transcript(HI), [KEYED], Decision(Meaning.SAME, 0)),
    "1 before 7": ([HEY], ANSWERED, [KEYED], Decision(Meaning.SAME, 0)),
    "1 before 8": ([HI], ANSWERED, [KEYED], Decision(Meaning.SAME, 0)),
    "3 before 6": ([HI, LATE], transcript(HI), [], Decision(Meaning.RELEASE)),
    "3 before 7": ([HEY, LATE], GIVEN, [], Decision(Meaning.RELEASE)),
    "3 before 8": ([HI, LATE], GIVEN, [], Decision(Meaning.RELEASE)),
    "3 and 5": ([HI, LATE], GIVEN, [InFlight(user_id="u1")], Decision(Meaning.SAME, 0)),
    "4, not 3, with a late answer beside it": ([HI, LATE, MORE], GIVEN, [], Decision(Meaning.NEW)),
    "4, not 8, with the text of another": ([user("hi", "u2")], ANSWERED, [], Decision(Meaning.NEW)),
    "5 before 4": ([MORE], ANSWERED, [InFlight(), InFlight(user_id="u2")], Decision(Meaning.SAME, 1)),
    "5 before 6": ([HI], transcript(HI), [InFlight(user_id="u1")], Decision(Meaning.SAME, 0)),
    "5 before 7": ([HEY], ANSWERED, [InFlight(user_id="u2"), InFlight(user_id="u1")], Decision(Meaning.SAME, 1)),
    "5 before 8": ([HI], ANSWERED, [InFlight(user_id="u2"), InFlight(user_id="u1")], Decision(Meaning.SAME, 1)),
    "4, not 5, once that is stopped": ([MORE], ANSWERED, [InFlight(user_id="u2", closing=True)], Decision(Meaning.NEW)),
    "6, not 8, of what was stopped before a word": ([MORE], STOPPED, [], Decision(Meaning.START)),
    "8, not 6, of what was stopped after one": ([MORE], STOPPED_LATER, [], Decision(Meaning.REGENERATE)),
    "7 before 6, or it would be lost": ([user("mere", "u2")], STOPPED, [], Decision(Meaning.EDIT)),
    "7 before 8": ([HEY], ANSWERED, [], Decision(Meaning.EDIT)),
    "an import before 4": ([HI, HELLO, MORE], EMPTY, [], Decision(Meaning.IMPORT)),
    "an import before 2": ([HI, GAVE], EMPTY, [], Decision(Meaning.IMPORT)),
    "4 before an import that comes second": ([HI, HELLO, MORE], EMPTY, [InFlight()], Decision(Meaning.NEW)),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_the_earlier_rule_decides(pair: str) -> None:
    messages, known, live, expected = PAIRS[pair]
    assert decide(post(*messages), known, *live, key=KEY) == expected


# Rule 2, with what counts of the answers.
WITH_ANSWERS: dict[str, tuple[list[Any], Transcript, list[InFlight], Meaning]] = {
    "2 before 3": ([HI, assistant(*given("c1"), *given("c2", "another"))], BOTH, [], Meaning.CONTINUE),
    "2 before 5": ([HI, GAVE], PENDING, [InFlight(user_id="u1")], Meaning.CONTINUE),
    "2 before 5, of a call just made": ([HI, GAVE], transcript(HI), [InFlight(user_id="u1")], Meaning.CONTINUE),
    "2 before 7": ([HEY, GAVE], PENDING, [], Meaning.CONTINUE),
    "2 before 8": ([HI, GAVE], PENDING, [], Meaning.CONTINUE),
    "2 before 8, of an older question": ([HI, GAVE], PENDING_MORE, [], Meaning.CONTINUE),
    "2 and 4": ([HI, GAVE, MORE], PENDING, [], Meaning.NEW),
    "2 and 6": ([HI, GAVE, MORE], transcript(*PENDING.messages(), MORE), [], Meaning.START),
    "2 and 7": ([HI, GAVE, user("mere", "u2")], PENDING_MORE, [], Meaning.EDIT),
    "2 and 8": ([HI, GAVE, MORE], PENDING_MORE, [], Meaning.REGENERATE),
}


@pytest.mark.parametrize("pair", WITH_ANSWERS)
def test_an_answer_that_waits_for_is_never_lost(pair: str) -> None:
    """The first answer to a call counts, whatever else the request means."""
    messages, known, live, meaning = WITH_ANSWERS[pair]
    decision = decide(post(*messages), known, *live)
    assert (decision.meaning, [answer.call_id for answer in decision.answers]) == (meaning, ["c1"])


@pytest.mark.parametrize(("posted", "shown"), [("more", ["u1", "a1", "u2"]), ("mere", ["u1", "a1", "u2"])])
async def test_an_answer_beside_a_message_that_is_answered_anew(posted: str, shown: list[str]) -> None:
    """The call gets its result, the messages after it are dropped, and the model is called."""
    opening = await PostedAsk(post(HI, GAVE, user(posted, "u2"))).open(PENDING_MORE, Stage(1))
    (snapshot,) = opening.chunks
    assert [message["id"] for message in snapshot["messages"]] == shown
    assert snapshot["messages"][-1]["parts"] == [said(posted)]
    assert snapshot["messages"][1]["parts"][-1]["content"] == "5"
    assert [chunk["toolCallId"] for chunk in opening.results] == ["c1"]
    assert opening.asks_model
    assert not opening.waits


async def test_an_answer_to_what_is_dropped_is_dropped() -> None:
    """A tab with the messages in another order than the log does not restore a call."""
    posted = post(HI, GAVE, MORE)
    known = transcript(HI, HELLO, MORE, assistant(call(), message_id="a2"))
    assert decide(posted, known) == Decision(Meaning.REGENERATE)
    opening = await PostedAsk(posted).open(known, Stage(1))
    assert [message["id"] for message in opening.chunks[0]["messages"]] == ["u1", "a1", "u2"]
    assert not opening.results


def test_a_word_is_given_once_beside_a_regenerate() -> None:
    """A decision about a call that was approved before does not count again."""
    known = transcript(*APPROVAL.messages(), MORE, assistant(said("Yes."), message_id="a2"))
    first = decide(post(HI, assistant(approved()), MORE), known)
    assert (first.meaning, [answer.approved for answer in first.answers]) == (Meaning.REGENERATE, [True])
    after = transcript(HI, assistant(approved()), MORE, assistant(said("Yes."), message_id="a2"))
    assert decide(post(HI, assistant(approved(yes=False)), MORE), after) == Decision(Meaning.REGENERATE)
