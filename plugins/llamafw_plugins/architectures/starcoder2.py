"""The architectures ``starcoder2`` and ``orion``: StarCoder2 (arXiv:2402.19173) and Orion-14B (arXiv:2401.12246).

Norms are LayerNorms with biases. Rotated pairs are the two halves of a head. StarCoder2 has biases on all matrices and
a feed-forward block without a gate; a window, if the file names one, holds in all layers, as in transformers. Orion has
Llama's feed-forward block.
"""

from __future__ import annotations

from collections.abc import Callable

from llamafw import Model
from llamafw import graph as g


def starcoder2(model: Model) -> g.Graph:
    """Return the graph of a ``starcoder2`` model."""
    m = g.Metadata(model, "starcoder2")
    window = m.integer("attention.sliding_window", 0, low=0) or None
    return _with_layer_norms(m, lambda h, layer: g.plain_ffn(h, layer, "gelu_tanh"), window)


def orion(model: Model) -> g.Graph:
    """Return the graph of an ``orion`` model."""
    return _with_layer_norms(g.Metadata(model, "orion"), g.gated_ffn, None)


def _with_layer_norms(m: g.Metadata, ffn: Callable[[g.Value, g.Parameters], g.Value], window: int | None) -> g.Graph:
    """Return the graph, given the feed-forward block."""
    w, n_ctx, heads = g.Parameters.of(m.model), m.integer("context_length"), m.heads()
    eps, turn = m.number("attention.layer_norm_epsilon", low=0), g.rotation(m, m.n_rotated(heads.size), n_ctx)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        x = x + g.self_attention(g.layer_norm(x, layer["attn_norm"], eps), layer, heads, turn, window=window)
        x = g.layer_output(x + ffn(g.layer_norm(x, layer["ffn_norm"], eps), layer), i)
    hidden = g.layer_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used(m.architecture)
    return g.Graph(hidden, logits, n_ctx)
