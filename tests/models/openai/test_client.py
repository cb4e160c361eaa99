"""OpenAI's two APIs against npm's aimock, a process with OpenAI's wire formats, and against servers of few words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from durable_chat.config.settings import Settings
from durable_chat.errors import Unauthorized
from durable_chat.models.agents import Agent
from durable_chat.models.base import ToolSpec, Turn
from durable_chat.models.openai import client
from durable_chat.models.openai.client import Api, OpenAIModel
from durable_chat.models.tools import Tools, make_tool
from durable_chat.sessions.running.run import server_secrets
from durable_chat.transcripts.chunks import encode_chunk
from tests.conftest import Serve
from tests.models.aimock import KEY, LONG, REFUSALS, Aimock, answer, asked, check_refusal, folded, of_type, turn_of
from tests.models.scripted import Script, scripted

MODEL = "gpt-5"
APIS: tuple[Api, ...] = ("chat", "responses")


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aimock]:
    mock = Aimock(tmp_path_factory.mktemp("aimock"))
    mock.start()
    yield mock
    mock.kill()


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture(params=APIS)
async def model(aimock: Aimock, request: pytest.FixtureRequest) -> AsyncIterator[OpenAIModel]:
    made = OpenAIModel(MODEL, api=request.param, base_url=f"{aimock.url}/v1", max_retries=0)
    yield made
    await made.aclose()


async def test_text(model: OpenAIModel) -> None:
    """Deltas in order, one message, and the usage."""
    made = await answer(model, asked("say hello"))
    assert folded(made) == [{"type": "text", "content": "Hello to you."}]
    assert made[-1]["metadata"]["tanstack"]["finishReason"] == "stop"
    counts = {"inputTokens": 12, "outputTokens": 4, "totalTokens": 16}
    assert made[-1]["usage"] == [{"provider": "openai", "model": MODEL, **counts}]


async def test_thinking(model: OpenAIModel) -> None:
    """The summary of the reasoning is shown before the text."""
    thought, text = folded(await answer(model, asked("think")))
    assert (thought["type"], thought["content"]) == ("thinking", "I must think about it for long.")
    assert text == {"type": "text", "content": "Done."}


async def test_tool_use(model: OpenAIModel) -> None:
    """Text and call are in one message, and the model itself says that it waits for the result."""
    turn = asked("use a tool")
    made = await answer(model, turn)
    text, call = folded(made)
    assert text["content"] == "Let me look."
    assert (call["name"], call["input"], call["state"]) == ("look", {"where": "here"}, "input-complete")
    start = of_type(made, "TOOL_CALL_START")[0]
    assert start["parentMessageId"] == of_type(made, "TEXT_MESSAGE_START")[0]["messageId"]
    last = [chunk async for chunk in model(turn)][-1]
    assert last["metadata"]["tanstack"]["finishReason"] == "tool_calls"


async def test_the_tool_loop(model: OpenAIModel, aimock: Aimock) -> None:
    """The tool is offered and called once, and its result is given back."""
    calls = []

    async def look(where: str) -> str:
        """Look around."""
        calls.append(where)
        return "there"

    agent = Agent(model, Tools([make_tool(look)]))
    parts = folded(await answer(agent, asked("use a tool")))
    assert calls == ["here"]
    assert [part["type"] for part in parts] == ["text", "tool-call", "tool-result", "text"]
    assert parts[-1]["content"] == "It is there."
    body = (await aimock.requests())[-1]["body"]
    assert [body["messages"][at]["role"] for at in (0, 1, -1)] == ["user", "assistant", "tool"]
    assert body["messages"][-1]["content"] == "there"
    function = body["tools"][0]["function"]
    assert (function["name"], function["description"]) == ("look", "Look around.")
    assert function["parameters"]["required"] == ["where"]


async def test_a_full_answer(model: OpenAIModel) -> None:
    """An answer that was cut by its length ends the run without an error, and with the reason."""
    made = await answer(model, asked("too long"))
    assert made[-1]["metadata"]["tanstack"]["finishReason"] == "length"
    assert folded(made)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        *REFUSALS,
        ("out of quota", "billing"),
        ("context", "request_too_large"),
    ],
)
async def test_provider_errors(model: OpenAIModel, words: str, code: str) -> None:
    """Each has a code for programs and a sentence for people. The provider's text is not shown."""
    made = await answer(model, asked(words))
    check_refusal(made, code)


