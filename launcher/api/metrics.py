"""The metrics of one app, in its own Prometheus registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from launcher.engines.base import AsyncEngine

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of HTTP requests, the state of the engine, and ``more``, such as the metrics of Triton."""

    def __init__(self, engine: AsyncEngine, more: Callable[[], bytes] = bytes) -> None:
        self._more = more
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "launcher_requests", "HTTP requests answered", ("path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "launcher_request_seconds", "Seconds per HTTP request", ("path",), registry=self._registry, buckets=SECONDS
        )
        self._first = Histogram(
            "launcher_first_token_seconds", "Seconds to a first piece", registry=self._registry, buckets=SECONDS
        )
        self._tool_calls = Counter(
            "launcher_tool_calls",
            "Calls of tools in answers; unparsed ones look like calls, cannot be read, and stay content",
            ("outcome",),
            registry=self._registry,
        )
        for outcome in ("parsed", "unparsed"):
            self._tool_calls.labels(outcome)
        self._registry.register(EngineCollector(engine))

    def on_response(self, path: str, status: int, seconds: float) -> None:
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def tool_calls(self, parsed: int, unparsed: int) -> None:
        self._tool_calls.labels("parsed").inc(parsed)
        self._tool_calls.labels("unparsed").inc(unparsed)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format. ``more`` may block."""
        return generate_latest(self._registry) + self._more()


GAUGES = {
    "running": "Sequences that are being generated",
    "queued": "Sequences that wait for a slot",
    "kv_tokens_used": "Tokens in the KV cache",
    "kv_tokens_total": "Tokens that the KV cache can hold",
}
COUNTERS = {
    "prompt_tokens": "Prompt tokens received",
    "prompt_tokens_cached": "Prompt tokens found in the cache",
    "generated_tokens": "Tokens generated",
    "steps": "Forward passes",
}


class EngineCollector(Collector):
    """Reads `AsyncEngine.state` at each scrape."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        state = self._engine.state()
        yield GaugeMetricFamily("launcher_engine_up", "1 while the engine can answer", value=float(state.error is None))
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(f"launcher_engine_{name}", text, value=getattr(state, name))
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(f"launcher_engine_{name}", text, value=getattr(state, name))
