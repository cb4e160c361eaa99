"""Settings: accepted values, and errors for the others."""

from __future__ import annotations

from dataclasses import fields

import pytest

from durable_chat.config.settings import Settings, describe, flag_of
from durable_chat.errors import StartError
from durable_chat.http.callers import is_loopback


def test_defaults() -> None:
    """With an empty environment the server is local, stores streams in SQLite and has limits."""
    settings = Settings.from_env({})
    assert settings == Settings()
    assert (settings.store, settings.host, settings.port) == ("sqlite:///durable-chat.db", "127.0.0.1", 4437)
    assert (settings.body_max_bytes, settings.append_max_bytes) == (32 * 2**20, 16 * 2**20)
    assert (settings.turns, settings.queue_max, settings.secret, settings.model) == ("queue", 16, None, None)


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("DURABLE_CHAT_PORT", "0", "port", 0),
        ("DURABLE_CHAT_PORT", " 8080 ", "port", 8080),
        ("DURABLE_CHAT_GRACE_S", "1.5", "grace_s", 1.5),
        ("DURABLE_CHAT_SESSION_TTL_S", "off", "session_ttl_s", None),
        ("DURABLE_CHAT_SESSION_TTL_S", "60", "session_ttl_s", 60),
        ("DURABLE_CHAT_TURNS_PER_MINUTE", "5", "turns_per_minute", 5),
        ("DURABLE_CHAT_TURNS", "interrupt", "turns", "interrupt"),
        ("DURABLE_CHAT_STORE", "memory://", "store", "memory://"),
        ("DURABLE_CHAT_STORE", "sqlite:////var/lib/chat.db", "store", "sqlite:////var/lib/chat.db"),
        ("DURABLE_CHAT_STORE", "https://ds.example/v1/stream/svc", "store", "https://ds.example/v1/stream/svc"),
        (
            "DURABLE_CHAT_ALLOW_ORIGINS",
            "https://App.example:443/, http://localhost:5173",
            "allow_origins",
            ("https://app.example", "http://localhost:5173"),
        ),
        ("DURABLE_CHAT_ALLOW_ORIGINS", "*", "allow_origins", ("*",)),
        ("DURABLE_CHAT_DEMO_CHUNKS", "0", "demo_chunks", 0),
        ("DS_SECRET", "s3cret", "secret", "s3cret"),
    ],
)
def test_parsed(name: str, text: str, field: str, value: object) -> None:
    """A variable is parsed to its setting's type."""
    assert getattr(Settings.from_env({name: text}), field) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DURABLE_CHAT_PORT", "http"),
        ("DURABLE_CHAT_PORT", "-1"),
        ("DURABLE_CHAT_PORT", "65536"),
        ("DURABLE_CHAT_PORT", "80.5"),
        ("DURABLE_CHAT_STALL_S", "nan"),
        ("DURABLE_CHAT_STALL_S", "inf"),
        ("DURABLE_CHAT_STALL_S", "0"),
        ("DURABLE_CHAT_QUEUE_MAX", "off"),
        ("DURABLE_CHAT_TURN_SNAPSHOT_MAX_BYTES", "-1"),
        ("DURABLE_CHAT_TURN_SNAPSHOT_MAX_BYTES", str(1 << 30)),
        ("DURABLE_CHAT_TURNS", "drop"),
        ("DURABLE_CHAT_BODY_MAX_BYTES", "32MiB"),
        ("DURABLE_CHAT_STORE", "postgresql://localhost/chat"),
        ("DURABLE_CHAT_STORE", "sqlite://chat.db"),
        ("DURABLE_CHAT_STORE", "sqlite:///"),
        ("DURABLE_CHAT_STORE", "chat.db"),
        ("DURABLE_CHAT_STORE", "https://"),
        ("DURABLE_CHAT_ALLOW_ORIGINS", "app.example"),
        ("DURABLE_CHAT_ALLOW_ORIGINS", "https://app.example/path"),
        ("DURABLE_CHAT_HOST", "a host"),
        ("DS_SERVICE_ID", "a/b"),
        ("ELECTRIC_URL", "api.example"),
        ("DURABLE_CHAT_TOKEN_SECRET", "t" * 31),
        ("DURABLE_CHAT_TURNS_PER_MINUTE", "0"),
    ],
)
def test_refused(name: str, text: str) -> None:
    """An invalid value is refused with a sentence that names the setting and its flag."""
    with pytest.raises(StartError) as refused:
        Settings.from_env({name: text})
    assert name in str(refused.value)
    assert "(--" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DS_SECRET", "hunter2 hunter2"),
        ("DURABLE_CHAT_TOKEN_SECRET", "hunter2"),
        ("DURABLE_CHAT_STORE", "https://user:hunter2@ds.example/v1/stream"),
    ],
)
def test_refusal_keeps_secrets(name: str, text: str) -> None:
    """An error does not repeat a value that may be a secret."""
    with pytest.raises(StartError) as refused:
        Settings.from_env({name: text})
    assert "hunter2" not in str(refused.value)


def test_repr_keeps_secrets() -> None:
    """The repr of the settings contains no secret."""
    shown = repr(Settings(store="sqlite:///hunter2.db", secret="hunter2", token_secret="hunter2" * 5))
    assert "hunter2" not in shown


def test_constructed_is_valid() -> None:
    """Settings made in code are checked like those from the environment."""
    with pytest.raises(StartError):
        Settings(port=70_000)
    with pytest.raises(StartError):
        Settings(stall_s=True)


def test_flag_wins() -> None:
    """A flag takes precedence over the environment. An empty variable and an absent flag count as not set."""
    environ = {"DURABLE_CHAT_PORT": "1", "DURABLE_CHAT_HOST": "", "DURABLE_CHAT_QUEUE_MAX": "3"}
    settings = Settings.from_env(environ, port="2", host=None, queue_max=None)
    assert (settings.port, settings.host, settings.queue_max) == (2, "127.0.0.1", 3)


@pytest.mark.parametrize(
    ("environ", "store"),
    [
        ({"DS_SERVICE_ID": "svc-1"}, "https://api.electric-sql.cloud/v1/stream/svc-1"),
        (
            {"DS_SERVICE_ID": "svc-1", "ELECTRIC_URL": "http://127.0.0.1:9/"},
            "http://127.0.0.1:9/v1/stream/svc-1",
        ),
        ({"DS_SERVICE_ID": "svc-1", "DURABLE_CHAT_STORE": "memory://"}, "memory://"),
        ({"ELECTRIC_URL": "https://e.example", "DURABLE_CHAT_STORE": "memory://"}, "memory://"),
    ],
)
def test_service(environ: dict[str, str], store: str) -> None:
    """A service's id makes the store remote if no store is set."""
    assert Settings.from_env(environ).store == store


def test_electric_url_alone() -> None:
    """
    A server address without a service's id is refused, because the chats would silently be stored in a local file.
    """
    with pytest.raises(StartError, match="DS_SERVICE_ID"):
        Settings.from_env({"ELECTRIC_URL": "https://e.example"})


def test_names() -> None:
    """A flag has its variable's name, and no two settings share one."""
    names = [(describe(item).env, flag_of(item)) for item in fields(Settings)]
    assert ("DURABLE_CHAT_SSE_PING_S", "--sse-ping-s") in names
    assert ("DS_SECRET", "--ds-secret") in names
    assert len({flag for _, flag in names}) == len(names)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    """Only this machine's own addresses are loopback, not a name that needs a lookup."""
    assert is_loopback(host) is loopback
