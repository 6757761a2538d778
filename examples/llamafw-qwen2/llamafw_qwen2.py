"""The architecture ``qwen2``: Qwen2 and Qwen2.5 (arXiv:2407.10671), and models with the same computation.

It differs from Llama in two ways: Q, K and V have biases, and rotary positions pair the two halves of a head instead of
adjacent numbers. Metadata keys, with the prefix ``qwen2.``, are those of
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A feature that the graph does not express is an error,
because the model would run without it and give wrong answers.
"""

from __future__ import annotations

import math

from llamafw import Model, ModelError, Register, hookimpl
from llamafw import graph as g

requires_api = ">=1.0,<2"


def qwen2(model: Model) -> g.Graph:
    """Return the graph of a ``qwen2`` model."""
    m, w = g.Metadata(model, "qwen2"), g.Parameters.of(model)
    for key in ("expert_count", "attention.sliding_window"):
        if model.metadata.get(f"qwen2.{key}"):
            raise ModelError(f"{model.path}: qwen2.{key} is not supported")
    n_embd, n_head, n_ctx = (m.integer(key) for key in ("embedding_length", "attention.head_count", "context_length"))
    n_head_kv = m.integer("attention.head_count_kv", n_head)
    n_ff, eps = m.integer("feed_forward_length"), m.number("attention.layer_norm_rms_epsilon", low=0)
    if n_embd % n_head or n_embd // n_head % 2 or n_head % n_head_kv:
        raise ModelError(
            f"{model.path}: embedding length {n_embd} does not fit {n_head} heads, {n_head_kv} for K and V"
        )
    size = n_embd // n_head
    turn, scale = g.rotation(m, size, n_ctx), 1 / math.sqrt(size)

    x = g.embedding(g.TOKENS, w["token_embd"])
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        q = g.rope(g.heads(g.linear(h, layer["attn_q"]), n_head, size), turn)
        k = g.rope(g.heads(g.linear(h, layer["attn_k"]), n_head_kv, size), turn)
        v = g.heads(g.linear(h, layer["attn_v"]), n_head_kv, size)
        x = x + g.linear(g.flat(g.attention(q, g.cache(k, v), scale)), layer["attn_output"])
        layer.of_shape("ffn_gate", n_ff, n_embd)
        x = g.layer_output(x + g.gated_ffn(g.rms_norm(x, layer["ffn_norm"], eps), layer), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))
    w.check_all_used("qwen2")
    return g.Graph(hidden, logits, n_ctx)


@hookimpl
def register_architectures(register: Register) -> None:
    """Register the architecture ``qwen2``."""
    register("qwen2", qwen2)
