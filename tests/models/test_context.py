"""What a model is given within a limit of tokens: for any history, and with real summaries, counts and failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_chat.models.agents import Agent
from durable_chat.models.anthropic.messages import to_anthropic, tools_named_in
from durable_chat.models.base import ProviderError, Turn
from durable_chat.models.context import summarizing
from durable_chat.models.context.fitting import TOO_LARGE
from durable_chat.models.context.limits import ContextLimit
from durable_chat.models.context.measuring import message_tokens, text_tokens, tokens_of
from durable_chat.models.context.summarizing import pieces, summary_tokens
from durable_chat.models.tools import Tools, make_tool
from durable_chat.transcripts.answers.items import WORKING
from durable_chat.transcripts.chunks import Chunk, run_finished
from durable_chat.transcripts.context_summaries import CONTEXT_SUMMARY, Context, ContextSummary, Counted, context_after
from tests.models.strict import refusals

LIMIT = 500


class Told:
    """A model that keeps the turns and the requests for summaries it was given. Both are answered with `text`."""

    def __init__(self, text: str = "In short: words.", error: Exception | None = None) -> None:
        self.text = text
        self.error = error
        self.turns: list[Turn] = []
        self.asked: list[Turn] = []

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        if turn.data.get("purpose") == "context-summary":
            self.asked.append(turn)
            if self.error is not None:
                raise self.error
            yield self.text
            counts = {"provider": "p", "model": "m", "inputTokens": 70, "outputTokens": 7}
            yield {"type": "RUN_FINISHED", "usage": [counts]}
            return
        self.turns.append(turn)
        yield "Yes."
        yield run_finished("r", "s", timestamp=1, finish_reason="stop", usage=[{"inputTokens": 1, "outputTokens": 1}])


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "content": content}


def message(name: str, role: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "role": role, "metadata": {}, "parts": list(parts)}


def called(call_id: str, result: str) -> list[dict[str, Any]]:
    call = {"type": "tool-call", "id": call_id, "name": "look", "arguments": "{}", "state": "complete"}
    return [call, {"type": "tool-result", "toolCallId": call_id, "content": result, "state": "complete"}]


def turn(messages: Iterable[dict[str, Any]], context: Context | None = None, **more: Any) -> Turn:
    return Turn(tuple(messages), "s", "r", context=context or Context(), **more)


async def run(limited: ContextLimit, asked: Turn) -> list[Chunk | str]:
    return [item async for item in limited(asked)]


def summaries(items: Iterable[Chunk | str]) -> list[dict[str, Any]]:
    return [item["value"] for item in items if isinstance(item, dict) and item.get("name") == CONTEXT_SUMMARY]


def context_of(items: Iterable[Chunk | str]) -> Context:
    (value,) = summaries(items)
    names = {"upTo": "up_to", "tokensBefore": "tokens_before", "tokensAfter": "tokens_after"}
    names |= {"summarizedTo": "summarized_to"}
    return Context(ContextSummary(**{names.get(key, key): found for key, found in value.items()}))


def words_in(messages: Iterable[Any]) -> str:
    return " ".join(str(part.get("content", "")) for told in messages for part in told["parts"])


def long(count: int, size: int = 300) -> list[dict[str, Any]]:
    """That many turns, each of about `size` characters, and a new message."""
    made = []
    for at in range(count):
        made.append(message(f"u{at}", "user", text(f"question {at} " + "x" * (size // 2))))
        made.append(message(f"a{at}", "assistant", text(f"answer {at} " + "y" * (size // 2))))
    return [*made, message("last", "user", text("and now?"))]


async def test_under_the_limit_nothing_changes() -> None:
    """The model is given the turn itself, and nothing else is written."""
    model = Told()
    asked = turn(long(2))
    items = await run(ContextLimit(model, LIMIT), asked)
    assert [given_now.messages for given_now in model.turns] == [asked.messages]
    assert items[0] == "Yes."
    assert model.asked == []


async def test_a_summary_replaces_old_turns_and_is_used_again() -> None:
    """
    The first turn over the limit pays for a summary of all old messages. The next one uses it, and a later summary
    reads only the old one and the messages since.
    """
    model = Told()
    limited = ContextLimit(model, LIMIT)
    history = long(6)
    items = await run(limited, turn(history))
    (value,) = summaries(items)
    assert (value["text"], value["model"]) == ("In short: words.", "m")
    assert value["tokensBefore"] > LIMIT >= value["tokensAfter"]
    assert "question 0" in words_in(model.asked[0].messages)
    assert "In short: words." in words_in(model.turns[0].messages)
    assert "question 0" not in words_in(model.turns[0].messages)
    assert model.turns[0].messages[-1] == history[-1]
    context = context_of(items)
    paid = len(model.asked)
    assert summaries(await run(limited, turn(history, context))) == []
    assert model.turns[1].messages == model.turns[0].messages
    assert len(model.asked) == paid
    more = [*history, message("b", "assistant", text("z" * 1500)), message("end", "user", text("go on"))]
    (later,) = summaries(await run(limited, turn(more, context)))
    again = words_in(told for asked in model.asked[paid:] for told in asked.messages)
    assert ("question 0" in again, "In short: words." in again, "zzz" in again) == (False, True, True)
    assert later["upTo"] == "b"


async def test_the_summary_is_in_the_usage() -> None:
    """Its tokens are an entry of their own before those of the answer, which stay the last."""
    model = Told()
    items = await run(ContextLimit(model, LIMIT), turn(long(6)))
    end = items[-1]
    assert isinstance(end, dict)
    counts = [(entry.get("purpose"), entry["inputTokens"]) for entry in end["usage"]]
    assert counts == [("context-summary", 70)] * len(model.asked) + [(None, 1)]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ProviderError("The provider is busy."), "The provider is busy."),
        (ValueError("secret sk-1"), "The model failed to answer."),
        (TimeoutError(), "The summary took longer than 60 seconds."),
    ],
)
async def test_a_failed_summary_does_not_fail_the_turn(error: Exception, said: str) -> None:
    """The oldest turns are left out, the chunk says why, and the next summary includes them."""
    model = Told(error=error)
    limited = ContextLimit(model, LIMIT)
    history = long(6)
    items = await run(limited, turn(history))
    (value,) = summaries(items)
    assert (value["text"], value["failure"]) == ("", said)
    assert "no longer have" in words_in(model.turns[0].messages)
    assert "question 0" not in words_in(model.turns[0].messages)
    model.error = None
    more = [*history, message("b", "assistant", text("z" * 1500)), message("end", "user", text("go on"))]
    (later,) = summaries(await run(limited, turn(more, context_of(items))))
    assert "question 0" in words_in(told for asked in model.asked[1:] for told in asked.messages)
    assert "failure" not in later


async def test_a_message_that_does_not_fit_is_refused_unpaid() -> None:
    """Neither model is called, and the error says how large the message and the limit are."""
    model = Told()
    with pytest.raises(ProviderError) as raised:
        await run(ContextLimit(model, LIMIT), turn([message("u", "user", text("x" * 3000))]))
    assert raised.value.code == TOO_LARGE
    assert "1,008 tokens" in raised.value.message
    assert (model.turns, model.asked) == ([], [])


async def test_a_long_tool_loop_is_shortened() -> None:
    """Results of the newest turn lose their middle, the oldest first; each call keeps its result."""
    model = Told()
    results = [*called("c1", "1" * 2000), *called("c2", "2" * 600)]
    history = [message("u", "user", text("look")), message("a", "assistant", *results)]
    await run(ContextLimit(model, 900), turn(history))
    given_now = words_in(model.turns[0].messages)
    assert "1,400 characters are left out here" in given_now
    assert "2" * 600 in given_now
    with pytest.raises(ProviderError, match="tool calls exceed"):
        await run(ContextLimit(model, LIMIT), turn([history[0], message("a", "assistant", text("y" * 3000))]))


async def test_files_of_summarized_turns_are_named() -> None:
    """The summarizer reads what kind of file there was and its name."""
    model = Told()
    image = {"type": "image", "source": {"type": "data", "value": "AAAA", "mimeType": "image/png"}}
    image["metadata"] = {"filename": "cat.png"}
    await run(ContextLimit(model, LIMIT), turn([message("f", "user", image), *long(1)]))
    assert "an image (image/png), named cat.png" in words_in(model.asked[0].messages)


async def test_a_key_goes_only_to_its_provider() -> None:
    """A user's key is not given to a summarizer of another provider."""
    model, other = Told(), Told()
    await run(ContextLimit(model, LIMIT), turn(long(6), api_key="k"))
    await run(ContextLimit(model, LIMIT, other), turn(long(6), api_key="k"))
    assert (model.asked[0].api_key, other.asked[0].api_key) == ("k", None)
    assert [asked.api_key for asked in model.turns] == ["k", "k"]


