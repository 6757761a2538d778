"""The architectures ``smollm3`` and ``arcee``: SmolLM3 (https://hf.co/blog/smollm3), AFM-4.5B.

The graph is Llama's. In SmolLM3, every fourth layer has no positions (arXiv:2501.18795). The feed-forward block of AFM
has no gate, but squared ReLU (arXiv:2109.08668). Files have the rows of Q and K permuted, so that rotated pairs are
adjacent.
"""

from __future__ import annotations

from collections.abc import Callable

from llamafw import Model
from llamafw import graph as g


def smollm3(model: Model) -> g.Graph:
    """Return the graph of a ``smollm3`` model; files do not say which layers have no positions."""
    m = g.Metadata(model, "smollm3")
    return _llama(m, [i % 4 != 3 for i in range(m.integer("block_count"))], g.gated_ffn)


def arcee(model: Model) -> g.Graph:
    """Return the graph of an ``arcee`` model."""
    m = g.Metadata(model, "arcee")
    return _llama(m, [True] * m.integer("block_count"), lambda h, layer: g.plain_ffn(h, layer, "relu_squared"))


def _llama(m: g.Metadata, is_rotated: list[bool], ffn: Callable[[g.Value, g.Parameters], g.Value]) -> g.Graph:
    """Return the graph, given which layers have positions, and the feed-forward block."""
    w, n_ctx, heads = g.Parameters.of(m.model), m.integer("context_length"), m.heads()
    eps, scale = m.number("attention.layer_norm_rms_epsilon", low=0), m.attention_scale(heads.size)
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx, interleaved=True)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(len(is_rotated))):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        x = x + g.self_attention(h, layer, heads, turn if is_rotated[i] else None, scale=scale)
        x = g.layer_output(x + ffn(g.rms_norm(x, layer["ffn_norm"], eps), layer), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used(m.architecture)
    return g.Graph(hidden, logits, n_ctx)
