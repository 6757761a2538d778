"""Hooks that are called at start-up: settings, commands, and what plugins register."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from llamafw.hookspecs.markers import hookspec
from llamafw.interfaces import Register

# --- settings and commands --------------------------------------------------------------------------


@hookspec
def configure(options: Mapping[str, Any]) -> None:
    """Receive the settings of this plugin.

    All, once, on the main thread, before any other hook. A plugin declares its options beside its hooks, as JSON
    Schemas: ``plugin_options = {"limit": {"type": "integer", "minimum": 1, "default": 60, "description": "…"}}``. Users
    set them with ``--plugin-option NAME.limit=9`` or in a table ``[plugin.NAME]`` of the file of ``--config``. Each
    plugin gets only its own settings: ``options`` has validated values by key. A key that was not set has its default;
    without a default it is absent.
    """


@hookspec
def add_options(parser: ArgumentParser) -> None:
    """Add command line flags to ``llamafw serve`` and to the other commands that run a model.

    All, once, on the main thread, before flags are parsed. Each plugin gets a parser of its own. Values arrive as
    ``Settings.extra[dest]`` and ``BackendOptions.extra[dest]``; the ``dest`` of ``--my-flag`` is ``"my_flag"``. The
    flags are also keys of the file of ``--config``. A flag that exists already is a start-up error that names both
    plugins. Other commands have flags of their own, such as ``-d`` of ``llamafw bench``: if a plugin adds one of them,
    only that command fails.
    """


@hookspec
def register_commands(register: Register) -> None:
    """Register commands: ``register("hello", main)`` makes ``llamafw hello``.

    All, once, on the main thread, at start-up. ``main(argv: list[str]) -> int`` gets the arguments after the command
    and returns the exit code.
    """


# --- what models and requests are made of -----------------------------------------------------------
#
# All of these are called on every plugin, once, on the main thread, at start-up. Registering must be cheap, because
# every command loads every plugin: import numba, jinja2, onnxruntime and the like inside what you register, not at the
# top of the module. A name that another plugin has registered is a start-up error that names both plugins.


@hookspec
def register_samplers(register: Register) -> None:
    """Register samplers, each a `llamafw.SamplerPlugin`, usually a class: ``register("top_k", TopK)``."""


@hookspec
def register_fields(register: Register) -> None:
    """Register request fields: ``register("choice", {"type": "array", …})``, with a JSON Schema.

    The field is added to every operation that generates text, validated and documented like any other. Its value is in
    the ``body`` of `prepare_request`.
    """


@hookspec
def register_chat_formats(register: Register) -> None:
    """Register chat formats: ``register("chatml", factory)``.

    ``factory(ChatContext) -> ChatFormat`` is called when ``--chat-template chatml`` names the format.
    """


@hookspec
def register_tool_parsers(register: Register) -> None:
    """Register tool parsers: ``register("hermes", Hermes())``.

    A tool parser is registered as a `llamafw.ToolParserPlugin`, usually an object. The first one that matches the
    model's chat template is used, otherwise ``hermes``; ``--tool-parser`` selects another.
    """


@hookspec
def register_grammars(register: Register) -> None:
    """Register kinds of grammars: ``register("gbnf", factory)``.

    ``factory(GrammarContext) -> GrammarCompiler`` is called when a request first names this kind in
    `GenerateRequest.grammar`.
    """


@hookspec
def register_drafters(register: Register) -> None:
    """Register drafters, which guess the next tokens of responses: ``register("ngram-simple", factory)``.

    ``factory(DrafterContext) -> Drafter`` is called when a model loads and ``--spec-type`` names the drafter.
    """


@hookspec
def register_tokenizers(register: Register) -> None:
    """Register tokenizers: ``register("gpt2", factory)``.

    The name is the value of ``tokenizer.ggml.model`` in the model's metadata. ``factory(metadata) -> Tokenizer`` is
    called when such a model loads.
    """


@hookspec
def register_architectures(register: Register) -> None:
    """Register architectures: ``register("llama", llama)``.

    The name is the value of ``general.architecture`` in the model's metadata. ``llama(model) -> Graph``, a
    `llamafw.Architecture`, is called when such a model loads.
    """


@hookspec
def register_conversions(register: Register) -> None:
    """Register conversions of Hugging Face checkpoints: ``register("LlamaForCausalLM", llama)``.

    The name is one in the list ``architectures`` of ``config.json``. ``llama(config) -> Conversion``, a
    `llamafw.checkpoints.Convert`, is called when ``--model`` is a folder with such a checkpoint.
    """


@hookspec
def register_operators(register: Register) -> None:
    """Register operators for graphs, each a `llamafw.Operator`: ``register("wkv7", Operator(Wkv7, …))``."""


@hookspec
def register_quants(register: Register) -> None:
    """Register tensor types by ggml's names, each a `llamafw.Quant` or `llamafw.Quantizer`: ``register("Q4_1", q)``."""


@hookspec
def register_backends(register: Register) -> None:
    """Register backends: ``register("numba", factory)``.

    ``factory(BackendContext) -> Backend`` is called when a model loads and ``--backend`` or `choose_backend` names it.
    """


@hookspec
def register_error_formats(register: Register) -> None:
    """Register formats of errors by path: ``register("/v1/things", error_format)``, each a `llamafw.ErrorFormat`."""
