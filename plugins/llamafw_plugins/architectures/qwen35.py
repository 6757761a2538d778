"""The architectures ``qwen3next``, ``qwen35`` and ``qwen35moe``: Qwen3-Next and Qwen3.5 to 3.8, hybrids of two mixers.

Most layers are gated delta nets (arXiv:2412.06464); the others are attention whose output is multiplied by a gate
(arXiv:2505.06708). Positions of images (M-RoPE) have several rows, which are equal for text. The block for
multi-token prediction has attention.
"""

from __future__ import annotations

from dataclasses import replace

from llamafw import Model
from llamafw import graph as g


def qwen3next(model: Model) -> g.Graph:
    """Return the graph of a ``qwen3next`` model; consecutive heads of the values share a key."""
    m = g.Metadata(model, "qwen3next")
    return _hybrid(m, g.routing(m), (), tiled=False)


def qwen35(model: Model) -> g.Graph:
    """Return the graph of a ``qwen35`` model; GGUF files have the heads of the values in the order of `Repeat`."""
    m = g.Metadata(model, "qwen35")
    return _hybrid(m, None, _sections(m), tiled=True)


def qwen35moe(model: Model) -> g.Graph:
    """Return the graph of a ``qwen35moe`` model, whose feed-forward blocks are mixtures of experts."""
    m = g.Metadata(model, "qwen35moe")
    return _hybrid(m, g.routing(m), _sections(m), tiled=True)


def _hybrid(m: g.Metadata, routing: g.Routing | None, sections: tuple[int, ...], *, tiled: bool) -> g.Graph:
    w, n_ctx = g.Parameters.of(m.model), m.integer("context_length")
    heads, eps = m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    sizes, is_recurrent = g.state_sizes(m), _recurrent_layers(m, n_layer := g.layer_count(m, w))
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx)
    turn = replace(turn, sections=sections, sections_take_turns=bool(sections))

    def block(x: g.Value, layer: g.Parameters, *, recurrent: bool = False) -> g.Value:
        """Return the output of a layer."""
        h = g.rms_norm(x, layer["attn_norm"], eps)
        if recurrent:
            x = x + g.gated_delta_net(h, layer, sizes, eps, tiled=tiled)
        else:
            x = x + _gated_attention(h, layer, heads, turn, eps)
        h = g.rms_norm(x, layer["post_attention_norm"], eps)
        if routing:
            return x + (g.experts(h, layer, routing) + g.shared_expert(h, layer, is_gated=True))
        return x + g.gated_ffn(h, layer)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(n_layer)):
        x = g.layer_output(block(x, layer, recurrent=is_recurrent[i]), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.check_all_used(m.architecture)
    return g.Graph(hidden, logits, n_ctx, g.prediction(m, w, n_layer, eps, block))


def _gated_attention(h: g.Value, layer: g.Parameters, heads: g.Heads, turn: g.Rotation, eps: float) -> g.Value:
    """Return attention with a gate, whose rows in ``attn_q`` follow those of the query for each head."""
    both, k, v = g.attention_inputs(h, layer, 2 * heads.n, heads.n_kv, heads.size)
    q, gate = g.split(g.heads(g.flat(both), heads.n), heads.size, heads.size)
    q = g.rope(g.rms_norm(q, layer["attn_q_norm"], eps), turn)
    k = g.rope(g.rms_norm(k, layer["attn_k_norm"], eps), turn)
    a = g.attention(q, g.cache(k, v), heads.size**-0.5) * g.activation(gate, "sigmoid")
    return g.linear(g.flat(a), layer["attn_output"])


def _recurrent_layers(m: g.Metadata, n_layer: int) -> list[bool]:
    """Return whether each layer is a gated delta net; by default three in four are."""
    if m.has("attention.recurrent_layers"):
        return m.flags("attention.recurrent_layers", n_layer)
    interval = m.integer("full_attention_interval", 4)
    return [(i + 1) % interval != 0 for i in range(n_layer)]


def _sections(m: g.Metadata) -> tuple[int, ...]:
    """Return how many rotated pairs use each row of positions."""
    return tuple(m.integers("rope.dimension_sections", 3))