async def test_a_connection_cut_in_the_middle(model: OpenAIModel) -> None:
    """The text before the cut is kept, and the run ends with an error that says what happened."""
    made = await answer(model, asked("cut"))
    assert made[-1]["code"] == "provider_disconnected"
    (text,) = folded(made)
    assert LONG.startswith(text["content"])
    assert text["content"]


@pytest.mark.parametrize("words", ["garbage", "hang up"])
async def test_what_is_no_answer(model: OpenAIModel, words: str) -> None:
    """A server that sends something else, or nothing, ends the run with an error."""
    made = await answer(model, asked(words))
    assert made[-1]["code"] in ("provider_disconnected", "provider_unreachable")
    assert not folded(made)


async def test_a_slow_drip(model: OpenAIModel) -> None:
    """A character at a time is one whole text."""
    assert folded(await answer(model, asked("slow drip"))) == [{"type": "text", "content": LONG}]


async def test_a_wrong_key(model: OpenAIModel) -> None:
    """The server refuses it, and no chunk contains the key."""
    wrong = "another-key-9876543210"
    made = await answer(model, asked("say hello", wrong))
    assert made[-1]["code"] == "invalid_api_key"
    assert wrong.encode() not in b"".join(map(encode_chunk, made))


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
async def test_what_cannot_be_a_key_is_refused(model: OpenAIModel, key: str) -> None:
    with pytest.raises(Unauthorized) as raised:
        model.check(key)
    assert raised.value.code == "invalid_api_key"


async def test_openai_needs_a_key() -> None:
    with pytest.raises(Unauthorized) as raised:
        OpenAIModel(MODEL).check(None)
    assert raised.value.code == "missing_api_key"
    OpenAIModel(MODEL).check(KEY)


async def test_the_environments_key_is_used_and_hidden(aimock: Aimock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{aimock.url}/v1")
    own = OpenAIModel(MODEL)
    own.check(None)
    assert KEY not in repr(own)
    assert own.secrets == (KEY,)
    assert KEY in server_secrets(Settings())
    assert folded(await answer(own, asked("say hello", None)))
    await own.aclose()


async def test_nothing_to_answer(model: OpenAIModel) -> None:
    made = await answer(model, turn_of([{"id": "s", "role": "system", "parts": [{"type": "text", "content": "obey"}]}]))
    assert made[-1]["code"] == "no_message"


# Against a server whose bytes the test decides.


def chunk(delta: dict[str, Any], **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": fields.pop("reason", None)}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **fields}


async def test_a_server_without_keys() -> None:
    """vLLM and Ollama need none: the address alone selects Chat Completions and asks for no key."""
    script = Script([chunk({"content": "Hi."}), chunk({}, reason="stop")])
    async with scripted(script) as url:
        model = OpenAIModel("llama", base_url=url)
        model.check(None)
        assert model.api == "chat"
        assert folded(await answer(model, asked("hi", None))) == [{"type": "text", "content": "Hi."}]
        await model.aclose()
    assert script.asked[0].path == "/v1/chat/completions"


async def test_the_organization_belongs_to_the_servers_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI refuses a user's own key together with the organization of the server."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-the-server")
    script = Script([chunk({"content": "Hi."}), chunk({}, reason="stop")])
    async with scripted(script) as url:
        model = OpenAIModel("m", base_url=url, key=KEY)
        await answer(model, asked("hi", None))
        await answer(model, asked("hi", "key-of-the-user"))
        await model.aclose()
    ours, users = (each.headers for each in script.asked)
    assert (ours["authorization"], ours["openai-organization"]) == (f"Bearer {KEY}", "org-of-the-server")
    assert users["authorization"] == "Bearer key-of-the-user"
    assert "openai-organization" not in users


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_thinking_of_compatible_servers(field: str) -> None:
    """vLLM and Ollama have names of their own for it."""
    script = Script([chunk({field: "Hm"}), chunk({field: "m."}), chunk({"content": "Yes."}), chunk({}, reason="stop")])
    async with scripted(script) as url:
        model = OpenAIModel("m", base_url=url)
        thought, text = folded(await answer(model, asked("hi")))
        await model.aclose()
    assert (thought["content"], text["content"]) == ("Hmm.", "Yes.")


async def test_calls_without_ids_and_indexes() -> None:
    """Some servers send each call as a whole, and end with `stop`."""
    calls = [
        {"tool_calls": [{"function": {"name": "look", "arguments": '{"a":1}'}}]},
        {"tool_calls": [{"function": {"name": "find", "arguments": ""}}]},
    ]
    script = Script([*map(chunk, calls), chunk({}, reason="stop")])
    async with scripted(script) as url:
        model = OpenAIModel("m", base_url=url)
        made = [each async for each in model(asked("hi"))]
        parts = folded(await answer(model, asked("hi")))
        await model.aclose()
    assert [(part["name"], part["input"]) for part in parts] == [("look", {"a": 1}), ("find", {})]
    assert made[-1]["metadata"]["tanstack"]["finishReason"] == "tool_calls"


async def test_usage_with_its_details() -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 80},
        "completion_tokens_details": {"reasoning_tokens": 30},
    }
    last = {**chunk({}), "choices": [], "usage": usage}
    script = Script([chunk({"content": "Hi."}), chunk({}, reason="stop"), last])
    async with scripted(script) as url:
        model = OpenAIModel("m", base_url=url)
        made = await answer(model, asked("hi"))
        await model.aclose()
    counts = {"inputTokens": 100, "outputTokens": 50, "totalTokens": 150}
    details = {"reasoningTokens": 30, "cachedInputTokens": 80}
    assert made[-1]["usage"] == [{"provider": "openai", "model": "m", **counts, **details}]


