"""The architecture ``llama``: Llama 1 to 3 (arXiv:2302.13971), Mistral, SmolLM2 and others with the same computation.

The metadata keys begin with ``llama.``, see https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A feature of the
file that the graph does not express is an error, because the model would run without it and give wrong answers.
"""

from __future__ import annotations

import math

from llamafw import Model, ModelError
from llamafw import graph as g

RANK_HEAD = ("cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias")
"""Tensors of rerankers that score the hidden states. They are not part of the graph."""


def llama(model: Model) -> g.Graph:
    """Return the graph of a Llama model: RMSNorm, rotary grouped-query attention, SwiGLU.

    GGUF files have the rows of Q and K permuted, so that rotated pairs are adjacent.

    Raises
    ------
    ModelError
        A metadata key or a tensor is missing or invalid (the message names it), or the model has an unsupported
        feature: experts, values of another size than keys, or an unknown RoPE scaling.
    """
    m, w = g.Metadata(model, "llama"), g.Parameters.of(model)
    if m.integer("expert_count", 0, low=0):
        raise ModelError(f"{model.path}: mixtures of experts (llama.expert_count) are not supported")
    n_embd, n_ff, n_ctx = (m.integer(key) for key in ("embedding_length", "feed_forward_length", "context_length"))
    n_head = m.integer("attention.head_count")
    n_head_kv = m.integer("attention.head_count_kv", n_head)
    size, eps = _head_size(m, n_embd, n_head, n_head_kv), m.number("attention.layer_norm_rms_epsilon", low=0)
    turn, scale = g.rotation(m, size, n_ctx, interleaved=True), 1 / math.sqrt(size)

    x = g.embedding(g.TOKENS, w.of_shape("token_embd", _n_vocab(model), n_embd))
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        q = g.rope(g.heads(g.linear(h, layer["attn_q"]), n_head, size), turn)
        k = g.rope(g.heads(g.linear(h, layer["attn_k"]), n_head_kv, size), turn)
        v = g.heads(g.linear(h, layer["attn_v"]), n_head_kv, size)
        x = x + g.linear(g.flat(g.attention(q, g.cache(k, v), scale)), layer["attn_output"])
        layer.of_shape("ffn_gate", n_ff, n_embd)
        x = g.layer_output(x + g.gated_ffn(g.rms_norm(x, layer["ffn_norm"], eps), layer), i)
        layer.skip("attn_rot_embd.")  # old converters wrote the frequencies, which follow from the metadata
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    for name in ("rope_freqs.weight", *RANK_HEAD):
        w.skip(name)
    w.check_all_used("llama")
    return g.Graph(hidden, logits, n_ctx)


def _head_size(m: g.Metadata, n_embd: int, n_head: int, n_head_kv: int) -> int:
    """Return the size of one head, after checks of the sizes that the graph cannot have."""
    path = m.model.path
    if n_head % n_head_kv:
        raise ModelError(f"{path}: {n_head} heads cannot be divided evenly among {n_head_kv} KV heads")
    size = m.integer("attention.key_length", n_embd // n_head)
    if m.integer("attention.value_length", size) != size:
        raise ModelError(f"{path}: values of another size than keys (llama.attention.value_length) are not supported")
    n_rot = m.integer("rope.dimension_count", size)
    if n_rot != size or n_rot % 2:
        raise ModelError(
            f"{path}: llama.rope.dimension_count is {n_rot}; it must be even and equal to the head size, {size}"
        )
    return size


def _n_vocab(model: Model) -> int:
    """Return the number of rows of the embedding, which must equal the tokenizer's number of tokens."""
    embedding = model.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{model.path}: the matrix 'token_embd.weight' is missing")
    tokens = model.metadata.get("tokenizer.ggml.tokens")
    if tokens is not None and len(tokens) != embedding.shape[0]:
        raise ModelError(f"{model.path}: {embedding.name!r} has {embedding.shape[0]} rows for {len(tokens)} tokens")
    return embedding.shape[0]
