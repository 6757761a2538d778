"""A context that does not fit into memory is refused; the error says how much is needed and what would fit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

import llamafw.graph as g
from llamafw.engine.backend_options import backend_options
from llamafw.engine.components import build_graph
from llamafw.engine.load import open_model
from llamafw.engine.memory_check import check_kv_cache_fits, slot_bytes
from llamafw.engine.start_checks import open_and_check
from llamafw.errors import SettingsError
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.testing.tiny import write_tiny_gguf
from llamafw.types import BackendOptions

MIB = 2**20


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def graph(path: Path) -> g.Graph:
    plugins = Plugins()
    return build_graph(open_model(path, Settings(), plugins), plugins)


N_LAYER, N_HEAD_KV, SIZE = 2, 2, 16  # of the tiny model


def bytes_per_position(bytes_k: int = 2, bytes_v: int = 2) -> int:
    return N_LAYER * N_HEAD_KV * SIZE * (bytes_k + bytes_v)


@pytest.mark.parametrize(
    ("settings", "n_positions", "bytes_k", "bytes_v"),
    [
        (Settings(ctx_size=4096, parallel=1), 4096, 2, 2),
        (Settings(ctx_size=4096, parallel=4), 4096, 2, 2),
        (Settings(ctx_size=100, parallel=3), 99, 2, 2),
        (Settings(ctx_size=4096, parallel=1, cache_type_k="f32"), 4096, 4, 2),
        (Settings(ctx_size=4096, parallel=1, cache_type_k="f32", cache_type_v="f32"), 4096, 4, 4),
    ],
)
def test_the_cache_has_a_key_and_a_value_per_position(
    graph: g.Graph, settings: Settings, n_positions: int, bytes_k: int, bytes_v: int
) -> None:
    options = backend_options(settings, graph.n_ctx_train)
    n_bytes = options.n_slots * slot_bytes(graph, options, options.n_ctx)
    assert n_bytes == n_positions * bytes_per_position(bytes_k, bytes_v)


def attention(window: int | None, k: int = 3, v: int = 5) -> g.Value:
    """Return attention with one head of keys of size ``k`` and values of size ``v``."""
    keys, values = (
        g.heads(g.embedding(g.TOKENS, g.Parameter(g.Weight(f"{name}.weight", (9, n)))), 1)
        for name, n in (("k", k), ("v", v))
    )
    return g.flat(g.attention(keys, g.cache(keys, values), 1.0, window=window))


def test_keys_and_values_may_have_different_sizes_and_windows() -> None:
    """A cache for a window does not grow with the context."""
    options = BackendOptions(cache_type_v="f32")
    graph = g.Graph(attention(None) + attention(8), None, 64)
    assert [state.window for state in g.states(graph)] == [None, 8]
    for n_ctx, n_positions in ((4, 8), (8, 16), (100, 108)):
        assert slot_bytes(graph, options, n_ctx) == n_positions * (3 * 2 + 5 * 4)


def test_states_of_fixed_size_have_copies_for_snapshots() -> None:
    x = g.embedding(g.TOKENS, g.Parameter(g.Weight("rows.weight", (9, 6))))
    graph = g.Graph(g.conv(x, g.Parameter(g.Weight("kernel.weight", (6, 4)))), None, 64)
    for n_ctx in (1, 1000):
        assert slot_bytes(graph, BackendOptions(n_snapshots=2), n_ctx) == 3 * (3 * 6 * 4)


def test_a_context_that_fits_exactly_is_accepted(graph: g.Graph) -> None:
    settings = Settings(ctx_size=1024, parallel=1)
    needed = 1024 * bytes_per_position()
    check_kv_cache_fits(graph, settings, needed)
    with pytest.raises(SettingsError, match="^-c 1024 needs "):
        check_kv_cache_fits(graph, settings, needed - 1)


def test_the_message_says_what_would_fit(graph: g.Graph) -> None:
    memory = 3000 * bytes_per_position()
    with pytest.raises(SettingsError) as caught:
        check_kv_cache_fits(graph, Settings(ctx_size=100_000_000, parallel=2), memory)
    needed = 100_000_000 * bytes_per_position()
    assert str(caught.value) == (
        f"-c 100000000 needs {needed / 2**30:.1f} GiB for the KV cache (2 slots of 50000000 tokens), but this machine "
        f"has {memory / 2**30:.1f} GiB of memory; -c 2816 would fit (1408 tokens for each slot; a smaller -np "
        "gives each slot more)"
    )
    check_kv_cache_fits(graph, Settings(ctx_size=2816, parallel=2), memory)


@pytest.mark.parametrize(
    ("n_positions", "n_slots", "suggestion"),
    [(1000, 1, "; -c 768 would fit"), (10, 1, "; -c 10 would fit"), (10, 64, "; -c 10 -np 10 would fit")],
)
def test_the_suggested_context_fits(graph: g.Graph, n_positions: int, n_slots: int, suggestion: str) -> None:
    memory = n_positions * bytes_per_position()
    with pytest.raises(SettingsError) as caught:
        check_kv_cache_fits(graph, Settings(ctx_size=100_000, parallel=n_slots), memory)
    assert str(caught.value).endswith(suggestion)


def test_no_suggestion_if_no_context_fits(graph: g.Graph) -> None:
    with pytest.raises(SettingsError, match="no context of this model fits$"):
        check_kv_cache_fits(graph, Settings(ctx_size=100_000), 1)


def test_the_default_context_is_not_checked(graph: g.Graph) -> None:
    check_kv_cache_fits(graph, Settings(), 1)


def test_the_context_is_checked_before_the_server_listens(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=MIB))
    with pytest.raises(SettingsError, match=r"^-c 100000000 needs .* GiB of memory; -c \d+ would fit"):
        open_and_check(path, Settings(ctx_size=100_000_000), Plugins())
