"""Samplers' settings that a model file recommends: how they are read, and which defaults requests get."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw.models.sampling_defaults import SETTINGS, read_sampling_defaults
from llamafw.plugins import Plugins
from llamafw.settings import options

SAMPLERS = Plugins().registry("sampler")
RECOMMENDED = {
    "general.sampling.temp": 0.6,
    "general.sampling.top_k": 20,
    "general.sampling.top_p": float(np.float32(0.95)),
    "general.sampling.penalty_repeat": 1.05,
    "general.sampling.sequence": "top-k;top_p;temperature",
}


def read(**values: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the defaults, and the lines that were logged."""
    lines: list[str] = []
    metadata = {f"general.sampling.{key}": value for key, value in values.items()}
    return dict(read_sampling_defaults(metadata, SAMPLERS, lines.append)), lines


def test_keys_of_llama_cpp_are_read() -> None:
    found, lines = read(
        sequence="penalties;dry;temperature",
        top_k=20,
        top_p=0.9,
        min_p=0.01,
        xtc_probability=0.5,
        xtc_threshold=0.2,
        temp=0.7,
        penalty_last_n=32,
        penalty_repeat=1.1,
        mirostat=2,
        mirostat_tau=4.0,
        mirostat_eta=0.2,
    )
    assert found == {
        "samplers": ["penalties", "dry", "temperature"],
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.01,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.2,
        "temperature": 0.7,
        "repeat_last_n": 32,
        "repeat_penalty": 1.1,
        "mirostat": 2,
        "mirostat_tau": 4.0,
        "mirostat_eta": 0.2,
    }
    assert lines == []


def test_other_keys_are_no_defaults() -> None:
    assert read(unknown=1) == ({}, [])
    assert read_sampling_defaults({"general.name": "x"}, SAMPLERS, print) == {}


def test_numbers_become_the_decimals_that_were_rounded() -> None:
    assert read(top_p=float(np.float32(0.95)), temp=1)[0] == {"top_p": 0.95, "temperature": 1.0}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("top_p", 7.0, "general.sampling.top_p: 7.0 is out of range (from 0 to 1)"),
        ("temp", float("nan"), "general.sampling.temp: nan is out of range"),
        ("temp", "hot", "general.sampling.temp: 'hot' is not a number"),
        ("temp", True, "general.sampling.temp: True is not a number"),
        ("top_k", 20.0, "general.sampling.top_k: 20.0 is not a whole number"),
        ("mirostat", 3, "general.sampling.mirostat: 3 is out of range"),
        ("sequence", "top_k;tpo_p", "general.sampling.sequence: sampler 'tpo_p' does not exist; did you mean 'top_p'"),
        ("sequence", 3, "general.sampling.sequence: 3 is not a list of samplers"),
    ],
)
def test_invalid_values_are_logged_and_ignored(key: str, value: Any, message: str) -> None:
    found, (line,) = read(**{key: value, "min_p": 0.1})
    assert found == {"min_p": 0.1}
    assert line.startswith(message)
    assert line.endswith("this recommendation of the model file is ignored")


def test_every_key_is_the_default_of_a_field() -> None:
    assert all(options()[name].request_field for name in SETTINGS.values())


async def generation_settings(serve: Any, model: Path, **settings: Any) -> dict[str, Any]:
    async with serve(model=model, **settings) as client:
        found: dict[str, Any] = (await client.get("/props")).json()["default_generation_settings"]
    return found


async def test_props_show_what_the_file_recommends(serve: Any, write_model: Callable[..., Path]) -> None:
    found = await generation_settings(serve, write_model(metadata=RECOMMENDED))
    assert found["params"]["temperature"] == found["temperature"] == 0.6
    assert (found["top_k"], found["top_p"], found["repeat_penalty"]) == (20, 0.95, 1.05)
    assert found["samplers"] == ["top_k", "top_p", "temperature"]
    assert found["min_p"] == 0.05


async def test_flags_take_precedence_over_the_file(serve: Any, write_model: Callable[..., Path]) -> None:
    flags = {"temp": 0.8, "top_k": 0, "samplers": "top_p;temperature"}
    found = await generation_settings(serve, write_model(metadata=RECOMMENDED), **flags)
    assert (found["temperature"], found["top_k"], found["top_p"]) == (0.8, 0, 0.95)
    assert found["samplers"] == ["top_p", "temperature"]


async def test_api_document_has_the_defaults(serve: Any, write_model: Callable[..., Path]) -> None:
    async with serve(model=write_model(metadata=RECOMMENDED), top_k=7) as client:
        schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    for name in ("CompletionRequest", "ChatCompletionRequest"):
        fields = schemas[name]["properties"]
        assert [fields[field]["default"] for field in ("temperature", "top_k")] == [0.6, 7], name


async def test_requests_take_precedence_over_the_file(serve: Any, write_model: Callable[..., Path]) -> None:
    async with serve(model=write_model(metadata=RECOMMENDED)) as client:
        body = {"prompt": "Hello", "n_predict": 1, "temperature": 0.1, "samplers": ["temperature"]}
        settings = (await client.post("/completion", json=body)).json()["generation_settings"]
    assert (settings["temperature"], settings["top_k"]) == (0.1, 20)
    assert settings["samplers"] == ["temperature"]


async def test_greedy_recommendations_apply_to_chats(serve: Any, write_model: Callable[..., Path]) -> None:
    """With a temperature of 0, answers do not depend on the seed."""
    answers = {}
    for temperature in (0.0, 100.0):
        async with serve(model=write_model(metadata={"general.sampling.temp": temperature})) as client:
            bodies = [{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "seed": n} for n in range(3)]
            replies = [(await client.post("/v1/chat/completions", json=body)).json() for body in bodies]
        answers[temperature] = {json.dumps(reply["choices"][0]["message"]) for reply in replies}
    assert len(answers[0.0]) == 1
    assert len(answers[100.0]) > 1
