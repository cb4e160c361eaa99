"""Requests of arbitrary JSON to every route of a real server: `scripts/fuzz --requests 100000 --seed 1`."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.fuzzing.requests import describe
from tests.fuzzing.running import Findings, Options, Run

SHOWN_MAX = 5
"""Findings shown of each kind."""

STALL_MAX_S = 0.1
"""What /healthz may have to wait for the server's own doing."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="how many are sent")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same requests")
    parser.add_argument("--minutes", type=float, default=math.inf, help="how long requests are sent at most")
    parser.add_argument("--replay", type=int, metavar="N", help="send the block of request N up to it, and show it")
    parser.add_argument("--no-stalls", action="store_true", help="do not fail for a stall: the machine is busy")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Options(options.requests, options.seed, options.minutes, Path(folder)))
        started_s = time.monotonic()
        try:
            if options.replay is not None:
                asyncio.run(show_replay(run, options.replay))
            else:
                asyncio.run(run.run())
                print_statuses(run.findings, time.monotonic() - started_s)
        finally:
            for server in run.servers:
                server.kill()
    return print_failures(run.findings, judge_stalls=not options.no_stalls)


async def show_replay(run: Run, number: int) -> None:
    for request, answer in await run.replay(number):
        said = answer if isinstance(answer, str) else f"{answer.status} {answer.body[:300]!r}"
        told = describe(request) if request.number == number else f"{request.method} {request.target[:100]}"
        print(f"{request.number}: {told}\n    {said}")


def print_statuses(findings: Findings, took_s: float) -> None:
    routes: dict[str, Counter[str]] = defaultdict(Counter)
    for (route, status), count in findings.statuses.items():
        routes[route][status] += count
    for route, counts in sorted(routes.items()):
        print(f"{route:22} {counts.total():7}  " + "  ".join(f"{status}: {n}" for status, n in sorted(counts.items())))
    total = findings.statuses.total()
    print(
        f"{total} requests in {took_s:.0f} s; {findings.checked} times a session was looked at, {dict(findings.excused)}"
    )
    longest = max((stall for stall, _ in findings.stalls), key=lambda stall: stall.own_s, default=None)
    loads = " ".join(f"{load:.1f}" for load in os.getloadavg())
    told = "under 20 ms" if longest is None else f"{longest.wait_s * 1000:.0f} ms, {longest.own_s * 1000:.0f} its own"
    print(f"longest wait for /healthz of {findings.probes}: {told} (load averages {loads})")


def print_failures(findings: Findings, *, judge_stalls: bool) -> int:
    for stall, during in sorted(findings.stalls, key=lambda pair: -pair[0].own_s)[:SHOWN_MAX]:
        if stall.own_s > STALL_MAX_S / 2:
            print(f"stall of {stall.wait_s * 1000:.0f} ms, {stall.own_s * 1000:.0f} ms of them its own, during:")
            for request in during:
                print(f"    request {request.number}: {describe(request, 120)}")
            if judge_stalls and stall.own_s > STALL_MAX_S:
                findings.fail("/healthz had to wait", f"{stall.own_s * 1000:.0f} ms")
    kinds: dict[str, list[str]] = defaultdict(list)
    for kind, detail in findings.failures:
        kinds[kind].append(detail)
    for kind, details in kinds.items():
        print(f"\n{len(details)} times: {kind}", file=sys.stderr)
        for detail in details[:SHOWN_MAX]:
            print(f"  {detail}", file=sys.stderr)
    print("nothing found" if not kinds else f"{len(findings.failures)} findings")
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main())
