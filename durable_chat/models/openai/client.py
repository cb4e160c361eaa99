"""
OpenAI's models, and those of compatible servers. The package `openai` is imported when it is first used.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from durable_chat.models.base import Output, ProviderError, Turn
from durable_chat.models.openai import background, completions, responses
from durable_chat.models.openai.answers import PROVIDER
from durable_chat.models.openai.completions import CompletionAnswer
from durable_chat.models.openai.errors import ReasoningRefused, translated
from durable_chat.models.openai.messages import with_fitting_calls
from durable_chat.models.openai.responses import ResponseAnswer
from durable_chat.models.providers import failures
from durable_chat.models.providers.connections import Pools, check_provider_key
from durable_chat.models.providers.files import Messages, answer_without_refused_files
from durable_chat.models.providers.retries import RETRIES_MAX, STILL_WORKING, Events, retried
from durable_chat.transcripts.chunks import Chunk

if TYPE_CHECKING:  # the package takes a second to import
    from openai import AsyncOpenAI

KEY_VARIABLE = "OPENAI_API_KEY"
URL_VARIABLE = "OPENAI_BASE_URL"
URL_DEFAULT = "https://api.openai.com/v1"

NO_KEY = "none"
"""The key for a server that needs none. The package insists on one."""

Api = Literal["chat", "responses"]

_COUNTED = ("model", "input", "instructions", "reasoning", "text", "tools")
"""The fields of a request that OpenAI counts."""


class OpenAIModel:
    """
    A model behind OpenAI's API. `options` are added to each request unchanged (`temperature`, `reasoning`, `text`, …).
    With `background`, answers of the Responses API go on at the provider when this process dies. State: one connection
    pool for each event loop, shared by all keys; whether the model refused to summarize its reasoning.
    """

    def __init__(
        self,
        name: str,
        *,
        api: Api | None = None,
        key: str | None = None,
        base_url: str | None = None,
        background: bool = False,
        max_retries: int = RETRIES_MAX,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Create a model. `key` is used for turns without their own key; it and `base_url` default to the environment's.
        `api` defaults to the Responses API at OpenAI itself, and to Chat Completions at any other address.
        """
        self.name = name
        self._url = base_url or os.environ.get(URL_VARIABLE, "").strip() or None
        self._key = key or os.environ.get(KEY_VARIABLE, "").strip() or None
        self.api: Api = api or ("chat" if self._url else "responses")
        self.background = background
        if background and self.api != "responses":
            raise ValueError("Only the Responses API has background answers.")
        self._max_retries = max_retries
        self._options = dict(options or {})
        self._pools = Pools(_new_pool)
        self._summarizes = True

    def __repr__(self) -> str:
        return f"OpenAIModel({self.name!r}, api={self.api!r})"

    @property
    def provider(self) -> str:
        """Who gets the keys: OpenAI, or the server at another address."""
        return self._url or PROVIDER

    @property
    def secrets(self) -> tuple[str, ...]:
        """The model's own key, which must never be shown."""
        return (self._key,) if self._key else ()

    def check(self, api_key: str | None) -> None:
        """
        Check the key of the turn or the environment. Raises Unauthorized when OpenAI would get none, or it contains
        invalid characters. Another server may need no key.
        """
        key = api_key or self._key
        if key or self._url is None:
            check_provider_key(key, KEY_VARIABLE)

    async def __call__(self, turn: Turn, /) -> AsyncGenerator[Chunk, None]:
        answer = self._complete if self.api == "chat" else self._respond
        async with aclosing(answer_without_refused_files(partial(answer, turn), turn.messages)) as made:
            async for chunk in made:
                yield chunk

    def resume(self, turn: Turn, said: Sequence[Chunk], /) -> Output | None:
        """Go on with a background answer. See `models.base.Resumable`."""
        mark = background.last_mark(said)
        if mark is None or (mark.own_key and not turn.api_key):
            return None  # the provider shows a response only to the account that asked for it
        return self._join(turn, mark)

    async def count_tokens(self, turn: Turn) -> int | None:
        """
        Return the tokens of a request for this turn, as OpenAI counts them. Return None if there is nothing to answer,
        or nobody counts: compatible servers do not. Raises what the package raises.
        """
        if self.api != "responses" or self._url is not None:
            return None
        given = with_fitting_calls(await turn.openai_responses_messages())
        if not given:
            return None
        client = await self._client(turn)
        request = {"model": self.name, **responses.response_request(given, turn.tools), **self._options}
        counted = {name: request[name] for name in _COUNTED if name in request}
        return (await client.responses.input_tokens.count(**counted)).input_tokens

    async def aclose(self) -> None:
        """Close the connections of the current event loop."""
        await self._pools.aclose()

    async def _complete(self, turn: Turn, messages: Messages) -> AsyncGenerator[Chunk, None]:
        """Answer with Chat Completions."""
        given = with_fitting_calls(await replace(turn, messages=messages).openai_messages())
        if not given:
            raise ProviderError(*failures.NO_MESSAGE)
        client = await self._client(turn)
        request = {"model": self.name, **completions.completion_request(given, turn.tools), **self._options}
        open_stream = partial(client.chat.completions.create, **request, stream=True)
        ask = partial(translated, open_stream, completions.check_event, completions.is_last)
        structured = _is_json(request.get("response_format"))
        answer = CompletionAnswer(turn, self.name, structured=structured)
        async with aclosing(retried(ask, completions.has_content, self._max_retries)) as events:
            async for event in events:
                made = [] if event is None else answer.take(event)
                for chunk in made or [STILL_WORKING]:
                    yield chunk
        yield answer.finished()

    async def _respond(self, turn: Turn, messages: Messages) -> AsyncGenerator[Chunk, None]:
        """Answer with the Responses API."""
        given = with_fitting_calls(await replace(turn, messages=messages).openai_responses_messages())
        if not given:
            raise ProviderError(*failures.NO_MESSAGE)
        client = await self._client(turn)
        request = {"model": self.name, **responses.response_request(given, turn.tools), **self._options}
        answer = self._response_answer(turn)
        if self.background:
            ask = partial(self._ask, client, {**request, "background": True, "store": True})
            made = background.start(client, turn, answer, ask, self._max_retries)
        else:
            made = _foreground(answer, partial(self._ask, client, request), self._max_retries)
        async with aclosing(made):
            async for chunk in made:
                yield chunk
        yield answer.finished()

    async def _join(self, turn: Turn, mark: background.Mark) -> AsyncGenerator[Chunk, None]:
        client = await self._client(turn)
        answer = self._response_answer(turn)
        async with aclosing(background.join(client, turn, answer, mark)) as made:
            async for chunk in made:
                yield chunk
        yield answer.finished()

    def _response_answer(self, turn: Turn) -> ResponseAnswer:
        text = self._options.get("text")
        return ResponseAnswer(turn, self.name, structured=_is_json(text.get("format") if text else None))

    async def _ask(self, client: AsyncOpenAI, request: dict[str, Any]) -> Events:
        """
        Yield the events of a new response. Summaries of the reasoning are asked for, and done without where they are
        refused: no list of models says which ones have them.
        """
        create = client.responses.create
        rules = (responses.check_event, responses.is_last)
        if self._summarizes and "reasoning" not in request:
            asked = {**request, "reasoning": {"summary": "auto"}}
            try:
                async with aclosing(translated(partial(create, **asked, stream=True), *rules)) as events:
                    async for event in events:
                        yield event
                return
            except ReasoningRefused as refused:
                self._summarizes = not refused.by_model
        async with aclosing(translated(partial(create, **request, stream=True), *rules)) as events:
            async for event in events:
                yield event

    async def _client(self, turn: Turn) -> AsyncOpenAI:
        """
        Return a client with the turn's key on the shared connections. The first call is slow, because it imports the
        package.
        """
        self.check(turn.api_key)
        pool = await self._pools.get()
        from openai import AsyncOpenAI

        key = turn.api_key or self._key or NO_KEY
        client = AsyncOpenAI(api_key=key, base_url=self._url or URL_DEFAULT, max_retries=0, http_client=pool)
        if turn.api_key:  # the environment's organization is not that of a user's own key
            client.organization = client.project = None
        return client


async def _foreground(answer: ResponseAnswer, ask: Any, retries_max: int) -> AsyncGenerator[Chunk, None]:
    async with aclosing(retried(ask, responses.has_content, retries_max)) as events:
        async for event in events:
            made = [] if event is None else answer.take(event)
            for chunk in made or [STILL_WORKING]:
                yield chunk


def _new_pool() -> Any:
    """
    Create the package's HTTP client. Importing the package takes a second, and reading the certificates takes time too.
    """
    from openai import DefaultAsyncHttpxClient

    return DefaultAsyncHttpxClient()


def _is_json(response_format: Any) -> bool:
    """Return whether the developer asks for structured output."""
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    return kind in ("json_schema", "json_object")
