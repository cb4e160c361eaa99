"""
The matrix of client versions and scenarios, with every kind of reader: runs it, checks it and writes the table.

`python -m tests.interop.matrix` (scripts/matrix) prints only the table.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.interop.playing import CLIENTS, Facts, play
from tests.interop.scenarios import SCENARIOS, Scenario
from tests.servers import INTEROP, Process

OPENINGS = {"snapshots": {}, "echoes": {"DURABLE_CHAT_TURN_SNAPSHOT_MAX_BYTES": "0"}}
"""What turns begin with: short sessions have snapshots, which alone make watching tabs tell when they are ready."""

OWN_TIMES = frozenset({"ai-client-0-23"})
"""Clients that give an answer a time of their own, whatever the log states, until a snapshot comes."""

AT_ONCE = 6
"""Scenarios that one process of Node.js plays at the same time."""


class ScriptedApp(Process):
    """tests/interop/scripted_app.py under plain uvicorn."""

    ready_path = "/readyz"

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        app = "tests.interop.scripted_app:app"
        command = (sys.executable, "-m", "uvicorn", app, "--port", "{port}", "--no-access-log")
        super().__init__(command, folder, settings)


@contextmanager
def scripted_app(folder: Path, opening: str = "snapshots") -> Iterator[ScriptedApp]:
    app = ScriptedApp(folder, OPENINGS[opening])
    app.start()
    try:
        yield app
    finally:
        app.kill()


def play_all(base: str, client: str, opening: str, names: Sequence[str] = tuple(SCENARIOS)) -> dict[str, Facts]:
    """
    Return the facts of each scenario with one client. With `told`, wait for tabs that report the end of each answer.
    """
    told = opening == "snapshots"
    scenarios = [
        {"name": name, "act": made.act, "answers": made.answers, "session": client, "all_told": told, **made.more}
        for name, made in ((name, SCENARIOS[name]) for name in names)
    ]
    facts: dict[str, Facts] = play("matrix.mjs", "all", base=base, client=client, scenarios=scenarios, at_once=AT_ONCE)
    return facts


@dataclass(frozen=True, slots=True)
class Cell:
    """The result of one scenario with one client: the number of compared readers, and the errors."""

    readers: int
    problems: tuple[str, ...]

    def __str__(self) -> str:
        return f"= {self.readers}" if not self.problems else "DIFFER"


def judge(scenario: Scenario, facts: Facts, client: str, opening: str) -> Cell:
    """
    Every reader has the same messages at each gate, at the end of the turn and after the next one, and got correct
    reports.
    """
    if "failed" in facts:
        return Cell(0, (facts["failed"],))
    problems = [*_shown(scenario, facts["done"])]
    timed = client not in OWN_TIMES
    for gate in facts["gates"]:
        problems += [f"at {gate['gate']}: {problem}" for problem in _held(gate, timed)]
    for name in ("done", "after"):
        told = opening == "snapshots"
        found = [*_settled(facts[name], timed), *_told_right(scenario, facts, name, told)]
        problems += [f"{name}: {problem}" for problem in found]
    return Cell(len(facts["after"]["tabs"]) + 1, tuple(problems))


def _held(gate: Facts, timed: bool) -> Iterator[str]:
    """While the model waits, the snapshot plus the later chunks equal the sender's messages."""
    sender = gate["tabs"]["sender"]
    if not gate["activeRun"]:
        yield "the snapshot knows of no run"
    for name, tab in gate["tabs"].items():
        if not tab["generating"]:
            yield f"{name} does not know that the session is generating"
        if tab["transcript"] != sender["transcript"]:
            yield f"{name} shows something else than the sender"
        if timed and tab["times"] != sender["times"]:
            yield f"{name} has other times: {tab['times']}, {sender['times']}"


def _settled(picture: Facts, timed: bool) -> Iterator[str]:
    told = picture["snapshot"]["messages"]
    wanted = [{key: message[key] for key in ("id", "role", "parts")} for message in told]
    times = [message.get("createdAt") for message in told]
    if len({message["id"] for message in told}) < len(told):
        yield "an id is there twice"
    for name, tab in picture["tabs"].items():
        if tab["transcript"] != wanted:
            yield f"{name} shows something else than the snapshot"
        stated = [found if time else None for found, time in zip(tab["times"], times, strict=True)]
        if timed and stated != times:
            yield f"{name} has other times: {stated}, {times}"
        if (tab["generating"], tab["loading"], tab["subscribed"]) != (False, False, True):
            yield f"{name} is generating, loading or gone"


