"""The library functions' responses with the stock parsers: TanStack AI's connections and the AI SDK's transport."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.interop.playing import Facts, play
from tests.servers import Process

APP = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from durable_chat import (
    ProviderError,
    to_http_response,
    to_server_sent_events_response,
    to_ui_message_stream_response,
)

async def source(body):
    yield {"type": "REASONING_MESSAGE_CONTENT", "delta": "Hm."}
    yield "Let me "
    yield "look. "
    yield {"type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "weather"}
    yield {"type": "TOOL_CALL_ARGS", "toolCallId": "c1", "delta": "{}"}
    yield {"type": "TOOL_CALL_RESULT", "toolCallId": "c1", "content": "sunny"}
    if b"fail" in body:
        raise ProviderError("The provider is busy.", "busy")
    yield "It is sunny."

def route(path, respond):
    async def answer(request):
        return await respond(source(await request.body()))

    return Route(path, answer, methods=["POST"])

app = Starlette(routes=[
    Route("/readyz", lambda request: PlainTextResponse("ready")),
    route("/sse", to_server_sent_events_response),
    route("/ndjson", to_http_response),
    route("/ui", to_ui_message_stream_response),
])
"""


class Wires(Process):
    """The application under plain uvicorn."""

    ready_path = "/readyz"


@pytest.fixture(scope="module")
def wires(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("wires")
    (folder / "app.py").write_text(APP)
    command = (sys.executable, "-m", "uvicorn", "app:app", "--app-dir", ".", "--port", "{port}")
    process = Wires(command, folder, {})
    process.start()
    yield process
    process.kill()


@pytest.mark.parametrize("wire", ["sse", "ndjson"])
@pytest.mark.parametrize("text", ["hello", "fail"])
def test_tanstack(wires: Process, wire: str, text: str) -> None:
    """`useChat`'s client shows thinking, text, the call and its result, and gets the error message of a failure."""
    facts: Facts = play("wires.mjs", "tanstack", url=f"{wires.url}/{wire}", wire=wire, text=text)
    shown = [(part["type"], part.get("content")) for part in facts["parts"]]
    said = [("thinking", "Hm."), ("text", "Let me look. "), ("tool-call", None), ("tool-result", "sunny")]
    assert shown == (said if text == "fail" else [*said, ("text", "It is sunny.")])
    assert facts["errors"] == (["The provider is busy."] if text == "fail" else [])


@pytest.mark.parametrize("version", ["ai-6", "ai-7"])
@pytest.mark.parametrize("text", ["hello", "fail"])
def test_ai_sdk(wires: Process, version: str, text: str) -> None:
    """The AI SDK's reader folds the same content, in its own parts."""
    facts: Facts = play("wires.mjs", "sdk", url=f"{wires.url}/ui", version=version, text=text)
    shown = [(part["type"], part.get("text")) for part in facts["parts"] if part["type"] != "step-start"]
    said = [("reasoning", "Hm."), ("text", "Let me look. "), ("tool-weather", None)]
    assert shown == (said if text == "fail" else [*said, ("text", "It is sunny.")])
    assert facts["errors"] == (["The provider is busy."] if text == "fail" else [])
