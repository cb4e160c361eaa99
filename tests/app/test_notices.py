"""What the server logs and never logs, secrets from files, and misspelt settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from durable_chat.config.settings import Settings, describe
from durable_chat.errors import StartError
from durable_chat.notices import unknown_variables
from tests.conftest import Serve
from tests.http.test_auth import JSON_BODY, TURN, ask
from tests.servers import ROOT, Process, Server, clean_environment

TOKEN_SECRET = "a-secret-of-the-tests-long-enough"


def run(folder: Path, *args: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "durable_chat", *args],
        cwd=folder,
        env=clean_environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_log_shows_no_prompt(tmp_path: Path) -> None:
    """At no level does the log contain a prompt, although providers' clients log their requests at the lowest level."""
    code = (
        "import logging, sys\n"
        "from durable_chat.notices import PROVIDER_LOGGERS, set_log_levels\n"
        "set_log_levels('debug')\n"
        "for name in PROVIDER_LOGGERS:\n"
        "    logging.getLogger(f'{name}._base_client').debug('a prompt')\n"
        "logging.getLogger('durable_chat').debug('a step')\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=clean_environment({}), capture_output=True, text=True, timeout=60, check=True
    )
    assert "a step" in done.stderr
    assert "a prompt" not in done.stderr


def test_access_log(serve: Serve) -> None:
    """Every request has a line, live reads included, without its body and without unknown values of the query."""
    server = serve(DURABLE_CHAT_ACCESS_LOG="on")
    assert ask(server, "POST", "/api/chat?id=a&mode=await&token=s3cret", JSON_BODY, TURN)[0] == 200
    assert ask(server, "PUT", "/v1/stream/x", JSON_BODY)[0] == 201
    assert ask(server, "POST", "/v1/stream/x", JSON_BODY, b'"private"')[0] == 204
    assert ask(server, "DELETE", "/v1/stream/x")[0] == 204
    assert ask(server, "GET", "/nothing%0aforged")[0] == 404
    server.terminate()
    lines = [line.partition("durable_chat.access: ")[2] for line in server.output.split("\n") if "access: " in line]
    asked = [" ".join(line.split()[:3]) for line in lines if "/readyz" not in line]
    assert asked == [
        "POST /api/chat?id=a&mode=await&token=... 200",
        "PUT /v1/stream/x 201",
        "POST /v1/stream/x 204",
        "DELETE /v1/stream/x 204",
        "GET /nothing%0aforged 404",
    ]
    assert "s3cret" not in server.output
    assert "private" not in server.output


def test_access_log_of_a_live_read(serve: Serve) -> None:
    """A live read's line is written when it ends, with the number of bytes sent."""
    server = serve(DURABLE_CHAT_ACCESS_LOG="on", DURABLE_CHAT_SSE_S="0.5")
    status, _, said = ask(server, "GET", "/api/chat-stream?id=a&offset=-1&live=sse")
    assert status == 200
    server.terminate()
    (line,) = [line for line in server.output.split("\n") if "live=sse" in line]
    assert f"200 {len(said)} bytes" in line


def test_no_access_log_by_default(server: Server) -> None:
    """By default, a request that succeeds is not logged."""
    before = server.output
    assert ask(server, "GET", "/healthz")[0] == 200
    server.terminate()
    assert server.output == before


def test_a_misspelt_setting_is_named(tmp_path: Path, server: Server) -> None:
    """Every command warns that a misspelt setting has no effect, and suggests the correct one."""
    misspelt = {"DURABLE_CHAT_TOKEN_SECERT": "x"}
    for args in (("migrate", "--create"), ("snapshot", "a", "--url", server.url), ("token", "a")):
        said = run(tmp_path, *args, **misspelt).stderr
        assert "DURABLE_CHAT_TOKEN_SECERT is not a setting" in said
        assert "Did you mean DURABLE_CHAT_TOKEN_SECRET?" in said
    assert unknown_variables(describe(item).env or "HOME" for item in fields(Settings)) == []


