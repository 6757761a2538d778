"""The architectures ``gpt2``, ``gptneox``, ``bloom`` and ``mpt``: GPT-2, models trained with GPT-NeoX, BLOOM, MPT.

Norms are LayerNorms, and feed-forward blocks have no gate. They differ in what they know of positions:

* GPT-2 has an embedding for each position
  (https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf).
* GPT-NeoX (arXiv:2204.06745) rotates the first numbers of each head, whose pairs are the two halves. It may add the
  outputs of attention and feed-forward block to the same input.
* In BLOOM (arXiv:2211.05100) and MPT (https://www.databricks.com/blog/mpt-7b), scores decrease with the distance.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def gpt2(model: Model) -> g.Graph:
    """Return the graph of a ``gpt2`` model."""
    m, w = g.Metadata(model, "gpt2"), g.Parameters.of(model)
    return _gpt(m, w, g.token_embedding(m, w) + g.position_embedding(m, w), "gelu_tanh")


def gptneox(model: Model) -> g.Graph:
    """Return the graph of a ``gptneox`` model."""
    m, w = g.Metadata(model, "gptneox"), g.Parameters.of(model)
    turn = g.rotation(m, m.n_rotated(m.heads().size), m.integer("context_length"))
    is_parallel = m.flag("use_parallel_residual", True)
    return _gpt(m, w, g.token_embedding(m, w), "gelu", turn=turn, is_parallel=is_parallel)


def bloom(model: Model) -> g.Graph:
    """Return the graph of a ``bloom`` model, whose embeddings are normalised."""
    m, w = g.Metadata(model, "bloom"), g.Parameters.of(model)
    eps = m.number("attention.layer_norm_epsilon", low=0)
    x = g.layer_norm(g.token_embedding(m, w), w["token_embd_norm"], eps)
    return _gpt(m, w, x, "gelu_tanh", alibi=g.alibi_slopes(m.heads().n))


def mpt(model: Model) -> g.Graph:
    """Return the graph of an ``mpt`` model.

    Its queries, keys and values may be limited, and then queries and keys, all heads of a token as one row, normalised.
    """
    m, w = g.Metadata(model, "mpt"), g.Parameters.of(model)
    limit = m.number("attention.clamp_kqv", 0.0, low=0, allow_low=True)
    alibi = g.alibi_slopes(m.heads().n, m.number("attention.max_alibi_bias", low=0))
    layers = list(w.layers(m.integer("block_count")))
    has_norms = any(name in layer for layer in layers for name in ("attn_q_norm", "attn_k_norm"))
    return _gpt(m, w, g.token_embedding(m, w), "gelu", alibi=alibi, limit=limit, has_norms=has_norms)


def _gpt(
    m: g.Metadata,
    w: g.Parameters,
    x: g.Value,
    function: g.Function,
    *,
    turn: g.Rotation | None = None,
    alibi: tuple[float, ...] = (),
    limit: float = 0.0,
    has_norms: bool = False,
    is_parallel: bool = False,
) -> g.Graph:
    """Return the graph, given the embeddings ``x`` and what scores know of positions."""
    heads, eps = m.heads(), m.number("attention.layer_norm_epsilon", low=0)

    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        q, k, v = g.attention_inputs(g.layer_norm(x, layer["attn_norm"], eps), layer, *heads)
        if limit:
            q, k, v = (g.Clamp(part, -limit, limit) for part in (q, k, v))
        if has_norms:
            q, k = (_normed(part, layer[f"attn_{name}_norm"], eps) for name, part in (("q", q), ("k", k)))
        q, k = (g.rope(part, turn) if turn else part for part in (q, k))
        a = g.attention(q, g.cache(k, v), heads.size**-0.5, alibi=alibi)
        a = g.linear(g.flat(a), layer["attn_output"])
        h = g.layer_norm(x if is_parallel else x + a, layer["ffn_norm"], eps)
        x = g.layer_output(x + a + g.plain_ffn(h, layer, function), i)
    hidden = g.layer_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used(m.architecture)
    return g.Graph(hidden, logits, m.integer("context_length"))


def _normed(part: g.Value, norm: g.Parameter, eps: float) -> g.Value:
    """Return queries or keys ``(n_head, size)`` normalised as one row."""
    return g.heads(g.layer_norm(g.flat(part), norm, eps), part.shape[0])
