"""Schemas and grammars with the default model, over HTTP."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from support.schemas import parse_and_validate

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 30, "pattern": "^[A-Z]"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "born": {"type": "string", "format": "date"},
        "email": {"type": "string", "format": "email", "maxLength": 40},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
    },
    "required": ["name", "age", "born"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, Any] = {
    "person": PERSON,
    "tree": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "v": {"type": "integer", "minimum": 0, "maximum": 9},
                    "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
                },
                "required": ["v", "next"],
                "additionalProperties": False,
            }
        },
    },
    "tuple": {
        "type": "array",
        "prefixItems": [{"enum": ["red", "green"]}, {"type": "boolean"}],
        "items": False,
        "minItems": 2,
    },
    "union": {
        "oneOf": [
            {
                "type": "object",
                "properties": {"k": {"const": "circle"}, "r": {"type": "number", "exclusiveMinimum": 0, "maximum": 10}},
                "required": ["k", "r"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {
                    "k": {"const": "square"},
                    "a": {"type": "number", "multipleOf": 0.5, "minimum": 0, "maximum": 10},
                },
                "required": ["k", "a"],
                "additionalProperties": False,
            },
        ]
    },
    "uuid": {"type": "string", "format": "uuid"},
    "pattern": {"type": "string", "pattern": "[0-9]{3}", "maxLength": 12},
}
PROMPTS = {"tree": 'Short: {"v": 1, "next": null}\nLong: {"v": 1, "next": {"v": 2, "next": null}}\nShort: '}


@pytest.mark.inventory("G-02", "E-033")
@pytest.mark.parametrize("name", SCHEMAS)
def test_responses_are_valid_against_the_schema(http: httpx.Client, name: str) -> None:
    prompt = PROMPTS.get(name, f"As an example, here is a {name} in JSON format:\n")
    ended = 0
    for seed in range(6):
        body = {"prompt": prompt, "json_schema": SCHEMAS[name], "temperature": 0.5 * seed, "seed": seed}
        answer = http.post("/completion", json={**body, "n_predict": 300}).json()
        if answer["stop_type"] != "limit":  # numbers and trees can be endless
            assert answer["stop_type"] == "eos"
            parse_and_validate(SCHEMAS[name], answer["content"].encode())
            ended += 1
    assert ended


@pytest.mark.every_backend
@pytest.mark.inventory("G-01", "E-032")
def test_eight_grammars_work_in_parallel(http: httpx.Client) -> None:
    """Each slot has its own grammar, and each choice of a request its own state."""
    grammars = [
        (f'root ::= "{letter}" [0-9]{{{n}}} "{letter}"', f"{letter}[0-9]{{{n}}}{letter}")
        for n, letter in enumerate("abcdefgh", 1)
    ]

    def ask(i: int) -> list[str]:
        body = {"prompt": "My favourite numbers: ", "grammar": grammars[i][0], "max_tokens": 32, "n": 2, "seed": i}
        choices = http.post("/v1/completions", json=body).json()["choices"]
        return [choice["text"] for choice in choices]

    with ThreadPoolExecutor(8) as pool:
        for (_, regex), texts in zip(grammars, pool.map(ask, range(8)), strict=True):
            assert len(texts) == 2
            assert all(re.fullmatch(regex, text) for text in texts), texts
