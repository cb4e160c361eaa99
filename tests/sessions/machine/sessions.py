"""One session under test: its book, its tabs, and what may be done to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any

import httpx

from tests.sessions.machine.books import Answer, Ask, Book, Run
from tests.sessions.machine.readers import Reader
from tests.sessions.machine.worlds import QUEUE_MAX, World
from tests.transcripts.logs import Chunks, fold

Messages = list[dict[str, Any]]


def message_of(user: tuple[str, str]) -> dict[str, Any]:
    return {"id": user[0], "role": "user", "parts": [{"type": "text", "content": user[1]}]}


def folded(chunks: Chunks) -> Messages:
    """
    What a person sees after these chunks and a snapshot of them: upon a snapshot clients put an answer that is only
    thinking into the answer right after it.
    """
    messages = fold(chunks)
    return plain(fold([{"type": "MESSAGES_SNAPSHOT", "messages": messages}]) if messages else [])


def plain(messages: Messages) -> Messages:
    """What a person sees of messages."""
    return [{key: message[key] for key in ("id", "role", "parts")} for message in json.loads(json.dumps(messages))]


class Session:
    """Mutable state: the book; `watcher`, which was there from the start; further tabs; how much of it was looked at."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.id = world.new_session()
        self.book = Book(self.id)
        self.numbers = count(1)
        self.readers: list[Reader] = []
        self.watcher = self.open("-1")
        self._events = 0

    # Tabs.

    def open(self, start: str, messages: Messages | None = None) -> Reader:
        reader = Reader(self.world.process.port, self.world.changed, self.id, start, messages)
        self.readers.append(reader)
        return reader

    def close_readers(self) -> None:
        for reader in self.readers:
            reader.close()
        self.readers.clear()

    # Facts.

    def settle(self) -> None:
        """Until nothing moves by itself: the active run is held at a gate, or nothing runs; what came of it is right."""
        self.world.wait_for(self._is_settled, f"{self.id} settles: {self.book.line}")
        events = [event for event in self.world.gates.asked[self._events :] if event["session"] == self.id]
        self._events = len(self.world.gates.asked)
        self.book.check_asked(events)

    def _is_settled(self) -> bool:
        self.book.read(self.watcher.seen[len(self.book.chunks) :])
        active = self.book.active
        if active is None or active.stopped:  # the next one begins by itself, and who is stopped ends
            return not self.book.line and not self.book.owes
        return self.world.gates.at(self.id, active.id) is not None

    def check(self) -> None:
        """What must hold while nothing moves."""
        snapshot = self.world.snapshot(self.id)
        active = self.book.active
        assert snapshot["activeRun"] == (None if active is None else {"runId": active.id})
        assert self.world.compacted(self.id) == (snapshot["messages"], snapshot["offset"])
        log, rest = self._log_and_rest(snapshot["offset"])
        assert log[: len(self.book.chunks)] == self.book.chunks, "the log is not what was seen of it"
        hydrated = [{"type": "MESSAGES_SNAPSHOT", "messages": snapshot["messages"]}] if snapshot["messages"] else []
        assert plain(snapshot["messages"]) == plain(fold(log[: len(log) - len(rest)])), "a snapshot that is not the log"
        assert folded([*hydrated, *rest]) == folded(log), "a reload in the middle shows something else"
        for reader in self.readers:
            self.check_reader(reader)
        if active is None:
            self._check_idle(snapshot, log)

    def _log_and_rest(self, offset: str) -> tuple[Chunks, Chunks]:
        """All of the log, and what is after an offset, at one moment."""
        while True:
            rest = self.world.log(self.id, offset)
            log = self.world.log(self.id)
            if rest == self.world.log(self.id, offset):
                return log, rest

    def check_reader(self, reader: Reader) -> None:
        """What it was ever shown is in the log, in this order."""
        if reader.start is None:
            return
        with self.world.changed:
            seen, torn = list(reader.seen), [*reader.was_torn, (len(reader.seen), list(reader.torn))]
        log = self.world.log(self.id, reader.start)
        assert log[: len(seen)] == seen, "what a tab was shown is gone"
        for at, chunks in torn:
            assert log[at : at + len(chunks)] == chunks, "what a tab was shown last is gone"

    def _check_idle(self, snapshot: dict[str, Any], log: Chunks) -> None:
        self.book.check_ended()
        assert self.book.chunks == log
        for reader in self.readers:
            if reader.start is None or reader.away:
                continue
            wanted = self.world.log(self.id, reader.start)
            self.world.wait_for(partial(_has, reader, len(wanted)), "a tab catches up")
            assert reader.seen == wanted
            if reader.folds:
                assert folded([*reader.hydrated, *reader.seen]) == folded(log), "a tab shows something else"

    def finish(self) -> None:
        """Let everything run to its end, bring all tabs back, and look at all of it."""
        self.world.gates.release_all(self.id)
        for reader in self.readers:
            reader.come_back()
        self.settle()
        assert not self.book.line
        self.check()

    # What is done.

    def say(
        self, user: tuple[str, str], key: str | None = None, *, whole: bool = False, turns: str | None = None
    ) -> None:
        """A message of the user, new or known, as a tab posts it: alone, or with all the tab has before it."""
        before: Messages = []
        if whole:
            before = self.world.snapshot(self.id)["messages"] or self.book.stale
            before = [message for message in before if message["id"] != user[0]]
        history = tuple((m["id"], m["parts"][0]["content"]) for m in before if m["role"] == "user")
        self.send(Ask(user, history=history), [*before, message_of(user)], key, turns)

    def send(self, ask: Ask, messages: Messages, key: str | None = None, turns: str | None = None) -> None:
        """Sent while nothing moves, so that it is known what becomes of it, up to a late answer's run."""
        same, full = self.book.same(ask, key), len(self.book.line) > QUEUE_MAX
        in_line = {run.id for run in self.book.line}
        answer = self.world.post(self.id, messages, key, turns)
        if same is None and full and answer.status_code == 429:
            assert int(answer.headers["retry-after"]) > 0
            return
        assert answer.status_code == 202, answer.text
        run_id = answer.headers["x-run-id"]
        if same is not None:
            assert run_id == same, f"another run for the same request: {run_id}, not {same}, {key}"
        elif ask.user is not None:
            assert not full, "the queue has no bound"
            assert run_id not in self.book.runs, "the run of another request"
        else:
            assert run_id in in_line or run_id not in self.book.runs, "an answer to a run that has ended"
        self.book.accept(run_id, ask, key, next(self.numbers), steers=turns == "steer")
        self.settle()

    def take_back(self, run: Run) -> None:
        assert run.ask.user is not None
        self.book.take_back(run)
        assert self.world.take_back(self.id, run.ask.user[0]) == [run.id]
        assert self.world.take_back(self.id, run.ask.user[0]) == [], "taken back twice"
        self.settle()

    def send_now(self, run: Run, turns: str) -> None:
        assert run.ask.user is not None
        self.book.advance(run)
        if turns == "steer":
            self.book.steer(run)
        elif (active := self.book.active) is not None:
            self.book.stop([active])
        assert self.world.send_now(self.id, run.ask.user[0], turns) == run.id
        self.settle()

    def send_at_once(self, asks: Sequence[tuple[Ask, Messages, str | None]]) -> None:
        """From several tabs; whose turn comes first is not known."""
        room = QUEUE_MAX + 1 - len(self.book.line)
        with ThreadPoolExecutor(len(asks)) as tabs:
            answers = list(tabs.map(lambda sent: self.world.post(self.id, sent[1], sent[2]), asks))
        group = next(self.numbers)
        runs = {answer.headers["x-run-id"] for answer in answers if answer.status_code == 202}
        new = runs - self.book.runs.keys()
        assert {answer.status_code for answer in answers} <= {202, 429}
        assert len(new) <= room, "the queue has no bound"
        assert len(new) == room or all(answer.status_code == 202 for answer in answers), "refused without a need"
        by_user: dict[str, str] = {}
        for (ask, _, key), answer in zip(asks, answers, strict=True):
            if answer.status_code == 202:
                run_id = answer.headers["x-run-id"]
                if ask.user is not None:
                    assert by_user.setdefault(ask.user[0], run_id) == run_id, "two runs for one request"
                self.book.accept(run_id, ask, key, group)
        self.settle()

    def stop(self, run: Run | None) -> None:
        wanted = [one for one in self.book.line if run in (None, one)]
        self.book.stop(wanted)
        stopped = self.world.stop(self.id, None if run is None else run.id)
        assert sorted(stopped) == sorted(one.id for one in wanted)
        if run is None and wanted:
            log = self.world.log(self.id)
            ended = {chunk["runId"] for chunk in log if chunk["type"] == "RUN_FINISHED"}
            assert {one.id for one in wanted} <= ended, "stopped, and not ended"
        self.settle()

    def delete(self) -> None:
        for reader in self.readers:
            self.check_reader(reader)
        self.close_readers()
        assert self.world.client.delete("/api/chat", params={"id": self.id}).status_code == 204
        assert self.world.snapshot(self.id)["messages"] == []
        assert self.world.log(self.id) == []
        self.book.delete()
        self.watcher = self.open("-1")

    def answer(self, answers: dict[str, Answer]) -> tuple[Ask, Messages]:
        """Answers to calls as a tab posts them that shows these."""
        by_message: dict[str, Messages] = {}
        for call_id, given in answers.items():
            by_message.setdefault(self.book.calls[call_id].message_id, []).extend(parts_of(call_id, given))
        rows = [{"id": message_id, "role": "assistant", "parts": parts} for message_id, parts in by_message.items()]
        ask = Ask(answers={call_id: (given,) for call_id, given in answers.items()})
        return ask, [message_of(self.book.users[-1]), *rows]


def parts_of(call_id: str, answer: Answer) -> Messages:
    call = {"type": "tool-call", "id": call_id, "arguments": '{"hang":false}'}
    if isinstance(answer, bool):
        approval = {"id": f"approval_{call_id}", "needsApproval": True, "approved": answer}
        return [{**call, "name": "save", "state": "approval-responded", "approval": approval}]
    result = {"type": "tool-result", "toolCallId": call_id, "content": answer, "state": "complete"}
    return [{**call, "name": "locate", "state": "complete", "output": answer}, result]


def _has(reader: Reader, chunks: int) -> bool:
    return len(reader.seen) >= chunks


def refused_or_taken(send: Callable[[], httpx.Response]) -> httpx.Response | None:
    """The answer, when one came before the server was gone."""
    try:
        return send()
    except httpx.TransportError:
        return None
