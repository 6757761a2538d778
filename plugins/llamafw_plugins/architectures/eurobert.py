"""The architectures ``eurobert`` and ``neo-bert``: Llama's graph, without a causal mask and logits.

``eurobert`` is EuroBERT (arXiv:2503.05500) and Jina Embeddings v5 nano; rotated pairs are the two halves of a head.
``neo-bert`` is NeoBERT (arXiv:2502.19587); rotated pairs are adjacent, and the last norm has another name.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def eurobert(model: Model) -> g.Graph:
    """Return the graph of a ``eurobert`` model."""
    return _eurobert(g.Metadata(model, "eurobert"), "output_norm")


def neo_bert(model: Model) -> g.Graph:
    """Return the graph of a ``neo-bert`` model."""
    return _eurobert(g.Metadata(model, "neo-bert"), "enc.output_norm", interleaved=True)


def _eurobert(m: g.Metadata, last_norm: str, *, interleaved: bool = False) -> g.Graph:
    w, n_ctx, heads = g.Parameters.of(m.model), m.integer("context_length"), m.heads()
    eps = m.number("attention.layer_norm_rms_epsilon", low=0)
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx, interleaved=interleaved)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        q, k, v = g.attention_inputs(g.rms_norm(x, layer["attn_norm"], eps), layer, *heads)
        a = g.attention(g.rope(q, turn), g.whole_text(g.rope(k, turn), v), heads.size**-0.5)
        x = x + g.linear(g.flat(a), layer["attn_output"])
        x = g.layer_output(x + g.gated_ffn(g.rms_norm(x, layer["ffn_norm"], eps), layer), i)
    hidden = g.rms_norm(x, w[last_norm], eps)

    w.skip("rope_freqs.", *g.HEADS)
    w.check_all_used(m.architecture)
    return g.Graph(hidden, None, n_ctx)
