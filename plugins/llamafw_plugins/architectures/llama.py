"""The architecture ``llama``: Llama 1 to 3 (arXiv:2302.13971), Mistral, Mixtral, SmolLM2 and others like them.

``internlm2`` (InternLM 2, arXiv:2403.17297) and ``ernie4_5`` (ERNIE 4.5) have the same graph; their checkpoints differ.
``llama-embed`` is the same graph as an encoder: each token sees the whole text, and there are no logits.

The metadata keys begin with ``llama.``, see https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A feature of the
file that the graph does not express is an error, because the model would run without it and give wrong answers.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g

RANK_HEAD = ("cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias")
"""Tensors of rerankers that score the hidden states. They are not part of the graph."""


def llama(model: Model) -> g.Graph:
    """Return the graph of a Llama model: RMSNorm, rotary grouped-query attention, SwiGLU or a mixture of such experts.

    GGUF files have the rows of Q and K permuted, so that rotated pairs are adjacent.

    Raises
    ------
    ModelError
        A metadata key or a tensor is missing or invalid (the message names it), or the model has an unsupported
        feature: an unknown scaling or routing, or heads that are rotated only in part.
    """
    return _llama(g.Metadata(model, "llama"))


def internlm2(model: Model) -> g.Graph:
    """Return the graph of an ``internlm2`` model."""
    return _llama(g.Metadata(model, "internlm2"))


def ernie4_5(model: Model) -> g.Graph:
    """Return the graph of an ``ernie4_5`` model."""
    return _llama(g.Metadata(model, "ernie4_5"))


def llama_embed(model: Model) -> g.Graph:
    """Return the graph of a ``llama-embed`` model: Llama Embed Nemotron."""
    return _llama(g.Metadata(model, "llama-embed"), is_encoder=True)


def _llama(m: g.Metadata, *, is_encoder: bool = False) -> g.Graph:
    w = g.Parameters.of(m.model)
    routing = g.routing(m) if m.integer("expert_count", 0, low=0) else None
    n_embd, n_ff, n_ctx = (m.integer(key) for key in ("embedding_length", "feed_forward_length", "context_length"))
    heads, eps = m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    if m.n_rotated(heads.size) != heads.size:
        m.fail("rope.dimension_count", f"differs from the head size, {heads.size}, which is not supported")
    turn, scale = g.rotation(m, heads.size, n_ctx, interleaved=True), m.attention_scale(heads.size)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        q, k, v = g.attention_inputs(h, layer, *heads)
        past = (g.whole_text if is_encoder else g.cache)(g.rope(k, turn), v)
        a = g.attention(g.rope(q, turn), past, scale)
        x = x + g.linear(g.flat(a), layer["attn_output"])
        h = g.rms_norm(x, layer["ffn_norm"], eps)
        if not routing:
            layer.of_shape("ffn_down", n_embd, n_ff)
        x = g.layer_output(x + (g.experts(h, layer, routing) if routing else g.gated_ffn(h, layer)), i)
        layer.skip("attn_rot_embd.")  # old converters wrote the frequencies, which follow from the metadata
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = None if is_encoder else g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.", "rope_factors_", *RANK_HEAD, *(["output."] if is_encoder else []))
    w.check_all_used(m.architecture)
    return g.Graph(hidden, logits, n_ctx)
