"""What an author is told who gets something wrong: one sentence, with the plugin's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamafw import LlamafwError, Settings
from llamafw.engine.load import load_model
from llamafw.plugins import Plugins
from llamafw.server.app import build_app
from support import api
from support.tiny import write_tiny_gguf

SAMPLER = """
from llamafw import hookimpl

class S:
    options = {"s": {"type": "number", "minimum": 0, "default": 0}}
    truncates = False
    @classmethod
    def create(cls, options, context): return None

@hookimpl
def register_samplers(register): register("s", S)
"""
OPERATION = """
from llamafw import hookimpl

@hookimpl
def extend_openapi():
    return {"paths": {"/x": {"get": {"operationId": "x", "responses": {"200": {"description": "ok"}}}}}}

@hookimpl
def register_endpoints(register, app):
    async def x(call): return {}
    register("x", x)
"""
REGISTERS = "from llamafw import hookimpl\n@hookimpl\ndef register_{0}s(register): register('mine', {1})\n"


def plugin(folder: Path, text: str) -> Plugins:
    path = folder / "mine.py"
    path.write_text(text)
    return Plugins(extra=[str(path)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SAMPLER.replace("truncates", "truncate"), "registers the sampler 's', which has no truncates"),
        (SAMPLER.replace("def create", "def make"), "registers the sampler 's', which has no create"),
        (SAMPLER.replace(', "default": 0', ""), "the option 's' of sampler 's' of plugin .*mine.py has no default"),
        (SAMPLER.replace('"default": 0', '"default": -1'), "'s' of sampler .* does not allow its own default, -1"),
        (SAMPLER.replace("truncates", "precedes = 'topk'; truncates"), "precedes 'topk', .*did you mean 'top_k'"),
        (SAMPLER.replace('"number"', '"numbr"'), "the option 's' of sampler .* is no JSON Schema: \"numbr\""),
        (SAMPLER.replace('{"s": ', '["s"] or {"s": '), "the options of sampler 's' .* not fields"),
        (OPERATION.replace('"responses"', '"response"'), 'plugin .*mine.py .*not valid at paths./x.get: "responses"'),
        (OPERATION.replace("return {", "return 'x' or {", 1), "extend_openapi returned 'x', and not a mapping"),
        (OPERATION.replace("return {", "return {'path': 1} or {", 1), "has paths, components and tags, not path"),
        (OPERATION.replace('"operationId": "x", ', ""), "GET /x has no operationId"),
        (OPERATION.replace('"/x": {"get": ', '"x": {"get": '), "not valid at paths: .*'x' was unexpected"),
        (OPERATION.replace("return {", "return {'paths': [1]} or {", 1), r"not valid at paths: \[1\] is not of type"),
        (OPERATION.replace("return {", "return {'tags': [{1}]} or {", 1), "its API document is no JSON"),
        (OPERATION.replace('"description": "ok"', '"description": 7'), "at paths./x.get.responses.200.description: 7 "),
        (OPERATION.replace('register("x", x)', ""), "operation 'x' of plugin .*mine.py has no endpoint"),
        (REGISTERS.format("backend", "7"), "registers the backend 'mine', which cannot be called: 7"),
        (REGISTERS.format("tool_parser", "object()"), "'mine', which has no matches, create, grammar, inline"),
        (REGISTERS.format("quant", "object()"), "has no name, type_id, block_size, type_size, dequantize"),
        (REGISTERS.format("field", "{'type': 7}"), "the field 'mine' of plugin .*mine.py is no JSON Schema"),
    ],
)
def test_the_start_ends_with_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LlamafwError, match=message):
        build_app(Settings(), plugin(tmp_path, text), api.load)


def test_the_plugins_that_mistakes_are_made_of_are_right(tmp_path: Path) -> None:
    for text in (SAMPLER, OPERATION):
        build_app(Settings(), plugin(tmp_path, text), api.load)


@pytest.mark.parametrize(("kind", "settings"), [("backend", Settings(backend="mine")), ("tokenizer", Settings())])
def test_what_a_factory_makes_is_looked_at_too(tmp_path: Path, kind: str, settings: Settings) -> None:
    metadata = {"tokenizer.ggml.model": "mine"} if kind == "tokenizer" else {}
    model = write_tiny_gguf(tmp_path / "tiny.gguf", metadata=metadata)
    plugins = plugin(tmp_path, REGISTERS.format(kind, "lambda given: object()"))
    with pytest.raises(LlamafwError, match=f"the {kind} 'mine' .*has no n_"):
        load_model(model, settings, plugins, lambda line: None)
