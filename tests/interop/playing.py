"""Plays a scenario of the JavaScript clients in Node.js and gives back the facts it reports."""

from __future__ import annotations

import json
from typing import Any

from tests.servers import run_node

CLIENTS = ("@tanstack/ai-client", "ai-client-0-31", "ai-client-0-23")
"""The versions of the stock client that are played, by what they are installed as."""

Facts = dict[str, Any]

# A scenario has several waits of at most 30 s (clients/facts.mjs) and fails by itself at the first that is not met;
# this only ends one that hangs all the same.
SCENARIO_MAX_S = 150.0


def play(script: str, scenario: str, **options: Any) -> Any:
    """What `scenario` of clients/`script` returns; a scenario that fails shows why."""
    argument = json.dumps({"scenario": scenario, **options})
    done = run_node([f"clients/{script}", argument], timeout_s=SCENARIO_MAX_S)
    return json.loads(done.stdout.splitlines()[-1])
