"""What travels and what is pinned: the wheel in an empty environment, the lock files, the list of scripts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.servers import ROOT, Process, Server

# Installing thirty wheels takes ten seconds from a warm cache; a cold one is at the mercy of the network.
PIP_MAX_S = 240
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PIN = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]*)(\[[a-z0-9,_-]+\])?==(?P<version>[^ ;]+)")
ADDRESS = re.compile(r"://|--(extra-)?index-url|--find-links|--trusted-host|^(file|git\+|/)", re.MULTILINE)


def pip(python: Path, *args: str) -> None:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", *args]
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PIP_MAX_S
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built with the pinned build backend."""
    folder = tmp_path_factory.mktemp("wheel")
    pip(Path(sys.executable), "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """The folder of commands of an empty environment into which the wheel was installed, with the locked versions."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    commands = environment / "bin"
    pip(commands / "python", "install", "--require-hashes", "--requirement", str(ROOT / "requirements" / "runtime.txt"))
    pip(commands / "python", "install", "--no-deps", "--no-index", str(wheel))
    pip(commands / "python", "check")
    return commands


@pytest.fixture
def elsewhere(installed: Path, tmp_path: Path) -> Iterator[Server]:
    """The installed server, running in an empty folder, with nothing of this checkout in reach."""
    folder = tmp_path / "empty"
    environment = {"PYTHONPATH": "", "DURABLE_CHAT_DEMO_DELAY_MS": "1"}
    server = Server(folder, environment, command=[str(installed / "durable-chat")])
    server.start()
    yield server
    server.kill()


def travels(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and path.name not in {".keep", ".DS_Store"}


def test_wheel_holds_everything(wheel: Path) -> None:
    """Code, types, page and migrations travel; tests and scripts do not."""
    package = {path.relative_to(ROOT) for path in (ROOT / "durable_chat").rglob("*") if travels(path)}
    migrations = {
        Path("durable_chat") / path.relative_to(ROOT) for path in (ROOT / "migrations").rglob("*") if travels(path)
    }
    packed = {Path(name) for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == package | migrations
    for needed in ("py.typed", "migrations/env.py", "web/static/index.html"):
        assert Path("durable_chat", needed) in packed


def test_wheel_runs_elsewhere(elsewhere: Server) -> None:
    """Installed in an empty environment and started in an empty folder, it migrates, shows the page and answers."""
    with httpx.Client(base_url=elsewhere.url, timeout=30) as client:
        page = client.get("/")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert client.get("/readyz").status_code == 200

        message = {"id": "m1", "role": "user", "parts": [{"type": "text", "content": "Is anybody there?"}]}
        answer = client.post("/api/chat", params={"id": "s", "mode": "await"}, json={"messages": [message]})
        assert answer.status_code == 200
        snapshot = client.get("/api/chat-snapshot", params={"id": "s"}).json()
    assert [message["role"] for message in snapshot["messages"]] == ["user", "assistant"]
    assert snapshot["activeRun"] is None
    assert (elsewhere.folder / "durable-chat.db").exists()
    assert elsewhere.terminate() == 0


def test_serve_script(tmp_path: Path) -> None:
    """From any folder scripts/serve starts the server, says where, keeps its data there, and installs nothing twice."""
    server = Process([str(ROOT / "scripts" / "serve"), "--port", "{port}"], tmp_path / "empty", {"PYTHONPATH": ""})
    server.ready_path = "/readyz"
    try:
        for _ in range(2):
            written = len(server.output)
            server.start()
            assert server.terminate() == 0
        assert server.url in server.output
        assert "installing" not in server.output[written:]
        assert (server.folder / "durable-chat.db").exists()
    finally:
        server.kill()


def requirements(lock: Path) -> list[str]:
    """The logical lines of a lock file: one requirement each, with its hashes."""
    text = re.sub(r"\s*#.*", "", lock.read_text())
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def versions(lock: Path) -> dict[str, str]:
    matches = [PIN.match(line) for line in requirements(lock)]
    return {match["name"]: match["version"] for match in matches if match}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_python_locks_are_pinned(lock: Path) -> None:
    """Each requirement has one version and its hashes; no line names a registry, a machine's path or a repository."""
    lines = requirements(lock)
    assert lines
    for line in lines:
        assert PIN.match(line), line
        assert "--hash=sha256:" in line, line
    assert not ADDRESS.search(lock.read_text())


def test_python_locks_agree() -> None:
    """What serves and what tests have the same versions, and every dependency of the project is locked."""
    tested = versions(ROOT / "requirements" / "dev.txt")
    served = versions(ROOT / "requirements" / "runtime.txt")
    assert served.items() <= tested.items()
    assert versions(ROOT / "requirements" / "build.txt").items() <= tested.items()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {re.split(r"[<>=;\[ ]", dependency)[0] for dependency in project["dependencies"]} <= served.keys()


@pytest.mark.parametrize("folder", ["tests/interop", "tests/interop/components"])
def test_npm_locks_are_pinned(folder: str) -> None:
    """Each npm package has a version and a hash, and no address; what is asked for is asked for exactly."""
    lock = json.loads((ROOT / folder / "package-lock.json").read_text())
    packages = {path: entry for path, entry in lock["packages"].items() if path}
    assert packages
    for path, entry in packages.items():
        assert entry["integrity"].startswith("sha512-"), path
        assert "resolved" not in entry, path

    asked = lock["packages"][""]["devDependencies"]
    assert all(re.fullmatch(r"(npm:.+@)?\d+\.\d+\.\d+", version) for version in asked.values())
    assert asked == json.loads((ROOT / folder / "package.json").read_text())["devDependencies"]


def test_scripts_are_listed() -> None:
    """Each script can be run and has its line in scripts/README.md, and each line its script."""
    scripts = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and path.suffix != ".md"}
    listed = re.findall(r"^\| `([^`]+)` \|", (ROOT / "scripts" / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(scripts)
    assert all(os.access(ROOT / "scripts" / name, os.X_OK) for name in scripts)
