"""The architectures ``bitnet`` and ``bitnet-b1.58``: BitNet b1.58 (arXiv:2402.17764) of 1bitLLM and of Microsoft.

The graph is Llama's, with norms before the output matrices of both blocks. Matrices have the weights −1, 0 and 1 and a
factor. The training rounds activations to 8 bits; here, as in llama.cpp, they are not rounded. Microsoft's model has
squared ReLU instead of SiLU. Rotated pairs are the two halves of a head.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def bitnet(model: Model) -> g.Graph:
    """Return the graph of a ``bitnet`` model."""
    return _bitnet(g.Metadata(model, "bitnet"), "silu")


def bitnet_b1_58(model: Model) -> g.Graph:
    """Return the graph of a ``bitnet-b1.58`` model."""
    return _bitnet(g.Metadata(model, "bitnet-b1.58"), "relu_squared")


def _bitnet(m: g.Metadata, function: g.Function) -> g.Graph:
    w, n_ctx, heads = g.Parameters.of(m.model), m.integer("context_length"), m.heads()
    eps, turn = m.number("attention.layer_norm_rms_epsilon", low=0), g.rotation(m, m.n_rotated(heads.size), n_ctx)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        q, k, v = g.attention_inputs(g.rms_norm(x, layer["attn_norm"], eps), layer, *heads)
        a = g.flat(g.attention(g.rope(q, turn), g.cache(g.rope(k, turn), v), heads.size**-0.5))
        x = x + g.linear(g.rms_norm(a, layer["attn_sub_norm"], eps), layer["attn_output"])

        h = g.rms_norm(x, layer["ffn_norm"], eps)
        gate, up = g.gate_and_up(layer)
        h = g.activation(g.linear(h, gate), function) * g.linear(h, up)
        x = g.layer_output(x + g.linear(g.rms_norm(h, layer["ffn_sub_norm"], eps), layer["ffn_down"]), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used(m.architecture)
    return g.Graph(hidden, logits, n_ctx)
