"""Checkpoints of the architecture ``dots1``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.granitemoe import shared

HEADS = layers.HeadSizes(n_kv=4)
KEYS = {
    "block_count": 3,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 5000.0,
    "leading_dense_block_count": 1,
    "expert_count": 8,
    "expert_used_count": 3,
    "expert_feed_forward_length": 32,
    "expert_shared_count": 2,
    "expert_gating_func": 2,
    "expert_weights_norm": True,
    "expert_weights_scale": 2.5,
}
ATTENTION = {**layers.vectors("attn_norm", "ffn_norm"), **layers.attention(HEADS, norms=True)}
SPARSE = {**ATTENTION, **layers.experts(8, 32), **shared(64), "exp_probs_b.bias": (8,)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "dots1",
        "dots1",
        KEYS,
        layers.model([{**ATTENTION, **layers.gated_ffn(96)}, SPARSE, SPARSE]),
        refused={"expert_gating_func": 9, "rope.scaling.type": "cubic"},
    ),
    checkpoint(
        "dots1-biases-tied",  # with weights that are not normalised
        "dots1",
        KEYS | {"leading_dense_block_count": 0, "block_count": 2, "expert_weights_norm": False},
        layers.model([{**SPARSE, **layers.biases(layers.attention(HEADS))}] * 2, tied=True),
    ),
)
