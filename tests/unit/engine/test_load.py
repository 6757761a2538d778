"""Loading a tiny model with the Numba backend: the effect of flags."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import LoadedModel, Model, ModelError, PluginError, Settings, SettingsError, hookimpl
from llamafw import graph as g
from llamafw.engine import load
from llamafw.engine.components import build_graph, make_context
from llamafw.engine.load import load_model
from llamafw.engine.machine_memory import Memory
from llamafw.plugins import Plugins
from llamafw.server.running_app import RunningApp
from llamafw.testing.backend import DeterministicBackend
from llamafw.testing.tiny import write_tiny_gguf
from support.flags import parse_settings
from support.toy_model import ToyBackend


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@contextmanager
def loaded(path: Path, log: Callable[[str], None] = lambda line: None, **settings: Any) -> Iterator[LoadedModel]:
    model = load_model(path, Settings(**{"parallel": 1, "threads": 1, **settings}), Plugins(), log)
    try:
        yield model
    finally:
        model.engine._thread.stop(60)  # type: ignore[attr-defined]  # stops the thread without an event loop


@pytest.mark.inventory("C-016", "C-044")
def test_ctx_size_is_divided_among_the_slots(tiny: Path) -> None:
    with loaded(tiny, ctx_size=100, parallel=3) as model:
        assert (model.engine.n_slots, model.engine.n_ctx) == (3, 33)


@pytest.mark.inventory("C-102")
def test_model_name_is_the_alias_or_the_file_name(tiny: Path) -> None:
    with loaded(tiny) as model:
        assert model.name == "tiny"
    with loaded(tiny, alias=("gpt-4",)) as model:
        assert model.name == "gpt-4"


@pytest.mark.inventory("P-04")
def test_warmup_runs_one_forward_pass(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = ToyBackend()
    load.warm_up(backend)
    assert len(backend.batches) == 1
    assert backend.slots[0] == []
    seen: list[Any] = []
    monkeypatch.setattr(load, "warm_up", seen.append)
    with loaded(tiny, warmup=False):
        assert seen == []
    with loaded(tiny):
        assert len(seen) == 1


def test_warmup_without_logits_computes_hidden_states() -> None:
    backend = ToyBackend()
    backend.n_vocab = 0
    load.warm_up(backend)
    assert len(backend.hidden_batches) == 1


@pytest.mark.inventory("C-114", "E-172")
def test_system_prompt_file_is_used_unchanged(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "system.txt"
    file.write_text("Be kind.\n")
    with loaded(tiny, system_prompt_file=str(file)) as model:
        assert model.system_prompt.text == "Be kind.\n"  # unchanged
        assert model.tokenizer.decode(model.system_prompt.tokens) == "Be kind.\n"
    with pytest.raises(SettingsError, match="--system-prompt-file"), loaded(tiny, system_prompt_file="/no/such/file"):
        pass


@pytest.mark.inventory("C-018", "C-019", "C-101", "C-112", "C-121")
def test_flags_reach_the_engine(tiny: Path) -> None:
    flags = "--timeout 3 --max-queue 5 -sps 0.7 -nocb -b 16 -ub 8 -cram 1 --verbose-prompt -dkvc"
    flags += " --max-queue-priority 1=4,-3=2 --priority-aging 7 --prompt-slowdown 0 --prompt-gap 35"
    with loaded(tiny) as model:
        assert model.graph is not None
        options = load.engine_options(parse_settings(*flags.split()), model.model, model.graph, Plugins(), b"id")
    assert (options.timeout, options.max_queue, options.similarity, options.continuous) == (3, 5, 0.7, False)
    assert (options.n_batch, options.n_ubatch, options.prompt_cache) == (16, 8, 1 << 20)
    assert (options.max_queue_by_priority, options.priority_aging, options.max_slowdown) == ({1: 4, -3: 2}, 7, None)
    assert options.prompt_gap == 0.035
    assert (options.log_prompts, options.log_caches) == (True, True)
    assert options.fingerprint == b"id"


@pytest.mark.inventory("E-213")
def test_saved_slots_are_bound_to_the_model_and_the_cache_type(tiny: Path, tmp_path: Path) -> None:
    with loaded(tiny) as model:
        weights = model.model.tensors["output_norm.weight"].data.view(np.float32) + np.float32(0.5)
    other = write_tiny_gguf(tmp_path / "other.gguf", tensors={"output_norm.weight": weights})

    def fingerprint(path: Path, **settings: Any) -> bytes:
        with loaded(path, **settings) as model:
            return bytes(model.engine._slot_actions._fingerprint)  # type: ignore[attr-defined]  # no other way

    assert fingerprint(tiny) == fingerprint(tiny)
    changed = [fingerprint(other), fingerprint(tiny, cache_type_k="f32"), fingerprint(tiny, cache_type_v="f32")]
    assert fingerprint(tiny) not in changed


@pytest.mark.inventory("C-046", "C-053")
def test_override_kv_and_no_mmap_apply_to_the_file(tmp_path: Path) -> None:
    def open_and_overwrite(*flags: str) -> tuple[str, bool]:
        """Return the model's name, and whether a tensor is unchanged after the file is overwritten."""
        path = write_tiny_gguf(tmp_path / "tiny.gguf")
        model = load.open_model(path, parse_settings(*flags), Plugins())
        tensor = model.tensors["output_norm.weight"]
        before = tensor.data.copy()
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
        return model.metadata["general.name"], bool((tensor.data == before).all())

    mapped = open_and_overwrite("--override-kv", "general.name=str:b", "--override-kv", "general.name=str:c")
    assert mapped == ("c", False)
    name, unchanged = open_and_overwrite("--no-mmap")
    assert name != "c"
    assert unchanged


