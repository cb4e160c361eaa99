"""
The servers of others, beside npm's reference: where each comes from, how it is started, or why it is not run.

They are installed under .bench, by the package tools of their languages, and are no dependency of this project.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from shutil import which

from benchmarks.machines import ROOT
from benchmarks.servers import Contender

PLACE = ROOT / ".bench"
INSTALL_MAX_S = 1200.0
# What is shown of an installation that failed.
SAID_MAX = 200

RAKAIA_VERSION = "0.9.0"
ELECTRIC_VERSION = "0.1.5"


@dataclass(frozen=True, slots=True)
class Peer:
    """`install` makes it ready, and raises NotThere with a sentence where that cannot be."""

    contender: Contender
    install: Callable[[], None]


class NotThere(Exception):
    """Why a peer is not run."""


def install_by(*command: str | Path) -> None:
    try:
        subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=INSTALL_MAX_S, check=True)
    except subprocess.CalledProcessError as error:
        said = [line for line in f"{error.stdout}\n{error.stderr}".splitlines() if line.strip()]
        raise NotThere(f"`{_shown(command)}` failed: {said[-1][:SAID_MAX] if said else error.returncode}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotThere(f"`{_shown(command)}` failed: {type(error).__name__}") from error


def _shown(command: Sequence[str | Path]) -> str:
    """As somebody would write it in this checkout."""
    return " ".join(str(word).replace(f"{ROOT}/", "") for word in command)


# PyPI's rakaia-streams, with its store of JSON lines, on the same server as ours.

RAKAIA = PLACE / "rakaia"
_RAKAIA_APP = (
    "import uvicorn; from rakaia import create_app; from rakaia.jsonl_store import JsonlStreamStore; "
    "uvicorn.run(create_app(store=JsonlStreamStore('{folder}/streams')), port={port}, log_level='warning')"
)


def _install_rakaia() -> None:
    wanted = [f"rakaia-streams=={RAKAIA_VERSION}"]
    wanted += [f"{name}=={metadata.version(name)}" for name in ("uvicorn", "uvloop", "httptools")]
    stamp = RAKAIA / "installed"
    if stamp.exists() and stamp.read_text() == "\n".join(wanted):
        return
    PLACE.mkdir(exist_ok=True)
    install_by(sys.executable, "-m", "venv", "--clear", RAKAIA)
    install_by(RAKAIA / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted)
    stamp.write_text("\n".join(wanted))


# Electric's server in Rust, from crates.io.

ELECTRIC = PLACE / "electric"


def _install_electric() -> None:
    program = ELECTRIC / "bin" / "durable-streams-server"
    stamp = ELECTRIC / "installed"
    if program.exists() and stamp.exists() and stamp.read_text() == ELECTRIC_VERSION:
        return
    command = ("cargo", "install", "durable-streams", "--version", ELECTRIC_VERSION, "--locked", "--root", ELECTRIC)
    if not which("cargo"):
        raise NotThere(f"there is no Rust here; with it, it is `{_shown(command)}`")
    PLACE.mkdir(exist_ok=True)
    install_by(*command)
    stamp.write_text(ELECTRIC_VERSION)


# The plugin for Caddy, a program of its own.

CADDY = PLACE / "caddy"
_CADDYFILE = """{{
  admin off
  auto_https off
  persist_config off
}}
http://127.0.0.1:{port} {{
  route /v1/stream/* {{
    durable_streams {{
      data_dir {folder}/streams
    }}
  }}
}}
"""


def _install_caddy() -> None:
    program = CADDY / "durable-streams-server"
    if not program.exists():
        raise NotThere(
            f"put the program of a release of github.com/durable-streams/durable-streams at {_shown([program])}"
        )


PEERS = (
    Peer(
        Contender(
            name="rakaia",
            durability="acknowledged after fsync of the stream's file, one for each append",
            version=lambda: (
                f"`pip install rakaia-streams=={RAKAIA_VERSION}`, JSONL store, uvicorn {metadata.version('uvicorn')}"
            ),
            command=(str(RAKAIA / "bin" / "python"), "-c", _RAKAIA_APP),
            environment={},
            ready_path="/",
        ),
        _install_rakaia,
    ),
    Peer(
        Contender(
            name="electric",
            durability="acknowledged after fdatasync of a shared write-ahead log, one for all that gathered (wal mode)",
            version=lambda: f"`cargo install durable-streams --version {ELECTRIC_VERSION} --locked` (Rust)",
            command=(
                str(ELECTRIC / "bin" / "durable-streams-server"),
                *("--port", "{port}", "--data-dir", "{folder}/streams", "--durability", "wal"),
            ),
            environment={},
            ready_path="/",
        ),
        _install_electric,
    ),
    Peer(
        Contender(
            name="caddy",
            durability="acknowledged after fsync and a transaction of its index, for each append",
            version=lambda: "`durable-streams-server run --config Caddyfile` with a data_dir (Go, a plugin of Caddy)",
            command=(
                *("sh", "-c", 'printf "%s" "$CADDYFILE" >"$0" && exec "$1" run --adapter caddyfile --config "$0"'),
                *("{folder}/Caddyfile", str(CADDY / "durable-streams-server")),
            ),
            environment={"CADDYFILE": _CADDYFILE},
            ready_path="/v1/stream/none",
        ),
        _install_caddy,
    ),
)


def available(peers: Sequence[Peer] = PEERS) -> tuple[tuple[Contender, ...], tuple[str, ...]]:
    """Those that can be run, and for each of the others a line that says why not."""
    there, lines = [], []
    for peer in peers:
        try:
            peer.install()
        except NotThere as reason:
            lines.append(f"{peer.contender.name}: not run: {reason}")
        else:
            there.append(peer.contender)
    return tuple(there), tuple(lines)
