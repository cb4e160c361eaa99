"""
The settings: their environment variables, their defaults and the values they accept.

Each field of `Settings` carries the name of its variable, its kind and its help text. The flags of the command line
are built from them, and a test compares docs/reference/settings.md with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import SplitResult, urlsplit

from durable_chat.errors import StartError

ELECTRIC_URL_DEFAULT = "https://api.electric-sql.cloud"
STORE_DEFAULT = "sqlite:///durable-chat.db"
# A wait of more than a day is probably given in the wrong unit, and no proxy would keep the connection so long.
WAIT_MAX_S = 86_400.0
# A body is held in memory while it is read.
BODY_MAX_BYTES_MAX = 1 << 30
# The snapshot is written with every turn and sent to every tab.
SNAPSHOT_MAX_BYTES_MAX = 4 << 20
# HS256 requires keys of at least 32 bytes (RFC 7518 section 3.2). Anybody who holds a token can guess a shorter key
# offline, at full speed and unnoticed.
TOKEN_SECRET_CHARS_MIN = 32
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

# The length of one text on the page: an introduction is a sentence or two.
TEXT_CHARS_MAX = 500
# Users do not read more suggestions than this.
SUGGESTIONS_MAX = 8

Action = Literal["read", "send", "stop", "delete"]
"""The actions on a session, which a token may list."""

ACTIONS: tuple[Action, ...] = get_args(Action)


@dataclass(frozen=True, slots=True)
class Kind:
    """
    The values a setting accepts. `expects` completes the sentence "X must be …". `parse` raises ValueError for any
    other text.
    """

    expects: str
    parse: Callable[[str], Any]
    fits: Callable[[Any], bool]


def _text(expects: str, fits: Callable[[str], bool]) -> Kind:
    return Kind(expects, str, lambda value: isinstance(value, str) and fits(value))


def _whole(low: int, high: int) -> Kind:
    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return Kind(f"a whole number from {low} to {high}", int, fits)


def _seconds(low: float) -> Kind:
    def fits(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= WAIT_MAX_S

    return Kind(f"a number of seconds from {low:g} to {WAIT_MAX_S:g}", float, fits)


def _or_off(kind: Kind) -> Kind:
    """Accept the same values, or `off`, which becomes None."""

    def parse(text: str) -> Any:
        return None if text == "off" else kind.parse(text)

    return Kind(f"{kind.expects}, or off", parse, lambda value: value is None or kind.fits(value))


def _or_none(kind: Kind) -> Kind:
    return Kind(kind.expects, kind.parse, lambda value: value is None or kind.fits(value))


def split_url(url: str) -> SplitResult | None:
    """Return the parts of an `http` or `https` address with a host and a valid port, else None."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if usable else None


def is_remote(store: str) -> bool:
    """Return whether a store's address names a Durable Streams server instead of a database."""
    return store.startswith(("http://", "https://"))


def _is_store(url: str) -> bool:
    if is_remote(url):
        return _is_upstream(url)
    return url == "memory://" or re.fullmatch(r"sqlite:///[^\x00?#]*[^\x00?#/]", url) is not None


def _is_upstream(url: str) -> bool:
    # A user name or password in the address would appear in logs. The secret has its own setting.
    parts = split_url(url)
    return parts is not None and "@" not in parts.netloc and not parts.query and not parts.fragment


def _is_secret(text: str) -> bool:
    # The secret is sent in a header, where spaces and non-ASCII characters may change on the way.
    return re.fullmatch(r"[\x21-\x7e]+", text) is not None


def origin_of(url: str) -> str | None:
    """Return an address in the form of the `Origin` header: lower case, no default port. None if it is none."""
    parts = split_url(url)
    if parts is None or parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        return None
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    default_port = 443 if parts.scheme == "https" else 80
    return f"{parts.scheme}://{host}" + ("" if parts.port in (None, default_port) else f":{parts.port}")


def _parse_origins(text: str) -> tuple[str, ...]:
    origins = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        origin = "*" if part == "*" else origin_of(part)
        if origin is None:
            raise ValueError(part)
        origins.append(origin)
    return tuple(origins)


def _are_origins(value: Any) -> bool:
    return isinstance(value, tuple) and all(origin == "*" or origin_of(origin) == origin for origin in value)


