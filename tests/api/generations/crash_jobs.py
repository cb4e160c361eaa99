"""
Kills a server at random moments of video jobs, and checks that each job is ordered once and followed to its end.

Run it as `scripts/crash videos --kills 100 --seed 7`. Each round orders a video and kills the server. The last process
finishes all of them. It prints, and fails on: jobs ordered twice, runs without exactly one end, and videos that are lost
although the log knows their jobs. The provider is a process of its own, which outlives the kills and counts the orders.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from tests.generations.sora import CLIP, SoraProcess
from tests.kills import Report, Tell, run, silent
from tests.servers import Server
from tests.sessions.test_recovery import read_log
from tests.transcripts.logs import has_ended, kinds
from tests.waits import wait_until

WAIT_MAX_S = 2.0
"""The longest wait before a kill. A job takes two seconds, but a new process imports OpenAI's package before its first order."""

ORDERED_SHARE = 0.7
"""The share of the jobs whose server lives at least until the provider has the order. The others may die before it."""

END_MAX_S = 120.0
"""How long the last process may take for everything. A job that nobody disturbs takes two seconds."""


def prove(kills: int, seed: int, folder: Path, tell: Tell = silent) -> Report:
    """See the module. The kills happen while jobs are ordered, polled and downloaded, and during recoveries."""
    chosen = random.Random(seed)
    provider = SoraProcess(folder / "provider", seed)
    settings = {"OPENAI_BASE_URL": f"{provider.url}/v1", "OPENAI_API_KEY": "key-of-the-server"}
    settings |= {"DURABLE_CHAT_GENERATE": "video=openai:sora-2", "DURABLE_CHAT_RESUMES_MAX": "100"}
    settings["DURABLE_CHAT_VIDEO_POLL_S"] = "0.5"
    server = Server(folder / "server", settings | {"DURABLE_CHAT_MODEL": "demo"})
    try:
        provider.start()
        server.start()
        for number in range(kills):
            _order(server, number)
            if chosen.random() < ORDERED_SHARE:
                _wait_for_order(provider, number)
            time.sleep(chosen.uniform(0, WAIT_MAX_S))
            server.restart()
            tell(f"{number + 1} kills, {len(provider.orders)} orders at the provider")
        return _found(server, provider, kills)
    finally:
        server.kill()
        provider.kill()


def _order(server: Server, number: int) -> None:
    """Ask for a video and leave: the run goes on."""
    body = {"threadId": f"T{number}", "runId": f"r{number}", "data": {"prompt": f"film {number}."}}
    url = f"{server.url}/api/generate/video"
    with httpx.stream("POST", url, json=body, headers={"X-Run-Id": f"r{number}"}, timeout=30) as answer:
        assert answer.status_code == 200, answer.read()


def _wait_for_order(provider: SoraProcess, number: int) -> None:
    wait_until(
        lambda: any(f"film {number}." in order for order in provider.orders),
        f"film {number} was not ordered",
        END_MAX_S,
    )


def _found(server: Server, provider: SoraProcess, jobs: int) -> Report:
    faults: Counter[str] = Counter()
    figures: Counter[str] = Counter()
    deadline_s = time.monotonic() + END_MAX_S
    for number in range(jobs):
        chunks = read_log(server, f"generation-T{number}")
        while not has_ended(chunks) and time.monotonic() < deadline_s:
            time.sleep(0.1)
            chunks = read_log(server, f"generation-T{number}")
        ends = [chunk for chunk in chunks if chunk["type"] in ("RUN_FINISHED", "RUN_ERROR")]
        whole = kinds(chunks).count("RUN_STARTED") == len(ends) == 1
        faults["runs without exactly one end"] += not whole
        has_film = any(_is_whole(server, chunk) for chunk in chunks if chunk.get("name") == "generation:result")
        has_job = any(chunk.get("name") == "video:job:created" for chunk in chunks)
        faults["videos lost"] += has_job and not has_film
        figures["videos"] += has_film
        figures["orders whose answer was lost"] += any(end.get("code") == "order_unknown" for end in ends)
        figures["runs that went on"] += any(chunk.get("name") == "durable-chat.run-resumed" for chunk in chunks)
    orders = Counter(film for order in provider.orders for film in re.findall(r"film \d+\.", order))
    faults["jobs ordered twice"] = sum(count > 1 for count in orders.values())
    return Report(faults, {"jobs": jobs, "ordered": len(orders), **figures})


def _is_whole(server: Server, result: dict[str, Any]) -> bool:
    """Whether the video of a result is there."""
    return httpx.get(server.url + result["value"]["url"], timeout=30).content == CLIP


if __name__ == "__main__":
    run(prove, __doc__)
