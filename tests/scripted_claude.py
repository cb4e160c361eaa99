"""
A program in the place of the Claude Agent SDK's own: it speaks their protocol, in the words that version 2.1 of the program wrote when it
was recorded, and instead of asking a model it follows a script. The SDK runs its tools as with the real program.

A message with "long" is answered by many words, one with "fail" by an error of the provider, any other by thinking, a call of the tool
`weather` and its result.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

SESSION = "11111111-2222-4333-8444-555555555555"
NUMBERS = count(1)


def install(folder: Path) -> str:
    """Makes the program a command, as the SDK starts it; its path. Beside it, `pid` names the last process of it."""
    path = folder / "claude"
    pid = f"echo $$ > {shlex.quote(str(folder / 'pid'))}"
    path.write_text(f'#!/bin/sh\n{pid}\nexec {shlex.quote(sys.executable)} {shlex.quote(__file__)} "$@"\n')
    path.chmod(0o755)
    return str(path)


def write(kind: str, **fields: Any) -> None:
    print(json.dumps({"type": kind, **fields}), flush=True)  # noqa: T201 - the protocol is lines on its output


def read() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def ask(server: str, message: dict[str, Any]) -> Any:
    """Sends a message to a tool server in the SDK's process; its result."""
    name = f"ask-{next(NUMBERS)}"
    request = {"subtype": "mcp_message", "server_name": server, "message": {"jsonrpc": "2.0", **message}}
    write("control_request", request_id=name, request=request)
    for said in read():
        if said["type"] == "control_response" and said["response"]["request_id"] == name:
            return said["response"]["response"]["mcp_response"].get("result")
    raise SystemExit(0)


def call_tool(server: str, arguments: dict[str, Any]) -> Any:
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "script", "version": "1"}}
    ask(server, {"id": 0, "method": "initialize", "params": hello})
    ask(server, {"method": "notifications/initialized"})
    (tool,) = ask(server, {"id": 1, "method": "tools/list"})["tools"]
    return ask(server, {"id": 2, "method": "tools/call", "params": {"name": tool["name"], "arguments": arguments}})


def answer(blocks: list[dict[str, Any]], model: str = "claude-opus-5-5") -> str:
    """Writes one answer of the model: each block in pieces, then as a whole; the id of its last call."""
    message_id = f"msg_{next(NUMBERS)}"
    message = {"id": message_id, "type": "message", "role": "assistant", "model": model, "stop_reason": None}
    usage = {"input_tokens": 10, "output_tokens": 1}
    event("message_start", message={**message, "content": [], "usage": usage})
    for at, block in enumerate(blocks):
        empty: dict[str, dict[str, Any]] = {
            "text": {"text": ""},
            "thinking": {"thinking": "", "signature": ""},
            "tool_use": {"input": {}},
        }
        event("content_block_start", index=at, content_block=block | empty[block["type"]])
        for delta in deltas(block):
            event("content_block_delta", index=at, delta=delta)
        whole = {**message, "content": [block], "usage": usage}
        write("assistant", message=whole, parent_tool_use_id=None, session_id=SESSION, uuid=message_id)
        event("content_block_stop", index=at)
    event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 20})
    event("message_stop")
    return str(blocks[-1].get("id"))


def event(kind: str, **fields: Any) -> None:
    told = {"type": kind, **fields}
    write("stream_event", event=told, session_id=SESSION, parent_tool_use_id=None, uuid=f"e-{next(NUMBERS)}")


def deltas(block: dict[str, Any]) -> list[dict[str, Any]]:
    if block["type"] == "text":
        return [{"type": "text_delta", "text": f"{word} "} for word in block["text"].split()]
    if block["type"] == "thinking":
        signed = {"type": "signature_delta", "signature": block["signature"]}
        return [{"type": "thinking_delta", "thinking": block["thinking"]}, signed]
    return [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]


def follow_script(asked: str, server: str) -> None:
    if "fail" in asked:
        text = [{"type": "text", "text": "API Error: 401 {secret: sk-1234567890}"}]
        told = {"id": "m", "type": "message", "role": "assistant", "model": "<synthetic>", "content": text}
        error = "authentication_failed"
        write("assistant", message=told, error=error, parent_tool_use_id=None, session_id=SESSION, uuid="u")
        finish(is_error=True)
        raise SystemExit(1)  # as the real program
    if "long" in asked:
        answer([{"type": "text", "text": "word " * 20_000}])
    call: dict[str, Any] = {
        "type": "tool_use",
        "id": f"toolu_{next(NUMBERS)}",
        "name": f"mcp__{server}__weather",
        "input": {"city": "Rome"},
    }
    thought = {"type": "thinking", "thinking": "Hm, Rome.", "signature": "sig"}
    call_id = answer([thought, {"type": "text", "text": "Let me look."}, call])
    found = call_tool(server, call["input"])
    result = {"tool_use_id": call_id, "type": "tool_result", "content": found["content"]}
    said = {"role": "user", "content": [result]}
    write("user", message=said, parent_tool_use_id=None, session_id=SESSION, uuid="u")
    answer([{"type": "text", "text": f"The tool says: {found['content'][0]['text']}"}])
    finish(is_error=False)


def finish(*, is_error: bool) -> None:
    usage = {"input_tokens": 20, "output_tokens": 40, "cache_read_input_tokens": 3}
    counts = {"duration_ms": 1, "duration_api_ms": 1, "num_turns": 2, "total_cost_usd": 0.001, "usage": usage}
    write("result", subtype="success", is_error=is_error, session_id=SESSION, uuid="u", result="", **counts)


def main() -> None:
    if "-v" in sys.argv:
        print("2.1.300 (script)")  # noqa: T201 - what the SDK asks for first
        return
    (server,) = json.loads(sys.argv[sys.argv.index("--mcp-config") + 1])["mcpServers"]
    for said in read():
        if said["type"] == "control_request":
            response = {"subtype": "success", "request_id": said["request_id"], "response": {"commands": []}}
            write("control_response", response=response)
        elif said["type"] == "user":
            content = said["message"]["content"]
            follow_script(content if isinstance(content, str) else content[-1]["text"], server)


if __name__ == "__main__":
    main()