def test_a_session_that_is_not_there(server: Server) -> None:
    """`snapshot` of a session that does not exist fails and names it."""
    done = run(server.folder, "snapshot", "mistyped", "--url", server.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "mistyped" in done.stderr


def test_help_says_every_default(tmp_path: Path) -> None:
    """`serve --help` lists every default."""
    flags = run(tmp_path, "serve", "--help").stdout.partition("exit codes:")[0].split("\n  --")[1:]
    assert len(flags) > len(fields(Settings))
    for flag in flags:
        assert "default" in flag or flag.startswith("open"), flag


def test_secrets_from_files(serve: Serve, tmp_path: Path) -> None:
    """
    Secrets can be read from files, so that they are not in the environment or the arguments, which others can see.
    """
    (tmp_path / "ds").write_text("s3cret\n")
    (tmp_path / "tokens").write_text(TOKEN_SECRET + "\n")
    server = serve("--ds-secret-file", str(tmp_path / "ds"), DURABLE_CHAT_TOKEN_SECRET_FILE=str(tmp_path / "tokens"))
    assert ask(server, "PUT", "/v1/stream/x", {"Authorization": "Bearer s3cret"})[0] == 201
    assert ask(server, "PUT", "/v1/stream/x")[0] == 401
    token = run(tmp_path, "token", "a", DURABLE_CHAT_TOKEN_SECRET_FILE=str(tmp_path / "tokens")).stdout.strip()
    assert ask(server, "POST", "/api/chat?id=a", {**JSON_BODY, "Authorization": f"Bearer {token}"}, TURN)[0] == 202
    (tmp_path / "token").write_text(token)
    assert run(tmp_path, "stop", "a", "--url", server.url, "--token-file", str(tmp_path / "token")).returncode == 0


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"DS_SECRET_FILE": "/nowhere/secret"}, "/nowhere/secret"),
        ({"DS_SECRET_FILE": "/etc/hostname", "DS_SECRET": "s"}, "both set"),
        ({"DURABLE_CHAT_TOKEN_SECRET_FILE": "/dev/null"}, "DURABLE_CHAT_TOKEN_SECRET"),
    ],
)
def test_a_file_that_holds_no_secret(environ: dict[str, str], said: str) -> None:
    """A secret file without a secret is an error at start that names the file."""
    with pytest.raises(StartError, match=said):
        Settings.from_env(environ)


def test_a_secret_as_a_flag_is_warned_of(serve: Serve) -> None:
    """
    A secret given as a flag logs a warning, because other users can list processes. The warning does not repeat it.
    """
    server = serve("--ds-secret", "s3cret")
    assert "--ds-secret-file" in server.output
    assert "s3cret" not in server.output


RELOADED = "from durable_chat import DurableChat\nchat = DurableChat('memory://', model='demo')\napp = chat.app\n"


def test_a_reload_does_not_wait_for_answers(tmp_path: Path, processes: list[Process]) -> None:
    """`uvicorn --reload` restarts with the new code without waiting for answers."""
    folder = tmp_path / "reloaded"
    folder.mkdir()
    (folder / "app.py").write_text(RELOADED)
    command = (sys.executable, "-m", "uvicorn", "app:app", "--reload", "--port", "{port}")
    settings = {"DURABLE_CHAT_GRACE_S": "600", "DURABLE_CHAT_DEMO_CHUNKS": "100000", "DURABLE_CHAT_DEMO_DELAY_MS": "20"}
    process = Process(command, folder, {**settings, "PYTHONPATH": str(ROOT)})
    process.ready_path = "/readyz"
    processes.append(process)
    process.start()
    assert ask(process, "POST", "/api/chat?id=a", JSON_BODY, TURN)[0] == 202
    (folder / "app.py").write_text(RELOADED + "# changed\n")
    process.wait_said(r"(Reloading)")
    process.wait_said(r"(?s)Reloading.*(Application startup complete)")
    os.kill(process.pid, signal.SIGTERM)
    process.wait()


EMBEDDED = """
import asyncio, logging
from durable_chat import DurableChat
logging.basicConfig(format="%(message)s")

async def main():
    async with DurableChat("memory://", model="demo"{options}).lifespan():
        pass

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("options", "settings", "said"),
    [
        ("", {}, "serves this machine only"),
        (", open=True", {}, "everybody whom the application lets through"),
        (", authorize=lambda *_: True", {}, None),
        ("", {"DURABLE_CHAT_TOKEN_SECRET": TOKEN_SECRET}, None),
        ("", {"DS_SECRET": "s"}, None),
    ],
)
def test_an_embedded_chat_says_who_is_served(
    tmp_path: Path, options: str, settings: dict[str, str], said: str | None
) -> None:
    """An unguarded embedded chat logs at start who may use it."""
    done = subprocess.run(
        [sys.executable, "-c", EMBEDDED.replace("{options}", options)],
        cwd=tmp_path,
        env=clean_environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if "guards this chat" in line]
    assert [said in line for line in lines] == ([True] if said else [])  # type: ignore[operator] # never None there
