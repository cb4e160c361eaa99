"""Servers that are killed during generations: a video job is polled again and never ordered twice, and every run ends."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.api.generations.apps import WAIT_MAX_S, Generating, app, chunks_in, wait_until
from tests.api.generations.crash_jobs import prove

__all__ = ["app"]  # fixture

BODY = {"threadId": "T", "runId": "r1", "data": {"prompt": "wait"}}


def begin(app: Generating, activity: str) -> None:
    """Start a generation and leave: it goes on."""
    with httpx.stream(
        "POST", f"{app.url}/api/generate/{activity}", json=BODY, headers={"X-Run-Id": "r1"}, timeout=WAIT_MAX_S
    ) as answer:
        assert answer.status_code == 200


@pytest.mark.parametrize("kills", [1, 3])
def test_a_video_goes_on(app: Generating, kills: int) -> None:
    """The same job is polled after each kill, and a client that joins gets its video; it was ordered once."""
    begin(app, "video")
    wait_until(lambda: app.get("/video/job-1", threadId="T").status_code == 200, "the job is ordered")
    for _ in range(kills):
        app.restart()
        wait_until(lambda: app.status("T") == "running", "the run goes on")
    app.go()
    chunks = chunks_in(app.get("/video", threadId="T", runId="r1", offset="-1").text)
    assert [chunk["value"]["jobId"] for chunk in chunks if chunk.get("name") == "video:job:created"] == ["job-1"]
    (result,) = [chunk["value"] for chunk in chunks if chunk.get("name") == "generation:result"]
    assert httpx.get(app.url + result["url"], timeout=WAIT_MAX_S).content == b"a film"
    assert [chunk["type"] for chunk in chunks if chunk["type"] in ("RUN_STARTED", "RUN_FINISHED", "RUN_ERROR")] == [
        "RUN_STARTED",
        "RUN_FINISHED",
    ]
    assert app.jobs() == {"job-1": "wait"}
    assert app.status("T") == "complete"


def test_a_shutdown_leaves_a_video_to_the_next_process(tmp_path: Path) -> None:
    """A deploy that cannot wait for a video does not end it: the next process polls the same job."""
    app = Generating(tmp_path, DURABLE_CHAT_GRACE_S="0")
    app.start()
    begin(app, "video")
    wait_until(lambda: app.get("/video/job-1", threadId="T").status_code == 200, "the job is ordered")
    for _ in range(2):
        app.terminate()
        app.start()
        wait_until(lambda: app.status("T") == "running", "the run goes on")
    app.go()
    wait_until(lambda: app.status("T") == "complete", "the video is there")
    app.kill()
    assert app.jobs() == {"job-1": "wait"}


def test_other_generations_end(app: Generating) -> None:
    """A request ended with its process. The run ends as interrupted, and the next one is generated."""
    begin(app, "image")
    wait_until(lambda: app.status("T") == "running", "it runs")
    app.restart()
    wait_until(lambda: app.status("T") == "error", "it ended")
    assert app.state("T")["resumeSnapshot"]["error"]["code"] == "interrupted"
    app.go()
    assert app.post("image", {"prompt": "a cat", "threadId": "T"}, headers={"Accept": "application/json"}).is_success
    assert app.status("T") == "complete"


def test_results_outlive_the_server(app: Generating, tmp_path: Path) -> None:
    """After a restart, a page shows the last generation, a client may join it, and its file is there."""
    for slot, activity in (("S", "speech"), ("V", "video")):
        words = {"speech": {"text": "a cat"}, "video": {"prompt": "a cat"}}[activity]
        app.post(activity, {"threadId": slot, **words})
    app.restart()
    shown = app.state("S")["resumeSnapshot"]
    assert httpx.get(app.url + shown["result"]["artifacts"][0]["url"], timeout=WAIT_MAX_S).content.startswith(b"RIFF")
    assert app.get("/video/job-1", threadId="V").json()["status"] == "completed"
    run_id = shown["result"]["artifacts"][0]["runId"]
    chunks = chunks_in(app.get("/speech", threadId="S", runId=run_id, offset="-1").text)
    (result,) = [chunk["value"] for chunk in chunks if chunk.get("name") == "generation:result"]
    assert result["audio"].startswith("UklGR")


MOMENTS = ("RUN_STARTED", "durable-chat.video-ordering", "video:job:created", "video:status", "generation:result")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_at_every_step_of_a_job(tmp_path: Path, moment: str, when: str) -> None:
    """
    A server dies right before or right after a step of a video job is durable. The next one brings the run to its end.
    The job is ordered at most once: an order that nobody knows the id of is not repeated.
    """
    dying = Generating(tmp_path, DIE_AT=moment, DIE=when)
    dying.start()
    with suppress(httpx.HTTPError):
        dying.post("video", {"threadId": "T", "runId": "r1", "data": {"prompt": "a cat"}}, headers={"X-Run-Id": "r1"})
    wait_until(lambda: not dying.alive, "it died")
    dying.kill()
    app = Generating(tmp_path)
    app.start()
    wait_until(lambda: app.status("T") in ("complete", "error", None), "the run ended")
    status, jobs = app.status("T"), app.jobs()
    types = [chunk["type"] for chunk in app.log_of("T")] if status is not None else []
    app.kill()
    assert types.count("RUN_STARTED") == types.count("RUN_FINISHED") + types.count("RUN_ERROR") <= 1
    unknown = (moment, when) in {("video:job:created", "before"), ("durable-chat.video-ordering", "after")}
    if (moment, when) == ("RUN_STARTED", "before"):
        assert (status, jobs) == (None, {})
    elif unknown:
        assert status == "error"
        assert len(jobs) <= 1
    else:
        assert (status, len(jobs)) == ("complete", 1)


def test_random_kills(tmp_path: Path) -> None:
    """Whenever a server dies, no job is ordered twice, every run has one end, and no video with a known job is lost."""
    report = prove(3, seed=3, folder=tmp_path)
    assert report.figures["jobs"] == 3
    assert not any(report.faults.values()), report.lines
