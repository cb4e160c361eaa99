"""Generations on a remote store: several processes share them, and what a crash does where no records say how to go on."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.api.generations.apps import JSON, WAIT_MAX_S, Generating, chunks_in, started, wait_until
from tests.conftest import ServeNpm
from tests.servers import Process

LEASE_MS = "1000"
"""A dead process's run is ended this long after its last chunk, by the next generation in its slot."""


@pytest.fixture
def store(serve_npm: ServeNpm) -> str:
    return f"{serve_npm(durable=False).url}/v1/stream/generations"


@pytest.fixture
def app(tmp_path: Path, processes: list[Process], store: str) -> Generating:
    settings = {"DURABLE_CHAT_STORE": store, "DURABLE_CHAT_LEASE_MS": LEASE_MS, "DURABLE_CHAT_GRACE_S": "0"}
    return started(Generating(tmp_path / "one", **settings), processes)


@pytest.fixture
def other(tmp_path: Path, processes: list[Process], store: str) -> Generating:
    """Another process on the same store."""
    return started(Generating(tmp_path / "two", DURABLE_CHAT_STORE=store), processes)


def begin(app: Generating, activity: str) -> str:
    """Start a generation and leave. Return its run's id."""
    body = {"prompt": "wait", "threadId": "T"}
    with httpx.stream("POST", f"{app.url}/api/generate/{activity}", json=body, timeout=WAIT_MAX_S) as answer:
        assert answer.status_code == 200, answer.read()
        return str(answer.headers["x-run-id"])


def ends(app: Generating) -> list[str]:
    chunks = app.log_of("T")
    assert [chunk["type"] for chunk in chunks].count("RUN_STARTED") == 2
    return [chunk.get("code") or chunk["type"] for chunk in chunks if chunk["type"] in ("RUN_FINISHED", "RUN_ERROR")]


def test_another_process_joins(app: Generating, other: Generating) -> None:
    """It restores a generation that the first one carries out, and has its result and its file."""
    run_id = begin(app, "video")
    wait_until(lambda: other.status("T") == "running", "the other process shows it")
    assert other.state("T")["activeRun"] == {"runId": run_id}
    app.go()
    wait_until(lambda: other.status("T") == "complete", "the other process has its end")
    chunks = chunks_in(other.get("/video", threadId="T", runId=run_id, offset="-1").text)
    (result,) = [chunk["value"] for chunk in chunks if chunk.get("name") == "generation:result"]
    assert httpx.get(other.url + result["url"], timeout=WAIT_MAX_S).content == b"a film"
    assert other.get("/video/job-1", threadId="T").json()["status"] == "completed"


def test_another_process_stops(app: Generating, other: Generating) -> None:
    """A stop ends a generation wherever it runs."""
    run_id = begin(app, "image")
    wait_until(lambda: other.status("T") == "running", "the other process shows it")
    stopped = httpx.post(f"{other.url}/api/generate/stop", params={"threadId": "T"}, timeout=WAIT_MAX_S)
    assert stopped.json() == {"stopped": [run_id]}
    for each in (app, other):
        assert each.state("T")["resumeSnapshot"]["error"]["code"] == "aborted"


@pytest.mark.parametrize("activity", ["image", "video"])
def test_a_kill(app: Generating, activity: str) -> None:
    """The slot's next generation ends the interrupted one. A video job is not ordered again, nor followed."""
    begin(app, activity)
    if activity == "video":
        wait_until(lambda: app.get("/video/job-1", threadId="T").status_code == 200, "the job is ordered")
    app.restart()
    assert app.status("T") == "running"
    assert app.post(activity, {"prompt": "a cat", "threadId": "T"}, headers=JSON).status_code == 200
    assert ends(app) == ["interrupted", "RUN_FINISHED"]
    assert app.status("T") == "complete"
    assert list(app.jobs().values()) == (["wait", "a cat"] if activity == "video" else [])


@pytest.mark.parametrize("activity", ["image", "video"])
def test_a_shutdown(app: Generating, activity: str) -> None:
    """A generation that does not end in time is ended: no process would go on with it."""
    begin(app, activity)
    wait_until(lambda: app.status("T") == "running", "it runs")
    app.terminate()
    app.start()
    assert app.state("T")["resumeSnapshot"]["error"]["code"] == "interrupted"
    assert app.post(activity, {"prompt": "a cat", "threadId": "T"}, headers=JSON).status_code == 200
    assert ends(app) == ["interrupted", "RUN_FINISHED"]
