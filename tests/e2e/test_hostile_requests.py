"""Requests and flags that crashed or blocked llama-server get a clear error here, and the server keeps running."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

HI = [{"role": "user", "content": "hi"}]
P = {"prompt": "Once upon a time", "n_predict": 4}
CLOSED = {"type": "object", "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "f", "description": None, "parameters": CLOSED}}
DIGIT = 'root ::= "7"'
IMAGE = {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}
FORMAT, PART, CALL = "response_format.json_schema", "messages.0.content.0", "messages.1.tool_calls.0"


@pytest.fixture(autouse=True)
def _server_still_answers(http: httpx.Client) -> Iterator[None]:
    """Check after each test that the server still answers."""
    yield
    assert http.get("/health").status_code == 200
    answer = http.post("/completion", json={**P, "temperature": 0}).json()
    assert answer["tokens_predicted"] == 4


REFUSED: list[tuple[str, Any, int, str | None]] = [
    # these ended llama-server's process
    ("/detokenize", {"tokens": [99999999]}, 400, "tokens.0"),
    ("/detokenize", {"tokens": [-1]}, 400, "tokens.0"),
    ("/completion", {**P, "stop": [1]}, 400, "stop.0"),
    ("/completion", {**P, "stop": [["a"]]}, 400, "stop.0"),
    ("/completion", {**P, "n_probs": 60000}, 400, "n_probs"),
    ("/completion", {**P, "n_probs": -1}, 400, "n_probs"),
    ("/completion", {**P, "mirostat": 3}, 400, "mirostat"),
    # these waited for ever
    ("/completion", {**P, "id_slot": 9}, 400, "id_slot"),
    ("/completion", {**P, "id_slot": -2}, 400, "id_slot"),
    # these affected other requests, or were a 500
    ("/completion", {"prompt": [99999999], "n_predict": 1}, 400, "prompt.0"),
    ("/completion", {"prompt": [-5], "n_predict": 1}, 400, "prompt.0"),
    ("/completion", {}, 400, "prompt"),
    ("/completion", {"prompt": 5}, 400, "prompt"),
    ("/completion", {"prompt": []}, 400, "prompt"),
    ("/completion", {"prompt": [[]]}, 400, "prompt.0"),
    ("/completion", {"prompt": [1.5, 2]}, 400, "prompt.0"),
    ("/v1/chat/completions", {}, 400, "messages"),
    ("/v1/chat/completions", {"messages": "hi"}, 400, "messages"),
    ("/v1/chat/completions", {"messages": []}, 400, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": None}]}, 400, "messages.0.content"),
    ("/v1/chat/completions", {"messages": [{"role": "user"}]}, 400, "messages.0.content"),
    ("/v1/chat/completions", {"messages": HI, "top_logprobs": 3}, 400, "top_logprobs"),
    ("/tokenize", {"content": 5}, 400, "content"),
    ("/tokenize", {}, 400, "content"),
    ("/detokenize", {"tokens": "abc"}, 400, "tokens"),
    # these were silently misread
    ("/completion", {**P, "n_predict": "5"}, 400, "n_predict"),
    ("/completion", {**P, "id_slot": "x"}, 400, "id_slot"),
    ("/completion", {**P, "samplers": ["top_kk"]}, 400, "samplers.0"),
    ("/completion", {**P, "grammar": 5}, 400, "grammar"),
    ("/completion", {**P, "grammar": "root ::= ("}, 400, "grammar"),
    ("/completion", {**P, "grammar": 'other ::= "x"'}, 400, "grammar"),
    ("/completion", {**P, "grammar": 'root ::= root "x" | "x"\nroot ::='}, 400, "grammar"),
    ("/completion", {**P, "json_schema": {"not": {"type": "string"}}}, 400, "json_schema.not"),
    ("/completion", {**P, "grammar": DIGIT, "json_schema": {}}, 400, "json_schema"),
    ("/v1/chat/completions", {"messages": HI, "tool_choice": "required"}, 400, "tool_choice"),
    ("/v1/chat/completions", {"messages": HI, "response_format": {"type": "yaml"}}, 400, "response_format.type"),
    ("/v1/chat/completions", {"messages": HI, "response_format": {"type": "json_schema"}}, 400, FORMAT),
    ("/completion", {**P, "stop": [""]}, 400, "stop.0"),
    ("/completion", {**P, "json_schema": []}, 400, "json_schema"),
    ("/completion", {**P, "json_schema": {"type": "nothing"}}, 400, "json_schema.type"),
    ("/completion", {**P, "json_schema": {"$ref": "#/nowhere"}}, 400, "json_schema.$ref"),
    ("/completion", {**P, "json_schema": {"$ref": "#"}}, 400, "json_schema"),  # an endless loop
    ("/completion", {**P, "json_schema": {"$ref": "http://127.0.0.1/x"}}, 400, "json_schema.$ref"),
    ("/completion", {**P, "json_schema": {"type": "string", "pattern": "("}}, 400, "json_schema.pattern"),
    ("/completion", {**P, "grammar": "root ::= root"}, 400, "grammar"),
    ("/completion", {**P, "grammar": 'root ::= "a"{9999999}'}, 400, "grammar"),
    ("/completion", {**P, "grammar": "(" * 20_000}, 400, "grammar"),
    ("/completion", {**P, "logit_bias": [["a"]]}, 400, "logit_bias.0"),
    ("/completion", {**P, "logit_bias": [[5, True]]}, 400, "logit_bias.0.1"),
    ("/completion", {**P, "samplers": "top_k"}, 400, "samplers"),
    ("/completion", {**P, "n_keep": -7}, 400, "n_keep"),
    ("/completion", {**P, "image_data": [{"data": "aa", "id": 1}]}, 400, "image_data"),
    # parts and history of chats: these were a 500, or were misread
    ("/v1/chat/completions", {"messages": [*HI, {"role": "user", "content": [IMAGE]}]}, 400, "messages.1.content.0"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, f"{PART}.text"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "x"}]}]}, 400, f"{PART}.type"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": []}]}, 400, "messages.0.content"),
    ("/v1/chat/completions", {"messages": [{"content": "x"}]}, 400, "messages.0.role"),
    ("/v1/chat/completions", {"messages": [None]}, 400, "messages.0"),
    ("/v1/chat/completions", {"messages": [*HI, {"role": "assistant", "tool_calls": [{}]}]}, 400, f"{CALL}.function"),
    ("/v1/chat/completions", {"messages": HI, "tools": [{}]}, 400, "tools.0.type"),
    ("/v1/chat/completions", {"messages": HI, "n": 0}, 400, "n"),
    ("/v1/chat/completions", {"messages": HI, "n": 1000}, 400, "n"),
    # embeddings, rerank, adapters
    ("/embedding", {"content": 5}, 400, "content"),
    ("/embedding", {"content": []}, 400, "content"),
    ("/embedding", {}, 400, "content"),
    ("/v1/embeddings", {"input": [[]]}, 400, "input.0"),
    ("/v1/embeddings", {"input": [99999999]}, 400, "input.0"),
    ("/v1/embeddings", {"input": "x y " * 20_000}, 400, "input"),  # too long: this was a 500 for all requests
    ("/v1/embeddings", {"input": "a", "dimensions": 5}, 400, "dimensions"),
    ("/rerank", {"query": "a", "documents": []}, 400, "documents"),
    ("/rerank", {"query": 5, "documents": ["a"]}, 400, "query"),
    ("/rerank", {"query": "a"}, 400, "documents"),
    ("/rerank", {"query": "a", "documents": ["a"]}, 501, None),
    ("/lora-adapters", {}, 400, None),
    ("/lora-adapters", [{"id": 0, "scale": 1}], 400, "0.id"),  # this had set all scales to 0
    ("/props", {"system_prompt": 5}, 400, "system_prompt"),
]


@pytest.mark.inventory(
    *(
        "E-010 E-021 E-029 E-032 E-034 E-038 E-041 E-043 E-065 E-066 E-067 E-100 E-102 E-105 "
        "E-107 E-130 E-140 E-142 G-03 R-01 R-05 F-15 F-16 F-17 E-018 E-033 E-037 E-040 "
        "E-103 E-108 E-150 E-151 E-155 E-156 E-160 E-171 E-221 R-18 R-19 R-22"
    ).split()
)
@pytest.mark.parametrize(("path", "body", "status", "param"), REFUSED)
def test_invalid_requests_are_refused(http: httpx.Client, path: str, body: Any, status: int, param: str | None) -> None:
    response = http.post(path, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error.get("param")) == (status, status, param), error
    assert error["message"]


@pytest.mark.inventory("H-10", "R-05")
@pytest.mark.parametrize(
    "body", [b'{"prompt":"\xff\xfe"}', b"{", b"", b"[]", b'"x"', b"null", b'{"prompt":"a","seed":NaN}', b"[" * 100_000]
)
def test_invalid_bodies_are_400(http: httpx.Client, body: bytes) -> None:
    response = http.post("/completion", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


ANSWERED: list[tuple[str, dict[str, Any] | list[Any]]] = [
    ("/completion", {**P, "tfs_z": 0.9}),
    ("/completion", {**P, "tfs_z": 0.0}),
    ("/completion", {**P, "typical_p": 0.1}),
    ("/completion", {**P, "top_k": 0}),
    ("/completion", {**P, "top_k": -5}),  # as documented: 0 and less keep all tokens
    ("/completion", {**P, "samplers": []}),
    ("/completion", {**P, "json_schema": None}),
    ("/completion", {**P, "grammar": None, "json_schema": {"type": "boolean"}}),
    ("/completion", {"prompt": "", "n_predict": 2}),
    ("/completion", {"prompt": ["", ""], "n_predict": 2}),
    ("/completion", {"prompt": [12, "a"], "n_predict": 1}),
    ("/embedding", {"content": "a"}),
    ("/detokenize", {"tokens": []}),
    ("/lora-adapters", []),
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 2, "tools": []}),
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 2, "n": 2}),
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 2, "logprobs": False}),
    ("/v1/chat/completions", {"messages": [{"role": "nobody", "content": "x"}], "max_tokens": 2}),
    ("/v1/chat/completions", {"messages": [{"role": "tool", "content": "x"}], "max_tokens": 2}),
    ("/v1/chat/completions", {"messages": [*HI, {"role": "tool", "content": None}], "max_tokens": 2}),
    ("/completion", {**P, "logit_bias": [[99999999, 1]], "n_predict": 2}),
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 2, "tools": [TOOL]}),
]
EXTREME_VALUES: list[tuple[str, dict[str, Any]]] = [
    ("/completion", {**P, "prompt": "x" * 50_000, "n_predict": 0, "truncate_prompt": True}),
    ("/completion", {**P, "temperature": 1000, "ignore_eos": True}),
    ("/completion", {**P, "temperature": 1e-38}),
    ("/completion", {**P, "repeat_penalty": 100, "presence_penalty": -2, "frequency_penalty": 2}),
    ("/completion", {**P, "dynatemp_range": 1000, "dynatemp_exponent": 1000}),
    ("/completion", {**P, "min_keep": 100_000}),
    ("/completion", {**P, "n_probs": 3, "temperature": 0}),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "x" * 3_000_000}], "max_tokens": 1, "truncate_prompt": True},
    ),
]
OUT_OF_RANGE: list[tuple[str, float, str]] = [
    ("temperature", 1e38, "at most 1000"),
    ("repeat_penalty", 1e38, "at most 100"),
    ("dynatemp_range", 1e30, "at most 1000"),
    ("dynatemp_exponent", 1e30, "at most 1000"),
]


@pytest.mark.inventory(*"E-014 E-022 E-023 E-030 E-031 E-043 E-062 E-064 E-106 E-108 E-158 F-21 D-07".split())
@pytest.mark.parametrize(("path", "body"), ANSWERED)
def test_unusual_requests_are_answered(http: httpx.Client, path: str, body: Any) -> None:
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text


@pytest.mark.inventory("E-011", "E-012", "E-013", "E-039", "E-068")
@pytest.mark.parametrize(("path", "body"), EXTREME_VALUES)
def test_extreme_values_in_range_are_answered(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text


@pytest.mark.inventory("E-011", "E-012", "E-013")
@pytest.mark.parametrize(("field", "value", "reason"), OUT_OF_RANGE)
def test_values_out_of_range_are_400(http: httpx.Client, field: str, value: float, reason: str) -> None:
    response = http.post("/completion", json={**P, field: value})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field)
    assert reason in error["message"]


@pytest.mark.inventory("E-017", "F-01", "D-01")
def test_n_predict_0_generates_no_token(http: httpx.Client) -> None:
    answer = http.post("/completion", json={**P, "n_predict": 0}).json()
    assert (answer["tokens_predicted"], answer["content"]) == (0, "")


@pytest.mark.inventory("E-032", "S-02", "G-01")
@pytest.mark.parametrize("more", [{}, {"ignore_eos": True}, {"temperature": 0}, {"logit_bias": [[26, False]]}])
def test_completed_grammar_ends_the_response(http: httpx.Client, more: dict[str, Any]) -> None:
    answer = http.post("/completion", json={**P, "n_predict": 16, "grammar": DIGIT, **more}).json()
    assert answer["content"] in ("7", "")
    assert answer["tokens_predicted"] < 16


@pytest.mark.inventory("E-108")
def test_required_tool_call_is_made(http: httpx.Client) -> None:
    """Even if the template has no tool support and the model is too small to use tools."""
    body = {"messages": HI, "tools": [TOOL], "tool_choice": "required", "max_tokens": 200, "parallel_tool_calls": False}
    choice = http.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "f"


@pytest.mark.inventory("H-08", "R-23")
def test_wrong_methods_are_405_and_unknown_paths_404(http: httpx.Client) -> None:
    wrong = http.get("/completion")
    assert wrong.status_code == 405
    assert "POST" in wrong.headers["allow"]
    assert "POST" in wrong.json()["error"]["message"]
    unknown = http.get("/nothing")
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")


@pytest.mark.inventory("F-16", "E-044")
def test_unknown_fields_are_named_in_a_header(http: httpx.Client) -> None:
    response = http.post("/completion", json={**P, "temprature": 0, "__oaicompat": True, "index": 7})
    assert response.headers["x-llamafw-ignored-fields"] == "temprature, __oaicompat, index"
    assert response.json()["index"] == 0
    assert "choices" not in response.json()


@pytest.mark.inventory("E-071")
def test_chunks_have_the_id_of_the_slot(http: httpx.Client) -> None:
    with http.stream("POST", "/completion", json={**P, "stream": True, "id_slot": 3}) as response:
        chunks = [line for line in response.iter_lines() if line.startswith("data:")]
    assert len(chunks) > 1
    assert all('"id_slot":3' in chunk for chunk in chunks)


@pytest.mark.inventory("C-041", "C-044", "P-03")
@pytest.mark.parametrize(
    "flags",
    [
        "-ctk bogus",
        "-ctv bogus",
        "-np 0",
        "-np -2",
        "--port 99999",
        "-m /no/such/file.gguf",
        "--mirostat 3",
        "-gan 3 -gaw 7",
        "--prio 4",
        "--samplers nothing",
    ],
)
def test_startup_fails_in_one_line_with_invalid_flags(flags: str) -> None:
    command = [sys.executable, "-m", "llamafw", "serve", "--port", "0", *flags.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == (1 if flags.startswith("-m ") else 2)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.inventory("P-03")
def test_startup_fails_with_an_invalid_model_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    command = [sys.executable, "-m", "llamafw", "serve", "--port", "0", "-m", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
