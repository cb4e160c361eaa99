"""What the README says is so: its settings, its routes, its commands and its examples."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import pytest

import durable_chat
from durable_chat.app import DurableChat
from durable_chat.chat.providers.base import Turn
from durable_chat.config import ELECTRIC_URL_DEFAULT, Settings, describe, flag_of
from durable_chat.metrics import COUNTERS, GAUGES, HISTOGRAMS
from tests.routing import served
from tests.servers import ROOT, Process, clean_environment

DEPLOYING = (ROOT / "docs" / "deploying.md").read_text()
LIMITS = (ROOT / "docs" / "upstream-limits.md").read_text()
README = (ROOT / "README.md").read_text()
EXAMPLES: list[str] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
AGENT = "async def my_agent(messages):\n    yield 'You wrote: '\n    yield messages[-1]['parts'][0]['content']\n\n"
COMMANDS = ("serve", "migrate", "token", "tail", "snapshot", "stop")


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def shown_default(name: str, value: Any) -> str:
    if name == "electric_url":
        return f"`{ELECTRIC_URL_DEFAULT}`"
    if value is None or value == ():
        return "off" if name in ("turns_per_minute", "session_ttl_s") else "none"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def test_settings() -> None:
    """Every setting is in the README with its default, and nothing there is made up."""
    documented = {row[0].strip("`"): row[1] for row in rows("Settings")}
    settings = {describe(item).env: shown_default(item.name, item.default) for item in fields(Settings)}
    flags_only = [flag_of(item) for item in fields(Settings) if describe(item).env is None]
    assert documented == {env: default for env, default in settings.items() if env}
    assert flags_only == ["--open"]
    assert "`--open`" in section("Settings")


def test_every_variable_is_a_setting() -> None:
    """A variable that is named anywhere in the docs exists."""
    named = set(re.findall(r"\b(?:DURABLE_CHAT|DS|ELECTRIC)_[A-Z_]*[A-Z]\b", README + DEPLOYING))
    assert named == {describe(item).env for item in fields(Settings) if describe(item).env}


def test_routes() -> None:
    """Every route is in the README, and nothing there is made up."""
    documented = set()
    for row in rows("Routes"):
        *methods, path = row[0].strip("`").split()
        documented |= {(method, path.partition("?")[0]) for method in methods}
    assert documented == served()


def test_metrics() -> None:
    """Every metric is in the docs, and nothing there is made up."""
    documented = set(re.findall(r"^\| `(durable_chat_\w+)`", DEPLOYING, re.MULTILINE))
    plain = {gauge.name for gauge in GAUGES} | {histogram.name for histogram in HISTOGRAMS}
    assert documented == {f"{counter.name}_total" for counter in COUNTERS} | plain


def test_exit_codes() -> None:
    """The README and `--help` tell the same exit codes."""
    from durable_chat.cli import EXIT_CODES

    codes = re.findall(r"^  (\d+)", EXIT_CODES, re.MULTILINE)
    told = section("The command line").split("Exit codes:")[1]
    assert re.findall(r"\b(\d+) ", told) == codes


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help(command: tuple[str, ...]) -> None:
    """Every command explains itself, its exit codes included."""
    done = subprocess.run(
        [sys.executable, "-m", "durable_chat", *command, "--help"],
        env=clean_environment({}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "exit codes:" in done.stdout
    if not command:
        assert all(name in done.stdout for name in COMMANDS)
        assert all(f"{name} ID" in README or f"`{name}`" in README or f" {name}" in README for name in COMMANDS)
    if command == ("serve",):
        assert all(flag_of(item) in done.stdout for item in fields(Settings))


def test_public_names() -> None:
    """Every public name is there and none is a stranger; every function of the library is in the README."""
    for name in durable_chat.__all__:
        assert getattr(durable_chat, name) is not None
        if name.startswith(("to_", "ensure_", "materialize_", "durable_stream", "sanitize_", "drain")):
            assert f"`{name}`" in README or f"{name}(" in README
    with pytest.raises(AttributeError):
        durable_chat.__getattr__("nothing")


@pytest.fixture
def example(request: pytest.FixtureRequest, tmp_path: Path, processes: list[Process]) -> Process:
    """An example of the README, served by `uvicorn app:app` with an agent that repeats what was written."""
    folder = tmp_path / "example"
    folder.mkdir()
    (folder / "app.py").write_text(AGENT + EXAMPLES[request.param])
    command = (sys.executable, "-m", "uvicorn", "app:app", "--app-dir", ".", "--port", "{port}")
    process = Process(command, folder, {})
    process.ready_path = "/docs"
    processes.append(process)
    process.start()
    return process


def body(text: str) -> dict[str, Any]:
    return {"messages": [{"id": "m1", "role": "user", "parts": [{"type": "text", "content": text}]}]}


@pytest.mark.parametrize("example", [0], indirect=True)
def test_example_to_mount(example: Process) -> None:
    """The ten lines answer a chat that survives the server, and serve the page."""
    assert len([line for line in EXAMPLES[0].splitlines() if line.strip()]) <= 10
    answer = httpx.post(f"{example.url}/api/chat?id=a&mode=await", json=body("hello"), timeout=20)
    assert answer.status_code == 200, answer.text
    example.restart()
    messages = httpx.get(f"{example.url}/api/chat-snapshot?id=a", timeout=20).json()["messages"]
    assert [message["parts"][0]["content"] for message in messages] == ["hello", "You wrote: hello"]
    assert httpx.get(example.url, timeout=20).headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("example", [1], indirect=True)
def test_example_with_own_routes(example: Process) -> None:
    """Routes of one's own write into a session and let it be followed."""
    answer = httpx.post(f"{example.url}/threads/a/turns", json=body("hello"), timeout=20)
    assert answer.status_code == 202, answer.text
    chunks: list[dict[str, Any]] = []
    offset = "-1"
    while not chunks or chunks[-1]["type"] != "RUN_FINISHED":
        query = {"offset": offset, "live": "long-poll"}
        answer = httpx.get(f"{example.url}/threads/a/stream", params=query, timeout=40)
        assert answer.status_code in (200, 204), answer.text
        chunks += json.loads(answer.content) if answer.status_code == 200 else []
        offset = answer.headers["stream-next-offset"]
    (asked,) = chunks[0]["messages"]
    assert asked["parts"][0]["content"] == "hello"
    assert "".join(chunk.get("delta", "") for chunk in chunks) == "You wrote: hello"


