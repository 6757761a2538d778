"""Checkpoints of the architecture ``gpt-oss``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers

HEADS = layers.HeadSizes(n=4, n_kv=2, size=32)
KEYS = {
    "block_count": 4,
    "context_length": 8192,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 32,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.key_length": HEADS.size,
    "attention.value_length": HEADS.size,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.sliding_window": 16,
    "rope.freq_base": 5000.0,
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 32.0,
    "rope.scaling.original_context_length": 256,
    "expert_count": 8,
    "expert_used_count": 3,
    "expert_feed_forward_length": 32,
}
BLOCKS: Shapes = {**layers.attention(HEADS), **layers.experts(8, 32)}
LAYER: Shapes = {
    **layers.vectors("attn_norm", "post_attention_norm"),
    **BLOCKS,
    **layers.biases(BLOCKS),
    "attn_sinks.weight": (HEADS.n,),
}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "gpt-oss",
        "gpt-oss",
        KEYS,
        layers.model([LAYER] * 4),
        ranges={"*attn_sinks.weight": (-2, 2), "*ffn_*_exps.bias": (-4, 4)},  # so that the limit of 7 is reached
        refused={"rope.scaling.type": "cubic", "expert_gating_func": 9},
    ),
)