async def test_a_refusal() -> None:
    """The words in which a model refuses are shown, and the reason says that it did."""
    script = Script([chunk({"refusal": "I can"}), chunk({"refusal": "not."}), chunk({}, reason="stop")])
    async with scripted(script) as url:
        model = OpenAIModel("m", base_url=url)
        made = await answer(model, asked("hi"))
        await model.aclose()
    assert folded(made) == [{"type": "text", "content": "I cannot."}]
    assert made[-1]["metadata"]["tanstack"]["finishReason"] == "content_filter"


async def test_structured_output() -> None:
    """Where the developer asks for JSON, clients get it as a value."""
    script = Script([chunk({"content": '{"a":'}), chunk({"content": "1}"}), chunk({}, reason="stop")])
    options = {"response_format": {"type": "json_object"}}
    async with scripted(script) as url:
        model = OpenAIModel("m", base_url=url, options=options)
        (part,) = folded(await answer(model, asked("hi")))
        await model.aclose()
    assert (part["type"], part["raw"], part["data"]) == ("structured-output", '{"a":1}', {"a": 1})
    assert script.asked[0].body["response_format"] == {"type": "json_object"}


async def test_ids_and_names_of_other_providers() -> None:
    """OpenAI refuses long ids and names with other characters. A call and its result keep one id."""
    script = Script([chunk({"content": "Hi."}), chunk({}, reason="stop")])
    call_id = "x" * 90
    parts = [
        {"type": "tool-call", "id": call_id, "name": "my.tool", "arguments": "{}", "state": "complete", "output": 1},
    ]
    turn = turn_of([dict(asked("hi").messages[0]), {"id": "a", "role": "assistant", "parts": parts}])
    async with scripted(script) as url:
        model = OpenAIModel("m", base_url=url)
        await answer(model, turn)
        await model.aclose()
    call, result = script.asked[0].body["messages"][1:]
    assert call["tool_calls"][0]["function"]["name"] == "my_tool"
    assert call["tool_calls"][0]["id"] == result["tool_call_id"]
    assert len(result["tool_call_id"]) <= 40


