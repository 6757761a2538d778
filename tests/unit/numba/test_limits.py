"""What the backend refuses, and how it comes and goes."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import Batch, LlamafwError, ModelError, RequestError, SettingsError
from llamafw_backends.numba_cpu import open_model
from llamafw_backends.numba_cpu.backend import NumbaBackend
from support.numba import batch, context, logits, opened
from support.tiny import write_tiny_gguf


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "m.gguf", types="Q8_0", n_ctx=64)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (batch((0, 0, [1, 2, 100_000])), "token 100000 is not in the vocabulary"),
        (batch((0, 0, [1, -1])), "token -1 is not"),
        (batch((5, 0, [1])), "slot 5 is not one of 2"),
        (batch((-1, 0, [1])), "slot -1 is not"),
        (batch((0, 64, [1])), "position 64 is not in the context of 64"),
        (batch((0, 0, [1] * 65)), "position 64 is not in the context"),
        (batch((0, -1, [1])), "position -1 is not"),
        (batch((0, 7, [1])), "position 7 does not continue slot 0"),
        (batch((0, 0, [1]), (0, 2, [1])), "position 2 does not continue slot 0"),
        (batch((0, 0, [1]), (1, 0, [1]), (0, 0, [1])), "position 0 does not continue slot 0"),
        (batch((0, 0, [1, 2]), outputs=[1, 0]), "output 0 is not an index of the batch, or not after"),
        (batch((0, 0, [1, 2]), outputs=[2]), "output 2 is not"),
        (batch((0, 0, [1, 2]), outputs=[-1]), "output -1 is not"),
        (batch((0, 0, [1, 2]), outputs=[0, 1, 1]), "a batch of 2 tokens"),
        (batch(), "a batch of 0 tokens"),
        (batch((0, 0, [1] * 200)), "a batch of 200 tokens"),
        (Batch(*(np.zeros(n, np.int32) for n in (2, 1, 2, 1))), "1 positions"),
    ],
)
def test_bad_batches_compute_nothing(bad: Batch, message: str, model: Path) -> None:
    with opened(model, n_batch=128) as backend:
        before = backend.forward(batch((0, 0, [1, 2, 3])))[-1].copy()
        backend.truncate(0, 2)
        with pytest.raises(RequestError, match=message):
            backend.forward(bad)
        np.testing.assert_array_equal(backend.forward(batch((0, 2, [3])))[0], before)


def test_a_truncated_slot_has_a_gap_behind_it(model: Path) -> None:
    with opened(model) as backend:
        backend.forward(batch((1, 0, [1, 2, 3])))
        backend.truncate(1, 1)
        with pytest.raises(RequestError, match="position 3 does not continue slot 1"):
            backend.forward(batch((1, 3, [4])))
        for slot, n in ((2, 0), (-1, 0), (0, -1)):
            with pytest.raises(LlamafwError, match="cannot be cut"):
                backend.truncate(slot, n)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_threads": 1000}, "1000 threads"),
        ({"n_slots": 0}, "at least 1"),
        ({"n_slots": 1 << 40}, "no room for a KV cache of"),
        ({"cache_type_k": "q4_0"}, "f16 or f32, not 'q4_0'"),
    ],
)
def test_bad_settings(given: dict[str, Any], message: str, model: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        NumbaBackend(context(model, **given))


def test_the_instruction_set_may_come_from_the_environment(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAFW_ISA", "plain")
    with opened(model) as backend:
        assert backend.describe()["isa"] == "plain"
    monkeypatch.setenv("LLAMAFW_ISA", "sse1")
    with pytest.raises(SettingsError, match="LLAMAFW_ISA: this processor has no 'sse1', only"):
        NumbaBackend(context(model))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"n_embd": 48, "n_head": 3, "n_head_kv": 3}, "embedding length that is a multiple of 32"),
        ({"n_embd_head": 24}, "head size that is a multiple of 16"),
        ({"n_ff": 80}, "feed-forward length that is a multiple of 32"),
        ({"n_head": 3, "n_head_kv": 3, "n_embd_head": 16}, "heads times head size that is a multiple of 32"),
    ],
)
def test_sizes_that_the_kernels_cannot_do(shape: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        NumbaBackend(context(write_tiny_gguf(tmp_path / "m.gguf", **shape)))


def test_a_type_that_nobody_unpacks_is_named(model: Path) -> None:
    given = context(model)
    tensors = dict(given.model.tensors)
    tensors["blk.1.ffn_up.weight"] = replace(tensors["blk.1.ffn_up.weight"], type_name="Q9_Z")
    with pytest.raises(ModelError, match=r"'blk\.1\.ffn_up\.weight' has the unknown type Q9_Z"):
        NumbaBackend(replace(given, model=replace(given.model, tensors=tensors)))


def test_backends_come_and_go_on_any_thread(model: Path) -> None:
    with opened(model, n_threads=2) as first:
        expected = logits(first, [1, 2, 3])
        found = []

        def elsewhere() -> None:
            with opened(model, n_threads=3) as second:
                found.append(logits(second, [1, 2, 3]))
            found.append(logits(first, [1, 2, 3], slot=1))

        for _ in range(3):
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
    assert len(found) == 6
    for got in found:
        np.testing.assert_array_equal(got, expected)
    assert not [t for t in threading.enumerate() if t.name.startswith("llamafw-numba")]


def test_closing_twice_is_harmless_and_a_failed_start_leaves_no_threads(tmp_path: Path, model: Path) -> None:
    backend = open_model(context(model, n_threads=2))
    backend.close()
    backend.close()
    broken = context(write_tiny_gguf(tmp_path / "m.gguf", n_ff=80), n_threads=2)
    with pytest.raises(ModelError):
        NumbaBackend(broken)
    assert not [t for t in threading.enumerate() if t.name.startswith("llamafw-numba")]


def test_describe(model: Path) -> None:
    with opened(model, n_threads=2, n_threads_batch=1) as backend:
        facts = backend.describe()
    assert (facts["n_threads"], facts["n_threads_batch"], facts["weight_types"]) == (2, 1, ["Q8_0"])
    # 34 bytes per 32 weights in tiles as in the file; besides them the norms and some alignment
    assert 80_000 < facts["weight_bytes"] < 200_000