def test_models_that_read_texts_in_both_directions_are_refused(tiny: Path) -> None:
    model = load.open_model(tiny, parse_settings("--override-kv", "llama.attention.causal=bool:false"), Plugins())
    with pytest.raises(ModelError, match="llama.attention.causal is false, but this architecture is causal"):
        build_graph(model, Plugins())


class Doubled:
    """A plugin that doubles the hidden states; it may fail, or return something else."""

    result: Any = None

    @hookimpl
    def rewrite_graph(self, model: Model, graph: g.Graph) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result or g.Graph(graph.hidden * 2.0, graph.logits, graph.n_ctx_train)


def plugins_with(*added: Doubled) -> Plugins:
    plugins = Plugins()
    for i, plugin in enumerate(added):
        plugins.pm.register(plugin, name=f"added{i}")
    return plugins


def test_plugins_change_the_graph_one_after_another(tiny: Path) -> None:
    plugins = plugins_with(Doubled(), Doubled())
    hidden = build_graph(load.open_model(tiny, Settings(), plugins), plugins).hidden
    assert isinstance(hidden, g.Scale)
    assert isinstance(hidden.x, g.Scale)
    assert isinstance(hidden.x.x, g.RMSNorm)


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (ModelError("m.gguf: the key x is unknown"), ModelError, r"^m\.gguf: the key x is unknown$"),
        (g.GraphError("rows do not fit"), ModelError, r"tiny\.gguf: rows do not fit$"),
        (KeyError("x"), PluginError, "plugin added0 failed in rewrite_graph: KeyError"),
        ("text", PluginError, "plugin added0: rewrite_graph returned 'text', not a llamafw.graph.Graph"),
    ],
)
def test_plugin_that_cannot_change_the_graph_refuses_the_model(
    result: Any, error: type[Exception], message: str, tiny: Path
) -> None:
    plugin = Doubled()
    plugin.result = result
    plugins = plugins_with(plugin)
    with pytest.raises(error, match=message):
        build_graph(load.open_model(tiny, Settings(), plugins), plugins)


@pytest.mark.inventory("C-020", "E-018")
@pytest.mark.parametrize(("flag", "field", "kept"), [(None, None, 0), (3, None, 3), (3, 1, 1)])
def test_keep_is_the_default_of_n_keep(tiny: Path, flag: int | None, field: int | None, kept: int) -> None:
    plugins, settings = Plugins(), Settings(keep=flag)
    with loaded(tiny) as model:
        app = RunningApp(settings, plugins, {})
        app.model = model
        request = app.prepare({} if field is None else {"n_keep": field}, (1, 2, 3, 4))
    assert request.n_keep == kept


def test_folder_without_a_plugin_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder without config.json, and no plugin can open it"):
        load_model(tmp_path, Settings(), Plugins(), lambda line: None)


class PluginEngine:
    """A plugin that runs every model on its own engine."""

    n_slots, n_ctx, failed = 3, 77, False
    generate = embed = stats = slots = save_slot = restore_slot = erase_slot = stop = lambda self: None

    @hookimpl
    def create_engine(self, model: Any, tokenizer: Any, settings: Settings, finished: Any) -> Any:
        self.arguments = model.path.name, tokenizer.n_vocab, settings.parallel
        finished(request="r", finish="f")
        return self

    @hookimpl
    def request_finished(self, request: Any, finish: Any) -> None:
        self.finished = request, finish


