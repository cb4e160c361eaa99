"""
Real processes for the tests: this server, npm's reference server, Node.js, Chromium.

All of it is plain and synchronous, so that tests with and without an event loop use it alike; inside a running
loop call the slow ones (`restart`, `run_node`) through `asyncio.to_thread`.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ports import HeldPort

ROOT = Path(__file__).parent.parent
INTEROP = ROOT / "tests" / "interop"

# A start takes under 2 s; the rest is for a machine busy with other tests.
READY_MAX_S = 30.0
# A server is given this long to end open responses before a test calls it stuck.
TERMINATE_MAX_S = 20.0
# Between two looks at whether a server is ready.
POLL_S = 0.02
# What a failed test shows of each server's output.
OUTPUT_SHOWN_BYTES_MAX = 16_384

VITEST = ("node_modules/vitest/vitest.mjs", "run")
# One test of Vitest; its own limit of 5 s is too short where two cores run a server and a browser as well.
VITEST_TEST_MAX_MS = 60_000

CHROMIUM_ARGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """
    Only what is passed, so that a key or setting of the machine changes no test.

    What finds programs and this checkout is kept, and what coverage needs to follow into processes.
    """
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
    kept |= {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **extra}


connections = "own"
"""What DURABLE_CHAT_HTTP is for each `Server` that does not say: the whole run's, by `--http`."""


class Process:
    """
    A server as a process of its own, on a port that it keeps over restarts, and while it is down.

    Mutable: `_running` (the process, None between a stop and the next start). Output of all its lives goes to one file.
    """

    ready_path = "/"

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._held = HeldPort()
        self.port = self._held.number
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"output-{self.port}.log"
        self._command = [part.replace("{port}", str(self.port)) for part in command]
        self._environment = clean_environment(environment)
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._running is not None, "the server is not running"
        return self._running.pid

    @property
    def alive(self) -> bool:
        return self._running is not None and self._running.poll() is None

    @property
    def output(self) -> str:
        """Everything it has written so far, standard output and errors together."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def start(self, *, wait: bool = True) -> None:
        """Starts it and returns when it is ready; with wait=False at once."""
        assert not self.alive, "the server is running"
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        assert self._running is not None, "the server was not started"
        deadline = time.monotonic() + READY_MAX_S
        while not self.answers_ready():
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the server was not ready in {READY_MAX_S:g} s:\n{self.output_shown()}")
            try:
                code = self._running.wait(POLL_S)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"the server ended with {code} before it was ready:\n{self.output_shown()}")

    def wait_said(self, pattern: str) -> str:
        """Waits until its output has that; what the pattern's group is there."""
        deadline = time.monotonic() + READY_MAX_S
        while (found := re.search(pattern, self.output)) is None:
            assert self.alive and time.monotonic() < deadline, f"{pattern} was not said:\n{self.output_shown()}"
            time.sleep(POLL_S)
        return found[1]

    def answers_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", self.ready_path)
            return self.is_ready(connection.getresponse().status)
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def is_ready(self, status: int) -> bool:
        return status == 200

    def wait(self, timeout_s: float = READY_MAX_S + TERMINATE_MAX_S) -> int:
        """Waits for it to end by itself, perhaps before it is ready; the exit code."""
        assert self._running is not None
        try:
            code = self._running.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not end in {timeout_s:g} s:\n{self.output_shown()}") from None
        self._running = None
        return code

    def kill(self) -> None:
        """SIGKILL, to all it has started too: what a crash is."""
        if self._running is None:
            return
        try:
            os.killpg(self._running.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._running.wait()
        self._running = None

    def terminate(self, timeout_s: float = TERMINATE_MAX_S) -> int:
        """SIGTERM, and waits for the end; the exit code."""
        assert self._running is not None, "the server is not running"
        self._running.terminate()
        return self.wait(timeout_s)

    def restart(self) -> None:
        """Starts it again on the same port, in the same folder, after a kill where it still runs."""
        self.kill()
        self.start()

    def output_shown(self) -> str:
        return self.output[-OUTPUT_SHOWN_BYTES_MAX:]


class Server(Process):
    """`durable-chat serve` in a folder of its own; the settings are environment variables, by their full names."""

    ready_path = "/readyz"

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        command: Sequence[str] = (sys.executable, "-m", "durable_chat"),
    ) -> None:
        command = [*command, "serve", "--host", "127.0.0.1", "--port", "{port}", *args]
        chosen = (
            {} if connections == "own" else {"DURABLE_CHAT_HTTP": connections}
        )  # the default is tested as a default
        super().__init__(command, folder, {**chosen, **(environment or {})})


class NpmServer(Process):
    """npm's `@durable-streams/server`, the reference: in memory, or with `durable=True` in files of its folder."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        storage = [str(folder / "streams")] if durable else []
        command = [node_env(), str(INTEROP / "reference-server.mjs"), "{port}", *storage]
        super().__init__(command, folder, {})

    def is_ready(self, status: int) -> bool:
        return status < 500


def node_env() -> str:
    """The path of Node.js; skips the test where there is none, or where its packages are not installed."""
    wheel = Path(sys.prefix) / "node" / "node"
    node = str(wheel) if wheel.exists() else shutil.which("node")
    if node is None or not (INTEROP / "node_modules").is_dir():
        pytest.skip("needs Node.js and the npm packages: run scripts/test")
    return node


def run_node(
    args: Sequence[str | Path], *, timeout_s: float, env: Mapping[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """
    Runs Node.js in tests/interop to its end and gives back its output.

    A run that exceeds the time limit, or with `check` one that exits with another code than 0, fails the test and
    shows that output.
    """
    process = subprocess.Popen(
        [node_env(), *map(str, args)],
        cwd=INTEROP,
        env=clean_environment(env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _kill_group(process)
        stdout, stderr = process.communicate()
        raise AssertionError(f"{args[0]} took longer than {timeout_s:g} s:\n{stdout}\n{stderr}") from None
    except BaseException:
        _kill_group(process)
        process.communicate()
        raise
    if check and process.returncode != 0:
        raise AssertionError(f"{args[0]} exited with {process.returncode}:\n{stdout}\n{stderr}")
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def _kill_group(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def run_vitest(test_file: str, report: Path, *, timeout_s: float, env: Mapping[str, str] | None = None) -> Any:
    """Runs one file of tests/interop with Vitest and gives back its JSON report, whatever passed or failed."""
    args = [*VITEST, test_file, f"--testTimeout={VITEST_TEST_MAX_MS}", "--reporter=json", f"--outputFile={report}"]
    done = run_node(args, timeout_s=timeout_s, env=env, check=False)
    assert report.exists(), f"Vitest wrote no report:\n{done.stdout}\n{done.stderr}"
    return json.loads(report.read_text())


def chromium_path() -> str:
    """The machine's Chromium; skips the test where there is none."""
    for name in (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"):
        if path := name and shutil.which(name):
            return path
    pytest.skip("needs Chromium: run apt-get install chromium, or set CHROMIUM to its path")


class App(Process):
    """An application of a test under plain uvicorn."""

    ready_path = "/readyz"


def start_app(folder: Path, source: str, processes: list[Process]) -> Process:
    """The application that `source` makes as `chat.app`, started, and stopped with `processes`."""
    folder.mkdir()
    (folder / "app.py").write_text(source)
    command = (sys.executable, "-m", "uvicorn", "app:chat.app", "--app-dir", ".", "--port", "{port}")
    process = App(command, folder, {})
    processes.append(process)
    process.start()
    return process
