"""What a server needs is counted before loading; what does not fit is refused, or fitted with --fit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

import llamafw.graph as g
from llamafw import BackendOptions, Model
from llamafw.engine.components import build_graph
from llamafw.engine.load import load_model, open_model
from llamafw.engine.machine_memory import Memory, read_memory
from llamafw.engine.memory_check import slot_bytes
from llamafw.engine.memory_estimate import cpu_options, estimate
from llamafw.engine.memory_fit import check_memory, fit
from llamafw.errors import SettingsError
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.testing.tiny import write_tiny_gguf

MIB, GIB = 2**20, 2**30


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, g.Graph]:
    """A tiny model and its graph."""
    plugins = Plugins()
    model = open_model(write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf"), Settings(), plugins)
    return model, build_graph(model, plugins)


def table(n: int) -> g.Parameter:
    """Return an embedding of ``n`` numbers."""
    return g.Parameters({"embedding.weight": (50, n)})["embedding"]


def wide(n_ctx_train: int = 100_000) -> g.Graph:
    """Return a graph whose keys and values have 2 x 512 numbers: 2 KiB in a cache of f16."""
    x = g.heads(g.embedding(g.TOKENS, table(512)), 8)
    return g.Graph(g.flat(g.attention(x, g.cache(x, x), 1.0)), None, n_ctx_train)


def model_of(n_bytes: int) -> Model:
    return SimpleNamespace(n_bytes=n_bytes, tensors={})  # type: ignore[return-value]  # nothing else is used


def memory(available: int, total: int = 1000 * GIB) -> Memory:
    return Memory(total, available)


# --- the estimate


def test_estimate_has_weights_and_full_slots(opened: tuple[Model, g.Graph]) -> None:
    model, graph = opened
    options = BackendOptions(n_slots=3, n_ctx=500, n_ubatch=64, n_snapshots=1)
    found = estimate(model, graph, options)
    assert found.weights == sum(tensor.n_bytes for tensor in model.tensors.values())
    assert found.cache == slot_bytes(graph, options).total(options)
    assert found.total == found.weights + found.cache + found.activations + found.program


def test_activations_are_those_that_are_needed_at_the_same_time() -> None:
    """Of a chain of values, two are needed at a time: a value and the one that it is computed from."""
    x = g.embedding(g.TOKENS, table(100))
    chain = x
    for _ in range(20):
        chain = g.activation(chain, "silu")
    options = BackendOptions(n_slots=1, n_ctx=10, n_ubatch=8, n_snapshots=1)
    n_inputs = 1  # the token
    assert estimate(model_of(0), g.Graph(chain, None, 10), options).activations == pytest.approx(
        8 * 4 * 200, abs=8 * 4 * 3 * n_inputs
    )
    assert estimate(model_of(0), g.Graph(chain + x, None, 10), options).activations >= 8 * 4 * 300


# --- refusals


def test_server_that_fits_exactly_is_accepted() -> None:
    graph, settings = wide(), Settings(ctx_size=8192, parallel=2)
    needed = estimate(model_of(GIB), graph, cpu_options(settings, graph, memory(0))).total
    assert check_memory(model_of(GIB), graph, settings, memory(needed)) is None
    with pytest.raises(SettingsError, match=r"needs about 1\.2 GiB .* \(1\.0 GiB for weights.*-c \d+ would fit"):
        check_memory(model_of(GIB), graph, settings, memory(needed - 1))


def test_weights_that_do_not_fit_are_refused_with_any_context() -> None:
    with pytest.raises(SettingsError, match=r"5\.0 GiB for weights.* 4\.0 GiB are free; a smaller type of weights"):
        check_memory(model_of(5 * GIB), wide(), Settings(), memory(4 * GIB))


def test_default_context_that_does_not_fit_is_a_warning() -> None:
    warning = check_memory(model_of(GIB), wide(10_000_000), Settings(), memory(4 * GIB))
    assert warning is not None
    assert "4 slots of 10000000 tokens" in warning
    assert "--fit" in warning


def test_loading_checks_the_memory(
    opened: tuple[Model, g.Graph], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("llamafw.engine.memory_fit.read_memory", lambda: memory(MIB))
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(SettingsError, match="the server needs about"):
        load_model(path, Settings(threads=1), Plugins(), lambda line: None)


# --- --fit


@pytest.mark.parametrize(
    ("available", "n_slots", "n_ctx"),
    [(4 * GIB, 4, 100_000), (GIB + 700 * MIB, 4, 60_000), (GIB + 217 * MIB, 2, 4096), (GIB + 100 * MIB, 1, 4096)],
)
def test_context_is_lowered_before_slots(available: int, n_slots: int, n_ctx: int) -> None:
    graph = wide()
    settings, change = fit(model_of(0), graph, Settings(fit=True), memory(available))
    options = cpu_options(settings, graph, memory(available))
    assert options.n_slots == n_slots
    if n_ctx == 100_000:
        assert change is None
        return
    assert change is not None
    assert f"{options.n_slots} slot{'s' * (n_slots > 1)} of {options.n_ctx} tokens instead of 4 of 100000" in change
    assert options.n_ctx >= n_ctx
    if available > GIB + 200 * MIB:  # else not even the smallest context fits
        assert estimate(model_of(0), graph, options).total <= available - GIB
        larger = Settings(ctx_size=(options.n_ctx + 256) * n_slots, parallel=n_slots)
        assert estimate(model_of(0), graph, cpu_options(larger, graph, memory(0))).total > available - GIB


@pytest.mark.inventory("V-06")
def test_fit_target_is_left_free() -> None:
    graph = wide(1_000_000)
    sizes = []
    for target in (0, 1024):
        settings, _ = fit(model_of(0), graph, Settings(fit=True, fit_target=target), memory(2 * GIB))
        sizes.append(estimate(model_of(0), graph, cpu_options(settings, graph, memory(0))).total)
    assert sizes[0] <= 2 * GIB
    assert sizes[1] <= GIB
    assert sizes[0] - sizes[1] > 0.9 * GIB


def test_fit_keeps_what_the_user_sets() -> None:
    for settings in (Settings(ctx_size=10**7, fit=True), Settings(ctx_size=10**7, parallel=2, fit=True)):
        assert fit(model_of(0), wide(), settings, memory(2 * GIB)) == (settings, None)
    changed, _ = fit(model_of(0), wide(), Settings(parallel=8, fit=True), memory(GIB + 256 * MIB))
    assert changed.parallel == 8


# --- the memory of the machine


def write_files(root: Path, **contents: str) -> None:
    for name, text in contents.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_limit_of_a_control_group_counts(tmp_path: Path) -> None:
    base = "sys/fs/cgroup"
    files = {
        "proc/self/cgroup": "0::/pod/box\n",
        f"{base}/pod/memory.max": str(100 * MIB),
        f"{base}/pod/memory.current": str(80 * MIB),
        f"{base}/pod/memory.stat": f"anon 1\ninactive_file {20 * MIB}\nactive_file {5 * MIB}\n",
        f"{base}/pod/box/memory.max": "max\n",
        f"{base}/pod/box/memory.current": "1",
        f"{base}/pod/box/memory.stat": "",
    }
    for name, content in files.items():
        write_files(tmp_path, **{name: content})
    assert read_memory(tmp_path) == Memory(100 * MIB, 45 * MIB)


@pytest.mark.parametrize("folder", ["", "docker/abc/"])
def test_limit_of_an_older_control_group_counts(tmp_path: Path, folder: str) -> None:
    """In a container the path is that outside, and the group lies at the root."""
    base = f"sys/fs/cgroup/memory/{folder}"
    files = {
        "proc/self/cgroup": "5:devices:/x\n4:memory:/docker/abc\n0::/\n",
        f"{base}memory.limit_in_bytes": str(100 * MIB),
        f"{base}memory.usage_in_bytes": str(80 * MIB),
        f"{base}memory.stat": f"total_inactive_file {20 * MIB}\ntotal_active_file 0\n",
    }
    for name, content in files.items():
        write_files(tmp_path, **{name: content})
    assert read_memory(tmp_path) == Memory(100 * MIB, 40 * MIB)


def test_without_control_groups_the_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=100, available=40))
    monkeypatch.setattr("psutil.swap_memory", lambda: SimpleNamespace(free=7))
    assert read_memory(tmp_path) == Memory(100, 47)
