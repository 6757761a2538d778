"""Requests are validated against the API document, and errors say what is wrong."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamafw.server.integers import IntegerReader
from llamafw.server.schema import Schemas
from llamafw.server.violations import find_violation
from support.api_client import OpenClient
from support.envelope import read_error


async def refused(client: httpx.AsyncClient, body: Any) -> dict[str, Any]:
    """Send a body that is refused, and return the error."""
    response = await client.post("/echo", content=json.dumps(body))
    return read_error(response, 400, "invalid_request_error")


async def accepted(client: httpx.AsyncClient, body: Any) -> dict[str, Any]:
    """Send a body that is accepted, and return what reached the endpoint."""
    response = await client.post("/echo", content=json.dumps(body))
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()["body"]
    return found


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ([1], None, "the request body must be an object"),
        ({"n_predict": "3"}, "n_predict", "n_predict must be an integer"),
        ({"n_predict": True}, "n_predict", "n_predict must be an integer"),
        ({"n_predict": 101}, "n_predict", "n_predict must be at most 100"),
        ({"n_predict": -3}, "n_predict", "n_predict must be at least -2"),
        ({"n_predict": None}, "n_predict", "n_predict must be an integer"),
        ({"prompt": 5}, "prompt", "prompt must be a string or an array"),
        ({"prompt": [1, None]}, "prompt.1", "prompt.1 must be an integer or a string"),
        ({"prompt": [1, "two", -3]}, "prompt.2", "prompt.2 must be at least 0"),
        ({"prompt": [[1, "two"]]}, "prompt.0.1", "prompt.0.1 must be an integer"),
        ({"mode": "fst"}, "mode", "mode must be 'fast', 'slow' or null; did you mean 'fast'?"),
        ({"stop": 5}, "stop", "stop must be a string, an array or null"),
        ({"stop": ["a", "b", "c"]}, "stop", "stop must have at most 2 elements"),
        ({"messages": []}, "messages", "messages must have at least 1 element"),
        ({"messages": [{}]}, "messages.0.content", "messages.0.content is required"),
        ({"strict": {"b": 1}}, "strict.b", "strict.b is not a known field"),
        ({"strict": {"a": "b"}}, "strict.a", "strict.a must match '^a+$'"),
        (
            {"tree": {"kids": [{"kids": [{"leaf": 1.5}]}]}},
            "tree.kids.0.kids.0.leaf",
            "tree.kids.0.kids.0.leaf must be an integer",
        ),
        ({"top_p": 2}, "top_p", "top_p must be at most 1"),
        ({"seed": 2**64}, "seed", "seed must be an integer of at most 64 bits"),
    ],
)
async def test_invalid_bodies_are_400_and_name_the_field(
    client: httpx.AsyncClient, body: Any, param: str | None, message: str
) -> None:
    error = await refused(client, body)
    assert error["message"] == message
    assert error.get("param") == param


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"n_predict": 4.0}, {"n_predict": 4}),
        ({"n_predict": -2.0}, {"n_predict": -2}),
        ({"n_predict": -0.0}, {"n_predict": 0}),
        ({"n_predict": 1e2}, {"n_predict": 100}),
        ({"seed": 1e15}, {"seed": 10**15}),  # nullable
        ({"prompt": [1.0, "two", 3]}, {"prompt": [1, "two", 3]}),
        ({"prompt": [[1.0, 2.0], [3]]}, {"prompt": [[1, 2], [3]]}),
        ({"list": [5.0] * 1000}, {"list": [5] * 1000}),
        (
            {"tree": {"kids": [{"leaf": 7.0}, {"kids": [{"leaf": 8.0}]}]}},
            {"tree": {"kids": [{"leaf": 7}, {"kids": [{"leaf": 8}]}]}},
        ),
        ({"top_k": 7.0, "top_p": 1.0}, {"top_k": 7, "top_p": 1.0}),  # options of samplers
    ],
)
async def test_integral_floats_are_integers(client: httpx.AsyncClient, body: Any, expected: Any) -> None:
    received = await accepted(client, body)
    found = {name: received[name] for name in expected}
    assert json.dumps(found) == json.dumps(expected)  # tells 4 from 4.0


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"n_predict": 4.5}, "n_predict", "must be an integer"),
        ({"n_predict": 101.0}, "n_predict", "must be at most 100"),
        ({"n_predict": 1e300}, "n_predict", "must be an integer of at most 64 bits"),
        ({"prompt": [1.0, 2.5]}, "prompt.1", "must be an integer or a string"),
        ({"prompt": [1.0, -3.0]}, "prompt.1", "must be at least 0"),
        ({"list": [1.0, 2.0, 0.1]}, "list.2", "must be an integer"),
        ({"tree": {"leaf": 1.5}}, "tree.leaf", "must be an integer"),
        ({"mode": 1.0}, "mode", "must be a string or null"),
        ({"n_predict": 4.0, "stop": 5}, "stop", "must be a string, an array or null"),
    ],
)
async def test_other_floats_are_400(client: httpx.AsyncClient, body: Any, param: str, message: str) -> None:
    error = await refused(client, body)
    assert (error["param"], error["message"]) == (param, f"{param} {message}")


def test_floats_stay_floats_where_any_number_is_allowed() -> None:
    schema: Any = {
        "type": "object",
        "additionalProperties": {"type": "integer"},
        "properties": {
            "number": {"type": "number"},
            "either": {"anyOf": [{"type": "integer"}, {"type": "number"}]},
            "untyped": {},
        },
    }
    reader = IntegerReader(schema, Schemas({}))

    body = {"number": 1.0, "either": 2.0, "untyped": 3.0, "other": 4.0}
    assert json.dumps(reader.read(body)) == '{"number": 1.0, "either": 2.0, "untyped": 3.0, "other": 4}'
    assert json.dumps(body) == '{"number": 1.0, "either": 2.0, "untyped": 3.0, "other": 4.0}'  # not changed


@pytest.mark.parametrize("seed", [-1, 0, 2**32 - 1, 2**32, 2**63 - 1, 2**64 - 1, -2, -(2**63)])
async def test_seeds_of_64_bits_are_accepted(client: httpx.AsyncClient, seed: int) -> None:
    assert (await accepted(client, {"seed": seed}))["seed"] == seed


@pytest.mark.parametrize(
    ("part", "place", "message"),
    [
        ({"type": "text", "text": ""}, ".text", "must have at least 1 character"),
        ({"type": "image"}, ".url", "is required"),
        ({"type": "tex", "text": "x"}, ".type", "must be 'text' or 'image'"),
        ({"text": "x"}, ".type", "is required"),
        ("x", "", "must be an object"),
    ],
)
async def test_errors_in_alternatives_follow_their_tag(
    client: httpx.AsyncClient, part: Any, place: str, message: str
) -> None:
    error = await refused(client, {"messages": [{"content": [part]}]})
    assert error["param"] == f"messages.0.content.0{place}"
    assert error["message"] == f"{error['param']} {message}"


@pytest.mark.inventory("R-05", "H-09")
@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"nonsense",
        b"\xff\xfe",
        b'{"a": "\xe4"}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b"[" * 5000,
        b'{"a" 1}',
        b"\xef\xbb\xbf{}",
        b"{}{}",
    ],
)
async def test_bodies_that_are_not_json_are_400(client: httpx.AsyncClient, raw: bytes) -> None:
    response = await client.post("/echo", content=raw)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("the request body is not valid JSON")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (gzip.compress(b'{"a": 1}', mtime=0), "compressed with gzip, which the header Content-Encoding does not say"),
        (b"\x28\xb5\x2f\xfd\x04\x00", "compressed with zstd"),
        ('{"a": 1}'.encode("utf-16"), "it is UTF-16, not UTF-8"),
        ('{"a": "é"}'.encode("cp1252"), "it is not UTF-8: byte 7 is 0xe9"),
    ],
)
async def test_errors_say_why_a_body_is_not_utf8(client: httpx.AsyncClient, raw: bytes, reason: str) -> None:
    response = await client.post("/echo", content=raw)
    assert response.status_code == 400
    assert reason in response.json()["error"]["message"]


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a": ', b"}")])
@pytest.mark.parametrize("depth", [250, 300, 1000])
async def test_bodies_nested_too_deeply_are_400(
    client: httpx.AsyncClient, opening: bytes, closing: bytes, depth: int
) -> None:
    raw = b'{"messages": ' + opening * depth + b"1" + closing * depth + b"}"
    response = await client.post("/echo", content=raw)
    assert response.status_code == 400
    assert "nested more than 240 deep" in response.json()["error"]["message"]


async def test_long_arrays_are_not_nested_deeply(client: httpx.AsyncClient) -> None:
    error = await refused(client, {"messages": [{"content": "x"}] * 1000 + [7]})
    assert error["param"] == "messages.1000"


async def test_missing_bodies_are_400(client: httpx.AsyncClient) -> None:
    response = await client.post("/echo")
    assert response.status_code == 400
    assert "needs a JSON body" in response.json()["error"]["message"]


@pytest.mark.inventory("H-11")
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "nonsense", "\x01", "a" * 1000])
async def test_bodies_are_json_whatever_their_content_type(client: httpx.AsyncClient, kind: str) -> None:
    response = await client.post("/echo", content=b'{"n_predict": 1}', headers={"content-type": kind})
    assert response.json()["body"]["n_predict"] == 1


async def test_defaults_are_filled_in_and_null_means_not_given(client: httpx.AsyncClient) -> None:
    body = (await client.post("/echo", json={"seed": None, "mode": None, "stop": None, "top_k": 7})).json()["body"]
    assert body["seed"] == -1
    assert body["list"] == [1]
    assert body["ignore_eos"] is False
    assert body["top_k"] == 7
    assert body["top_p"] == 0.95  # an option of a sampler
    assert not {"mode", "stop", "prompt", "n_predict"} & set(body)


async def test_defaults_are_not_shared_between_requests(client: httpx.AsyncClient) -> None:
    first = await client.post("/echo", json={"list": [5]})
    second = await client.post("/echo", json={})
    assert (first.json()["body"]["list"], second.json()["body"]["list"]) == ([5], [1])


async def test_flags_change_the_defaults(opened: OpenClient) -> None:
    async with opened(top_k=3, seed=5, ignore_eos=True, samplers="top_k;temperature") as client:
        body = (await client.post("/echo", json={})).json()["body"]
    assert (body["top_k"], body["seed"], body["ignore_eos"], body["samplers"]) == (3, 5, True, ["top_k", "temperature"])


async def test_unknown_fields_are_removed_and_named(client: httpx.AsyncClient) -> None:
    response = await client.post("/echo", json={"n_predct": 3, "ä\r\nx: y": 1, "n_predict": 1})
    assert response.headers["x-llamafw-ignored-fields"] == "n_predct, %C3%A4%0D%0Ax%3A%20y"
    assert not {"n_predct", "ä\r\nx: y"} & set(response.json()["body"])
    assert "x-llamafw-ignored-fields" not in (await client.post("/echo", json={"n_predict": 1})).headers


async def test_unknown_fields_are_named_in_error_responses(client: httpx.AsyncClient) -> None:
    response = await client.post("/fail", json={"how": "request", "why": 1})
    assert response.status_code == 400
    assert response.headers["x-llamafw-ignored-fields"] == "why"


async def test_the_header_of_unknown_fields_is_short(client: httpx.AsyncClient) -> None:
    response = await client.post("/echo", json={f"{i}{'x' * 5000}": 1 for i in range(100)})
    assert response.status_code == 200
    assert len(response.headers["x-llamafw-ignored-fields"]) < 8000


async def test_strict_fields_refuses_unknown_fields(opened: OpenClient) -> None:
    async with opened(strict_fields=True) as client:
        error = await refused(client, {"n_predct": 3})
        assert error["param"] == "n_predct"
        assert error["message"].endswith("did you mean 'n_predict'?")
        response = await client.get("/items/1?limt=3")
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "limt"


async def test_parameters_are_converted_to_their_types(client: httpx.AsyncClient) -> None:
    response = await client.get("/items/5?ratio=1e-1&full=true&tags=a&tags=b&other=x")
    assert response.json()["path"] == {"item_id": 5}
    assert response.json()["query"] == {"limit": 10, "ratio": 0.1, "full": True, "tags": ["a", "b"], "other": "x"}


@pytest.mark.parametrize(
    ("url", "param"),
    [
        ("/items/0", "item_id"),
        ("/items/x", "item_id"),
        ("/items/1.5", "item_id"),
        ("/items/" + "9" * 5000, "item_id"),
        ("/items/" + "9" * 50, "item_id"),
        ("/items/100", "item_id"),
        ("/items/1?limit=0", "limit"),
        ("/items/1?limit=x", "limit"),
        ("/items/1?limit=", "limit"),
        ("/items/1?limit=1.0", "limit"),
        ("/items/1?limit=" + "9" * 5000, "limit"),
        ("/items/1?limit=1&limit=2", "limit"),
        ("/items/1?ratio=nan", "ratio"),
        ("/items/1?ratio=inf", "ratio"),
        ("/items/1?full=yes", "full"),
        ("/items/1?tags=a&tags=c", "tags.1"),
    ],
)
async def test_invalid_parameters_are_400(client: httpx.AsyncClient, url: str, param: str) -> None:
    response = await client.get(url)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.inventory("C-112", "H-16")
async def test_bodies_that_stop_arriving_are_408(opened: OpenClient) -> None:
    async def chunks() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    async with opened(timeout=0.01) as client:
        response = await client.post("/echo", content=chunks())
        assert (response.status_code, response.json()["error"]["type"]) == (408, "timeout_error")


async def test_large_bodies_are_413(opened: OpenClient) -> None:
    async with opened(max_body_mb=1) as client:

        async def chunks() -> Any:
            for _ in range(33):
                yield b" " * 65536

        for content in (b" " * (2**20 + 1), chunks()):
            response = await client.post("/echo", content=content)
            assert response.status_code == 413
            assert response.json()["error"]["code"] == 413
        assert (await client.post("/echo", content=b"{}" + b" " * (2**20 - 2))).status_code == 200
        response = await client.post("/echo", content=b"{}", headers={"content-length": "9" * 4000})
        assert response.status_code == 413


@pytest.mark.parametrize(
    "prompt",
    [
        [1.5] * 150_000,
        [*range(150_000), None],
        [[1] * 150_000, ["a"]],
        ["x" * 1_000_000, {}],
        [{"a": 1}] * 100_000,
        [*[1.0] * 150_000, None],
    ],
    ids=["all wrong", "last wrong", "nested", "long text", "objects", "integral floats"],
)
@pytest.mark.timeout(15)  # jsonschema-rs takes 20 s to list all errors of the first
async def test_a_megabyte_of_invalid_json_is_refused_quickly(client: httpx.AsyncClient, prompt: Any) -> None:
    content = orjson.dumps({"prompt": prompt})
    response = await client.post("/echo", content=content)
    assert response.status_code == 400
    assert len(response.content) < 1000


async def test_nested_bodies_are_accepted_up_to_the_limit(client: httpx.AsyncClient) -> None:
    for depth, status in ((100, 200), (5000, 400)):
        raw = b'{"tree":' + b'{"kids":[' * depth + b"{}" + b"]}" * depth + b"}"
        assert (await client.post("/echo", content=raw)).status_code == status
    invalid = b'{"tree":' + b'{"kids":[' * 110 + b'{"leaf":"x"}' + b"]}" * 110 + b"}"
    response = await client.post("/echo", content=invalid)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("tree.kids.0")


@pytest.mark.timeout(30)  # a search through 2^60 alternatives would not end
def test_the_search_through_nested_alternatives_ends() -> None:
    alternatives = {"anyOf": [{"type": "array", "items": {"$ref": "#/components/schemas/X"}} for _ in range(2)]}
    schemas = Schemas({"components": {"schemas": {"X": alternatives}}})
    value: Any = 1
    for _ in range(60):
        value = [value]
    violation = find_violation({"$ref": "#/components/schemas/X"}, value, schemas)
    assert violation.text == "is not valid" or violation.text.startswith("must be")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["prompt", "stop", "messages", "mode", "seed", "tree", "strict", "samplers", "list", "x", "top_p"]
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=st.dictionaries(FIELDS, JSON | st.lists(st.fixed_dictionaries({"content": JSON}), max_size=2), max_size=4))
async def test_any_json_is_200_or_400(client: httpx.AsyncClient, body: Any) -> None:
    response = await client.post("/echo", content=json.dumps(body))
    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:
        assert response.json()["error"]["message"] not in ("", "the request body is not valid")