def _parse_suggestions(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split("|"))))


def _is_shown(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= TEXT_CHARS_MAX and value.isprintable()


def _are_suggestions(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= SUGGESTIONS_MAX and all(map(_is_shown, value))


STORE = _text("memory://, sqlite:///path or the https:// address of a Durable Streams server", _is_store)
SERVICE_ID = _or_none(
    _text("letters, digits and . _ ~ -", lambda s: re.fullmatch(r"[\w.~-]+", s, re.ASCII) is not None)
)
UPSTREAM = _or_none(_text("an http:// or https:// address without a user name or query", _is_upstream))
SECRET = _or_none(_text("visible ASCII characters without spaces", _is_secret))
TOKEN_SECRET = _or_none(
    _text(
        f"at least {TOKEN_SECRET_CHARS_MIN} visible ASCII characters without spaces, chosen at random",
        lambda s: len(s) >= TOKEN_SECRET_CHARS_MIN and _is_secret(s),
    )
)
FILE = _or_none(_text("the path of a file", lambda s: bool(s) and "\0" not in s))
ORIGINS = Kind("origins like https://app.example, separated by commas", _parse_origins, _are_origins)
TITLE = Kind(f"one line of at most {TEXT_CHARS_MAX} characters", str, _is_shown)
SUGGESTIONS = _or_none(Kind(f"at most {SUGGESTIONS_MAX} texts, separated by |", _parse_suggestions, _are_suggestions))
HOST = _text("a host name or address", lambda s: re.fullmatch(r"[\w.:%-]+", s, re.ASCII) is not None)
MODEL = _or_none(_text("a model's name", lambda s: s.isprintable() and bool(s)))
TURN_MODES = ("queue", "steer", "refuse", "interrupt")
"""What a turn that arrives during an answer may do."""
TURNS = _text("queue, steer, refuse or interrupt", lambda s: s in TURN_MODES)
AFTER_CRASH = _text("end, retry or continue", lambda s: s in ("end", "retry", "continue"))
HTTP = _text("own or uvicorn", lambda s: s in ("own", "uvicorn"))
ON_OR_OFF = _text("on or off", lambda s: s in ("on", "off"))
FLAG = Kind("true or false", str, lambda value: isinstance(value, bool))


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
    port: int = _setting(4437, "DURABLE_CHAT_PORT", _whole(0, 65_535), "the port to listen on; 0 picks a free port")
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
    openai_background: str = _setting(
        "off",
        "DURABLE_CHAT_OPENAI_BACKGROUND",
        ON_OR_OFF,
        "let answers of OpenAI's Responses API go on there after a crash of this server: on or off; OpenAI stores them",
    )
    context_tokens: int | None = _setting(
        None,
        "DURABLE_CHAT_CONTEXT_TOKENS",
        _or_off(_whole(CONTEXT_TOKENS_MIN, CONTEXT_TOKENS_MAX)),
        "the tokens of a conversation that the model is given; beyond them old turns are summarized; off: no limit",
    )
    summary_model: str | None = _setting(
        None, "DURABLE_CHAT_SUMMARY_MODEL", MODEL, "the model that summarizes old turns; default: the one that answers"
    )
    body_max_bytes: int = _setting(
        32 << 20,
        "DURABLE_CHAT_BODY_MAX_BYTES",
        _whole(1, BODY_MAX_BYTES_MAX),
        "the maximum size of a chat request",
    )
    append_max_bytes: int = _setting(
        16 << 20, "DURABLE_CHAT_APPEND_MAX_BYTES", _whole(1, BODY_MAX_BYTES_MAX), "the maximum size of an append"
    )
    bodies_max_bytes: int = _setting(
        256 << 20,
        "DURABLE_CHAT_BODIES_MAX_BYTES",
        _whole(1, 1 << 40),
        "the memory for all request bodies together; beyond it a request gets 503 before its body is read",
    )
    artifact_min_bytes: int = _setting(
        64 << 10,
        "DURABLE_CHAT_ARTIFACT_MIN_BYTES",
        _whole(0, BODY_MAX_BYTES_MAX),
        "a larger file in a message is stored outside the session's log and gets its own address",
    )
    artifact_max_bytes: int = _setting(
        20 << 20, "DURABLE_CHAT_ARTIFACT_MAX_BYTES", _whole(0, BODY_MAX_BYTES_MAX), "the maximum size of a file"
    )
    turn_snapshot_max_bytes: int = _setting(
        64 << 10,
        "DURABLE_CHAT_TURN_SNAPSHOT_MAX_BYTES",
        _whole(0, SNAPSHOT_MAX_BYTES_MAX),
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
        16, "DURABLE_CHAT_QUEUE_MAX", _whole(1, 10_000), "the maximum number of waiting turns in a session"
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
        _whole(0, 100),
        "how often an answer goes on after a crash before it ends as interrupted; 0: never",
    )
    coalesce: str = _setting(
        "on", "DURABLE_CHAT_COALESCE", ON_OR_OFF, "join deltas that wait for the same append into one chunk: on or off"
    )
    stall_s: float = _setting(
        120.0, "DURABLE_CHAT_STALL_S", _seconds(0.05), "seconds without a chunk after which the answer fails"
    )
    lease_ms: int = _setting(
        10_000, "DURABLE_CHAT_LEASE_MS", _whole(100, 3_600_000), "milliseconds until a run's lease expires"
    )
    grace_s: float = _setting(
        30.0, "DURABLE_CHAT_GRACE_S", _seconds(0), "seconds that running answers have to finish at shutdown"
    )
    await_max_s: float = _setting(
        600.0, "DURABLE_CHAT_AWAIT_MAX_S", _seconds(0.05), "the maximum wait of POST /api/chat?mode=await, in seconds"
    )
    long_poll_s: float = _setting(
        20.0, "DURABLE_CHAT_LONG_POLL_S", _seconds(0.05), "seconds that a long-poll waits for a message"
    )
    sse_s: float = _setting(60.0, "DURABLE_CHAT_SSE_S", _seconds(0.05), "seconds that one SSE response lasts")
    sse_ping_s: float = _setting(
        15.0, "DURABLE_CHAT_SSE_PING_S", _seconds(0.05), "seconds between pings on a silent SSE response"
    )
    turns_per_minute: int | None = _setting(
        None,
        "DURABLE_CHAT_TURNS_PER_MINUTE",
        _or_off(_whole(1, 1_000_000)),
        "the maximum number of turns per caller and minute; off: no limit",
    )
    readers_per_session_max: int = _setting(
        1000,
        "DURABLE_CHAT_READERS_PER_SESSION_MAX",
        _whole(1, 1_000_000),
        "the maximum number of live readers of a session",
    )
    connections_max: int | None = _setting(
        None,
        "DURABLE_CHAT_CONNECTIONS_MAX",
        _or_none(_whole(1, CONNECTIONS_MAX_MAX)),
        "the maximum number of open connections; default: the limit of open files, less a reserve",
    )
    streams_cached_max: int = _setting(
        STREAMS_CACHED_MAX,
        "DURABLE_CHAT_STREAMS_CACHED_MAX",
        _whole(100, 100_000_000),
        "the number of streams whose state is kept in memory; streams in use do not count",
    )
    sessions_cached_max: int = _setting(
        SESSIONS_CACHED_MAX,
        "DURABLE_CHAT_SESSIONS_CACHED_MAX",
        _whole(1, 10_000_000),
        "the number of idle sessions kept in memory; others are read again on the next request",
    )
    sessions_cached_bytes_max: int = _setting(
        SESSIONS_CACHED_BYTES_MAX,
        "DURABLE_CHAT_SESSIONS_CACHED_BYTES_MAX",
        _whole(0, 1 << 40),
        "the bytes of log that the idle sessions in memory were built from",
    )
    session_ttl_s: int | None = _setting(
        None,
        "DURABLE_CHAT_SESSION_TTL_S",
        _or_off(_whole(1, TTL_MAX_S)),
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
        _or_none(_whole(0, 10_000_000)),
        "the number of text deltas in an answer of the demo model",
    )
    demo_delay_ms: int | None = _setting(
        None,
        "DURABLE_CHAT_DEMO_DELAY_MS",
        _or_none(_whole(0, 3_600_000)),
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
