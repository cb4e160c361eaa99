"""The client commands, as processes against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from durable_chat.http.tokens import LEEWAY_S, verify
from tests.conftest import Serve
from tests.servers import ROOT, Server, clean_environment

FAILED, USAGE, CANNOT_START, NO_SERVER = 1, 2, 3, 4


TOKEN_SECRET = "a-secret-of-the-tests-long-enough"


def run(*args: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "durable_chat", *args],
        cwd=ROOT,
        env=clean_environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def say(server: Server, session: str, text: str, mode: str = "await") -> None:
    import httpx

    message = {"id": f"m-{text}", "role": "user", "parts": [{"type": "text", "content": text}]}
    url = f"{server.url}/api/chat?id={session}&mode={mode}"
    assert httpx.post(url, json={"messages": [message]}, timeout=30).is_success


@pytest.fixture
def tailing(server: Server) -> Iterator[subprocess.Popen[str]]:
    """Run `tail` on the session `a`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "durable_chat", "tail", "a", "--url", server.url],
        env=clean_environment({}),
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def lines_until(process: subprocess.Popen[str], type_: str) -> list[dict[str, object]]:
    assert process.stdout is not None
    chunks = []
    for line in process.stdout:
        chunks.append(json.loads(line))
        if chunks[-1]["type"] == type_:
            return chunks
    raise AssertionError("it ended")


def test_tail_survives_a_restart(server: Server, tailing: subprocess.Popen[str]) -> None:
    """
    `tail` prints every chunk once, starting before the session exists and continuing over a restart of the server.
    """
    say(server, "a", "one")
    first = lines_until(tailing, "RUN_FINISHED")
    server.restart()
    say(server, "a", "two")
    second = lines_until(tailing, "RUN_FINISHED")
    for chunks, text in ((first, "one"), (second, "two")):
        assert [chunk["type"] for chunk in chunks].count("RUN_STARTED") == 1
        assert any(chunk.get("delta") == text for chunk in chunks) or any(
            chunk["type"] == "MESSAGES_SNAPSHOT" for chunk in chunks
        )


def test_snapshot(server: Server) -> None:
    """`snapshot` prints the route's response."""
    say(server, "a/b ü", "hello")
    done = run("snapshot", "a/b ü", "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert [message["role"] for message in json.loads(done.stdout)["messages"]] == ["user", "assistant"]


def test_stop(serve: Serve) -> None:
    """`stop` ends the answer and prints its run."""
    server = serve(DURABLE_CHAT_DEMO_CHUNKS="100000")
    say(server, "a", "hello", mode="immediate")
    done = run("stop", "a", "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["stopped"]) == 1
    assert json.loads(run("snapshot", "a", "--url", server.url).stdout)["activeRun"] is None
    assert json.loads(run("stop", "a", "--run", "nobody", "--url", server.url).stdout) == {"stopped": []}


@pytest.mark.parametrize("command", ["tail", "snapshot", "stop"])
def test_refused(server: Server, command: str) -> None:
    """A refusal is printed with the server's message."""
    done = run(command, "x" * 300, "--url", server.url)
    assert done.returncode == FAILED
    assert "256" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["tail", "snapshot", "stop"])
def test_no_server(command: str, nobody: str) -> None:
    """When no server answers, the command says so and exits with its own code."""
    done = run(command, "a", "--url", nobody)
    assert done.returncode == NO_SERVER, done.stderr
    assert "no server responds" in done.stderr


@pytest.mark.parametrize(
    "args", [("--url", "nonsense"), ("--url", "http://[::1"), ("--token", "a b"), ("--token", "é")]
)
def test_malformed(args: tuple[str, ...]) -> None:
    """An invalid address or token is a usage error."""
    assert run("tail", "a", *args).returncode == USAGE


def token(*args: str) -> str:
    done = run("token", *args, DURABLE_CHAT_TOKEN_SECRET=TOKEN_SECRET)
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


@pytest.mark.parametrize(
    ("args", "can", "ttl_s"),
    [
        ((), {"read", "send", "stop"}, 3600),
        (("--can", "read", "--ttl", "90s"), {"read"}, 90),
        (("--can", "read,send, stop,delete", "--ttl", "30m"), {"read", "send", "stop", "delete"}, 1800),
        (("--ttl", "12h"), {"read", "send", "stop"}, 43_200),
        (("--ttl", "7d"), {"read", "send", "stop"}, 604_800),
    ],
)
def test_token(args: tuple[str, ...], can: set[str], ttl_s: int) -> None:
    """`token` prints a token for the session, with the requested actions and lifetime."""
    before_s = time.time()
    found = verify(TOKEN_SECRET, token("a/b ü", *args), now_s=time.time())
    assert (found.session_id, set(found.can)) == ("a/b ü", can)
    assert ttl_s <= found.until_s - LEEWAY_S - before_s
    assert found.until_s - LEEWAY_S - time.time() <= ttl_s + 1


@pytest.mark.parametrize(
    "args",
    [("--ttl", ttl) for ttl in ("1", "0s", "1w", "-1h", "1.5h", "h", "999999999d")]
    + [("--can", "read,fly"), ("--can", "")],
)
def test_token_that_cannot_be(args: tuple[str, str]) -> None:
    """An invalid lifetime or action is a usage error, and no token is printed."""
    done = run("token", "a", *args, DURABLE_CHAT_TOKEN_SECRET=TOKEN_SECRET)
    assert (done.returncode, done.stdout) == (USAGE, "")


@pytest.mark.parametrize("settings", [{}, {"DURABLE_CHAT_TOKEN_SECRET": ""}, {"DURABLE_CHAT_TOKEN_SECRET": "hunter2"}])
def test_token_without_a_secret(settings: dict[str, str]) -> None:
    """
    Without a secret in the environment, or with one that is too short, no token is printed, and the error names the
    reason.
    """
    done = run("token", "a", **settings)
    assert (done.returncode, done.stdout) == (CANNOT_START, "")
    assert "DURABLE_CHAT_TOKEN_SECRET" in done.stderr
    assert "hunter2" not in done.stderr


def test_token_of_no_session() -> None:
    """An invalid session gets no token."""
    done = run("token", "x" * 300, DURABLE_CHAT_TOKEN_SECRET=TOKEN_SECRET)
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert "256" in done.stderr


def test_clients_with_a_token(serve: Serve) -> None:
    """A token from the command line lets the commands use its session, and no other."""
    server = serve(DURABLE_CHAT_TOKEN_SECRET=TOKEN_SECRET)
    at = ("--url", server.url)
    assert "There is no session 'a'" in run("snapshot", "a", *at, "--token", token("a", "--can", "read")).stderr
    assert run("stop", "a", *at, "--token", token("a", "--can", "stop")).returncode == 0
    for args in ((), ("--token", token("b")), ("--token", token("a", "--can", "stop"))):
        for command in ("snapshot", "tail"):
            done = run(command, "a", *at, *args)
            assert done.returncode == FAILED
            assert "oken" in done.stderr


ODD = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\r\nj"


def test_tail_prints_any_character(server: Server, tailing: subprocess.Popen[str]) -> None:
    """Only CR and LF end a line of an event. Other line separators are text."""
    say(server, "a", ODD)
    chunks = lines_until(tailing, "RUN_FINISHED")
    said = [message for chunk in chunks for message in chunk.get("messages") or ()]  # type: ignore[attr-defined]
    assert said[0]["parts"][0]["content"] == ODD
