"""Loads a model: opens the file, finds the parts that plugins provide, and starts an engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from llamafw.checkpoints import is_checkpoint, open_checkpoint
from llamafw.engine.adapter_loader import names_adapters, open_adapters
from llamafw.engine.backend_options import backend_options
from llamafw.engine.chat_probe import probe_chat
from llamafw.engine.components import (
    build_graph,
    choose_backend,
    choose_chat_format,
    choose_tool_parser,
    find_unused_flag,
    make_backend,
    make_context,
    make_tokenizer,
)
from llamafw.engine.dense_layers import read_dense_layers
from llamafw.engine.disk_cache import DiskCache
from llamafw.engine.drafters import check_prediction, create_drafters, needs_hidden
from llamafw.engine.engine import BatchingEngine
from llamafw.engine.engine_options import EngineOptions
from llamafw.engine.fingerprint import fingerprint, hash_tensors
from llamafw.engine.machine_memory import read_memory
from llamafw.engine.memory_companions import find_companions, with_adapters
from llamafw.engine.memory_estimate import NO_COMPANIONS, Companions, PartBytes
from llamafw.engine.memory_fit import check_memory, fit_into_memory, has_own_memory
from llamafw.engine.preload import preload
from llamafw.engine.rank_head import read_rank_head
from llamafw.engine.sampler_checks import check_samplers
from llamafw.engine.slot_caches import CANNOT_MOVE_CHUNKS, can_move_chunks
from llamafw.engine.speculation import SpeculationOptions
from llamafw.engine.startup_inputs import StartupInputs, read_startup_inputs
from llamafw.engine.unloadable_backend import UnloadableBackend
from llamafw.errors import GenerationError, ModelError, PluginError, RequestError, SettingsError
from llamafw.graph import Graph
from llamafw.interfaces import Backend, BackendContext, SamplerContext, Tokenizer
from llamafw.interfaces.members import check_members
from llamafw.models.check_tensors import check_tensors
from llamafw.models.file_pages import check_file_sizes, release_file_pages
from llamafw.models.find import find_model, model_id
from llamafw.models.gguf import read_gguf
from llamafw.models.overrides import apply_overrides
from llamafw.models.requantize import FLAG as REQUANTIZE
from llamafw.models.requantize import requantize
from llamafw.models.rope_settings import apply_rope_settings
from llamafw.models.sampling_defaults import read_sampling_defaults
from llamafw.models.slow_steps import log_if_slow
from llamafw.plugins import Plugins
from llamafw.plugins.failures import describe
from llamafw.sampling.chain import warm_up_samplers
from llamafw.sampling.compile_ahead import compile_ahead, mark_compiled
from llamafw.sampling.slow_calls import SlowCalls
from llamafw.serving import Engine, LoadedModel
from llamafw.settings import Settings
from llamafw.speculation_settings import PREDICTION_DRAFTER
from llamafw.types import Batch, GrammarSource, Model, SystemPrompt


def load_model(
    path: Path,
    settings: Settings,
    plugins: Plugins,
    log: Callable[[str], None],
    inputs: StartupInputs | None = None,
    model: Model | None = None,
    beside: Mapping[str, PartBytes] = MappingProxyType({}),
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
    beside : mapping of str to PartBytes
        What other models will still take of the memory, by what they are.

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
        if PREDICTION_DRAFTER in settings.drafters:
            check_prediction(model, graph)  # first, because loading takes long
        model = requantize(model, graph, settings, plugins.registry("quant"), log)
        backend = choose_backend(model, settings, plugins)
        companions = NO_COMPANIONS
        if not has_own_memory(backend, plugins):
            companions = find_companions(model, graph, settings, plugins, partial(open_header, plugins=plugins))
        settings = fit_into_memory(model, graph, settings, backend, plugins, log, companions.beside(beside))
        engine = make_engine(model, graph, tokenizer, settings, backend, plugins, log, companions)
        if inputs.grammar is not None:
            _check_grammar(engine, inputs.grammar)
    elif names_adapters(settings):
        raise SettingsError("--lora, --control-vector: a plugin's engine runs this model, which cannot have adapters")
    elif settings.requantize is not None:
        raise SettingsError(f"{REQUANTIZE}: matrices cannot be rounded, because a plugin's engine runs this model")
    elif settings.drafters:
        raise SettingsError("--spec-type: drafts cannot be verified, because a plugin's engine runs this model")
    elif flag := _engine_flag(settings, plugins):
        raise SettingsError(f"{flag}: not possible, because a plugin's engine runs this model")
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
        sampling=read_sampling_defaults(model.metadata, plugins.registry("sampler"), log),
    )
    if inputs.preload is not None and isinstance(engine, BatchingEngine):
        text, flag = inputs.preload
        log(f"{flag}: {preload(engine, loaded, text, flag)} tokens are in the cache")
    slots = f"{engine.n_slots} slot{'s' if engine.n_slots > 1 else ''}"
    log(f"{name}: {slots} of {engine.n_ctx} tokens, loaded in {time.monotonic() - started:.1f} s")
    return loaded


def open_model(path: Path, settings: Settings, plugins: Plugins) -> Model:
    """Open a model with the plugin that recognises it, otherwise as Hugging Face checkpoint or GGUF."""
    if not path.exists():
        raise ModelError(f"the model file {path} does not exist")
    model: Model | None = plugins.call_first("open_model", path=path, settings=settings)
    if model is not None and not isinstance(model, Model):
        raise PluginError(f"{plugins.describe_result('open_model', model)} is not a llamafw.Model")
    if model is None and path.is_dir():
        model = open_folder(path, settings, plugins)
    elif model is None:
        model = read_gguf(path, plugins.registry("quant"), settings.override_kv, mapped=settings.mmap)
    return apply_rope_settings(model, settings)


def open_header(settings: Settings, plugins: Plugins) -> Model:
    """Find the model that settings name, and open it without reading its tensors."""
    return open_model(find_model(settings), replace(settings, mmap=True), plugins)


def open_folder(path: Path, settings: Settings, plugins: Plugins) -> Model:
    """Open a folder that no plugin opens: a Hugging Face checkpoint."""
    if not is_checkpoint(path):
        raise ModelError(f"{path} is a folder without config.json, and no plugin can open it")

    def read_tokenizer(folder: Path, n_vocab: int) -> Mapping[str, Any] | None:
        metadata: Mapping[str, Any] | None = plugins.call_first("read_tokenizer", path=folder, n_vocab=n_vocab)
        if metadata is not None and not isinstance(metadata, Mapping):
            raise PluginError(f"{plugins.describe_result('read_tokenizer', metadata)} is not a mapping")
        return metadata

    model = open_checkpoint(path, plugins.registry("conversion"), read_tokenizer, mapped=settings.mmap)
    return replace(model, metadata=MappingProxyType(apply_overrides(dict(model.metadata), settings.override_kv)))


def make_engine(
    model: Model,
    graph: Graph,
    tokenizer: Tokenizer,
    settings: Settings,
    backend_name: str,
    plugins: Plugins,
    log: Callable[[str], None],
    companions: Companions,
) -> BatchingEngine:
    """Return the built-in engine with its backend loaded and warmed up."""
    if graph.logits is not None and tokenizer.n_vocab > graph.n_vocab:
        raise ModelError(
            f"{model.path}: the tokenizer has {tokenizer.n_vocab} tokens, but the model only {graph.n_vocab}"
        )
    samplers = plugins.registry("sampler")
    first = make_context(model, graph, settings, plugins, log)
    first = replace(first, keeps_hidden=needs_hidden(settings, plugins))
    free_memory = None if has_own_memory(backend_name, plugins) else _free_memory
    backend_context, adapters = open_adapters(first, settings, plugins, log, free_memory)
    with compile_ahead(samplers, log) as wait_for_samplers:
        backend = load_backend(backend_name, backend_context, settings, plugins, companions)
        with log_if_slow(log, "waiting for the compiled samplers"):
            wait_for_samplers()
    context = SamplerContext((), tokenizer.n_vocab, backend.n_ctx, tokenizer)
    with log_if_slow(log, "compiling samplers; later starts do not"):
        check_samplers(plugins, context)
        warm_up_samplers(samplers, context)
    mark_compiled(samplers)

    if settings.cache_reuse and not can_move_chunks(backend):
        backend.close()
        raise SettingsError(f"--cache-reuse {settings.cache_reuse}: {CANNOT_MOVE_CHUNKS}")
    drafters = create_drafters(
        backend,
        backend_name,
        model,
        graph,
        tokenizer,
        settings,
        plugins,
        lambda own: open_model(find_model(own), own, plugins),
        log,
    )
    options = backend_options(settings, graph.n_ctx_train, is_encoder=not graph.causal)
    state_id = fingerprint(model, graph, options, backend_name, backend.state_format)
    disk = None
    if settings.cache_disk is not None and not backend.whole_texts:
        folder = Path(settings.cache_disk).expanduser()
        disk = DiskCache(folder, settings.cache_disk_mib << 20, state_id, backend.n_ctx)
    return BatchingEngine(
        backend,
        tokenizer,
        samplers,
        replace(engine_options(settings, model, graph, plugins, state_id, disk), drafters=drafters),
        finished=partial(plugins.notify, "request_finished"),
        grammars=plugins.registry("grammar"),
        adapters=adapters,
        report_failure=plugins.report_failure,
    )


def load_backend(
    name: str,
    context: BackendContext,
    settings: Settings,
    plugins: Plugins,
    companions: Companions = NO_COMPANIONS,
) -> Backend:
    """Return a backend with the model loaded and warmed up; it can be unloaded if the settings want that.

    Then it is loaded again only if its file has the same size and hash, of large tensors that of samples, and if it
    still fits into the memory that is free, with its companions and the adapters that it has by then.
    """

    def load(adapted: BackendContext | None) -> Backend:
        backend = make_backend(name, replace(context, adapted=adapted), plugins)
        if settings.warmup:
            warm_up(backend)
        return backend

    if settings.sleep_idle_seconds < 0:
        return load(context.adapted)
    if not settings.mmap:
        raise SettingsError("--sleep-idle-seconds: a model that is loaded with --no-mmap cannot leave the memory")

    content = hash_tensors(context.model)

    def load_if_it_fits(adapted: BackendContext | None) -> Backend:
        check_file_sizes(context.model)
        if hash_tensors(context.model) != content:
            raise ModelError(f"{context.model.path}: the file was overwritten after the model was loaded")
        if not has_own_memory(name, plugins):
            beside = with_adapters(companions, context, adapted)
            check_memory(context.model, context.graph, settings, companions=beside)
        return load(adapted)

    release = partial(release_file_pages, context.model)
    return cast("Backend", UnloadableBackend(load_if_it_fits, release, context.adapted))


def warm_up(backend: Backend) -> None:
    """Run one token through the model; otherwise the first request would be slower than others."""
    first = np.zeros(1, np.int32)
    (backend.forward if backend.n_vocab else backend.hidden)(Batch(first, first, first, first))
    backend.truncate(0, 0)


def engine_options(
    settings: Settings, model: Model, graph: Graph, plugins: Plugins, state_id: bytes, disk: DiskCache | None = None
) -> EngineOptions:
    """Return the engine's settings; ``state_id`` is the fingerprint of saved states, ``disk`` their folder."""
    ram = settings.cache_ram
    return EngineOptions(
        n_batch=settings.batch_size,
        n_ubatch=settings.ubatch_size,
        similarity=settings.slot_prompt_similarity,
        continuous=settings.cont_batching,
        prompt_cache=None if ram == -1 else min(ram << 20, read_memory().total // 4),
        disk_cache=disk,
        sleep_after=settings.sleep_idle_seconds if settings.sleep_idle_seconds >= 0 else None,
        free_memory=_free_memory,
        max_queue=settings.max_queue,
        max_queue_by_priority=dict(settings.max_queue_priority),
        priority_aging=settings.priority_aging,
        max_slowdown=settings.prompt_slowdown,
        prompt_gap=settings.prompt_gap / 1000,
        timeout=settings.timeout,
        fingerprint=state_id,
        rank_head=read_rank_head(model, plugins.registry("quant"), graph),
        dense=read_dense_layers(model, plugins.registry("quant"), graph.n_embd),
        speculation=SpeculationOptions(settings.spec_auto, settings.spec_draft_n_min, settings.spec_draft_p_min),
        log_prompts=settings.verbose_prompt,
        log_caches=settings.dump_kv_cache,
        slow_calls=SlowCalls(partial(owner_of, plugins)),
    )


def _free_memory() -> int:
    return read_memory().available


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


def _engine_flag(settings: Settings, plugins: Plugins) -> str | None:
    """Return a flag of the settings that only the built-in engine or a backend knows."""
    given = {
        "--cache-disk": settings.cache_disk is not None,
        "--cache-reuse": settings.cache_reuse,
        "--sleep-idle-seconds": settings.sleep_idle_seconds >= 0,
        "--fit": settings.fit,
    }
    flag, _ = find_unused_flag(None, settings, plugins) or (None, "")
    return next((flag for flag, is_given in given.items() if is_given), flag)


def _check_grammar(engine: BatchingEngine, grammar: GrammarSource) -> None:
    """Compile the grammar that a flag sets; raise SettingsError if it is invalid."""
    try:
        engine.grammars.compile_now(grammar)
    except GenerationError as error:  # the compiler failed
        reason = f"{error.message}: {describe(error.__cause__ or error)}"
        raise SettingsError(f"{grammar.field}: {reason}") from error
    except RequestError as error:
        raise SettingsError(f"{grammar.field}: {error.message}") from None
