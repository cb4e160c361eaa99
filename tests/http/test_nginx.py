"""The server behind a real nginx, with the documented configuration unchanged."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.http.test_auth import JSON_BODY, TURN, ask
from tests.servers import ROOT, Process

DEPLOYING = (ROOT / "docs" / "guides" / "deploying.md").read_text()
TOKEN_SECRET = "a-secret-of-the-tests-long-enough"
BARE = "location / {{ proxy_pass http://127.0.0.1:{port}; }}"
CONFIG = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{own_port};
        {location}
    }}
}}
"""


class Nginx(Process):
    ready_path = "/healthz"

    def __init__(self, folder: Path, location: str) -> None:
        super().__init__([nginx_path(), "-e", "stderr", "-c", str(folder / "nginx.conf")], folder, {})
        config = CONFIG.format(folder=folder, own_port=self.port, location=location)
        (folder / "nginx.conf").write_text(config)


def nginx_path() -> str:
    path = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if path is None:
        pytest.skip("needs nginx: run apt-get install nginx-light")
    return path


def test_the_documented_configuration(serve: Serve, tmp_path: Path, processes: list[Process]) -> None:
    """On any port, the page may send, a response is streamed, and no client counts as local."""
    (location,) = re.findall(r"```nginx\n(.*?)```", DEPLOYING, re.DOTALL)
    server = serve()
    nginx = Nginx(tmp_path / "nginx", location.replace("4437", str(server.port)))
    processes.append(nginx)
    nginx.start()
    page = {**JSON_BODY, "Origin": f"http://127.0.0.1:{nginx.port}"}
    for method, path in (("POST", "/api/chat?id=a"), ("PUT", "/v1/stream/x"), ("DELETE", "/api/chat?id=a")):
        assert ask(nginx, method, path, page, TURN if method == "POST" else b"")[0] == 403
    assert ask(nginx, "GET", "/metrics")[0] == 403
    server.terminate()
    opened = serve("--open")
    other = Nginx(tmp_path / "other", location.replace("4437", str(opened.port)))
    processes.append(other)
    other.start()
    page["Origin"] = f"http://127.0.0.1:{other.port}"
    assert ask(other, "POST", "/api/chat?id=a&mode=await", page, TURN)[0] == 200
    status, _, said = ask(other, "GET", "/api/chat-stream?id=a&offset=-1&live=long-poll", page)
    assert status == 200
    assert json.loads(said)[-1]["type"] == "RUN_FINISHED"
    page["Origin"] = "http://foreign.example"
    assert ask(other, "POST", "/api/chat?id=a", page, TURN)[0] == 403


def test_a_bare_proxy_is_seen(server: Process, tmp_path: Path, processes: list[Process]) -> None:
    """nginx without header configuration does not expose an unguarded server."""
    nginx = Nginx(tmp_path / "nginx", BARE.format(port=server.port))
    processes.append(nginx)
    nginx.start()
    for method, path in (
        ("GET", "/v1/stream/x"),
        ("GET", "/metrics"),
        ("DELETE", "/api/chat?id=a"),
        ("GET", "/api/chats"),
    ):
        status, _, said = ask(nginx, method, path)
        assert (status, json.loads(said)["code"]) == (403, "loopback_only"), (method, path)
