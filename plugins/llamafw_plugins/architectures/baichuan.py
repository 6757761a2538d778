"""The architecture ``baichuan``: Baichuan and Baichuan 2 (arXiv:2309.10305).

The graph is Llama's. Models of 7B rotate heads, whose pairs are adjacent; in models of 13B, scores decrease with the
distance instead (ALiBi, arXiv:2108.12409).
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g

LAYERS_OF_13B = 40
ALIBI_BIAS = 8.0


def baichuan(model: Model) -> g.Graph:
    """Return the graph of a ``baichuan`` model.

    Files of llama.cpp's converter do not say which of both a model has. It follows from the number of layers, unless
    there is ``attention.max_alibi_bias``.
    """
    m, w = g.Metadata(model, "baichuan"), g.Parameters.of(model)
    n_ctx, n_layer, heads = m.integer("context_length"), m.integer("block_count"), m.heads()
    eps, usual = m.number("attention.layer_norm_rms_epsilon", low=0), ALIBI_BIAS if n_layer == LAYERS_OF_13B else 0.0
    bias = m.number("attention.max_alibi_bias", usual, low=0, allow_low=True)
    alibi = g.alibi_slopes(heads.n, bias) if bias else ()
    turn = None if bias else g.rotation(m, m.n_rotated(heads.size), n_ctx, interleaved=True)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(n_layer)):
        x = x + g.self_attention(g.rms_norm(x, layer["attn_norm"], eps), layer, heads, turn, alibi=alibi)
        x = g.layer_output(x + g.gated_ffn(g.rms_norm(x, layer["ffn_norm"], eps), layer), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used("baichuan")
    return g.Graph(hidden, logits, n_ctx)
