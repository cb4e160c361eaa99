"""What the README and the documentation say is so: settings, routes, commands, examples, links."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

import durable_chat
from durable_chat.app import DurableChat
from durable_chat.config.settings import ELECTRIC_URL_DEFAULT, Settings, describe, flag_of
from durable_chat.metrics import COUNTERS, GAUGES, HISTOGRAMS
from durable_chat.models.base import Turn
from tests.completions import completions_served
from tests.routing import served
from tests.servers import ROOT, Process, clean_environment

DOCS = ROOT / "docs"
PAGES = {path: path.read_text() for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))}
README = PAGES[ROOT / "README.md"]
README_LINES_MAX = 150
"""What a newcomer reads; the rest belongs into docs/."""
COMMANDS = ("serve", "migrate", "doctor", "token", "tail", "snapshot", "stop")


def examples() -> list[str]:
    """Every whole program of the pages, once; a fragment imports nothing."""
    found = [example for text in PAGES.values() for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
    return list(dict.fromkeys(example for example in found if "import" in example))


EXAMPLES = examples()


def page(name: str) -> str:
    return PAGES[DOCS / f"{name}.md"]


def rows(name: str) -> list[list[str]]:
    """The first table of a page, without its head."""
    lines = page(name).partition("\n| ")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_the_readme_is_short() -> None:
    """A newcomer reads it to its end."""
    assert len(README.splitlines()) <= README_LINES_MAX


def shown_default(name: str, value: Any) -> str:
    if name == "electric_url":
        return f"`{ELECTRIC_URL_DEFAULT}`"
    if value is None or value == ():
        return "off" if name in ("turns_per_minute", "session_ttl_s", "context_tokens") else "none"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def test_settings() -> None:
    """Every setting is in the reference with its default, and nothing there is made up."""
    documented = {row[0].strip("`"): row[1] for row in rows("reference/settings")}
    settings = {describe(item).env: shown_default(item.name, item.default) for item in fields(Settings)}
    flags_only = [flag_of(item) for item in fields(Settings) if describe(item).env is None]
    assert documented == {env: default for env, default in settings.items() if env}
    assert flags_only == ["--open"]
    assert "`--open`" in page("reference/settings")


def test_every_variable_is_a_setting() -> None:
    """A variable that is named anywhere in the docs exists."""
    named = set(re.findall(r"\b(?:DURABLE_CHAT|DS|ELECTRIC)_[A-Z_]*[A-Z]\b", "".join(PAGES.values())))
    assert named == {describe(item).env for item in fields(Settings) if describe(item).env}


def test_routes() -> None:
    """Every route is in the reference, and nothing there is made up."""
    documented = set()
    for row in rows("reference/routes"):
        *methods, path = row[0].strip("`").split()
        documented |= {(method, path.partition("?")[0]) for method in methods}
    assert documented == served()


def test_metrics() -> None:
    """Every metric is in the reference, and nothing there is made up."""
    documented = set(re.findall(r"^\| `(durable_chat_\w+)`", page("reference/metrics"), re.MULTILINE))
    plain = {gauge.name for gauge in GAUGES} | {histogram.name for histogram in HISTOGRAMS}
    assert documented == {f"{counter.name}_total" for counter in COUNTERS} | plain


def test_exit_codes() -> None:
    """The reference and `--help` tell the same exit codes."""
    from durable_chat.cli import EXIT_CODES

    codes = re.findall(r"^  (\d+)", EXIT_CODES, re.MULTILINE)
    assert re.findall(r"^\| (\d+) \|", page("reference/command-line"), re.MULTILINE) == codes


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
        assert [row[0].strip("`").split()[0] for row in rows("reference/command-line")] == list(COMMANDS)
    if command == ("serve",):
        assert all(flag_of(item) in done.stdout for item in fields(Settings))


def test_public_names() -> None:
    """Every public name is there, and is in the reference."""
    for name in durable_chat.__all__:
        assert getattr(durable_chat, name) is not None
        assert name == "__version__" or f"\n### `{name}`\n" in page("reference/python")
    with pytest.raises(AttributeError):
        durable_chat.__getattr__("nothing")


def example_with(words: str) -> str:
    (found,) = [example for example in EXAMPLES if words in example]
    return found


class Start(Protocol):
    def __call__(self, words: str, **environment: str) -> Process: ...


@pytest.fixture
def start(tmp_path: Path, processes: list[Process]) -> Start:
    """Serves the example of the pages that has these words, as it stands there, by `uvicorn app:app`."""

    def start(words: str, **environment: str) -> Process:
        folder = tmp_path / f"example-{len(processes)}"
        folder.mkdir()
        (folder / "app.py").write_text(example_with(words))
        command = (sys.executable, "-m", "uvicorn", "app:app", "--app-dir", ".", "--port", "{port}")
        process = Process(command, folder, environment)
        process.ready_path = "/docs"
        processes.append(process)
        process.start()
        return process

    return start


def body(text: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"id": "m1", "role": "user", "parts": [{"type": "text", "content": text}, *parts]}]}


def post(
    server: Process, text: str, *parts: dict[str, Any], session: str = "a", **options: Any
) -> list[dict[str, Any]]:
    """The session's messages after a turn."""
    query = {"id": session}
    answer = httpx.post(
        f"{server.url}/api/chat", params={**query, "mode": "await"}, json=body(text, *parts), timeout=60, **options
    )
    assert answer.status_code == 200, answer.text
    found = httpx.get(f"{server.url}/api/chat-snapshot", params=query, timeout=60, **options)
    messages: list[dict[str, Any]] = found.json()["messages"]
    return messages


