"""The real `@durable-streams/client` on the protocol routes reads what it writes, live and afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Serve
from tests.interop.playing import play
from tests.servers import Server

SECRET = "a-secret-of-the-test"
BEARER = {"Authorization": f"Bearer {SECRET}"}


def run(scenario: str, url: str, **options: Any) -> Any:
    return play("streams.mjs", scenario, url=url, **options)


@pytest.mark.parametrize("prefix", ["v1/stream", "streams"])
def test_plain_appends(server: Server, prefix: str) -> None:
    """Every append is read once and in order, from an offset between two of them and from the tail too."""
    facts = run("plain", f"{server.url}/{prefix}/folder/plain")
    assert facts["whole"] == facts["sent"]
    assert facts["rest"] == facts["sent"][5:]
    assert (facts["nothing"], facts["now"]) == ([], [])
    assert facts["contentType"].startswith("application/json")
    assert facts["streamClosed"] is False


def test_text(server: Server) -> None:
    """A text stream returns the bytes that were written, and is gone after a delete."""
    lines = ["one\n", "zwei €\n", "three 😀"]
    facts = run("text", f"{server.url}/v1/stream/text", lines=lines)
    assert facts == {"whole": "".join(lines), "gone": 404}


def test_idempotent_producer(server: Server) -> None:
    """Pipelined batches arrive once and in order, an older epoch is fenced, and a repeated append changes nothing."""
    facts = run("producer", f"{server.url}/v1/stream/producer", count=50)
    assert facts["whole"] == facts["sent"]
    assert facts["epochs"] == [0, 1, 2]
    assert facts["errors"] == [True], "only the older producer fails, and it is told why"
    assert facts["repeated"] == [200, 204, 204]
    assert facts["afterEnd"] == []


@pytest.mark.parametrize("mode", ["sse", "long-poll"])
def test_live_readers(server: Server, mode: str) -> None:
    """Readers that start before, during and after the writes get each record once, and end with the stream."""
    facts = run("live", f"{server.url}/v1/stream/live", mode=mode, count=20)
    sent = facts["sent"]
    assert [reader["items"] for reader in facts["early"]] == [sent] * 3
    assert facts["late"]["items"] == sent[10:]
    assert facts["after"]["items"] == sent
    readers = [*facts["early"], facts["late"], facts["after"]]
    assert all(reader["closed"] for reader in readers)
    assert len({reader["offset"] for reader in readers}) == 1
    assert facts["refused"] == 409


def test_with_a_secret(serve: Serve) -> None:
    """With a secret, the client that has it reads and writes."""
    server = serve(DS_SECRET=SECRET)
    facts = run("live", f"{server.url}/v1/stream/secret", mode="sse", count=4, headers=BEARER)
    assert facts["after"]["items"] == facts["sent"]


@pytest.mark.cell("durable-streams", "stream", "second tab", "drop and resume", "reload midway", "tool", "error")
def test_the_log_of_a_session(serve: Serve) -> None:
    """
    An answer with a tool that then fails is the same when read live by two readers, resumed from its middle, and read
    later.
    """
    server = serve(DURABLE_CHAT_DEMO_DELAY_MS="20")
    facts = play("streams.mjs", "session", base=server.url, id="s", text="think, use a tool and fail")
    assert facts["status"] == 202
    assert facts["batches"] > 3
    whole = facts["whole"]
    assert facts["first"] == facts["second"] == facts["resumed"] == facts["late"] == whole
    kinds = [chunk["type"] for chunk in whole]
    assert "TOOL_CALL_RESULT" in kinds
    assert kinds[-1] == "RUN_ERROR"
