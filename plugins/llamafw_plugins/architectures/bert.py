"""BERT (arXiv:1810.04805) and encoders like it: Nomic BERT, its mixture of experts, Jina BERT 2 and 3.

``bert`` is also RoBERTa and XLM-RoBERTa: BGE, E5, MiniLM, mxbai, Arctic Embed, BGE rerankers. Each token sees the whole
text, and norms stand after the residual additions. Files have no rows of ``position_embd`` before that of the first
token, which RoBERTa leaves out. Of two texts, the tokens of the second one may have a type of their own. Positions and
feed-forward blocks differ:

- ``bert`` adds learned positions.
- ``nomic-bert`` rotates the halves of heads and has SwiGLU; in ``nomic-bert-moe`` (arXiv:2502.07972) layers without and
  with experts alternate.
- ``jina-bert-v2`` lets scores decrease with the distance (arXiv:2310.19923) and has GeGLU, or a block without a gate.
- ``jina-bert-v3`` rotates, too (arXiv:2409.10173); the adapters for its tasks are files of their own.
"""

from __future__ import annotations

from collections.abc import Callable

from llamafw import Model
from llamafw import graph as g

Ffn = Callable[[g.Value, g.Parameters, int], g.Value]
"""Returns the feed-forward block of a layer from its input, its parameters and its number."""


def bert(model: Model) -> g.Graph:
    """Return the graph of a ``bert`` model."""
    return _bert(g.Metadata(model, "bert"), _plain_ffn, has_positions=True)


def nomic_bert(model: Model) -> g.Graph:
    """Return the graph of a ``nomic-bert`` model."""
    return _bert(g.Metadata(model, "nomic-bert"), lambda h, layer, i: g.gated_ffn(h, layer), is_rotated=True)


def nomic_bert_moe(model: Model) -> g.Graph:
    """Return the graph of a ``nomic-bert-moe`` model, whose experts have no gates."""
    m = g.Metadata(model, "nomic-bert-moe")
    routing, period = g.routing(m, normalised=False), m.integer("moe_every_n_layers")

    def ffn(h: g.Value, layer: g.Parameters, i: int) -> g.Value:
        return _experts(h, layer, routing) if i % period == 1 else _plain_ffn(h, layer, i)

    return _bert(m, ffn, is_rotated=True)


def jina_bert_v2(model: Model) -> g.Graph:
    """Return the graph of a ``jina-bert-v2`` model."""
    m = g.Metadata(model, "jina-bert-v2")
    n_ff, has_gates = m.integer("feed_forward_length"), any(".ffn_gate." in name for name in model.tensors)

    def ffn(h: g.Value, layer: g.Parameters, i: int) -> g.Value:
        is_gated = has_gates or layer["ffn_up"].weight.shape[:1] != (n_ff,)
        return g.gated_ffn(h, layer, "gelu") if is_gated else _plain_ffn(h, layer, i)

    return _bert(m, ffn, alibi=g.alibi_slopes(m.integer("attention.head_count")))


def jina_bert_v3(model: Model) -> g.Graph:
    """Return the graph of a ``jina-bert-v3`` model."""
    return _bert(g.Metadata(model, "jina-bert-v3"), _plain_ffn, is_rotated=True)


def _bert(
    m: g.Metadata,
    ffn: Ffn,
    *,
    has_positions: bool = False,
    is_rotated: bool = False,
    alibi: tuple[float, ...] = (),
) -> g.Graph:
    w, n_ctx = g.Parameters.of(m.model), m.integer("context_length")
    heads, eps = m.heads(), m.number("attention.layer_norm_epsilon", low=0)
    if m.flag("attention.causal", False):
        m.fail("attention.causal", "is true, which is not supported")
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx) if is_rotated else None

    x = g.add_token_types(g.token_embedding(m, w), w)
    if has_positions:
        x = x + g.position_embedding(m, w)
    x = g.layer_norm(x, w["token_embd_norm"], eps)

    layers = list(w.layers(m.integer("block_count")))
    has_more_norms = any("attn_norm_2" in layer for layer in layers)  # jina-embeddings-v2-base-code
    for i, layer in enumerate(layers):
        q, k, v = g.attention_inputs(x, layer, *heads)
        if has_more_norms:
            q, k = _norm(q, layer["attn_q_norm"], eps), _norm(k, layer["attn_k_norm"], eps)
        if turn is not None:
            q, k = g.rope(q, turn), g.rope(k, turn)
        a = g.linear(g.flat(g.attention(q, g.whole_text(k, v), heads.size**-0.5, alibi=alibi)), layer["attn_output"])
        h = g.layer_norm(x + a, layer["attn_output_norm"], eps)
        if has_more_norms:
            h = g.layer_norm(x + h, layer["attn_norm_2"], eps)
        x = g.layer_output(g.layer_norm(h + ffn(h, layer, i), layer["layer_output_norm"], eps), i)

    w.skip(*g.HEADS)
    w.check_all_used(m.architecture)
    return g.Graph(x, None, n_ctx)


def _norm(x: g.Value, p: g.Parameter, eps: float) -> g.Value:
    """Return queries or keys after a norm over all of their heads."""
    return g.heads(g.layer_norm(g.flat(x), p, eps), *x.shape)


def _plain_ffn(h: g.Value, layer: g.Parameters, i: int) -> g.Value:
    return g.plain_ffn(h, layer, "gelu")


def _experts(h: g.Value, layer: g.Parameters, routing: g.Routing) -> g.Value:
    chosen, weights = g.route(h, layer, routing)
    up, down = (g.expert_parameter(layer, name, routing) for name in ("ffn_up_exps", "ffn_down_exps"))
    hidden = g.activation(g.expert_linear(h, chosen, up), "gelu")
    return g.weighted_sum(g.expert_linear(hidden, chosen, down), weights)
