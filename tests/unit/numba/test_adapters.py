"""Tokens with adapters in one batch have the logits of merged weights, and tokens without keep every bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from checkpoints import all_checkpoints, write
from llamafw import RequestError
from llamafw.models.adapters import MAX_NUMBER, adapt_model, read_lora
from llamafw.testing.adapters import random_factors, write_lora
from llamafw.testing.batches import batch
from llamafw_backends.numba_cpu.backend import NumbaBackend
from llamafw_backends.numba_cpu.kernel_records import SINGLE_BARRIER
from support.adapters import NAMES, OPTIONS, TOKENS, TOLERANCE, adapted, expected
from support.numba_backend import make_context, open_backend

CHECKPOINTS = {one.name: one for one in all_checkpoints()}


@pytest.mark.parametrize("name", NAMES)
def test_tokens_have_the_adapters_of_their_slot(name: str, tmp_path: Path) -> None:
    context = make_context(write(CHECKPOINTS[name], tmp_path / "model.gguf"), **OPTIONS)
    with_adapters, scales = adapted(context, tmp_path)
    backend = NumbaBackend(context)
    try:
        run = backend.hidden if context.graph.logits is None else backend.forward
        alone = run(batch((0, 0, TOKENS))).copy()
        backend.set_adapters(with_adapters)
        for slot in range(3):
            backend.truncate(slot, 0)
        rows = run(replace(batch(*((slot, 0, TOKENS) for slot in range(3))), scales=np.repeat(scales, len(TOKENS), 0)))
        parts = rows.reshape(3, len(TOKENS), -1).copy()
        np.testing.assert_array_equal(parts[0], alone)
        for slot in (1, 2):
            wanted = expected(with_adapters, scales[slot])
            assert np.abs(parts[slot] - wanted).max() < TOLERANCE * np.abs(wanted).max()
            assert np.abs(parts[slot] - alone).max() > 0.01 * np.abs(wanted).max()
    finally:
        backend.close()


def test_slots_continue_with_and_without_adapters(tmp_path: Path) -> None:
    """Both graphs keep the same numbers for a slot: after a prompt without adapters, tokens can have some."""
    path = write(CHECKPOINTS["llama"], tmp_path / "model.gguf")
    with open_backend(path, n_ctx=64, cache_type_k="f32", cache_type_v="f32") as backend:
        whole = backend.forward(batch((0, 0, TOKENS))).copy()
        with_adapters, scales = adapted(make_context(path), tmp_path)
        backend.set_adapters(with_adapters)
        backend.truncate(0, 20)
        rest = batch((0, 20, TOKENS[20:]))
        rows = backend.forward(replace(rest, scales=np.repeat(scales[:1], 20, 0)))
        np.testing.assert_array_equal(rows, whole[20:])


def test_tokens_without_adapters_do_not_see_the_largest_numbers(tmp_path: Path) -> None:
    """The adapter's products are multiplied by 0 for them, which must not be 0 times infinity."""
    path = write(CHECKPOINTS["llama"], tmp_path / "model.gguf")
    context = make_context(path)
    shapes = {name: tensor.shape for name, tensor in context.model.tensors.items() if len(tensor.shape) == 2}
    factors = {name: np.full_like(array, MAX_NUMBER) for name, array in random_factors(shapes, 4, 0).items()}
    file = read_lora(write_lora(tmp_path / "large.gguf", factors), context.model, context.quants, {})
    adaptation, model = adapt_model(context.model, context.graph, [file], context.quants)
    scales = np.array([[factor * strength for _, factor in adaptation.scales] for strength in (0, 1)], np.float32)

    with open_backend(path, n_ctx=64) as backend:
        alone = backend.forward(batch((0, 0, TOKENS))).copy()
        backend.set_adapters(replace(context, model=model, graph=adaptation.graph))
        backend.truncate(0, 0)
        both = batch((0, 0, TOKENS), (1, 0, TOKENS))
        rows = backend.forward(replace(both, scales=np.repeat(scales, len(TOKENS), 0)))
        np.testing.assert_array_equal(rows[: len(TOKENS)], alone)


def test_weights_are_packed_once(tmp_path: Path) -> None:
    path = write(CHECKPOINTS["llama"], tmp_path / "model.gguf")
    with open_backend(path, n_ctx=64) as backend:
        before = dict(backend._weights._matrices)
        with_adapters, _ = adapted(make_context(path), tmp_path)
        backend.set_adapters(with_adapters)
        own = backend._adapted.steps.weights._matrices.maps[0]
        assert own
        assert all(".lora_" in matrix.tensor.name for matrix in own.values())
        assert dict(backend._weights._matrices) == before


def test_a_layer_needs_four_barriers_more(tmp_path: Path) -> None:
    """A token waits for ``A x`` once for each input of a layer's matrices; ``B`` is added where ``W x`` is computed."""
    path = write(CHECKPOINTS["llama"], tmp_path / "model.gguf")
    with open_backend(path, n_ctx=64) as backend:
        with_adapters, _ = adapted(make_context(path), tmp_path)
        backend.set_adapters(with_adapters)
        counts = [
            sum(bool(flags & SINGLE_BARRIER) for flags in steps.logits.phases["barrier"].tolist())
            for steps in (backend._steps, backend._adapted.steps)
        ]
        n_layers = with_adapters.model.metadata["llama.block_count"]
        at_ends = 2  # for the embedding and the output matrix
        assert counts[1] - counts[0] == 4 * n_layers + at_ends


def test_scales_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = write(CHECKPOINTS["llama"], tmp_path / "model.gguf")
    with open_backend(path, n_ctx=64) as backend:
        one = batch((0, 0, TOKENS[:2]))
        with pytest.raises(RequestError, match="scales of shape"):
            backend.forward(replace(one, scales=np.zeros((2, 16), np.float32)))
        with_adapters, scales = adapted(make_context(path), tmp_path)
        backend.set_adapters(with_adapters)
        with pytest.raises(RequestError, match="scales of shape"):
            backend.forward(replace(one, scales=scales[:1]))