def test_plugin_engine_needs_no_backend_or_architecture(tmp_path: Path) -> None:
    strange = {"general.architecture": "unheard-of", "llama.block_count": None}
    path = write_tiny_gguf(tmp_path / "tiny.gguf", metadata=strange)
    plugins, engine = Plugins(), PluginEngine()
    plugins.pm.register(engine, name="test:engine")
    loaded = load_model(path, Settings(parallel=3, backend="none"), plugins, lambda line: None)
    assert loaded.engine is engine  # type: ignore[comparison-overlap]  # it has the attributes that load_model needs
    assert loaded.graph is None
    assert engine.arguments == ("tiny.gguf", loaded.tokenizer.n_vocab, 3)
    assert engine.finished == ("r", "f")
    with pytest.raises(SettingsError, match="--prompt: prompts cannot be preloaded"):
        load_model(path, Settings(prompt="x"), plugins, lambda line: None)
    with pytest.raises(SettingsError, match="--requantize: matrices cannot be rounded, because a plugin's engine"):
        load_model(path, Settings(requantize="q8_0"), plugins, lambda line: None)
    flags: dict[str, dict[str, Any]] = {
        "--cache-disk": {"cache_disk": "x"},
        "--cache-reuse": {"cache_reuse": 1},
        "--sleep-idle-seconds": {"sleep_idle_seconds": 0},
        "--fit": {"fit": True},
        "--numba-activations int8": {"extra": {"numba_activations": "int8"}},
    }
    for flag, settings in flags.items():
        with pytest.raises(SettingsError, match=f"{flag}: not possible, because a plugin's engine runs this model"):
            load_model(path, Settings(**settings), plugins, lambda line: None)


def test_no_jinja_does_not_change_the_chat_template(tiny: Path) -> None:
    with loaded(tiny, jinja=False) as model, loaded(tiny) as other:
        assert model.chat.source
        assert model.chat.source == other.chat.source


@pytest.mark.inventory("C-041", "C-042")
def test_cache_types_reach_the_backend(tiny: Path) -> None:
    for keys, values in (("f16", "f32"), ("f32", "f16")):
        with loaded(tiny, cache_type_k=keys, cache_type_v=values) as model:
            engine: Any = model.engine
            assert engine._backend.describe()["cache_types"] == f"{keys}/{values}"


def test_a_model_without_a_mapped_file_cannot_sleep(tiny: Path) -> None:
    with pytest.raises(SettingsError, match="--sleep-idle-seconds: a model that is loaded with --no-mmap"):
        load_model(tiny, Settings(sleep_idle_seconds=1, mmap=False), Plugins(), lambda line: None)


def test_a_backend_with_its_own_memory_is_not_checked(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Factory:
        has_own_memory = True

        def __call__(self, context: Any) -> Any:
            return DeterministicBackend(context)

    monkeypatch.setattr("llamafw.engine.memory_fit.read_memory", lambda: Memory(2**40, 1))
    plugins = Plugins()
    plugins.registry("backend").add("remote", Factory(), owner="test")
    with pytest.raises(SettingsError, match="--fit: the backend 'remote' has a memory of its own"):
        load_model(tiny, Settings(backend="remote", fit=True), plugins, lambda line: None)
    model = load_model(tiny, Settings(backend="remote"), plugins, lambda line: None)
    model.engine._thread.stop(60)  # type: ignore[attr-defined]  # as above
    with pytest.raises(SettingsError, match="the server needs about"):
        load_model(tiny, Settings(threads=1), Plugins(), lambda line: None)


def test_model_is_loaded_again_only_if_it_still_fits(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_free = 2**40
    monkeypatch.setattr("llamafw.engine.memory_fit.read_memory", lambda: Memory(2**40, n_free))
    monkeypatch.setattr(load, "make_backend", lambda *given: ToyBackend())
    plugins, settings = Plugins(), Settings(sleep_idle_seconds=0, warmup=False)
    model = load.open_model(tiny, settings, plugins)
    context = make_context(model, build_graph(model, plugins), settings, plugins, lambda line: None)
    backend: Any = load.load_backend("numba", context, settings, plugins)
    backend.unload()
    n_free = 2**20
    with pytest.raises(SettingsError, match=r"the server needs about .* of memory"):
        backend.load()
    assert not backend.is_loaded
    n_free = 2**40
    backend.load()
    assert backend.is_loaded


@pytest.mark.skipif(os.name == "nt", reason="mapped files cannot be changed on Windows")
def test_model_is_loaded_again_only_if_its_file_has_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    data = path.read_bytes()
    monkeypatch.setattr(load, "make_backend", lambda *given: ToyBackend())
    plugins, settings = Plugins(), Settings(sleep_idle_seconds=0, warmup=False)
    model = load.open_model(path, settings, plugins)
    context = make_context(model, build_graph(model, plugins), settings, plugins, lambda line: None)
    backend: Any = load.load_backend("numba", context, settings, plugins)

    def overwrite(contents: bytes) -> None:
        with path.open("r+b") as file:  # as cp does; the file is the same
            file.truncate(len(contents))
            file.write(contents)

    half = len(data) // 2
    for contents, words in ((data[:half], "truncated"), (data[:half] + bytes(len(data) - half), "overwritten")):
        backend.unload()
        overwrite(contents)
        with pytest.raises(ModelError, match=f"the file was {words} after the model was loaded"):
            backend.load()
        overwrite(data)
        backend.load()
    backend.unload()
    path.write_bytes(data)
    (other := tmp_path / "other.gguf").write_bytes(data[:half])
    other.replace(path)  # the mapped file is still there
    backend.load()
    assert backend.is_loaded
