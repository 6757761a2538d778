"""From a model file to a model that answers: open, describe, tokenise, run. It decides only what hooks leave open."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from llamafw.engine.backend_options import backend_options
from llamafw.engine.engine import BatchingEngine, EngineOptions
from llamafw.engine.preload import first_prompt, preload
from llamafw.engine.rank_head import rank_head
from llamafw.errors import ModelError, RequestError, SettingsError
from llamafw.interfaces import (
    Architecture,
    Backend,
    BackendContext,
    ChatContext,
    ChatFormat,
    SamplerContext,
    Tokenizer,
    ToolParserPlugin,
)
from llamafw.models.check_tensors import check_tensors
from llamafw.models.gguf import read_gguf
from llamafw.models.overrides import parse_override
from llamafw.models.parts import whole
from llamafw.models.rope_settings import with_rope
from llamafw.options import read_file
from llamafw.plugins import Plugins
from llamafw.registry import missing
from llamafw.sampling.chain import warm_up_samplers
from llamafw.serving import Engine, LoadedModel
from llamafw.settings import Settings
from llamafw.types import BackendOptions, Batch, Decoder, GrammarSource, Model, SystemPrompt

DEFAULT_TOOL_PARSER = "hermes"  # for chat templates that no parser knows, whatever plugins are installed


@dataclass(frozen=True, slots=True)
class Given:
    """What flags and their files say, whatever the model is."""

    prompt: tuple[str, str] | None  # to be preloaded, and the flag that says it
    system_prompt: str
    grammar: GrammarSource | None
    biases: Mapping[int, float]


def read_flags(settings: Settings) -> Given:
    """Read what needs no model, so that what is wrong with it is told before one is fetched and loaded in vain.

    Files are read once: they may be pipes.

    Raises
    ------
    SettingsError
        A file cannot be read, a value cannot be understood, or flags exclude each other.
    """
    for text in settings.override_kv:
        parse_override(text)
    return Given(first_prompt(settings), first_words(settings), default_grammar(settings), settings.biases())


def load_model(
    path: Path,
    settings: Settings,
    plugins: Plugins,
    log: Callable[[str], None],
    given: Given | None = None,
    model: Model | None = None,
) -> LoadedModel:
    """Return the model in ``path``, ready to answer. Takes seconds: call it on a thread of its own.

    Parameters
    ----------
    given : Given, optional
        What `read_flags` returned, if it has been asked already.
    model : Model, optional
        The opened file, if `llamafw.engine.start_checks.open_and_check` has opened it already.

    Raises
    ------
    ModelError
        The file cannot be read, or nothing registered can run it.
    SettingsError
        A setting does not fit the model.
    """
    started = time.monotonic()
    given = given or read_flags(settings)
    prompt, grammar = given.prompt, given.grammar
    if model is None:
        model = open_model(path, settings, plugins)
    if settings.check_tensors:
        check_tensors(model, plugins.registry("quant"))
    tokenizer = make_tokenizer(model, plugins)
    chat = choose_chat_format(model, tokenizer, settings, plugins)
    tool_parser = choose_tool_parser(chat, settings, plugins)
    for token in given.biases:
        if token >= tokenizer.n_vocab:
            raise SettingsError(f"--logit-bias: token {token} is not in the vocabulary of {tokenizer.n_vocab}")
    decoder: Decoder | None = None
    finished = partial(plugins.tell, "request_finished")
    engine: Engine | None = plugins.first(
        "create_engine", model=model, tokenizer=tokenizer, settings=settings, finished=finished
    )
    if engine is None:
        decoder = describe(model, plugins)
        engine = make_engine(model, decoder, tokenizer, settings, plugins, log)
        if grammar is not None:
            check_grammar(engine, grammar)
    elif prompt is not None:
        raise SettingsError(f"{prompt[1]}: the engine of a plugin runs this model, and it has no cache of ours")
    name = settings.alias or whole(path.name)  # not the path: where things lie on the server is no business of clients
    loaded = LoadedModel(
        name=name,
        model=model,
        decoder=decoder,
        tokenizer=tokenizer,
        chat=chat,
        engine=engine,
        tool_parser=tool_parser,
        grammar=grammar,
        system_prompt=system_prompt(given.system_prompt, tokenizer),
    )
    if prompt is not None and isinstance(engine, BatchingEngine):
        log(f"{prompt[1]}: {preload(engine, loaded, *prompt)} tokens are in the cache")
    log(f"{name}: {engine.n_slots} slots of {engine.n_ctx} tokens, loaded in {time.monotonic() - started:.1f} s")
    return loaded


def open_model(path: Path, settings: Settings, plugins: Plugins) -> Model:
    """Return the opened file; GGUF unless a plugin knows better."""
    if not path.exists():
        raise ModelError(f"there is no model file {path}")
    found: Model | None = plugins.first("open_model", path=path, settings=settings)
    if found is None and path.is_dir():
        raise ModelError(f"{path} is a folder, and no plugin opens it")
    if found is None:
        found = read_gguf(path, plugins.registry("quant"), settings.override_kv, mapped=settings.mmap)
    return with_rope(found, settings)


def make_engine(
    model: Model,
    decoder: Decoder,
    tokenizer: Tokenizer,
    settings: Settings,
    plugins: Plugins,
    log: Callable[[str], None],
) -> BatchingEngine:
    """Return our own engine, its backend loaded and warm."""
    if tokenizer.n_vocab > decoder.n_vocab:
        raise ModelError(f"{model.path}: the tokenizer has {tokenizer.n_vocab} tokens, the model {decoder.n_vocab}")
    backend = make_backend(model, decoder, settings, plugins, log)
    if settings.warmup:
        warm_up(backend)
    warm_up_samplers(plugins.registry("sampler"), SamplerContext((), tokenizer.n_vocab, backend.n_ctx, tokenizer))
    return BatchingEngine(
        backend,
        tokenizer,
        plugins.registry("sampler"),
        engine_options(settings, model, decoder, plugins),
        finished=partial(plugins.tell, "request_finished"),
        grammars=plugins.registry("grammar"),
        blamed=plugins.blamed,
    )


def check_grammar(engine: BatchingEngine, grammar: GrammarSource) -> None:
    """Compile the grammar that a flag has set; SettingsError if it is wrong."""
    try:
        engine.grammars.compile_now(grammar)
    except RequestError as error:
        raise SettingsError(f"{grammar.field}: {error.message}") from None


def describe(model: Model, plugins: Plugins) -> Decoder:
    """Return the architecture's description of the model."""
    architecture: Architecture = find_registered(plugins, "architecture", model, "general.architecture")
    return architecture(model)


