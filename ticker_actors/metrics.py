"""What is measured, for `GET /metrics`. Every number here is observed where it happens."""

from collections.abc import Callable, Iterable
from functools import cache

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ticker_actors.instruments import Counters, Histograms

_FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds: from one commit on a good disk to the longest wait a client may ask for."""
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


class _DepthCollector(Collector):
    """Mailbox depths, read when somebody asks: nothing is paid on the way of a message."""

    def __init__(self, depths: Callable[[], Iterable[tuple[str, int]]]) -> None:
        self._depths = depths

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "ticker_mailbox_messages", "Messages waiting in an actor's mailbox", labels=["mailbox"]
        )
        for name, depth in self._depths():
            family.add_metric([name], depth)
        yield family


class Metrics:
    """All metrics of one service, in a registry of its own; called by their labels."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        GCCollector(registry=registry)
        PlatformCollector(registry=registry)
        ProcessCollector(registry=registry)
        self.tasks = Counters(
            "ticker_tasks", "Finished tasks", ["operation", "status", "reason"], registry
        )
        self.denied = Counters(
            "ticker_orders_denied",
            "Orders refused by our own risk checks",
            ["account_id"],
            registry,
        )
        self.stage = Histograms(
            "ticker_stage_seconds",
            "Seconds of one stage: a commit (waiting included), a broker call, a read of the "
            "order book, a task from submission to its first send and to its end",
            ["stage"],
            _FAST,
            registry,
        )
        self.broker_calls = Counters(
            "ticker_broker_calls",
            "Calls to a broker and what they proved",
            ["account_id", "call", "outcome"],
            registry,
        )
        self.commit_changes = Histograms(
            "ticker_commit_changes", "Changes in one durable transaction", [], _COUNTS, registry
        )()
        self.commit_seconds = Histograms(
            "ticker_commit_seconds", "Seconds of one durable transaction", [], _FAST, registry
        )()
        self.events = Counters("ticker_events", "Events committed to the log", ["event"], registry)
        self.stream_connections = cache(
            Gauge(
                "ticker_stream_connections", "Open order streams", ["account_id"], registry=registry
            ).labels
        )
        self.stream_messages = Counters(
            "ticker_stream_messages",
            "Events given to stream clients as they were published",
            [],
            registry,
        )()
        self.stream_resumes = Counters(
            "ticker_stream_starts",
            "Streams that went live: fresh, resumed without a loss, or after a gap",
            ["status"],
            registry,
        )
        self.stream_replayed = Counters(
            "ticker_stream_replayed",
            "Events sent again from the log to clients that resumed",
            [],
            registry,
        )()
        self.stream_dropped = Counters(
            "ticker_stream_clients_dropped",
            "Stream clients closed because they did not keep up",
            [],
            registry,
        )()
        self.deliveries = Counters(
            "ticker_webhook_attempts",
            "Webhook requests on the wire",
            ["event", "result"],
            registry,
        )
        self.delivery_seconds = Histograms(
            "ticker_webhook_attempt_seconds", "Seconds of one webhook request", [], _FAST, registry
        )()
        self.pruned = Counters(
            "ticker_pruned_rows",
            "Rows deleted because they were beyond the retention",
            ["table"],
            registry,
        )
        self.http = Histograms(
            "ticker_http_request_seconds",
            "Seconds of one HTTP request, waits asked for included",
            ["method", "route", "status"],
            _FAST,
            registry,
        )

    def watch_mailboxes(self, depths: Callable[[], Iterable[tuple[str, int]]]) -> None:
        """Report the depths of these mailboxes whenever metrics are read."""
        self.registry.register(_DepthCollector(depths))

    def render(self) -> bytes:
        """The Prometheus text."""
        return generate_latest(self.registry)