def _told_right(scenario: Scenario, facts: Facts, name: str, all_told: bool) -> Iterator[str]:
    """
    `sessionGenerating`, `onFinish`, `onError` and `status` are correct. Without snapshots, the last three are correct
    only in the sender.
    """
    tabs = facts[name]["tabs"]
    if len({message for tab in tabs.values() for message in tab["errors"]}) > 1:
        yield "one failure has several messages"
    for at, tab in tabs.items():
        if tab["generations"] != [True, False] * tab["runs"]:
            yield f"{at} was told of generating: {tab['generations']} in {tab['runs']} runs"
        if not all_told and at != "sender":
            continue
        failures = len(tab["errors"])
        if failures != tab["failed"] or (at == "sender" and failures != scenario.failures):
            yield f"{at} was told of {failures} failures"
        silent = 1 if at in facts["ran"] else 0
        if not tab["answers"] - silent <= tab["finished"] + failures <= tab["answers"]:
            yield f"{at} was told of {tab['finished']} ends and {failures} failures in {tab['answers']} answers"
        failed = name == "done" and failures and scenario.act != "queue"  # the waiting turn was answered
        if tab["status"] != ("error" if failed else "ready"):
            yield f"the status of {at} is {tab['status']}"


def _shown(scenario: Scenario, picture: Facts) -> Iterator[str]:
    """The answers of the turn are the expected ones, so equal but wrong messages fail."""
    messages = [message for message in picture["snapshot"]["messages"][1:] if message["role"] == "assistant"]
    before = 0 if scenario.act == "edit first" else 1
    found = [[*map(short, message["parts"])] for message in messages[before:]]
    if found != [list(parts) for parts in scenario.shows]:
        yield f"the answer is {found}"


def short(part: Facts) -> str:
    """Return a part in short form."""
    words = {
        "tool-call": ("arguments", "state"),
        "tool-result": ("content", "state"),
        "structured-output": ("raw", "status"),
    }.get(part["type"], ("content",))
    return " ".join([part["type"], *(str(part.get(word)) for word in words)])


def version(client: str) -> str:
    """Return the version of a client, with the version of @tanstack/ai that it uses."""
    folder = INTEROP / "node_modules" / client
    own = folder / "node_modules" / "@tanstack" / "ai"
    core = own if own.is_dir() else INTEROP / "node_modules" / "@tanstack" / "ai"
    found = [json.loads((place / "package.json").read_text())["version"] for place in (folder, core)]
    return f"{found[0]} (ai {found[1]})"


def table(cells: Mapping[tuple[str, str, str], Cell]) -> list[str]:
    """Return lines of Markdown, with a row for each scenario. Cells are keyed by client, opening and scenario."""
    columns = [(client, opening) for client in CLIENTS for opening in OPENINGS]
    columns = [column for column in columns if any(key[:2] == column for key in cells)]
    heads = [f"{version(client)}, {opening}" for client, opening in columns]
    lines = ["| scenario | " + " | ".join(heads) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in SCENARIOS:
        row = [cells.get((*column, name)) for column in columns]
        if any(row):
            lines.append(f"| {name} | " + " | ".join("" if cell is None else str(cell) for cell in row) + " |")
    wrong = sum(bool(cell.problems) for cell in cells.values())
    lines.append("")
    lines.append(f"`= n`: n readers were compared and were equal. {wrong} of {len(cells)} differ.")
    lines.append(
        "Versions of @tanstack/ai-client; the first is the newest that there was when the packages were locked."
    )
    return lines


def main() -> int:
    cells: dict[tuple[str, str, str], Cell] = {}

    def fill(client: str, opening: str) -> None:
        with tempfile.TemporaryDirectory() as folder, scripted_app(Path(folder), opening) as app:
            for name, facts in play_all(app.url, client, opening).items():
                cells[client, opening, name] = judge(SCENARIOS[name], facts, client, opening)

    # each worker runs a server and a client, so more workers would only wait for a core
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(fill, client, opening) for client in CLIENTS for opening in OPENINGS]
    for each in done:
        each.result()
    print("\n".join(table(cells)))
    for (client, opening, name), cell in cells.items():
        for problem in cell.problems:
            print(f"{client}, {opening}, {name}: {problem[:2000]}")
    return 1 if any(cell.problems for cell in cells.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
