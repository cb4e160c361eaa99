"""
The command line: `serve`, `migrate`, `doctor`, `token`, and the HTTP clients `tail`, `snapshot` and `stop`.

Modules that only one command needs are imported when it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import gc
import importlib
import logging
import math
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import Field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import uvicorn

from durable_chat.clients import (
    EXIT_CANNOT_START,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    fail,
    snapshot,
    stop,
    tail,
)
from durable_chat.config.addresses import split_url
from durable_chat.config.kinds import SECRET
from durable_chat.config.settings import ACTIONS, STORE_DEFAULT, TTL_MAX_S, Settings, describe, flag_of
from durable_chat.errors import DurableChatError, InvalidRequest, StartError
from durable_chat.http.callers import is_loopback
from durable_chat.http.limits import connections_for, raise_file_limit
from durable_chat.http.server.connections import connection_class
from durable_chat.http.server.framing import HEAD_BYTES_MAX
from durable_chat.http.server.waits import IDLE_WAIT_S
from durable_chat.notices import secret_flag_warnings, set_log_levels, start_lines, unknown_variables

if TYPE_CHECKING:
    from durable_chat.app import DurableChat

EXIT_CODES = """exit codes:
  0    success
  1    the server refused the request, the command failed, or the store is damaged
  2    wrong usage
  3    the server (or the migration) cannot start; the reason is on stderr
  4    no server responds at --url
  130  interrupted
"""

URL_DEFAULT = "http://127.0.0.1:4437"
# Connections that wait to be accepted. The kernel's own limit is usually 4096.
BACKLOG = 2048
# Added to the grace period of running answers, so that the last responses can be written.
SHUTDOWN_MARGIN_S = 2
TOKEN_SECRET_ENV = "DURABLE_CHAT_TOKEN_SECRET"
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
CAN_HELP = f"the allowed actions, separated by commas: {', '.join(ACTIONS)}; default read,send,stop"
TTL_HELP = "how long the token is valid, in s, m, h or d; default 1h"

MIGRATE_HELP = "migrate the database to this version's schema; stop the server first"
DOCTOR_HELP = "read the whole database and report damage; changes nothing, and a server may use it at the same time"
# Requests create few reference cycles, and a full pass of the garbage collector delays every request.
GC_THRESHOLDS = (10_000, 20, 100)
# A thread that returns from the disk waits at most this long for the interpreter, and every append waits with it.
# Python's default is 5 ms.
SWITCH_INTERVAL_S = 0.0005

log = logging.getLogger(__name__)

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = make_parser().parse_args(argv)
    command: Command = options.command
    for sentence in unknown_variables(os.environ):
        print(f"durable-chat: warning: {sentence}", file=sys.stderr)
    try:
        return command(options)
    except StartError as error:
        return fail(str(error), EXIT_CANNOT_START)
    except DurableChatError as error:
        return fail(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone. Without this, Python reports the error again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


# Arguments.


class Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line, because the list of all flags would hide it."""

    def error(self, message: str) -> NoReturn:
        if "--workers" in message:
            message = (
                "There is no --workers: one process serves one SQLite file. To run several processes, give each "
                "the address of a Durable Streams server as --store."
            )
        self.exit(EXIT_USAGE, f"{self.prog}: {message} See {self.prog} --help.\n")


def make_parser() -> argparse.ArgumentParser:
    parser = _parser(Parser, prog="durable-chat", description="Durable, resumable AI chat.")
    # By name, because no module of the package imports the package itself.
    version = importlib.import_module("durable_chat").__version__
    parser.add_argument("--version", action="version", version=f"durable-chat {version}")
    commands = parser.add_subparsers(metavar="command", required=True)
    _add_serve(commands)
    migrate_parser = _add_of_store(commands, "migrate", MIGRATE_HELP, migrate)
    migrate_parser.add_argument("--create", action="store_true", help="create the database if it does not exist")
    _add_of_store(commands, "doctor", DOCTOR_HELP, doctor)
    tail_parser = _add_client(
        commands, "tail", "print a session's chunks as they arrive, one JSON object per line", tail
    )
    tail_parser.add_argument(
        "--offset", default="-1", help="where to start; -1: the beginning, now: the end; default -1"
    )
    _add_client(commands, "snapshot", "print a session's messages and their offset", snapshot)
    stop_parser = _add_client(commands, "stop", "stop the running answer of a session", stop)
    stop_parser.add_argument("--run", metavar="ID", help="only this run")
    _add_token(commands)
    return parser


def _parser(make: Callable[..., argparse.ArgumentParser], *arguments: str, **options: Any) -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    return make(*arguments, **options, epilog=EXIT_CODES, allow_abbrev=False, formatter_class=formatter)


