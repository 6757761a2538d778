"""Which requests use the sampler of a plugin: by its field alone, by its name, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llamafw_plugins.samplers import DEFAULT_ORDER
from support.broken_plugins import IMPORT
from support.distributions import Site

pytestmark = pytest.mark.slow

SAMPLER = """
import numpy as np

class Only:
    options = {"only": {"type": "integer", "minimum": -1, "maximum": 300, "default": -1, "description": "a token"}}
    truncates = False
    def __init__(self, token): self.token = token
    @classmethod
    def create(cls, options, context): return cls(options["only"]) if options["only"] >= 0 else None
    def apply(self, candidates):
        candidates.ids, candidates.logits = np.array([self.token], np.int32), np.zeros(1, np.float32)
    def accept(self, token): pass

@hookimpl
def register_samplers(register): register("only", Only)
"""
"""A sampler that leaves one token, whatever the model says."""

BODY = {"prompt": "Hello", "n_predict": 3, "ignore_eos": True, "return_tokens": True}
USED = [*DEFAULT_ORDER[:-1], "only", DEFAULT_ORDER[-1]]


@pytest.mark.parametrize(
    ("fields", "samplers", "is_used"),
    [
        ({"only": 70}, USED, True),
        ({"only": 70, "temperature": 0}, USED, True),
        ({"only": 70, "samplers": None}, USED, True),
        ({"only": 70, "samplers": ["only"]}, ["only"], True),
        ({"only": -1}, list(DEFAULT_ORDER), False),
        ({"only": None}, list(DEFAULT_ORDER), False),
        ({}, list(DEFAULT_ORDER), False),
        ({"only": 70, "samplers": ["top_k", "temperature"]}, ["top_k", "temperature"], False),
        ({"only": 70, "samplers": []}, [], False),
        ({"only": 70, "mirostat": 2}, ["penalties", "temperature", "mirostat"], False),
    ],
)
async def test_a_field_alone_uses_its_sampler(
    site: Site, serve: Callable[..., Any], fields: dict[str, Any], samplers: list[str], is_used: bool
) -> None:
    site.install("llamafw-only", IMPORT + SAMPLER)
    async with serve() as client:
        response = await client.post("/completion", json={**BODY, **fields})
    assert response.status_code == 200
    assert response.json()["generation_settings"]["samplers"] == samplers
    assert (response.json()["tokens"] == [70, 70, 70]) is is_used


async def test_precedes_says_where_a_sampler_is_used(site: Site, serve: Callable[..., Any]) -> None:
    site.install("llamafw-only", IMPORT + SAMPLER.replace("truncates", 'precedes = "top_k"; truncates'))
    async with serve() as client:
        changed = (await client.post("/completion", json={**BODY, "only": 70})).json()
        unchanged = (await client.post("/completion", json=BODY)).json()
    place = DEFAULT_ORDER.index("top_k")
    order = [*DEFAULT_ORDER[:place], "only", *DEFAULT_ORDER[place:]]
    assert changed["generation_settings"]["samplers"] == unchanged["generation_settings"]["samplers"] == order
    assert changed["tokens"] == [70, 70, 70] != unchanged["tokens"]


async def test_the_field_has_no_effect_if_the_flag_names_samplers(site: Site, serve: Callable[..., Any]) -> None:
    site.install("llamafw-only", IMPORT + SAMPLER)
    async with serve(samplers="top_k;temperature") as client:
        response = (await client.post("/completion", json={**BODY, "only": 70})).json()
    assert response["generation_settings"]["samplers"] == ["top_k", "temperature"]
    assert response["tokens"] != [70, 70, 70]


async def test_chat_uses_the_sampler_of_a_field_too(site: Site, serve: Callable[..., Any]) -> None:
    site.install("llamafw-only", IMPORT + SAMPLER)
    async with serve() as client:
        piece = (await client.post("/detokenize", json={"tokens": [70, 70]})).json()["content"]
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2, "only": 70}
        response = (await client.post("/v1/chat/completions", json=body)).json()
    assert response["choices"][0]["message"]["content"] == piece


async def test_document_names_the_sampler_of_each_option(site: Site, serve: Callable[..., Any]) -> None:
    site.install("llamafw-only", IMPORT + SAMPLER)
    async with serve() as client:
        schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    for name in ("CompletionRequest", "ChatCompletionRequest"):
        fields = schemas[name]["properties"]
        assert fields["only"]["x-llamafw-sampler"] == "only"
        assert fields["dry_base"]["x-llamafw-sampler"] == "dry"
        assert fields["typical_p"]["x-llamafw-sampler"] == "typ_p"
        assert "x-llamafw-sampler" not in fields["seed"]
