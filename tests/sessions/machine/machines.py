"""The state machine: anything may be done to two sessions of one server, in any order, and the server may die of it."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.sessions.machine.books import Ask, Run
from tests.sessions.machine.readers import Reader
from tests.sessions.machine.sessions import Session, message_of, refused_or_taken
from tests.sessions.machine.worlds import World

READERS_MAX = 4
LIVES_MAX = 3
"""Of the server in one example: a start takes longer than anything else."""
PLANS = (
    *("text hold text", "think hold text hold text", "text", "text look", "args-look", "text hang-look"),
    *("save", "text hang-save", "locate", "save locate", "save save", "ask hold text", "ask ask hold"),
    *("text hold fail", "fail", "hold fail", "hold", ""),
)
HELD = ("hold", "text hold text", "think hold text", "ask hold", "args-look text", "hang-look")
plans = st.sampled_from(PLANS)
which = st.integers(0, 7)


def answerable(session: Session) -> list[str]:
    """Calls of people and of clients, answered before or not; those that wait come last, where most picks fall."""
    calls = [(call.open, call_id) for call_id, call in session.book.calls.items() if call.name in ("save", "locate")]
    return [call_id for _, call_id in sorted(calls)]


def cut_off(session: Session) -> list[Reader]:
    return [reader for reader in session.readers if reader.away]


def connected(session: Session) -> list[Reader]:
    return [reader for reader in session.readers if reader is not session.watcher and not reader.away]


def waiting_messages(session: Session) -> list[Run]:
    """New ones: an edit of a message that is there is known by that message."""
    known = [message_id for message_id, _ in session.book.users]
    waiting = [run for run in session.book.line if not run.started and not run.stopped and session.book.active]
    return [run for run in waiting if run.ask.user is not None and run.ask.user[0] not in known]


def messages_in_line(session: Session) -> list[Run]:
    return [run for run in session.book.line if run.ask.user is not None]


Found = Callable[[Session], Any]


def needs(found: Found, *, life: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    A rule for a session that has something of it, and perhaps one that costs a life; else another thing is done. No
    precondition: what is drawn may not depend on what the server has made of it.
    """

    def decorate(act: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(act)
        def carry_out(machine: SessionMachine, **drawn: Any) -> None:
            if any(map(found, machine.sessions)) and not (life and machine.lives >= LIVES_MAX):
                act(machine, **drawn)
            else:
                machine.do_another_thing()

        return carry_out

    return decorate


def pick_of(found: Sequence[Any], pick: int) -> Any:
    """The last ones are picked most."""
    return found[-1 - pick % len(found)]


class SessionMachine(RuleBasedStateMachine):
    """
    Mutable state: the sessions of this example, and how often the server was started in it. The server is that of all examples, and so are the numbers of messages
    and keys, so that nothing comes twice.
    """

    world: ClassVar[World]
    numbers: ClassVar[int] = 0
    sessions: list[Session]

    def __init__(self) -> None:
        super().__init__()
        self.sessions = []
        self.lives = 1

    @initialize(before=st.lists(plans, max_size=3))
    def begin(self, before: list[str]) -> None:
        """Two sessions, one of them with something in it."""
        if not self.world.process.alive:  # an example has failed
            self.world.start()
        self.lives = 1
        self.sessions = [Session(self.world) for _ in range(2)]
        for plan in before:
            self.sessions[0].say(self._new(plan))
            self.wait_until_idle(at=0)

    def teardown(self) -> None:
        try:
            for session in self.sessions if sys.exc_info()[0] is None else ():  # else something has failed already
                session.finish()
        finally:
            for session in self.sessions:
                self.world.gates.release_all(session.id)
                session.close_readers()

    @invariant()
    def holds(self) -> None:
        for session in self.sessions:
            session.check()

    def _session(self, at: int, found: Found = lambda _session: True) -> Session:
        """One that has something of it; mostly the first, so that more happens to one of them."""
        having = [session for session in self.sessions if found(session)]
        return having[0 if at < 6 else -1]

    def do_another_thing(self) -> None:
        """What runs goes on, or something begins."""
        session = self.sessions[0]
        if session.book.active is not None:
            self.world.gates.release(session.id, session.book.active.id)
            session.settle()
        else:
            session.say(self._new("think hold text"))

    def _new(self, plan: str) -> tuple[str, str]:
        type(self).numbers += 1
        return f"u{self.numbers}", f"{self.numbers} {plan}"

    def _key(self) -> str:
        type(self).numbers += 1
        return f"k{self.numbers}"

    # Turns.

    @rule(at=which, plan=plans, keyed=st.booleans(), whole=st.booleans())
    def new_message(self, at: int, plan: str, keyed: bool, whole: bool) -> None:
        self._session(at).say(self._new(plan), self._key() if keyed else None, whole=whole)

    @rule(at=which, plan=st.sampled_from(HELD))
    def long_message(self, at: int, plan: str) -> None:
        """One that is held: something happens in the middle of it."""
        self._session(at).say(self._new(plan))

    @rule(at=which, plan=plans)
    @needs(lambda session: session.book.active)
    def steer(self, at: int, plan: str) -> None:
        """A message that the running answer hears, if it takes a further step."""
        self._session(at, lambda session: session.book.active).say(self._new(plan), turns="steer")

    @rule(at=which, pick=which)
    @needs(waiting_messages)
    def take_back(self, at: int, pick: int) -> None:
        session = self._session(at, waiting_messages)
        session.take_back(pick_of(waiting_messages(session), pick))

    @rule(at=which, pick=which, turns=st.sampled_from(["steer", "interrupt"]))
    @needs(waiting_messages)
    def send_now(self, at: int, pick: int, turns: str) -> None:
        session = self._session(at, waiting_messages)
        session.send_now(pick_of(waiting_messages(session), pick), turns)

    @rule(at=which, pick=which, new_key=st.booleans(), edited=st.booleans())
    @needs(messages_in_line)
    def repeat_what_runs(self, at: int, pick: int, new_key: bool, edited: bool) -> None:
        """Without a key, or with one of its own; also with other words: it is the same request as long as it runs."""
        session = self._session(at, messages_in_line)
        user = pick_of(messages_in_line(session), pick).ask.user
        said = (user[0], f"{user[1]} text") if edited else user
        session.say(said, self._key() if new_key else None)

    @rule(at=which, pick=which, plan=plans)
    @needs(lambda session: session.book.keys)
    def repeat_a_key(self, at: int, pick: int, plan: str) -> None:
        """Whatever the body says: it is the run of the key, ended or not."""
        session = self._session(at, lambda session: session.book.keys)
        session.say(self._new(plan), pick_of(list(session.book.keys), pick))

    @rule(at=which, pick=which, plan=plans, edited=st.booleans(), keyed=st.booleans(), whole=st.booleans())
    @needs(lambda session: session.book.users)
    def say_again(self, at: int, pick: int, plan: str, edited: bool, keyed: bool, whole: bool) -> None:
        """A message there is, the last one or an older one, the same or edited; while others run, too."""
        session = self._session(at, lambda session: session.book.users)
        message_id, text = pick_of(session.book.users, pick)
        said = (message_id, f"{text.split()[0]} {plan}" if edited else text)
        session.say(said, self._key() if keyed else None, whole=whole)

    @rule(at=which, several=st.lists(st.sampled_from(HELD), min_size=2, max_size=4), same=st.booleans())
    def several_at_once(self, at: int, several: list[str], same: bool) -> None:
        """From several tabs; one of them sends twice."""
        users = [self._new(plan) for plan in several]
        sent: list[tuple[Ask, list[dict[str, Any]], str | None]] = [
            (Ask(user), [message_of(user)], self._key()) for user in users
        ]
        sent.append(sent[0] if same else (sent[0][0], sent[0][1], self._key()))
        self._session(at).send_at_once(sent)

    @rule(pick=which, plan=plans)
    def one_key_in_two_sessions(self, pick: int, plan: str) -> None:
        key = self._key()
        for session in self.sessions:
            session.say(self._new(plan), key)

    # Answers.

    @rule(at=which, pick=which, yes=st.booleans(), both=st.booleans(), keyed=st.booleans())
    @needs(answerable)
    def answer(self, at: int, pick: int, yes: bool, both: bool, keyed: bool) -> None:
        """The first time or again; two calls of a message together, or one of them."""
        session = self._session(at, answerable)
        calls = answerable(session)
        chosen = [pick_of(calls, pick), *(calls if both else ())]
        answers = {call_id: self._word(session, call_id, yes) for call_id in chosen}
        session.send(*session.answer(answers), self._key() if keyed else None)

    @rule(at=which, pick=which)
    @needs(answerable)
    def two_tabs_answer_at_once(self, at: int, pick: int) -> None:
        """Different things to one call: one of them counts."""
        session = self._session(at, answerable)
        call_id = pick_of(answerable(session), pick)
        words = [self._word(session, call_id, yes) for yes in (True, False)]
        either = Ask(answers={call_id: tuple(words)})
        session.send_at_once([(either, session.answer({call_id: word})[1], None) for word in words])

    def _word(self, session: Session, call_id: str, yes: bool) -> bool | str:
        return yes if session.book.calls[call_id].name == "save" else self._key()

    # Ends.

    @rule(at=which)
    @needs(lambda session: session.book.active)
    def go_on(self, at: int) -> None:
        """What is held goes on to the next gate, or to its end."""
        session = self._session(at, lambda session: session.book.active)
        assert session.book.active is not None
        self.world.gates.release(session.id, session.book.active.id)
        session.settle()

    @rule(at=which)
    @needs(lambda session: session.book.active)
    def wait_until_idle(self, at: int) -> None:
        session = self._session(at)
        while (active := session.book.active) is not None:
            self.world.gates.release(session.id, active.id)
            session.settle()

    @rule(at=which, pick=which, all_of_them=st.booleans())
    def stop(self, at: int, pick: int, all_of_them: bool) -> None:
        session = self._session(at)
        line: list[Run | None] = [None] if all_of_them or not session.book.line else [*session.book.line]
        session.stop(line[pick % len(line)])

    @rule(at=which)
    @needs(lambda session: session.book.chunks)
    def delete(self, at: int) -> None:
        self._session(at).delete()

    # Tabs.

    @rule(at=which, how=st.sampled_from(["beginning", "snapshot", "reload", "now"]))
    def open_a_tab(self, at: int, how: str) -> None:
        session = self._session(at)
        if len(session.readers) >= READERS_MAX:
            session.readers.pop().close()
        if how == "beginning" or how == "now":
            session.open("-1" if how == "beginning" else "now")
        elif how == "snapshot":
            found = self.world.snapshot(session.id)
            session.open(found["offset"], found["messages"])
        else:
            messages, offset = self.world.compacted(session.id)
            session.open(offset, messages)

    @rule(at=which, pick=which)
    @needs(connected)
    def cut_a_tab(self, at: int, pick: int) -> None:
        pick_of(connected(self._session(at, connected)), pick).cut()

    @rule(at=which, pick=which)
    @needs(cut_off)
    def bring_a_tab_back(self, at: int, pick: int) -> None:
        pick_of(cut_off(self._session(at, cut_off)), pick).come_back()

    # Lives of the server.

    @rule()
    @needs(lambda session: session.book.line, life=True)
    def kill(self) -> None:
        self.world.kill()
        self._die()
        self._live_again()

    @rule(at=which, plan=plans, keyed=st.booleans())
    @needs(lambda _session: True, life=True)
    def kill_a_sender(self, at: int, plan: str, keyed: bool) -> None:
        """In the middle of a request, which is sent again: with a key it is carried out once."""
        session, user, key = self._session(at), self._new(plan), self._key() if keyed else None
        if len(session.book.line) > 1:
            return
        answer = self._post_and(self.world.kill, session, user, key)
        self._die()
        session.book.maybe = Ask(user)
        if answer is not None and answer.status_code == 202:
            session.book.adopt(answer.headers["x-run-id"])
        self._live_again()
        session.book.maybe = None
        taken = next((run for run in session.book.runs.values() if run.ask.user == user), None)
        if key is not None and taken is not None:
            session.book.keys[key] = taken.id
        session.say(user, key)

    def _post_and(
        self, act: Callable[[], None], session: Session, user: tuple[str, str], key: str | None
    ) -> httpx.Response | None:
        found: list[httpx.Response | None] = []

        def send() -> None:
            found.append(refused_or_taken(lambda: self.world.post(session.id, [message_of(user)], key)))

        sender = threading.Thread(target=send)
        sender.start()
        act()
        sender.join()
        return found[0]

    @rule(free=st.booleans())
    @needs(lambda session: session.book.line, life=True)
    def deploy(self, free: bool) -> None:
        """The process is told to end: what is held is interrupted when its time is over; what goes on may end by itself."""
        for session in self.sessions:
            session.book.drain(free=free)
            if free:
                self.world.gates.release_all(session.id)
        self.world.terminate()
        for session in self.sessions:
            self.world.gates.free.discard(session.id)
        self._live_again()

    def _die(self) -> None:
        for session in self.sessions:
            session.book.die()

    def _live_again(self) -> None:
        self.lives += 1
        self.world.start()
        for session in self.sessions:
            session.settle()
            assert not session.book.line
