"""Checkpoints of the architecture ``phi3``."""

import math

from checkpoints import Checkpoint, checkpoint, layers

HEADS = layers.HeadSizes(n=4, n_kv=2, size=16)
LONG_HEADS = layers.HeadSizes(n=2, n_kv=1, size=32)
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.sliding_window": 0,
    "rope.dimension_count": HEADS.size,
    "rope.freq_base": 10000.0,
    "rope.scaling.original_context_length": 256,
}
LONG = {  # like Phi-4-mini: three quarters of each head are rotated, and factors depend on the context
    "attention.head_count": LONG_HEADS.n,
    "attention.head_count_kv": LONG_HEADS.n_kv,
    "rope.dimension_count": 24,
    "rope.scaling.original_context_length": 4,
    "rope.scaling.attn_factor": math.sqrt(1 + math.log(256 / 4) / math.log(4)),  # 2, which float32 has exactly
}
FACTORS = {"rope_factors_short.weight": (12,), "rope_factors_long.weight": (12,)}
NORMS = layers.vectors("attn_norm", "ffn_norm")
LAYER = {**NORMS, **layers.attention(HEADS, fused=True), **layers.gated_ffn(96, fused=True)}
LONG_LAYER = {**NORMS, **layers.attention(LONG_HEADS, fused=True), **layers.gated_ffn(96, fused=True)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "phi3",
        "phi3",
        KEYS | {"attention.sliding_window": 16},
        layers.model([LAYER] * 4),
        refused={"rope.scaling.type": "cubic", "expert_count": 8},
    ),
    checkpoint(
        "phi3-longrope",
        "phi3",
        KEYS | LONG,
        {**layers.model([LONG_LAYER] * 4, tied=True), **FACTORS},
        lengths=(1, 4, 5, 40),  # from 5 tokens on with the long factors
    ),
)
