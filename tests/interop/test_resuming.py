"""TanStack's request-scoped connections over lost connections: every client gets every chunk once and in order."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from durable_chat.transcripts.runs.marks import RUN_RESUMED
from tests.conftest import Serve
from tests.interop.playing import CLIENTS, play
from tests.proxies import CuttingProxy

KINDS = ["sse", "ndjson"]
RESUMED = [pytest.param(kind, marks=pytest.mark.cell(f"tanstack-{kind}", "drop and resume")) for kind in KINDS]
GOING_ON = [("SIGKILL", "30", "retry"), ("SIGKILL", "30", "continue")]
FRAME_ENDS = {"sse": b"\n\n", "ndjson": b"}\n"}


def without_accepted(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the chunks after `run.accepted`, which comes first and is not in the log."""
    assert (chunks[0]["type"], chunks[0]["name"]) == ("CUSTOM", "run.accepted")
    return chunks[1:]


def shapes(chunks: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """
    Return the fields that identify each chunk. A client restores TanStack's own fields from the metadata and adds its
    run id.
    """
    return [
        tuple(chunk.get(key) for key in ("type", "messageId", "toolCallId", "delta", "content")) for chunk in chunks
    ]


@pytest.mark.own_http(
    "a chunked response that is cut after the last chunk of a run looks incomplete to the stock client"
)
@pytest.mark.parametrize("kind", RESUMED)
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("text", ["hello", "think about a tool"])
def test_cut_at_every_boundary(serve: Serve, client: str, kind: str, text: str) -> None:
    """Wherever and however often a run is cut or reset, the client gets the log's chunks."""
    server = serve(DURABLE_CHAT_DEMO_CHUNKS="4", DURABLE_CHAT_DEMO_DELAY_MS="10", DURABLE_CHAT_COALESCE="off")
    with contextlib.closing(CuttingProxy(server.port, FRAME_ENDS[kind])) as proxy:
        runs = play("resuming.mjs", "boundaries", client=client, kind=kind, base=server.url, proxy=proxy.url, text=text)
    assert len(runs) > 16
    for run in runs:
        name = run["name"]
        assert shapes(without_accepted(run["chunks"])) == shapes(run["logged"]), name
        assert proxy.cuts[name] == (len(run["chunks"]) if name.endswith("each") else 1), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("signal", "grace_s", "mode"),
    [("SIGKILL", "30", "end"), ("SIGTERM", "0", "end"), ("SIGTERM", "30", "end"), *GOING_ON],
)
def test_the_server_restarts(serve: Serve, kind: str, signal: str, grace_s: str, mode: str) -> None:
    """
    After a crash, the sender and a tab that joined get the end in the log: the run was interrupted, or has gone on. They
    do not notice a shutdown with enough time.
    """
    settings = {"DURABLE_CHAT_GRACE_S": grace_s, "DURABLE_CHAT_AFTER_CRASH": mode}
    server = serve(DURABLE_CHAT_DEMO_DELAY_MS="30", **settings)
    is_completed = (signal, grace_s) == ("SIGTERM", "30")
    with ThreadPoolExecutor(1) as pool:
        text = "hello" if is_completed else "a long one"  # of a minute, which nobody waits for
        options = {"client": CLIENTS[0], "kind": kind, "base": server.url, "text": text}
        playing = pool.submit(play, "resuming.mjs", "restart", pid=server.pid, signal=signal, **options)
        server.wait(60)
        server.start()
        if mode != "end":
            httpx.post(f"{server.url}/api/chat-stop", params={"id": "restarted"}, timeout=20)
        facts = playing.result()
    for chunks in (facts["chunks"], facts["joined"]):
        assert shapes(without_accepted(chunks)) == shapes(facts["logged"])
    last = facts["chunks"][-1]
    if is_completed or mode != "end":
        assert last["type"] == "RUN_FINISHED"
        assert any(chunk.get("name") == RUN_RESUMED for chunk in facts["logged"]) == (mode != "end")
    else:
        assert (last["type"], last["code"]) == ("RUN_ERROR", "interrupted")


@pytest.mark.parametrize("kind", KINDS)
def test_a_slow_reader(serve: Serve, kind: str) -> None:
    """
    A client that reads slower than the model writes gets everything, and neither the server nor other clients wait
    for it.
    """
    server = serve(DURABLE_CHAT_DEMO_CHUNKS="3000", DURABLE_CHAT_DEMO_DELAY_MS="0", DURABLE_CHAT_COALESCE="off")
    facts = play("resuming.mjs", "slow", client=CLIENTS[0], kind=kind, base=server.url, text="hello", waitMs=50)
    assert len(facts["logged"]) > 3000
    assert shapes(without_accepted(facts["chunks"])) == shapes(facts["logged"])


@pytest.mark.parametrize("kind", KINDS)
def test_two_tabs(serve: Serve, kind: str) -> None:
    """Each of two tabs gets its own run only. So does a third tab that joins the second run while it waits."""
    server = serve(DURABLE_CHAT_DEMO_CHUNKS="20", DURABLE_CHAT_DEMO_DELAY_MS="20")
    facts = play("resuming.mjs", "tabs", client=CLIENTS[0], kind=kind, base=server.url, text="hello")
    assert shapes(facts["second"]) == shapes(facts["joined"])
    runs = [chunks[1]["runId"] for chunks in (facts["first"], facts["second"])]
    assert len(set(runs)) == 2
    assert [message["role"] for message in facts["state"]["messages"]] == ["user", "assistant"] * 2
    assert facts["state"]["activeRun"] is None
