"""A context that does not fit into memory is refused; the error says how much is needed and what would fit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import llamafw.graph as g
from llamafw import BackendOptions
from llamafw.engine.backend_options import backend_options
from llamafw.engine.components import build_graph
from llamafw.engine.load import open_model
from llamafw.engine.memory_check import SlotBytes, check_kv_cache_fits, limit_snapshots, slot_bytes
from llamafw.engine.start_checks import open_and_check
from llamafw.errors import SettingsError
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.testing.tiny import write_tiny_gguf

MIB = 2**20
OPTIONS = BackendOptions(n_slots=2, n_ctx=1000, n_ubatch=200, n_snapshots=3)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def llama(path: Path) -> g.Graph:
    plugins = Plugins()
    return build_graph(open_model(path, Settings(), plugins), plugins)


def bytes_per_position(graph: g.Graph, bytes_k: float = 2, bytes_v: float = 2) -> int:
    caches = [value for value in graph if isinstance(value, g.Cache)]
    assert caches
    return round(sum(math.prod(cache.k.shape) * bytes_k + math.prod(cache.v.shape) * bytes_v for cache in caches))


@pytest.mark.parametrize(
    ("settings", "n_positions", "bytes_k", "bytes_v"),
    [
        (Settings(ctx_size=4096, parallel=1), 4096, 2, 2),
        (Settings(ctx_size=4096, parallel=4), 4096, 2, 2),
        (Settings(ctx_size=100, parallel=3), 99, 2, 2),
        (Settings(ctx_size=4096, parallel=1, cache_type_k="f32"), 4096, 4, 2),
        (Settings(ctx_size=4096, parallel=1, cache_type_k="f32", cache_type_v="f32"), 4096, 4, 4),
        (Settings(ctx_size=4096, parallel=1, cache_type_k="q8_0", cache_type_v="q4_0"), 4096, 34 / 32, 18 / 32),
        (Settings(ctx_size=4096, parallel=1, cache_type_k="bf16", cache_type_v="q5_1"), 4096, 2, 24 / 32),
    ],
)
def test_the_cache_has_a_key_and_a_value_per_position(
    llama: g.Graph, settings: Settings, n_positions: int, bytes_k: float, bytes_v: float
) -> None:
    options = backend_options(settings, llama.n_ctx_train)
    n_bytes = slot_bytes(llama, options).total(options)
    assert n_bytes == n_positions * bytes_per_position(llama, bytes_k, bytes_v)


def test_a_context_that_fits_exactly_is_accepted(llama: g.Graph) -> None:
    settings = Settings(ctx_size=1024, parallel=1)
    needed = 1024 * bytes_per_position(llama)
    check_kv_cache_fits(llama, settings, needed)
    with pytest.raises(SettingsError, match="^-c 1024 needs "):
        check_kv_cache_fits(llama, settings, needed - 1)


def test_the_message_says_what_would_fit(llama: g.Graph) -> None:
    memory = 3000 * bytes_per_position(llama)
    with pytest.raises(SettingsError) as caught:
        check_kv_cache_fits(llama, Settings(ctx_size=100_000_000, parallel=2), memory)
    needed = 100_000_000 * bytes_per_position(llama)
    assert str(caught.value) == (
        f"-c 100000000 needs {needed / 2**30:.1f} GiB for the KV cache (2 slots of 50000000 tokens), but this machine "
        f"has {memory / 2**30:.1f} GiB of memory; -c 2816 would fit (1408 tokens for each slot; a smaller -np "
        "gives each slot more)"
    )
    check_kv_cache_fits(llama, Settings(ctx_size=2816, parallel=2), memory)


@pytest.mark.parametrize(
    ("n_positions", "n_slots", "suggestion"),
    [(1000, 1, "; -c 768 would fit"), (10, 1, "; -c 10 would fit"), (10, 64, "; -c 10 -np 10 would fit")],
)
def test_the_suggested_context_fits(llama: g.Graph, n_positions: int, n_slots: int, suggestion: str) -> None:
    memory = n_positions * bytes_per_position(llama)
    with pytest.raises(SettingsError) as caught:
        check_kv_cache_fits(llama, Settings(ctx_size=100_000, parallel=n_slots), memory)
    assert str(caught.value).endswith(suggestion)


def test_no_suggestion_if_no_context_fits(llama: g.Graph) -> None:
    with pytest.raises(SettingsError, match="no context of this model fits$"):
        check_kv_cache_fits(llama, Settings(ctx_size=100_000), 1)


def test_the_default_context_is_not_checked(llama: g.Graph) -> None:
    check_kv_cache_fits(llama, Settings(), 1)


def test_the_context_is_checked_before_the_server_listens(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=MIB, available=MIB))
    with pytest.raises(SettingsError, match=r"^-c 100000000 needs .* GiB of memory; -c \d+ would fit"):
        open_and_check(path, Settings(ctx_size=100_000_000), Plugins())


# --- models with windows and recurrent states


def mixed(*values: g.Value) -> g.Graph:
    """Return a graph that has all these values."""
    hidden = g.concat(*(g.flat(value) if len(value.shape) > 1 else value for value in values))
    return g.Graph(hidden, None, 1000)


def attention(window: int | None = None, past: g.Cache | None = None) -> g.Value:
    """Return attention with two heads of 8 numbers, whose keys and values are 16 numbers each."""
    x = g.heads(g.embedding(g.TOKENS, weight("embedding", 50, 16)), 2)
    return g.attention(x, past or g.cache(x, x), 1.0, window=window)


def weight(name: str, *shape: int) -> g.Parameter:
    return g.Parameters({f"{name}.weight": shape})[name]


def convolution() -> g.Value:
    """Return a convolution whose state is three rows of 16 numbers."""
    x = g.embedding(g.TOKENS, weight("embedding", 50, 16))
    return g.conv(x, weight("conv", 16, 4))


def test_windows_and_recurrent_states_do_not_grow_with_the_context() -> None:
    graph = mixed(attention(), attention(window=100), convolution())
    slot = slot_bytes(graph, OPTIONS)
    row, recurrent = 2 * 16 * 2, 3 * 16 * 4
    assert slot == SlotBytes(row, fixed=(100 + 200) * row + recurrent, snapshot=100 * row + recurrent)
    assert slot.total(OPTIONS) == 2 * (1000 * slot.per_position + slot.fixed + 3 * slot.snapshot)


@pytest.mark.parametrize("window", [800, 5000])
def test_short_contexts_are_kept_whole_and_need_no_snapshots(window: int) -> None:
    assert slot_bytes(mixed(attention(window=window)), OPTIONS) == SlotBytes(2 * 16 * 2, 0, 0)


def test_swa_full_keeps_all_positions() -> None:
    options = replace(OPTIONS, swa_full=True)
    assert slot_bytes(mixed(attention(window=100)), options) == SlotBytes(2 * 16 * 2, 0, 0)


def test_shared_cache_is_counted_once_and_completely_if_one_layer_reads_all_of_it() -> None:
    x = g.heads(g.embedding(g.TOKENS, weight("embedding", 50, 16)), 2)
    past = g.cache(x, x)
    for windows, expected in {
        (10, 20): SlotBytes(0, 220 * 64, 20 * 64),
        (10, None): SlotBytes(64, 0, 0),
        (None, 10): SlotBytes(64, 0, 0),
    }.items():
        graph = mixed(*(attention(window, past) for window in windows))
        assert slot_bytes(graph, OPTIONS) == expected


def test_values_that_are_part_of_the_keys_need_no_memory() -> None:
    row = g.heads(g.embedding(g.TOKENS, weight("embedding", 50, 16)), 1)
    key = g.concat(row, g.heads(g.embedding(g.TOKENS, weight("other", 50, 4)), 1))
    graph = mixed(g.attention(key, g.cache(key, row), 1.0))
    assert slot_bytes(graph, OPTIONS) == SlotBytes(20 * 2, 0, 0)


def test_snapshots_take_an_eighth_of_the_memory_at_most() -> None:
    graph = mixed(attention(), convolution())
    n_bytes = 3 * 16 * 4 * OPTIONS.n_slots  # of one snapshot of each slot
    for memory, n_snapshots in {8 * 3 * n_bytes: 3, 8 * 3 * n_bytes - 1: 2, 8 * n_bytes: 1, 0: 1, 10**9: 3}.items():
        assert limit_snapshots(OPTIONS, graph, memory).n_snapshots == n_snapshots


def test_models_without_snapshots_keep_their_options(llama: g.Graph) -> None:
    assert limit_snapshots(OPTIONS, llama, 0) == OPTIONS


def test_message_about_a_recurrent_model_says_what_would_fit() -> None:
    graph = mixed(attention(), convolution())
    memory = 64 * 2000
    with pytest.raises(SettingsError, match="; -c 1792 would fit$"):
        check_kv_cache_fits(graph, Settings(ctx_size=10_000, parallel=1), memory)
    with pytest.raises(SettingsError, match="; no context of this model fits$"):
        check_kv_cache_fits(graph, Settings(ctx_size=10_000, parallel=1), 100)


def test_states_of_plugins_operators_are_counted() -> None:
    class Kept(g.Value):
        state_shape = (3, 5)

        def infer_shape(self) -> g.Shape:
            return (4,)

    assert slot_bytes(g.Graph(Kept(), None, 64), OPTIONS) == SlotBytes(0, fixed=60, snapshot=60)
