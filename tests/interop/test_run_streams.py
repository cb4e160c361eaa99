"""The requests of TanStack's adapter for resumable runs, on the protocol routes under /streams/."""

from __future__ import annotations

import pytest

from tests.conftest import Serve
from tests.interop.playing import play

BEARER = {"Authorization": "Bearer a-secret-of-the-test"}


@pytest.mark.parametrize(("sse_s", "windows"), [("60", 1), ("1", 3)], ids=["one-window", "many-windows"])
def test_run(serve: Serve, sse_s: str, windows: int) -> None:
    """A strict reader gets each chunk once: from the start, resumed within a batch, and after the end."""
    server = serve(DS_SECRET="a-secret-of-the-test", DURABLE_CHAT_SSE_S=sse_s)
    run_id = "run-1795248801386-8bxrgp/ü"
    facts = play("runs.mjs", "run", base=server.url, headers=BEARER, runId=run_id, windows=windows)
    sent = facts["sent"]
    assert facts["early"]["chunks"] == sent
    assert facts["resumed"] == sent[3:]
    assert facts["late"] == sent
    assert facts["early"]["windows"] >= windows
    statuses = facts["statuses"]
    assert statuses["created"] == 201
    assert statuses["again"] in {200, 204}
    assert statuses["repeated"][0] in {200, 204}
    assert statuses["repeated"][1:] == [204, 204]
    assert facts["offsets"] == sorted(set(facts["offsets"])), "offsets grow, in the order of their text"
    assert len(set(facts["repeatedOffsets"])) == 1


def test_takeover(serve: Serve) -> None:
    """
    A second writer finds the stream, reads to its tail in one bounded read, and appends after it. The bounded read
    ends on an empty, an open and a closed stream.
    """
    server = serve(DS_SECRET="a-secret-of-the-test")
    facts = play("runs.mjs", "takeover", base=server.url, headers=BEARER, runId="run-taken-over")
    sent = facts["sent"]
    assert facts["found"] in {200, 204}
    assert (facts["empty"], facts["there"]) == ([], sent[:3])
    assert facts["open"] == facts["closed"] == sent
    assert facts["repeated"] in {200, 204}
