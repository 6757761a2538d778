"""Objects that plugins register are checked at start-up; the error names the plugin and the mistake in one sentence."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamafw import LlamafwError, PluginError, Settings
from llamafw.engine.load import load_model
from llamafw.plugins import Plugins
from llamafw.server.app import build_app
from llamafw.testing.tiny import write_tiny_gguf
from support import api
from support.broken_plugins import BODY, IMPORT, hook_code, plugin_error
from support.distributions import Site

SAMPLER = """
from llamafw import hookimpl

class S:
    options = {"s": {"type": "number", "minimum": 0, "maximum": 9, "default": 0}}
    truncates = False
    @classmethod
    def create(cls, options, context): return cls() if options["s"] else None
    def apply(self, candidates): pass
    def accept(self, token): pass

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
AUTHENTICATOR = """
from llamafw import hookimpl

class Keys:
    async def authenticate(self, credentials): return None

@hookimpl
def register_authenticators(register, app): register("keys", Keys())
"""
CLASSES = """
class One:
    @hookimpl
    def server_stopping(self): pass

class Two(One): pass
"""
QUANT = """
from llamafw import hookimpl

class Quant:
    name, type_id, block_size, type_size = "mine", 8, 32, 34
    def dequantize(self, data, shape): pass

@hookimpl
def register_quants(register): register("mine", Quant())
"""
OPERATOR = """
from llamafw import Operator, hookimpl
from llamafw.graph import Value

class OfPlugin(Value): pass

@hookimpl
def register_operators(register):
    register("mine", Operator(OfPlugin, {}))
"""
APPLY = "    def apply(self, candidates): pass\n"
ACCEPT = "    def accept(self, token): pass\n"


def register(kind: str, thing: str) -> str:
    """Return the code of a plugin that registers ``thing`` as "mine"."""
    return IMPORT + hook_code(f"register_{kind}s", "register", f"register('mine', {thing})")


