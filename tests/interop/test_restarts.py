"""The stock client while the server stops during an answer, by a shutdown or a crash, and restarts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import Serve
from tests.interop.playing import CLIENTS, Facts, play
from tests.servers import Server

SESSION = "a session"
SLOW = {"DURABLE_CHAT_DEMO_CHUNKS": "150", "DURABLE_CHAT_DEMO_DELAY_MS": "20"}


def run(server: Server, scenario: str, client: str, **options: Any) -> Facts:
    """Run the scenario, which signals the server, and restart the server when it has ended."""
    with ThreadPoolExecutor(1) as pool:
        shared = {"base": server.url, "session": SESSION, "client": client, "pid": server.pid}
        playing = pool.submit(lambda: play("restarts.mjs", scenario, **shared, **options))
        server.wait(60)
        server.start()
        facts: Facts = playing.result()
        return facts


def told(picture: Facts) -> list[Facts]:
    """Check that every tab and the snapshot show the same messages and no answer is running, and return them."""
    assert picture["snapshot"]["activeRun"] is None
    for name, tab in picture["tabs"].items():
        assert tab["transcript"] == picture["snapshot"]["transcript"], name
        assert (tab["generating"], tab["loading"]) == (False, False), name
    transcript: list[Facts] = picture["snapshot"]["transcript"]
    return transcript


@pytest.mark.cell("tanstack-durable", "drop and resume")
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("grace_s", ["30", "0"])
def test_a_deploy_amid_an_answer(serve: Serve, client: str, grace_s: str) -> None:
    """
    Every tab reconnects by itself and has the whole answer or, if the grace period was too short, its beginning and
    its end.
    """
    server = serve(**SLOW, DURABLE_CHAT_GRACE_S=grace_s)
    picture = run(server, "deploy", client, text="hello")
    assert [message["role"] for message in told(picture)] == ["user", "assistant"]
    for name, tab in picture["tabs"].items():
        assert (tab["runs"], tab["terminals"]) == (1, 1), name
        assert bool(tab["error"]) == (grace_s == "0"), name


@pytest.mark.parametrize("client", CLIENTS)
def test_a_crash_amid_an_answer(serve: Serve, client: str) -> None:
    """After a crash, a tab that reloads sees the answer's end, and so does a tab that sends."""
    server = serve(**SLOW)
    facts = run(server, "crash", client, text="hello", again="again")
    assert facts["before"] == {"activeRun": None, "generating": False}
    assert [message["role"] for message in told(facts["after"])] == ["user", "assistant"] * 2


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("mode", ["retry", "continue"])
def test_an_answer_that_goes_on_after_a_crash(serve: Serve, client: str, mode: str) -> None:
    """A tab that reloads sees the run go on, and so does one that sends: one answer, without an error."""
    server = serve(DURABLE_CHAT_DEMO_DELAY_MS="30", DURABLE_CHAT_AFTER_CRASH=mode)
    facts = run(server, "crash", client, text="a long one", again="again", stops=True)
    assert facts["before"]["activeRun"] is not None
    assert [message["role"] for message in told(facts["after"])] == ["user", "assistant"] * 2
    for name, tab in facts["after"]["tabs"].items():
        assert not tab["error"], name
