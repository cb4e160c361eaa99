"""
The table client x case: which frontends are tested in which situation, and why a cell has no test.

A test fills cells by its marker: `@pytest.mark.cell("ai-sdk-7", "stop")`. It may name several clients, as a tuple, and several cases:
`@pytest.mark.cell(("ai-sdk-6", "ai-sdk-7"), "send", "stream")`. A parametrized test may give each parameter a marker of its own:
`pytest.param("ai-sdk-7", marks=pytest.mark.cell("ai-sdk-7", "stop"))`.

`@pytest.mark.generation("image-sse", "result")` fills the second table, of the generation hooks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
COLLECTED_MAX_S = 100
"""It takes a few seconds. A run that stands still longer than this is dead."""

CLIENTS = {
    "tanstack-durable": "TanStack AI `useChat`, `durableStreamConnection`",
    "tanstack-module": "TanStack AI `useChat`, `durable(…)` of `/durable-chat.js`",
    "tanstack-sse": "TanStack AI `useChat`, `fetchServerSentEvents`",
    "tanstack-ndjson": "TanStack AI `useChat`, `fetchHttpStream`",
    "ag-ui-1.0": "AG-UI `HttpAgent` 1.0",
    "ag-ui-0.0": "AG-UI `HttpAgent` 0.0.59",
    "ai-sdk-7": "AI SDK 7 `useChat`, `DefaultChatTransport`",
    "ai-sdk-6": "AI SDK 6 `useChat`, `DefaultChatTransport`",
    "ai-sdk-7-durable": "AI SDK 7 `useChat`, `createDurableChatTransport`",
    "ai-sdk-6-durable": "AI SDK 6 `useChat`, `createDurableChatTransport`",
    "copilotkit": "CopilotKit",
    "assistant-ui": "assistant-ui `useAgUiRuntime`",
    "assistant-transport": "assistant-ui `useAssistantTransportRuntime`",
    "fetch": "plain `fetch`",
    "durable-streams": "`@durable-streams/client`",
}
"""The clients, by the name that a marker uses, and what the table calls them."""

CASES = {
    "send": "a message is answered",
    "stream": "the text arrives in pieces",
    "drop and resume": "a lost connection is resumed, each chunk exactly once",
    "second tab": "another tab shows the answer live",
    "stop": "the answer stops for everybody",
    "error": "a failed answer is reported",
    "tool": "a tool call and its result are shown",
    "approval": "a call waits for a person, who approves or denies it",
    "attachment": "a file of the user reaches the model",
    "reload midway": "a reload in the middle of an answer shows all of it",
}
"""The cases, by the name that a marker uses, and what holds."""

NO_RESUME = "The client has no resume: a lost connection ends its run with an error. The answer goes on in the session."
NO_JOIN = "The client cannot join a running answer. After a reload, an application shows the session's messages."

REASONS: dict[tuple[str, str], str] = {
    ("ag-ui-1.0", "drop and resume"): NO_RESUME,
    ("ag-ui-0.0", "drop and resume"): NO_RESUME,
    ("copilotkit", "drop and resume"): NO_RESUME,
    ("assistant-ui", "drop and resume"): NO_RESUME,
    ("assistant-transport", "drop and resume"): (
        "The runtime does not retry a lost connection by itself. An application resumes, as it does after a reload."
    ),
    ("ag-ui-1.0", "reload midway"): NO_JOIN,
    ("ag-ui-0.0", "reload midway"): NO_JOIN,
    ("durable-streams", "send"): "The client reads and writes logs. A message is sent with `POST /api/chat`.",
    ("durable-streams", "stop"): "The client reads and writes logs. It has no notion of an answer.",
    ("durable-streams", "approval"): "The client reads and writes logs. It has no notion of an approval.",
    ("durable-streams", "attachment"): "The client reads and writes logs. It has no notion of a message's files.",
}
"""Why a cell has no test, by client and case."""

GENERATION_CLIENTS = {
    f"{hook}-{transport}": f"`{name}`, {told}"
    for hook, name in {
        "image": "useGenerateImage",
        "speech": "useGenerateSpeech",
        "transcription": "useTranscription",
        "summary": "useSummarize",
        "video": "useGenerateVideo",
    }.items()
    for transport, told in {
        "sse": "`fetchServerSentEvents`",
        "ndjson": "`fetchHttpStream`",
        "direct": "`fetcher` with the result",
        "response": "`fetcher` with a `Response`",
    }.items()
}
"""The generation hooks, each on every transport."""

GENERATION_CASES = {
    "result": "the hook has the whole result, and its files can be read; a reset removes it",
    "progress": "`onProgress` and, for videos, `onJobCreated` and `onStatusUpdate` are called",
    "error": "a failure is reported once, with its message",
    "stop": "a stop ends the generation on the server",
    "reload midway": "a page that is reloaded during a generation joins it and gets the result",
    "second tab": "so does a second page, and one that is opened afterwards has the result",
}

NO_PROGRESS = "The response is the result alone."

GENERATION_REASONS: dict[tuple[str, str], str] = {
    (client, "progress"): NO_PROGRESS for client in GENERATION_CLIENTS if client.endswith("-direct")
}

Cells = dict[tuple[str, str], list[str]]
"""The tests of each cell, by client and case: `tests/interop/test_module.py::test_stop`."""


HEAD = """# Frontends and cases

