"""Tests of the bucket with a fake clock, and of a server's answer when it is empty."""

from typing import Any

import pytest
from llamafw_rate_limit import RateLimit

from llamafw import TooManyRequests
from llamafw.testing.conformance import PluginConformance


def test_bucket_fills_at_a_constant_rate() -> None:
    now = 100.0
    limit: Any = RateLimit(None, per_minute=30, burst=2, clock=lambda: now)  # type: ignore[arg-type]  # the application is not called
    limit.take(b"a")
    limit.take(b"a")
    with pytest.raises(TooManyRequests) as caught:
        limit.take(b"a")
    assert caught.value.retry_after == 2
    limit.take(b"b")  # another client

    now += 1.9
    with pytest.raises(TooManyRequests):
        limit.take(b"a")
    now += 0.2
    limit.take(b"a")

    now += 3600
    limit.take(b"a")
    limit.take(b"a")  # the bucket holds no more than the burst
    with pytest.raises(TooManyRequests):
        limit.take(b"a")


async def test_third_request_is_429(serve: Any) -> None:
    async with serve(extra={"rate_limit": 1, "rate_burst": 2}) as client:
        statuses = [(await client.post("/tokenize", json={"content": "a"})).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]

        refused = await client.post("/tokenize", json={"content": "a"})
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert 50 < int(refused.headers["retry-after"]) <= 61

        assert (await client.get("/health")).status_code == 200
        assert (
            await client.post("/tokenize", json={"content": "a"}, headers={"X-Api-Key": "other"})
        ).status_code == 200


async def test_without_the_flag_there_is_no_limit(serve: Any) -> None:
    async with serve() as client:
        assert {(await client.post("/tokenize", json={"content": "a"})).status_code for _ in range(30)} == {200}


class TestPlugin(PluginConformance):
    name = "llamafw-rate-limit"
