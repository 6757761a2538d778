"""The architecture ``olmo``: OLMo 1B and 7B (arXiv:2402.00838).

It differs from Llama in two ways: norms are LayerNorms without weights, and the outputs of Q, K and V may be limited to
a range. Files have the rows of Q and K permuted, so that rotated pairs are adjacent. Metadata keys have the prefix
``olmo.``, see https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

from llamafw import Model, Register, hookimpl
from llamafw import graph as g

requires_api = ">=1.0,<2"


def olmo(model: Model) -> g.Graph:
    """Return the graph of an ``olmo`` model."""
    m, w = g.Metadata(model, "olmo"), g.Parameters.of(model)
    n_ctx, heads, eps = m.integer("context_length"), m.heads(), m.number("attention.layer_norm_epsilon", low=0)
    limit = m.number("attention.clamp_kqv", 0.0, low=0, allow_low=True)  # 0: not limited
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx, interleaved=True)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        q, k, v = g.attention_inputs(g.layer_norm(x, None, eps), layer, *heads)
        if limit:
            q, k, v = (g.Clamp(part, -limit, limit) for part in (q, k, v))
        a = g.attention(g.rope(q, turn), g.cache(g.rope(k, turn), v), heads.size**-0.5)
        x = x + g.linear(g.flat(a), layer["attn_output"])
        x = g.layer_output(x + g.gated_ffn(g.layer_norm(x, None, eps), layer), i)
    hidden = g.layer_norm(x, None, eps)
    logits = g.linear(hidden, g.output_matrix(w))
    w.check_all_used("olmo")
    return g.Graph(hidden, logits, n_ctx)


@hookimpl
def register_architectures(register: Register) -> None:
    """Register the architecture ``olmo``."""
    register("olmo", olmo)
