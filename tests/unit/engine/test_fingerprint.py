"""Fingerprints of saved states: each fact that a state depends on changes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from checkpoints import Checkpoint, all_checkpoints, write
from llamafw import BackendOptions, Model, Tensor
from llamafw.engine.fingerprint import fingerprint
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins

EMBEDDING = g.embedding(g.TOKENS, g.Parameter(g.Weight("token_embd.weight", (100, 16))))
GRAPH = g.Graph(EMBEDDING, None, 64)
SMALL, LARGE = np.zeros(100, np.uint8), np.zeros(200_000, np.uint8)
CHECKPOINTS = ("llama-biases-tied", "phi3-longrope", "gpt-oss", "nemotron_h_moe", "qwen35moe")  # with many operators


def tensor(
    name: str = "output.weight", shape: tuple[int, ...] = (25,), type_name: str = "F32", data: Any = SMALL
) -> Tensor:
    return Tensor(name, shape, type_name, data)


def state_id(
    graph: g.Graph = GRAPH,
    options: BackendOptions = BackendOptions(),  # noqa: B008  # frozen
    backend: str = "numba",
    state_format: str = "numba-1",
    tensors: tuple[Tensor, ...] = (tensor(), tensor("token_embd.weight", (50_000,), data=LARGE)),
) -> bytes:
    model = Model(Path("model.gguf"), {}, {tensor.name: tensor for tensor in tensors}, 0)
    return fingerprint(model, graph, options, backend, state_format)


def flipped(data: np.ndarray[Any, np.dtype[np.uint8]], i: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    data = data.copy()
    data[i] ^= 1
    return data


def test_fingerprint_is_reproducible() -> None:
    assert state_id() == state_id()
    assert len(state_id()) == 32


def others(field: Any) -> Iterator[Any]:
    """Yield values that differ from a field of an operator in one number, as little as possible."""
    match field:
        case None | g.Value():
            return
        case bool():
            yield not field
        case int():
            yield field + 1
        case float():
            yield float(np.nextafter(field, np.inf))
        case str():
            yield field + "_"
        case np.ndarray():
            for i in range(len(field)):
                changed = field.copy()
                changed[i] = np.nextafter(changed[i], np.inf)
                yield changed
        case tuple():
            for i, part in enumerate(field):
                yield from ((*field[:i], other, *field[i + 1 :]) for other in others(part))
        case g.Weight():
            yield dataclasses.replace(field, name=field.name + "_")
            yield dataclasses.replace(field, first=field.first + 1, last=(field.last or field.shape[0]) + 1)
        case g.Rotation():
            for name in field.__dataclass_fields__:
                yield from (dataclasses.replace(field, **{name: other}) for other in others(getattr(field, name)))
        case _:
            raise TypeError(type(field))


def changed(value: g.Value) -> Iterator[tuple[str, g.Value]]:
    """Yield an operator with each of its numbers changed, and the name of the changed field."""
    for field in dataclasses.fields(value):
        for other in others(getattr(value, field.name)) if field.init else ():
            copy = object.__new__(type(value))
            for name in type(value).__dataclass_fields__:
                object.__setattr__(copy, name, other if name == field.name else getattr(value, name))
            yield field.name, copy


@pytest.fixture(params=[one for one in all_checkpoints() if one.name in CHECKPOINTS], ids=lambda one: one.name)
def graph(request: pytest.FixtureRequest, tmp_path: Path) -> g.Graph:
    checkpoint: Checkpoint = request.param
    plugins = Plugins()
    model = read_gguf(write(checkpoint, tmp_path / "model.gguf"), plugins.registry("quant"))
    built: g.Graph = plugins.registry("architecture")[checkpoint.architecture](model)
    return built


@pytest.mark.inventory("E-213")
def test_fingerprint_depends_on_every_number_of_the_graph(graph: g.Graph) -> None:
    seen: set[tuple[str, str]] = set()
    for value in graph:
        original = state_id(g.Graph(value, None, 64))
        for field, other in changed(value):
            where = type(value).__name__, field
            if where not in seen or field in ("rotation", "eps", "scale", "factor"):
                assert state_id(g.Graph(other, None, 64)) != original, f"{where} does not change the fingerprint"
            seen.add(where)
    assert len(seen) > 10


@pytest.mark.inventory("E-213")
def test_fingerprint_depends_on_the_connections_of_the_graph(graph: g.Graph) -> None:
    value = next(one for one in graph if isinstance(one, g.Add))
    swapped = g.Graph(g.Add(value.b, value.a), None, 64)
    assert state_id(swapped) != state_id(g.Graph(value, None, 64))


@pytest.mark.parametrize(("n_ctx", "same"), [(32, True), (64, True), (65, False), (0, True)])
def test_fingerprint_depends_on_the_frequencies_of_the_context(n_ctx: int, same: bool) -> None:
    """Of two sets of frequencies, the number of positions per slot decides which is used."""
    rotation = g.Rotation(np.ones(2), long_frequencies=np.full(2, 0.5), original_context=64)
    graph = g.Graph(g.flat(g.rope(g.heads(EMBEDDING, 4), rotation)), None, 64)
    assert (state_id(graph, BackendOptions(n_ctx=n_ctx)) == state_id(graph, BackendOptions(n_ctx=16))) == same


@pytest.mark.inventory("E-213", "C-041", "C-042")
@pytest.mark.parametrize(
    "change",
    [
        {"backend": "numpy"},
        {"state_format": "numba-2"},
        {"options": BackendOptions(cache_type_k="f32")},
        {"options": BackendOptions(cache_type_v="f32")},
    ],
)
def test_fingerprint_depends_on_backend_and_cache_types(change: dict[str, Any]) -> None:
    assert state_id(**change) != state_id()


@pytest.mark.inventory("E-213")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (tensor(), tensor(name="output_norm.weight")),
        (tensor(), tensor(shape=(5, 5))),
        (tensor(), tensor(type_name="F16")),
        (tensor(), tensor(data=SMALL[:50])),
        *((tensor(), tensor(data=flipped(SMALL, i))) for i in (0, 50, 99)),
        *((tensor(data=LARGE), tensor(data=flipped(LARGE, i))) for i in (0, 199_999)),
    ],
)
def test_fingerprint_depends_on_every_tensor(before: Tensor, after: Tensor) -> None:
    assert state_id(tensors=(before,)) != state_id(tensors=(after,))


def test_fingerprint_does_not_depend_on_how_the_model_is_run() -> None:
    options = BackendOptions(n_slots=3, n_ctx=17, n_threads=5, n_batch=7, lock_memory=True)
    assert state_id(options=options) == state_id()


def test_fingerprint_depends_on_the_states_of_operators() -> None:
    """A plugin may change what its operator keeps, while the text of the graph stays the same."""

    def graph_of(shape: g.Shape) -> g.Graph:
        class Kept(g.Value):
            state_shape = shape

            def infer_shape(self) -> g.Shape:
                return (4,)

        return g.Graph(Kept(), None, 64)

    assert state_id(graph_of((3,))) == state_id(graph_of((3,))) != state_id(graph_of((4,)))


def test_fingerprint_depends_on_the_plugins_of_operators() -> None:
    """Operators of two plugins may have the same name."""

    def graph_of(module: str) -> g.Graph:
        class Kept(g.Value):
            def infer_shape(self) -> g.Shape:
                return (4,)

        Kept.__module__ = module
        return g.Graph(Kept(), None, 64)

    assert state_id(graph_of("mine")) == state_id(graph_of("mine")) != state_id(graph_of("yours"))
