"""A provider that refuses what Anthropic refuses, and calls the tools that a test tells it to."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Mapping
from itertools import pairwise
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Block = Mapping[str, Any]

_ID = re.compile(r"[a-zA-Z0-9_-]+")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
IMAGE_CHARS_MAX = 5 * 1024 * 1024
REQUEST_BYTES_MAX = 32_000_000
COUNTED = {"model", "messages", "system", "thinking", "tools", "tool_choice"}
_STARTS = {"image/png": b"\x89PNG", "image/jpeg": b"\xff\xd8\xff", "image/gif": b"GIF8", "image/webp": b"RIFF"}
_THINKING = ("thinking", "redacted_thinking")


def refusals(request: Mapping[str, Any]) -> list[str]:
    """What is wrong with a request to the Messages API; nothing where it would be answered."""
    messages = request["messages"]
    wrong = [] if messages else ["no messages"]
    roles = [message["role"] for message in messages]
    if roles != (["user", "assistant"] * len(roles))[: len(roles)] or roles[-1:] != ["user"]:
        wrong.append(f"roles do not alternate from user to user: {roles}")
    names = [tool["name"] for tool in request.get("tools", [])]
    wrong += [] if len(set(names)) == len(names) else ["two tools of one name"]
    wrong += [
        f"the schema of {tool['name']}"
        for tool in request.get("tools", [])
        if tool["input_schema"].get("type") != "object"
    ]
    pending: list[str] = []
    seen: set[str] = set()
    for message in messages:
        wrong += _wrong_message(message, pending, seen, names)
        pending = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
        seen.update(pending)
    return wrong + (["calls without results"] if pending else [])


def _wrong_message(message: Mapping[str, Any], pending: list[str], seen: set[str], names: list[str]) -> list[str]:
    content = message["content"]
    wrong = [] if content else ["an empty message"]
    results = [block["tool_use_id"] for block in content if block["type"] == "tool_result"]
    if sorted(results) != sorted(pending) or any(block["type"] != "tool_result" for block in content[: len(results)]):
        wrong.append(f"the calls {pending} are answered by {results}, first in the next message")
    for block in content:
        wrong += _wrong_block(block, message["role"], names)
    uses = [block["id"] for block in content if block["type"] == "tool_use"]
    return wrong + (["an id of a call is used twice"] if len({*uses}) < len(uses) or seen & {*uses} else [])


def _wrong_block(block: Block, role: str, names: list[str]) -> list[str]:
    kind = block["type"]
    if kind == "text":
        return [] if block["text"].strip() else ["blank text"]
    if kind == "tool_use":
        good = _ID.fullmatch(block["id"]) and _NAME.fullmatch(block["name"]) and isinstance(block["input"], dict)
        return ([] if good else [f"a call that is none: {block}"]) + (
            [] if block["name"] in names else ["an unknown tool"]
        )
    if kind == "tool_result":
        return _wrong_result(block)
    if kind in _THINKING:
        return [] if role == "assistant" and (block.get("signature") or block.get("data")) else ["unsigned thinking"]
    if role != "user" or kind not in ("image", "document"):
        return [f"a block of the type {kind}"]
    return _wrong_file(kind, block["source"])


def _wrong_file(kind: str, source: Block) -> list[str]:
    """A file is of a type that can be read, really of that type, and not too large."""
    if source["type"] == "url":
        return [] if source["url"].startswith("https://") else ["an address that is not https"]
    if source["type"] == "text":
        return [] if kind == "document" and source["data"].strip() else ["a blank document"]
    data = base64.b64decode(source["data"], validate=True)
    good = source["media_type"] in (_STARTS if kind == "image" else {"application/pdf"})
    if not good or not data.startswith(_STARTS.get(source["media_type"], b"%PDF-")):
        return [f"a file that is no {source['media_type']}"]
    too_large = kind == "image" and len(source["data"]) > IMAGE_CHARS_MAX
    return ["an image that is too large"] if too_large else []


def _wrong_result(block: Block) -> list[str]:
    content = block["content"]
    blocks = [{"type": "text", "text": content or " "}] if isinstance(content, str) else content
    if block.get("is_error"):
        return (
            []
            if all(part["type"] == "text" and part["text"].strip() for part in blocks) and blocks
            else ["an empty error"]
        )
    return [] if isinstance(content, str) else [reason for part in content for reason in _wrong_block(part, "user", [])]


class Strict:
    """
    The provider. What the last user message says is what it does: `call NAME` calls a tool, anything else is answered
    with a word. State: the requests it was sent, those to count tokens, what it refused, and the data of a file that is
    `broken`, which it refuses without a word about it.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.refused: list[str] = []
        self.broken: str | None = None
        self.counted: list[dict[str, Any]] = []
        routes = [("/v1/messages", self.messages), ("/v1/messages/count_tokens", self.count)]
        self.app = Starlette(routes=[Route(path, answer, methods=["POST"]) for path, answer in routes])

    async def count(self, request: Request) -> Response:
        """One token for each four bytes of the conversation. It takes only the fields that Anthropic takes here."""
        body = msgspec.json.decode(await request.body())
        self.counted.append(body)
        wrong = refusals(body) + sorted(set(body) - COUNTED)
        self.refused += wrong
        if wrong:
            return JSONResponse({"type": "error", "error": {"type": "invalid_request_error", "message": ""}}, 400)
        return JSONResponse({"input_tokens": len(msgspec.json.encode(body["messages"])) // 4})

    async def messages(self, request: Request) -> Response:
        sent = await request.body()
        body = msgspec.json.decode(sent)
        self.requests.append(body)
        wrong = refusals(body) + (["too large a request"] if len(sent) > REQUEST_BYTES_MAX else [])
        self.refused += wrong
        if wrong or (self.broken is not None and self.broken.encode() in sent):
            error = {"type": "error", "error": {"type": "invalid_request_error", "message": "; ".join(wrong)}}
            return JSONResponse(error, 400)
        return StreamingResponse(self._events(body), media_type="text/event-stream")

    async def _events(self, body: Mapping[str, Any]) -> AsyncIterator[bytes]:
        number = len(self.requests)
        last = body["messages"][-1]["content"]
        words = " ".join(block.get("text", "") for block in last).split()
        calls = [name for word, name in pairwise(words) if word == "call"]
        if any(block["type"] == "tool_result" for block in last):
            calls = []
        message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": "m", "content": []}
        usage = {"input_tokens": 1, "output_tokens": 1}
        yield _event("message_start", message=message | {"usage": usage})
        blocks: list[tuple[dict[str, Any], dict[str, Any]]] = [
            ({"type": "text", "text": ""}, {"type": "text_delta", "text": f"Word {number}."})
        ]
        for at, name in enumerate(calls):
            block = {"type": "tool_use", "id": f"toolu_{number}_{at}", "name": name, "input": {}}
            blocks.append((block, {"type": "input_json_delta", "partial_json": "{}"}))
        for index, (block, delta) in enumerate(blocks):
            yield _event("content_block_start", index=index, content_block=block)
            yield _event("content_block_delta", index=index, delta=delta)
            yield _event("content_block_stop", index=index)
        reason = "tool_use" if calls else "end_turn"
        yield _event("message_delta", delta={"stop_reason": reason}, usage={"output_tokens": 2})
        yield _event("message_stop")


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode({"type": kind, **fields}) + b"\n\n"