def said(messages: list[dict[str, Any]]) -> list[str]:
    return ["".join(part.get("content", "") for part in message["parts"]) for message in messages]


EXAMPLE_WORDS = (
    *("turn.text", "AsyncOpenAI", "page=False", "asynccontextmanager", "to_durable_chat_session_response"),
    *("turn.artifact", "USERS", "fox.", "get_video_job_status", "class Squares"),
    *(
        "to_generation_response",
        "MyImages",
        "ContextLimit",
        "now.heard",
        "@chat.tool",
        "to_server_sent_events_response",
    ),
)


def test_every_example_is_run() -> None:
    """Each Python example of the pages has a test below."""
    assert [example_with(words) for words in EXAMPLE_WORDS] == EXAMPLES


def test_example_to_mount(start: Start) -> None:
    """The ten lines answer a chat that survives the server, and serve the page."""
    assert len([line for line in EXAMPLES[0].splitlines() if line.strip()]) <= 10
    server = start("turn.text")
    post(server, "hello")
    server.restart()
    messages = httpx.get(f"{server.url}/api/chat-snapshot?id=a", timeout=60).json()["messages"]
    assert said(messages) == ["hello", "You wrote: hello"]
    assert httpx.get(server.url, timeout=60).headers["content-type"].startswith("text/html")


def test_a_mount_at_the_root_hides_what_comes_after_it(start: Start) -> None:
    """The example warns of that; a route before it is served."""
    (comment,) = [line for line in EXAMPLES[0].splitlines() if line.startswith("app.mount")]
    assert "hides every route" in comment
    chat = DurableChat("memory://", settings=Settings())
    app = FastAPI()
    app.get("/before")(lambda: "before")
    app.mount("/", chat.app)
    app.get("/after")(lambda: "after")
    with TestClient(app) as client:
        assert (client.get("/before").status_code, client.get("/after").status_code) == (200, 404)


@pytest.fixture
def completions() -> Iterator[str]:
    with completions_served() as address:
        yield address


def test_example_with_openai(start: Start, completions: str) -> None:
    """The example with OpenAI's client answers, also where the last delta has no content."""
    server = start("AsyncOpenAI", OPENAI_API_KEY="key", OPENAI_BASE_URL=completions)
    assert said(post(server, "hello"))[1] == "1 from gpt-5-mini"


def test_example_below_a_prefix(start: Start) -> None:
    """The chat answers below its prefix, without a page, beside a route of the application."""
    server = start("page=False", DURABLE_CHAT_MODEL="demo")
    assert httpx.get(f"{server.url}/hello", timeout=60).json() == {"hello": "world"}
    assert httpx.get(f"{server.url}/chat/api/chat-snapshot?id=a", timeout=60).json()["messages"] == []
    assert httpx.get(f"{server.url}/chat/", timeout=60).status_code == 404


def test_example_with_a_lifespan(start: Start) -> None:
    """A lifespan of the application's own opens the chat."""
    server = start("asynccontextmanager", DURABLE_CHAT_MODEL="demo", DURABLE_CHAT_DEMO_DELAY_MS="0")
    assert len(post(server, "hello")) == 2