def _add_serve(commands: Any) -> None:
    text = "start the server"
    parser = _parser(
        commands.add_parser, "serve", help=text, description=f"{text}. Flags take precedence over the environment."
    )
    for item in fields(Settings):
        setting = describe(item)
        if setting.env is None:
            parser.add_argument(flag_of(item), dest=item.name, action="store_true", default=None, help=setting.help)
        else:
            text = f"{setting.help}{default_of(item)} [{setting.env}]".replace("%", "%%")
            parser.add_argument(flag_of(item), dest=item.name, metavar="VALUE", help=text)
    levels = ("debug", "info", "warning", "error")
    text = "the log level on stderr; default info. No level logs what users write"
    parser.add_argument("--log-level", choices=levels, default="info", help=text)
    parser.set_defaults(command=serve)


def default_of(item: Field[Any]) -> str:
    """Return the default of a setting for its help text, or nothing if the text already states it."""
    if "default" in describe(item).help:
        return ""
    value = item.default
    if value is None or value == ():
        return "; default off" if "off" in describe(item).kind.expects else "; default none"
    return f"; default {value:g}" if isinstance(value, float) else f"; default {value}"


def _add_of_store(commands: Any, name: str, text: str, command: Command) -> argparse.ArgumentParser:
    parser = _parser(commands.add_parser, name, help=text, description=text)
    parser.add_argument("--store", metavar="VALUE", help=f"the database; default {STORE_DEFAULT} [DURABLE_CHAT_STORE]")
    parser.set_defaults(command=command)
    return parser


def _add_client(commands: Any, name: str, text: str, command: Command) -> argparse.ArgumentParser:
    parser = _parser(commands.add_parser, name, help=text, description=text)
    parser.add_argument("id", metavar="ID", help="the session")
    parser.add_argument("--url", default=URL_DEFAULT, type=_url, help=f"the server; default {URL_DEFAULT}")
    token_text = "the bearer token; other users of this machine can see it in the list of processes"
    parser.add_argument("--token", type=_token, help=token_text)
    parser.add_argument(
        "--token-file", dest="token", type=_token_in, metavar="FILE", help="a file to read the token from"
    )
    parser.set_defaults(command=command)
    return parser


def _add_token(commands: Any) -> None:
    text = "print a token for a session that expires"
    description = f"{text}. It is signed with DURABLE_CHAT_TOKEN_SECRET from the environment."
    parser = _parser(commands.add_parser, "token", help=text, description=description)
    parser.add_argument("id", metavar="ID", help="the session")
    parser.add_argument("--can", type=_actions, default="read,send,stop", metavar="LIST", help=CAN_HELP)
    parser.add_argument("--ttl", type=_ttl_s, default="1h", metavar="TIME", help=TTL_HELP)
    parser.set_defaults(command=token)


