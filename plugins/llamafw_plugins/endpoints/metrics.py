"""GET /metrics, for Prometheus: llama-server's series, and histograms of what requests waited for.

Formats: https://prometheus.io/docs/instrumenting/exposition_formats and OpenMetrics.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from llamafw import App, Call, EngineStats, Finish, GenerateRequest, NotSupported, Register, __version__, hookimpl

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)


class Metrics:
    """A plugin with state: what it has seen since the start. The operation `getMetrics`."""

    def __init__(self) -> None:
        self._app: App | None = None
        self._started = time.time()
        self._seen: dict[str, Any] = {}  # histograms by name

    @hookimpl
    def register_endpoints(self, register: Register, app: App) -> None:
        """Serve the operation."""
        self._app = app
        register("getMetrics", self.get)
        if app.settings.metrics:
            self._set_up()

    @hookimpl
    def request_finished(self, request: GenerateRequest, finish: Finish | None) -> None:
        """Note what a request waited for, and how much it was given."""
        if not self._seen or finish is None:
            return
        times = finish.timings
        self._seen["queue"].observe(times.queue_ms / 1e3)
        self._seen["e2e"].observe((times.queue_ms + times.prompt_ms + times.predicted_ms) / 1e3)
        self._seen["prompt"].observe(finish.n_prompt)
        self._seen["predicted"].observe(finish.n_predicted)
        if finish.n_predicted:
            self._seen["first"].observe((times.queue_ms + times.prompt_ms) / 1e3)
        if finish.n_predicted > 1:
            self._seen["each"].observe(times.predicted_ms / 1e3 / (finish.n_predicted - 1))

    def _set_up(self) -> None:
        from prometheus_client import CollectorRegistry, Histogram, Info

        self._registry = CollectorRegistry()
        self._registry.register(self)
        Info("llamafw_build", "What this server is", registry=self._registry).info({"version": __version__})
        for key, name, text, buckets in (
            ("queue", "queue_seconds", "Time that requests waited for a slot", SECONDS),
            ("first", "time_to_first_token_seconds", "Time from arrival to the first token", SECONDS),
            ("each", "time_per_output_token_seconds", "Time per token after the first", PER_TOKEN),
            ("e2e", "request_seconds", "Time from arrival to the last token", SECONDS),
            ("prompt", "request_prompt_tokens", "Tokens of prompts", TOKENS),
            ("predicted", "request_predicted_tokens", "Tokens of answers", TOKENS),
        ):
            self._seen[key] = Histogram(f"llamafw_{name}", text, buckets=buckets, registry=self._registry)

    async def get(self, call: Call) -> Response:
        """Return the metrics, as text or as OpenMetrics if that is asked for."""
        assert self._app is not None  # it has registered this
        if not self._app.settings.metrics:
            raise NotSupported("This server does not support metrics endpoint. Start it with `--metrics`")
        from prometheus_client.exposition import choose_encoder

        encode, kind = choose_encoder(call.http.headers.get("accept", ""))
        headers = {"Process-Start-Time-Unix": str(int(self._started)), "Content-Type": kind}
        return Response(encode(self._registry), headers=headers)

    def collect(self) -> Iterator[Metric]:
        """Yield the series that are counts of the engine; prometheus-client asks for them at every scrape."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        failures = CounterMetricFamily(
            "llamafw_plugin_failures", "Failures of plugins, by place", labels=("plugin", "place")
        )
        for names, n in self._app.failures.items() if self._app else ():
            failures.add_metric(names, n)
        yield failures
        stats = EngineStats() if self._app is None else self._app.loaded.engine.stats()
        for name, text, value in counters(stats):
            yield CounterMetricFamily(name, text, value)
        for name, text, value in gauges(stats):
            yield GaugeMetricFamily(name, text, value)


def counters(stats: EngineStats) -> Iterator[tuple[str, str, float]]:
    """Yield name, without ``_total``, help and value of what only grows."""
    yield "llamacpp:prompt_tokens", "Prompt tokens evaluated", stats.prompt_tokens
    yield "llamacpp:prompt_seconds", "Time spent on prompts", stats.prompt_seconds
    yield "llamacpp:prompt_tokens_cached", "Prompt tokens taken from a cache", stats.prompt_tokens_cached
    yield "llamacpp:tokens_predicted", "Tokens generated", stats.predicted_tokens
    yield "llamacpp:tokens_predicted_seconds", "Time spent on generating", stats.predicted_seconds
    yield "llamacpp:n_decode", "Forward passes", stats.n_decode
    yield "llamafw_requests_rejected", "Requests refused because too many were waiting", stats.requests_rejected


def gauges(stats: EngineStats) -> Iterator[tuple[str, str, float]]:
    """Yield name, help and value of the rest. Averages are since the start; of nothing they are 0."""
    yield "llamacpp:prompt_tokens_seconds", "Prompt tokens per second", per(stats.prompt_tokens, stats.prompt_seconds)
    yield (
        "llamacpp:predicted_tokens_seconds",
        "Tokens generated per second",
        per(stats.predicted_tokens, stats.predicted_seconds),
    )
    yield "llamacpp:n_busy_slots_per_decode", "Busy slots per forward pass", per(stats.n_busy_slots, stats.n_decode)
    yield "llamacpp:kv_cache_usage_ratio", "Part of the KV cache in use", per(stats.cache_tokens, stats.cache_size)
    yield "llamacpp:kv_cache_tokens", "Tokens in the KV cache", stats.cache_tokens
    yield "llamacpp:requests_processing", "Requests in a slot", stats.requests_processing
    yield "llamacpp:requests_deferred", "Requests waiting for one", stats.requests_deferred
    yield "llamafw_prompt_cache_bytes", "States of prompts kept in memory", stats.prompt_cache_bytes


def per(amount: float, whole: float) -> float:
    """Return ``amount`` per ``whole``; 0 of nothing."""
    return amount / whole if whole > 0 else 0.0
