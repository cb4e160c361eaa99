"""
What is counted, for `/metrics`. Counting is an addition in a dictionary; the Prometheus client is imported when asked.

Everything here is touched from the event loop's thread only, so there are no locks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any


class Counter:
    """Mutable state: `values`, how often each combination of labels was counted."""

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


COUNTERS: list[Counter] = []
GAUGES: list[Gauge] = []

requests = Counter(
    "durable_chat_requests", "Requests answered, by kind of route, method and status.", ("routes", "method", "status")
)
responses_open = Gauge("durable_chat_responses_open", "Requests being answered now, live reads included.")
live_reads = Gauge("durable_chat_live_reads", "Long-polls and SSE responses that are being served now.")
runs_active = Gauge("durable_chat_runs_active", "Turns that are being answered or wait for it.")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render() -> bytes:
    """Everything in Prometheus' text format, the process's own figures included."""
    from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
    from prometheus_client.exposition import generate_latest

    registry = CollectorRegistry()
    registry.register(_Collector(_families))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return generate_latest(registry)


class _Collector:
    """Prometheus' form of a source of figures."""

    def __init__(self, collect: Callable[[], Iterable[Any]]) -> None:
        self.collect = collect


def _families() -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for counter in COUNTERS:
        family = CounterMetricFamily(counter.name, counter.text, labels=counter.labels)
        for labels, value in sorted(counter.values.items()):
            family.add_metric(labels, value)
        yield family
    for gauge in GAUGES:
        yield GaugeMetricFamily(gauge.name, gauge.text, gauge.value)
