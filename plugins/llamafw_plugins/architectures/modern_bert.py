"""The architecture ``modern-bert``: ModernBERT (arXiv:2412.13663), GTE ModernBERT, Granite Embedding R2.

Each token sees the whole text in every third layer, from the first on, and half a window on each side in the others,
which rotate faster. Norms are LayerNorms before each block, except that the embedding's norm takes the place of the
first one. Rotated pairs are the two halves of a head.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g

FUNCTIONS: dict[str, g.Function] = {"gelu": "gelu", "silu": "silu"}
"""Activation functions by their names in files; without a name it is ``gelu``."""


def modern_bert(model: Model) -> g.Graph:
    """Return the graph of a ``modern-bert`` model."""
    m, w = g.Metadata(model, "modern-bert"), g.Parameters.of(model)
    n_ctx, n_layer, heads = m.integer("context_length"), m.integer("block_count"), m.heads()
    eps, window = m.number("attention.layer_norm_epsilon", low=0), m.integer("attention.sliding_window")
    is_windowed, n_rot = m.windowed_layers(n_layer, 3, dense_first=True), m.n_rotated(heads.size)
    full, local = g.rotation(m, n_rot, n_ctx), g.plain_rotation(m.number("rope.freq_base_swa", 1e4, low=0), n_rot)
    name = m.text("hidden_activation", "gelu")
    if name not in FUNCTIONS:
        m.fail("hidden_activation", f"is {name!r:.80}; it must be gelu or silu")

    x = g.layer_norm(g.token_embedding(m, w), w["token_embd_norm"], eps)
    for i, layer in enumerate(w.layers(n_layer)):
        turn, seen = (local, window) if is_windowed[i] else (full, None)
        h = g.layer_norm(x, layer["attn_norm"], eps) if i or "attn_norm" in layer else x
        q, k, v = g.attention_inputs(h, layer, *heads)
        past = g.whole_text(g.rope(k, turn), v)
        a = g.attention(g.rope(q, turn), past, heads.size**-0.5, window=seen, window_kind="symmetric")
        x = x + g.linear(g.flat(a), layer["attn_output"])
        h = g.layer_norm(x, layer["ffn_norm"], eps)
        x = g.layer_output(x + g.gated_ffn(h, layer, FUNCTIONS[name]), i)
    hidden = g.layer_norm(x, w["output_norm"], eps)

    w.skip(*g.HEADS)
    w.check_all_used("modern-bert")
    return g.Graph(hidden, None, n_ctx)
