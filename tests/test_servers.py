"""The fixtures themselves: what they promise other tests."""

from __future__ import annotations

import http.client
import socket
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from benchmarks.ports import HeldPort
from tests.conftest import ServeNpm
from tests.servers import NpmServer, Process, run_node


def request(server: NpmServer, method: str, body: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request(method, "/v1/stream/s", body, {"Content-Type": "text/plain"})
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


@pytest.mark.parametrize(("durable", "kept"), [(True, (200, b"word")), (False, (404, b"Stream not found"))])
def test_reference_server_restarts(serve_npm: ServeNpm, durable: bool, kept: tuple[int, bytes]) -> None:
    """A killed peer comes back at its address, with what it kept in files."""
    server = serve_npm(durable=durable)
    assert request(server, "PUT", "word")[0] == 201
    assert request(server, "GET") == (200, b"word")
    server.restart()
    assert request(server, "GET") == kept
    assert server.terminate() == 0


def test_a_port_is_held() -> None:
    """Connections to it are refused and others do not get it, while the server it is for does, again and again."""
    held = HeldPort()
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", held.number))
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", held.number))
        with socket.create_server(("127.0.0.1", held.number)) as server:
            with socket.create_connection(server.getsockname()) as client:
                server.accept()[0].close()
                assert client.recv(1) == b""
    held.close()


def test_early_end_is_shown(tmp_path: Path) -> None:
    """A server that ends instead of getting ready fails the test at once, with what it had written."""
    server = Process([sys.executable, "-c", "import sys; sys.exit('out of luck')"], tmp_path, {})
    with pytest.raises(AssertionError, match="out of luck"):
        server.start()


def test_environment_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key or setting of the machine reaches a server unless a test passes it."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a key of the machine")
    program = "import os; print(sorted(name for name in os.environ if 'KEY' in name or 'DURABLE' in name))"
    server = Process([sys.executable, "-c", program], tmp_path, {"DURABLE_CHAT_MODEL": "demo"})
    server.start(wait=False)
    assert server.wait() == 0
    assert server.output.strip() == "['DURABLE_CHAT_MODEL']"


def test_node_has_a_time_limit() -> None:
    """A script that never ends fails the test, with what it had written."""
    with pytest.raises(AssertionError, match="so far"):
        run_node(["-e", "console.log('so far'); setInterval(() => {}, 1000)"], timeout_s=2)


def test_node_failure_is_shown() -> None:
    """A script that fails shows its error."""
    with pytest.raises(AssertionError, match="gone wrong"):
        run_node(["-e", "throw new Error('gone wrong')"], timeout_s=20)


def test_chromium_opens_a_page(chromium: Browser) -> None:
    """The machine's browser runs."""
    with chromium.new_context() as context:
        page = context.new_page()
        page.set_content("<h1>Here</h1>")
        assert page.inner_text("h1") == "Here"