def load(folder: Path, code: str) -> Plugins:
    path = folder / "mine.py"
    path.write_text(code)
    return Plugins(extra=[str(path)])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            SAMPLER.replace("truncates", "truncate"),
            r"registers the sampler 's', which lacks truncates \(see llamafw.Sam",
        ),
        (SAMPLER.replace("def create", "def make"), r"registers the sampler 's', which lacks create\(\)"),
        (SAMPLER.replace("@classmethod", ""), r"sampler 's', which is a class, but create\(\) needs an instance"),
        (SAMPLER.replace(APPLY, ""), r"sampler 's', which lacks apply\(\) \(see llamafw.Sampler\)"),
        (SAMPLER.replace(ACCEPT, ""), r"sampler 's', which lacks accept\(\) \(see llamafw.Sampler\)"),
        (SAMPLER.replace(APPLY, "    apply = None\n"), r"sampler 's', which lacks apply\(\)"),
        (SAMPLER.replace(', "default": 0', ""), "the option 's' of sampler 's' of plugin .*mine.py has no default"),
        (SAMPLER.replace('"default": 0', '"default": -1'), "the default of the option 's' .* its schema: -1"),
        (SAMPLER.replace("truncates", "precedes = 'topk'; truncates"), "names 'topk', which is not .*mean 'top_k'"),
        (
            SAMPLER.replace('"number"', '"numbr"'),
            'the option .s. of sampler .* a valid JSON Schema: "numbr" is not one of "array", .*, "string", and',
        ),
        (SAMPLER.replace('{"s": ', '["s"] or {"s": '), "the options of sampler 's' .* must be JSON Schemas by field"),
        (OPERATION.replace('"responses"', '"response"'), 'plugin .*mine.py .*not valid at paths./x.get: "responses"'),
        (OPERATION.replace("return {", "return 'x' or {", 1), "extend_openapi must return a mapping, not 'x'"),
        (OPERATION.replace("return {", "return {'path': 1} or {", 1), "have paths, components and tags, but not path"),
        (OPERATION.replace('"operationId": "x", ', ""), "GET /x has no operationId"),
        (OPERATION.replace('"/x": {"get": ', '"x": {"get": '), "not valid at paths: .*'x' was unexpected"),
        (OPERATION.replace("return {", "return {'paths': [1]} or {", 1), r"not valid at paths: \[1\] is not of type"),
        (OPERATION.replace("return {", "return {'tags': [{1}]} or {", 1), "its API document cannot be written as JSON"),
        (OPERATION.replace('"description": "ok"', '"description": 7'), "at paths./x.get.responses.200.description: 7 "),
        (OPERATION.replace('register("x", x)', ""), "operation 'x' of plugin .*mine.py has no endpoint"),
        (OPERATION.replace("async def", "def"), "endpoint 'x' of plugin .*mine.py is not an async function"),
        (
            OPERATION.replace('register("x", x)', 'register("x", 7)'),
            r"endpoint 'x', which is not a function: 7; register",
        ),
        (AUTHENTICATOR.replace("authenticate(", "check("), r"authenticator 'keys', which lacks authenticate\(\)"),
        (AUTHENTICATOR.replace("Keys()", "Keys"), r"is a class, but authenticate\(\) needs an .*; register Keys\(…\)"),
        (register("backend", "7"), r"backend 'mine', which is not a function: 7; register factory\(BackendContext\)"),
        (register("tokenizer", "7"), r"tokenizer 'mine', which is not a function: 7; register factory\(metadata\)"),
        (register("chat_format", "7"), r"chat format 'mine', which is not a function: 7; register factory\(ChatCon"),
        (register("grammar", "7"), r"grammar 'mine', which is not a function: 7; register factory\(GrammarContext\)"),
        (
            register("architecture", "7"),
            r"architecture 'mine', which is not a function: 7; register architecture\(Model\)",
        ),
        (register("command", "7"), r"command 'mine', which is not a function: 7; register main\(argv: list\[str\]\)"),
        (
            register("tool_parser", "object()"),
            r"parser 'mine', which lacks marks, reads_all, matches\(\), create\(\), triggers\(\),",
        ),
        (register("quant", "object()"), r"lacks name, type_id, block_size, type_size, dequantize\(\)"),
        (register("operator", "7"), "operator 'mine', which is not a llamafw.Operator: 7; register Operator"),
        (
            OPERATOR.replace("OfPlugin,", "int,"),
            "operator 'mine', which has <class 'int'> as its value, which is not a",
        ),
        (OPERATOR.replace("{}", "[]"), r"operator 'mine', which has \[\] as its backends; they must be a mapping"),
        (
            OPERATOR + "    register('other', Operator(OfPlugin, {}))\n",
            r"the class OfPlugin is registered as operator 'mine' by \S*mine.py and as 'other' by \S*mine.py",
        ),
        (register("field", "{'type': 7}"), "the field 'mine' of plugin .*mine.py is not a valid JSON Schema"),
        (register("quant", "1").replace("'mine'", "''"), "registers a quant as ''; the name must be a string"),
        (register("quant", "1").replace("'mine'", "7"), "registers a quant as 7; the name must be a string"),
        (QUANT, r"the type_id 8 is used by both quant 'Q8_0' of llamafw:quants and quant 'mine' of \S*mine.py"),
        ("x = 1\n", "cannot be loaded: it implements no hook; mark its hook functions with @llamafw.hookimpl"),
        (SAMPLER.replace("@hookimpl", ""), "no hook; mark register_samplers with @llamafw.hookimpl"),
        (CLASSES.replace("@hookimpl", ""), "no hook; mark server_stopping with @llamafw.hookimpl"),
        (
            IMPORT + CLASSES.partition("class Two")[0] + "    def __init__(self, path): pass\n",
            "its class One needs arguments, but is created without any: missing a required argument: 'path'",
        ),
        (
            IMPORT + CLASSES,
            "it has several classes with hooks: One, Two; keep one of them, or name one in an entry point",
        ),
        (IMPORT + hook_code("model_loaded", "models"), "no parameter 'models'; its parameters are model, app"),
        (
            IMPORT + hook_code("request_finished", "request, finish").replace("def", "async def"),
            r"plugin .*mine.py cannot be loaded: the hook request_finished is defined with `async def`, but hooks are ",
        ),
        (
            IMPORT + hook_code("extend_openapi", "app"),
            "hook extend_openapi has no parameter 'app'; it has no parameters",
        ),
        (IMPORT + "requires_api = '>=9'\n", r"cannot be loaded: \S*mine.py requires API >=9 of llamafw, and llamafw "),
    ],
)
def test_startup_fails_and_names_the_plugin(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(LlamafwError, match=message) as caught:
        build_app(Settings(), load(tmp_path, code), api.load)
    assert "mine.py" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["no_such_module", "no_such_module.x", "json.no_such_module", "json:JSONDecoder", "no_such_file.py"]
)
def test_startup_fails_if_the_named_plugin_does_not_exist(name: str) -> None:
    message = (
        f"the file {name} does not exist" if name.endswith(".py") else "no module or installed plugin has the name"
    )
    with pytest.raises(PluginError, match=f"^plugin {name} cannot be loaded: {message}"):
        Plugins(extra=[name])


