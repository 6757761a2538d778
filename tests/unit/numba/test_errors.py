"""Invalid batches, options and models are refused; backends start and stop cleanly."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from llamafw import Batch, LlamafwError, ModelError, RequestError, SettingsError, Tensor, ThreadOptions
from llamafw.testing.batches import batch, logits
from llamafw.testing.graphs import attend, llama
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends.numba_cpu import open_model
from llamafw_backends.numba_cpu.backend import NumbaBackend
from support.numba_backend import make_context, open_backend

TWO = np.zeros(2, np.int32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "m.gguf", types="Q8_0", n_ctx=64)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (batch((0, 0, [1, 2, 100_000])), "token 100000 is not in the vocabulary"),
        (batch((0, 0, [1, -1])), "token -1 is not"),
        (batch((5, 0, [1])), "slot 5 does not exist: slots are numbered from 0 to 1"),
        (batch((-1, 0, [1])), "slot -1 does not exist"),
        (batch((0, 64, [1])), "position 64 is not in the context of 64"),
        (batch((0, 0, [1] * 65)), "position 64 is not in the context"),
        (batch((0, -1, [1])), "position -1 is not"),
        (batch((0, 7, [1])), "position 7 does not continue slot 0"),
        (batch((0, 0, [1]), (0, 2, [1])), "position 2 does not continue slot 0"),
        (batch((0, 0, [1]), (1, 0, [1]), (0, 0, [1])), "position 0 does not continue slot 0"),
        (batch((0, 0, [1, 2]), outputs=[1, 0]), "output 0 is not an index of the batch above the previous one"),
        (batch((0, 0, [1, 2]), outputs=[2]), "output 2 is not"),
        (batch((0, 0, [1, 2]), outputs=[-1]), "output -1 is not"),
        (batch((0, 0, [1, 2]), outputs=[0, 1, 1]), "the batch has 2 tokens"),
        (batch(), "the batch has 0 tokens"),
        (batch((0, 0, [1] * 200)), "the batch has 200 tokens"),
        (Batch(TWO, TWO[:1], TWO, TWO[:1]), "1 positions"),
        (batch((0, 2, [1]), types=[1]), "types of the tokens are 1 to 1; the model has those from 0 to 0"),
        (batch((0, 2, [1]), types=[-1]), "types of the tokens are -1 to -1"),
        (batch((0, 2, [1]), types=[0, 0]), "2 types for 1 tokens"),
    ],
)
def test_invalid_batches_are_refused_and_change_nothing(bad: Batch, message: str, model: Path) -> None:
    with open_backend(model, n_batch=128) as backend:
        before = backend.forward(batch((0, 0, [1, 2, 3])))[-1].copy()
        backend.truncate(0, 2)
        with pytest.raises(RequestError, match=message):
            backend.forward(bad)
        np.testing.assert_array_equal(backend.forward(batch((0, 2, [3])))[0], before)


def test_batch_cannot_continue_after_a_gap(model: Path) -> None:
    with open_backend(model) as backend:
        backend.forward(batch((1, 0, [1, 2, 3])))
        backend.truncate(1, 1)
        with pytest.raises(RequestError, match="position 3 does not continue slot 1"):
            backend.forward(batch((1, 3, [4])))


@pytest.mark.parametrize(
    ("slot", "n", "message"),
    [
        (2, 0, "slot 2 does not exist: slots are numbered from 0 to 1"),
        (-1, 0, "slot -1 does not exist"),
        (0, -1, "slot 0 cannot be truncated to -1 positions"),
    ],
)
def test_invalid_truncations_are_refused(slot: int, n: int, message: str, model: Path) -> None:
    with open_backend(model) as backend, pytest.raises(LlamafwError, match=message):
        backend.truncate(slot, n)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_threads": 1000}, "at most 256 threads, not 1000"),
        ({"n_slots": 0}, "the number of slots is 0; it must be at least 1"),
        ({"n_batch": 0}, "the batch size is 0; it must be at least 1"),
        ({"n_slots": 1 << 40}, r"a KV cache of .* GB cannot be allocated"),
        ({"cache_type_k": "q4_0"}, "-ctk q4_0 stores blocks of 32 numbers, but this model has heads of 16"),
        ({"cache_type_k": "q4_k"}, "the types of the KV cache are f32, f16, .*, not 'q4_k'"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str, model: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        NumbaBackend(make_context(model, **options))


def test_environment_sets_the_instruction_set(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAFW_ISA", "plain")
    with open_backend(model) as backend:
        assert backend.describe()["isa"] == "plain"
    monkeypatch.setenv("LLAMAFW_ISA", "sse1")
    with pytest.raises(SettingsError, match="LLAMAFW_ISA: 'sse1' is not available; this processor has"):
        NumbaBackend(make_context(model))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"n_embd_head": 24}, "operator Attention in layer 0: its head size, 24, is not a multiple of 16"),
        ({"n_ff": 82}, r"'blk\.0\.ffn_down\.weight' has shape \(64, 82\); .*multiple of 4"),
    ],
)
def test_unsupported_sizes_are_refused(shape: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        NumbaBackend(make_context(write_tiny_gguf(tmp_path / "m.gguf", **shape)))


def test_error_names_a_tensor_of_unknown_type(model: Path) -> None:
    options = make_context(model)
    tensors = dict(options.model.tensors)
    tensors["blk.1.ffn_up.weight"] = replace(tensors["blk.1.ffn_up.weight"], type_name="Q9_Z")
    with pytest.raises(ModelError, match=r"'blk\.1\.ffn_up\.weight' has the unknown type Q9_Z"):
        NumbaBackend(replace(options, model=replace(options.model, tensors=tensors)))


def test_error_names_a_tensor_that_cannot_be_unpacked(model: Path) -> None:
    context, name = make_context(model), "blk.1.ffn_up.weight"
    shape = context.model.tensors[name].shape
    tensor = Tensor(name, shape, "Q8_1", np.zeros(math.prod(shape) // 32 * 40, np.uint8))
    changed = replace(context.model, tensors={**context.model.tensors, name: tensor})
    with pytest.raises(ModelError, match=r"m\.gguf: the tensor 'blk\.1\.ffn_up\.weight': tensors of type Q8_1 "):
        NumbaBackend(replace(context, model=changed))


def test_backends_can_be_opened_and_closed_on_any_thread(model: Path) -> None:
    with open_backend(model, n_threads=2) as first:
        expected = logits(first, [1, 2, 3])
        results = []

        def use_both() -> None:
            with open_backend(model, n_threads=3) as second:
                results.append(logits(second, [1, 2, 3]))
            results.append(logits(first, [1, 2, 3], slot=1))

        for _ in range(3):
            thread = threading.Thread(target=use_both)
            thread.start()
            thread.join()

    assert len(results) == 6
    for got in results:
        np.testing.assert_array_equal(got, expected)
    assert backend_threads() == []


def test_backend_can_be_closed_twice(model: Path) -> None:
    backend = open_model(make_context(model, n_threads=2))
    backend.close()
    backend.close()
    assert backend_threads() == []


def test_backend_with_missing_processors_leaves_no_threads(model: Path) -> None:
    threads = ThreadOptions(cpus=frozenset({4000}))
    with pytest.raises(SettingsError, match="processors"):
        NumbaBackend(make_context(model, n_threads=2, threads=threads))
    assert backend_threads() == []


def test_backend_that_fails_to_open_leaves_no_threads(model: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be allocated"):
        NumbaBackend(make_context(model, n_threads=2, n_slots=1 << 40))
    assert backend_threads() == []


@dataclass(frozen=True, slots=True, eq=False)
class Twice(g.Value):
    """An operator without a kernel."""

    x: g.Value

    def infer_shape(self) -> g.Shape:
        """Return the input's shape."""
        return self.x.shape


