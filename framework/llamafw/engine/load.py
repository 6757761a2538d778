"""Loads a model: opens the file, finds the parts that plugins provide, and starts an engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from llamafw.engine.backend_options import backend_options
from llamafw.engine.chat_probe import probe_chat
from llamafw.engine.components import (
    build_graph,
    choose_backend,
    choose_chat_format,
    choose_tool_parser,
    make_backend,
    make_tokenizer,
)
from llamafw.engine.engine import BatchingEngine
from llamafw.engine.engine_options import EngineOptions
from llamafw.engine.fingerprint import fingerprint
from llamafw.engine.memory_check import check_kv_cache_fits
from llamafw.engine.preload import preload
from llamafw.engine.rank_head import read_rank_head
from llamafw.engine.sampler_checks import check_samplers
from llamafw.engine.startup_inputs import StartupInputs, read_startup_inputs
from llamafw.errors import GenerationError, ModelError, PluginError, RequestError, SettingsError
from llamafw.graph import Graph
from llamafw.interfaces import Backend, SamplerContext, Tokenizer
from llamafw.interfaces.members import check_members
from llamafw.models.check_tensors import check_tensors
from llamafw.models.find import model_id
from llamafw.models.gguf import read_gguf
from llamafw.models.requantize import FLAG as REQUANTIZE
from llamafw.models.requantize import requantize
from llamafw.models.rope_settings import apply_rope_settings
from llamafw.models.slow_steps import log_if_slow
from llamafw.plugins import Plugins
from llamafw.plugins.failures import describe
from llamafw.sampling.chain import warm_up_samplers
from llamafw.sampling.compile_ahead import compile_ahead, mark_compiled
from llamafw.sampling.slow_calls import SlowCalls
from llamafw.serving import Engine, LoadedModel
from llamafw.settings import Settings
from llamafw.types import Batch, GrammarSource, Model, SystemPrompt


def load_model(
    path: Path,
    settings: Settings,
    plugins: Plugins,
    log: Callable[[str], None],
    inputs: StartupInputs | None = None,
    model: Model | None = None,
) -> LoadedModel:
    """Load the model in ``path`` and start its engine.

    This takes seconds: call it on its own thread.

    Parameters
    ----------
    path : Path
        The model file or folder.
    settings : Settings
        The server's settings.
    plugins : Plugins
        All plugins.
    log : callable
        Receives lines about the progress.
    inputs : StartupInputs, optional
        The result of `read_startup_inputs`, if it was called before.
    model : Model, optional
        The open file, if `llamafw.engine.start_checks.open_and_check` opened it before.

    Raises
    ------
    ModelError
        The file cannot be read, or no plugin can run the model.
    SettingsError
        A setting does not fit the model.
    """
    started = time.monotonic()
    inputs = inputs or read_startup_inputs(settings)
    if model is None:
        model = open_model(path, settings, plugins)
    if settings.check_tensors:
        check_tensors(model, plugins.registry("quant"))

    tokenizer = make_tokenizer(model, plugins)
    chat = choose_chat_format(model, tokenizer, settings, plugins)
    tool_parser = choose_tool_parser(chat, settings, plugins)
    for token in inputs.logit_bias:
        if token >= tokenizer.n_vocab:
            raise SettingsError(f"--logit-bias: token {token} is not in the vocabulary of {tokenizer.n_vocab}")

    graph: Graph | None = None
    finished = partial(plugins.notify, "request_finished")
    engine: Engine | None = plugins.call_first(
        "create_engine", model=model, tokenizer=tokenizer, settings=settings, finished=finished
    )
    if engine is not None:
        check_members(engine, Engine, plugins.describe_result("create_engine", engine))
    if engine is None:
        graph = build_graph(model, plugins)
        check_kv_cache_fits(graph, settings)
        model = requantize(model, graph, settings, plugins.registry("quant"), log)
        engine = make_engine(model, graph, tokenizer, settings, plugins, log)
        if inputs.grammar is not None:
            _check_grammar(engine, inputs.grammar)
    elif settings.requantize is not None:
        raise SettingsError(f"{REQUANTIZE}: matrices cannot be rounded, because a plugin's engine runs this model")
    elif inputs.preload is not None:
        raise SettingsError(
            f"{inputs.preload[1]}: prompts cannot be preloaded, because a plugin's engine runs this model"
        )

    name = settings.alias[0] if settings.alias else model_id(path)
    loaded = LoadedModel(
        name=name,
        model=model,
        graph=graph,
        tokenizer=tokenizer,
        chat=chat,
        engine=engine,
        tool_parser=tool_parser,
        grammar=inputs.grammar,
        system_prompt=make_system_prompt(inputs.system_prompt, tokenizer),
        chat_capabilities=probe_chat(chat, tokenizer),
    )
    if inputs.preload is not None and isinstance(engine, BatchingEngine):
        text, flag = inputs.preload
        log(f"{flag}: {preload(engine, loaded, text, flag)} tokens are in the cache")
    slots = f"{engine.n_slots} slot{'s' if engine.n_slots > 1 else ''}"
    log(f"{name}: {slots} of {engine.n_ctx} tokens, loaded in {time.monotonic() - started:.1f} s")
    return loaded


def open_model(path: Path, settings: Settings, plugins: Plugins) -> Model:
    """Open a model with the plugin that recognises it, otherwise as GGUF."""
    if not path.exists():
        raise ModelError(f"the model file {path} does not exist")
    model: Model | None = plugins.call_first("open_model", path=path, settings=settings)
    if model is not None and not isinstance(model, Model):
        raise PluginError(f"{plugins.describe_result('open_model', model)} is not a llamafw.Model")
    if model is None and path.is_dir():
        raise ModelError(f"{path} is a folder, and no plugin can open it")
    if model is None:
        model = read_gguf(path, plugins.registry("quant"), settings.override_kv, mapped=settings.mmap)
    return apply_rope_settings(model, settings)


def make_engine(
    model: Model,
    graph: Graph,
    tokenizer: Tokenizer,
    settings: Settings,
    plugins: Plugins,
    log: Callable[[str], None],
) -> BatchingEngine:
    """Return the built-in engine with its backend loaded and warmed up."""
    if graph.logits is not None and tokenizer.n_vocab > graph.n_vocab:
        raise ModelError(
            f"{model.path}: the tokenizer has {tokenizer.n_vocab} tokens, but the model only {graph.n_vocab}"
        )
    backend_name = choose_backend(model, settings, plugins)
    samplers = plugins.registry("sampler")
    with compile_ahead(samplers, log) as wait_for_samplers:
        backend = make_backend(backend_name, model, graph, settings, plugins, log)
        if settings.warmup:
            warm_up(backend)
        with log_if_slow(log, "waiting for the compiled samplers"):
            wait_for_samplers()
    context = SamplerContext((), tokenizer.n_vocab, backend.n_ctx, tokenizer)
    with log_if_slow(log, "compiling samplers; later starts do not"):
        check_samplers(plugins, context)
        warm_up_samplers(samplers, context)
    mark_compiled(samplers)

    options = backend_options(settings, graph.n_ctx_train)
    state_id = fingerprint(model, graph, options, backend_name, backend.state_format)
    return BatchingEngine(
        backend,
        tokenizer,
        samplers,
        engine_options(settings, model, graph, plugins, state_id),
        finished=partial(plugins.notify, "request_finished"),
        grammars=plugins.registry("grammar"),
        report_failure=plugins.report_failure,
    )


def warm_up(backend: Backend) -> None:
    """Run one token through the model; otherwise the first request would be slower than others."""
    first = np.zeros(1, np.int32)
    (backend.forward if backend.n_vocab else backend.hidden)(Batch(first, first, first, first))
    backend.truncate(0, 0)


def engine_options(settings: Settings, model: Model, graph: Graph, plugins: Plugins, state_id: bytes) -> EngineOptions:
    """Return the engine's settings; ``state_id`` is the fingerprint of saved states."""
    ram = settings.cache_ram
    return EngineOptions(
        n_batch=settings.batch_size,
        n_ubatch=settings.ubatch_size,
        similarity=settings.slot_prompt_similarity,
        continuous=settings.cont_batching,
        prompt_cache=None if ram == -1 else min(ram << 20, psutil.virtual_memory().total // 4),
        max_queue=settings.max_queue,
        timeout=settings.timeout,
        fingerprint=state_id,
        rank_head=read_rank_head(model, plugins.registry("quant"), graph.n_embd),
        log_prompts=settings.verbose_prompt,
        log_caches=settings.dump_kv_cache,
        slow_calls=SlowCalls(partial(owner_of, plugins)),
    )


def owner_of(plugins: Plugins, kind: str, name: str) -> str:
    """Return the plugin that registered something; "" for several compiled samplers, which run as one."""
    registry = plugins.registry(kind)
    return registry.owner(name) if name in registry else ""


def make_system_prompt(text: str, tokenizer: Tokenizer) -> SystemPrompt:
    """Return a tokenised system prompt; it begins with BOS if the model uses BOS."""
    if not text:
        return SystemPrompt()
    tokens = tokenizer.encode(text)
    if tokenizer.add_bos and tokenizer.bos is not None and tokens[:1] != [tokenizer.bos]:
        tokens.insert(0, tokenizer.bos)
    return SystemPrompt(text, tuple(tokens))


def _check_grammar(engine: BatchingEngine, grammar: GrammarSource) -> None:
    """Compile the grammar that a flag sets; raise SettingsError if it is invalid."""
    try:
        engine.grammars.compile_now(grammar)
    except GenerationError as error:  # the compiler failed
        reason = f"{error.message}: {describe(error.__cause__ or error)}"
        raise SettingsError(f"{grammar.field}: {reason}") from error
    except RequestError as error:
        raise SettingsError(f"{grammar.field}: {error.message}") from None