def test_example_with_own_routes(start: Start) -> None:
    """Routes of one's own write into a session and let it be followed."""
    server = start("to_durable_chat_session_response")
    answer = httpx.post(f"{server.url}/threads/a/turns", json=body("hello"), timeout=60)
    assert answer.status_code == 202, answer.text
    chunks: list[dict[str, Any]] = []
    offset = "-1"
    while not chunks or chunks[-1]["type"] != "RUN_FINISHED":
        query = {"offset": offset, "live": "long-poll"}
        answer = httpx.get(f"{server.url}/threads/a/stream", params=query, timeout=40)
        assert answer.status_code in (200, 204), answer.text
        chunks += json.loads(answer.content) if answer.status_code == 200 else []
        offset = answer.headers["stream-next-offset"]
    (asked,) = chunks[0]["messages"]
    assert asked["parts"][0]["content"] == "hello"
    assert "".join(chunk.get("delta", "") for chunk in chunks) == "You wrote: hello"


def test_example_without_a_session(start: Start) -> None:
    """The route of the guide answers with a whole run, under the client's name for it."""
    server = start("to_server_sent_events_response")
    posted = {"runId": "r1", "messages": [{"role": "user", "content": "hello"}]}
    answer = httpx.post(f"{server.url}/ask", json=posted, timeout=60)
    chunks = [json.loads(event.removeprefix("data: ")) for event in answer.text.split("\n\n") if event]
    assert "".join(chunk.get("delta", "") for chunk in chunks) == "You asked: hello"
    assert (chunks[0]["runId"], chunks[-1]["type"]) == ("r1", "RUN_FINISHED")


