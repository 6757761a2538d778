"""Operators of plugins in the Numba backend: which functions it takes, how it calls them, and what it refuses."""

from __future__ import annotations

import importlib.util
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import ModelError, Operator, PluginError
from llamafw import graph as g
from llamafw.testing.batches import batch
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends.numba_cpu.backend import NumbaBackend
from llamafw_backends.numba_cpu.step_text import describe_step
from support.numba_backend import fill_with_nan, make_context

N_TOKENS, N_EMBD = 20, 64
TOKENS = [int(token) for token in np.random.default_rng(1).integers(0, 300, N_TOKENS)]


@dataclass(frozen=True, slots=True, eq=False)
class Average(g.Value):
    """A moving average of each group of 16 channels: ``s ← s + rate · (x − s)``, plus a bias."""

    x: g.Value
    bias: g.Weight | None = None
    rate: float = 0.25
    doubled: bool = False

    def infer_shape(self) -> g.Shape:
        return self.x.shape

    @property
    def state_shape(self) -> g.Shape:
        return (g.size_of(self.x) // 16, 16)

    def evaluate(self, inputs: Mapping[str, Any], run: g.Evaluation) -> Any:
        state, rows = run.state(self), []
        for x in inputs["x"]:
            state += self.rate * (x.reshape(state.shape) - state)
            row = state.reshape(-1) + (0 if self.bias is None else run.weight(self.bias))
            rows.append(2 * row if self.doubled else row)
        return np.array(rows).reshape(-1, *self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Picked(g.Value):
    """``x`` at the indices of its largest numbers, times their rank; it has no state."""

    x: g.Value
    indices: g.Value

    def infer_shape(self) -> g.Shape:
        return self.indices.shape

    def evaluate(self, inputs: Mapping[str, Any], run: g.Evaluation) -> Any:
        return np.take_along_axis(inputs["x"], inputs["indices"], -1) * np.arange(1, self.shape[0] + 1)


@dataclass(frozen=True, slots=True, eq=False)
class Counted(g.Value):
    """``x`` times the number of tokens so far: the state is a single number."""

    x: g.Value

    def infer_shape(self) -> g.Shape:
        return self.x.shape

    @property
    def state_shape(self) -> g.Shape:
        return (1,)

    def evaluate(self, inputs: Mapping[str, Any], run: g.Evaluation) -> Any:
        counts = run.state(self) + np.arange(1, len(inputs["x"]) + 1)
        run.state(self)[...] = counts[-1]
        return inputs["x"] * counts[:, None]


def average(part: int, x: Any, bias: Any, rate: float, doubled: bool, state: Any, out: Any) -> None:
    for i in range(16):
        state[i] += np.float32(rate) * (x[16 * part + i] - state[i])
        row = state[i]
        if bias is not None:
            row += bias[16 * part + i]
        out[16 * part + i] = 2 * row if doubled else row


def picked(part: int, x: Any, indices: Any, out: Any) -> None:
    out[part] = x[indices[part]] * (part + 1)


def counted(x: Any, state: Any, out: Any) -> None:
    state[0] += 1
    for i in range(len(x)):
        out[i] = x[i] * state[0]


FUNCTIONS: dict[type[g.Value], Any] = {Average: average, Picked: picked, Counted: counted}
BIAS = g.Weight("output_norm.weight", (N_EMBD,))
Build = Callable[[g.Value], g.Value]
BUILDS: dict[str, Build] = {
    "a state": Average,
    "a weight and numbers": lambda x: Average(x, BIAS, 0.5, doubled=True),
    "two of them": lambda x: Average(Average(x)),
    "indices": lambda x: Picked(x, g.top_k(x, 5)),
    "one part": Counted,
    "a slice": lambda x: Counted(g.split(x, 24, 40)[1]),
    "after attention": lambda x: g.rms_norm(Average(g.rms_norm(x, None, 1e-5) + x), None, 1e-5),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


def context_of(path: Path, build: Build, functions: Mapping[Any, Any] = FUNCTIONS, **options: Any) -> Any:
    """Return the context of a model whose hidden states are what ``build`` makes of the embedding."""

    def change(graph: g.Graph) -> g.Graph:
        embedding = next(value for value in graph if isinstance(value, g.EmbeddingLookup))
        return g.Graph(g.flat(build(embedding)), None, 64)

    operators = {kind.__name__: Operator(kind, {"numba": one}, "my:plugin") for kind, one in functions.items()}
    return replace(make_context(path, change=change, **options), operators=operators)


@contextmanager
def opened(path: Path, build: Build, functions: Mapping[Any, Any] = FUNCTIONS, **options: Any) -> Iterator[Any]:
    """Open the backend of a model, with NaN in its memory."""
    backend = NumbaBackend(context_of(path, build, functions, **options))
    try:
        fill_with_nan(backend)
        yield backend
    finally:
        backend.close()


def compute(backend: Any, sizes: list[int], slot: int = 0, others: bool = False) -> Any:
    """Return the rows of a text that is computed in batches of some sizes, with another slot in the same batches."""
    rows, first = [], 0
    for size in sizes:
        runs = [(slot, first, TOKENS[first : first + size])]
        runs += [(1 - slot, first, TOKENS[::-1][first : first + size])] if others else []
        rows.append(backend.hidden(batch(*runs))[:size].copy())
        first += size
    return np.concatenate(rows)


@pytest.mark.parametrize("name", BUILDS)
def test_functions_compute_what_the_evaluation_does(name: str, path: Path) -> None:
    context = context_of(path, BUILDS[name])
    expected, _ = g.evaluate(context.graph, TOKENS, g.read_weights(context.model, context.quants))
    with opened(path, BUILDS[name]) as backend:
        np.testing.assert_allclose(compute(backend, [N_TOKENS]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("name", BUILDS)
def test_batches_and_threads_change_no_bit(name: str, n_threads: int, path: Path) -> None:
    with opened(path, BUILDS[name]) as backend:
        whole = compute(backend, [N_TOKENS])
    assert np.isfinite(whole).all()
    for sizes in ([1] * N_TOKENS, [7, 1, 12]):
        for others in (False, True):
            with opened(path, BUILDS[name], n_threads=n_threads, n_ubatch=8) as backend:
                np.testing.assert_array_equal(compute(backend, sizes, 1, others), whole)


def test_only_the_outputs_of_operators_without_state_are_computed(path: Path) -> None:
    with opened(path, BUILDS["indices"]) as backend:
        whole = compute(backend, [N_TOKENS])
        rows = backend.hidden(batch((0, 0, TOKENS), outputs=[3, N_TOKENS - 1]))
        np.testing.assert_array_equal(rows, whole[[3, N_TOKENS - 1]])


def test_slots_go_back_to_snapshots_only(path: Path) -> None:
    """The operator's state serves its last position, and no other one of its block."""
    with opened(path, Average) as backend:
        whole = compute(backend, [N_TOKENS])
        assert backend.truncate(0, N_TOKENS - 1) == 0
        backend.hidden(batch((0, 0, TOKENS[:6])))
        backend.take_snapshot(0)
        backend.hidden(batch((0, 6, TOKENS[6:8])))
        assert backend.truncate(0, 7) == 6
        np.testing.assert_array_equal(backend.hidden(batch((0, 6, TOKENS[6:]))), whole[6:])
        assert not backend.can_cut
        assert not backend.can_shift


def test_steps_name_the_operators(path: Path) -> None:
    text = describe_step(context_of(path, Average))
    assert "Average in 4 parts, 256 bytes per slot" in text


# --- refusals


def with_layers(x: g.Value) -> g.Value:
    return g.layer_output(Average(g.layer_output(x, 0)), 1)


def test_operators_without_a_function_are_refused(path: Path) -> None:
    context = context_of(path, with_layers)
    context = replace(context, operators={"average": Operator(Average, {"other": 1}, "my:plugin")})
    with pytest.raises(ModelError) as caught:
        NumbaBackend(context)
    assert str(caught.value) == (
        f"{path}: the numba backend cannot run the operator Average in layer 1: "
        "the plugin my:plugin has registered nothing for this backend"
    )


def test_operators_of_no_plugin_are_refused(path: Path) -> None:
    context = replace(context_of(path, Average), operators={})
    with pytest.raises(ModelError, match="cannot run the operator Average: no plugin has registered it$"):
        NumbaBackend(context)


def test_token_ids_are_refused(path: Path) -> None:
    with pytest.raises(ModelError, match="operator Counted: its function cannot get the positions for the field 'x'$"):
        NumbaBackend(context_of(path, lambda x: Counted(g.POSITIONS)))


def without_out(x: Any, state: Any) -> None: ...


def with_unknown(x: Any, y: Any, state: Any, out: Any) -> None: ...


def without_state(x: Any, out: Any) -> None: ...


def with_faults(x: Any, state: Any, out: Any) -> None:
    out[0] = x.nothing


def writing(x: Any, state: Any, out: Any) -> None:
    x[0] = 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (7, "has 7 for the numba backend; it must be a function of a module"),
        (without_out, "its function without_out has no parameter 'out'"),
        (with_unknown, "its function has the parameter 'y', which is not one of the operator's fields"),
        (without_state, r"has the state_shape \(1,\), but its function has no parameter 'state'"),
        (with_faults, "its function with_faults cannot be compiled: .*nothing"),
        (writing, "its function writing cannot be compiled: .*[Rr]ead"),
    ],
)
def test_functions_that_do_not_fit_are_errors(function: Any, message: str, path: Path) -> None:
    with pytest.raises(PluginError, match=f"(?s)^plugin my:plugin: the operator Counted:? {message}"):
        NumbaBackend(context_of(path, Counted, {Counted: function}))


def test_closures_are_errors(path: Path) -> None:
    factor = 2.0

    def scaled(x: Any, state: Any, out: Any) -> None:
        out[0] = factor

    with pytest.raises(PluginError, match="must be a function of a module"):
        NumbaBackend(context_of(path, Counted, {Counted: scaled}))


def test_edited_functions_are_compiled_anew(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache of compiled code distinguishes the versions of a plugin's file, and loads the same version again."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # bytecode of a file that changes within a second stays valid
    rows = []
    unique = f"# {uuid.uuid4()}\n"  # earlier runs have left compiled code in the cache
    for factor in (2, 3, 2):
        file = tmp_path / "edited.py"
        file.write_text(f"{unique}def compute(x, state, out):\n    helper(x, out)\n\n\n{HELPER.format(factor=factor)}")
        spec = importlib.util.spec_from_file_location("edited", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "edited", module)
        spec.loader.exec_module(module)
        lines: list[str] = []
        with opened(path, Counted, {Counted: module.compute}, lines=lines) as backend:
            rows.append(compute(backend, [N_TOKENS]))
        assert any(": operator" in line for line in lines) == (len(rows) < 3)
    np.testing.assert_array_equal(rows[0], rows[2])
    np.testing.assert_allclose(rows[1], rows[0] * 1.5, rtol=1e-6)


HELPER = """\
import numba


@numba.njit
def helper(x, out):
    for i in range(len(x)):
        out[i] = x[i] * {factor}
"""