<!-- Written by scripts/reference from the marks of the tests (tests/interop/cells.py). -->

The real clients, in the versions of the repository's npm lock file, play these cases against real servers. A number in a cell is that of the
reason why there is no test.
"""


GENERATION_HEAD = """# Generation hooks

<!-- Written by scripts/reference from the marks of the tests (tests/interop/cells.py). -->

TanStack AI's generation hooks, unchanged, play these cases in Chromium against a real server on another origin. A number in a cell is that
of the reason why there is no test.
"""


@dataclass(frozen=True)
class Table:
    """A table of clients and cases, which tests fill by `marker`. `head` begins its page."""

    marker: str
    clients: Mapping[str, str]
    cases: Mapping[str, str]
    reasons: Mapping[tuple[str, str], str]
    head: str


FRONTENDS = Table("cell", CLIENTS, CASES, REASONS, HEAD)
GENERATIONS = Table("generation", GENERATION_CLIENTS, GENERATION_CASES, GENERATION_REASONS, GENERATION_HEAD)
TABLES = {table.marker: table for table in (FRONTENDS, GENERATIONS)}


def cells_of(marker: pytest.Mark) -> Iterator[tuple[str, str]]:
    """The cells that a marker fills. Raises ValueError for a name that is not in the tables above."""
    table = TABLES[marker.name]
    clients, *cases = marker.args
    for client in (clients,) if isinstance(clients, str) else clients:
        if client not in table.clients:
            raise ValueError(f"{marker.name}: there is no client {client!r} in tests/interop/cells.py")
        for case in cases:
            if case not in table.cases:
                raise ValueError(f"{marker.name}: there is no case {case!r} in tests/interop/cells.py")
            yield client, case


class CellCollector:
    """A plugin of pytest that notes the cells of the tests that are collected. Mutable: `cells`."""

    def __init__(self, table: Table) -> None:
        self.cells: Cells = defaultdict(list)
        self._table = table

    def pytest_collection_modifyitems(self, items: Sequence[pytest.Item]) -> None:
        for item in items:
            name = item.nodeid.partition("[")[0]
            for cell in (cell for marker in item.iter_markers(self._table.marker) for cell in cells_of(marker)):
                if name not in self.cells[cell]:
                    self.cells[cell].append(name)


def collect(table: Table = FRONTENDS) -> Cells:
    """Collect the tests whose files have the marker, in a process of their own. Raises RuntimeError if a file is broken."""
    command = [sys.executable, "-m", "tests.interop.cells", table.marker]
    done = subprocess.run(
        command, cwd=TESTS.parent, capture_output=True, text=True, timeout=COLLECTED_MAX_S, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return {(client, case): tests for client, case, tests in json.loads(done.stdout.splitlines()[-1])}


def main() -> int:
    """Print the cells of the table whose marker is the argument, as one line of JSON."""
    table = TABLES[sys.argv[1]]
    marked = f"mark.{table.marker}"
    files = [str(path) for path in sorted(TESTS.rglob("test_*.py")) if marked in path.read_text()]
    collector = CellCollector(table)
    options = ["--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    code = pytest.main([*options, *files], [collector])
    print(json.dumps([[*cell, tests] for cell, tests in collector.cells.items()]))
    return int(code)


def gaps(cells: Mapping[tuple[str, str], Sequence[str]], table: Table = FRONTENDS) -> list[tuple[str, str]]:
    """Return the cells with neither a test nor a reason."""
    every = [(client, case) for client in table.clients for case in table.cases]
    return [cell for cell in every if not cells.get(cell) and cell not in table.reasons]


def page(table: Table = FRONTENDS) -> str:
    """Return the table, the reasons and the tests, as a page of the documentation."""
    cells, clients, cases = collect(table), table.clients, table.cases
    every = [(client, case) for client in clients for case in cases]
    reasons = list(dict.fromkeys(table.reasons[cell] for cell in every if cell in table.reasons))
    lines = [table.head.rstrip("\n"), "", f"| | {' | '.join(cases)} |", "|---" * (len(cases) + 1) + "|"]
    for client, title in clients.items():
        row = [_cell(cells, reasons, table.reasons.get((client, case)), (client, case)) for case in cases]
        lines.append(f"| {title} | {' | '.join(row)} |")
    lines += ["", *(f"{at}. {reason}" for at, reason in enumerate(reasons, 1))]
    lines += ["", "## What a case shows", "", "| case | holds |", "|---|---|"]
    lines += [f"| {case} | {holds} |" for case, holds in cases.items()]
    lines += ["", "## The tests"]
    for client, title in clients.items():
        found = {case: cells[client, case] for case in cases if cells.get((client, case))}
        if found:
            lines += ["", f"### {title}", "", "| case | tests |", "|---|---|"]
            lines += [f"| {case} | {', '.join(f'`{test}`' for test in tests)} |" for case, tests in found.items()]
    return "\n".join(lines) + "\n"


def _cell(cells: Cells, reasons: Sequence[str], reason: str | None, cell: tuple[str, str]) -> str:
    if cells.get(cell):
        return "tested"
    return "" if reason is None else f"({reasons.index(reason) + 1})"


if __name__ == "__main__":
    sys.exit(main())
