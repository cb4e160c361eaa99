"""
Kills a server at random moments of answers with tools, and checks that every answer goes on to its end.

Run it as `scripts/crash answers --kills 100 --seed 7`. Each round sends a turn and kills the server. The last process
finishes all of them. It prints, and fails on: finished calls that are executed again, calls of a tool that is not
idempotent executed twice, runs without exactly one end, and texts that are incomplete or doubled.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import aclosing
from pathlib import Path

from durable_chat.app import open_any_store
from durable_chat.config.settings import Settings
from durable_chat.protocol.offsets import BEGINNING
from durable_chat.transcripts.codec import decode_chunks
from tests.kills import Report, Tell, run, silent
from tests.servers import Process
from tests.sessions.test_recovery import read_log, say, until
from tests.sessions.test_resuming_steps import WHOLE, Stepping, text_of
from tests.transcripts.logs import Chunks, check_runs, has_ended, kinds

SETTINGS = {"DURABLE_CHAT_AFTER_CRASH": "continue", "DURABLE_CHAT_RESUMES_MAX": "100", "TEXT_DELAY_S": "0.08"}
WAIT_MAX_S = 1.5
"""The longest wait before a kill. An answer takes about a second."""


def prove(kills: int, seed: int, folder: Path, tell: Tell = silent) -> Report:
    """See the module."""
    chosen = random.Random(seed)
    processes: list[Process] = []
    stepping = Stepping(folder / "steps", processes)
    process = stepping.start(**SETTINGS)
    finished: dict[str, int] = {}
    try:
        for number in range(kills):
            assert say(process, f"s{number}", "look order") == 202
            time.sleep(chosen.uniform(0, WAIT_MAX_S))
            process.kill()
            executed = _executed(stepping)
            for key in asyncio.run(_finished(stepping, number)):
                finished.setdefault(key, executed[key])
            process = stepping.start(**SETTINGS)
            tell(f"{number + 1} kills, {len(finished)} calls were finished when they happened")
        return _found(process, stepping, finished, kills)
    finally:
        for each in processes:
            each.kill()


def _executed(stepping: Stepping) -> Counter[str]:
    """How often each call was executed, by its idempotency key."""
    return Counter(call.split()[2] for call in stepping.calls)


async def _finished(stepping: Stepping, newest: int) -> list[str]:
    """
    The calls whose results are in the log of a server that was just killed, by their idempotency keys. Earlier sessions
    count as well: their answers may have gone on and been killed again.
    """
    store = await open_any_store(Settings(store=f"sqlite:///{stepping.folder}/stepping.db"))
    found: list[str] = []
    try:
        for number in range(max(0, newest - 3), newest + 1):
            chunks: Chunks = []
            async with aclosing(await store.log.read(f"chat-s{number}", BEGINNING)) as reader:
                while True:
                    batch = await reader.next()
                    chunks += decode_chunks(batch.data) if batch.data else []
                    if batch.up_to_date:
                        break
            runs = [chunk["runId"] for chunk in chunks if chunk["type"] == "RUN_STARTED"]
            found += [f"{runs[0]}:{chunk['toolCallId']}" for chunk in chunks if chunk["type"] == "TOOL_CALL_RESULT"]
    finally:
        await store.close()
    return found


def _found(process: Process, stepping: Stepping, finished: dict[str, int], answers: int) -> Report:
    wrong = unended = resumed = 0
    for number in range(answers):
        until(process, f"s{number}", has_ended)
        chunks = read_log(process, f"s{number}")
        unended += kinds(chunks).count("RUN_STARTED") != 1 or len(check_runs(chunks)) != 1
        wrong += text_of(chunks) != WHOLE
        resumed += any(chunk.get("name") == "durable-chat.run-resumed" for chunk in chunks)
    executed = _executed(stepping)
    looks = {call.split()[2] for call in stepping.calls if call.startswith("look")}
    faults = {
        "finished calls executed again": sum(executed[key] > count for key, count in finished.items()),
        "calls executed twice": sum(executed[key] > 1 for key in looks),
        "runs without exactly one end": unended,
        "wrong texts": wrong,
    }
    figures = {"answers": answers, "answers that went on": resumed, "calls finished before a kill": len(finished)}
    return Report(faults, figures)


if __name__ == "__main__":
    run(prove, __doc__)
