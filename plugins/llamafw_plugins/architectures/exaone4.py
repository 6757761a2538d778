"""The architecture ``exaone4``: EXAONE 4.0 and 4.5 (arXiv:2507.11407), texts only.

Norms stand after each block and on each head of Q and K. In the 32B model, three of four layers see a window, and the
fourth has no positions; in the 1.2B model all layers see all tokens. Rotated pairs are the two halves of a head.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g

N_LAYER_32B, WINDOW_32B = 64, 4096
"""Number of layers of the 32B model, and the window of its files that do not name it."""


def exaone4(model: Model) -> g.Graph:
    """Return the graph of an ``exaone4`` model."""
    m, w = g.Metadata(model, "exaone4"), g.Parameters.of(model)
    n_ctx, n_layer, heads = m.integer("context_length"), g.layer_count(m, w), m.heads()
    eps = m.number("attention.layer_norm_rms_epsilon", low=0)
    default = WINDOW_32B if n_layer == N_LAYER_32B else 0
    window = m.integer("attention.sliding_window", default, low=0)  # 0: all layers see all tokens
    is_windowed = m.windowed_layers(n_layer, 4) if window else [False] * n_layer
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(n_layer)):
        h = g.self_attention(
            x,
            layer,
            heads,
            turn if is_windowed[i] or not window else None,
            norm=lambda q, p: g.rms_norm(q, p, eps),
            window=window if is_windowed[i] else None,
        )
        x = x + g.rms_norm(h, layer["post_attention_norm"], eps)
        x = g.layer_output(x + g.rms_norm(g.gated_ffn(x, layer), layer["post_ffw_norm"], eps), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used("exaone4")
    return g.Graph(hidden, logits, n_ctx)
