"""Generations over HTTP: what a request may be, what answers it, and what is refused before anything happens."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.generations.apps import INPUTS, JSON, WAIT_MAX_S, WAV, Generating, any_app, app, chunks_in, wait_until

__all__ = ["any_app", "app"]  # fixtures


@pytest.mark.parametrize("activity", INPUTS)
def test_every_activity(any_app: Generating, activity: str) -> None:
    """An input alone and an envelope give the same, as events and as the result; the log has no base64."""
    alone = any_app.post(activity, INPUTS[activity] | {"threadId": "T"}, headers=JSON)
    assert alone.status_code == 200, alone.text
    envelope = {"threadId": "T", "runId": "r1", "messages": [], "data": INPUTS[activity], "forwardedProps": {}}
    streamed = any_app.post(activity, envelope, headers={"X-Run-Id": "r1"})
    chunks = chunks_in(streamed.text)
    assert [chunk["type"] for chunk in chunks if chunk["type"].startswith("RUN")] == ["RUN_STARTED", "RUN_FINISHED"]
    results = [chunk["value"] for chunk in chunks if chunk.get("name") == "generation:result"]
    for name in alone.json().keys() - {"artifacts", "jobId"}:
        assert results[0][name] == alone.json()[name]
    assert {chunk["threadId"] for chunk in chunks if "threadId" in chunk} == {"T"}
    assert "UklGR" not in json.dumps(any_app.log_of("T"))
    assert any_app.status("T") == "complete"


def test_a_slot_without_a_generation(app: Generating) -> None:
    """It is a miss and no error."""
    for path in ("", "/image", "/video/ndjson"):
        assert app.get(path, threadId="nobody").json() == {"resumeSnapshot": None, "activeRun": None}


REFUSED: list[tuple[str, Any, int, str]] = [
    ("transcription", {"audio": {}}, 400, "invalid_audio"),
    ("transcription", {"audio": WAV, "responseFormat": "pdf"}, 400, "unknown_responseFormat"),
    ("image", {"prompt": ""}, 400, "invalid_prompt"),
    ("image", {"prompt": "a cat", "size": "large"}, 400, "unknown_size"),
    ("image", {"prompt": "a" * 40_000}, 413, "prompt_too_long"),
    ("image", {"prompt": "a cat", "numberOfImages": 11}, 413, "too_many_images"),
    ("speech", {"text": "hi", "format": "midi"}, 400, "unknown_format"),
    ("speech", {"text": "a" * 5_000}, 413, "text_too_long"),
    ("video", {"prompt": "a cat", "duration": "long"}, 400, "unknown_duration"),
    ("summary", {"data": "a text"}, 400, "bad_body"),
    ("summary", {"forwardedProps": {"text": "a text"}}, 400, "missing_data"),
    ("image", [], 400, "bad_body"),
    ("image", {"prompt": "a cat", "threadId": "T" * 300}, 400, "bad_id"),
    ("image", {"prompt": "a cat", "threadId": 1}, 400, "bad_id"),
]


@pytest.mark.parametrize(("activity", "body", "status", "code"), REFUSED)
def test_a_refusal(app: Generating, activity: str, body: Any, status: int, code: str) -> None:
    """What cannot be generated is refused with a name, and nothing is written or ordered."""
    if isinstance(body, dict):
        body = {"threadId": "T", **body}
    answer = app.post(activity, body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert app.state("T") == {"resumeSnapshot": None, "activeRun": None}
    assert app.jobs() == {}


def test_a_body_over_the_limit(tmp_path: Any) -> None:
    """A body that is larger than any may be is 413."""
    small = Generating(tmp_path, DURABLE_CHAT_BODY_MAX_BYTES="1000")
    small.start()
    answer = small.post("transcription", {"audio": "A" * 2_000})
    small.kill()
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_files_belong_to_their_slot(any_app: Generating) -> None:
    """A file has ranges, and neither another slot, nor a chat, nor a guess finds it."""
    result = any_app.post("image", INPUTS["image"] | {"threadId": "mine"}, headers=JSON).json()
    url = result["images"][0]["url"]
    assert httpx.get(any_app.url + url, timeout=WAIT_MAX_S).headers["content-type"] == "image/png"
    part = httpx.get(any_app.url + url, headers={"Range": "bytes=1-3"}, timeout=WAIT_MAX_S)
    assert (part.status_code, part.content) == (206, b"PNG")
    artifact = result["artifacts"][0]["artifactId"]
    any_app.post("image", INPUTS["image"] | {"threadId": "other", "prompt": "fail"})
    for slot, asked in (("other", artifact), ("nobody", artifact), ("mine", "0" * 64), ("mine", "../" + artifact)):
        answer = any_app.get("/artifact", threadId=slot, artifact=asked)
        assert (answer.status_code, answer.json()["code"]) == (404, "no_artifact")
    chat = httpx.get(
        f"{any_app.url}/api/chat-artifact", params={"id": "mine", "artifact": artifact}, timeout=WAIT_MAX_S
    )
    assert chat.status_code == 404


def test_jobs_belong_to_their_slot(any_app: Generating) -> None:
    """A job is told by its slot, or while the server remembers it by its id; an unknown one is 404."""
    assert any_app.post("video", INPUTS["video"] | {"threadId": "mine"}, headers=JSON).json()["jobId"] == "job-1"
    for query in ({"threadId": "mine"}, {}):
        told = any_app.get("/video/job-1", **query).json()
        assert (told["jobId"], told["status"]) == ("job-1", "completed")
        assert httpx.get(any_app.url + told["url"], timeout=WAIT_MAX_S).content == b"a film"
    for job, query in (("job-1", {"threadId": "other"}), ("job-2", {"threadId": "mine"}), ("job-2", {})):
        answer = any_app.get(f"/video/{job}", **query)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_job")


def test_a_job_that_fails(any_app: Generating) -> None:
    """The job and the run fail with the provider's message."""
    answer = any_app.post("video", {"prompt": "fail", "threadId": "T"}, headers=JSON)
    assert (answer.status_code, answer.json()["error"]) == (502, "The provider is out of film.")
    told = any_app.get("/video/job-1", threadId="T").json()
    assert (told["status"], told["error"]) == ("failed", "The provider is out of film.")
    assert any_app.state("T")["resumeSnapshot"]["error"]["message"] == "The provider is out of film."


