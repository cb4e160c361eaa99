"""Background answers of the Responses API, joined again after a lost connection or a dead process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from durable_chat.models.base import CannotResume, Turn
from durable_chat.models.openai.background import MARK, REJOINS_MAX
from durable_chat.models.openai.client import OpenAIModel
from durable_chat.models.providers import retries
from durable_chat.transcripts.answers.coalescing import coalesce
from durable_chat.transcripts.answers.items import WORKING
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import Chunk, decode_chunk
from durable_chat.transcripts.codec import encode_chunks
from tests.models.aimock import answer, asked, folded, of_type
from tests.models.openai.responses_server import Item, Provider, responses_served

WAIT_MAX_S = 20.0

# A face is two UTF-16 code units, and one of them comes with the halves apart.
FACE, HIGH, LOW = "\U0001f600", "\ud83d", "\ude00"
WHOLE: Sequence[Item] = [
    ("reasoning", ["I must ", "think ", "about it."]),
    ("text", ["\n", "Let me ", f"look {FACE}", f" here {HIGH}", f"{LOW}.", " Now."]),
    ("reasoning", ["Hm", "m."]),
    ("text", ["More ", "text."]),
    ("look", ['{"whe', 're":"', f'{FACE}"', "}"]),
    ("find", []),
]


@pytest.fixture
def provider() -> Provider:
    return Provider([WHOLE])


@pytest.fixture
def url(provider: Provider) -> Iterator[str]:
    with responses_served(provider) as url:
        yield url


@pytest.fixture
async def model(url: str) -> AsyncIterator[OpenAIModel]:
    made = OpenAIModel("m", api="responses", base_url=url, key="server-key", background=True)
    yield made
    await made.aclose()


def run_of(said: Sequence[Chunk] = ()) -> RunChunks:
    """A run that has said this, as after a restart."""
    ids = iter(range(1000))
    run = RunChunks("run-1", "s", lambda: f"new-{len(said)}-{next(ids)}", lambda: 1)
    run.start()
    for chunk in said:
        run.accept(chunk)
    return run


async def carried(run: RunChunks, output: Any) -> list[Chunk]:
    """What the log gets of an output."""
    made = [chunk async for item in output for chunk in run.accept(item)]
    return logged(made + run.finish())


def logged(made: Sequence[Chunk]) -> list[Chunk]:
    """The chunks as they come back from the log."""
    return [decode_chunk(message) for message in encode_chunks(made)]


def content(made: Sequence[Chunk]) -> list[Any]:
    """What a person sees: the parts, without the ids, which differ between two runs of the test."""
    keys = ("type", "content", "name", "arguments", "input", "state")
    return [{key: part[key] for key in keys if key in part} for part in folded(logged(made))]


async def test_the_whole_answer(model: OpenAIModel, provider: Provider) -> None:
    """It is asked for in the background and stored, and complete."""
    made = await answer(model, asked("hi", None))
    parts = content(made)
    assert [part["type"] for part in parts] == ["thinking", "text", "thinking", "text", "tool-call", "tool-call"]
    assert parts[1]["content"] == f"\nLet me look {FACE} here {FACE}. Now."
    assert parts[4]["input"] == {"where": FACE}
    assert parts[5]["input"] == {}
    counts = {"inputTokens": 7, "outputTokens": 5, "totalTokens": 12}
    assert made[-1]["usage"] == [{"provider": "openai", "model": "m", **counts}]
    (body,) = provider.created
    assert (body["background"], body["store"], body["stream"]) == (True, True, True)


async def test_the_id_is_durable_before_the_first_token(model: OpenAIModel) -> None:
    """Otherwise a crash could lose a response that goes on and is paid for."""
    said: list[Any] = []

    async def saved() -> None:
        said.append("saved")

    async with aclosing(model(replace(asked("hi", None), saved=saved))) as chunks:
        async for chunk in chunks:
            said.append(chunk["type"])  # noqa: PERF401 - in the order of the saves
    first = said[: said.index("TEXT_MESSAGE_START")]
    assert [kind for kind in first if kind != "WORKING"] == ["CUSTOM", "saved"]


async def test_few_marks(model: OpenAIModel) -> None:
    """One for each item at most, and none for a token."""
    made = await answer(model, asked("hi", None))
    assert len([chunk for chunk in of_type(made, "CUSTOM") if chunk["name"] == MARK]) <= len(WHOLE) + 1


@pytest.mark.parametrize("joins", [False, True], ids=["single", "joined"])
async def test_a_crash_at_every_chunk(model: OpenAIModel, provider: Provider, *, joins: bool) -> None:
    """
    Whatever the log holds when the process dies, the rest follows: in thinking, text and arguments, and between the
    halves of a character. Nothing is lost, repeated or ordered again.
    """
    turn = asked("hi", None)
    said = await carried(run_of(), model(turn))
    if joins:
        said = [decode_chunk(message) for message in coalesce(encode_chunks(said))]
    whole = content(said)
    first = next(at for at, chunk in enumerate(said) if chunk["type"] == "CUSTOM") + 1
    for cut in range(first, len(said)):
        before = said[:cut]
        output = model.resume(turn, before)
        assert output is not None
        rest = await carried(run_of(before), output)
        assert content([*before, *rest]) == whole, cut
        assert rest[-1]["usage"] == said[-1]["usage"]
    assert len(provider.created) == 1


async def test_a_second_crash(model: OpenAIModel) -> None:
    """The rest is cut as well, at every chunk of it."""
    turn = asked("hi", None)
    said = await carried(run_of(), model(turn))
    whole = content(said)
    said = said[: len(said) // 2]
    rest = await carried(run_of(said), model.resume(turn, said))
    for cut in range(len(rest) - 1):
        again = [*said, *rest[:cut]]
        last = await carried(run_of(again), model.resume(turn, again))
        assert content([*again, *last]) == whole, cut


async def test_only_what_is_missing_is_asked_for(model: OpenAIModel, provider: Provider) -> None:
    """The provider sends the events after the last mark."""
    turn = asked("hi", None)
    said = (await carried(run_of(), model(turn)))[:-1]
    marks = [chunk["value"] for chunk in said if chunk.get("name") == MARK]
    await carried(run_of(said), model.resume(turn, said))
    assert provider.retrieved == [marks[-1]["sequence"]]
    assert marks[-1]["sequence"] > 10


async def test_what_cannot_be_joined(model: OpenAIModel) -> None:
    """An answer without a mark, one of a user's own key, and a step whose calls were executed."""
    turn = asked("hi", None)
    assert model.resume(turn, []) is None
    assert model.resume(turn, [{"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "Hi"}]) is None
    said = await carried(run_of(), model(asked("hi", "users-key")))
    assert model.resume(turn, said[:-1]) is None
    result = {"type": "TOOL_CALL_RESULT", "messageId": "t", "toolCallId": "c", "content": "1"}
    said = await carried(run_of(), model(turn))
    assert model.resume(turn, [*said[:-1], result]) is None


async def test_an_answer_that_the_provider_no_longer_has(model: OpenAIModel, provider: Provider) -> None:
    """It ends with an error that says so."""
    turn = asked("hi", None)
    said = (await carried(run_of(), model(turn)))[:8]
    provider.expire()

    def again(_turn: Turn) -> Any:
        return model.resume(turn, said)

    assert (await answer(again, turn))[-1]["code"] == "answer_expired"


async def test_what_is_said_before_an_answer_that_is_gone(model: OpenAIModel, provider: Provider) -> None:
    """Nothing, not even the begin of a message: it can still be answered in another way. There is nothing to cancel."""
    turn = asked("hi", None)
    said = await carried(run_of(), model(turn))
    first = next(at for at, chunk in enumerate(said) if chunk["type"] == "CUSTOM") + 1
    provider.expire()
    output: Any = model.resume(turn, said[:first])
    with pytest.raises(CannotResume):
        assert [chunk async for chunk in output if chunk["type"] != WORKING] == ["nothing is yielded"]
    assert provider.cancelled == []


async def test_lost_connections(model: OpenAIModel, provider: Provider) -> None:
    """A connection that is lost in the middle is made again, and no token is lost or repeated."""
    whole = content(await answer(model, asked("hi", None)))
    provider.cuts = [7, 1, 3, 0, 6, 2]
    assert content(await answer(model, asked("hi", None))) == whole
    assert len(provider.created) == 2
    assert not provider.cuts


async def test_a_connection_that_brings_nothing(
    model: OpenAIModel, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not made again without end, and the answer is cancelled."""
    monkeypatch.setattr(retries, "WAIT_MAX_S", 0.01)
    provider.cuts = [7, *([0] * (REJOINS_MAX + 5))]
    made = await answer(model, asked("hi", None))
    assert made[-1]["code"] == "provider_disconnected"
    assert len(provider.retrieved) == REJOINS_MAX + 1
    assert provider.cancelled == ["resp_0"]


async def test_a_stop_cancels_at_the_provider(model: OpenAIModel, provider: Provider) -> None:
    """It costs no more tokens."""
    provider.release(13)  # up to the first text
    seen = asyncio.Event()

    async def read() -> None:
        async for chunk in model(asked("hi", None)):
            if chunk["type"] == "TEXT_MESSAGE_CONTENT":
                seen.set()

    task = asyncio.create_task(read())
    async with asyncio.timeout(WAIT_MAX_S):
        await seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert provider.cancelled == ["resp_0"]


async def test_a_run_that_another_process_has_taken_up(model: OpenAIModel, provider: Provider) -> None:
    """Its response goes on: the process that lost the run must not cancel the answer of the other."""

    async def lost() -> None:
        raise RuntimeError("fenced")

    saves = iter([_nothing, lost])

    async def saved() -> None:
        await next(saves)()

    async with aclosing(model(replace(asked("hi", None), saved=saved))) as chunks:
        async for chunk in chunks:
            if chunk["type"] == "TEXT_MESSAGE_CONTENT":
                break
    assert provider.cancelled == []


async def _nothing() -> None:
    """All is durable."""
