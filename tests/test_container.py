"""The container's files fit the project: no Docker engine is needed to see that."""

from __future__ import annotations

import re
from dataclasses import fields

from durable_chat.config.settings import Settings, describe
from tests.servers import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = (ROOT / "compose.yaml").read_text()
SETTINGS = {describe(item).env for item in fields(Settings)}
FOREIGN = {"PYTHONUNBUFFERED", "PATH", "ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"}


def test_everything_that_is_copied_is_there() -> None:
    """Each source of a COPY exists, and .dockerignore lets it through."""
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert sources == let_through
    assert all((ROOT / source).exists() for source in sources)


def test_every_variable_is_a_setting() -> None:
    """What is set in the image and by compose is read by the server."""
    named = set(re.findall(r"\b([A-Z][A-Z_]+)[=:]", re.sub(r"#.*", "", DOCKERFILE + COMPOSE)))
    assert named - FOREIGN <= SETTINGS
    assert {"DURABLE_CHAT_HOST", "DURABLE_CHAT_STORE", "DURABLE_CHAT_TOKEN_SECRET", "DS_SECRET"} <= named


def test_it_runs_as_nobody_with_a_health_check() -> None:
    """Not as root; a health check asks what tells that the server takes writes; the grace fits into the stop."""
    assert re.search(r"^USER [1-9]\d*$", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK (.|\n)*?/readyz", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^VOLUME /data$", DOCKERFILE, re.MULTILINE)
    grace_s = re.search(r"stop_grace_period: (\d+)s", COMPOSE)
    assert grace_s is not None
    assert int(grace_s[1]) > Settings().grace_s