def test_one_request_is_one_generation(any_app: Generating) -> None:
    """The same request again is the same run, also after its end."""
    body = {"threadId": "T", "runId": "r1", "data": INPUTS["video"]}
    first, second = (any_app.post("video", body, headers=JSON).json() for _ in range(2))
    assert first == second
    assert len(any_app.jobs()) == 1


def test_resuming_a_response(any_app: Generating) -> None:
    """A client that lost its connection continues after the last chunk that it has."""
    body = {"threadId": "T", "runId": "r1", "data": INPUTS["summary"]}
    whole = any_app.post("summary", body, headers={"X-Run-Id": "r1"}).text
    ids = [line.removeprefix("id: ") for line in whole.splitlines() if line.startswith("id: ")]
    rest = any_app.post("summary", body, headers={"X-Run-Id": "r1", "Last-Event-ID": ids[2]}).text
    assert chunks_in(rest) == chunks_in(whole)[3:]
    for query in ({"threadId": "T"}, {}):
        joined = any_app.get("/summary", offset="-1", runId="r1", **query).text
        assert chunks_in(joined) == chunks_in(whole)


def test_a_stop(any_app: Generating) -> None:
    """A stop by the slot or by the run ends the generation for everybody; other readers are told that it was stopped."""
    for at, by in enumerate(("threadId", "runId")):
        with httpx.stream(
            "POST",
            f"{any_app.url}/api/generate/image",
            json={"prompt": "wait", "threadId": "T", "runId": f"r{at}"},
            timeout=30,
        ) as answer:
            wait_until(lambda: any_app.status("T") == "running", "it runs")
            query = {"threadId": "T"} if by == "threadId" else {"runId": answer.headers["x-run-id"]}
            stopped = httpx.post(f"{any_app.url}/api/generate/stop", params=query, timeout=WAIT_MAX_S)
            assert stopped.json() == {"stopped": [answer.headers["x-run-id"]]}
            (*_, last) = chunks_in(answer.read().decode())
        assert (last["type"], last["code"]) == ("RUN_ERROR", "aborted")
        assert any_app.state("T")["resumeSnapshot"]["error"]["code"] == "aborted"


def test_generations_and_chats_do_not_mix(any_app: Generating) -> None:
    """A chat of the slot's name is another session, and no chat can be posted to a generation's session."""
    any_app.post("image", INPUTS["image"] | {"threadId": "T"})
    chat = httpx.get(f"{any_app.url}/api/chat-snapshot", params={"id": "T"}, timeout=WAIT_MAX_S).json()
    assert chat["messages"] == []
    message = {"id": "u1", "role": "user", "parts": [{"type": "text", "content": "hi"}]}
    answer = httpx.post(
        f"{any_app.url}/api/chat", params={"id": "generation-T"}, json={"messages": [message]}, timeout=WAIT_MAX_S
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_id")
    assert httpx.delete(f"{any_app.url}/api/chat", params={"id": "generation-T"}, timeout=WAIT_MAX_S).status_code == 204
    assert any_app.state("T") == {"resumeSnapshot": None, "activeRun": None}


def test_a_slow_generation(tmp_path: Path) -> None:
    """A generation may be silent for longer than a chat's model: its result comes."""
    app = Generating(tmp_path, DURABLE_CHAT_STALL_S="2")
    app.start()
    with httpx.stream(
        "POST", f"{app.url}/api/generate/image", json={"prompt": "wait", "threadId": "T"}, timeout=WAIT_MAX_S
    ) as answer:
        begun_s = time.monotonic()
        wait_until(lambda: time.monotonic() > begun_s + 3, "longer than the limit of silence")
        app.go()
        chunks = chunks_in(answer.read().decode())
    app.kill()
    assert chunks[-1]["type"] == "RUN_FINISHED"


def test_a_job_that_is_seldom_looked_at(tmp_path: Path) -> None:
    """A video's provider may be asked less often than a chat's model may be silent."""
    app = Generating(tmp_path, DURABLE_CHAT_STALL_S="2", DURABLE_CHAT_VIDEO_POLL_S="3")
    app.start()
    begun_s = time.monotonic()
    chunks = chunks_in(app.post("video", {"prompt": "a cat", "threadId": "T"}).text)
    app.kill()
    assert chunks[-1]["type"] == "RUN_FINISHED"
    assert time.monotonic() > begun_s + 3, "the setting is used"


def test_a_job_that_is_given_up(tmp_path: Path) -> None:
    """A job that does not end within DURABLE_CHAT_VIDEO_MAX_S fails, and says so."""
    app = Generating(tmp_path, DURABLE_CHAT_VIDEO_MAX_S="1", DURABLE_CHAT_VIDEO_POLL_S="0.1")
    app.start()
    answer = app.post("video", {"prompt": "wait", "threadId": "T"}, headers=JSON)
    shown = app.state("T")["resumeSnapshot"]["error"]
    app.kill()
    assert (answer.status_code, answer.json()["error"]) == (502, "Video generation timed out")
    assert shown["code"] == "video_timed_out"