PNG = {"type": "image", "source": {"type": "data", "value": "iVBORw0KGgo=", "mimeType": "image/png"}}
PDF = {"type": "document", "source": {"type": "data", "value": "JVBERi0=", "mimeType": "application/pdf"}}


def with_files() -> Turn:
    return turn_of([{"id": "u", "role": "user", "parts": [{"type": "text", "content": "look"}, PNG, PDF]}])


@pytest.mark.parametrize("api", APIS)
async def test_files(api: Api) -> None:
    """Images and PDF files are sent. A server that refuses them is asked again, with a sentence for each."""
    script = Script(
        {"error": {"message": "no", "type": "invalid_request_error", "code": None, "param": "messages"}}, status=400
    )
    async with scripted(script) as url:
        model = OpenAIModel("m", api=api, base_url=url, options={"reasoning": {}} if api == "responses" else {})
        made = await answer(model, with_files())
        await model.aclose()
    assert made[-1]["code"] == "provider_refused_request"
    first, second = (json.dumps(each.body) for each in script.asked)
    assert "data:image/png;base64,iVBORw0KGgo=" in first
    assert "data:application/pdf;base64,JVBERi0=" in first
    assert "base64" not in second
    assert second.count("could not be read") == 2


async def test_the_reasoning_is_summarized_where_the_model_does_it() -> None:
    """A model that refuses is asked again without, and from then on never again."""
    unsupported = {"message": "no", "type": "invalid_request_error", "param": "reasoning.summary"}
    refusal = {"error": {**unsupported, "code": "unsupported_parameter"}}
    ends = [
        {"type": "response.created", "response": response()},
        {"type": "response.completed", "response": response()},
    ]
    script = Script(refusal, status=400).then(ends)
    async with scripted(script) as url:
        model = OpenAIModel("m", api="responses", base_url=url)
        for _ in range(2):
            made = await answer(model, asked("hi"))
            assert made[-1]["type"] == "RUN_FINISHED"
        await model.aclose()
    assert [each.body.get("reasoning") for each in script.asked] == [{"summary": "auto"}, None, None]
    assert all(each.body["store"] is False for each in script.asked)


def response(**fields: Any) -> dict[str, Any]:
    return {"id": "resp_1", "object": "response", "model": "m", "status": "completed", "output": [], **fields}


async def test_a_filtered_answer() -> None:
    """Both APIs say it in their own way."""
    cut = response(status="incomplete", incomplete_details={"reason": "content_filter"})
    events = [{"type": "response.created", "response": response()}, {"type": "response.incomplete", "response": cut}]
    filtered = {"chat": [chunk({"content": "Hi"}), chunk({}, reason="content_filter")], "responses": events}
    for api in APIS:
        async with scripted(Script(filtered[api])) as url:
            model = OpenAIModel("m", api=api, base_url=url)
            made = await answer(model, asked("hi"))
            await model.aclose()
        assert made[-1]["metadata"]["tanstack"]["finishReason"] == "content_filter"


async def test_a_response_that_fails_in_the_middle() -> None:
    """What was said is kept, and the error has the code of its cause."""
    error = {"code": "rate_limit_exceeded", "message": f"for {KEY}"}
    events = [
        {"type": "response.created", "response": response()},
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "id": "m1"}},
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Hi"},
        {"type": "response.failed", "response": response(status="failed", error=error)},
    ]
    async with scripted(Script(events)) as url:
        model = OpenAIModel("m", api="responses", base_url=url)
        made = await answer(model, asked("hi"))
        await model.aclose()
    assert made[-1]["code"] == "rate_limited"
    assert folded(made) == [{"type": "text", "content": "Hi"}]


async def test_a_message_that_comes_as_a_whole() -> None:
    """A server may send no deltas."""
    item = {"type": "message", "id": "m1", "role": "assistant", "content": []}
    content = [{"type": "output_text", "text": "All at once.", "annotations": []}]
    events = [
        {"type": "response.created", "response": response()},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.output_item.done", "output_index": 0, "item": {**item, "content": content}},
        {"type": "response.completed", "response": response()},
    ]
    async with scripted(Script(events)) as url:
        model = OpenAIModel("m", api="responses", base_url=url)
        assert folded(await answer(model, asked("hi"))) == [{"type": "text", "content": "All at once."}]
        await model.aclose()


