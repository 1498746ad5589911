"""The mount's counters in the Prometheus text format, in `.wbfs/metrics` and at a port."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wbfs.daemon.lineage.recorder import Recorder
from wbfs.daemon.session import Session
from wbfs.fs.under_way import UnderWay
from wbfs.model.errors import UsageError

log = logging.getLogger(__name__)

SILENCE_S = 10.0
"""Seconds in which who connects has to ask."""


class Metrics(Collector):
    """Reads the counters where they are kept, when it is asked."""

    def __init__(
        self,
        *,
        session: Session,
        requests: Mapping[str, int],
        under_way: UnderWay,
        recorder: Recorder,
    ) -> None:
        """Take what counts; `requests` are the kernel's, by operation."""
        self._session = session
        self._fetcher = session.fetcher
        self._gateway = session.resources.sources.gateway
        self._under_way = under_way
        self._recorder = recorder
        self._requests = requests
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self._registry)

    @contextmanager
    def served(self, address: str, port: int) -> Iterator[None]:
        """Tell all metrics to whoever asks at an address and a port.

        Raises UsageError where nobody can listen there.
        """
        try:
            server, thread = start_http_server(port, address, self._registry)
        except OSError as error:
            raise UsageError(
                f"can't listen at {address}, port {port}, for --metrics-port: {error}; name a port"
                " that is free, and with --metrics-address an address of this machine"
            ) from error
        # Who connects and says nothing is not waited for.
        setattr(server.RequestHandlerClass, "timeout", SILENCE_S)  # noqa: B010
        where, port = str(server.server_address[0]), server.server_address[1]
        host = f"[{where}]" if ":" in where else where
        log.info("metrics are at http://%s:%d/metrics", host, port)
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, as the registry wants it, in any thread."""
        requests = CounterMetricFamily("wbfs_requests", "Kernel requests", labels=["operation"])
        for operation, count in sorted(dict(self._requests).items()):
            requests.add_metric([operation], count)
        yield requests
        counters = self._fetcher.counters
        for name, text, value in (
            ("wbfs_fetched_bytes", "File bytes fetched", counters.fetched_bytes),
            ("wbfs_gateway_bytes", "Those that came by a gateway", self._gateway.bytes),
            ("wbfs_fetched_files", "Files fetched", counters.fetched_files),
            ("wbfs_failed_fetches", "Fetches that failed", counters.failed_fetches),
            (
                "wbfs_prefetched_files",
                "Files fetched ahead of their readers",
                counters.prefetched_files,
            ),
            ("wbfs_prefetched_bytes", "Bytes of them", counters.prefetched_bytes),
            ("wbfs_used_prefetched_bytes", "Bytes of those that were opened", counters.used_bytes),
            ("wbfs_wasted_bytes", "Bytes of those that were evicted first", counters.wasted_bytes),
            ("wbfs_served_bytes", "File bytes given to the kernel", counters.served_bytes),
            (
                "wbfs_from_memory_bytes",
                "Those of the cache that the kernel had in memory",
                counters.from_memory_bytes,
            ),
            ("wbfs_opened_files", "Files opened", counters.opened_files),
            ("wbfs_opened_here", "Those that were in the cache", counters.opened_here),
            ("wbfs_reads", "Reads answered", counters.reads),
            ("wbfs_waited_reads", "Reads that were not answered at once", counters.waited_reads),
            ("wbfs_waited_seconds", "Seconds that those took", counters.waited_s),
        ):
            yield CounterMetricFamily(name, text, value=value)
        lineage = self._recorder.report()
        for name, text in (
            ("recorded", "Versions recorded as inputs of runs"),
            ("failed", "Versions that could not be, for good"),
            ("dropped", "Opened files and readers that were too many to look at"),
        ):
            yield CounterMetricFamily(f"wbfs_lineage_{name}", text, value=lineage[name])
        yield GaugeMetricFamily(
            "wbfs_lineage_pending",
            "Versions that the server is yet to be told of",
            lineage["pending"],
        )
        for name, text, level in self._levels():
            if level is not None:
                yield GaugeMetricFamily(name, text, level)
        threads = GaugeMetricFamily("wbfs_busy_threads", "Threads at work", labels=["kind"])
        for kind, count in self._session.offload.busy().items():
            threads.add_metric([kind], count)
        yield threads

    def _levels(self) -> Iterator[tuple[str, str, float | None]]:
        """Yield what goes up and down; None for what isn't known, or has no limit."""
        room = self._session.room
        yield "wbfs_fetching_files", "Files being fetched", self._fetcher.fetching
        yield "wbfs_open_files", "Files that are open", self._under_way.open_files
        yield "wbfs_requests_under_way", "Kernel requests not answered yet", len(self._under_way)
        yield "wbfs_cache_bytes", "What the cache takes of its disk", room.used
        yield "wbfs_cache_limit_bytes", "What it may take", room.bounds.limit
        yield "wbfs_cache_troubled", "Whether nothing is cached now", bool(room.trouble)
        lost = self._session.names.outage is not None
        yield "wbfs_server_lost", "Whether the server does not answer", lost
        yield (
            "wbfs_gateway_left_alone",
            "Whether the gateway has failed and is not asked for now",
            bool(self._gateway.trouble),
        )