async def test_a_stop_ends_the_summary() -> None:
    """While a summary is written the run reports that it works; closing the answer cancels the summary."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow(_turn: Turn) -> AsyncIterator[str]:
        begun.set()
        try:
            await asyncio.Event().wait()
            yield ""
        finally:
            ended.set()

    answer = ContextLimit(Told(), LIMIT, slow)(turn(long(6)))
    first = await anext(answer)
    assert first == {"type": WORKING}
    assert begun.is_set()
    await answer.aclose()
    assert ended.is_set()


def counting(tokens: int) -> tuple[Told, list[Turn]]:
    model, counted = Told(), []

    async def count(asked: Turn) -> int:
        counted.append(asked)
        return tokens

    model.count_tokens = count  # type: ignore[attr-defined]
    return model, counted


async def test_the_provider_counts_near_the_limit() -> None:
    """Its count decides: a context that is only estimated to be too large is left alone, and the other way round."""
    history = long(6)
    model, counted = counting(LIMIT - 1)
    assert summaries(await run(ContextLimit(model, LIMIT), turn(history))) == []
    assert [asked.messages for asked in counted] == [tuple(history)]
    model, counted = counting(tokens_of(history) * 2)
    (value,) = summaries(await run(ContextLimit(model, tokens_of(history) + 100), turn(history)))
    assert value["tokensBefore"] == tokens_of(history) * 2
    model, counted = counting(1)
    await run(ContextLimit(model, LIMIT), turn(long(1)))
    assert counted == []  # far below the limit


async def test_the_last_answers_count_is_used() -> None:
    """The provider's usage counts, where it can be that of the whole conversation; the demo's does not."""
    history = long(6)
    size = tokens_of(history[:-1])
    for tokens, expected in [(size // 2, 0), (size * 2, 1), (5, 1)]:
        model, counted = counting(1)
        context = Context(None, Counted("a5", tokens))
        assert len(summaries(await run(ContextLimit(model, size), turn(history, context)))) == expected or tokens == 5
        assert len(counted) == (tokens == 5)


def test_a_limit_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 500 tokens, not 499"):
        ContextLimit(Told(), 499)


def test_a_long_history_is_summarized_in_pieces() -> None:
    """Every entry is in one piece of a bounded size; beyond the last piece the oldest are left out, and it says so."""
    entries = [f"User: {at} " + "w" * 200 for at in range(100)]
    made = pieces(entries, 500)
    assert "\n".join(made).splitlines() == entries
    assert max(map(text_tokens, made)) <= 500
    many = pieces([f"User: {at} " + "w" * 3000 for at in range(1000)], 2000)
    assert len(many) == summarizing.PIECES_MAX
    assert many[0].splitlines()[0].endswith("earlier messages are left out.)")
    assert "User: 999 " in many[-1]


def flat(parts: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [part for several in parts for part in several]


TEXTS = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(["x" * 400, "é" * 300, "語" * 200])
MADE = st.one_of(
    TEXTS.map(lambda content: [text(content)]),
    st.tuples(st.integers(0, 999), TEXTS).map(lambda made: called(f"c{made[0]}", made[1])),
    st.just([{"type": "tool-call", "id": "open", "name": "look", "arguments": '{"a', "state": "input-streaming"}]),
    TEXTS.map(lambda content: [{"type": "thinking", "content": content, "signature": "s" * 20}]),
    st.just([{"type": "document", "source": {"type": "url", "value": "https://h.example/x.pdf"}}]),
)
MESSAGES = st.tuples(st.sampled_from(["user", "assistant", "assistant", "system"]), st.lists(MADE, max_size=4))


@given(
    drawn=st.lists(MESSAGES, max_size=14),
    loop=st.lists(MADE, max_size=4),
    limit=st.sampled_from([500, 700, 1500, 4000, 20_000]),
    fails=st.booleans(),
    rounds=st.integers(1, 3),
)
@settings(max_examples=250, deadline=None)
async def test_any_history_fits(
    drawn: list[tuple[str, list[list[dict[str, Any]]]]],
    loop: list[list[dict[str, Any]]],
    limit: int,
    fails: bool,
    rounds: int,
) -> None:
    """
    What the model is given is valid, fits, ends with the newest user message (whole) and the answer so far; and every
    message is in the tail or was given to the summarizer, unless the summary failed. Also with the summary of an
    earlier round in force.
    """
    history = [message(f"m{at}", role, *flat(parts)) for at, (role, parts) in enumerate(drawn)]
    model = Told(error=ProviderError("no") if fails else None)
    limited = ContextLimit(model, limit)
    context = Context()
    covered = 0
    for number in range(rounds):
        newest = message(f"new{number}", "user", text(f"newest {number}"))
        now = [*history, newest, *([message(f"loop{number}", "assistant", *flat(loop))] if loop else [])]
        try:
            items = await run(limited, turn(now, context))
        except ProviderError:
            assert tokens_of(now[len(history) :]) > limit - 1
            return
        if summaries(items):
            context = context_of(items)
            assert context.summary is not None
            covered = 1 + next(at for at, told in enumerate(now) if told["id"] == context.summary.up_to)
            assert covered <= len(history)
        shown = model.turns[-1].messages
        assert tokens_of(shown) <= limit
        assert newest in shown
        tail = [told["id"] for told in shown if not told["id"].startswith("context-summary")]
        assert tail == [told["id"] for told in now[len(now) - len(tail) :]]
        assert len(now) - len(tail) <= covered
        conversation = to_anthropic(shown)
        assert refusals({"messages": conversation, "tools": tools_named_in(conversation)}) == []
        history = now


@given(limit=st.integers(500, 100_000))
def test_a_summary_leaves_room(limit: int) -> None:
    assert 60 <= summary_tokens(limit) <= limit / 8


@given(content=TEXTS)
def test_the_estimate_grows_with_the_text(content: str) -> None:
    """It never falls below a fixed share of the bytes, whatever the script."""
    one = message("m", "user", text(content))
    assert message_tokens(one) >= len(content.encode()) / 3


async def test_a_loop_goes_on_after_a_crash_with_its_summary() -> None:
    """
    A process that died right after a summary between two steps: the loop goes on from the last step, and the summary is
    not paid for again.
    """
    model = Told()

    def look() -> str:
        return "seen"

    agent = Agent(ContextLimit(model, LIMIT), Tools(), own=[make_tool(look)])
    history = long(6)
    summary = ContextSummary("a5", "In short.", 700, 20, "m")
    said: list[Chunk] = [
        {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "look", "parentMessageId": "m"},
        {"type": "TOOL_CALL_END", "toolCallId": "c"},
        {"type": "TOOL_CALL_RESULT", "toolCallId": "c", "content": "seen", "messageId": "t"},
        summary.chunk(),
    ]
    output = agent.resume(turn(history, context_after(Context(), said)), said)
    assert output is not None
    _ = [item async for item in output]
    assert model.asked == []
    (now,) = model.turns
    assert [told["id"] for told in now.messages][-2:-1] == ["last"]
    assert "In short." in words_in(now.messages)


async def test_what_a_model_hears_fits() -> None:
    """A model that takes messages in the middle of its answer is given them within the limit, without a new summary."""

    async def hear() -> Turn:
        return turn([*long(6), message("heard", "user", text("stop here"))])

    heard: list[Turn | None] = []

    async def model(now: Turn) -> AsyncIterator[str]:
        heard.append(await now.heard())
        yield "So."

    await run(ContextLimit(model, LIMIT), turn(long(1), heard=hear))
    assert heard[0] is not None
    assert tokens_of(heard[0].messages) <= LIMIT
    assert heard[0].messages[-1]["id"] == "heard"
    assert "no longer have" in words_in(heard[0].messages)