@pytest.mark.parametrize("code", [SAMPLER, OPERATION, AUTHENTICATOR])
def test_startup_succeeds_without_the_mistakes(tmp_path: Path, code: str) -> None:
    build_app(Settings(), load(tmp_path, code), api.load)


@pytest.mark.parametrize("attribute", ["    kernel = None\n", "    kernel: object\n"])
def test_a_sampler_with_a_kernel_needs_no_apply(tmp_path: Path, attribute: str) -> None:
    plugins = load(tmp_path, SAMPLER.replace(APPLY, attribute))
    assert "s" in plugins.registry("sampler")


# --- objects that factories return

BACKEND_WITHOUT_SNAPSHOTS = """
from llamafw.testing.backend import DeterministicBackend

class WithoutSnapshots(DeterministicBackend):
    can_cut = False
"""
CHAT_FORMAT = hook_code("choose_chat_format", body="return Made()")
TOOL_PARSER = """
class Parser:
    marks = ()
    reads_all = False
    def matches(self, template, call): return True
    def create(self, context): return Made()
    def triggers(self, context): return []
    def grammar(self, context): return ""
    def inline(self, messages, tools): return messages
"""


@pytest.mark.parametrize(
    ("code", "settings", "message"),
    [
        (register("backend", "lambda given: Made()"), Settings(backend="mine"), "the backend 'mine' lacks n_slots, "),
        (register("backend", "lambda given: None"), Settings(backend="mine"), "the backend 'mine' is None; it must be"),
        (
            register("backend", "WithoutSnapshots") + BACKEND_WITHOUT_SNAPSHOTS,
            Settings(backend="mine"),
            r"the backend 'mine' lacks take_snapshot\(\), snapshots\(\) \(see llamafw.SnapshotBackend\)",
        ),
        (register("tokenizer", "lambda given: Made()"), Settings(), "the tokenizer 'mine' lacks n_vocab, bos, eos, "),
        (register("architecture", "lambda given: Made()"), Settings(), "the architecture 'mine' returned <.*Graph"),
        (
            register("chat_format", "lambda given: Made()"),
            Settings(chat_template="mine"),
            r"the chat format 'mine' lacks source, render\(\)",
        ),
        (IMPORT + CHAT_FORMAT, Settings(), r"the Made that choose_chat_format returned lacks source, render\(\)"),
        (
            register("tool_parser", "Parser()") + TOOL_PARSER,
            Settings(tool_parser="mine"),
            r"the tool parser 'mine': the object that create\(\) returns lacks feed\(\), finish\(\)",
        ),
        (
            IMPORT + hook_code("open_model", body="return Made()"),
            Settings(),
            "the Made that open_model returned is not a ll",
        ),
        (
            IMPORT + hook_code("create_engine", body="return Made()"),
            Settings(),
            "the Made that create_engine .*lacks n_slots",
        ),
    ],
)
def test_objects_of_plugins_are_checked_when_the_model_loads(
    tmp_path: Path, code: str, settings: Settings, message: str
) -> None:
    changes = {"tokenizer": {"tokenizer.ggml.model": "mine"}, "architecture": {"general.architecture": "mine"}}
    metadata = next((values for kind, values in changes.items() if f"register_{kind}s" in code), {})
    model = write_tiny_gguf(tmp_path / "tiny.gguf", metadata=metadata)
    plugins = load(tmp_path, f"class Made: pass\n{code}")
    with pytest.raises(PluginError, match=f"^plugin .*mine.py: {message}"):
        load_model(model, settings, plugins, lambda line: None)


FACTORY = """
from llamafw import hookimpl

class Incomplete:
    def accept(self, token): pass

class Factory:
    options = {"s": {"type": "number", "minimum": 0, "maximum": 9, "default": 0}}
    truncates = False
    def create(self, options, context): return Incomplete() if options["s"] else None

@hookimpl
def register_samplers(register): register("s", Factory())
"""


def test_samplers_that_a_factory_creates_are_checked(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    plugins = load(tmp_path, FACTORY)
    message = (
        r"mine.py: the sampler 's' created an object of class Incomplete, which lacks apply\(\) \(see llamafw.Sampler\)"
    )
    with pytest.raises(PluginError, match=message):
        load_model(model, Settings(), plugins, lambda line: None)


async def test_an_installed_plugin_with_an_incomplete_sampler_does_not_stop_the_server(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    name = site.install("llamafw-bad", FACTORY)
    async with serve() as client:
        assert (await client.post("/completion", json=BODY)).status_code == 200
        assert plugin_error(await client.post("/completion", json={**BODY, "s": 1}), name)
    first, second = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "the sampler 's' created an object of class Incomplete, which lacks apply()" in first.getMessage()
    assert f"in plugin {name}" in second.getMessage()
