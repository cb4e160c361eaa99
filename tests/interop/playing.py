"""Runs a scenario of the JavaScript clients in Node.js and returns the facts that it reports."""

from __future__ import annotations

import json
from typing import Any

from tests.servers import run_node

CLIENTS = ("@tanstack/ai-client", "ai-client-0-31", "ai-client-0-23")
"""The versions of the stock client that are played, by what they are installed as."""

Facts = dict[str, Any]

# A scenario has several waits of at most 30 s (clients/facts.mjs) and fails at the first that times out.
# This timeout only ends a scenario that hangs.
SCENARIO_MAX_S = 150.0


def play(script: str, scenario: str, **options: Any) -> Any:
    """Return the result of `scenario` of clients/`script`. The error of a failed scenario shows the reason."""
    argument = json.dumps({"scenario": scenario, **options})
    done = run_node([f"clients/{script}", argument], timeout_s=SCENARIO_MAX_S)
    return json.loads(done.stdout.splitlines()[-1])
