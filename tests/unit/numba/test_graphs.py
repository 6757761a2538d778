"""The Numba backend computes any graph: small ones that are difficult for it, and random ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from llamafw import BackendContext, BackendOptions, Model, ModelError, Tensor
from llamafw import graph as g
from llamafw.testing.batches import batch
from llamafw_backends.numba_cpu.backend import NumbaBackend
from support.gguf_models import QUANTS
from support.numba_backend import fill_with_nan
from support.random_graphs import N_EMBD, N_VOCAB, RandomGraph, Weights

N_TOKENS, N_SLOTS = 40, 3
TURN = g.Rotation(100.0 ** (-np.arange(8) / 8), interleaved=True)
Build = Callable[[Weights], g.Graph]


@contextmanager
def opened(graph: g.Graph, weights: Weights, **options: Any) -> Iterator[NumbaBackend]:
    """Open a backend for a graph, with a model that is only in memory."""
    model = Model(Path("graph.gguf"), {}, weights.tensors, 0)
    types = {"cache_type_k": "f32", "cache_type_v": "f32"}
    sizes = {"n_ctx": 64, "n_slots": N_SLOTS, "n_batch": 96}
    backend = NumbaBackend(BackendContext(model, graph, BackendOptions(**sizes | types | options), QUANTS))
    try:
        yield backend
    finally:
        backend.close()


def check(
    graph: g.Graph,
    weights: Weights,
    rng: np.random.Generator,
    tolerance: float = 1e-4,
    min_close: float = 1.0,
    **options: Any,
) -> None:
    """Compare hidden states and logits with those of numpy, and those of pieces of the text with those of all of it.

    ``min_close`` is the share of tokens whose errors must be at most ``tolerance`` times the largest expected number.
    """
    tokens = [int(token) for token in rng.integers(0, N_VOCAB, N_TOKENS)]
    numbers = {
        name: QUANTS[one.type_name].dequantize(one.data, one.shape).reshape(one.shape)
        for name, one in weights.tensors.items()
    }
    hidden, logits = g.evaluate(graph, tokens, numbers.__getitem__)
    options |= {name: int(rng.integers(1, 4)) for name in ("n_threads", "n_threads_batch")}
    options["n_ubatch"] = int(rng.choice([7, 16, 64]))
    with opened(graph, weights, **options) as backend:
        for run, expected in ((backend.hidden, hidden), (backend.forward, logits)):
            if expected is None:
                continue
            empty(backend)
            rows = run(batch((0, 0, tokens))).copy()
            errors = np.abs(rows - expected).max(-1) / np.abs(expected).max()
            assert np.mean(errors <= tolerance) >= min_close, f"largest error {errors.max():.2g}"
            for share in (1.0, 0.3):
                empty(backend)
                check_pieces(run, tokens, rows, rng, share)


def empty(backend: NumbaBackend) -> None:
    """Empty all slots, and fill all memory with NaN."""
    for slot in range(N_SLOTS):
        backend.truncate(slot, 0)
    fill_with_nan(backend)


def check_pieces(run: Any, tokens: list[int], expected: Any, rng: np.random.Generator, share: float) -> None:
    """Compare the bits of a text in pieces, beside other texts; a share of its tokens are outputs."""
    done, filled = 0, [0] * N_SLOTS
    while done < len(tokens):
        runs, outputs, n = [], [], 0
        n_new = int(min(rng.choice([1, 1, 2, 9, 20]), len(tokens) - done))
        for slot in rng.permutation(N_SLOTS).tolist():
            size = n_new if slot == 1 else int(rng.integers(0, 3))
            if slot == 1:
                outputs = [n + i for i in range(size) if rng.random() < share]
                wanted = [done + i - n for i in outputs]
            if size:
                runs.append((slot, filled[slot], [*tokens[done : done + size], 0, 0][:size]))
            filled[slot] += size
            n += size
        np.testing.assert_array_equal(run(batch(*runs, outputs=outputs)), expected[wanted])
        done += n_new


# --- graphs that were computed wrongly once ---------------------------------------------------------


def start(w: Weights) -> g.Value:
    return g.EmbeddingLookup(g.TOKENS, w(N_VOCAB, N_EMBD, std=1.0))


def attend(w: Weights, x: g.Value) -> g.Value:
    q, k, v = (g.heads(g.Linear(x, w(N_EMBD, N_EMBD)), 4) for _ in range(3))
    return g.Linear(g.flat(g.attention(q, g.cache(k, v), 0.25)), w(N_EMBD, N_EMBD))


def sums_read_by_products(w: Weights) -> g.Graph:
    """Each sum is multiplied itself, without a norm; it has the same memory as the one before."""
    x = start(w)
    for _ in range(2):
        x = x + g.Linear(g.Linear(x, w(N_EMBD, N_EMBD)), w(N_EMBD, N_EMBD))
    return g.Graph(g.Linear(attend(w, x) + x, w(N_EMBD, N_EMBD)), None, 64)


def views_read_after_a_sum(w: Weights) -> g.Graph:
    x = start(w)
    first, second = g.split(x, 32, 32)
    y = x + g.Linear(g.Linear(first, w(N_EMBD, 32)), w(N_EMBD, N_EMBD))
    return g.Graph(g.concat(first, g.rms_norm(second, None, 1e-5), y), None, 64)


def bias_of_heads_in_a_norm(w: Weights) -> g.Graph:
    x = g.heads(start(w), 4)
    x = g.LayerNorm(x, None, w(4, 16), 1e-5) + g.LayerNorm(x, w(16), w(4, 16), 1e-5)
    return g.Graph(g.flat(x + g.LayerNorm(x, w(4, 16), w(16), 1e-5)), None, 64)


def half_of_a_product_in_attention(w: Weights) -> g.Graph:
    """One half is needed for all tokens, the other half only for the outputs."""
    x = start(w)
    h = g.activation(g.Linear(x, w(N_EMBD, N_EMBD)), "silu") * g.Linear(x, w(N_EMBD, N_EMBD))
    early, late = g.split(g.Linear(h, w(128, N_EMBD)), 64, 64)
    y = attend(w, g.activation(early, "gelu"))
    return g.Graph(g.activation(late, "tanh") + y, None, 64)


def repeated_heads_as_values(w: Weights) -> g.Graph:
    x = start(w)
    q = g.Repeat(g.L2Norm(g.heads(g.Linear(x, w(32, N_EMBD)), 2), 1e-6), 2)
    gate = g.Linear(x, w(4, N_EMBD)) * -0.1
    return g.Graph(g.flat(g.LinearAttention(q, q, q, gate, "decay")), None, 64)


def only_queries_repeated(w: Weights) -> g.Graph:
    x = start(w)
    q = g.Repeat(g.L2Norm(g.heads(g.Linear(x, w(32, N_EMBD)), 2), 1e-6), 2)
    k, v = g.L2Norm(g.heads(g.Linear(x, w(64, N_EMBD)), 4), 1e-6), g.heads(x, 4)
    gate, beta = g.Linear(x, w(4, N_EMBD)) * -0.1, g.activation(g.Linear(x, w(4, N_EMBD)), "sigmoid")
    return g.Graph(g.flat(g.LinearAttention(q, k, v, gate, "delta", beta)), None, 64)


def heads_repeated_in_two_ways(w: Weights) -> g.Graph:
    x = start(w)
    heads = g.L2Norm(g.heads(g.Linear(x, w(32, N_EMBD)), 2), 1e-6)
    gate = g.Linear(x, w(4, N_EMBD)) * -0.1
    q, k = g.Repeat(heads, 2), g.Repeat(heads, 2, tiled=True)
    return g.Graph(g.flat(g.LinearAttention(q, k, g.heads(x, 4), gate, "decay")), None, 64)


def one_matrix_for_all_heads(w: Weights) -> g.Graph:
    """The products are read as a whole, and added to other numbers."""
    x = start(w)
    heads = g.heads(g.Linear(x, w(128, N_EMBD)), 4)
    y = g.Linear(g.activation(g.Linear(heads, w(32, 32), w(32)), "silu"), w(16, 32))
    return g.Graph(g.Linear(g.flat(y), w(50, 64)) + g.Linear(x + g.flat(y), w(50, N_EMBD)), None, 64)


def scales_of_products(w: Weights) -> g.Graph:
    """Products have a scale, as those of NVFP4 have, with and without a bias, in heads and in sums."""
    x = start(w)
    x = x + g.Linear(x, w(N_EMBD, N_EMBD), w(N_EMBD), w(1))
    q, k = (g.rope(g.heads(g.Linear(x, w(64, N_EMBD), scale=w(1)), 4), TURN) for _ in range(2))
    y = g.Reshape(g.attention(q, g.cache(k, g.heads(x, 4)), 0.25), (2, 32))
    heads = g.Linear(y, w(2, 16, 32), w(2, 16), w(1))
    z = g.Linear(g.Reshape(heads, (1, 32)), w(16, 32), w(16), w(1))
    return g.Graph(g.concat(g.flat(heads), g.flat(z), x), g.Linear(x, w(50, N_EMBD), scale=w(1)), 64)


def interleaved_heads_across_matrices(w: Weights) -> g.Graph:
    """Heads of 32 numbers come from matrices of 16 rows."""
    x = g.heads(start(w), 2)
    q, k = (g.rope(g.Reshape(g.Linear(x, w(2, 16, 32)), (1, 32)), TURN) for _ in range(2))
    return g.Graph(g.flat(g.attention(q, g.cache(k, k), 0.25)), None, 64)


def different_operators_with_a_state(w: Weights) -> g.Graph:
    """The logits need an attention that the hidden states do not need, and the other way round."""
    x = start(w)
    hidden = x + g.Linear(g.conv(attend(w, x), g.Parameter(w(N_EMBD, 4))), w(N_EMBD, N_EMBD))
    return g.Graph(hidden, g.Linear(g.rms_norm(x + attend(w, attend(w, x)), None, 1e-5), w(50, N_EMBD)), 64)


def hidden_states_inside(w: Weights) -> g.Graph:
    """The hidden states are the queries before their rotation."""
    x = start(w)
    q = g.Linear(x, w(N_EMBD, N_EMBD))
    y = g.attention(g.rope(g.heads(q, 4), TURN), g.cache(g.heads(x, 4), g.heads(x, 4)), 0.25)
    return g.Graph(q, g.flat(y), 64)


def sums_of_products(w: Weights) -> g.Graph:
    """Products are added to others: as logits, in the residual stream, and before they are multiplied."""
    x = start(w)
    inner = g.Linear(x, w(16, N_EMBD))

    def both(n: int) -> g.Value:
        return g.Linear(x, w(n, N_EMBD), w(n)) + g.Linear(inner, w(n, 16))

    h = g.activation(both(96), "silu") * (g.Linear(x, w(96, N_EMBD)) + both(96))
    x = x + (g.Linear(h, w(N_EMBD, 96)) + g.Linear(g.Linear(h, w(16, 96)), w(N_EMBD, 16)))
    part = g.Slice(g.Linear(x, w(128, N_EMBD)), 32, 96)
    x = x + (part + g.Linear(inner, w(N_EMBD, 16)))
    return g.Graph(x, g.Linear(x, w(50, N_EMBD)) + g.Linear(g.Linear(x, w(16, N_EMBD)), w(50, 16)), 64)


def narrow_matrices(w: Weights) -> g.Graph:
    """Matrices with few rows and many columns are stored in parts, between which threads are divided."""
    x = start(w)
    wide = g.Linear(x, w(1040, N_EMBD))
    h = g.activation(g.Linear(x, w(1536, N_EMBD)), "silu") * g.Linear(x, w(1536, N_EMBD))
    y = g.Linear(wide, w(16, 1040)) * g.Linear(h, w(16, 1536))
    x = x + (g.Linear(h, w(N_EMBD, 1536)) + g.Linear(y, w(N_EMBD, 16)))
    return g.Graph(g.concat(x, g.Linear(g.rms_norm(wide, None, 1e-5), w(48, 1040))), None, 64)


def experts(change: Callable[[g.Value, g.Value, Weights], g.Value]) -> Build:
    """Return a function that builds a graph with experts, whose rows ``change`` changes."""

    def build(w: Weights) -> g.Graph:
        x = start(w)
        chosen = g.Slice(g.top_k(g.Linear(x, w(6, N_EMBD)), 4), 1, 4)
        h = g.activation(g.ExpertLinear(x, chosen, w(6, 64, N_EMBD)), "silu")
        return g.Graph(g.flat(change(h, chosen, w)), None, 64)

    return build


GRAPHS: dict[str, Build] = {
    build.__name__.replace("_", " "): build
    for build in (
        sums_read_by_products,
        views_read_after_a_sum,
        bias_of_heads_in_a_norm,
        half_of_a_product_in_attention,
        repeated_heads_as_values,
        only_queries_repeated,
        heads_repeated_in_two_ways,
        one_matrix_for_all_heads,
        scales_of_products,
        interleaved_heads_across_matrices,
        different_operators_with_a_state,
        hidden_states_inside,
        sums_of_products,
        narrow_matrices,
    )
} | {
    "rows of experts": experts(lambda h, chosen, w: h),
    "norms of experts": experts(lambda h, chosen, w: g.rms_norm(h, None, 1e-5)),
    "weights of experts": experts(lambda h, chosen, w: g.WeightAdd(h, w(3, 64))),
    "parts of experts": experts(lambda h, chosen, w: g.Slice(h, 8, 32)),
    "products of experts": experts(lambda h, chosen, w: g.Linear(g.flat(h), w(50, 192))),
    "products of experts with experts": experts(
        lambda h, chosen, w: g.ExpertLinear(h, chosen, w(6, 32, 64)) + g.ExpertLinear(h, chosen, w(6, 32, 64))
    ),
    "sums of experts": experts(lambda h, chosen, w: g.weighted_sum(h, g.softmax(g.Slice(g.flat(h), 0, 3)))),
    "weights of a sparse mixer": experts(
        lambda h, chosen, w: g.weighted_sum(h, g.SparseMixer(g.Slice(start(w), 8, 14), chosen, jitter=0.2))
    ),
    "norms as the input of experts": experts(
        lambda h, chosen, w: g.ExpertLinear(g.RMSNorm(h, w(64), 1e-5), chosen, w(6, 64, 64))
    ),
    "experts chosen twice": experts(
        lambda h, chosen, w: g.ExpertLinear(h, g.Slice(g.top_k(start(w), 4), 0, 3), w(64, 64, 64))
    ),
    "scales of experts": experts(
        lambda h, chosen, w: (
            g.activation(g.Slice(g.ExpertLinear(h, chosen, w(6, 64, 64), w(6, 64), w(6)), 32, 64), "silu")
            * g.Slice(g.ExpertLinear(start(w), chosen, w(6, 64, N_EMBD), w(6, 64), w(6)), 0, 32)
        )
    ),
    "products as the input of experts": experts(
        lambda h, chosen, w: g.ExpertLinear(
            g.activation(g.Linear(start(w), w(64, N_EMBD)), "silu"), chosen, w(6, 64, 64)
        )
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_give_the_numbers_of_numpy(name: str) -> None:
    rng = np.random.default_rng(1)
    weights = Weights(rng)
    check(GRAPHS[name](weights), weights, rng)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (experts(lambda h, chosen, w: chosen * 2.0), "operator Scale: its x are indices"),
        (experts(lambda h, chosen, w: chosen), "operator TopK: a model cannot return indices"),
        (lambda w: g.Graph(g.Linear(g.heads(start(w), 2), w(24, 32)), None, 64), "24 is not a multiple of 16"),
    ],
)
def test_graphs_without_kernels_are_refused(build: Build, message: str) -> None:
    weights = Weights(np.random.default_rng(1))
    with pytest.raises(ModelError, match=message), opened(build(weights), weights):
        pass


def rotated_keys(w: Weights, x: g.Value) -> g.Value:
    return g.rope(g.heads(g.Linear(x, w(N_EMBD, N_EMBD)), 4), TURN)


@pytest.mark.parametrize(
    ("change", "can_shift"),
    [
        (lambda keys: g.heads(g.flat(keys), 4), False),
        (lambda keys: keys, True),
    ],
)
def test_keys_can_be_moved_if_their_rotation_is_known(change: Callable[[g.Value], g.Value], can_shift: bool) -> None:
    """The second layer has keys without positions, which are computed from the first layer."""
    weights = Weights(np.random.default_rng(1))
    x = start(weights)
    keys = change(rotated_keys(weights, x))
    y = g.flat(g.attention(keys, g.cache(keys, g.heads(x, 4)), 0.25))
    graph = g.Graph(attend(weights, y), None, 64)
    with opened(graph, weights) as backend:
        assert backend.can_shift == can_shift


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_random_graphs_give_the_numbers_of_numpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = Weights(rng)
    check(RandomGraph(weights, rng).build(), weights, rng)


def as_bf16(tensor: Tensor) -> Tensor:
    numbers = np.frombuffer(tensor.data, np.float32).reshape(tensor.shape)
    data = quantize(numbers, GGMLQuantizationType.BF16).view(np.uint8).reshape(-1)
    return Tensor(tensor.name, tensor.shape, "BF16", data)


def test_activations_are_rounded_for_bf16_matrices_only() -> None:
    rng = np.random.default_rng(1)
    weights = Weights(rng)
    x = start(weights)
    gated = g.activation(g.Linear(x, weights(96, N_EMBD)), "silu") * g.Linear(x, weights(96, N_EMBD))
    rounded, floats = weights(64, 96), weights(64, 96)
    weights.tensors[rounded.name] = as_bf16(weights.tensors[rounded.name])
    graph = g.Graph(g.concat(g.Linear(gated, rounded), g.Linear(gated, floats)), None, N_VOCAB)

    tokens = [int(token) for token in rng.integers(0, N_VOCAB, N_TOKENS)]
    rows = {}
    for kind in ("int15", "int8"):
        with opened(graph, weights, extra={"numba_activations": kind}) as backend:
            rows[kind] = backend.hidden(batch((0, 0, tokens))).copy()
    np.testing.assert_array_equal(rows["int8"][:, 64:], rows["int15"][:, 64:])
    errors = np.abs(rows["int8"] - rows["int15"])[:, :64].max(-1) / np.abs(rows["int15"]).max()
    assert (errors > 1e-5).all()
    assert (errors < 1e-2).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_random_graphs_mix_bf16_and_f32_matrices(seed: int) -> None:
    """About half of the matrices are BF16, whose activations are rounded; so a token may get other experts."""
    rng = np.random.default_rng(seed)
    weights = Weights(rng)
    graph = RandomGraph(weights, rng).build()
    for name, one in weights.tensors.items():
        if len(one.shape) > 1 and rng.random() < 0.5:
            weights.tensors[name] = as_bf16(one)
    check(graph, weights, rng, tolerance=0.1, min_close=0.9, extra={"numba_activations": "int8"})