def example_with(words: str) -> str:
    (found,) = [example for example in EXAMPLES if words in example]
    return found


async def test_example_of_tools() -> None:
    """The tools of the README are some, and still functions of their own."""
    names: dict[str, Any] = {}
    exec(example_with("@chat.tool"), names)
    assert await names["weather"]("Rome") == {"city": "Rome", "sky": "blue"}


async def test_example_with_files() -> None:
    """The model of the README finds the bytes of a file."""
    names: dict[str, Any] = {}
    exec(example_with("turn.artifact"), names)
    part = {"type": "image", "source": {"type": "data", "value": "AAAA", "mimeType": "image/png"}}
    outside = {"type": "image", "source": {"type": "url", "value": "https://host.example/x.png"}}
    turn = Turn(({"id": "u1", "role": "user", "parts": [part, outside]},), "s", "r")
    assert [said async for said in names["describe"](turn)] == ["image: 3 bytes. ", "image: unknown bytes. "]


async def test_example_of_a_hook() -> None:
    """The hook of the README is one."""

    async def user_of(request: Any) -> str:
        return str(request)

    async def owns(user: str, session_id: str) -> bool:
        return session_id.startswith(user)

    names: dict[str, Any] = {"DurableChat": DurableChat, "user_of": user_of, "owns": owns}
    exec(example_with("authorize="), names)
    assert isinstance(names["chat"], DurableChat)
    assert await names["authorize"]("ada", "ada-1", "read") is True
    assert await names["authorize"]("ada", "bob-1", "read") is False


def names_in(path: Path) -> set[str]:
    return set(re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE))


def test_upstream_limits() -> None:
    """All 27 limits have a row that says how they are beaten, or that they are not, and tests that are there."""
    rows = [line.strip("| ").split(" | ") for line in LIMITS.splitlines() if re.match(r"\| \d", line)]
    assert [row[0] for row in rows] == [str(number) for number in range(1, 28)]
    for number, upstream, here, tests in rows:
        assert upstream, number
        assert re.search(r"\*\*(Server|Mostly server|Module|Not at all)", here), number
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
        assert named, number
        assert len(named) == tests.count("::")
        for path, name in named:
            assert name in names_in(ROOT / path), f"{number}: {path}::{name}"


def test_links() -> None:
    """Every file that the README points at is there."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
