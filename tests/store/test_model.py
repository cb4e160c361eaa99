"""The store against a plain list: they agree after any sequence of operations, also after restarts."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from durable_chat.errors import Conflict, DurableChatError, Gone, NotFound, StreamClosed
from durable_chat.protocol.offsets import ZERO, decode_offset
from durable_chat.protocol.requests import Append, Create, Fork, Producer
from durable_chat.store.sqlite.backend import SqliteBackend
from durable_chat.store.streams import Streams
from tests.store.making import create_soon, json_append, json_create

PATHS = st.sampled_from(["a", "b", "c", "d/e"])


class Model:
    """One stream as a list of messages."""

    def __init__(self, messages: list[bytes], source: Model | None = None) -> None:
        self.messages = messages
        self.closed = False
        self.deleted = False
        self.source = source
        self.forks = 0
        self.producers: dict[str, tuple[int, int]] = {}


class StoreMachine(RuleBasedStateMachine):
    """Mutable state: the store under test, the model of each path, and the number of messages made."""

    appended = Bundle("appended")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.path = str(Path(self.folder.name) / "a.db")
        self.models: dict[str, Model] = {}
        self.made = 0

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    @initialize()
    def open(self) -> None:
        self.backend = SqliteBackend(self.path)
        self.streams = Streams(self.backend)
        self.run(self.streams.open())

    def teardown(self) -> None:
        self.run(self.streams.close())
        self.runner.close()
        self.folder.cleanup()

    def attempt(self, coroutine: Any) -> DurableChatError | None:
        try:
            self.run(coroutine)
        except DurableChatError as error:
            return error
        return None

    @rule(path=PATHS, soon=st.booleans())
    def create(self, path: str, soon: bool) -> None:
        request = json_create()
        error = self.attempt(create_soon(self.streams, path, request) if soon else self.streams.create(path, request))
        model = self.models.get(path)
        if model is None:
            assert error is None
            self.models[path] = Model([])
        else:
            fits = not model.deleted and not model.closed and model.source is None
            assert isinstance(error, Conflict) is not fits

    @rule(path=PATHS, source=PATHS, share=st.floats(0, 1))
    def fork(self, path: str, source: str, share: float) -> None:
        origin, taken = self.models.get(source), self.models.get(path)
        position = round(len(origin.messages) * share) if origin else 0
        if taken is not None:
            return
        offset = self.run(self.offset(source, position)) if origin is not None and not origin.deleted else ZERO
        error = self.attempt(self.streams.create(path, Create(fork=Fork(source, offset))))
        if origin is None:
            assert isinstance(error, NotFound)
        elif origin.deleted:
            assert isinstance(error, Conflict)
        else:
            assert error is None
            origin.forks += 1
            self.models[path] = Model(origin.messages[:position], origin)

    @rule(path=PATHS, count=st.integers(1, 5), close=st.booleans())
    def append(self, path: str, count: int, close: bool) -> None:
        messages = [b"%d" % (self.made + n) for n in range(count)]
        self.made += count
        model = self.models.get(path)
        error = self.attempt(self.streams.append(path, json_append(*messages, close=close and self.made % 7 == 0)))
        if model is None:
            assert isinstance(error, NotFound)
        elif model.deleted:
            assert isinstance(error, Gone)
        elif model.closed:
            assert isinstance(error, StreamClosed)
        else:
            assert error is None
            model.messages += messages
            model.closed = close and self.made % 7 == 0

    @rule(path=PATHS, name=st.sampled_from("pq"), epoch=st.integers(0, 2), seq=st.integers(0, 3))
    def produce(self, path: str, name: str, epoch: int, seq: int) -> None:
        model = self.models.get(path)
        if model is None or model.deleted or model.closed:
            return
        known = model.producers.get(name)
        message = b"%d" % self.made
        self.made += 1
        error = self.attempt(self.streams.append(path, json_append(message, producer=Producer(name, epoch, seq))))
        if known is None or epoch > known[0]:
            accepted = seq == 0
        else:
            accepted = epoch == known[0] and seq == known[1] + 1
        duplicate = known is not None and epoch == known[0] and seq <= known[1]
        assert (error is None) is (accepted or duplicate)
        if accepted:
            model.messages.append(message)
            model.producers[name] = (epoch, seq)

    @rule(path=PATHS)
    def close(self, path: str) -> None:
        model = self.models.get(path)
        error = self.attempt(self.streams.append(path, Append(close=True)))
        assert (error is None) is (model is not None and not model.deleted)
        if model is not None and not model.deleted:
            model.closed = True

    @rule(path=PATHS)
    def delete(self, path: str) -> None:
        model = self.models.get(path)
        error = self.attempt(self.streams.delete(path))
        assert (error is None) is (model is not None and not model.deleted)
        if model is None or model.deleted:
            return
        if model.forks:
            model.deleted = True
        else:
            self.remove(path)

    def remove(self, path: str) -> None:
        source = self.models.pop(path).source
        while source is not None:
            source.forks -= 1
            if not source.deleted or source.forks:
                return
            name = next(name for name, model in self.models.items() if model is source)
            source = self.models.pop(name).source

    @rule(paths=st.none() | st.sets(PATHS), step_bytes=st.sampled_from([1, 1 << 20]))
    def compact(self, paths: set[str] | None, step_bytes: int) -> None:
        """Compact all streams or some. The journal then keeps what the others need, and a restart reads it again."""
        self.backend.compaction.step_bytes_max = step_bytes
        self.run(self.backend.compact(paths))

    @rule()
    def restart(self) -> None:
        self.run(self.streams.close())
        self.open()

    @invariant()
    def the_streams_are_the_lists(self) -> None:
        for path, model in self.models.items():
            if model.deleted:
                assert isinstance(self.attempt(self.streams.head(path)), Gone)
            else:
                assert self.run(self.contents(path, 0)) == model.messages
                half = len(model.messages) // 2
                assert self.run(self.contents(path, half)) == model.messages[half:]
                assert self.run(self.streams.head(path)).closed is model.closed

    async def offset(self, path: str, position: int) -> str:
        """Take the offset from a response, because a fork's offsets are those of its source."""
        at = ZERO
        async with await self.streams.read(path, ZERO) as reader:
            while position:
                batch = await reader.next()
                whole, at = decode_offset(batch.next_offset)[1], batch.next_offset
                if whole >= position:
                    break
        entry = self.streams._entries.held(path)  # noqa: SLF001 - nobody else gives out each position
        assert entry is not None and entry.durable is not None
        assert entry.durable.offset(decode_offset(at)[1]) == at
        return entry.durable.offset(position)

    async def contents(self, path: str, position: int) -> list[bytes]:
        async with await self.streams.read(path, await self.offset(path, position)) as reader:
            data = (await reader.next()).data
        return data.split(b",") if data else []


StoreMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestStore = StoreMachine.TestCase
