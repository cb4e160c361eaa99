"""
The turns that wait for the answer before them: which of them a running answer hears, taking one back, and sending one
now.
"""

from __future__ import annotations

from collections.abc import Mapping

from durable_chat.sessions.running.idempotency import Requests
from durable_chat.sessions.running.run import Run
from durable_chat.sessions.sessions import Sessions


class WaitingTurns:
    """
    The unfinished runs of each session, in turn order. Mutable state: `_runs`, which the caller adds to and removes
    from.
    """

    def __init__(self, runs: Mapping[str, list[Run]], sessions: Sessions, requests: Requests) -> None:
        self._runs = runs
        self._sessions = sessions
        self._requests = requests

    def unfinished(self, session_id: str) -> list[Run]:
        """Return the session's unfinished runs. The first is being written; the others wait."""
        return list(self._runs.get(session_id, ()))

    def heir(self, run: Run) -> Run | None:
        """
        Return the next run whose message the model of this one hears, or None. It becomes the next turn and cannot be
        taken back any more.

        Only a new message can be heard: an edit or a regeneration changes what the model was given. The model goes on
        with the key of its own sender, so a sender with another key gets a turn of their own.
        """
        with self._sessions.hold(run.session_id) as session:
            for other in self.unfinished(run.session_id):
                new = other.user_id is not None and other.user_id not in session.transcript and not other.answers
                if new and other.steers and other.waits and not other.closing and other.api_key == run.api_key:
                    self._advance(other)
                    other.waits = False
                    return other
        return None

    def _advance(self, run: Run) -> None:
        """Make a waiting run the next one."""
        runs = self._runs[run.session_id]
        runs.remove(run)
        runs.insert(1, run)
        with self._sessions.hold(run.session_id) as session:
            session.line.advance(run.ticket)
