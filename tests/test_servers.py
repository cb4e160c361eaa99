"""The fixtures themselves: what they promise other tests."""

from __future__ import annotations

import http.client

import pytest
from playwright.sync_api import Browser

from tests.conftest import ServeNpm
from tests.servers import NpmServer, run_node


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
