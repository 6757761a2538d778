"""`as_decoder`: graphs that backends can run are described, others are refused with the operator's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g

N_LAYER, N_EMBD, N_HEAD, N_KV, SIZE, N_FF, N_VOCAB = 2, 8, 4, 2, 2, 12, 10
ROTATION = g.Rotation(np.array([1.0]))


def shapes() -> dict[str, tuple[int, ...]]:
    layer = {
        "attn_norm": (N_EMBD,),
        "attn_q": (N_HEAD * SIZE, N_EMBD),
        "attn_k": (N_KV * SIZE, N_EMBD),
        "attn_v": (N_KV * SIZE, N_EMBD),
        "attn_output": (N_EMBD, N_HEAD * SIZE),
        "ffn_norm": (N_EMBD,),
        "ffn_gate": (N_FF, N_EMBD),
        "ffn_up": (N_FF, N_EMBD),
        "ffn_down": (N_EMBD, N_FF),
        "other_norm": (N_EMBD,),
    }
    tensors = {f"blk.{i}.{name}.weight": shape for i in range(N_LAYER) for name, shape in layer.items()}
    return tensors | {"token_embd.weight": (N_VOCAB, N_EMBD), "output_norm.weight": (N_EMBD,)}


def build(
    *,
    tensors: Mapping[str, tuple[int, ...]] | None = None,
    attend: Callable[..., g.Value] = g.attention,
    ffn: Callable[..., g.Value] = g.gated_ffn,
    eps: Callable[[int], float] = lambda i: 1e-5,
    finish: Callable[[g.Value], g.Value] = lambda x: x,
) -> g.Graph:
    """Return Llama's graph, with parts replaced."""
    w = g.Parameters(shapes() | dict(tensors or {}))
    x = g.embedding(g.TOKENS, w["token_embd"])
    for i, layer in enumerate(w.layers(N_LAYER)):
        h = g.rms_norm(x, layer["attn_norm"], eps(i))
        q = g.rope(g.heads(g.linear(h, layer["attn_q"]), N_HEAD), ROTATION)
        k = g.rope(g.heads(g.linear(h, layer["attn_k"]), N_KV), ROTATION)
        past = g.cache(k, g.heads(g.linear(h, layer["attn_v"]), N_KV))
        x = x + g.linear(g.flat(attend(q, past, 0.5)), layer["attn_output"])
        x = g.layer_output(x + ffn(g.rms_norm(x, layer["ffn_norm"], eps(i)), layer), i)
    hidden = g.rms_norm(x, w["output_norm"], eps(N_LAYER))
    return g.Graph(hidden, finish(g.linear(hidden, g.output_matrix(w))), 64)


def test_llama_is_described() -> None:
    decoder = g.as_decoder(build())
    sizes = (decoder.n_vocab, decoder.n_embd, decoder.n_layer, decoder.n_head, decoder.n_head_kv, decoder.n_ff)
    assert sizes == (N_VOCAB, N_EMBD, N_LAYER, N_HEAD, N_KV, N_FF)
    assert (decoder.n_ctx_train, decoder.n_embd_head) == (64, SIZE)
    assert (decoder.norm_eps, decoder.attention_scale, decoder.activation) == (1e-5, 0.5, "silu")
    assert (decoder.rope_interleaved, decoder.rope_magnitude) == (False, 1.0)
    assert decoder.tensors["output"] == "token_embd.weight"
    assert decoder.tensors["ffn_down"] == "blk.{layer}.ffn_down.weight"


def test_biases_have_roles() -> None:
    biases = {f"blk.{i}.attn_q.bias": (N_HEAD * SIZE,) for i in range(N_LAYER)}
    assert g.as_decoder(build(tensors=biases)).tensors["attn_q_bias"] == "blk.{layer}.attn_q.bias"


def test_other_activations_are_described() -> None:
    graph = build(ffn=lambda x, layer: g.gated_ffn(x, layer, "gelu"))
    assert str(g.as_decoder(graph).activation) == "gelu"


def normed(x: g.Value, layer: Any) -> g.Value:
    return g.rms_norm(g.gated_ffn(x, layer), layer["other_norm"], 1e-5)


def selected_rows(x: g.Value, layer: Any) -> g.Value:
    """Return a gated feed-forward block that uses a selection of the rows of ``ffn_gate``."""
    gate = g.linear(x, layer["ffn_gate"].rows(0, N_FF))
    return g.linear(g.activation(gate, "silu") * g.linear(x, layer["ffn_up"]), layer["ffn_down"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attend": lambda q, past, scale: g.attention(q, past, scale, window=4)}, "Attention in layer 1"),
        ({"attend": lambda q, past, scale: g.attention(q, past, scale, softcap=2.0)}, "Attention in layer 1"),
        ({"attend": lambda q, past, scale: g.attention(q, g.whole_text(past.k, past.v), scale)}, "KeyValue in layer 1"),
        ({"ffn": normed}, "RMSNorm in layer 1"),
        ({"eps": lambda i: 1e-6 if i == 1 else 1e-5}, "the norms of layer 1 have eps 1e-06"),
        ({"eps": lambda i: 1e-5 if i == N_LAYER else 1e-6}, "the norms of layer 0 have eps 1e-06"),
        ({"tensors": {"blk.1.attn_k.bias": (N_KV * SIZE,)}}, "layer 1 differs from layer 0"),
        ({"tensors": {"blk.0.ffn_up.scale": (1,)}}, "'blk.0.ffn_up.scale' scales a product"),
        ({"ffn": selected_rows}, "only some rows of the tensor 'blk.0.ffn_gate.weight'"),
        ({"finish": lambda logits: logits * 0.5}, "Scale at the output"),
    ],
)
def test_other_graphs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(g.GraphError, match=message):
        g.as_decoder(build(**changes))


def test_models_without_logits_are_refused() -> None:
    with pytest.raises(g.GraphError, match="without logits"):
        g.as_decoder(g.Graph(build().hidden, None, 64))
