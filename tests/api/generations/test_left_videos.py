"""Generations that wait behind a video in its slot while the server shuts down."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.generations.apps import Generating, wait_until
from tests.transcripts.logs import check_runs


@contextmanager
def asking(app: Generating, activity: str, run_id: str, prompt: str) -> Iterator[None]:
    """A client that asked for a generation and waits for it, until its connection is cut."""

    def ask() -> None:
        with suppress(httpx.HTTPError):
            app.post(
                activity,
                {"threadId": "T", "runId": run_id, "data": {"prompt": prompt}},
                headers={"X-Run-Id": run_id},
            )

    client = threading.Thread(target=ask)
    client.start()
    try:
        yield
    finally:
        client.join()


def ends_of(app: Generating) -> list[dict[str, Any]]:
    return [chunk for chunk in app.log_of("T") if chunk["type"] in ("RUN_FINISHED", "RUN_ERROR")]


@pytest.mark.parametrize(
    ("signal", "mode", "activity"),
    [
        ("terminate", "end", "video"),
        ("terminate", "continue", "image"),
        ("kill", "end", "image"),
        ("kill", "continue", "video"),
    ],
)
def test_a_generation_that_waits_behind_a_video(tmp_path: Path, signal: str, mode: str, activity: str) -> None:
    """
    It does not end the video, which the next process goes on with. It ends after the video, or it is generated then if
    the settings say that answers go on.
    """
    app = Generating(tmp_path, DURABLE_CHAT_GRACE_S="0", DURABLE_CHAT_AFTER_CRASH=mode)
    app.start()
    with asking(app, "video", "r1", "wait"):
        wait_until(lambda: app.get("/video/job-1", threadId="T").status_code == 200, "the job is ordered")
        with asking(app, activity, "r2", "wait"):
            wait_until(lambda: "durable-chat.turn-queued" in str(app.log_of("T")), "the other one waits")
            stop = app.kill if signal == "kill" else lambda: app.terminate(60)
            stop()
    app.start()
    wait_until(lambda: app.status("T") == "running", "the video goes on")
    assert ends_of(app) == []
    stop()
    app.start()
    app.go()
    wait_until(lambda: len(ends_of(app)) == 2, "both end")
    first, second = check_runs(app.log_of("T"))
    assert first["type"] == "RUN_FINISHED"
    assert second.get("code") == ("interrupted" if mode == "end" else None)
    app.kill()
    assert len(app.jobs()) == (2 if (activity, mode) == ("video", "continue") else 1)
