"""Checkpoints of the architecture ``minimax-m2``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers

HEADS = layers.HeadSizes(n=4, n_kv=2, size=32)
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 32,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.key_length": HEADS.size,
    "attention.value_length": HEADS.size,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.dimension_count": HEADS.size // 2,
    "rope.freq_base": 50000.0,
    "expert_count": 8,
    "expert_used_count": 3,
    "expert_feed_forward_length": 32,
    "expert_gating_func": 2,
}
NORMS: Shapes = {
    **layers.vectors("attn_norm", "ffn_norm"),
    **layers.vectors("attn_q_norm", n=HEADS.n * HEADS.size),
    **layers.vectors("attn_k_norm", n=HEADS.n_kv * HEADS.size),
}
LAYER = {**NORMS, **layers.attention(HEADS), **layers.experts(8, 32), "exp_probs_b.bias": (8,)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "minimax-m2",
        "minimax-m2",
        KEYS,
        layers.model([LAYER] * 4),
        refused={"expert_gating_func": 9, "rope.scaling.type": "cubic"},
    ),
)
