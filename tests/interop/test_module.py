"""
`/durable-chat.js` with real clients and every kind of lost connection, and which of these the stock connection
survives.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.interop.playing import CLIENTS, Facts, play
from tests.servers import ROOT, Process

CONNECTS = ["module", "around"]
SESSION = "a session"
SLOW = {"DURABLE_CHAT_DEMO_CHUNKS": "100", "DURABLE_CHAT_DEMO_DELAY_MS": "20"}
# The answer to a message with the word `long` then takes a minute. It is stopped or killed before.
LONG = {"DURABLE_CHAT_DEMO_DELAY_MS": "30"}

every_client = pytest.mark.parametrize("client", CLIENTS)
both_ways = pytest.mark.parametrize("connect", CONNECTS)


def options(server: Process, folder: Path, client: str, connect: str, text: str = "hello") -> Facts:
    folder = folder / "module"
    folder.mkdir(exist_ok=True)
    shared = {"base": server.url, "session": SESSION, "folder": str(folder)}
    return {**shared, "client": client, "connect": connect, "text": text}


def play_ended(server: Process, scenario: str, **shared: Any) -> Any:
    """Run a scenario that ends the server, and restart the server then."""
    with ThreadPoolExecutor(1) as pool:
        playing = pool.submit(play, "module.mjs", scenario, **{"pid": server.pid, **shared})
        server.wait(60)
        server.start()
        return playing.result()


def told(picture: Facts, runs: int) -> list[Facts]:
    """
    Check that all tabs and the snapshot agree, no answer is running, and both tabs got each chunk of the log once.
    """
    assert picture["snapshot"]["activeRun"] is None
    for name, tab in picture["tabs"].items():
        assert tab["transcript"] == picture["snapshot"]["transcript"], name
        assert (tab["generating"], tab["loading"], tab["subscribed"]) == (False, False, True), name
    for name, handed in picture["handed"].items():
        assert handed == picture["log"], name
    assert sum(json.loads(chunk)[0] == "RUN_STARTED" for chunk in picture["log"]) == runs
    transcript: list[Facts] = picture["snapshot"]["transcript"]
    assert [message["role"] for message in transcript] == ["user", "assistant"] * runs
    return transcript


@pytest.mark.cell("tanstack-module", "send", "drop and resume")
@every_client
@both_ways
def test_server_killed(serve: Serve, tmp_path: Path, client: str, connect: str) -> None:
    """When the server is killed during an answer and restarted, every tab reconnects by itself and still works."""
    server = serve(**LONG)
    facts = play_ended(server, "killed", again="again", **options(server, tmp_path, client, connect, "long"))
    told(facts["first"], 1)
    told(facts["second"], 2)
    for tab in ("sender", "watcher"):
        assert facts["first"]["tabs"][tab]["error"], "the answer was interrupted, and that is said"


@every_client
@both_ways
def test_server_deployed(serve: Serve, tmp_path: Path, client: str, connect: str) -> None:
    """A server that is told to shut down during an answer completes it, and every tab gets it from the next server."""
    server = serve(**SLOW)
    picture = play_ended(server, "deployed", **options(server, tmp_path, client, connect))
    told(picture, 1)
    assert not picture["tabs"]["watcher"]["error"]


@pytest.mark.cell("tanstack-module", "drop and resume")
@every_client
@both_ways
def test_connections_reset(serve: Serve, tmp_path: Path, client: str, connect: str) -> None:
    """When a proxy resets every live read after some bytes, the answer is complete and no text is doubled."""
    server = serve(**SLOW)
    facts = play("module.mjs", "resets", **options(server, tmp_path, client, connect))
    assert facts["cuts"] >= 5
    told(facts, 1)


@every_client
@both_ways
def test_nobody_there_for_a_while(serve: Serve, tmp_path: Path, client: str, connect: str) -> None:
    """Tabs reconnect to a server that was down and then busy. The model gets a message that was sent meanwhile once."""
    server = serve(**SLOW)
    facts = play("module.mjs", "away", again="again", **options(server, tmp_path, client, connect))
    told(facts, 2)
    first, *others = facts["posts"]
    assert len(others) >= 1
    assert set(others) == {others[0]} != {first}


@every_client
@both_ways
def test_send_without_an_answer(serve: Serve, tmp_path: Path, client: str, connect: str) -> None:
    """A send whose response is cut off is sent again as the same request, and the model runs once."""
    server = serve()
    facts = play("module.mjs", "unanswered", **options(server, tmp_path, client, connect))
    assert facts["cuts"] == 2
    assert len(facts["posts"]) == 3
    assert len(set(facts["posts"])) == 1
    told(facts, 1)


@pytest.mark.cell("tanstack-module", "stop")
@every_client
@both_ways
def test_stop(serve: Serve, tmp_path: Path, client: str, connect: str) -> None:
    """Any tab stops the answer for all tabs. A second stop has nothing to stop."""
    server = serve(**LONG)
    facts = play("module.mjs", "stopping", **options(server, tmp_path, client, connect, "long"))
    assert len(facts["stopped"]) == 1
    assert facts["again"] == []
    told(facts, 1)


@every_client
def test_leaving_and_coming_back(serve: Serve, tmp_path: Path, client: str) -> None:
    """A tab that unsubscribes in the middle of a batch and subscribes again on the same connection misses nothing."""
    server = serve(**SLOW)
    told(play("module.mjs", "toggling", **options(server, tmp_path, client, "module")), 1)


# On plain uvicorn, and without the module, as the table in the README states.


@every_client
def test_stock_on_serve(serve: Serve, tmp_path: Path, client: str) -> None:
    """When `serve` is killed, its responses end cleanly, so the stock connection reconnects by itself."""
    server = serve(**LONG)
    facts = play_ended(server, "killed", again="again", **options(server, tmp_path, client, "stock", "long"))
    told(facts["first"], 1)
    told(facts["second"], 2)


APP = """
from durable_chat import DurableChat
chat = DurableChat("sqlite:///chat.db", protocol=True)
app = chat.app
"""
UVICORN = (sys.executable, "-m", "uvicorn", "app:app", "--app-dir", ".", "--port", "{port}", "--log-level", "warning")


@pytest.fixture
def plain(tmp_path: Path, processes: list[Process]) -> Process:
    """The same chat on plain uvicorn."""
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    process = Process(UVICORN, folder, {"DURABLE_CHAT_MODEL": "demo", "PYTHONPATH": str(ROOT), **SLOW})
    process.ready_path = "/readyz"
    processes.append(process)
    process.start()
    return process


@both_ways
def test_module_on_uvicorn(plain: Process, tmp_path: Path, connect: str) -> None:
    """When uvicorn is killed, responses are cut off in a chunk. With the module, every tab still reconnects."""
    facts = play_ended(plain, "killed", again="again", **options(plain, tmp_path, CLIENTS[0], connect))
    told(facts["first"], 1)
    told(facts["second"], 2)


@every_client
def test_stock_on_uvicorn(plain: Process, tmp_path: Path, client: str) -> None:
    """When uvicorn is killed, the stock connection ends its subscription. When uvicorn shuts down, it does not."""
    shared = options(plain, tmp_path, client, "stock")
    told(play_ended(plain, "deployed", **shared), 1)
    assert play_ended(plain, "lost", **{**shared, "session": "another"}) == [False, False]


@every_client
def test_stock_over_a_reset(plain: Process, tmp_path: Path, client: str) -> None:
    """
    When its connection is reset, the stock connection ends its subscription. (Over `serve` too, but not in Node.js,
    whose `fetch` takes the reset of a response that ends with its connection for a clean end.)
    """
    assert play("module.mjs", "lost", **options(plain, tmp_path, client, "stock")) == [False, False]
