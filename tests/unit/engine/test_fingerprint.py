"""Fingerprints of saved states: each fact that a state depends on changes them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import BackendOptions, Decoder, Model, Tensor
from llamafw.engine.fingerprint import fingerprint

DECODER = Decoder(
    n_vocab=100,
    n_ctx_train=64,
    n_embd=16,
    n_layer=2,
    n_head=4,
    n_head_kv=2,
    n_embd_head=4,
    n_ff=32,
    norm_eps=1e-5,
    rope_frequencies=np.array([1.0, 0.1]),
    rope_magnitude=1.0,
    rope_interleaved=False,
    attention_scale=0.5,
    activation="silu",
    tensors={"token_embd": "token_embd.weight"},
)
OTHER_VALUES: dict[str, Any] = {
    "rope_frequencies": np.array([1.0, np.nextafter(0.1, 1)]),
    "rope_interleaved": True,
    "activation": "gelu",
    "tensors": {"token_embd": "output.weight"},
    "norm_eps": np.nextafter(1e-5, 1),
}
SMALL, LARGE = np.zeros(100, np.uint8), np.zeros(200_000, np.uint8)


def tensor(
    name: str = "output.weight", shape: tuple[int, ...] = (25,), type_name: str = "F32", data: Any = SMALL
) -> Tensor:
    return Tensor(name, shape, type_name, data)


def state_id(
    decoder: Decoder = DECODER,
    options: BackendOptions = BackendOptions(),  # noqa: B008  # frozen
    backend: str = "numba",
    state_format: str = "numba-1",
    tensors: tuple[Tensor, ...] = (tensor(), tensor("token_embd.weight", (50_000,), data=LARGE)),
) -> bytes:
    model = Model(Path("model.gguf"), {}, {tensor.name: tensor for tensor in tensors}, 0)
    return fingerprint(model, decoder, options, backend, state_format)


def flipped(data: np.ndarray[Any, np.dtype[np.uint8]], i: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    data = data.copy()
    data[i] ^= 1
    return data


def test_fingerprint_is_reproducible() -> None:
    assert state_id() == state_id()
    assert len(state_id()) == 32


@pytest.mark.inventory("E-213")
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Decoder)])
def test_fingerprint_depends_on_every_field_of_the_decoder(field: str) -> None:
    value = OTHER_VALUES.get(field)
    if value is None:
        value = getattr(DECODER, field) + 1
    assert state_id(dataclasses.replace(DECODER, **{field: value})) != state_id()


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
