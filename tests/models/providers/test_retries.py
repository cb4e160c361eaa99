"""What a provider refuses for a moment is asked again, before the first token only; a stop ends the wait at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from email.utils import formatdate
from time import time
from typing import Any

import httpx
import pytest
import stamina

from durable_chat.models.anthropic.client import AnthropicModel
from durable_chat.models.openai.client import OpenAIModel
from durable_chat.models.providers import retries
from durable_chat.models.providers.failures import TransientError, failure_of, seconds_of
from tests.models.aimock import KEY, Aimock, answer, asked, folded
from tests.models.scripted import Script, scripted

WAIT_MAX_S = 30.0
PROVIDERS = ("anthropic", "chat", "responses")

# The beginning of an answer of each provider, without a token, and its first token.
BEGINNINGS: dict[str, list[dict[str, Any]]] = {
    "anthropic": [
        {
            "type": "message_start",
            "message": {"id": "m1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": {}},
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ],
    "chat": [
        {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"role": "assistant"}}]},
    ],
    "responses": [
        {"type": "response.created", "response": {"id": "r", "model": "m", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "id": "m"}},
    ],
}
TOKENS: dict[str, dict[str, Any]] = {
    "anthropic": {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    "chat": {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "Hi"}}]},
    "responses": {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Hi"},
}
ERRORS: dict[str, dict[str, Any]] = {
    "anthropic": {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}},
    "chat": {"error": {"type": "x", "code": "rate_limit_exceeded", "message": "busy"}},
    "responses": {"type": "error", "code": "rate_limit_exceeded", "message": "busy"},
}
BUSY = {"type": "error", "error": {"type": "rate_limit_error", "message": "wait"}}

Model = AnthropicModel | OpenAIModel


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits of the tests are short."""
    monkeypatch.setattr(retries, "WAIT_MAX_S", 0.01)


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aimock]:
    mock = Aimock(tmp_path_factory.mktemp("aimock"))
    mock.start()
    yield mock
    mock.kill()


@pytest.fixture
async def waiting() -> AsyncIterator[asyncio.Event]:
    """Set when a model waits for its next attempt."""
    event = asyncio.Event()
    stamina.instrumentation.set_on_retry_hooks([lambda details: event.set()])
    yield event
    stamina.instrumentation.set_on_retry_hooks(None)


def made(provider: str, url: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Model:
    """A model whose provider is at the address."""
    if provider == "anthropic":
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
        return AnthropicModel("m", **options)
    return OpenAIModel("m", api="chat" if provider == "chat" else "responses", base_url=f"{url}/v1", **options)


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def model(provider: str, aimock: Aimock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Model]:
    await reset(aimock)
    made_model = made(provider, aimock.url, monkeypatch)
    yield made_model
    await made_model.aclose()


async def reset(aimock: Aimock) -> None:
    """Forget the requests so far, so that the first request of a test is a first one."""
    async with httpx.AsyncClient() as client:
        answered = await client.post(f"{aimock.url}/__aimock/reset/journal", headers={"x-api-key": KEY})
        answered.raise_for_status()


@pytest.mark.parametrize("words", ["busy once", "down once", "full once"])
async def test_a_failure_that_passes(model: Model, aimock: Aimock, provider: str, words: str) -> None:
    """429, 503 and 529 are asked again, and nobody sees it."""
    assert folded(await answer(model, asked(f"{provider} {words}"))) == [{"type": "text", "content": "Back again."}]
    assert len(await aimock.requests()) == 2


async def test_a_failure_that_stays(model: Model, aimock: Aimock) -> None:
    """It ends the run after the last attempt. The packages' own retries do not multiply ours."""
    made = await answer(model, asked("overloaded"))
    assert made[-1]["code"] == "overloaded"
    assert len(await aimock.requests()) == retries.RETRIES_MAX + 1


@pytest.mark.parametrize("words", ["garbage", "hang up"])
async def test_what_is_no_answer(model: Model, aimock: Aimock, words: str) -> None:
    """Without a single token it is asked again."""
    made = await answer(model, asked(words))
    assert made[-1]["code"] in ("provider_disconnected", "provider_unreachable")
    assert len(await aimock.requests()) == retries.RETRIES_MAX + 1


@pytest.mark.parametrize("words", ["wrong key", "invalid", "no credit"])
async def test_what_does_not_pass(model: Model, aimock: Aimock, words: str) -> None:
    """A request that the provider refuses is not sent twice."""
    await answer(model, asked(words))
    assert len(await aimock.requests()) == 1


async def test_a_long_wait_is_not_waited_for(model: Model, aimock: Aimock) -> None:
    """A provider that says to come back in an hour is not asked again: the person is told."""
    made = await answer(model, asked("wait long"))
    assert made[-1]["code"] == "rate_limited"
    assert len(await aimock.requests()) == 1


async def test_a_cut_after_the_first_token(model: Model, aimock: Aimock) -> None:
    """What was said would be said twice, so the answer ends."""
    made = await answer(model, asked("cut"))
    assert made[-1]["code"] == "provider_disconnected"
    assert len(await aimock.requests()) == 1


def address(url: str) -> str:
    return url.removesuffix("/v1")


@pytest.mark.parametrize("said", [0, 1], ids=["before the first token", "after it"])
@pytest.mark.parametrize("end", ["error", "cut"])
async def test_a_stream_that_fails(provider: str, end: str, said: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that has begun is asked for again if it fails before its first token, and then only."""
    events = BEGINNINGS[provider] + [TOKENS[provider]] * said + ([ERRORS[provider]] if end == "error" else [])
    script = Script(events)
    async with scripted(script) as url:
        model = made(provider, address(url), monkeypatch, options={"reasoning": {}} if provider == "responses" else {})
        chunks = await answer(model, asked("hi"))
        await model.aclose()
    assert len(script.asked) == (1 if said else retries.RETRIES_MAX + 1)
    assert chunks[-1]["type"] == "RUN_ERROR"
    assert [part["content"] for part in folded(chunks)] == ["Hi"] * said


async def test_a_provider_that_cannot_be_reached(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(provider, "http://127.0.0.1:1", monkeypatch)
    items = []

    async def read() -> None:
        async for item in model(asked("hi")):
            items.append(item["type"])  # noqa: PERF401 - the failure follows

    with pytest.raises(TransientError) as raised:
        await read()
    await model.aclose()
    assert raised.value.code == "provider_unreachable"
    assert items == ["WORKING"] * retries.RETRIES_MAX  # so that the wait does not count as a stall


async def test_a_stop_ends_the_wait(provider: str, waiting: asyncio.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped run does not wait for the provider, and does not ask it again."""
    script = Script(BUSY, status=429, headers={"retry-after": "25"})
    async with scripted(script) as url:
        model = made(provider, address(url), monkeypatch)
        task = asyncio.create_task(answer(model, asked("hi")))
        async with asyncio.timeout(WAIT_MAX_S):  # far less than the provider asks for
            await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await model.aclose()
    assert len(script.asked) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("", None), ("3", 3.0), ("0.5", 0.5), ("-1", 0.0), ("soon", None), ("nan", None), ("inf", None)],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert seconds_of(header) == seconds


def test_retry_after_as_a_date() -> None:
    """Both forms of the header are understood."""
    assert 0 < (seconds_of(formatdate(time() + 20, usegmt=True)) or 0) <= 20
    assert seconds_of(formatdate(time() - 20, usegmt=True)) == 0


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 422, 429, 500, 502, 503, 504, 529])
def test_which_statuses_pass(status: int) -> None:
    assert isinstance(failure_of(status), TransientError) == (status == 429 or status >= 500)