def make_tokenizer(model: Model, plugins: Plugins) -> Tokenizer:
    """Return the model's tokenizer."""
    tokenizer: Tokenizer = find_registered(plugins, "tokenizer", model, "tokenizer.ggml.model")(model.metadata)
    if lacking := missing(tokenizer, Tokenizer):
        raise ModelError(f"the tokenizer {model.metadata['tokenizer.ggml.model']!r} has no {', '.join(lacking)}")
    return tokenizer


def choose_chat_format(model: Model, tokenizer: Tokenizer, settings: Settings, plugins: Plugins) -> ChatFormat:
    """Return the chat format that ``--chat-template`` names, or the one the plugins choose."""
    if not settings.jinja:
        raise SettingsError("--no-jinja: chat templates are Jinja, and rendered as such; --chat-template takes another")
    formats = plugins.registry("chat_format")
    if settings.chat_template is not None and settings.chat_template in formats:
        text = {
            name: "" if token is None else tokenizer.piece(token, special=True).decode("utf-8", "replace")
            for name, token in (("bos_token", tokenizer.bos), ("eos_token", tokenizer.eos))
        }
        named: ChatFormat = formats[settings.chat_template](ChatContext(**text))
        return named
    chosen: ChatFormat | None = plugins.first("choose_chat_format", model=model, settings=settings)
    if chosen is None:
        raise SettingsError("no plugin offers a chat format for this model")
    return chosen


def warm_up(backend: Backend) -> None:
    """Run one token through the model, so that the first request finds weights and threads awake."""
    first = np.zeros(1, np.int32)
    backend.forward(Batch(first, first, first, first))
    backend.truncate(0, 0)


