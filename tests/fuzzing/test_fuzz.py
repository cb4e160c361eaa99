"""The fuzzer itself: it covers every route, and a seed makes the same requests each time."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from tests.fuzzing.requests import GENERATORS, NOWHERE, WEIGHTS, Maker, Request
from tests.routing import served
from tests.servers import ROOT, clean_environment

RUN_MAX_S = 300.0
"""It takes 20 s alone on two cores."""


def test_every_route_is_fuzzed() -> None:
    """Every route of the application has a generator, and every generator has a route."""
    assert GENERATORS.keys() - {NOWHERE} == {path for _, path in served()}
    assert GENERATORS.keys() == WEIGHTS.keys()


def without_tokens(request: Request) -> Request:
    """Remove the tokens, because they contain the time."""
    return replace(request, headers=tuple(pair for pair in request.headers if pair[0] != "Authorization"))


def test_a_seed_makes_the_same_requests() -> None:
    """A seed makes the same requests again, whatever other requests are sent."""

    def requests(seed: int, block: int) -> list[Request]:
        return [*map(without_tokens, Maker(seed, block, guarded=True).requests())]

    assert requests(1, 3) == requests(1, 3)
    assert requests(1, 3) != requests(2, 3)


def test_a_short_run_finds_nothing() -> None:
    """A short run with restarts finds no 500, no lost response, no error in a server's log and no unusable session."""
    command = [sys.executable, "-m", "tests.fuzzing", "--requests", "1500", "--seed", "8", "--no-stalls"]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment({}), capture_output=True, text=True, timeout=RUN_MAX_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing found" in done.stdout