def _actions(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    if unknown := [name for name in names if name not in ACTIONS]:
        raise argparse.ArgumentTypeError(f"not one of {', '.join(ACTIONS)}: {unknown[0]}")
    return list(dict.fromkeys(names))


def _ttl_s(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    ttl_s = int(match[1]) * UNITS_S[match[2]] if match else 0
    if not 0 < ttl_s <= TTL_MAX_S:
        raise argparse.ArgumentTypeError(
            f"must be a number and one of s, m, h, d, such as 30m, up to a century: {text}"
        )
    return ttl_s


def _url(text: str) -> str:
    if split_url(text) is None:
        raise argparse.ArgumentTypeError(f"not an http:// or https:// address: {text}")
    return text


def _token(text: str) -> str:
    if not SECRET.fits(text):
        raise argparse.ArgumentTypeError(f"a token must be {SECRET.expects}")
    return text


def _token_in(path: str) -> str:
    try:
        return _token(Path(path).read_text().strip())
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error}") from error


# The server.


def serve(options: argparse.Namespace) -> int:
    from durable_chat.app import create_app

    given = {item.name: getattr(options, item.name) for item in fields(Settings)}
    settings = Settings.from_env(os.environ, **given)
    refuse_unprotected(settings)
    set_log_levels(options.log_level)
    for sentence in secret_flag_warnings(given):
        log.warning("%s", sentence)
    run(create_app(settings))
    return EXIT_OK


def run(chat: DurableChat) -> None:
    """Serve a chat by its settings until the process gets a signal to stop. Raises StartError."""
    settings = chat.settings
    connections_max = settings.connections_max or connections_for(raise_file_limit())
    listener = listen(settings.host, settings.port)
    if not is_loopback(settings.host) and settings.token_secret is None:
        log.warning("everybody who reaches %s may read and write all sessions: add authentication", settings.host)
    with contextlib.closing(listener):
        config = uvicorn.Config(
            chat.app,
            loop="uvloop" if sys.platform != "win32" else "asyncio",
            **connection_options(chat, connections_max),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            # The peer's address decides who is local, so it is never taken from a header.
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(settings.grace_s) + SHUTDOWN_MARGIN_S,
        )
        Server(chat, config, address_of(settings.host, listener)).run(sockets=[listener])


def connection_options(chat: DurableChat, connections_max: int) -> dict[str, Any]:
    """
    Uvicorn's options for DURABLE_CHAT_HTTP. Of uvicorn's own protocols it is h11: the one on httptools adds the
    trailers of a chunked body to the headers when the whole request arrives at once, and `Stream-Closed` there would
    close a stream.
    """
    if chat.settings.http == "own":
        return {"http": connection_class(chat.write_soon, connections_max=connections_max)}
    return {
        "http": "h11",
        "h11_max_incomplete_event_size": HEAD_BYTES_MAX,
        "timeout_keep_alive": math.ceil(IDLE_WAIT_S),
        # Uvicorn refuses the request that reaches its limit, ours refuses the one beyond it.
        "limit_concurrency": connections_max + 1,
    }


def refuse_unprotected(settings: Settings) -> None:
    """
    Raise StartError for a public host without secrets. Tokens protect the sessions. DS_SECRET protects their streams
    if the protocol routes are served.
    """
    if is_loopback(settings.host) or settings.open:
        return
    needed = {"DURABLE_CHAT_TOKEN_SECRET": settings.token_secret}
    if not settings.remote:
        needed["DS_SECRET"] = settings.secret
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise StartError(
            f"{settings.host} can be reached from other machines, and not all routes would be protected. Set "
            f"{' and '.join(missing)}, or use --open to serve everybody."
        )


class Server(uvicorn.Server):
    """Uvicorn's server inside the chat's lifespan, so that a failed start raises its StartError."""

    def __init__(self, chat: DurableChat, config: uvicorn.Config, address: str) -> None:
        super().__init__(config)
        self.chat = chat
        self.address = address

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        with self.capture_signals():
            async with self.chat.lifespan():
                await self._serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # Objects that exist now live until the end, so the garbage collector can ignore them.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        print(*start_lines(self.chat.settings, self.address), sep="\n", flush=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals like the original, but do not raise them again at the end: a requested stop is no failure."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket, before anything else is touched. Raises StartError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartError(f"DURABLE_CHAT_HOST (--host): {host} is not an address of this machine.") from error
    failure = OSError()
    for family, kind, protocol, _, address in found:
        try:
            return _listen(family, kind, protocol, address)
        except OSError as error:
            failure = error
    reason = {
        errno.EADDRINUSE: "it is in use. Stop the process that uses it, or choose another port with --port",
        errno.EACCES: "only administrators may use ports this low. Choose another port with --port",
        errno.EADDRNOTAVAIL: "this machine does not have that address. Choose another with --host",
    }.get(failure.errno or 0, failure.strerror)
    raise StartError(f"Cannot listen on {host} port {port}: {reason}.") from failure


def _listen(family: int, kind: int, protocol: int, address: Any) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        # Allow a restart to use the port of a server that has just stopped.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def address_of(host: str, listener: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def migrate(options: argparse.Namespace) -> int:
    settings = Settings.from_env(os.environ, store=options.store)
    if not settings.store.startswith("sqlite:"):
        raise StartError("Only a SQLite store can be migrated. Other stores have no schema.")
    path = Path(settings.store.removeprefix("sqlite:///"))
    if not options.create and not path.exists():
        raise StartError(f"There is no database at {path.resolve()}. Check --store, or use --create to create one.")

    async def open_and_close() -> None:
        from durable_chat.store.opening import make_backend

        backend = make_backend(settings.store)
        await backend.open()
        await backend.close()

    asyncio.run(open_and_close())
    print(f"{settings.store} has this version's schema")
    return EXIT_OK


def doctor(options: argparse.Namespace) -> int:
    from durable_chat.store.opening import SQLITE
    from durable_chat.store.sqlite.doctor import Doctor

    store = Settings.from_env(os.environ, store=options.store).store
    if not store.startswith(SQLITE):
        raise StartError(f"Only a SQLite store can be examined. Set --store to {SQLITE}file.db.")
    tell = partial(print, file=sys.stderr, flush=True)
    with contextlib.closing(Doctor(store.removeprefix(SQLITE), tell)) as found:
        damages = 0
        for damages, damage in enumerate(found.damages(), 1):  # noqa: B007 - how many there were
            print(f"damaged: {damage}", flush=True)
        for note in found.notes():
            print(f"note: {note}")
        print(f"{store}: {found.summary}; damaged: {damages}")
    return EXIT_FAILED if damages else EXIT_OK


def token(options: argparse.Namespace) -> int:
    # Imported here because the other commands do not sign anything.
    from durable_chat.http.tokens import issue
    from durable_chat.sessions.sessions import check_session_id

    names = (TOKEN_SECRET_ENV, f"{TOKEN_SECRET_ENV}_FILE")
    secret = Settings.from_env({name: os.environ.get(name, "") for name in names}).token_secret
    if secret is None:
        raise StartError(f"{TOKEN_SECRET_ENV} is not set. Set it to the same secret as on the server.")
    try:
        session_id = check_session_id(options.id)
    except InvalidRequest as error:
        return fail(error.message, EXIT_FAILED)
    print(issue(secret, session_id, options.can, now_s=time.time(), ttl_s=options.ttl))
    return EXIT_OK