def engine_options(settings: Settings, model: Model, decoder: Decoder, plugins: Plugins) -> EngineOptions:
    """Return how the engine is to run."""
    ram = settings.cache_ram
    return EngineOptions(
        n_batch=settings.batch_size,
        n_ubatch=settings.ubatch_size,
        similar=settings.slot_prompt_similarity,
        continuous=settings.cont_batching,
        prompt_cache=None if ram == -1 else min(ram << 20, psutil.virtual_memory().total // 4),
        max_queue=settings.max_queue,
        timeout=settings.timeout,
        rank_head=rank_head(model, plugins.registry("quant"), decoder.n_embd),
        log_prompts=settings.verbose_prompt,
        log_cache=settings.dump_kv_cache,
        fingerprint=fingerprint(model, decoder, backend_options(settings, decoder.n_ctx_train)),
    )


def fingerprint(model: Model, decoder: Decoder, options: BackendOptions) -> bytes:
    """Return 32 bytes that tell apart models, and types of caches, that cannot read each other's states.

    Of each tensor a few bytes from its middle count: to read all would take as long as to load the model.
    """
    digest = hashlib.blake2b(digest_size=32)
    digest.update(
        repr(
            (
                decoder.n_layer,
                decoder.n_head_kv,
                decoder.n_embd_head,
                decoder.rope_frequencies.tolist(),
                decoder.rope_magnitude,
                options.cache_type_k,
                options.cache_type_v,
            )
        ).encode()
    )
    for name, tensor in sorted(model.tensors.items()):
        middle = len(tensor.data) // 2
        digest.update(f"{name} {tensor.shape} {tensor.type_name}".encode())
        digest.update(tensor.data[middle : middle + 64].tobytes())
    return digest.digest()


def first_words(settings: Settings) -> str:
    """Return the text of ``--system-prompt-file``; "" without one."""
    file = settings.system_prompt_file
    return "" if file is None else read_file("--system-prompt-file", file)


def system_prompt(text: str, tokenizer: Tokenizer) -> SystemPrompt:
    """Return a text as what stands before every prompt."""
    if not text:
        return SystemPrompt()
    tokens = tokenizer.encode(text)
    if tokenizer.add_bos and tokenizer.bos is not None and tokens[:1] != [tokenizer.bos]:
        tokens.insert(0, tokenizer.bos)
    return SystemPrompt(text, tuple(tokens))


def default_grammar(settings: Settings) -> GrammarSource | None:
    """Return what requests are held to that say nothing of it: ``--grammar``, ``--grammar-file`` or ``-j``."""
    if settings.json_schema is not None:
        if settings.grammar is not None or settings.grammar_file is not None:
            raise SettingsError("either --json-schema or --grammar can be given, but not both")
        return GrammarSource("json_schema", settings.json_schema, "--json-schema")
    text = settings.grammar or ""
    if settings.grammar_file is not None:
        text += read_file("--grammar-file", settings.grammar_file)
    return GrammarSource("gbnf", text, "--grammar") if text.strip() else None


def choose_tool_parser(chat: ChatFormat, settings: Settings, plugins: Plugins) -> ToolParserPlugin | None:
    """Return the tool parser that ``--tool-parser`` names, or the first that matches the chat template, or ours."""
    parsers, name = plugins.registry("tool_parser"), settings.tool_parser
    if name is not None and name not in parsers:
        raise SettingsError(f"--tool-parser: there is no tool parser {name!r}{parsers.suggest(name)}")
    if name is not None:
        named: ToolParserPlugin = parsers[name]
        return named
    matching = (parser for parser in parsers.values() if parser.matches(chat.source))
    return next(matching, parsers.get(DEFAULT_TOOL_PARSER))


def make_backend(
    model: Model, decoder: Decoder, settings: Settings, plugins: Plugins, log: Callable[[str], None]
) -> Backend:
    """Return the backend that ``--backend`` names or the plugins choose, with the model loaded."""
    backends = plugins.registry("backend")
    name = settings.backend or plugins.first("choose_backend", model=model, settings=settings) or "numba"
    if name not in backends:
        raise SettingsError(f"there is no backend {name!r}{backends.suggest(name)}")
    options = backend_options(settings, decoder.n_ctx_train)
    context = BackendContext(model, decoder, options, plugins.registry("quant"), log)
    backend: Backend = backends[name](context)
    if lacking := missing(backend, Backend):
        raise ModelError(f"the backend {name!r} of plugin {backends.owner(name)} has no {', '.join(lacking)}")
    return backend


def find_registered(plugins: Plugins, kind: str, model: Model, key: str) -> Any:
    """Return the plugins' architecture or tokenizer that the metadata value ``key`` names."""
    registry, name = plugins.registry(kind), model.metadata.get(key)
    if not isinstance(name, str):
        raise ModelError(f"{model.path}: the metadata have no {key}")
    if name not in registry:
        raise ModelError(f"{model.path}: no plugin provides the {kind} {name!r}{registry.suggest(name)}")
    return registry[name]
