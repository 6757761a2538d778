"""The architectures ``mamba`` and ``mamba2``: Mamba, Falcon-Mamba and Mamba-2, models without attention.

Each layer is one block of Mamba (arXiv:2312.00752) or of Mamba-2 (arXiv:2405.21060). Falcon-Mamba (arXiv:2410.05355)
normalises steps, keys and queries.
"""

from __future__ import annotations

from collections.abc import Callable

from llamafw import Model
from llamafw import graph as g

FALCON_EPS = 1e-6
"""Epsilon of Falcon-Mamba's norms of steps, keys and queries, which files do not have. llama.cpp takes another one."""


def mamba(model: Model) -> g.Graph:
    """Return the graph of a ``mamba`` model."""
    m = g.Metadata(model, "mamba")
    sizes, is_normed = g.scan_sizes(m), m.flag("ssm.dt_b_c_rms", False)
    norm = (lambda part, name: g.rms_norm(part, None, FALCON_EPS)) if is_normed else None
    return _mamba(m, lambda h, layer, eps: g.mamba(h, layer, sizes, norm))


def mamba2(model: Model) -> g.Graph:
    """Return the graph of a ``mamba2`` model."""
    m = g.Metadata(model, "mamba2")
    sizes = g.state_sizes(m)
    return _mamba(m, lambda h, layer, eps: g.mamba2(h, layer, sizes, eps))


def _mamba(m: g.Metadata, mixer: Callable[[g.Value, g.Parameters, float], g.Value]) -> g.Graph:
    """Return the graph, given the block of a layer."""
    w, eps = g.Parameters.of(m.model), m.number("attention.layer_norm_rms_epsilon", low=0)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        x = g.layer_output(x + mixer(g.rms_norm(x, layer["attn_norm"], eps), layer, eps), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.check_all_used(m.architecture)
    return g.Graph(hidden, logits, m.integer("context_length"))
