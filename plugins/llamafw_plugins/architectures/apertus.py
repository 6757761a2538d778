"""The architecture ``apertus``: Apertus (arXiv:2509.14233).

Attention is that of Qwen3, with RMSNorm on each head of Q and K. The feed-forward block has no gate, but the activation
function xIELU (arXiv:2411.13010), whose parameters differ from layer to layer. Rotated pairs are the two halves of a
head.
"""

from __future__ import annotations

import math

from llamafw import Model
from llamafw import graph as g

LOWEST_EPS = -1e-5
"""xIELU's epsilon limits numbers below 0 before their exponential. Of this size, it changes nothing that counts."""


def apertus(model: Model) -> g.Graph:
    """Return the graph of an ``apertus`` model."""
    m, w = g.Metadata(model, "apertus"), g.Parameters.of(model)
    n_ctx, n_layer, n_ff = (m.integer(key) for key in ("context_length", "block_count", "feed_forward_length"))
    heads, eps = m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    turn, scale = g.rotation(m, m.n_rotated(heads.size), n_ctx), m.attention_scale(heads.size)
    parameters = _parameters(model, n_layer)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(n_layer)):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        x = x + g.self_attention(h, layer, heads, turn, scale=scale, norm=lambda part, p: g.rms_norm(part, p, eps))
        up = g.linear(g.rms_norm(x, layer["ffn_norm"], eps), layer.of_shape("ffn_up", n_ff, x.shape[-1]))
        x = g.layer_output(x + g.linear(_xielu(up, *parameters[i]), layer["ffn_down"]), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.", "rope_factors_")
    w.check_all_used("apertus")
    return g.Graph(hidden, logits, n_ctx)


def _xielu(x: g.Value, positive: float, negative: float, beta: float) -> g.Value:
    """Return ``positive · x² + beta · x`` where x is above 0, otherwise ``negative · (exp(x) − 1 − x) + beta · x``."""
    return g.activation(x, "relu_squared") * positive + x * (beta - negative) + g.activation(x, "elu") * negative


def _parameters(model: Model, n_layer: int) -> list[tuple[float, float, float]]:
    """Return the factors of xIELU for each layer.

    Files have those of squares and exponentials before a softplus. The keys do not begin with the architecture.
    """
    m = g.Metadata(model, "xielu")
    positive, negative, beta, eps = (_finite(m, key, n_layer) for key in ("alpha_p", "alpha_n", "beta", "eps"))
    if any(not LOWEST_EPS <= one <= 0 for one in eps):
        m.fail("eps", f"is {eps!r:.80}; each number must be from {LOWEST_EPS} to 0")
    return [(_softplus(p), b + _softplus(n), b) for p, n, b in zip(positive, negative, beta, strict=True)]


def _finite(m: g.Metadata, key: str, n: int) -> list[float]:
    """Return ``n`` finite numbers."""
    found = m.numbers(key, n)
    if not all(math.isfinite(one) for one in found):
        m.fail(key, f"is {found!r:.80}; its numbers must be finite")
    return found


def _softplus(x: float) -> float:
    """Return ``ln(1 + exp(x))``."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
