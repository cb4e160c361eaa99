"""The loads: what each does, in which sizes, and against whom."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks import appends, catchup, chat, creations, fanout, growth, hydration, idle, wrk
from benchmarks.measures import Measure, Target
from benchmarks.servers import CHAT, OURS, STREAMS, Contender

# What a server does in the background with 12 MB that were just written takes less.
CATCHUP_SETTLE_S = 3.0
SSE_PER_S = 50
CROWD_PER_S = 10
# What a server owes after this is told as missing; the reference would take minutes.
SSE_DRAIN_MAX_S = 10.0
GROWTH_CONNECTIONS = (1, 32)

FROM_POST = "from just before the POST to the reader, or from when it was due where the one before took longer"


@dataclass(frozen=True, slots=True)
class Kind:
    """
    A load in several sizes. `run` takes the target, the size, and for how many seconds to warm up and to measure.

    `baseline` is the server whose rate the others' are compared with, where rates tell. `sizes_max` names servers that
    are spared the larger sizes. `timed` says what the times are of; empty where there are none. `more` names the further
    figures of its measures. `prepare` fills a folder that servers begin with, which kinds of one `filling` share.
    `grows` is for one where each size is compared with the smallest. `program` is one that the load cannot do without.
    """

    name: str
    title: str
    size_title: str
    unit: str
    timed: str
    sizes: tuple[int, ...]
    run: Callable[[Target, int, float, float], Awaitable[Measure]]
    contenders: tuple[Contender, ...] = STREAMS
    baseline: str | None = "reference"
    sizes_max: Mapping[str, int] = field(default_factory=dict)
    more: tuple[str, ...] = ()
    prepare: Callable[[Path, int], Awaitable[None]] | None = None
    filling: str = ""
    grows: bool = False
    program: str = ""

    def cells(self) -> Iterator[tuple[Cell, Contender]]:
        """What is to be run, size by size."""
        for size in self.sizes:
            for contender in self.contenders:
                if size <= self.sizes_max.get(contender.name, size):
                    yield Cell(self.name, size, contender.name), contender


@dataclass(frozen=True, slots=True)
class Cell:
    kind: str
    size: int
    contender: str


_ORDINARY = (
    Kind(
        name="append",
        title=f"Appends, each durable when acknowledged ({appends.STREAM_COUNT} streams, "
        f"{appends.MESSAGE_BYTES} bytes of JSON)",
        size_title="connections",
        unit="appends/s",
        timed="from sending to the acknowledgement",
        sizes=(1, 8, 32, 128, 256),
        run=appends.run,
    ),
    Kind(
        name="append-wrk",
        title=f"The same appends by {wrk.PROGRAM}, a generator of others ({wrk.THREADS} thread)",
        size_title="connections",
        unit="appends/s",
        timed="as the generator says it",
        sizes=(1, 32, 256),
        run=wrk.run,
        program=wrk.PROGRAM,
    ),
    Kind(
        name="sse",
        title=f"SSE fan-out of one stream, {SSE_PER_S} events/s",
        size_title="subscribers",
        unit="deliveries/s",
        timed=FROM_POST,
        sizes=(100, 1000, 3000),
        run=partial(fanout.run, per_s=SSE_PER_S, drain_max_s=SSE_DRAIN_MAX_S),
        # It is a minute behind after a second of 1,000.
        sizes_max={"reference": 1000},
        more=(fanout.CUT_OFF,),
    ),
    Kind(
        name="sse-crowd",
        title=f"SSE fan-out of one stream, {CROWD_PER_S} events/s",
        size_title="subscribers",
        unit="deliveries/s",
        timed=FROM_POST,
        sizes=(3000,),
        run=partial(fanout.run, per_s=CROWD_PER_S, drain_max_s=SSE_DRAIN_MAX_S),
        contenders=(OURS,),
        baseline=None,
        more=(fanout.CUT_OFF,),
    ),
    Kind(
        name="catchup",
        title="Catch-up of one stream by one reader (raw, warm)",
        size_title="messages",
        unit="MB/s",
        timed="for the whole stream",
        sizes=(100_000,),
        run=partial(catchup.run, settle_s=CATCHUP_SETTLE_S),
    ),
    Kind(
        name="chat",
        title=f"Chat: sessions answered at once, {chat.PER_S} chunks/s each, {chat.READERS} SSE readers each",
        size_title="sessions",
        unit="deliveries/s",
        timed="from a chunk's leaving the model to a reader's socket",
        sizes=(1, 50, 150, 200, 250),
        run=chat.run,
        contenders=CHAT,
        # Both give what the models give, until they do not.
        baseline=None,
        # It ends by itself at 200.
        sizes_max={"upstream": 50},
        more=(chat.LOGGED,),
    ),
    Kind(
        name="chat-overload",
        title=f"Chat beyond that, {chat.PER_S} chunks/s each, {chat.READERS} SSE readers each: deltas may be joined "
        "into chunks, which is another load",
        size_title="sessions",
        unit="deliveries/s",
        timed="from a delta's leaving the model to a reader's socket",
        sizes=(750,),
        run=partial(chat.run, chunks_share_min=0.0),
        contenders=CHAT[:1],
        baseline=None,
        more=(chat.LOGGED,),
    ),
)

_MORE = (
    Kind(
        name="streams",
        title=f"Streams, each created and given one message ({creations.CONNECTIONS} connections)",
        size_title="streams",
        unit="streams/s",
        timed="of a creation",
        sizes=(100_000,),
        run=creations.run,
        more=(creations.BEFORE, creations.AFTER, creations.PEAK),
    ),
    Kind(
        name="idle",
        title=f"Memory of idle SSE readers of the protocol route, {idle.PER_STREAM} of each stream",
        size_title="readers",
        unit="KiB/reader",
        timed="",
        sizes=(1000,),
        run=idle.of_streams,
        baseline=None,
    ),
    Kind(
        name="idle-chat",
        title=f"Memory of idle SSE readers of the chat route, {idle.PER_STREAM} of each session",
        size_title="readers",
        unit="KiB/reader",
        timed="",
        sizes=(1000,),
        run=idle.of_sessions,
        contenders=CHAT,
        baseline=None,
    ),
    Kind(
        name="chat-durable",
        title=f"Chat: sessions answered at once, {chat.PER_S} chunks/s each, one SSE reader of each session",
        size_title="sessions",
        unit="deliveries/s",
        timed="from a chunk's leaving the model to a reader's socket",
        sizes=(200,),
        run=partial(chat.run, readers_each=1),
        contenders=(CHAT[0],),
        baseline=None,
        more=(chat.LOGGED,),
    ),
    Kind(
        name="chat-request",
        title="The same, each answer read from the response to its own request (`RunAgentInput` to `/api/chat`)",
        size_title="sessions",
        unit="deliveries/s",
        timed="from a chunk's leaving the model to a reader's socket",
        sizes=(200,),
        run=partial(chat.run, is_scoped=True),
        contenders=(CHAT[0],),
        baseline=None,
        more=(chat.LOGGED,),
    ),
    Kind(
        name="hydrate",
        title=f"Hydration: /api/chat-snapshot of a session of 100 messages, {hydration.REQUESTS:,} times",
        size_title="chunks",
        unit="requests/s",
        timed="of a request; the first one, of a server that was just started, by itself",
        sizes=(100_000,),
        run=hydration.hydrate,
        contenders=(OURS,),
        baseline=None,
        more=(hydration.FIRST, hydration.SIZE),
        prepare=hydration.prepare,
        filling="session",
    ),
    Kind(
        name="open",
        title=f"Opening a session of 100 messages, {hydration.OPENED_CHARS:,} characters an answer: the catch-up read of "
        "the stock client (of the reference: its raw chunks)",
        size_title="chunks an answer",
        unit="opens/s",
        timed="of an open; the first one by itself",
        sizes=(10, 100, 1000),
        run=hydration.open_session,
        more=(hydration.FIRST, hydration.SIZE),
        grows=True,
    ),
    Kind(
        name="sse-flood",
        title="SSE fan-out of one stream (one writer, as fast as acknowledged)",
        size_title="subscribers",
        unit="deliveries/s",
        timed="from just before the POST to the reader",
        sizes=(1, 100, 1000),
        run=fanout.run,
        more=(fanout.CUT_OFF,),
    ),
)


def _growing(connections: int) -> Iterator[Kind]:
    over = f"{connections} connection" + ("s" if connections > 1 else "")
    grown = partial(
        Kind,
        unit="appends/s",
        timed="from sending to the acknowledgement",
        sizes=(0, 1_000_000),
        contenders=(OURS,),
        baseline=None,
        more=(growth.READY, growth.RESIDENT),
        grows=True,
    )
    yield grown(
        name=f"growth-messages-{connections}",
        title=f"Appends to one stream, which holds so many messages already ({over})",
        size_title="messages",
        run=partial(growth.to_one, connections=connections),
        prepare=growth.fill_messages,
        filling="messages",
    )
    yield grown(
        name=f"growth-streams-{connections}",
        title=f"Appends to {appends.STREAM_COUNT} streams of a database that holds so many already ({over})",
        size_title="streams",
        run=partial(growth.to_some, connections=connections),
        prepare=growth.fill_streams,
        filling="streams",
    )


_GROWTH = tuple(kind for connections in GROWTH_CONNECTIONS for kind in _growing(connections))

KINDS = {kind.name: kind for kind in (*_ORDINARY, *_MORE, *_GROWTH)}

SERIES = {
    "ordinary": tuple(kind.name for kind in _ORDINARY),
    "more": tuple(kind.name for kind in _MORE),
    "growth": tuple(kind.name for kind in _GROWTH),
    "peers": ("append", "append-wrk", "sse", "catchup"),
}
"""What is run together, by the name of the section it has in docs/explanation/benchmarks.md."""

QUICK_SIZES: Mapping[str, tuple[int, ...]] = {
    "append": (1, 32, 256),
    "append-wrk": (32,),
    "sse": (100, 1000),
    "sse-crowd": (1000,),
    "catchup": (20_000,),
    "chat": (1, 50),
    "chat-overload": (200,),
    "streams": (3_000,),
    "idle": (200,),
    "idle-chat": (200,),
    "chat-durable": (50,),
    "chat-request": (50,),
    "hydrate": (50_000,),
    "open": (10, 100),
    **dict.fromkeys(SERIES["growth"], (0, 20000)),
}
