"""The official suite of the protocol, npm's `@durable-streams/server-conformance-tests`, against a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.servers import run_vitest

# All tests of version 0.3.6 except the reserved subscription API, which the suite skips by default.
TESTS = 332
RESERVED = "Reserved subscription APIs "
# The suite waits for a long poll to end three times. The server's default of 20 s would make that slow.
LONG_POLL_S = 2
# The suite takes 30 s by itself, mostly waiting for streams to expire.
SUITE_MAX_S = 240


@pytest.mark.parametrize(
    "chosen",
    [
        {"DURABLE_CHAT_STORE": "memory://"},
        {"DURABLE_CHAT_STORE": "sqlite:///conformance.db"},
        {"DURABLE_CHAT_STORE": "memory://", "DURABLE_CHAT_HTTP": "uvicorn"},
    ],
    ids=["memory", "sqlite", "uvicorn"],
)
def test_conformance(serve: Serve, chosen: dict[str, str], tmp_path: Path) -> None:
    """Every test of the suite passes on every store and on either HTTP server. No test fails or is skipped."""
    server = serve(DURABLE_CHAT_LONG_POLL_S=str(LONG_POLL_S), **chosen)
    settings = {"SERVER_URL": server.url, "LONG_POLL_MS": str(LONG_POLL_S * 1000)}
    report = run_vitest("conformance.test.mjs", tmp_path / "report.json", timeout_s=SUITE_MAX_S, env=settings)

    results = [result for file in report["testResults"] for result in file["assertionResults"]]
    wrong = [
        "\n".join([f"{result['status']}: {result['fullName']}", *result["failureMessages"]])
        for result in results
        if result["status"] != "passed" and not result["fullName"].startswith(RESERVED)
    ]
    assert not wrong, f"{len(wrong)} of {TESTS} did not pass:\n\n" + "\n\n".join(wrong)
    assert sum(result["status"] == "passed" for result in results) == TESTS