def with_indices_added(x: g.Value, layer: g.Parameters) -> g.Value:
    return x + g.Slice(g.concat(g.top_k(x, 32), g.top_k(x, 32)), 0, 64)


def of_chosen_ids(x: g.Value, layer: g.Parameters) -> g.Value:
    return g.EmbeddingLookup(g.Reshape(g.top_k(x, 1), ()), g.Weight("token_embd.weight", (50, 64)))


def rotated_by_tokens(x: g.Value, layer: g.Parameters) -> g.Value:
    return g.flat(g.Rope(g.heads(x, 4), g.Rotation(np.ones(8)), g.TOKENS))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"ffn": lambda x, layer: Twice(x)}, "operator Twice in layer 0: no plugin has registered it"),
        ({"ffn": with_indices_added}, "operator Concat in layer 0: its parts are indices"),
        ({"ffn": of_chosen_ids}, "operator EmbeddingLookup in layer 0: its ids are computed"),
        ({"ffn": rotated_by_tokens}, "operator Rope in layer 0: there is no kernel for it"),
        (
            {"attend": lambda parts, _: attend(*parts, window=4, window_kind="symmetric")},
            "operator Attention in layer 0: its window is symmetric",
        ),
    ],
)
def test_unsupported_operators_are_refused(parts: dict[str, Any], message: str, model: Path) -> None:
    context = make_context(model)
    with pytest.raises(ModelError, match=message):
        NumbaBackend(replace(context, graph=llama(context.model, **parts)))


def backend_threads() -> list[str]:
    """Return the names of the backends' threads."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("llamafw-numba")]


def test_describe_returns_threads_and_weights(model: Path) -> None:
    with open_backend(model, n_threads=2, n_threads_batch=1) as backend:
        facts = backend.describe()
    assert (facts["n_threads"], facts["n_threads_batch"], facts["weight_types"]) == (2, 1, ["Q8_0"])
    # 34 bytes per 32 weights, as in the file, norms and alignment
    assert 80_000 < facts["weight_bytes"] < 200_000


def test_model_without_logits_has_no_vocabulary(tmp_path: Path) -> None:
    """The engine embeds texts with such a model, and refuses to generate."""
    context = make_context(write_tiny_gguf(tmp_path / "m.gguf"))
    backend = NumbaBackend(replace(context, graph=replace(context.graph, logits=None)))
    try:
        assert backend.n_vocab == 0
        assert backend.hidden(batch((0, 0, [1, 2, 3]))).shape == (3, backend.n_embd)
        assert backend.forward(batch((0, 3, [4]))).shape == (1, 0)
    finally:
        backend.close()
