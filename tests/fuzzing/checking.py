"""Check that a session is usable: every read works, it answers a turn completely, and deleting removes it."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

from tests.fuzzing.requests import SECRET, Request, escape, stream_target, token_for
from tests.fuzzing.wire import Answer, Lost, Wire

ZERO = "0000000000000000_0000000000000000"
READS_MAX = 10_000
"""Of one log: a reader that is sent back so often does not get on."""


class Unusable(Exception):
    """A session fails a check."""


@dataclass
class Checker:
    """A checker of one server's sessions. Mutable state: how many it has checked, and why it skipped some."""

    wire: Wire
    guarded: bool
    checked: int = 0
    excused: dict[str, int] = field(default_factory=dict)
    _numbers: Any = field(default_factory=itertools.count)

    async def check(self, session_id: str, *, delete: bool) -> None:
        """Raise Unusable if a check fails. With `delete`, delete the session and check once more."""
        self.checked += 1
        excuse = await self._excuse(session_id)
        if excuse is not None:
            self.excused[excuse] = self.excused.get(excuse, 0) + 1
        if excuse != "not_a_session" and excuse != "gone":
            await self._read(session_id)
        if excuse is None:
            await self._turn(session_id)
        if delete or (excuse is not None and excuse != "gone"):
            self._expect(await self._api("DELETE", "/api/chat", session_id), "DELETE", 204)
        if delete and excuse != "gone" and await self._excuse(session_id) != "gone":
            await self._turn(session_id)

    async def _excuse(self, session_id: str) -> str | None:
        """
        Return a reason to skip the session: a holder of the secret may close its stream, change its type, or fork and
        delete it.
        """
        answer = await self._ask("HEAD", f"/v1/stream/{stream_target(session_id)}", SECRET if self.guarded else None)
        if answer.status == 410:
            return "gone"
        if answer.status == 200 and not answer.headers["content-type"].lower().startswith("application/json"):
            return "not_a_session"
        if answer.status == 200 and answer.headers.get("stream-closed") == "true":
            return "closed"
        if answer.status not in (200, 404, 400):  # 400: a session whose name is too long for a stream's path
            self._expect(answer, "HEAD", 200)
        return None

    async def _read(self, session_id: str) -> None:
        snapshot = self._expect(await self._api("GET", "/api/chat-snapshot", session_id), "snapshot", 200)
        if not isinstance(_json(snapshot, "snapshot")["messages"], list):
            raise Unusable("the snapshot has no messages")
        caught_up = self._expect(await self._api("GET", "/api/chat-stream", session_id), "catch-up", 200)
        if not isinstance(_json(caught_up, "catch-up"), list):
            raise Unusable("the catch-up is no list")
        await self._log(session_id, ZERO)

    async def _log(self, session_id: str, offset: str) -> list[Any]:
        found: list[Any] = []
        for _ in range(READS_MAX):
            answer = await self._api("GET", "/api/chat-stream", session_id, offset=offset)
            found += _json(self._expect(answer, f"log from {offset}", 200), "log")
            offset = answer.headers["stream-next-offset"]
            if "stream-up-to-date" in answer.headers:
                return found
        raise Unusable(f"the log did not end in {READS_MAX} reads")

    async def _turn(self, session_id: str) -> None:
        message = {"id": f"check-{next(self._numbers)}", "role": "user", "content": "Is anybody there?"}
        body = json.dumps({"messages": [message]}).encode()
        answer = await self._api("POST", "/api/chat", session_id, body, mode="await")
        self._expect(answer, "a new turn", 200)
        run_id = answer.headers["x-run-id"]
        chunks = await self._log(session_id, answer.headers["stream-next-offset"])
        ends = [chunk["type"] for chunk in chunks if isinstance(chunk, dict) and chunk.get("runId") == run_id]
        if ends[-1:] != ["RUN_FINISHED"]:
            raise Unusable(f"a new turn did not end in RUN_FINISHED, but {ends}")

    async def _api(self, method: str, path: str, session_id: str, body: bytes = b"", **query: str) -> Answer:
        token = token_for(session_id) if self.guarded else None
        more = "".join(f"&{name}={value}" for name, value in query.items())
        return await self._ask(method, f"{path}?id={escape(session_id)}{more}", token, body)

    async def _ask(self, method: str, target: str, bearer: str | None, body: bytes = b"") -> Answer:
        headers = [("Content-Type", "application/json")] if body else []
        if bearer is not None:
            headers.append(("Authorization", f"Bearer {bearer}"))
        try:
            return await self.wire.ask(Request(-1, "check", method, target, tuple(headers), body))
        except Lost as error:
            raise Unusable(f"{method} {target}: {error}") from error

    def _expect(self, answer: Answer, what: str, status: int) -> Answer:
        if answer.status != status:
            raise Unusable(f"{what} answered {answer.status} {answer.body[:200]!r}")
        return answer


def _json(answer: Answer, what: str) -> Any:
    try:
        return json.loads(answer.body, parse_int=_whole)
    except ValueError as error:
        raise Unusable(f"{what} is no JSON") from error
    except RecursionError:  # the nesting is deeper than Python's parser allows
        return {"messages": []} if what == "snapshot" else []


def _whole(digits: str) -> float:
    """Parse without a limit on digits. JSON has none, and Python's own parser has one."""
    return float(digits)
