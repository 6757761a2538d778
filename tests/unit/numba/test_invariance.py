"""Batches, other slots, the number of threads and NaN in unused memory do not change a bit of the logits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw.testing.batches import batch, logits
from llamafw.testing.tiny import write_tiny_gguf
from support.numba_backend import fill_with_nan, open_backend

pytestmark = pytest.mark.slow

TOKENS = [int(t) for t in np.random.default_rng(2).integers(0, 300, 70)]
MIXED = {"default": "Q4_1", "token_embd": "Q8_0", "attn_v": "F16", "ffn_down": "Q4_0"}


def random_sizes(rng: np.random.Generator, n: int, largest: int) -> list[int]:
    """Return random sizes that add up to n."""
    sizes: list[int] = []
    while n:
        sizes.append(int(rng.integers(1, min(n, largest) + 1)))
        n -= sizes[-1]
    return sizes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.gguf"
    return write_tiny_gguf(path, types=MIXED, n_embd=192, n_head=6, n_head_kv=2, n_ff=224, n_vocab=323)


@pytest.fixture(scope="module")
def expected(model: Path) -> Any:
    """The logits of one thread, token by token."""
    with open_backend(model, n_ctx=96) as backend:
        return logits(backend, TOKENS, [1] * len(TOKENS))


@pytest.fixture(params=[1, 2, 3], ids="{} threads".format)
def backend(request: pytest.FixtureRequest, model: Path) -> Iterator[Any]:
    n_threads = {"n_threads": request.param, "n_threads_batch": 4 - request.param}
    with open_backend(model, n_ctx=96, n_slots=5, n_ubatch=48, **n_threads) as opened:
        yield opened


def test_logits_do_not_depend_on_batch_sizes(backend: Any, expected: Any) -> None:
    rng = np.random.default_rng(3)
    for _ in range(12):
        fill_with_nan(backend)
        got = logits(backend, TOKENS, random_sizes(rng, len(TOKENS), 70), slot=int(rng.integers(5)))
        np.testing.assert_array_equal(got, expected)


def test_logits_do_not_depend_on_other_slots(backend: Any, expected: Any) -> None:
    """Slot 2 computes the tokens in pieces of random sizes; the same batches have random tokens of other slots."""
    rng = np.random.default_rng(4)
    for _ in range(4):
        fill_with_nan(backend)
        for slot in range(5):
            backend.truncate(slot, 0)

        filled = [0] * 5
        done = 0
        while done < len(TOKENS):
            runs, outputs, n = [], [], 0
            for slot in rng.permutation(5):
                size = int(rng.choice([1, 1, 2, 7, 30]))
                if slot == 2:
                    size = min(size, len(TOKENS) - done)
                    runs.append((2, done, TOKENS[done : done + size]))
                    outputs = list(range(n, n + size))
                else:
                    filled[slot] = 0 if filled[slot] + size > 96 else filled[slot]
                    runs.append((int(slot), filled[slot], [int(t) for t in rng.integers(0, 323, size)]))
                    filled[slot] += size
                n += size

            got = backend.forward(batch(*runs, outputs=outputs))
            np.testing.assert_array_equal(got, expected[done : done + len(outputs)])
            done += len(outputs)


def test_kept_prefix_gives_the_same_logits(backend: Any, expected: Any) -> None:
    fill_with_nan(backend)
    logits(backend, [*TOKENS[:40], 5, 6, 7, 8, 9])
    backend.truncate(0, 40)
    got = backend.forward(batch((0, 40, TOKENS[40:])))
    np.testing.assert_array_equal(got, expected[40:])

    again = backend.forward(batch((0, 30, TOKENS[30:])))  # some positions are computed a second time
    np.testing.assert_array_equal(again, expected[30:])


def test_only_the_requested_outputs_are_returned(backend: Any, expected: Any) -> None:
    fill_with_nan(backend)
    got = backend.forward(batch((0, 0, TOKENS), outputs=[0, 3, 46, 47, 48, 69]))
    np.testing.assert_array_equal(got, expected[[0, 3, 46, 47, 48, 69]])
    assert backend.forward(batch((1, 0, TOKENS[:5]), outputs=[])).shape == (0, 323)


def test_logits_do_not_depend_on_the_division_of_query_heads(tmp_path: Path) -> None:
    """Nine query heads per KV head are computed in parts.

    All of them must see the new keys.
    """
    path = write_tiny_gguf(tmp_path / "m.gguf", n_embd=288, n_head=18, n_head_kv=2, types="Q8_0")
    results = []
    for n_threads in (1, 3):
        with open_backend(path, n_threads=n_threads, n_slots=3, cache_type_k="f32") as backend:
            for _ in range(3):
                fill_with_nan(backend)
                results += [logits(backend, TOKENS, [1] * 70), logits(backend, TOKENS, [33, 1, 36], slot=1)]

    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def test_logits_of_the_default_model_do_not_depend_on_batches_and_threads(real_model: Path) -> None:
    with open_backend(real_model, n_ctx=256, n_slots=3) as single:
        expected = logits(single, TOKENS, [1] * 70)

    with open_backend(real_model, n_ctx=256, n_slots=3, n_threads=2, n_threads_batch=3) as threaded:
        rng = np.random.default_rng(5)
        for run in range(10):
            fill_with_nan(threaded)
            got = logits(threaded, TOKENS, random_sizes(rng, 70, [1, 4, 16, 70][run % 4]), slot=run % 3)
            np.testing.assert_array_equal(got, expected)
