"""
The metrics for `/metrics`. Counting is one addition in a dictionary. The Prometheus client is imported on first use.

Only the event loop's thread uses this module, so there are no locks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any


class Counter:
    """A number that only grows. Mutable state: `values`, the count of each combination of labels."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...] = ()) -> None:
        self.name = name
        self.text = text
        self.labels = labels
        self.values: dict[tuple[str, ...], float] = {} if labels else {(): 0}
        COUNTERS.append(self)

    def add(self, *labels: str, amount: float = 1) -> None:
        self.values[labels] = self.values.get(labels, 0) + amount


class Gauge:
    """A number that goes up and down. Mutable state: `value`."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.value: float = 0
        GAUGES.append(self)


class Histogram:
    """
    A distribution of values. Mutable state: `counts`, one for each of `bounds` (a value counts at the first bound that
    is not less) and one for larger values; `total`, the sum of all values.
    """

    def __init__(self, name: str, text: str, bounds: tuple[float, ...]) -> None:
        self.name = name
        self.text = text
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total: float = 0
        HISTOGRAMS.append(self)

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def observe_all(self, values: Sequence[float]) -> None:
        """Add many values in ascending order. This is fast because most fall between the same two bounds."""
        at = 0
        while at < len(values):
            index = bisect_left(self.bounds, values[at])
            end = len(values) if index == len(self.bounds) else bisect_right(values, self.bounds[index], at)
            self.counts[index] += end - at
            at = end
        self.total += sum(values)


COUNTERS: list[Counter] = []
GAUGES: list[Gauge] = []
HISTOGRAMS: list[Histogram] = []

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
WRITES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)

requests = Counter(
    "durable_chat_requests", "Finished requests, by kind of route, method and status.", ("routes", "method", "status")
)
responses_open = Gauge("durable_chat_responses_open", "Requests in progress, without SSE responses.")
live_reads = Gauge("durable_chat_live_reads", "Long-polls and SSE responses in progress.")
runs_active = Gauge("durable_chat_runs_active", "Turns that are being answered or wait in a queue.")

refused = Counter("durable_chat_refused", "Requests refused temporarily (429 and 503), by code.", ("code",))
connections = Gauge("durable_chat_connections", "Open connections.")
runs = Counter("durable_chat_runs", "Finished runs, by outcome.", ("outcome",))
recoveries = Counter("durable_chat_recoveries", "Runs of a dead process that another process or a restart has ended.")
resumes = Counter("durable_chat_resumes", "Runs of a dead process that went on, by how.", ("how",))
chunks_contained = Counter(
    "durable_chat_chunks_contained", "Chunks of a log that were skipped because folding failed. Each one is a bug."
)
writes_delayed = Counter("durable_chat_writes_delayed", "Times that a run waited because the store was overloaded.")

flush_writes = Histogram("durable_chat_flush_writes", "Writes in one flush of the store.", WRITES)
flush_seconds = Histogram("durable_chat_flush_seconds", "Seconds until a flush is durable.", SECONDS)
write_seconds = Histogram("durable_chat_write_seconds", "Seconds from accepting a write until it is durable.", SECONDS)
delivery_seconds = Histogram(
    "durable_chat_delivery_seconds", "Seconds from a durable batch until a live reader at the tail has it.", SECONDS
)
queue_writes = Gauge("durable_chat_queue_writes", "Writes that wait for the next flush.")
streams_cached = Gauge("durable_chat_streams_cached", "Streams whose state is in memory.")
stream_lookups = Counter(
    "durable_chat_stream_lookups",
    "Stream lookups, by whether the state was in memory (hit) or not (miss).",
    ("result",),
)
sessions_cached = Gauge("durable_chat_sessions_cached", "Sessions in memory, including those in use.")
sessions_cached_bytes = Gauge(
    "durable_chat_sessions_cached_bytes", "Bytes of log that the idle sessions in memory were built from."
)
session_lookups = Counter(
    "durable_chat_session_lookups",
    "Lookups of idle sessions, by whether the session was in memory (hit) or not (miss).",
    ("result",),
)
journal_bytes = Gauge("durable_chat_journal_bytes", "Bytes of the journal that a restart would read again.")
uncompacted_bytes = Gauge("durable_chat_uncompacted_bytes", "Bytes of messages in memory that are not compacted yet.")
database_bytes = Gauge("durable_chat_database_bytes", "The size of the database's files, in bytes.")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render() -> bytes:
    """Return all metrics in Prometheus' text format, including those of the process."""
    from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
    from prometheus_client.exposition import generate_latest

    registry = CollectorRegistry()
    registry.register(_Collector(_families))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return generate_latest(registry)


class _Collector:
    """A collector as the Prometheus client expects it."""

    def __init__(self, collect: Callable[[], Iterable[Any]]) -> None:
        self.collect = collect


def _families() -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    for counter in COUNTERS:
        family = CounterMetricFamily(counter.name, counter.text, labels=counter.labels)
        for labels, value in sorted(counter.values.items()):
            family.add_metric(labels, value)
        yield family
    for gauge in GAUGES:
        yield GaugeMetricFamily(gauge.name, gauge.text, gauge.value)
    for histogram in HISTOGRAMS:
        names = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
        buckets = list(zip(names, accumulate(histogram.counts), strict=True))
        yield HistogramMetricFamily(histogram.name, histogram.text, buckets, histogram.total)