@pytest.mark.parametrize("api", APIS)
async def test_a_tool_without_arguments(api: Api) -> None:
    """OpenAI refuses a schema without properties."""
    events = [chunk({"content": "Hi."}), chunk({}, reason="stop")]
    script = Script(events if api == "chat" else [{"type": "response.completed", "response": response()}])
    turn = replace(asked("hi"), tools=(ToolSpec("look", "", {"type": "object"}),))
    async with scripted(script) as url:
        model = OpenAIModel("m", api=api, base_url=url)
        await answer(model, turn)
        await model.aclose()
    (tool,) = script.asked[0].body["tools"]
    assert tool.get("function", tool)["parameters"] == {"type": "object", "properties": {}}


@pytest.mark.parametrize("api", APIS)
async def test_a_cancelled_answer_closes_the_connection_at_once(api: Api) -> None:
    """A stop costs no more tokens: the provider sees the disconnect while it is still sending."""
    events = [chunk({"content": "Hi"})]
    if api == "responses":
        events = [
            {"type": "response.created", "response": response()},
            {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "id": "m1"}},
            {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Hi"},
        ]
    script = Script(events, hangs=True)
    async with scripted(script) as url:
        model = OpenAIModel("m", api=api, base_url=url)
        seen = asyncio.Event()

        async def read() -> None:
            async for each in model(asked("talk")):
                if each["type"] == "TEXT_MESSAGE_CONTENT":
                    seen.set()

        task = asyncio.create_task(read())
        async with asyncio.timeout(10):
            await seen.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await script.left.wait()
        await model.aclose()


async def test_tools_of_the_client_are_offered(aimock: Aimock) -> None:
    model = OpenAIModel(MODEL, api="responses", base_url=f"{aimock.url}/v1")
    tool = ToolSpec("look", "", {"type": "object", "properties": {"where": {"type": "string"}}})
    turn = asked("say hello")
    await answer(model, Turn(turn.messages, "s", "run-1", api_key=KEY, tools=(tool,)))
    await model.aclose()
    assert (await aimock.requests())[-1]["body"]["tools"][0]["function"]["name"] == "look"


async def test_openai_counts_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A context is measured as OpenAI counts it. Other servers are not asked."""
    script = Script({"object": "response.input_tokens", "input_tokens": 42})
    async with scripted(script) as url:
        monkeypatch.setattr(client, "URL_DEFAULT", url)
        model = OpenAIModel("m")
        assert await model.count_tokens(asked("hi")) == 42
        assert await model.count_tokens(turn_of([])) is None
        assert await OpenAIModel("m", base_url=url).count_tokens(asked("hi")) is None
        await model.aclose()
    assert [each.path for each in script.asked] == ["/v1/responses/input_tokens"]
    assert set(script.asked[0].body) == {"model", "input"}


def test_the_key_of_a_turn_stays_in_it(serve: Serve, aimock: Aimock) -> None:
    """A user's own key is used through the whole server, and is neither in its log nor in its files."""
    server = serve(DURABLE_CHAT_MODEL="openai:gpt-5", OPENAI_BASE_URL=f"{aimock.url}/v1")
    body = {"messages": [{"id": "u", "role": "user", "parts": [{"type": "text", "content": "say hello"}]}]}
    query = {"id": "s", "mode": "await"}
    done = httpx.post(f"{server.url}/api/chat", params=query, json=body, headers={"x-api-key": KEY}, timeout=60)
    assert done.status_code == 200, done.text
    found = httpx.get(f"{server.url}/api/chat-snapshot", params={"id": "s"}, timeout=20).json()
    assert [part["content"] for message in found["messages"] for part in message["parts"]][1] == "Hello to you."
    server.terminate()
    files = [file.read_bytes() for file in server.folder.rglob("*") if file.is_file()]
    assert files
    assert not any(KEY.encode() in content for content in files)
