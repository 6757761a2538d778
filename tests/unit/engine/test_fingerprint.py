"""Fingerprints of saved states: each fact that a state depends on changes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from llamafw import BackendOptions, Model, Tensor
from llamafw.engine.fingerprint import fingerprint


def graph(
    *,
    eps: float = 1e-5,
    frequencies: tuple[float, ...] = (1.0, 0.1),
    magnitude: float = 1.0,
    interleaved: bool = False,
    scale: float = 0.5,
    window: int | None = None,
    name: str = "token_embd",
    function: Any = "silu",
) -> g.Graph:
    """Return a graph with an operator of each kind that has numbers."""
    w = g.Parameters({f"{name}.weight": (100, 16), "norm.weight": (16,)})
    x = g.heads(g.rms_norm(g.embedding(g.TOKENS, w[name]), w["norm"], eps), 4)
    turned = g.rope(x, g.Rotation(np.array(frequencies), magnitude, interleaved))
    return g.Graph(
        g.activation(g.flat(g.attention(turned, g.cache(turned, x), scale, window=window)), function), None, 64
    )


SMALL, LARGE = np.zeros(100, np.uint8), np.zeros(200_000, np.uint8)


def tensor(
    name: str = "output.weight", shape: tuple[int, ...] = (25,), type_name: str = "F32", data: Any = SMALL
) -> Tensor:
    return Tensor(name, shape, type_name, data)


def state_id(
    model_graph: g.Graph | None = None,
    options: BackendOptions = BackendOptions(),  # noqa: B008  # frozen
    backend: str = "numba",
    state_format: str = "numba-1",
    tensors: tuple[Tensor, ...] = (tensor(), tensor("token_embd.weight", (50_000,), data=LARGE)),
) -> bytes:
    model = Model(Path("model.gguf"), {}, {tensor.name: tensor for tensor in tensors}, 0)
    return fingerprint(model, model_graph or graph(), options, backend, state_format)


def flipped(data: np.ndarray[Any, np.dtype[np.uint8]], i: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    data = data.copy()
    data[i] ^= 1
    return data


def test_fingerprint_is_reproducible() -> None:
    assert state_id() == state_id()
    assert len(state_id()) == 32


@pytest.mark.inventory("E-213")
@pytest.mark.parametrize(
    "change",
    [
        {"eps": float(np.nextafter(1e-5, 1))},
        {"frequencies": (1.0, float(np.nextafter(0.1, 1)))},
        {"magnitude": 1.5},
        {"interleaved": True},
        {"scale": 0.25},
        {"window": 10},
        {"name": "other_embd"},
        {"function": "gelu"},
    ],
)
def test_fingerprint_depends_on_every_number_of_the_graph(change: dict[str, Any]) -> None:
    assert state_id(graph(**change)) != state_id()


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
