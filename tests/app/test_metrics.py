"""`/metrics` after real events on a real server, and how its values are counted."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import httpx
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import durable_chat.metrics as metrics
from tests.conftest import Serve
from tests.servers import Server
from tests.sessions.serving import script, serve_chat, user

TIMEOUT_S = 20.0
JSON = {"Content-Type": "application/json"}


def scrape(server: Server) -> dict[str, float]:
    """Return all of our metrics: by name, the values by labels."""
    text = httpx.get(f"{server.url}/metrics", timeout=TIMEOUT_S).text
    return {
        " ".join([sample.name.removeprefix("durable_chat_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("durable_chat_")
    }


def ask(server: Server, session: str, text: str, **query: str) -> httpx.Response:
    message: dict[str, Any] = {"id": f"u-{session}", "role": "user", "parts": [{"type": "text", "content": text}]}
    params = {"id": session, **query}
    return httpx.post(f"{server.url}/api/chat", params=params, json={"messages": [message]}, timeout=TIMEOUT_S)


def until_written(server: Server, session: str) -> None:
    """Wait until the session's answer has begun in the log, because a run without chunks would not be recovered."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s:
        chunks = httpx.get(f"{server.url}/api/chat-stream?id={session}&offset=0000000000000000_0000000000000000")
        if any(chunk["type"] == "TEXT_MESSAGE_CONTENT" for chunk in chunks.json()):
            return
        time.sleep(0.02)
    raise AssertionError("no answer has begun")


def test_runs_and_recoveries(serve: Serve) -> None:
    """
    Runs are counted by their end: finished, stopped or failed. Runs that a start ended for a dead process are counted
    too.
    """
    server = serve()
    assert ask(server, "good", "hi", mode="await").status_code == 200
    assert ask(server, "bad", "fail", mode="await").status_code == 502
    ask(server, "long", "long")
    until_written(server, "long")
    assert httpx.post(f"{server.url}/api/chat-stop?id=long", timeout=TIMEOUT_S).json()["stopped"]
    found = scrape(server)
    outcomes = {name: value for name, value in found.items() if name.startswith("runs_total")}
    assert outcomes == {"runs_total finished": 1, "runs_total failed": 1, "runs_total stopped": 1}
    assert found["runs_active"] == found["recoveries_total"] == 0
    ask(server, "killed", "long")
    until_written(server, "killed")
    server.restart()
    assert scrape(server)["recoveries_total"] == 1


def test_an_interrupted_run(serve: Serve) -> None:
    """A run that the end of the grace period interrupts is counted as interrupted."""
    server = serve(DURABLE_CHAT_GRACE_S="0.05")
    ask(server, "cut", "long")
    until_written(server, "cut")
    os.kill(server.pid, signal.SIGTERM)
    server.wait()
    server.start()
    chunks = httpx.get(f"{server.url}/api/chat-stream?id=cut&offset=0000000000000000_0000000000000000").json()
    assert (chunks[-1]["type"], chunks[-1]["code"]) == ("RUN_ERROR", "interrupted")
    assert scrape(server)["recoveries_total"] == 0


async def test_how_an_interrupted_run_is_counted() -> None:
    """An interrupted run is not counted as a failure."""
    before = metrics.runs.values.copy()
    model = script(go=False)
    async with serve_chat(model) as chat:
        await chat.post("s", user("hi"))
        await model.waiting.wait()
        await chat.runs.drain(0)
    after = {outcome: count - before.get(outcome, 0) for outcome, count in metrics.runs.values.items()}
    assert {outcome: count for outcome, count in after.items() if count} == {("interrupted",): 1}


def test_sessions(serve: Serve) -> None:
    """The metrics have the number of sessions in memory, its limit, and how often a session was found there."""
    server = serve(DURABLE_CHAT_SESSIONS_CACHED_MAX="2", DURABLE_CHAT_DEMO_CHUNKS="3")
    for session in ("a", "b", "c"):
        assert ask(server, session, "hi", mode="await").status_code == 200
    found = scrape(server)
    assert found["sessions_cached"] == 2
    assert found["sessions_cached_bytes"] > 0
    httpx.get(f"{server.url}/api/chat-snapshot?id=c")
    httpx.get(f"{server.url}/api/chat-snapshot?id=a")
    after = scrape(server)
    assert after["session_lookups_total hit"] >= found["session_lookups_total hit"] + 1
    assert after["session_lookups_total miss"] == found["session_lookups_total miss"] + 1
    assert after["sessions_cached"] == 2


def test_the_store(serve: Serve) -> None:
    """The metrics have the journal, the messages to compact, the files, and the streams in memory with their limit."""
    server = serve(DURABLE_CHAT_STREAMS_CACHED_MAX="100")
    with httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as client:
        for number in range(150):
            client.put(f"/v1/stream/s{number}", headers=JSON, content=b"1")
        found = scrape(server)
        assert found["streams_cached"] == 100
        client.put("/v1/stream/more", headers=JSON, content=b'"' + b"x" * 20_000 + b'"')
        more = scrape(server)
        assert more["uncompacted_bytes"] >= 20_000
        assert more["journal_bytes"] >= 20_000
        assert more["database_bytes"] > found["database_bytes"] > 0
        assert more["flush_writes_count"] == found["flush_writes_count"] + 1


def test_connections_and_refusals(serve: Serve) -> None:
    """The metrics have the open connections and the refusals by code."""
    server = serve(
        DURABLE_CHAT_CONNECTIONS_MAX="3", DURABLE_CHAT_READERS_PER_SESSION_MAX="1", DURABLE_CHAT_TURNS_PER_MINUTE="1"
    )
    url = f"{server.url}/api/chat-stream?id=s&offset=-1&live=sse"
    with httpx.Client(timeout=TIMEOUT_S) as client, client.stream("GET", url) as reading:
        assert reading.status_code == 200
        assert httpx.get(url).json()["code"] == "too_many_readers"
        assert ask(server, "s", "hi").status_code == 202
        assert ask(server, "t", "hi").json()["code"] == "too_many_turns"
        assert 2 <= scrape(server)["connections"] <= 3  # the server may not have noticed the previous disconnect
        with client.stream("GET", url.replace("id=s", "id=u")) as second:
            with client.stream("GET", url.replace("id=s", "id=v")) as third:
                assert (second.status_code, third.status_code) == (200, 200)
                refused = httpx.get(url)
                assert (refused.status_code, refused.json()["code"]) == (503, "too_many_connections")
    server.wait_ready()
    found = scrape(server)
    assert found["refused_total too_many_readers"] == found["refused_total too_many_turns"] == 1
    assert found["refused_total too_many_connections"] >= 1


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 9.0]), max_size=12).map(sorted))
def test_many_observations_at_once(values: list[float]) -> None:
    """
    Many observations at once are counted in the same buckets as single ones, including those on a bound and beyond
    the last one.
    """
    one, all_at_once = metrics.Histogram("one", "", (0.0, 1.0, 2.0)), metrics.Histogram("all", "", (0.0, 1.0, 2.0))
    del metrics.HISTOGRAMS[-2:]
    for value in values:
        one.observe(value)
    all_at_once.observe_all(values)
    assert (all_at_once.counts, all_at_once.total) == (one.counts, one.total)
