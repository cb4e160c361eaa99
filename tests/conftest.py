"""Fixtures for every test, and two manners of the whole run: skips are named, and output of servers is shown."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol

import hypothesis
import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from benchmarks.ports import HeldPort
from durable_chat.transcripts.folding import containments
from tests import servers
from tests.interop.reports import matrix_lines
from tests.servers import CHROMIUM_ARGS, NpmServer, Process, Server, chromium_path
from tests.web.tabs import SHOWN_MAX_MS

expect.set_options(timeout=SHOWN_MAX_MS)
# A busy machine draws and runs examples slowly. That is not a failure.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")

STARTED = pytest.StashKey[list[Process]]()

# Fast enough for a test, slow enough that there is a middle of an answer to reload, stop or kill in.
DEMO_SETTINGS = {"DURABLE_CHAT_MODEL": "demo", "DURABLE_CHAT_DEMO_DELAY_MS": "5"}


class Serve(Protocol):
    def __call__(self, *args: str, **settings: str) -> Server: ...


class ServeNpm(Protocol):
    def __call__(self, *, durable: bool = True) -> NpmServer: ...


@pytest.fixture
def processes(request: pytest.FixtureRequest) -> Iterator[list[Process]]:
    """The servers this test started: killed at its end, their output shown where it fails."""
    started = request.node.stash.setdefault(STARTED, [])
    yield started
    for process in started:
        process.kill()
    contained = containments.CONTAINED.partition("%s")[0]
    assert not any(contained in process.output for process in started), "a fold raised, which the server contained"


@pytest.fixture
def serve(tmp_path: Path, processes: list[Process]) -> Serve:
    """
    Starts servers, ready on return: `serve("--open", DURABLE_CHAT_STORE="memory://")`.

    Each has a folder of its own below `tmp_path` and, unless told otherwise, SQLite in it and the demo model.
    """

    def start(*args: str, **settings: str) -> Server:
        server = Server(tmp_path / f"server-{len(processes)}", {**DEMO_SETTINGS, **settings}, args)
        processes.append(server)
        server.start()
        return server

    return start


@pytest.fixture
def server(serve: Serve) -> Server:
    """This server with SQLite and the demo model, a new one for each test."""
    return serve()


@pytest.fixture
def serve_npm(tmp_path: Path, processes: list[Process]) -> ServeNpm:
    """Starts npm's reference servers, ready on return."""

    def start(*, durable: bool = True) -> NpmServer:
        server = NpmServer(tmp_path / f"npm-{len(processes)}", durable=durable)
        processes.append(server)
        server.start()
        return server

    return start


@pytest.fixture
def npm_server(serve_npm: ServeNpm) -> NpmServer:
    """npm's `@durable-streams/server` with file storage, a new one for each test."""
    return serve_npm()


@pytest.fixture(params=["memory", "sqlite", "remote"])
def any_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store: in memory, in a file, and on a remote server."""
    if request.param == "remote":
        serve_npm: ServeNpm = request.getfixturevalue("serve_npm")
        return f"{serve_npm(durable=False).url}/v1/stream/chats"
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/chat.db"


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens, and nobody will."""
    held = HeldPort()
    yield f"http://127.0.0.1:{held.number}"
    held.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """
    The machine's Chromium, for plain tests (not `async def`); open a context of its own in each test and close it.

    While it runs, Playwright holds the thread's event loop, so a module that uses it has no asynchronous tests.
    """
    path = chromium_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_ARGS))
        yield browser
        browser.close()


def pytest_configure(config: pytest.Config) -> None:
    """A run that is told to end does so like one that is interrupted: its servers are stopped. Nothing is contained."""
    servers.connections = config.getoption("--http")
    config.addinivalue_line("markers", "own_http(why): with --http uvicorn this does not hold, and is not run")
    containments.RAISES = True
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--http", choices=("own", "uvicorn"), default="own", help="DURABLE_CHAT_HTTP of all servers")
    parser.addoption("--parsing-cases", type=int, default=2000, help="how long tests/http/test_parsing.py looks")
    parser.addoption("--parsing-seed", default="1", help="and where")
    parser.addoption("--no-skips", action="store_true", help="fail where a test was skipped")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On uvicorn's connections, tests of what only ours do are left out; the summary names each, and why."""
    if servers.connections == "own":
        return
    for item in items:
        if (marker := item.get_closest_marker("own_http")) is not None:
            item.add_marker(pytest.mark.skip(reason=f"with --http own: {marker.args[0]}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for process in item.stash.get(STARTED, []):
            report.sections.append((f"output of {process.url}", process.output_shown()))
    return report


def skipped(reporter: pytest.TerminalReporter) -> list[pytest.TestReport | pytest.CollectReport]:
    return list(reporter.stats.get("skipped", []))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # one of several processes, whose reports go to the one that has it
        return
    assert isinstance(reporter, pytest.TerminalReporter)
    if session.config.getoption("--no-skips") and skipped(reporter) and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = skipped(terminalreporter)
    if reports:
        terminalreporter.section("skipped, and what would enable them")
    for report in reports:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")
    if lines := matrix_lines(terminalreporter):
        terminalreporter.section("one story: client versions and scenarios")
    for line in lines:
        terminalreporter.line(line)
