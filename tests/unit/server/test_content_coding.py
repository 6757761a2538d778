"""Compressed request bodies, and compressed responses."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import httpx
import pytest

from support.api_client import OpenClient
from support.envelope import read_error

TEXT = json.dumps({"prompt": "é" * 1000}).encode()


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def bomb(n_bytes: int) -> bytes:
    """Return a gzip file that decompresses to a JSON object of ``n_bytes``."""
    compressor = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    pieces = [compressor.compress(b'{"prompt": "')]
    pieces += [compressor.compress(b"a" * 2**20) for _ in range(n_bytes >> 20)]
    return b"".join([*pieces, compressor.compress(b'"}'), compressor.flush()])


async def post(client: httpx.AsyncClient, content: bytes, coding: str) -> httpx.Response:
    return await client.post("/echo", content=content, headers={"content-encoding": coding})


@pytest.mark.parametrize(
    ("coding", "content"),
    [
        ("gzip", gzip.compress(TEXT, mtime=0)),
        ("x-gzip", gzip.compress(TEXT, mtime=0)),
        ("GZIP", gzip.compress(TEXT, mtime=0)),
        ("gzip", gzip.compress(TEXT[:100], mtime=0) + gzip.compress(TEXT[100:], mtime=0)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", raw_deflate(TEXT)),
        ("identity", TEXT),
        ("", TEXT),
    ],
)
async def test_compressed_bodies_are_decompressed(client: httpx.AsyncClient, coding: str, content: bytes) -> None:
    response = await post(client, content, coding)
    assert response.status_code == 200, response.text
    assert response.json()["body"]["prompt"] == "é" * 1000


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "x" * 500])
async def test_unknown_codings_are_415(client: httpx.AsyncClient, coding: str) -> None:
    response = await post(client, TEXT, coding)
    error = read_error(response, 415, "unsupported_media_type_error")
    assert f"'{coding[:40]}'" in error["message"]
    assert "gzip or deflate" in error["message"]
    assert response.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    ("coding", "content"),
    [
        ("gzip", TEXT),
        ("gzip", b""),
        ("gzip", gzip.compress(TEXT, mtime=0)[:-9]),
        ("gzip", gzip.compress(TEXT, mtime=0)[:-1] + b"?"),
        ("gzip", gzip.compress(TEXT, mtime=0) + b"more"),
        ("gzip", gzip.compress(b" ", mtime=0) * 101),
        ("deflate", TEXT),
        ("deflate", gzip.compress(TEXT, mtime=0)),
    ],
)
async def test_damaged_bodies_are_400(client: httpx.AsyncClient, coding: str, content: bytes) -> None:
    error = read_error(await post(client, content, coding), 400, "invalid_request_error")
    assert "the request body" in error["message"]
    assert "gzip" in error["message"] or "deflate" in error["message"]


@pytest.mark.parametrize("size", [2, 200])
async def test_bodies_that_decompress_to_more_than_the_limit_are_413(opened: OpenClient, size: int) -> None:
    content = bomb(size << 20)
    assert len(content) < size << 11
    async with opened(max_body_mb=1) as client:
        error = read_error(await post(client, content, "gzip"), 413, "invalid_request_error")
    assert "see --max-body-mb" in error["message"]


async def test_bodies_that_decompress_to_the_limit_are_accepted(opened: OpenClient) -> None:
    content = gzip.compress(json.dumps({"prompt": "a" * (2**20 - len('{"prompt": ""}'))}).encode())
    async with opened(max_body_mb=1) as client:
        assert (await post(client, content, "gzip")).status_code == 200


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("gzip, deflate, br", "gzip"),
        ("br", None),
        ("identity", None),
        ("gzip;q=0", None),
        ("br, gzip; q=0.5", "gzip"),
    ],
)
async def test_large_responses_are_compressed_if_the_client_accepts_it(
    client: httpx.AsyncClient, accepted: str, coding: str | None
) -> None:
    response = await client.post("/echo", json={"prompt": "a" * 5000}, headers={"accept-encoding": accepted})
    assert response.headers.get("content-encoding") == coding
    assert "accept-encoding" in response.headers["vary"].lower()
    assert response.json()["body"]["prompt"] == "a" * 5000  # httpx decompresses it
    assert (response.num_bytes_downloaded < 1000) is (coding == "gzip")
    assert len(response.headers.get_list("content-length")) == 1


async def test_small_responses_and_streams_are_not_compressed(client: httpx.AsyncClient) -> None:
    headers = {"accept-encoding": "gzip"}
    small = await client.post("/echo", json={"prompt": "a"}, headers=headers)
    stream = await client.post("/stream", json={"n": 1000}, headers=headers)
    assert "content-encoding" not in small.headers
    assert "content-encoding" not in stream.headers
    assert stream.text.count("data: ") == 1000


async def test_large_errors_are_compressed(client: httpx.AsyncClient) -> None:
    body: Any = {"mode": "x" * 10}
    response = await client.post("/echo", json=body, headers={"accept-encoding": "gzip"})
    assert read_error(response, 400, "invalid_request_error")["param"] == "mode"
