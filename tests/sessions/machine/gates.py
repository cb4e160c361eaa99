"""The test's end of the gates: who is held where, let go one by one, and what the model was asked, over all restarts."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

Event = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A run that waits at a gate."""

    session_id: str
    run_id: str
    at: str
    connection: socket.socket


class Gates:
    """
    Mutable state, guarded by `changed`, which is notified of every change: `asked`, all questions to the model; those
    held; the sessions that are `free`, whose runs are held nowhere.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self.changed = changed
        self.asked: list[Event] = []
        self.free: set[str] = set()
        self._held: list[Held] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="gates", daemon=True).start()

    def at(self, session_id: str, run_id: str) -> str | None:
        """Where a run is held."""
        with self.changed:
            return next(
                (held.at for held in self._held if (held.session_id, held.run_id) == (session_id, run_id)), None
            )

    def release(self, session_id: str, run_id: str) -> None:
        """Let a run go on from where it is held."""
        with self.changed:
            held = next(held for held in self._held if (held.session_id, held.run_id) == (session_id, run_id))
            self._let_go(held)

    def release_all(self, session_id: str) -> None:
        """Let the session's runs go on, and hold none of them any more."""
        with self.changed:
            self.free.add(session_id)
            for held in [held for held in self._held if held.session_id == session_id]:
                self._let_go(held)

    def forget(self) -> None:
        """The process that was held is gone."""
        with self.changed:
            for held in self._held:
                held.connection.close()
            self._held.clear()

    def close(self) -> None:
        self._listener.close()
        self.forget()

    def _let_go(self, held: Held) -> None:
        self._held.remove(held)
        with suppress(OSError):
            held.connection.sendall(b"go\n")

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError), connection.makefile("rb") as lines:
            line = lines.readline()
            if not line.endswith(b"\n"):
                return
            event = json.loads(line)
            if event["event"] == "asked" or event["session"] in self.free:
                with self.changed:
                    if event["event"] == "asked":
                        self.asked.append(event)
                    self.changed.notify_all()
                connection.sendall(b"go\n")
                return
            self._hold(Held(event["session"], event["run"], event["at"], connection), lines)

    def _hold(self, held: Held, lines: Any) -> None:
        """Until it has been let go, or was cancelled."""
        with self.changed:
            self._held.append(held)
            if held.session_id in self.free:
                self._let_go(held)
            self.changed.notify_all()
        with suppress(OSError):
            lines.readline()
        with self.changed:
            if held in self._held:
                self._held.remove(held)
