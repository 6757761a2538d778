"""Hidden states are close to float64, and slots can be saved, restored and shifted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import LlamafwError, RequestError
from llamafw.testing.batches import batch, logits
from llamafw.testing.reference import Reference
from llamafw.testing.tiny import write_tiny_gguf
from support.numba_backend import cached_keys, cached_values, fill_with_nan, open_backend

TOKENS = [int(t) for t in np.random.default_rng(7).integers(0, 300, 60)]
TYPES = [
    ("f16", "f16"),
    ("f32", "f32"),
    ("f16", "f32"),
    ("bf16", "bf16"),
    ("q8_0", "q4_0"),
    ("q5_1", "q8_0"),
    ("q5_0", "q5_1"),
    ("q4_1", "f16"),
    ("q4_0", "iq4_nl"),
    ("iq4_nl", "q5_0"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes: dict[str, Any] = {"n_embd": 128, "n_head": 4, "n_head_kv": 2, "n_embd_head": 32}
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "m.gguf", types="Q8_0", n_layer=2, **sizes)


@pytest.fixture(scope="module", params=TYPES, ids="/".join)
def shared(request: pytest.FixtureRequest, model: Path) -> Iterator[Any]:
    keys, values = request.param
    with open_backend(
        model, n_ctx=96, n_slots=3, n_ubatch=16, n_threads=2, cache_type_k=keys, cache_type_v=values
    ) as opened:
        yield opened


@pytest.fixture
def backend(shared: Any) -> Any:
    """A backend without positions."""
    for slot in range(shared.n_slots):
        shared.truncate(slot, 0)
    return shared


def test_hidden_states_match_the_reference(model: Path) -> None:
    with open_backend(model, n_ctx=96, cache_type_k="f32", cache_type_v="f32") as backend:
        states = backend.hidden(batch((0, 0, TOKENS))).copy()
        assert states.shape == (len(TOKENS), backend.n_embd)
        np.testing.assert_allclose(states, Reference(model).hidden(TOKENS), atol=0.01)


def test_hidden_states_do_not_depend_on_the_batch(backend: Any) -> None:
    whole = backend.hidden(batch((0, 0, TOKENS))).copy()
    fill_with_nan(backend)
    backend.truncate(0, 0)
    rows = []
    for first in range(0, len(TOKENS), 7):
        chunk, other = TOKENS[first : first + 7], (1, 2 * (first // 7), [9, 9])
        states = backend.hidden(batch(other, (2, first, chunk), outputs=range(2, 2 + len(chunk))))
        rows.append(states.copy())

    np.testing.assert_array_equal(np.concatenate(rows), whole)
    np.testing.assert_array_equal(logits(backend, TOKENS, slot=0)[-1], logits(backend, TOKENS, slot=1)[-1])


@pytest.mark.parametrize("n", [1, 15, 16, 17, 33, 48, 60])
def test_restored_slot_continues_with_identical_logits(backend: Any, n: int) -> None:
    expected = logits(backend, TOKENS)
    state = backend.save(0, n)
    for slot in range(3):
        backend.truncate(slot, 0)
    fill_with_nan(backend)
    backend.restore(2, n, state)
    if n < len(TOKENS):
        np.testing.assert_array_equal(backend.forward(batch((2, n, TOKENS[n:]))), expected[n:])
    np.testing.assert_array_equal(backend.save(2, n), state)  # without the positions computed since
    assert len(state) == backend.state_size(n)


def test_states_that_do_not_fit_are_refused(backend: Any) -> None:
    before = logits(backend, TOKENS)[-1]
    state = backend.save(0, 20)
    cases = [(1, 21, state), (1, 20, state[:-1]), (1, 97, state), (3, 20, state), (-1, 20, state), (0, 0, state)]
    for slot, n, wrong in cases:
        with pytest.raises(LlamafwError, match="the state has|does not exist|do not fit into the context"):
            backend.restore(slot, n, wrong)
    with pytest.raises(LlamafwError, match="61 positions of slot 0 cannot be saved, because it has 60"):
        backend.save(0, 61)

    backend.truncate(0, 59)
    np.testing.assert_array_equal(backend.forward(batch((0, 59, TOKENS[59:])))[0], before)


@pytest.mark.parametrize(("first", "n"), [(0, 1), (4, 16), (4, 17), (1, 40), (20, 0), (10, 50)])
def test_shifted_keys_are_rotated_to_their_new_positions(model: Path, first: int, n: int) -> None:
    """In the first layer, keys and values depend only on token and position: a shift gives those of a new slot."""
    with open_backend(model, n_ctx=96, n_slots=2, cache_type_k="f32", cache_type_v="f32") as backend:
        logits(backend, TOKENS, slot=0)
        backend.shift(0, first, n)
        logits(backend, TOKENS[:first] + TOKENS[first + n :], slot=1)

        end = len(TOKENS) - n
        keys, values = cached_keys(backend)[:, :, :end], cached_values(backend)[:, :, :end]
        np.testing.assert_allclose(keys[0], keys[1], atol=2e-5)
        np.testing.assert_array_equal(values[0], values[1])


def test_shifted_slot_can_be_continued(tmp_path: Path) -> None:
    """With one layer, keys and values depend only on token and position: a shift gives those of a new slot."""
    path = write_tiny_gguf(tmp_path / "m.gguf", types="Q8_0", n_layer=1)
    with open_backend(path, n_ctx=96, n_slots=2, cache_type_k="f32", cache_type_v="f32") as backend:
        logits(backend, TOKENS)
        backend.shift(0, 8, 4)
        with pytest.raises(RequestError, match="does not continue"):
            backend.forward(batch((0, len(TOKENS), [5])))
        continued = backend.forward(batch((0, len(TOKENS) - 4, [5])))[0].copy()
        evaluated = logits(backend, [*TOKENS[:8], *TOKENS[12:], 5], slot=1)[-1]
        np.testing.assert_allclose(continued, evaluated, atol=0.01)


@pytest.mark.parametrize(("slot", "first", "n"), [(0, 0, 61), (0, 60, 1), (0, -1, 1), (0, 3, -1), (3, 0, 0)])
def test_invalid_shifts_are_refused(backend: Any, slot: int, first: int, n: int) -> None:
    logits(backend, TOKENS)
    with pytest.raises(LlamafwError, match="cannot be removed from slot 0, which has 60|slot 3 does not exist"):
        backend.shift(slot, first, n)