def run_example(words: str, folder: Path) -> str:
    """Run a whole program of the pages, and return what it prints."""
    (folder / "program.py").write_text(example_with(words))
    environment = clean_environment({"PYTHONPATH": str(ROOT)})
    command = [sys.executable, "program.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_example_that_generates(tmp_path: Path) -> None:
    """The program of the guide makes files that can be opened."""
    assert run_example("fox.", tmp_path) == "Good morning.\n"
    assert (tmp_path / "fox.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "morning.wav").read_bytes()[:4] == b"RIFF"


def test_example_of_a_video_job(tmp_path: Path) -> None:
    """The program of the guide polls the job to its end."""
    assert run_example("get_video_job_status", tmp_path) == "completed data:video/webm;base64\n"


def test_example_of_an_adapter_without_a_server(tmp_path: Path) -> None:
    """The adapter of the guide is asked, and its progress is streamed."""
    names = ["RUN_STARTED", "generation:progress", "generation:result", "RUN_FINISHED"]
    assert run_example("class Squares", tmp_path).split() == names


def test_example_of_a_context_limit(start: Start) -> None:
    """The model of the guide goes on after a summary by the other one."""
    server = start("ContextLimit")
    for number in range(4):
        message = {"id": f"m{number}", "role": "user", "parts": [{"type": "text", "content": "words " * 100}]}
        query = {"id": "a", "mode": "await"}
        answer = httpx.post(f"{server.url}/api/chat", params=query, json={"messages": [message]}, timeout=60)
        assert answer.status_code == 200, answer.text
    state = httpx.get(f"{server.url}/api/chat-snapshot?id=a", timeout=60).json()
    assert (len(state["messages"]), "failure" in state["contextSummary"]) == (8, False)


def test_example_of_tools(start: Start) -> None:
    """The demo calls the tools of the guide: one is carried out, one asks before."""
    server = start("@chat.tool", DURABLE_CHAT_MODEL="demo", DURABLE_CHAT_DEMO_DELAY_MS="0")
    parts = [part for message in post(server, 'weather {"city": "Rome"}') for part in message["parts"]]
    assert [part["output"] for part in parts if part["type"] == "tool-call"] == [{"city": "Rome", "sky": "blue"}]
    mail = 'send_mail {"to": "ada", "text": "hi"}'
    parts = [part for message in post(server, mail, session="b") for part in message["parts"]]
    assert [part["approval"]["needsApproval"] for part in parts if part["type"] == "tool-call"] == [True]


def test_example_that_is_steered(start: Start) -> None:
    """What is sent while it answers is heard, or answered after it."""
    server = start("now.heard")
    sent = httpx.post(f"{server.url}/api/chat", params={"id": "a"}, json=body("hello"), timeout=60)
    assert sent.status_code == 202
    more = {"messages": [{"id": "m2", "role": "user", "parts": [{"type": "text", "content": "more"}]}]}
    query = {"id": "a", "turns": "steer", "mode": "await"}
    assert httpx.post(f"{server.url}/api/chat", params=query, json=more, timeout=60).status_code == 200
    messages = httpx.get(f"{server.url}/api/chat-snapshot?id=a", timeout=60).json()["messages"]
    first, _, second, answer = said(messages)
    assert (first, second) == ("hello", "more")
    assert ": more." in answer


def test_example_with_files(start: Start) -> None:
    """The model of the guide finds the bytes of a file."""
    server = start("turn.artifact")
    part = {"type": "image", "source": {"type": "data", "value": "AAAA", "mimeType": "image/png"}}
    outside = {"type": "image", "source": {"type": "url", "value": "https://host.example/x.png"}}
    assert said(post(server, "look", part, outside))[1] == "image: 3 bytes. image: unknown bytes. "


def test_example_of_a_hook(start: Start) -> None:
    """The hook of the guide lets users into their own sessions."""
    server = start("USERS")
    cookies = {"Cookie": "session=cookie-of-ada"}
    url = f"{server.url}/api/chat-snapshot"
    assert httpx.get(url, params={"id": "ada-1"}, headers=cookies).status_code == 200
    assert httpx.get(url, params={"id": "bob-1"}, headers=cookies).status_code == 403
    assert httpx.get(url, params={"id": "ada-1"}).status_code == 403


def test_example_of_a_generation(start: Start) -> None:
    """The route of the guide draws in a slot, which a page can restore."""
    server = start("to_generation_response", DURABLE_CHAT_GENERATE="demo")
    drawn = httpx.post(f"{server.url}/products/7/picture", json={"prompt": "a lighthouse"}, timeout=60)
    assert drawn.headers["content-type"].startswith("text/event-stream")
    assert '"generation:result"' in drawn.text
    state = httpx.get(f"{server.url}/api/generate/image", params={"threadId": "product-7"}, timeout=60).json()
    assert state["resumeSnapshot"]["status"] == "complete"


def test_example_of_an_adapter(start: Start, tmp_path: Path) -> None:
    """The adapter of the guide draws, and its picture is a file of the slot."""
    server = start("MyImages")
    (server.folder / "lighthouse.png").write_bytes(b"a picture")
    asked = {"prompt": "a lighthouse", "threadId": "hero"}
    url = f"{server.url}/api/generate/image"
    answer = httpx.post(url, json=asked, headers={"Accept": "application/json"}, timeout=60)
    assert httpx.get(server.url + answer.json()["images"][0]["url"], timeout=60).content == b"a picture"


def test_the_turn_is_described() -> None:
    """Every name of a turn that a model uses is in the guide, and the shape of its messages in the docstring."""
    table = page("get-started/fastapi")
    named = {name for name in dir(Turn) if not name.startswith("_")} - {"approved", "waits", "load"}
    assert {name for name in named if f"turn.{name}" in table} == named
    kinds = ("text", "thinking", "tool-call", "tool-result", "structured-output", "image", "document")
    assert all(f'"{kind}"' in (Turn.__doc__ or "") for kind in kinds)


def names_in(path: Path) -> set[str]:
    return set(re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE))


def test_upstream_limits() -> None:
    """All 27 limits have a row that says how they are beaten, or that they are not, and tests that are there."""
    rows = [
        line.strip("| ").split(" | ")
        for line in page("explanation/upstream-limits").splitlines()
        if re.match(r"\| \d", line)
    ]
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
    """Every file that a page points at is there; scripts/docs looks at headings as well."""
    for path, text in PAGES.items():
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def run_script(*command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_reference_is_that_of_the_code() -> None:
    """The pages that are written from the code are as scripts/reference writes them now."""
    run_script(sys.executable, "scripts/reference", "--check")


def test_the_site_is_built(tmp_path: Path) -> None:
    """Every page is in the site, and no link or anchor leads nowhere."""
    program = Path(sys.executable).with_name("zensical")
    shutil.copytree(DOCS, tmp_path / "docs")
    config = tmp_path / "zensical.toml"
    shutil.copy(ROOT / "zensical.toml", config)
    run_script(str(program), "build", "--strict", "--config-file", str(config))
    settings = config.read_text()
    for path in DOCS.rglob("*.md"):
        name = path.relative_to(DOCS).with_suffix("")
        built = tmp_path / "site" / ("" if name.name == "index" else name) / "index.html"
        assert built.exists(), name
        assert name.name == "index" or f'"{name}.md"' in settings, f"{name} is not in the navigation"
