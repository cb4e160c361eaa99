"""
The settings: their environment variables, their defaults and the values they accept.

Each field of `Settings` carries the name of its variable, its kind and its help text. The flags of the command line
are built from them, and a test compares docs/reference/settings.md with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from durable_chat.config.addresses import is_remote
from durable_chat.config.kinds import (
    AFTER_CRASH,
    FILE,
    FLAG,
    HOST,
    HTTP,
    MODEL,
    ON_OR_OFF,
    ORIGINS,
    SECRET,
    SERVICE_ID,
    STORE,
    SUGGESTIONS,
    TITLE,
    TOKEN_SECRET,
    TURNS,
    UPSTREAM,
    Kind,
    or_none,
    or_off,
    seconds,
    whole,
)
from durable_chat.errors import StartError

ELECTRIC_URL_DEFAULT = "https://api.electric-sql.cloud"
STORE_DEFAULT = "sqlite:///durable-chat.db"
# A body is held in memory while it is read.
BODY_MAX_BYTES_MAX = 1 << 30
# The snapshot is written with every turn and sent to every tab.
SNAPSHOT_MAX_BYTES_MAX = 4 << 20
# A century. JavaScript cannot represent much later times in milliseconds.
TTL_MAX_S = 100 * 366 * 86_400

# Streams whose state is kept in memory, at 1 to 2 KiB each.
STREAMS_CACHED_MAX = 50_000
# Idle sessions kept in memory, and the bytes of log that they were folded from. They take less memory than that.
SESSIONS_CACHED_MAX = 1_000
SESSIONS_CACHED_BYTES_MAX = 256 << 20
# Far more than one process can serve. The kernel's limit on open files is usually lower.
CONNECTIONS_MAX_MAX = 10_000_000

# With fewer tokens, a summary and an ordinary message do not fit together.
CONTEXT_TOKENS_MIN = 500
# Ten times what the largest models accept: more is a wrong unit.
CONTEXT_TOKENS_MAX = 10_000_000

Action = Literal["read", "send", "stop", "delete"]
"""The actions on a session, which a token may list."""

ACTIONS: tuple[Action, ...] = get_args(Action)


@dataclass(frozen=True, slots=True)
class Described:
    """The description of a setting. A setting whose `env` is None has only a flag."""

    env: str | None
    kind: Kind
    help: str
    secret: bool = False


def _setting(default: Any, env: str | None, kind: Kind, text: str, *, secret: bool = False, shown: bool = True) -> Any:
    metadata = {"setting": Described(env, kind, text, secret)}
    return field(default=default, repr=shown and not secret, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Settings:
    """
    All settings. An instance is always valid: the constructor raises StartError for a value that is not accepted. The
    repr omits the secrets and the store's address, which may contain one.
    """

    store: str = _setting(STORE_DEFAULT, "DURABLE_CHAT_STORE", STORE, "where streams are stored", shown=False)
    service_id: str | None = _setting(
        None, "DS_SERVICE_ID", SERVICE_ID, "use $ELECTRIC_URL/v1/stream/$DS_SERVICE_ID if no store is set"
    )
    electric_url: str | None = _setting(
        None, "ELECTRIC_URL", UPSTREAM, f"the server of DS_SERVICE_ID; default {ELECTRIC_URL_DEFAULT}"
    )
    secret: str | None = _setting(
        None, "DS_SECRET", SECRET, "the bearer secret for the protocol routes, or for the remote store", secret=True
    )
    secret_file: str | None = _setting(
        None, "DS_SECRET_FILE", FILE, "a file to read DS_SECRET from at startup", shown=False
    )
    token_secret: str | None = _setting(
        None,
        "DURABLE_CHAT_TOKEN_SECRET",
        TOKEN_SECRET,
        "the key that signs session tokens; if it is set, /api requires a token",
        secret=True,
    )
    token_secret_file: str | None = _setting(
        None, "DURABLE_CHAT_TOKEN_SECRET_FILE", FILE, "a file to read the token secret from at startup", shown=False
    )
    allow_origins: tuple[str, ...] = _setting(
        (), "DURABLE_CHAT_ALLOW_ORIGINS", ORIGINS, "other origins whose pages may call /api, separated by commas"
    )
    host: str = _setting("127.0.0.1", "DURABLE_CHAT_HOST", HOST, "the address to listen on")
    port: int = _setting(4437, "DURABLE_CHAT_PORT", whole(0, 65_535), "the port to listen on; 0 picks a free port")
    http: str = _setting("own", "DURABLE_CHAT_HTTP", HTTP, "the HTTP/1.1 connections of serve: own or uvicorn")
    model: str | None = _setting(
        None,
        "DURABLE_CHAT_MODEL",
        MODEL,
        "the model: demo, anthropic:MODEL, openai:MODEL, openai-chat:MODEL or openai-responses:MODEL; default "
        "anthropic:claude-sonnet-4-6 if ANTHROPIC_API_KEY is set, else demo",
    )
    generate: str | None = _setting(
        None,
        "DURABLE_CHAT_GENERATE",
        MODEL,
        "the adapters of generations: demo, openai, off, or a list such as image=openai:gpt-image-1,video=demo",
    )
    video_poll_s: float = _setting(
        2.0, "DURABLE_CHAT_VIDEO_POLL_S", seconds(0.1), "seconds between two looks at a video job at its provider"
    )
    video_max_s: float = _setting(
        600.0, "DURABLE_CHAT_VIDEO_MAX_S", seconds(1), "seconds after which a video job is given up"
    )
    openai_background: str = _setting(
        "off",
        "DURABLE_CHAT_OPENAI_BACKGROUND",
        ON_OR_OFF,
        "let answers of OpenAI's Responses API go on there after a crash of this server: on or off; OpenAI stores them",
    )
    context_tokens: int | None = _setting(
        None,
        "DURABLE_CHAT_CONTEXT_TOKENS",
        or_off(whole(CONTEXT_TOKENS_MIN, CONTEXT_TOKENS_MAX)),
        "the tokens of a conversation that the model is given; beyond them old turns are summarized; off: no limit",
    )
    summary_model: str | None = _setting(
        None, "DURABLE_CHAT_SUMMARY_MODEL", MODEL, "the model that summarizes old turns; default: the one that answers"
    )
    body_max_bytes: int = _setting(
        32 << 20,
        "DURABLE_CHAT_BODY_MAX_BYTES",
        whole(1, BODY_MAX_BYTES_MAX),
        "the maximum size of a chat request",
    )
    append_max_bytes: int = _setting(
        16 << 20, "DURABLE_CHAT_APPEND_MAX_BYTES", whole(1, BODY_MAX_BYTES_MAX), "the maximum size of an append"
    )
    bodies_max_bytes: int = _setting(
        256 << 20,
        "DURABLE_CHAT_BODIES_MAX_BYTES",
        whole(1, 1 << 40),
        "the memory for all request bodies together; beyond it a request gets 503 before its body is read",
    )
    artifact_min_bytes: int = _setting(
        64 << 10,
        "DURABLE_CHAT_ARTIFACT_MIN_BYTES",
        whole(0, BODY_MAX_BYTES_MAX),
        "a larger file in a message is stored outside the session's log and gets its own address",
    )
    artifact_max_bytes: int = _setting(
        20 << 20, "DURABLE_CHAT_ARTIFACT_MAX_BYTES", whole(0, BODY_MAX_BYTES_MAX), "the maximum size of a file"
    )
    turn_snapshot_max_bytes: int = _setting(
        64 << 10,
        "DURABLE_CHAT_TURN_SNAPSHOT_MAX_BYTES",
        whole(0, SNAPSHOT_MAX_BYTES_MAX),
        "every turn begins with a snapshot of the session if the snapshot has at most this size; 0: never",
    )
    turns: str = _setting(
        "queue",
        "DURABLE_CHAT_TURNS",
        TURNS,
        "what to do with a turn that arrives during an answer: queue, steer (the answer hears it at its next step), "
        "refuse or interrupt",
    )
    queue_max: int = _setting(
        16, "DURABLE_CHAT_QUEUE_MAX", whole(1, 10_000), "the maximum number of waiting turns in a session"
    )
    after_crash: str = _setting(
        "end",
        "DURABLE_CHAT_AFTER_CRASH",
        AFTER_CRASH,
        "what to do with an answer that a crash cut off and its model cannot resume: end, retry or continue",
    )
    resumes_max: int = _setting(
        3,
        "DURABLE_CHAT_RESUMES_MAX",
        whole(0, 100),
        "how often an answer goes on after a crash before it ends as interrupted; 0: never",
    )
    coalesce: str = _setting(
        "on", "DURABLE_CHAT_COALESCE", ON_OR_OFF, "join deltas that wait for the same append into one chunk: on or off"
    )
    stall_s: float = _setting(
        120.0, "DURABLE_CHAT_STALL_S", seconds(0.05), "seconds without a chunk after which the answer fails"
    )
    lease_ms: int = _setting(
        10_000, "DURABLE_CHAT_LEASE_MS", whole(100, 3_600_000), "milliseconds until a run's lease expires"
    )
    grace_s: float = _setting(
        30.0, "DURABLE_CHAT_GRACE_S", seconds(0), "seconds that running answers have to finish at shutdown"
    )
    await_max_s: float = _setting(
        600.0, "DURABLE_CHAT_AWAIT_MAX_S", seconds(0.05), "the maximum wait of POST /api/chat?mode=await, in seconds"
    )
    long_poll_s: float = _setting(
        20.0, "DURABLE_CHAT_LONG_POLL_S", seconds(0.05), "seconds that a long-poll waits for a message"
    )
    sse_s: float = _setting(60.0, "DURABLE_CHAT_SSE_S", seconds(0.05), "seconds that one SSE response lasts")
    sse_ping_s: float = _setting(
        15.0, "DURABLE_CHAT_SSE_PING_S", seconds(0.05), "seconds between pings on a silent SSE response"
    )
    turns_per_minute: int | None = _setting(
        None,
        "DURABLE_CHAT_TURNS_PER_MINUTE",
        or_off(whole(1, 1_000_000)),
        "the maximum number of turns per caller and minute; off: no limit",
    )
    readers_per_session_max: int = _setting(
        1000,
        "DURABLE_CHAT_READERS_PER_SESSION_MAX",
        whole(1, 1_000_000),
        "the maximum number of live readers of a session",
    )
    connections_max: int | None = _setting(
        None,
        "DURABLE_CHAT_CONNECTIONS_MAX",
        or_none(whole(1, CONNECTIONS_MAX_MAX)),
        "the maximum number of open connections; default: the limit of open files, less a reserve",
    )
    streams_cached_max: int = _setting(
        STREAMS_CACHED_MAX,
        "DURABLE_CHAT_STREAMS_CACHED_MAX",
        whole(100, 100_000_000),
        "the number of streams whose state is kept in memory; streams in use do not count",
    )
    sessions_cached_max: int = _setting(
        SESSIONS_CACHED_MAX,
        "DURABLE_CHAT_SESSIONS_CACHED_MAX",
        whole(1, 10_000_000),
        "the number of idle sessions kept in memory; others are read again on the next request",
    )
    sessions_cached_bytes_max: int = _setting(
        SESSIONS_CACHED_BYTES_MAX,
        "DURABLE_CHAT_SESSIONS_CACHED_BYTES_MAX",
        whole(0, 1 << 40),
        "the bytes of log that the idle sessions in memory were built from",
    )
    session_ttl_s: int | None = _setting(
        None,
        "DURABLE_CHAT_SESSION_TTL_S",
        or_off(whole(1, TTL_MAX_S)),
        "seconds after its last use when a session is deleted; off: never",
    )
    title: str = _setting("durable-chat", "DURABLE_CHAT_TITLE", TITLE, "the title of the chat page")
    suggestions: tuple[str, ...] | None = _setting(
        None,
        "DURABLE_CHAT_SUGGESTIONS",
        SUGGESTIONS,
        "the suggestions in an empty chat, separated by |; a single | shows none",
    )
    access_log: str = _setting(
        "off", "DURABLE_CHAT_ACCESS_LOG", ON_OR_OFF, "log every request, without message texts: on or off"
    )
    demo_chunks: int | None = _setting(
        None,
        "DURABLE_CHAT_DEMO_CHUNKS",
        or_none(whole(0, 10_000_000)),
        "the number of text deltas in an answer of the demo model",
    )
    demo_delay_ms: int | None = _setting(
        None,
        "DURABLE_CHAT_DEMO_DELAY_MS",
        or_none(whole(0, 3_600_000)),
        "milliseconds between two text deltas of the demo model",
    )
    open: bool = _setting(False, None, FLAG, "serve everybody on a public host without any secret")

    def __post_init__(self) -> None:
        for item in fields(self):
            check(item, getattr(self, item.name))

    @property
    def remote(self) -> bool:
        return is_remote(self.store)

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **overrides: Any) -> Settings:
        """
        Read the settings from the environment. An override that is not None takes precedence; a text override is
        parsed like the variable. An empty variable counts as not set. Raises StartError.
        """
        values: dict[str, Any] = {}
        for item in fields(cls):
            given = overrides.pop(item.name, None)
            if given is None and (env := describe(item).env):
                given = environ.get(env) or None
            if given is not None:
                values[item.name] = parse(item, given) if isinstance(given, str) else given
        if overrides:
            raise TypeError(f"unknown settings: {', '.join(sorted(overrides))}")
        for name in ("secret", "token_secret"):
            if (path := values.get(f"{name}_file")) is not None:
                values[name] = read_secret(cls, name, path, given=name in values)
        if "store" not in values:
            values["store"] = default_store(values.get("service_id"), values.get("electric_url"))
        return cls(**values)


def read_secret(settings: type[Settings], name: str, path: str, *, given: bool) -> str:
    """Return the secret in a file, without surrounding white space. Raises StartError."""
    (item,) = (item for item in fields(settings) if item.name == name)
    env = describe(item).env
    if given:
        raise StartError(f"{env} and {env}_FILE are both set. Set only one of them.")
    try:
        text = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise StartError(f"{env}_FILE: {path} cannot be read: {reason}.") from error
    secret: str = parse(item, text)
    return secret


def default_store(service_id: str | None, electric_url: str | None) -> str:
    """Return the store's address if none is set. Raises StartError."""
    if service_id:
        return f"{(electric_url or ELECTRIC_URL_DEFAULT).rstrip('/')}/v1/stream/{service_id}"
    if electric_url:
        raise StartError("ELECTRIC_URL is set without DS_SERVICE_ID. Set DS_SERVICE_ID too, or DURABLE_CHAT_STORE.")
    return STORE_DEFAULT


def describe(item: Field[Any]) -> Described:
    described: Described = item.metadata["setting"]
    return described


def flag_of(item: Field[Any]) -> str:
    """Return the flag of `serve`: the variable's name without the prefix DURABLE_CHAT_."""
    name = describe(item).env or item.name
    return "--" + name.removeprefix("DURABLE_CHAT_").lower().replace("_", "-")


def parse(item: Field[Any], text: str) -> Any:
    try:
        value = describe(item).kind.parse(text.strip())
    except ValueError:
        raise unfit(item, text) from None
    check(item, value)
    return value


def check(item: Field[Any], value: Any) -> None:
    if not describe(item).kind.fits(value):
        raise unfit(item, value)


def unfit(item: Field[Any], value: Any) -> StartError:
    """Return an error that names the setting and shows the value only if it cannot contain a secret."""
    described = describe(item)
    name = f"{described.env} ({flag_of(item)})" if described.env else flag_of(item)
    shown = f", not {str(value)[:100]!r}" if item.repr else ""
    return StartError(f"{name} must be {described.kind.expects}{shown}.")
