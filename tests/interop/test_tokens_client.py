"""Connections whose tokens expire while they read continue by themselves with new tokens."""

from __future__ import annotations

import json
import time

import httpx
import pytest

from durable_chat.http.tokens import issue
from tests.conftest import Serve
from tests.servers import run_node

SECRET = "a-secret-of-the-tests-long-enough"
# An answer of 6 s, with tokens of 1 to 2 s plus 1 s leeway.
ANSWER = {"DURABLE_CHAT_DEMO_CHUNKS": "200", "DURABLE_CHAT_DEMO_DELAY_MS": "30"}


@pytest.mark.parametrize("connect", ["stock", "module"])
def test_answer_over_several_tokens(serve: Serve, connect: str) -> None:
    """Every chunk arrives once and in order, although several tokens expire."""
    server = serve(DURABLE_CHAT_TOKEN_SECRET=SECRET, **ANSWER)
    options = json.dumps({"base": server.url, "secret": SECRET, "ttlS": 1, "connect": connect})
    done = run_node(["clients/tokens.mjs"], timeout_s=60, env={"OPTIONS": options})
    facts = json.loads(done.stdout)
    assert facts["issued"] > 2
    deltas = [chunk["delta"] for chunk in facts["chunks"] if chunk["type"] == "TEXT_MESSAGE_CONTENT"]
    headers = {"Authorization": f"Bearer {issue(SECRET, 'a', ['read'], now_s=time.time(), ttl_s=60)}"}
    messages = httpx.get(f"{server.url}/api/chat-snapshot?id=a", headers=headers, timeout=20).json()["messages"]
    answers = [message for message in messages if message["role"] == "assistant"]
    told = "".join(part["content"] for answer in answers for part in answer["parts"] if part["type"] == "text")
    assert "".join(deltas) == told
