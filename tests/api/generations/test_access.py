"""Who may generate, read and stop in a slot: the application's hook and tokens are asked for the slot itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from durable_chat.http.tokens import issue
from tests.api.generations.apps import JSON, Generating

SECRET = "s" * 32
NOW_S = 1_700_000_000


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Generating]:
    made = Generating(tmp_path, DURABLE_CHAT_TOKEN_SECRET=SECRET)
    made.start()
    yield made
    made.kill()


def token(slot: str, *can: str) -> dict[str, str]:
    actions = [action for action in ("read", "send", "stop", "delete") if action in can]
    return {"Authorization": f"Bearer {issue(SECRET, slot, actions, now_s=NOW_S, ttl_s=10**9)}"}


def test_tokens(guarded: Generating) -> None:
    """A token of a slot opens the slot's generations, jobs, files and log, and nothing of another slot."""
    mine, other = token("mine", "read", "send", "stop"), token("other", "read", "send", "stop")
    body = {"prompt": "a cat", "threadId": "mine"}
    assert guarded.post("video", body).status_code == 401
    assert guarded.post("video", body, headers=other).status_code == 403
    assert guarded.post("video", body, headers=token("mine", "read")).status_code == 403
    assert guarded.jobs() == {}
    result = guarded.post("video", body, headers=mine | JSON).json()

    def status(path: str, headers: dict[str, str]) -> int:
        return httpx.get(guarded.url + path, headers=headers, timeout=20).status_code

    artifact = result["artifacts"][0]["artifactId"]
    paths = {
        "/api/generate?threadId=mine": 403,
        "/api/generate/video/job-1?threadId=mine": 404,
        "/api/generate/video/job-1": 404,
        f"/api/generate/artifact?threadId=mine&artifact={artifact}": 404,
        "/api/chat-stream?id=generation-mine&offset=-1": 403,
        f"/api/chat-artifact?id=generation-mine&artifact={artifact}": 403,
    }
    for path, refused in paths.items():
        assert (status(path, mine), status(path, other)) == (200, refused), path
    stop = f"{guarded.url}/api/generate/stop?threadId=mine"
    assert httpx.post(stop, headers=other).status_code == 403
    assert httpx.post(stop, headers=mine).json() == {"stopped": []}


def test_a_run_is_not_found_by_those_who_may_not_read_it(guarded: Generating) -> None:
    """Who may not read a slot does not learn of its runs, by whatever id."""
    mine, other = token("mine", "read", "send"), token("other", "read")
    body = {"threadId": "mine", "runId": "r1", "data": {"prompt": "a cat"}}
    run_id = guarded.post("image", body, headers=mine).headers["x-run-id"]
    for each in ("r1", run_id):
        path = f"{guarded.url}/api/generate/image?offset=-1&runId={each}"
        assert httpx.get(path, headers=mine, timeout=20).status_code == 200
        assert httpx.get(path, headers=other, timeout=20).status_code == 404
