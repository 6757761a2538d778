"""GET /metrics, for Prometheus: llama-server's series, and histograms of the times and sizes of requests.

The formats are Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats) and OpenMetrics.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from llamafw import App, Call, EngineStats, Finish, GenerateRequest, NotSupported, Register, __version__, hookimpl

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

# upper bounds of the buckets of histograms
REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)

HISTOGRAMS = (  # key, name, help text, buckets
    ("queue", "queue_seconds", "Time that requests waited for a slot", REQUEST_SECONDS),
    ("first_token", "time_to_first_token_seconds", "Time from arrival to the first token", REQUEST_SECONDS),
    ("per_token", "time_per_output_token_seconds", "Time per token after the first", TOKEN_SECONDS),
    ("request", "request_seconds", "Time from arrival to the last token", REQUEST_SECONDS),
    ("prompt", "request_prompt_tokens", "Prompt tokens of a request", TOKENS),
    ("predicted", "request_predicted_tokens", "Generated tokens of a request", TOKENS),
)


class Metrics:
    """The plugin and its operation `getMetrics`.

    Its numbers are those since the start.
    """

    def __init__(self) -> None:
        self._app: App | None = None
        self._started = time.time()
        self._histograms: dict[str, Any] = {}  # empty without `--metrics`

    @hookimpl
    def register_endpoints(self, register: Register, app: App) -> None:
        """Register the operation."""
        self._app = app
        register("getMetrics", self.get)
        if app.settings.metrics:
            self._create_registry()

    @hookimpl
    def request_finished(self, request: GenerateRequest, finish: Finish | None) -> None:
        """Add the times and sizes of a finished request to the histograms."""
        if not self._histograms or finish is None:
            return

        times = finish.timings
        self._histograms["queue"].observe(times.queue_ms / 1e3)
        self._histograms["priority_queue"].labels(str(request.sender.priority)).observe(times.queue_ms / 1e3)
        self._histograms["request"].observe((times.queue_ms + times.prompt_ms + times.predicted_ms) / 1e3)
        self._histograms["prompt"].observe(finish.n_prompt)
        self._histograms["predicted"].observe(finish.n_predicted)
        if finish.n_predicted:
            self._histograms["first_token"].observe((times.queue_ms + times.prompt_ms) / 1e3)
        if finish.n_predicted > 1:
            self._histograms["per_token"].observe(times.predicted_ms / 1e3 / (finish.n_predicted - 1))

    def _create_registry(self) -> None:
        from prometheus_client import CollectorRegistry, Histogram, Info

        self._registry = CollectorRegistry()
        self._registry.register(self)
        Info("llamafw_build", "Version of the server", registry=self._registry).info({"version": __version__})
        for key, name, text, buckets in HISTOGRAMS:
            self._histograms[key] = Histogram(f"llamafw_{name}", text, buckets=buckets, registry=self._registry)
        name, text = "llamafw_priority_queue_seconds", "Time that requests waited for a slot, by priority"
        histogram = Histogram(name, text, ("priority",), buckets=REQUEST_SECONDS, registry=self._registry)
        self._histograms["priority_queue"] = histogram

    async def get(self, call: Call) -> Response:
        """Return the metrics as text, or as OpenMetrics if the header Accept asks for it."""
        assert self._app is not None  # `register_endpoints`, which registers this endpoint, sets it
        if not self._app.settings.metrics:
            raise NotSupported("This server does not support metrics endpoint. Start it with `--metrics`")
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(call.http.headers.get("accept", ""))
        headers = {"Process-Start-Time-Unix": str(int(self._started)), "Content-Type": content_type}
        return Response(encode(self._registry), headers=headers)

    def collect(self) -> Iterator[Metric]:
        """Yield the series that come from the engines and the plugins. prometheus-client calls this at every scrape.

        Those of models beside the first one have the label ``model``.
        """
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        failures = CounterMetricFamily("llamafw_plugin_failures", "Failures of plugins", labels=("plugin", "place"))
        for labels, n in self._app.failures.items() if self._app else ():
            failures.add_metric(labels, n)
        yield failures

        models = () if self._app is None else self._app.loaded.all
        stats = models[0].engine.stats() if models else EngineStats()
        slow = CounterMetricFamily("llamafw_slow_tokens", "Tokens for which one part was slow", labels=("kind", "name"))
        for labels, n in stats.slow_tokens.items():
            slow.add_metric(labels, n)
        yield slow

        yield from by_priority(stats)
        name = "llamacpp:spec_decode_num_accepted_tokens_per_pos"
        by_position = CounterMetricFamily(name, "Tokens of drafts drawn, by their position", labels=("position",))
        for position, n_accepted in enumerate(stats.draft_accepted):
            by_position.add_metric((str(position),), n_accepted)
        yield by_position

        others = [({"model": model.name}, model.engine.stats()) for model in models[1:]]
        counters_of_others = [(label, {name: n for name, _, n in counters(of_model)}) for label, of_model in others]
        for name, text, value in counters(stats):
            counter = CounterMetricFamily(name, text, value)
            for label, values in counters_of_others:
                if name in values:
                    counter.add_sample(f"{name}_total", label, values[name])
            yield counter
        gauges_of_others = [(label, {name: value for name, _, value in gauges(of_model)}) for label, of_model in others]
        for name, text, value in gauges(stats):
            gauge = GaugeMetricFamily(name, text, value)
            for label, values in gauges_of_others:
                if name in values:
                    gauge.add_sample(name, label, values[name])
            yield gauge


def by_priority(stats: EngineStats) -> Iterator[Metric]:
    """Yield the series that have the label ``priority``, for the priorities that requests have had."""
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    labels = ("priority",)
    text = "Requests waiting for a slot, by priority"
    waiting = GaugeMetricFamily("llamafw_requests_waiting", text, labels=labels)
    text = "Requests refused because too many were waiting, by priority"
    rejected = CounterMetricFamily("llamafw_priority_requests_rejected", text, labels=labels)
    text = "Interruptions of requests by more urgent ones, by priority of the interrupted request"
    preemptions = CounterMetricFamily("llamafw_preemptions", text, labels=labels)
    for priority, of_priority in stats.by_priority.items():
        waiting.add_metric((str(priority),), of_priority.waiting)
        rejected.add_metric((str(priority),), of_priority.rejected)
        preemptions.add_metric((str(priority),), of_priority.preemptions)
    yield waiting
    yield rejected
    yield preemptions


def counters(stats: EngineStats) -> Iterator[tuple[str, str, float]]:
    """Yield the name without ``_total``, the help text and the value of each counter."""
    yield "llamacpp:prompt_tokens", "Prompt tokens evaluated", stats.prompt_tokens
    yield "llamacpp:prompt_seconds", "Time spent on prompts", stats.prompt_seconds
    yield "llamacpp:prompt_tokens_cached", "Prompt tokens taken from a cache", stats.prompt_tokens_cached
    yield "llamacpp:tokens_predicted", "Tokens generated", stats.predicted_tokens
    yield "llamacpp:tokens_predicted_seconds", "Time spent on generation", stats.predicted_seconds
    yield "llamacpp:n_decode", "Forward passes", stats.n_decode
    yield "llamacpp:spec_decode_num_drafts", "Drafts evaluated", stats.drafts
    yield "llamacpp:spec_decode_num_draft_tokens", "Tokens of drafts evaluated", stats.draft_tokens
    yield "llamacpp:spec_decode_num_accepted_tokens", "Tokens of drafts drawn", sum(stats.draft_accepted)
    yield "llamafw_embeddings", "Texts embedded or reranked", stats.embeddings
    yield "llamafw_embedding_tokens", "Tokens of texts that were embedded or reranked", stats.embedding_tokens
    yield "llamafw_requests_rejected", "Requests refused because too many were waiting", stats.requests_rejected
    if (disk := stats.disk_cache) is not None:
        yield "llamafw_disk_cache_reads", "Prompt states read from the folder of --cache-disk", disk.n_reads
        yield "llamafw_disk_cache_writes", "Prompt states written to the folder of --cache-disk", disk.n_writes
        yield "llamafw_disk_cache_failures", "Prompt states that could not be read or written", disk.n_failures


def gauges(stats: EngineStats) -> Iterator[tuple[str, str, float]]:
    """Yield the name, the help text and the value of each gauge.

    Averages are since the start.
    """
    yield (
        "llamacpp:prompt_tokens_seconds",
        "Prompt tokens per second",
        ratio(stats.prompt_tokens, stats.prompt_seconds),
    )
    yield (
        "llamacpp:predicted_tokens_seconds",
        "Tokens generated per second",
        ratio(stats.timed_tokens, stats.predicted_seconds),
    )
    yield "llamacpp:n_busy_slots_per_decode", "Busy slots per forward pass", ratio(stats.n_busy_slots, stats.n_decode)
    yield "llamacpp:kv_cache_usage_ratio", "Share of the KV cache in use", ratio(stats.cache_tokens, stats.cache_size)
    yield "llamacpp:kv_cache_tokens", "Tokens in the KV cache", stats.cache_tokens
    yield "llamacpp:requests_processing", "Requests in a slot", stats.requests_processing
    yield "llamacpp:requests_deferred", "Requests waiting for a slot", stats.requests_deferred
    if (pages := stats.cache_pages) is not None:
        size = f"of {pages.n_positions} tokens in the KV cache"
        yield "llamafw_kv_pages", f"Pages {size}", pages.n_total
        yield "llamafw_kv_pages_used", f"Pages {size} that slots use; a shared page counts once", pages.n_used
        yield "llamafw_kv_pages_shared", f"Pages {size} that several slots use", pages.n_shared
        yield "llamafw_kv_pages_touched", f"Pages {size} that were ever used, and take memory", pages.n_touched
    yield "llamafw_sleeping", "1 if the model has left the memory until the next request, otherwise 0", stats.sleeping
    yield "llamafw_prompt_cache_bytes", "Bytes of prompt states kept in memory", stats.prompt_cache_bytes
    if (disk := stats.disk_cache) is not None:
        yield "llamafw_disk_cache_states", "Prompt states of this model in the folder of --cache-disk", disk.n_states
        yield "llamafw_disk_cache_bytes", "Bytes of prompt states of this model in that folder", disk.n_bytes


def ratio(amount: float, total: float) -> float:
    """Return ``amount / total``, or 0 if the total is 0."""
    return amount / total if total > 0 else 0.0
