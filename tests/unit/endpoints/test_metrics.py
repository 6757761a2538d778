"""GET /metrics, read by prometheus-client's own parsers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from llamafw import CachePages, DiskCacheStats, EngineStats, PriorityStats
from llamafw.plugins import Plugins
from llamafw_plugins.endpoints.metrics import by_priority, counters, gauges
from unit.endpoints.conftest import Open

COUNTERS = ("prompt_tokens", "prompt_seconds", "tokens_predicted", "tokens_predicted_seconds", "n_decode")
GAUGES = (
    "n_busy_slots_per_decode",
    "prompt_tokens_seconds",
    "predicted_tokens_seconds",
    "kv_cache_usage_ratio",
    "kv_cache_tokens",
    "requests_processing",
    "requests_deferred",
)


async def scrape(client: httpx.AsyncClient) -> dict[str, Any]:
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert int(response.headers["process-start-time-unix"]) > 1_600_000_000
    return {family.name: family for family in read_text(response.text)}


@pytest.mark.inventory("E-200", "E-201", "E-202", "E-203", "E-204", "D-24", "C-115", "R-14", "B-07")
async def test_metrics_need_a_flag(opened: Open) -> None:
    async with opened() as client:
        assert (await client.get("/metrics")).status_code == 501


@pytest.mark.inventory("E-200", "E-201", "E-202", "E-203", "E-204", "D-24", "C-115", "R-14", "B-07")
async def test_series_have_their_types_and_values(opened: Open) -> None:
    async with opened(metrics=True) as client:
        before = await scrape(client)
        for _ in range(2):
            await client.post("/completion", json={"prompt": "abc", "n_predict": 4, "temperature": 0})
        after = await scrape(client)
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        openmetrics = await client.get("/metrics", headers=accept)
        assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
        names = {family.name for family in read_openmetrics(openmetrics.text)}  # type: ignore[no-untyped-call]  # prometheus_client has no type there
        assert names >= {f"llamacpp:{name}" for name in COUNTERS}

    assert {before[f"llamacpp:{name}"].type for name in COUNTERS} == {"counter"}
    assert {before[f"llamacpp:{name}"].type for name in GAUGES} == {"gauge"}
    assert {before[f"llamacpp:{name}"].samples[0].value for name in (*COUNTERS, *GAUGES)} == {0}  # not NaN, not inf

    def value(name: str) -> float:
        return float(after[f"llamacpp:{name}"].samples[0].value)

    assert (value("prompt_tokens"), value("tokens_predicted"), value("n_decode")) == (4, 8, 8)
    assert (value("kv_cache_tokens"), value("kv_cache_usage_ratio")) == (6, 6 / 128)
    assert value("n_busy_slots_per_decode") == 1
    assert value("predicted_tokens_seconds") == pytest.approx(6 / value("tokens_predicted_seconds"))


@pytest.mark.inventory("O-03")
async def test_histograms_observe_requests(opened: Open) -> None:
    plugins = Plugins()  # others have counted the requests of other tests
    async with opened(metrics=True, plugins=plugins) as client:
        for n in (1, 3):
            await client.post("/completion", json={"prompt": "abc", "n_predict": n, "temperature": 0})
        families = await scrape(client)

    def count(name: str) -> float:
        return float(
            next(sample.value for sample in families[f"llamafw_{name}"].samples if sample.name.endswith("_count"))
        )

    assert count("queue_seconds") == count("request_seconds") == count("time_to_first_token_seconds") == 2
    assert count("time_per_output_token_seconds") == 1  # not for the answer of one token
    predicted = families["llamafw_request_predicted_tokens"].samples
    assert next(sample.value for sample in predicted if sample.name.endswith("_sum")) == 4


def test_gauges_are_averages() -> None:
    stats = EngineStats(prompt_tokens=10, prompt_seconds=2.0, n_decode=4, n_busy_slots=6, cache_tokens=1, cache_size=4)
    values = {name: value for name, _, value in (*counters(stats), *gauges(stats))}
    assert values["llamacpp:prompt_tokens_seconds"] == 5
    assert values["llamacpp:n_busy_slots_per_decode"] == 1.5
    assert values["llamacpp:kv_cache_usage_ratio"] == 0.25


def test_pages_are_reported_if_slots_share_memory() -> None:
    pages = CachePages(n_positions=64, n_used=5, n_shared=2, n_touched=7, n_total=100)
    values = {name: value for name, _, value in gauges(EngineStats(cache_pages=pages))}
    names = ("", "_used", "_shared", "_touched")
    assert [values[f"llamafw_kv_pages{name}"] for name in names] == [100, 5, 2, 7]
    assert not any("pages" in name for name, _, _ in gauges(EngineStats()))


def test_disk_cache_is_reported_if_there_is_one() -> None:
    stats = EngineStats(
        disk_cache=DiskCacheStats(n_states=3, n_bytes=99, limit=1000, n_reads=5, n_writes=6, n_failures=7)
    )
    values = {name: value for name, _, value in (*counters(stats), *gauges(stats))}
    names = ("states", "bytes", "reads", "writes", "failures")
    assert [values[f"llamafw_disk_cache_{name}"] for name in names] == [3, 99, 5, 6, 7]
    assert not any("disk" in name for name, _, _ in (*counters(EngineStats()), *gauges(EngineStats())))


async def test_series_by_priority(opened: Open) -> None:
    async with opened(metrics=True, plugins=Plugins()) as client:
        for priority in (-2, 7, 7):
            await client.post("/completion", json={"prompt": "a", "n_predict": 1, "priority": priority})
        families = await scrape(client)
    queue = families["llamafw_priority_queue_seconds"].samples
    counts = {sample.labels["priority"]: sample.value for sample in queue if sample.name.endswith("_count")}
    assert counts == {"-2": 1, "7": 2}
    waiting = {sample.labels["priority"]: sample.value for sample in families["llamafw_requests_waiting"].samples}
    assert waiting == {"-2": 0, "0": 0, "7": 0}


def test_waiting_and_refused_requests_are_reported_by_priority() -> None:
    stats = EngineStats(
        by_priority={0: PriorityStats(waiting=3, rejected=4, preemptions=5), 5: PriorityStats(waiting=1)}
    )
    values = {
        (sample.name, sample.labels["priority"]): sample.value
        for family in by_priority(stats)
        for sample in family.samples
    }
    assert values == {
        ("llamafw_requests_waiting", "0"): 3,
        ("llamafw_requests_waiting", "5"): 1,
        ("llamafw_priority_requests_rejected_total", "0"): 4,
        ("llamafw_priority_requests_rejected_total", "5"): 0,
        ("llamafw_preemptions_total", "0"): 5,
        ("llamafw_preemptions_total", "5"): 0,
    }
