"""Requests are held against the document, and what is wrong is said in words."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamafw.server.faults import find_fault
from llamafw.server.schema import Schemas
from support.opened import Open


async def error(client: httpx.AsyncClient, body: Any, path: str = "/echo") -> dict[str, Any]:
    response = await client.post(path, content=json.dumps(body))
    assert response.status_code == 400, response.text
    answer: dict[str, Any] = response.json()["error"]
    assert answer["code"] == 400
    assert answer["type"] == "invalid_request_error"
    return answer


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
        ({"seed": 2**64}, "seed", "seed must be an integer or null"),
    ],
)
async def test_faults_are_named(client: httpx.AsyncClient, body: Any, param: str | None, message: str) -> None:
    answer = await error(client, body)
    assert answer["message"] == message
    assert answer.get("param") == param


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
async def test_alternatives_are_told_apart_by_their_tag(
    client: httpx.AsyncClient, part: Any, place: str, message: str
) -> None:
    answer = await error(client, {"messages": [{"content": [part]}]})
    assert answer["param"] == f"messages.0.content.0{place}"
    assert answer["message"] == f"{answer['param']} {message}"


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
        b'{"a": "\\ud800"}',
        b"{}{}",
    ],
)
async def test_what_is_no_json_is_refused(client: httpx.AsyncClient, raw: bytes) -> None:
    response = await client.post("/echo", content=raw)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("the request body is not valid JSON")


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a": ', b"}")])
@pytest.mark.parametrize("depth", [250, 300, 1000])
async def test_what_is_nested_too_deeply_is_refused(
    client: httpx.AsyncClient, opening: bytes, closing: bytes, depth: int
) -> None:
    raw = b'{"messages": ' + opening * depth + b"1" + closing * depth + b"}"
    response = await client.post("/echo", content=raw)
    assert response.status_code == 400
    assert "more than 240 deep" in response.json()["error"]["message"]


async def test_many_values_side_by_side_are_not_deep(client: httpx.AsyncClient) -> None:
    answer = await error(client, {"messages": [{"content": "x"}] * 1000 + [7]})
    assert answer["param"] == "messages.1000"


async def test_a_missing_body_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/echo")
    assert response.status_code == 400
    assert "needs a JSON body" in response.json()["error"]["message"]


@pytest.mark.inventory("H-11")
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "nonsense", "\x01", "a" * 1000])
async def test_any_content_type_will_do(client: httpx.AsyncClient, kind: str) -> None:
    response = await client.post("/echo", content=b'{"n_predict": 1}', headers={"content-type": kind})
    assert response.json()["body"]["n_predict"] == 1


async def test_defaults_are_filled_in_and_null_means_absent(client: httpx.AsyncClient) -> None:
    body = (await client.post("/echo", json={"seed": None, "mode": None, "stop": None, "top_k": 7})).json()["body"]
    assert body["seed"] == -1
    assert body["list"] == [1]
    assert body["ignore_eos"] is False
    assert body["top_k"] == 7
    assert body["top_p"] == 0.95  # a sampler's
    assert not {"mode", "stop", "prompt", "n_predict"} & set(body)


async def test_defaults_are_not_shared_between_requests(client: httpx.AsyncClient) -> None:
    first = await client.post("/echo", json={"list": [5]})
    second = await client.post("/echo", json={})
    assert (first.json()["body"]["list"], second.json()["body"]["list"]) == ([5], [1])


async def test_flags_change_the_defaults(opened: Open) -> None:
    async with opened(top_k=3, seed=5, ignore_eos=True, samplers="top_k;temperature") as client:
        body = (await client.post("/echo", json={})).json()["body"]
    assert (body["top_k"], body["seed"], body["ignore_eos"], body["samplers"]) == (3, 5, True, ["top_k", "temperature"])


async def test_unknown_fields_are_left_out_and_named(client: httpx.AsyncClient) -> None:
    response = await client.post("/echo", json={"n_predct": 3, "ä\r\nx: y": 1, "n_predict": 1})
    assert response.headers["x-llamafw-ignored-fields"] == "n_predct, %C3%A4%0D%0Ax%3A%20y"
    assert not {"n_predct", "ä\r\nx: y"} & set(response.json()["body"])
    assert "x-llamafw-ignored-fields" not in (await client.post("/echo", json={"n_predict": 1})).headers


async def test_unknown_fields_are_named_in_errors_too(client: httpx.AsyncClient) -> None:
    response = await client.post("/fail", json={"how": "request", "why": 1})
    assert response.status_code == 400
    assert response.headers["x-llamafw-ignored-fields"] == "why"


async def test_many_unknown_fields_do_not_make_a_huge_header(client: httpx.AsyncClient) -> None:
    response = await client.post("/echo", json={f"{i}{'x' * 5000}": 1 for i in range(100)})
    assert response.status_code == 200
    assert len(response.headers["x-llamafw-ignored-fields"]) < 8000


async def test_strict_fields_refuses_them(opened: Open) -> None:
    async with opened(strict_fields=True) as client:
        answer = await error(client, {"n_predct": 3})
        assert answer["param"] == "n_predct"
        assert answer["message"].endswith("did you mean 'n_predict'?")
        response = await client.get("/items/1?limt=3")
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "limt"


async def test_parameters_are_typed(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/items/5?ratio=1e-1&full=true&tags=a&tags=b&other=x")).json()
    assert answer["path"] == {"item_id": 5}
    assert answer["query"] == {"limit": 10, "ratio": 0.1, "full": True, "tags": ["a", "b"], "other": "x"}


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
async def test_wrong_parameters_are_refused(client: httpx.AsyncClient, url: str, param: str) -> None:
    response = await client.get(url)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.inventory("C-112", "H-16")
async def test_a_body_that_stops_coming_is_not_waited_for(opened: Open) -> None:
    async def chunks() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    async with opened(timeout=0.01) as client:
        response = await client.post("/echo", content=chunks())
        assert (response.status_code, response.json()["error"]["type"]) == (408, "timeout_error")


async def test_a_large_body_is_refused_unread(opened: Open) -> None:
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
    ],
    ids=["all wrong", "last wrong", "nested", "long text", "objects"],
)
@pytest.mark.timeout(15)  # listing every error of the first takes jsonschema-rs 20 s
async def test_a_megabyte_of_nonsense_does_not_stop_the_server(client: httpx.AsyncClient, prompt: Any) -> None:
    content = orjson.dumps({"prompt": prompt})
    response = await client.post("/echo", content=content)
    assert response.status_code == 400
    assert len(response.content) < 1000


async def test_deep_documents_are_valid_or_refused(client: httpx.AsyncClient) -> None:
    for depth, status in ((100, 200), (5000, 400)):
        raw = b'{"tree":' + b'{"kids":[' * depth + b"{}" + b"]}" * depth + b"}"
        assert (await client.post("/echo", content=raw)).status_code == status
    wrong = b'{"tree":' + b'{"kids":[' * 110 + b'{"leaf":"x"}' + b"]}" * 110 + b"}"
    response = await client.post("/echo", content=wrong)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("tree.kids.0")


@pytest.mark.timeout(30)  # 2^60 alternatives would take for ever
def test_alternatives_within_alternatives_are_not_searched_for_ever() -> None:
    twice = {"anyOf": [{"type": "array", "items": {"$ref": "#/components/schemas/X"}} for _ in range(2)]}
    schemas = Schemas({"components": {"schemas": {"X": twice}}})
    value: Any = 1
    for _ in range(60):
        value = [value]
    fault = find_fault({"$ref": "#/components/schemas/X"}, value, schemas)
    assert fault.text == "is not valid" or fault.text.startswith("must be")


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
async def test_any_json_is_answered(client: httpx.AsyncClient, body: Any) -> None:
    response = await client.post("/echo", content=json.dumps(body))
    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:
        assert response.json()["error"]["message"] not in ("", "the request body is not valid")
