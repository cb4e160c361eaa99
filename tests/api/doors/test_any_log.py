"""Every response format accepts any JSON between the chunks of a run: no appended value ends a response early."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings

from durable_chat.api.doors.agui.wire import AguiWire, Client
from durable_chat.api.doors.ai_sdk.routes import UIMessageWire
from durable_chat.api.doors.assistant.state import StateWire
from durable_chat.api.doors.copilotkit import ConnectWire
from durable_chat.api.doors.tanstack_wire import ndjson_wire, sse_wire
from durable_chat.api.doors.wires import RunPart, Wire
from durable_chat.http.upstream.reader import RemoteBatch
from durable_chat.sessions.session import SessionSnapshot
from durable_chat.transcripts.codec import decode_messages
from durable_chat.transcripts.message_cache import Kept
from durable_chat.transcripts.runs.ends import ENDS
from tests.api.doors.agui_rules import check_rules
from tests.transcripts.any_json import as_stored, logs

RUN = "run-1"
BEGIN, END = ({"type": kind, "runId": RUN, "threadId": "s"} for kind in ("RUN_STARTED", "RUN_FINISHED"))

WIRES: dict[str, Callable[[], Wire]] = {
    "sse": lambda: sse_wire("0"),
    "ndjson": lambda: ndjson_wire(None),
    "ag-ui": lambda: AguiWire(Client("s", "r")),
    "ag-ui 1.0": lambda: AguiWire(Client("s", "r", is_modern=True), is_ndjson=True),
    "ai-sdk": UIMessageWire,
    "assistant-ui": lambda: StateWire([], RUN),
    "copilotkit": lambda: ConnectWire("s", SessionSnapshot([], "0", RUN, None, Kept())),
}


@pytest.mark.parametrize("name", WIRES)
@given(log=logs)
@settings(max_examples=60, deadline=None)
def test_any_log_is_rendered(name: str, log: list[Any]) -> None:
    """The run is rendered completely."""
    part = RunPart("s", RUN, WIRES[name]())
    inside = [
        chunk for chunk in log if not (isinstance(chunk, dict) and str(chunk.get("type")) in (*ENDS, "RUN_STARTED"))
    ]
    messages = decode_messages(as_stored([BEGIN, *inside, END]))
    rendered = part.wire.begin() + part.take(messages, RemoteBatch("0", "1", b"", up_to_date=True), remote=True)
    assert part.has_ended
    assert rendered
    if "ag-ui" in name:
        lines = [line.removeprefix(b"data: ") for line in rendered.splitlines()]
        events = [json.loads(line) for line in lines if line.startswith(b"{")]
        check_rules(events, modern=name == "ag-ui 1.0")
